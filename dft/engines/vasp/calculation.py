"""A calculation: the runs of one structure by VASP, and what is kept of them on disk.

A calculation has a folder named by its content key, with a folder for each run and their record,
``calculation.json``. Whoever starts the calculation again, after a kill, a full queue time or a
power cut, finds there how far it got.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from pathlib import Path

from pymatgen.core import Structure

from ccdcgan.dft.engines.vasp.command import layout_of
from ccdcgan.dft.engines.vasp.files import (
    corrections,
    final_moments,
    geometries,
    ionic_steps,
    seconds_of,
)
from ccdcgan.dft.engines.vasp.record import (
    INTERRUPTED,
    KILLED,
    RECORD,
    Attempt,
    read_record,
    read_retry,
    write_record,
)
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.stages import Stage
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import moments_of, with_moments

#: What the next run of the same cutoff and elements can start from.
REUSED = ("WAVECAR", "CHGCAR")

#: Runs in a row that are stopped before their first ionic step is done, until we give up.
STALLED = 3


class Calculation:
    """The runs of one structure and their record on disk.

    Parameters
    ----------
    folder
        Named by the content key.
    start
        Geometry that the first run starts from, unless the folder has one already.
    settings
        Of the relaxation; their gates reject geometries of broken runs.
    """

    def __init__(self, folder: Path, start: Structure, settings: RelaxationSettings) -> None:
        self.folder, self.start, self.settings = folder, start, settings
        self.attempts = read_record(folder)
        self.asked = read_retry(folder)
        for attempt in self.attempts:
            # The folder is ours alone: who wrote this is dead.
            if attempt.outcome == "running":
                attempt.outcome, attempt.reason = "stopped", KILLED
                attempt.steps = ionic_steps(self.path(attempt))
                attempt.corrections, _ = corrections(self.path(attempt))
                attempt.seconds = seconds_of(self.path(attempt), since=folder / RECORD)

    def save(self) -> None:
        write_record(self.folder, self.attempts)

    def path(self, attempt: Attempt) -> Path:
        return self.folder / attempt.folder

    @property
    def stage(self) -> int:
        """Index of the stage that is to be run."""
        return sum(a.outcome == "done" for a in self.current)

    @property
    def current(self) -> list[Attempt]:
        """Runs since somebody asked for a new ladder."""
        return [a for a in self.attempts if not a.retired]

    @property
    def rung(self) -> int:
        """Runs of this stage that failed by themselves."""
        return sum(a.outcome == "failed" and a.stage == self.stage for a in self.current)

    @property
    def stalled(self) -> bool:
        """Whether the last runs were all stopped before their first ionic step was done."""
        last = [a for a in self.current if a.fault is None][-STALLED:]
        return len(last) == STALLED and all(
            a.outcome == "stopped" and a.reason != INTERRUPTED and not a.steps for a in last
        )

    @property
    def counted(self) -> int:
        """Runs that count: not those that were stopped on their way, nor the machine's faults."""
        return sum(
            a.outcome != "stopped" or not (a.steps or a.fault or a.reason == INTERRUPTED)
            for a in self.current
        )

    def faults(self, what: str) -> list[Attempt]:
        """Earlier runs that the same fault of a machine has ended."""
        return [a for a in self.current if a.fault == what]

    def geometry(self) -> Structure:
        """The latest geometry that any run has left and that a crystal can have.

        With the latest magnetic moments that a run has left which did not fail.
        """
        # As all files of VASP have them.
        start = self.start.get_sorted_structure()
        if not self.settings.engine.is_magnetic:
            start = with_moments(start, None)
        from_first = self.asked.get("start") == "first"
        runs = list(reversed(self.current if from_first else self.attempts))
        left = (
            final_moments(self.path(a), len(start))
            for a in runs
            if self.settings.engine.is_magnetic and a.outcome != "failed"
        )
        moments = next((m for m in left if m is not None), moments_of(start))
        found = (s for a in runs for s in geometries(self.path(a), a.outcome == "done"))
        sane = (
            s for s in found if s.composition == start.composition and self.settings.gate(s) is None
        )
        return with_moments(next(sane, start), moments)

    def relax_again(self, reason: str | None) -> None:
        """Take the last relaxation for failed: what followed has found it so."""
        for attempt in reversed(self.current):
            if attempt.outcome == "done":
                attempt.outcome, attempt.reason = "failed", reason
                return

    def begin(self, name: Stage) -> Attempt:
        """A new run in a folder of its own."""
        number = len(self.attempts) + 1
        engine = self.settings.engine
        assert isinstance(engine, VaspEngine)
        tags = engine.ladder[self.rung]
        attempt = Attempt(f"{number:02d}-{name}", self.stage, self.rung, tags)
        attempt.host = socket.gethostname()
        path = self.path(attempt)
        path.mkdir(exist_ok=True)
        self.attempts.append(attempt)
        self.save()
        return attempt

    def take_waves(self, attempt: Attempt) -> None:
        """Give a new run, whose inputs are written, what the last one has left and it can read."""
        path, before = self.path(attempt), self.current[:-1]
        last = before[-1] if before else None
        # A wavefunction of a run that failed may be what made it fail, one of a killed run is cut.
        if last is None or last.outcome == "failed" or last.reason == KILLED:
            return
        with contextlib.suppress(OSError, ValueError):
            if layout_of(self.path(last)) == layout_of(path):
                for file in REUSED:
                    old = self.path(last) / file
                    if old.exists() and old.stat().st_size:
                        shutil.move(old, path / file)
