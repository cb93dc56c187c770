"""Processes that start afresh, without running the caller's script again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import (
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)
from pathlib import Path
from typing import Any

#: What Linux shows of a GPU (NVIDIA, AMD, of Windows): CUDA and ROCm do not survive a fork.
GPUS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")))


class _Spawned(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  multiprocessing's name
        with _without_main():
            return SpawnProcess._Popen(process_obj)


class _Forked(ForkServerProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        with _without_main():
            return ForkServerProcess._Popen(process_obj)


@contextmanager
def _without_main() -> Iterator[None]:
    # Else the new process would import the main module: a script without a guard would call
    # itself, and every worker would wait for what only the caller needs.
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {
        name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)
    }
    try:
        vars(main).update(dict.fromkeys(kept))
        yield
    finally:
        vars(main).update(kept)


class Spawn(SpawnContext):
    """multiprocessing's context ``spawn``; what a process is given lies in modules, not in main."""

    # spawn: TensorFlow or torch threads of the parent do not survive a fork.
    Process = _Spawned


class Forked(ForkServerContext):
    """multiprocessing's context ``forkserver``: from a process without threads of the parent's.

    Its environment, standard streams and limits are those of when the first one was started.
    """

    Process = _Forked


def context_with(modules: Sequence[str]) -> Spawn | Forked:
    """The context whose processes have these modules soonest.

    They are imported once, in the server that later processes are forks of, which takes it as long
    as this process lives; without modules, or beside a GPU, processes are spawned.
    """
    if not modules or sys.platform != "linux" or any(path.exists() for path in GPUS):
        return Spawn()
    forkserver.set_forkserver_preload(["ccdcgan.dft.forking", *modules])
    return Forked()
