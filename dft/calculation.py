"""One structure relaxed by VASP in as many runs as it takes, each going on where the last stopped.

A calculation has a folder named by its content key, with a folder for each run and their record,
``calculation.json``. Whoever starts the calculation again, after a kill, a full queue time or a
power cut, finds there how far it got.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import sleep, time
from typing import Any, Literal

from pymatgen.core import Structure

from ccdcgan.dft.files import InUseError, locked, to_json, write_atomically
from ccdcgan.dft.frames import KBAR, vasp_frames
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.failure import MEMORY, MachineError, MachineFault, machine_fault
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer, calculations_folder
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.vasp import Stage, VaspEngine, seconds_left, vasp_command
from ccdcgan.dft.vasp_files import (
    Run,
    corrections,
    difference,
    failure,
    geometries,
    ionic_steps,
    last_words,
    output_of,
    own_words,
    read_run,
    started,
)

RECORD = "calculation.json"

#: Reasons of runs that somebody has stopped: the queue or the machine, or the user.
KILLED, INTERRUPTED = "killed", "interrupted"

#: What somebody has asked for when a calculation is tried again.
RETRY = "retry.json"

#: What the next run of the same cutoff and elements can start from.
REUSED = ("WAVECAR", "CHGCAR")

#: How a reason begins that EDIFFG can mend.
FORCE = "largest force is"

#: Seconds between two looks at a calculation that another process has.
PAUSE = 2.0

#: A run that ends before its first electronic step without a word of VASP's.
SILENT = "start of VASP"

#: Runs in a row that are stopped before their first ionic step is done, until we give up.
STALLED = 3


class OutOfTimeError(Exception):
    """The queue's time is nearly over: the calculation goes on in the next job."""


@dataclass
class Attempt:
    """One run.

    Attributes
    ----------
    stage
        Index into the engine's stages.
    rung
        Step of the engine's ladder that it ran with.
    incar
        What that step changes in INCAR.
    outcome
        ``running``, which a kill leaves behind; ``done``: converged; ``stopped`` before its time
        was over, or by somebody; ``failed``.
    steps
        Ionic steps, also those before custodian's corrections.
    host, fault, said
        Where it ran, what of that machine failed, and VASP's own last words.
    retired
        Before somebody asked for a new ladder: only its geometry counts.
    """

    folder: str
    stage: int
    rung: int
    incar: dict[str, Any] = field(default_factory=dict)
    outcome: Literal["running", "done", "stopped", "failed"] = "running"
    reason: str | None = None
    steps: int = 0
    seconds: float = 0.0
    corrections: list[str] = field(default_factory=list)
    host: str = ""
    fault: str | None = None
    said: str | None = None
    retired: bool = False


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
        self.asked = _asked(folder)
        for attempt in self.attempts:
            # The folder is ours alone: who wrote this is dead.
            if attempt.outcome == "running":
                attempt.outcome, attempt.reason = "stopped", KILLED
                attempt.steps = ionic_steps(self.path(attempt))
                attempt.corrections, _ = corrections(self.path(attempt))

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
        """The latest geometry that any run has left and that a crystal can have."""
        from_first = self.asked.get("start") == "first"
        for attempt in reversed(self.current if from_first else self.attempts):
            for found in geometries(self.path(attempt)):
                if (
                    found.composition == self.start.composition
                    and self.settings.gate(found) is None
                ):
                    return found
        return self.start

    def begin(self, name: Stage) -> Attempt:
        """A new run in a folder of its own, with what the last one can give it."""
        last = self.current[-1] if self.current else None
        number = len(self.attempts) + 1
        engine = self.settings.engine
        assert isinstance(engine, VaspEngine)
        tags = engine.ladder[self.rung]
        attempt = Attempt(f"{number:02d}-{name}", self.stage, self.rung, tags)
        attempt.host = socket.gethostname()
        path = self.path(attempt)
        path.mkdir(exist_ok=True)
        # A wavefunction of a run that failed may be what made it fail, one of a killed run is cut.
        if last is not None and last.outcome != "failed" and last.reason != KILLED:
            for file in REUSED:
                old = self.path(last) / file
                if old.exists() and old.stat().st_size:
                    shutil.move(old, path / file)
        self.attempts.append(attempt)
        self.save()
        return attempt


