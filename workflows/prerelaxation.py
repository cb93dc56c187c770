"""Generated crystals relaxed by a potential learnt from the campaign, before any is chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import UnitCellFilter
from ase.optimize import FIRE
from ase.units import GPa
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.processes import worker_pool
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.energy.power_spectrum import Geometry
from ccdcgan.models.representation.voxels import FloatArray

#: Largest force that is left, eV/Å: the potential is not known better.
FMAX = 0.1


class LearntCalculator(Calculator):
    """ASE's view of a potential.

    Parameters
    ----------
    potential
        What computes.
    elements
        Symbols, in the potential's order.
    pressure
        Of the relaxations that it has learnt from, GPa.
    """

    implemented_properties = ("energy", "forces", "stress")

    def __init__(
        self, potential: Potential, elements: Sequence[str], pressure: float = 0.0
    ) -> None:
        super().__init__()
        self.potential, self.elements = potential, list(elements)
        self.pressure = pressure * GPa

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        here = self.atoms
        species_index = np.array([self.elements.index(s) for s in here.get_chemical_symbols()])
        energy, forces, stress = self.potential(
            Geometry(here.cell.array, species_index, here.positions)
        )
        self.results = {"energy": energy, "forces": forces, "stress": stress}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed; ASE asks seven times a step, as long as it takes to compute."""
        here = self.atoms
        if here is not None and all(
            np.array_equal(a, b)
            for a, b in (
                (here.positions, atoms.positions),
                (here.cell.array, atoms.cell.array),
                (here.numbers, atoms.numbers),
            )
        ):
            return []
        return list(all_changes)

    def energy_per_atom(self, structure: Structure) -> float:
        """Energy of a structure, or enthalpy under pressure, eV/atom."""
        atoms = structure.to_ase_atoms()
        energy = float(self.get_potential_energy(atoms)) + self.pressure * structure.volume
        return energy / len(atoms)


class _Cell(UnitCellFilter):
    """A cell and its atoms, whose forces are computed once a step: ASE asks three times."""

    _forces: FloatArray | None = None

    def set_positions(self, new: FloatArray, **options: Any) -> None:
        self._forces = None
        super().set_positions(new, **options)

    def get_forces(self, *arguments: Any, **options: Any) -> FloatArray:
        if self._forces is None:
            self._forces = np.asarray(super().get_forces(*arguments, **options))
        return self._forces.copy()


def prerelax(structure: Structure, calculator: LearntCalculator, steps: int) -> Structure:
    """The structure after so many steps; as it was where the potential leads nowhere.

    What was learnt from some hundred relaxations knows little of expanded crystals: the volume
    stays for all steps but a tenth more.
    """
    atoms = Atoms(
        structure.atomic_numbers,
        cell=structure.lattice.matrix,
        positions=structure.cart_coords,
        pbc=True,
        calculator=calculator,
    )
    try:
        FIRE(_Cell(atoms, constant_volume=True), logfile=None).run(FMAX, steps)
        cell = _Cell(atoms, scalar_pressure=calculator.pressure)
        FIRE(cell, logfile=None).run(FMAX, steps // 10)
    except (ArithmeticError, ValueError):
        return structure
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return structure
    return Structure(
        atoms.cell.array,
        structure.species,
        atoms.positions,
        coords_are_cartesian=True,
        to_unit_cell=True,
    )


_process: dict[str, Any] = {}


def _start_worker(potential: bytes, elements: Sequence[str], steps: int, pressure: float) -> None:
    _process["calculator"] = LearntCalculator(Potential.from_bytes(potential), elements, pressure)
    _process["steps"] = steps


def _in_worker(structure: Structure) -> Structure:
    return prerelax(structure, _process["calculator"], _process["steps"])


def prerelaxed(
    structures: Sequence[Structure],
    potential: bytes,
    elements: Sequence[str],
    steps: int,
    workers: int | None = None,
    pressure: float = 0.0,
) -> list[Structure]:
    """`prerelax` of many structures in parallel processes.

    Parameters
    ----------
    potential
        File of a `Potential`.
    workers
        Processes; by default one a core.
    pressure
        GPa.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(structures)))
    try:
        given = (potential, tuple(elements), steps, pressure)
        with worker_pool(workers, _start_worker, given) as pool:
            return list(pool.map(_in_worker, structures, chunksize=4))
    except BrokenProcessPool:
        raise UserError("a process of the pre-relaxation was killed") from None
