"""Relaxations in parallel processes of one thread each."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from pymatgen.core import Structure

from ccdcgan.dft.engines.consistency import small_structures
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.failure import MachineError, machine_fault
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.relaxation.worker import Death, answers, answers_in_batches, bind_to_parent
from ccdcgan.dft.spawn import Spawn

logger = logging.getLogger("ccdcgan")
T = TypeVar("T")

#: Structures without a result after which the machine is doubted.
MANY = 3


def _start_process(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    bind_to_parent()
    start(*arguments)


def relax(relaxer: Relaxer, structure: Structure) -> Relaxation:
    """Relax one structure: the task of `relax_many`."""
    return relaxer(structure)


def relax_many(
    structures: Sequence[Structure], settings: RelaxationSettings, workers: int | None = None
) -> Iterator[tuple[int, Relaxation]]:
    """Relax structures in parallel processes; see `in_workers`.

    In batches where `RelaxationSettings.at_a_time` says so; what is left of them, one by one.
    """
    left = dict(enumerate(structures))
    at_a_time = settings.at_a_time if len(structures) > 1 else None
    if at_a_time is not None:
        settings.engine.check(sorted({e for s in structures for e in elements_of(s)}))
        workers = workers or len(os.sched_getaffinity(0))
        with one_thread():
            for index, found in answers_in_batches(structures, settings, workers, at_a_time):
                del left[index]
                yield index, found
    indices, rest = list(left), list(left.values())
    given_up = partial(_never_relaxed, settings)
    for number, found in in_workers(relax, rest, settings, given_up, workers):
        yield indices[number], found


def _never_relaxed(settings: RelaxationSettings, structure: Structure, reason: str) -> Relaxation:
    """The result of a structure that its process does not survive."""
    level = settings.level_of_theory(elements_of(structure))
    return Relaxation(
        key=content_key(structure, level, settings),
        level_of_theory=level,
        structure=structure,
        reason=reason,
        failure="crystal",
        host=socket.gethostname(),
        attempts=2,
    )


def in_workers(
    task: Callable[[Relaxer, Structure], T],
    structures: Sequence[Structure],
    settings: RelaxationSettings,
    given_up: Callable[[Structure, str], T],
    workers: int | None = None,
) -> Iterator[tuple[int, T]]:
    """Do a task for structures in parallel processes; results come as they are ready.

    One thread a process makes each result independent of the number of workers. A structure that
    its process does not survive (a segmentation fault, memory, no end in `settings.timeout`) is
    tried again alone, after all others; the second time it is to blame, if small crystals pass.

    Parameters
    ----------
    task
        A function of a module, called with the relaxer of its process and a structure.
    given_up
        The result of a structure that is to blame, by that and by what has happened.
    workers
        Processes; by default one a core.

    Yields
    ------
    index of the structure, result

    Raises
    ------
    MachineError
        No process survives, whatever the crystal.
    """
    if not structures:
        return
    elements = sorted({e for s in structures for e in elements_of(s)})
    # What is missing is an error here, not in the workers.
    settings.engine.check(elements)
    workers = workers or len(os.sched_getaffinity(0))
    suspects: dict[int, Structure] = {}
    sound = False
    with one_thread():
        for index, found in answers(task, list(enumerate(structures)), settings, workers):
            if not isinstance(found, Death):
                yield index, found
                continue
            logger.warning("structure %d: %s: tried again after the others", index, found.reason)
            suspects[index] = structures[index]
            if len(suspects) == MANY:
                sound = require_sound(settings, elements, found)
        # One at a time, in a process of its own: what others take is no fault of theirs.
        for suspect in suspects.items():
            for index, found in answers(task, [suspect], settings, 1):
                if isinstance(found, Death):
                    sound = sound or require_sound(settings, elements, found)
                    found = given_up(structures[index], f"{found.reason}, twice")
                yield index, found


def require_sound(settings: RelaxationSettings, elements: Sequence[str], death: Death) -> bool:
    """See that some small crystal survives here.

    Raises
    ------
    MachineError
        None does: it is not this or that structure's fault.
    """
    for small in list(enumerate(small_structures(elements)))[:MANY]:
        for _, found in answers(_ask, [small], settings, 1):
            if not isinstance(found, Death):
                return True
    raise MachineError(
        f"no relaxation survives on {socket.gethostname()}, not even of a crystal of two atoms: "
        f"{death.reason}: mend the engine or the machine; the same command goes on"
    )


def _ask(relaxer: Relaxer, structure: Structure) -> None:
    """A task: any answer of the engine will do, but not that the machine cannot."""
    try:
        relaxer.atoms(structure).get_potential_energy()
    except Exception as error:
        if machine_fault(error, "") is not None:
            raise


@contextmanager
def worker_pool(
    workers: int, start: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each, which do not outlive their parent or what stops it.

    Parameters
    ----------
    start, arguments
        Called in each process first.
    """
    pool = ProcessPoolExecutor(workers, Spawn(), _start_process, (start, arguments))
    try:
        with one_thread():
            yield pool
            pool.shutdown()
    except (BrokenProcessPool, OSError) as error:
        # Python 3.11 may write into a pipe that it has just closed, as a process has died.
        if isinstance(error, OSError) and error.errno != errno.EBADF:
            raise
        raise UserError(
            "a relaxation process was killed, probably for want of memory: set fewer workers in "
            "the campaign file; the same command goes on"
        ) from None
    finally:
        # Taken first: the pool forgets its processes when it shuts down.
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started have one thread each."""
    # OpenMP reads this once, when a process starts. More threads than cores cost a factor of 3.
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = threads