def relax_by_vasp(
    structure: Structure, settings: RelaxationSettings
) -> tuple[Relaxation, Path | None]:
    """Relax a structure, or go on where an earlier call was broken off.

    Returns
    -------
    relaxation, folder
        The folder of the run that gave the energy; None where no run did.

    Raises
    ------
    UserError
        VASP or a POTCAR is missing, or the machine cannot compute.
    OutOfTimeError
        The queue's time is nearly over; calling again later goes on from here.
    """
    engine = settings.engine
    assert isinstance(engine, VaspEngine)
    level = engine.level_of_theory()
    result = Relaxation(
        key=content_key(structure, level, settings),
        level_of_theory=level,
        structure=structure.as_dict(),
        reason=settings.gate(structure),
        attempts=0,
    )
    if result.reason:
        result.failure = "crystal"
        return result, None
    engine.check(elements_of(structure))
    folder = calculations_folder() / result.key
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder, engine.buffer):
        start = _pre_relaxed(folder, structure, settings)
        calculation = Calculation(folder, start, settings)
        run, reason = _runs(calculation, engine)
        attempts = calculation.attempts
        result.attempts = len(attempts)
        result.corrections = [c for a in attempts for c in a.corrections]
        result.steps = sum(a.steps for a in attempts)
        result.seconds = sum(a.seconds for a in attempts)
        result.reason = reason
        result.folder = str(folder.resolve())
        if attempts:
            result.host = attempts[-1].host or None
            result.said = next((a.said for a in reversed(attempts) if reason and a.said), None)
        if reason is not None:
            result.failure = "stopped" if calculation.stalled else "crystal"
        if run is None:
            result.structure = calculation.geometry().as_dict()
            return result, None
        result.level_of_theory = engine.level(run.changed, run.pseudopotentials)
        result.structure = run.structure.as_dict()
        result.energy_per_atom = run.energy_per_atom
        result.max_force, result.max_stress = run.max_force, run.max_stress
        result.converged = reason is None
        if result.converged and not engine.keep_waves:
            for attempt in attempts:
                for name in REUSED:
                    (calculation.path(attempt) / name).unlink(missing_ok=True)
        done = [calculation.path(a) for a in attempts if a.outcome == "done"]
        result.frames = [frame for path in done for frame in vasp_frames(path)]
        return result, calculation.path(attempts[-1])


@contextlib.contextmanager
def _held(folder: Path, buffer: float) -> Iterator[None]:
    """Hold a calculation, as soon as another process that has it is done.

    Raises
    ------
    OutOfTimeError
        The queue's time is nearly over before that.
    """
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder / ".lock", str(folder)))
                break
            except InUseError:
                left = seconds_left()
                if left is not None and left < 2 * buffer:
                    raise OutOfTimeError from None
                sleep(PAUSE)
        yield


def read_record(folder: Path) -> list[Attempt]:
    """The runs of a calculation's folder.

    Of a record that is cut, nothing but the runs' folders is believed: their geometries count.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return [Attempt(**a) for a in record]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        runs = sorted(f.name for f in folder.glob("[0-9][0-9]-*") if f.is_dir())
        return [
            Attempt(name, 0, 0, outcome="stopped", reason=KILLED, retired=True) for name in runs
        ]


def write_record(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Keep the runs of a calculation in its folder."""
    write_atomically(folder / RECORD, to_json([asdict(a) for a in attempts], indent=1))


