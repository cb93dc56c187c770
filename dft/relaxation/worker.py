"""A process that does tasks for structures one after the other, and how it ended if it did."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.queue_time import seconds_left
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.failure import MachineError, machine_fault
from ccdcgan.dft.relaxation.relaxer import Relaxer, calculations_folder
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.spawn import Spawn, context_with

logger = logging.getLogger("ccdcgan")

Task = Callable[[Relaxer, Structure], Any]

#: Timeout of a process whose parent is gone, or that was asked to end, s.
PATIENCE = 15.0

#: Seconds that a structure may take in any queue.
LEAST = 600.0

#: Names of signals; those for real time have none.
SIGNALS = {int(number): number.name for number in signal.Signals}

#: Signals by which somebody ends processes, whatever they compute.
ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Death(NamedTuple):
    """The end of a process before it had done its task: how, in one line."""

    reason: str


class Worker:
    """A process of one thread with a relaxer, which does one task at a time.

    Parameters
    ----------
    serve, arguments
        What it does, if not that; called with its connection, the settings and these.
    """

    def __init__(
        self,
        settings: RelaxationSettings,
        serve: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> None:
        modules = settings.engine.modules
        context = context_with((__name__, *modules) if modules else ())
        self.connection, other = context.Pipe()
        given = (dict(os.environ), serve or _serve, other, settings, *arguments)
        self.process = context.Process(target=_begin, args=given)
        try:
            self.process.start()
        except (OSError, EOFError):
            # The server has died of an import: what is missing is for the process itself to say.
            self.process = Spawn().Process(target=_begin, args=given)
            self.process.start()
        # So that the end of the process is the end of the connection.
        other.close()
        self.seconds = _timeout(settings)
        self.index: int | None = None
        self._deadline: float | None = None

    @property
    def left(self) -> float | None:
        """Seconds until its task has taken too long; None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def begin(self, task: Task, index: int, structure: Structure) -> None:
        """Give it a task, for the structure of this index."""
        self.index = index
        self.expect()
        # If it has died since its last answer, that is seen when it is asked for the next.
        with contextlib.suppress(OSError):
            self.connection.send((task, structure))

    def expect(self) -> None:
        """Let its time for an answer begin."""
        if self.seconds is not None:
            self._deadline = time.monotonic() + self.seconds

    def answer(self) -> Any:
        """What the task gave, or `Death` where it has died or is late; None once it has started.

        Raises
        ------
        UserError
            Somebody has ended it, or the task says what is to be mended.
        """
        if self.seconds is not None and not self.connection.poll():
            return Death(f"not done in {self.seconds / 3600:.3g} h")
        self.index = self._deadline = None
        try:
            found = self.connection.recv()
        except (EOFError, OSError):
            return Death(self._end())
        fault = found.fault if isinstance(found, MachineError) else None
        if fault is not None and fault.is_memory:
            # What it holds would be lacking to the next one.
            return Death(f"memory: {fault.words}")
        if isinstance(found, Exception):
            raise found
        return found

    def dismiss(self) -> None:
        """Let it end by itself."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def stop(self) -> None:
        """End it, with what it has started."""
        if self.process.is_alive():
            self.process.terminate()

    def kill(self) -> None:
        """End it, and wait for that."""
        self.stop()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _end(self) -> str:
        """How it ended."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"its process ended with status {code or 0}"
        name = SIGNALS.get(-code, f"signal {-code}")
        if -code in ASKED:
            raise UserError(f"a relaxation process was ended ({name}): the same command goes on")
        likely = ", as for want of memory" if -code == signal.SIGKILL else ""
        return f"its process died: {name} ({signal.strsignal(-code)}{likely})"


def _timeout(settings: RelaxationSettings) -> float | None:
    """Seconds that a structure may take, so that two tries fit into the queue's time."""
    own, queue = settings.timeout, seconds_left()
    return own if own is None or queue is None else min(own, max(LEAST, queue / 3))


