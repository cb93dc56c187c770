"""Processes that start afresh, without running the caller's script again."""

from __future__ import annotations

import sys
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  multiprocessing's name
        # Else the new process would import the main module: a script without a guard would call
        # itself, and every worker would wait for what only the caller needs.
        main = sys.modules["__main__"]
        kept: dict[str, Any] = {
            name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)
        }
        try:
            vars(main).update(dict.fromkeys(kept))
            return SpawnProcess._Popen(process_obj)
        finally:
            vars(main).update(kept)


class Spawn(SpawnContext):
    """multiprocessing's context ``spawn``; what a process is given lies in modules, not in main."""

    # spawn: TensorFlow or torch threads of the parent do not survive a fork.
    Process = _Process