def _asked(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RETRY).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def retry_calculation(
    folder: Path, incar: Mapping[str, Any], start: Literal["last", "first"]
) -> None:
    """Let a calculation that failed be tried again with a new ladder.

    Stages that are done stay done, unless it begins at the first geometry.

    Raises
    ------
    UserError
        It is being calculated.
    """
    if not folder.is_dir():
        return
    with locked(folder / ".lock", f"{folder} is being calculated: wait for its end"):
        attempts = read_record(folder)
        for attempt in attempts:
            attempt.retired |= start == "first" or attempt.outcome != "done"
        # A stage that was done and refused all the same is to be run again.
        if attempts and start == "last" and attempts[-1].outcome == "done":
            attempts[-1].retired = True
        write_record(folder, attempts)
        write_atomically(folder / RETRY, to_json({"incar": dict(incar), "start": start}))


def final_run(key: str) -> Path | None:
    """Folder of the run that gave the energy of a content key; None where none did."""
    folder = calculations_folder() / key
    attempts = read_record(folder)
    last = attempts[-1] if attempts else None
    return folder / last.folder if last and last.outcome == "done" and not last.retired else None


def _pre_relaxed(folder: Path, structure: Structure, settings: RelaxationSettings) -> Structure:
    """The structure, or what a potential makes of it; kept in the folder."""
    engine = settings.engine
    assert isinstance(engine, VaspEngine)
    if engine.pre_relax is None:
        return structure
    stored = folder / "pre_relaxed.json"
    if not stored.exists():
        relaxer = Relaxer(settings.model_copy(update={"engine": engine.pre_relax}))
        relaxed = relaxer(structure)
        # What the potential rejects is VASP's to judge, from where it was.
        found = structure.as_dict() if relaxed.energy_per_atom is None else relaxed.structure
        write_atomically(stored, to_json(found))
    return decode_structure(json.loads(stored.read_text()))


def _runs(calculation: Calculation, engine: VaspEngine) -> tuple[Run | None, str | None]:
    """Run what is left of the stages: the last run, and why it is no result."""
    run: Run | None = None
    reason = None
    if calculation.stage == len(engine.stages):
        # It was broken off between its last run and the database.
        last = calculation.current[-1]
        try:
            run = read_run(calculation.path(last))
        except Exception:  # noqa: BLE001  files that somebody has removed or cut fail in many ways
            last.retired = True
        else:
            return run, _refused(run, engine, engine.stages[last.stage], calculation.settings)
    while calculation.stage < len(engine.stages):
        if calculation.rung >= len(engine.ladder):
            return run, f"failed in {calculation.rung} ways: {calculation.attempts[-1].reason}"
        if runs := calculation.current:
            if runs[-1].outcome == "failed" and runs[-1].fault is not None:
                return run, runs[-1].reason
            most = engine.attempts * calculation.settings.max_steps
            if calculation.counted >= engine.attempts or sum(a.steps for a in runs) >= most:
                return run, f"not converged in {len(runs)} runs: {runs[-1].reason}"
        if calculation.stalled:
            return run, f"no ionic step fits into the queue time: {STALLED} runs were stopped in it"
        run, reason = _attempt(calculation, engine)
        if run is not None and reason is not None and run.changed:
            return run, reason
    return run, reason


