"""Several structures relaxed by VASP at a time, each by a command of its own."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import FrameType
from typing import NoReturn

from pymatgen.core import Structure

from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.queue_time import OutOfTimeError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import elements_of
from ccdcgan.dft.relaxation.processes import worker_pool
from ccdcgan.dft.relaxation.settings import RelaxationSettings

#: What VASP's command may read, and pools of processes set to 1 for themselves.
THREADS = "OMP_NUM_THREADS"


def relax_all_by_vasp(
    structures: Sequence[Structure], settings: RelaxationSettings, workers: int = 1
) -> Iterator[tuple[int, Relaxation]]:
    """Relax structures by VASP, several at a time; results come as they are ready.

    Each has a process of its own, whose signals end its VASP. After an error no other structure is
    begun; those that run come to their end first.

    Parameters
    ----------
    workers
        Structures at a time.

    Yields
    ------
    index of the structure, result

    Raises
    ------
    UserError, OutOfTimeError
        As of `relax_by_vasp`.
    """
    workers = min(workers, len(structures))
    if workers <= 1:
        for index, structure in enumerate(structures):
            yield index, relax_by_vasp(structure, settings)[0]
        return
    # What is missing is one error here, not one in each process.
    settings.engine.check(sorted({e for s in structures for e in elements_of(s)}))
    errors: list[BaseException] = []
    left = iter(enumerate(structures))
    running: set[Future[tuple[int, Relaxation]]] = set()
    with worker_pool(workers, _start, (os.environ.get(THREADS),)) as pool:
        while True:
            while not errors and len(running) < workers and (task := next(left, None)):
                running.add(pool.submit(_relax, *task, settings))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if (error := future.exception()) is not None:
                    errors.append(error)
                else:
                    yield future.result()
        # A job that is out of time goes on in the next one: a fault would be there, too.
        errors.sort(key=lambda e: isinstance(e, OutOfTimeError))
        if errors:
            raise errors[0]


def _start(threads: str | None) -> None:
    if threads is None:
        os.environ.pop(THREADS, None)
    else:
        os.environ[THREADS] = threads
    # Custodian's tracebacks and pymatgen's doubts: what went wrong is in the results.
    warnings.filterwarnings("ignore")
    for noisy in ("custodian", "VasprunXMLValidator"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    # The end of VASP and of the record is not to be broken off by a second one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _relax(
    index: int, structure: Structure, settings: RelaxationSettings
) -> tuple[int, Relaxation]:
    try:
        return index, relax_by_vasp(structure, settings)[0]
    except SystemExit:
        # The pool would take it for a result, and begin the next structure.
        os._exit(1)