def answers(
    task: Task,
    structures: Sequence[tuple[int, Structure]],
    settings: RelaxationSettings,
    workers: int,
) -> Iterator[tuple[int, Any]]:
    """Do a task for structures with indices; one whose process dies has its `Death` for answer.

    Raises
    ------
    MachineError
        The processes do not even start.
    """
    left = deque(structures)
    crew = [Worker(settings) for _ in range(min(workers, len(left)))]
    leaving: list[Worker] = []
    try:
        while crew:
            for worker in _ready(crew):
                index, answer = worker.index, worker.answer()
                dead = isinstance(answer, Death)
                if dead:
                    worker.kill()
                    crew.remove(worker)
                if index is not None:
                    yield index, answer
                elif dead:
                    raise MachineError(f"relaxations do not start here: {answer.reason}")
                if dead and left:
                    crew.append(Worker(settings))
                elif left:
                    worker.begin(task, *left.popleft())
                elif not dead:
                    crew.remove(worker)
                    worker.dismiss()
                    leaving.append(worker)
        for worker in leaving:
            worker.process.join(PATIENCE)
    finally:
        for worker in (*crew, *leaving):
            worker.stop()


def answers_in_batches(
    structures: Sequence[Structure], settings: RelaxationSettings, workers: int, at_a_time: int
) -> Iterator[tuple[int, Relaxation]]:
    """Relax structures in processes that each have so many at a time.

    Those of a process that dies, or whose batches do not work here, are left out.
    """
    workers = min(workers, math.ceil(len(structures) / at_a_time))
    numbered = list(enumerate(structures))
    crew = [
        Worker(settings, _serve_batches, (numbered[first::workers], at_a_time))
        for first in range(workers)
    ]
    leaving: list[Worker] = []
    try:
        for worker in crew:
            worker.expect()
        while crew:
            for worker in _ready(crew):
                answer = worker.answer()
                if isinstance(answer, tuple) and not isinstance(answer, Death):
                    worker.expect()
                    yield answer
                    continue
                crew.remove(worker)
                leaving.append(worker)
                if isinstance(answer, Death):
                    logger.warning("batches: %s: the rest one after the other", answer.reason)
                    worker.kill()
        for worker in leaving:
            worker.process.join(PATIENCE)
    finally:
        for worker in (*crew, *leaving):
            worker.stop()


def _ready(crew: Sequence[Worker]) -> list[Worker]:
    """Those that have an answer, or are late with it, once there are some."""
    limits = [left for worker in crew if (left := worker.left) is not None]
    found = wait([worker.connection for worker in crew], min(limits, default=None))
    return [worker for worker in crew if worker.connection in found or worker.left == 0]


def _begin(environment: Mapping[str, str], serve: Callable[..., None], *arguments: Any) -> None:
    """Do what a worker is for, with the environment of its parent, not of the server of forks."""
    os.environ.clear()
    os.environ.update(environment)
    serve(*arguments)


def _serve(connection: Connection, settings: RelaxationSettings) -> None:
    """Do tasks until there are no more."""
    bind_to_parent()
    if settings.engine.is_potential:
        import torch

        torch.set_num_threads(1)
    relaxer = Relaxer(settings)
    connection.send(None)
    while (given := connection.recv()) is not None:
        task, structure = given
        try:
            connection.send(task(relaxer, structure))
        except Exception as error:  # noqa: BLE001  the parent raises it, or takes it for a death
            connection.send(_told(error))


def _serve_batches(
    connection: Connection,
    settings: RelaxationSettings,
    structures: Sequence[tuple[int, Structure]],
    at_a_time: int,
) -> None:
    """Relax structures with indices in batches; the end is None, or how it came before."""
    bind_to_parent()
    end: Exception | Death | None = None
    try:
        from ccdcgan.dft.relaxation.batches import relaxed_in_batches

        indices, crystals = zip(*structures, strict=True)
        for number, result in relaxed_in_batches(crystals, settings, at_a_time):
            connection.send((indices[number], result))
    except Exception as error:  # noqa: BLE001  one after the other may go all the same
        told = _told(error)
        end = told if isinstance(told, UserError) else Death(str(told).strip().splitlines()[-1])
    connection.send(end)


def _told(error: Exception) -> Exception:
    """An exception for the parent, with the traceback that it has here."""
    if isinstance(error, UserError):
        return error
    if (fault := machine_fault(error, "")) is not None:
        return fault.error(calculations_folder())
    # Not every one comes out of another process as it went in.
    return RuntimeError("".join(traceback.format_exception(error)))


def bind_to_parent() -> None:
    """Let this process end with its parent, and not before by Ctrl-C."""
    # It reaches the whole process group; the parent decides what happens to the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # First in a way that also ends what the process has started.
        if (number := threading.main_thread().ident) is not None:
            signal.pthread_kill(number, signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(1)
