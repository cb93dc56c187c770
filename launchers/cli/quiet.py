"""TensorFlow imported without the lines that its C++ parts print then, whatever they are told."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

#: What 2.21 says of oneDNN, and of its logging, whatever ``TF_CPP_MIN_LOG_LEVEL`` is.
NOISE = re.compile(rb"absl::InitializeLog|oneDNN custom operations are on")


class QuietTensorFlow(MetaPathFinder):
    """Finds TensorFlow as others do; its import is `without_noise`."""

    def __init__(self) -> None:
        self._asks_others = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if fullname != "tensorflow" or self._asks_others:
            return None
        self._asks_others = True
        try:
            spec = find_spec(fullname)
        finally:
            self._asks_others = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Quietly(spec.loader)
        return spec


class _Quietly(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with without_noise():
            self._loader.exec_module(module)


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Keep what the process, C++ included, writes to standard error; what is no `NOISE` comes last.

    A process that dies meanwhile takes it along.
    """
    try:
        before = os.dup(2)
    except OSError:
        # There is none.
        yield
        return
    with tempfile.TemporaryFile() as kept:
        try:
            os.dup2(kept.fileno(), 2)
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            kept.seek(0)
            told = [line for line in kept if not NOISE.search(line)]
            os.dup2(before, 2)
            os.close(before)
            os.write(2, b"".join(told))
