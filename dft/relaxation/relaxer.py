"""Relaxation of a structure, guarded against collapse.

A relaxation is a generator that hands out atoms and goes on once they have their numbers: one alone
computes them as it asks for them, those of many come in batches (`ccdcgan.dft.relaxation.batches`).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, TypeVar

import ase.optimize
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.units import GPa
from numpy.typing import NDArray
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.engines.base import CalculatorEngine, wrong
from ccdcgan.dft.engines.frames import FRAME_STEPS, Frame
from ccdcgan.dft.files import to_json, write_atomically
from ccdcgan.dft.relaxation.document import Relaxation, SecondOpinion
from ccdcgan.dft.relaxation.failure import MachineError, machine_fault
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import with_moments
from ccdcgan.dft.structures.symmetry import ladder
from ccdcgan.dft.variables import variables

T = TypeVar("T")

#: Atoms that need the numbers of an engine before what handed them out goes on.
Asking = Generator[tuple[CalculatorEngine, Atoms], None, T]

#: The latest geometry of a DFT code that ASE drives, in the folder of its content key.
LAST = "last.json"

#: By less than this, eV/atom, a version of higher symmetry is not higher: what is left of forces.
EVEN = 0.001


def calculations_folder() -> Path:
    """Where calculations live."""
    return variables().calculations


class Relaxer:
    """Relaxes one structure after another with one calculator.

    A DFT code's geometries are kept step by step, under the content key: a relaxation that was
    killed goes on from its last one.
    """

    def __init__(self, settings: RelaxationSettings) -> None:
        if not isinstance(settings.engine, CalculatorEngine):
            raise TypeError(f"{settings.engine.name} relaxes by itself")
        self.settings = settings
        self.engine = settings.engine

    def __call__(self, structure: Structure) -> Relaxation:
        """Relax cell and positions to `fmax`; never raises for a bad structure.

        Raises
        ------
        MachineError
            The machine cannot compute; of memory it may be the structure that takes too much.
        """
        # A DFT code works in processes of its own.
        clock = process_time if self.engine.is_potential else perf_counter
        return finished(self.relaxing(structure, clock))

    def relaxing(self, structure: Structure, clock: Callable[[], float]) -> Asking[Relaxation]:
        """The relaxation of a structure, step by step.

        Parameters
        ----------
        clock
            Seconds that count for this structure.
        """
        settings = self.settings
        start = clock()
        level = settings.level_of_theory(elements_of(structure))
        result = Relaxation(
            key=content_key(structure, level, settings),
            level_of_theory=level,
            structure=structure,
        )
        result.reason = settings.gate(structure)
        if result.reason:
            result.failure = "crystal"
            return result
        atoms = self.atoms(structure)
        kept = None if self.engine.is_potential else calculations_folder() / result.key / LAST
        before = 0.0 if kept is None else _go_on(atoms, kept, settings)

        def keep() -> None:
            if kept is not None:
                _keep(atoms, kept, before + clock() - start)

        most = settings.steps_of(structure)
        converged, reason = yield from self._optimizing(atoms, settings.fmax, most, result, keep)
        result.host = socket.gethostname()
        result.folder = None if kept is None else str(kept.parent.resolve())
        if reason is None:
            reason = settings.final_gate(atoms, atoms.get_potential_energy() / len(atoms))
        if reason:
            result.reason, result.failure = reason, "crystal"
        else:
            self._take(result, atoms)
            result.converged = converged
            if not converged:
                result.reason, result.failure = f"not converged in {most} steps", "crystal"
            elif settings.refine is not None and not structure.composition.is_element:
                atoms = (yield from self._refining(result, settings.refine)) or atoms
        result.seconds = before + clock() - start
        result.second_opinion = None if reason else (yield from self._second_opinion(atoms))
        return result

    def _optimizing(
        self,
        atoms: Atoms,
        fmax: float,
        most: int,
        result: Relaxation,
        keep: Callable[[], None] = lambda: None,
    ) -> Asking[tuple[bool, str | None]]:
        """Whether the atoms converge in so many steps, and why they are no crystal on the way.

        The result gets its steps and frames; `keep` is called after each step.
        """
        settings = self.settings
        converged, reason, done = False, None, 0
        try:
            cell = _Cell(atoms, scalar_pressure=settings.pressure * GPa)
            optimizer = getattr(ase.optimize, settings.optimizer)(cell, logfile=None)
            while True:
                yield self.engine, atoms
                reason = unsound(atoms)
                reason = reason or settings.gate(atoms, atoms.get_potential_energy() / len(atoms))
                if reason:
                    break
                # As ASE has it: of the filter, so that the cell counts like three atoms.
                converged = bool(np.linalg.norm(cell.get_forces(), axis=1).max() < fmax)
                if converged or done in FRAME_STEPS[settings.optimizer]:
                    result.frames.append(Frame.of(atoms))
                keep()
                if converged or done == most:
                    break
                optimizer.step()
                done += 1
        except MachineError:
            raise
        except Exception as error:  # noqa: BLE001  a potential may fail in any way on a wild cell
            reason = self._failed(error, atoms)
        result.steps = done
        return converged, reason

    def _refining(self, result: Relaxation, fmax: float) -> Asking[Atoms | None]:
        """The most symmetric version of a relaxed crystal that is not above it; None without one.

        It takes the crystal's place in the result, whose frames stay those of the input structure:
        a version has another cell.
        """
        assert result.energy_per_atom is not None
        highest = result.energy_per_atom + EVEN
        for version in reversed(ladder(result.structure)):
            atoms = self.atoms(version)
            trial = result.model_copy(update={"frames": []})
            most = self.settings.steps_of(version)
            converged, reason = yield from self._optimizing(atoms, fmax, most, trial)
            result.steps += trial.steps
            if not converged or reason:
                continue
            if self.settings.final_gate(atoms, atoms.get_potential_energy() / len(atoms)):
                continue
            self._take(trial, atoms)
            if trial.energy_per_atom is not None and trial.energy_per_atom <= highest:
                self._take(result, atoms)
                result.symmetrised = True
                return atoms
        return None

    def _failed(self, error: Exception, atoms: Atoms) -> str:
        """Why an engine failed, where it is not the machine's fault.

        Raises
        ------
        MachineError
            It is.
        """
        fault = machine_fault(error, "")
        if fault is not None:
            raise fault.error(calculations_folder()) from None
        said = " ".join(str(error).split())[:200]
        failed = f"engine failed: {type(error).__name__}" + (f": {said}" if said else "")
        # What makes an optimizer fail may be what the calculator gave, and still has.
        return wrong(getattr(atoms.calc, "results", {}), len(atoms)) or failed

    def _take(self, result: Relaxation, atoms: Atoms) -> None:
        """Give the result the crystal with its energy, largest force and stress."""
        relaxed = AseAtomsAdaptor.get_structure(atoms)
        crystal = Structure(
            relaxed.lattice, relaxed.species, relaxed.frac_coords, to_unit_cell=True
        )
        if self.engine.is_magnetic and (moments := atoms.calc.results.get("magmoms")) is not None:
            crystal = with_moments(crystal, np.round(moments, 3).tolist())
        result.structure = crystal
        energy = float(atoms.get_potential_energy() / len(atoms))
        result.energy_per_atom = energy + result.level_of_theory.pv(crystal)
        result.max_force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        beyond = atoms.get_stress(voigt=False) + self.settings.pressure * GPa * np.eye(3)
        result.max_stress = float(np.abs(beyond).max())

    def second_opinion(self, structure: Structure | Atoms) -> SecondOpinion | None:
        """The energy of a relaxed crystal by another engine; None where that has none."""
        return finished(self._second_opinion(structure))

    def _second_opinion(self, structure: Structure | Atoms) -> Asking[SecondOpinion | None]:
        other = self.settings.engine.second_opinion() if self.settings.second_opinion else None
        if other is None:
            return None
        atoms = structure.copy() if isinstance(structure, Atoms) else _plain(structure)
        elements = sorted(set(atoms.get_chemical_symbols()))
        try:
            crystal = AseAtomsAdaptor.get_structure(atoms)
            atoms.calc = self.calculator(other, crystal)
            yield other, atoms
            level = self.settings.under_pressure(other.level_of_theory(elements))
            energy = float(atoms.get_potential_energy() / len(atoms)) + level.pv(crystal)
        except Exception:  # noqa: BLE001  an engine may fail in any way on a wild cell
            return None
        if not np.isfinite(energy):
            return None
        return SecondOpinion(level_of_theory=level, energy_per_atom=energy)

    def atoms(self, structure: Structure) -> Atoms:
        """A structure with the engine's calculator."""
        atoms = _plain(structure)
        atoms.calc = self.calculator(self.engine, structure)
        return atoms

    def calculator(self, engine: CalculatorEngine, structure: Structure) -> Calculator | None:
        """What computes a structure when it is asked; None if its numbers come from outside."""
        return engine.calculator(structure)


