"""One run of VASP under custodian."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ccdcgan.dft.children import ending_with_us
from ccdcgan.dft.engines.vasp.command import Program, program_of, vasp_command
from ccdcgan.dft.engines.vasp.files import geometry
from ccdcgan.dft.engines.vasp.settings import VaspEngine

#: Timeout of a program that was asked to end, s.
PATIENCE = 5.0


def run_under_custodian(engine: VaspEngine, folder: Path, seconds: float | None) -> None:
    """Run VASP under custodian in a folder with inputs.

    Parameters
    ----------
    engine
        Its settings say how long custodian waits, and for what.
    folder
        Of this run alone.
    seconds
        Time until it must have stopped; None without a limit.
    """
    from atomate2.vasp.run import run_vasp

    prefix = ending_with_us()
    # Custodian takes the second one where only Γ is sampled.
    programs: tuple[Program, Program] = ("std", "gam")
    if program_of(folder) == "ncl":
        programs = ("ncl", "ncl")
    standard, gamma = (" ".join([*prefix, vasp_command(program)]) for program in programs)
    try:
        with _stopped_by_sigterm():
            run_vasp(
                vasp_cmd=standard,
                vasp_gamma_cmd=gamma,
                handlers=_handlers(engine, seconds),
                custodian_kwargs={
                    "directory": str(folder),
                    "polling_time_step": engine.polling,
                    # Looks for the end at each polling, for errors every tenth time.
                    "monitor_freq": 10,
                },
            )
    finally:
        _end_processes(folder)


def _handlers(engine: VaspEngine, seconds: float | None) -> list[Any]:
    """atomate2's error handlers, which go on from the last geometry, and stop a run in time."""
    from atomate2.vasp.run import DEFAULT_HANDLERS
    from custodian.vasp.handlers import (
        FrozenJobErrorHandler,
        NonConvergingErrorHandler,
        UnconvergedErrorHandler,
        VaspErrorHandler,
        WalltimeHandler,
    )

    # Fresh ones: handlers count the errors of all runs of a process, and act by that.
    handlers: list[Any] = [
        type(h)() for h in DEFAULT_HANDLERS if not isinstance(h, FrozenJobErrorHandler)
    ]
    handlers.append(FrozenJobErrorHandler(timeout=engine.frozen_after * 3600))
    eager: Any = (
        FrozenJobErrorHandler,
        NonConvergingErrorHandler,
        UnconvergedErrorHandler,
        VaspErrorHandler,
    )
    for handler in handlers:
        if isinstance(handler, eager):
            handler.correct = _going_on(handler.correct)
    if seconds is not None:
        # Custodian would count from the first run of this process.
        os.environ.pop("CUSTODIAN_WALLTIME_START", None)
        handlers.append(WalltimeHandler(wall_time=seconds, buffer_time=engine.buffer))
    return handlers


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program as an exception does, unless somebody has other plans with it."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _going_on(correct: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A handler's correction that also goes on from the last geometry.

    After many errors of the electrons custodian begins the relaxation again from its first
    geometry. Where it suspects the geometry it changes POTIM or POSCAR itself: left as it is then.
    """

    def corrected(directory: str = "./") -> dict[str, Any]:
        done = correct(directory=directory)
        actions = done["actions"]
        if actions and "POSCAR" not in str(actions) and "POTIM" not in str(actions):
            contcar = Path(directory) / "CONTCAR"
            if geometry(contcar) is not None:
                shutil.copy(contcar, contcar.with_name("POSCAR"))
                actions.append({"file": "CONTCAR", "action": {"_file_copy": {"dest": "POSCAR"}}})
        return done

    return corrected


def _end_processes(folder: Path) -> None:
    """End what custodian has left running in a folder.

    VASP has a session of its own, where Ctrl-C does not reach it.
    """
    import psutil

    left = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder.resolve()):
                left.append(process)
                # srun and mpirun hand it on to other nodes.
                process.terminate()
    for process in psutil.wait_procs(left, timeout=PATIENCE)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()
