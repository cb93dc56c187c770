"""Relaxations in parallel processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings

T = TypeVar("T")

#: Timeout of a process whose parent is gone, s.
PATIENCE = 15.0

_relaxer: Relaxer | None = None


def _start_process(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches the whole process group; the parent decides what happens to the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    start(*arguments)


def _start_worker(settings: RelaxationSettings) -> None:
    global _relaxer
    import torch

    torch.set_num_threads(1)
    _relaxer = Relaxer(settings)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # First in a way that also ends what the process has started.
        if (number := threading.main_thread().ident) is not None:
            signal.pthread_kill(number, signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(1)


def relax(relaxer: Relaxer, structure: Structure) -> Relaxation:
    """Relax one structure: the task of `relax_many`."""
    return relaxer(structure)


def _do_in_worker(
    task: Callable[[Relaxer, Structure], T], index: int, structure: Structure
) -> tuple[int, T]:
    assert _relaxer is not None
    return index, task(_relaxer, structure)


def relax_many(
    structures: Sequence[Structure], settings: RelaxationSettings, workers: int | None = None
) -> Iterator[tuple[int, Relaxation]]:
    """Relax structures in parallel processes: `in_workers` with `relax`."""
    return in_workers(relax, structures, settings, workers)


def in_workers(
    task: Callable[[Relaxer, Structure], T],
    structures: Sequence[Structure],
    settings: RelaxationSettings,
    workers: int | None = None,
) -> Iterator[tuple[int, T]]:
    """Do a task for structures in parallel processes; results come as they are ready.

    One thread a process makes each result independent of the number of workers.

    Parameters
    ----------
    task
        A function of a module, called with the relaxer of its process and a structure.
    workers
        Processes; by default one a core.

    Yields
    ------
    index of the structure, result
    """
    if not structures:
        return
    # What is missing is an error here, not in the workers.
    settings.engine.check(sorted({e for s in structures for e in elements_of(s)}))
    workers = min(workers or len(os.sched_getaffinity(0)), len(structures))
    waiting: set[Future[tuple[int, T]]] = set()
    with worker_pool(workers, _start_worker, (settings,)) as pool:
        for index, structure in enumerate(structures):
            waiting.add(pool.submit(_do_in_worker, task, index, structure))
            if len(waiting) < 2 * workers:
                continue
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


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
    # spawn: TensorFlow or torch threads of the parent do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_process, (start, arguments))
    # OpenMP reads this once, when a process starts. More threads than cores cost a factor of 3.
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield pool
        pool.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "a relaxation process was killed, probably for want of memory: set fewer workers in "
            "the campaign file; the same command goes on"
        ) from None
    finally:
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = threads
        # Taken first: the pool forgets its processes when it shuts down.
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