def finished(asking: Asking[T]) -> T:
    """The result of what asks for numbers that its atoms' own calculators compute."""
    while True:
        try:
            next(asking)
        except StopIteration as end:
            result: T = end.value
            return result


class _Cell(FrechetCellFilter):
    """Atoms and cell as an optimizer moves them; their forces, asked for twice a step, are kept."""

    _forces: NDArray[np.float64] | None = None

    def get_forces(self, **kwargs: Any) -> NDArray[np.float64]:
        if self._forces is None:
            self._forces = super().get_forces(**kwargs)
        return self._forces.copy()

    def set_positions(self, new: NDArray[np.float64], **kwargs: Any) -> None:
        self._forces = None
        super().set_positions(new, **kwargs)


def _plain(structure: Structure) -> Atoms:
    """Atoms without site properties, which would become arrays that not every calculator takes."""
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    return Atoms(atoms.numbers, cell=atoms.cell, positions=atoms.positions, pbc=True)


def unsound(atoms: Atoms) -> str | None:
    """What is wrong with what a calculator gives for atoms, or None."""
    given = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }
    return wrong(given, len(atoms))


def _keep(atoms: Atoms, path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_json([atoms.cell.tolist(), atoms.positions.tolist(), seconds]))


def _go_on(atoms: Atoms, path: Path, settings: RelaxationSettings) -> float:
    """Put atoms where an earlier relaxation of the same structure has left them, if there is one.

    Returns
    -------
    Seconds that it had taken; 0 where that is not known.

    The calculator keeps the k-points of the structure that it was made for.
    """
    there = atoms.copy()
    try:
        cell, positions, *seconds = json.loads(path.read_bytes())
        there.set_cell(cell)
        there.set_positions(positions)
        spent = float(seconds[0]) if seconds else 0.0
    except (OSError, ValueError, TypeError):
        # There is none, or it is cut: from the start.
        return 0.0
    if settings.gate(there) is not None:
        return 0.0
    atoms.set_cell(there.cell)
    atoms.set_positions(there.positions)
    return spent
