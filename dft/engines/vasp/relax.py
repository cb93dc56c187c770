"""A structure relaxed by VASP: its runs, each of which goes on where the last one stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from time import sleep, time
from typing import Any

from pymatgen.core import Structure

from ccdcgan.dft.engines.frames import vasp_frames
from ccdcgan.dft.engines.vasp.calculation import REUSED, STALLED, Calculation
from ccdcgan.dft.engines.vasp.command import vasp_command
from ccdcgan.dft.engines.vasp.files import (
    Run,
    corrections,
    failure,
    ionic_steps,
    last_words,
    own_words,
    read_run,
    started,
)
from ccdcgan.dft.engines.vasp.inputs import write_inputs
from ccdcgan.dft.engines.vasp.record import (
    INTERRUPTED,
    RECORD,
    Attempt,
    read_record,
)
from ccdcgan.dft.engines.vasp.run import run_under_custodian
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.stages import Stage
from ccdcgan.dft.engines.vasp.startup import StartUp
from ccdcgan.dft.engines.vasp.verdict import FORCE, STRESS, refused
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import InUseError, locked, to_json, write_atomically
from ccdcgan.dft.queue_time import OutOfTimeError, seconds_left
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.failure import MEMORY, MachineError, MachineFault, machine_fault
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.processes import relax_many
from ccdcgan.dft.relaxation.relaxer import calculations_folder
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.decoding import decode_structure, encode_structure
from ccdcgan.dft.structures.moments import moments_of, with_moments

#: Interval between two looks at a calculation that another process has, s.
PAUSE = 2.0

#: A run that ends before its first electronic step without a word of VASP's.
SILENT = "start of VASP"


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
    level = settings.level_of_theory()
    result = Relaxation(
        key=content_key(structure, level, settings),
        level_of_theory=level,
        structure=structure,
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
        _tell_of_attempts(result, calculation, reason)
        if run is None:
            result.structure = calculation.geometry()
            return result, None
        level = engine.level(run.changed, run.pseudopotentials)
        result.level_of_theory = settings.under_pressure(level)
        result.structure = run.structure
        result.energy_per_atom = run.energy_per_atom + result.level_of_theory.pv(run.structure)
        result.max_force, result.max_stress = run.max_force, run.max_stress
        result.converged = reason is None
        attempts = calculation.attempts
        if result.converged and not engine.keep_waves:
            for attempt in attempts:
                for name in REUSED:
                    (calculation.path(attempt) / name).unlink(missing_ok=True)
        # A potential learns from them: all of the level of theory of the result.
        alike = [a for a in attempts if a.outcome == "done" and engine.is_of_the_level(a.stage)]
        result.frames = [frame for a in alike for frame in vasp_frames(calculation.path(a))]
        return result, calculation.path(attempts[-1])


def _tell_of_attempts(result: Relaxation, calculation: Calculation, reason: str | None) -> None:
    """Give a result what all runs together took, and why they came to none."""
    attempts = calculation.attempts
    result.attempts = len(attempts)
    result.corrections = [c for a in attempts for c in a.corrections]
    result.steps = sum(a.steps for a in attempts)
    result.seconds = sum(a.seconds for a in attempts)
    result.reason = reason
    result.folder = str(calculation.folder.resolve())
    if attempts:
        result.host = attempts[-1].host or None
        result.said = next((a.said for a in reversed(attempts) if reason and a.said), None)
    if reason is not None:
        result.failure = "stopped" if calculation.stalled else "crystal"


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


def _pre_relaxed(folder: Path, structure: Structure, settings: RelaxationSettings) -> Structure:
    """The structure, or what a potential makes of it; kept in the folder."""
    engine = settings.engine
    assert isinstance(engine, VaspEngine)
    if engine.pre_relax is None:
        return structure
    stored = folder / "pre_relaxed.json"
    try:
        found = decode_structure(json.loads(stored.read_bytes()))
    except (OSError, ValueError):
        # There is none, or it is cut.
        by_potential = settings.model_copy(update={"engine": engine.pre_relax})
        ((_, relaxed),) = relax_many([structure], by_potential, 1)
        # What the potential rejects is VASP's to judge, from where it was.
        start = structure if relaxed.energy_per_atom is None else relaxed.structure
        plain = encode_structure(start)
        write_atomically(stored, to_json(plain))
        found = decode_structure(plain)
    # A potential keeps the order of the sites, and knows of no moments.
    return with_moments(found, moments_of(structure))


def _runs(calculation: Calculation, engine: VaspEngine) -> tuple[Run | None, str | None]:
    """Run what is left of the stages: the last run, and why it is no result."""
    run: Run | None = None
    reason = None
    if calculation.stage == len(engine.stages):
        # It was broken off between its last run and the database.
        last = calculation.current[-1]
        try:
            run = read_run(calculation.path(last), calculation.settings.pressure)
        except Exception:  # noqa: BLE001  files that somebody has removed or cut fail in many ways
            last.retired = True
        else:
            return run, _refused(run, last, calculation.settings)
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
    limit = _time_for_a_run(engine)
    stage = calculation.stage
    geometry = calculation.geometry()
    attempt = calculation.begin(engine.kinds[stage])
    path = calculation.path(attempt)
    tags = _tags(calculation, attempt, engine.kinds[stage])
    start = time()
    run: Run | None = None
    left: list[str] = []
    startup = StartUp(path, engine.polling)
    try:
        write_inputs(engine, geometry, stage, tags, path)
        calculation.take_waves(attempt)
        with startup:
            run_under_custodian(engine, path, limit)
        run = read_run(path, calculation.settings.pressure)
        attempt.reason = _refused(run, attempt, calculation.settings)
        attempt.outcome = "failed" if attempt.reason else "done"
        if engine.kinds[stage] == "static" and _is_of_stress(attempt.reason):
            # The cell was relaxed with another basis: once more with that of its own.
            calculation.relax_again(attempt.reason)
    except UserError:
        # The user's own maker, which would do the same to every structure.
        calculation.attempts.remove(attempt)
        raise
    except Exception as error:  # noqa: BLE001  custodian and the parsers raise many kinds
        _note_failure(error, calculation, attempt, startup.later())
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


def _time_for_a_run(engine: VaspEngine) -> float | None:
    """Seconds that a run may take, None without a limit.

    Raises
    ------
    OutOfTimeError
        The queue's time is nearly over.
    """
    queue = seconds_left()
    if queue is not None and queue < 2 * engine.buffer:
        raise OutOfTimeError
    limits = [queue, None if engine.walltime is None else 3600 * engine.walltime]
    return min((x for x in limits if x is not None), default=None)


def _tags(calculation: Calculation, attempt: Attempt, kind: Stage) -> dict[str, Any]:
    """INCAR tags of a run beside those of its stage."""
    tags: dict[str, Any] = {}
    if kind == "relax":
        settings = calculation.settings
        # VASP looks at the forces before it symmetrises them: what it takes for small may not be.
        tight = sum(bool(a.reason and a.reason.startswith(FORCE)) for a in calculation.current)
        fmax = settings.fmax / 2**tight
        tags = {"ISIF": 3, "EDIFFG": -fmax, "NSW": settings.max_steps}
        if settings.pressure:
            # A static run needs none: its energy and stress are as they are.
            tags["PSTRESS"] = 10.0 * settings.pressure
    return {**tags, **attempt.incar, **calculation.asked.get("incar", {})}


def _note_failure(
    error: Exception, calculation: Calculation, attempt: Attempt, output: str
) -> None:
    """Note in its record how a run failed.

    Parameters
    ----------
    output
        In which a fault of the machine stands, if it was one.

    Raises
    ------
    MachineError
        It is not the crystal's fault.
    """
    path = calculation.path(attempt)
    fault = machine_fault(error, output)
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


def _refused(run: Run, attempt: Attempt, settings: RelaxationSettings) -> str | None:
    """Why a run of a stage is no result."""
    engine = settings.engine
    assert isinstance(engine, VaspEngine)
    kind = engine.kinds[attempt.stage]
    reason = refused(run, engine, kind, settings)
    # With another functional than the relaxation before it a static run has a stress.
    if kind == "static" and engine.is_on_its_own(attempt.stage) and _is_of_stress(reason):
        return None
    return reason


def _is_of_stress(reason: str | None) -> bool:
    return reason is not None and reason.startswith(STRESS)


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