def _attempt(calculation: Calculation, engine: VaspEngine) -> tuple[Run | None, str | None]:
    """One run; the record says how it ended."""
    queue = seconds_left()
    if queue is not None and queue < 2 * engine.buffer:
        raise OutOfTimeError
    limits = [queue, None if engine.walltime is None else 3600 * engine.walltime]
    limit = min((x for x in limits if x is not None), default=None)
    name = engine.stages[calculation.stage]
    geometry = calculation.geometry()
    attempt = calculation.begin(name)
    path = calculation.path(attempt)
    settings = calculation.settings
    tags: dict[str, Any] = {}
    if name == "relax":
        # VASP looks at the forces before it symmetrises them: what it takes for small may not be.
        tight = sum(bool(a.reason and a.reason.startswith(FORCE)) for a in calculation.current)
        fmax = settings.fmax / 2**tight
        tags = {"ISIF": 3, "EDIFFG": -fmax, "NSW": settings.max_steps}
    tags |= {**engine.tags, **attempt.incar, **calculation.asked.get("incar", {})}
    start = time()
    run: Run | None = None
    left: list[str] = []
    try:
        engine.write_inputs(geometry, name, tags, path)
        engine.run(path, limit)
        run = read_run(path)
        attempt.reason = _refused(run, engine, name, settings)
        attempt.outcome = "failed" if attempt.reason else "done"
    except Exception as error:  # noqa: BLE001  custodian and the parsers raise many kinds
        fault = machine_fault(error, output_of(path))
        if fault is None and (path / "INCAR").exists() and not (path / "OUTCAR").exists():
            # Not this structure's fault, and it would be every structure's.
            calculation.attempts.remove(attempt)
            raise MachineError(
                f"VASP does not start: {vasp_command()!r} in {path} says "
                f"{last_words(path) or failure(path, error)!r}"
            ) from None
        if fault is None and not started(path) and len(calculation.faults(SILENT)) < STALLED - 1:
            fault = MachineFault(SILENT, last_words(path) or failure(path, error))
        attempt.outcome, attempt.reason = "failed", failure(path, error)
        if fault is not None:
            blamed = fault.is_memory and _is_the_crystals(calculation, attempt)
            attempt.fault = fault.what
            attempt.reason = f"{fault.what} of {attempt.host}: {fault.words}"
            if not blamed:
                attempt.outcome = "stopped"
                raise fault.error(path) from None
            attempt.reason += ": twice, where others pass: it needs more memory"
    except BaseException:
        attempt.outcome, attempt.reason = "stopped", INTERRUPTED
        raise
    finally:
        attempt.seconds = time() - start
        attempt.steps = ionic_steps(path)
        attempt.corrections, left = corrections(path)
        attempt.said = own_words(path) if attempt.outcome == "failed" else None
        if attempt.outcome == "failed" and "Walltime reached" in left:
            attempt.outcome = "stopped"
        calculation.save()
    return run, attempt.reason


def _is_the_crystals(calculation: Calculation, attempt: Attempt) -> bool:
    """Whether memory that is exhausted is the crystal's fault.

    It is when that has happened before, and others have passed on the node since.
    """
    before = calculation.faults(MEMORY)
    if not before:
        return False
    since = calculation.path(before[0]).stat().st_mtime
    for record in calculation.folder.parent.glob(f"*/{RECORD}"):
        if record.parent == calculation.folder or record.stat().st_mtime < since:
            continue
        others = read_record(record.parent)
        if any(a.outcome == "done" and a.host == attempt.host for a in others):
            return True
    return False


def _refused(
    run: Run, engine: VaspEngine, stage: Stage, settings: RelaxationSettings
) -> str | None:
    """Why a run that ended is no result: we look at forces and stress ourselves."""
    if run.changed:
        tags = ", ".join(difference(t, v) for t, v in run.changed.items())
        return f"ran with {tags}"
    numbers = {"energy": run.energy_per_atom, "force": run.max_force, "stress": run.max_stress}
    for name, number in numbers.items():
        if not math.isfinite(number):
            return f"{name} is not finite"
    gate = settings.final_gate(run.structure, run.energy_per_atom)
    if gate:
        return gate
    if not run.electronic:
        return "electrons did not converge"
    # A static run keeps the geometry of the relaxation before it, which was looked at.
    if stage == "static":
        return None
    if run.max_force > settings.fmax:
        return f"{FORCE} {run.max_force:.3f} eV/Å"
    kbar = run.max_stress * KBAR
    if kbar > engine.max_stress:
        return f"largest stress is {kbar:.1f} kbar"
    if not run.ionic:
        return "VASP did not reach the required accuracy"
    return None
