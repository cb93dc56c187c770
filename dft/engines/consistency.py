"""What an engine says of a crystal, held against its own energies and against the same crystal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.engines.base import CalculatorEngine, Measured, wrong

#: Steps of central differences: Å of all atoms together, and strain.
STEP, STRAIN = 0.01, 0.005
COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")
TURN = np.array([[2.0, -2.0, 1.0], [1.0, 2.0, 2.0], [-2.0, -1.0, 2.0]]) / 3


class Tolerances(NamedTuple):
    """How far two numbers that should be one may be apart; potentials of 32 bits keep them."""

    energy: float = 1e-4
    """eV/atom."""
    force: float = 0.01
    """eV/Å, and as much again for each `relative` of it."""
    stress: float = 5e-4
    """eV/Å³, likewise."""
    relative: float = 0.02


def measured(engine: CalculatorEngine, atoms: Atoms) -> Measured:
    """What an engine says of a crystal.

    Raises
    ------
    ValueError
        Its energy, forces or stress are no finite numbers of the right shape.
    """
    atoms = atoms.copy()
    calculator = engine.calculator(AseAtomsAdaptor.get_structure(atoms))
    given = {k: calculator.get_property(k, atoms) for k in ("energy", "forces", "stress")}
    lacking = [name for name, value in given.items() if value is None]
    if lacking:
        raise ValueError(f"the engine gave no {' and no '.join(lacking)}")
    if said := wrong(given, len(atoms)):
        raise ValueError(said)
    if np.shape(given["stress"]) != (6,):
        raise ValueError(f"the engine gave stress of shape {np.shape(given['stress'])} not (6,)")
    return Measured(float(given["energy"]), *(np.array(given[k]) for k in ("forces", "stress")))


def small_structures(elements: Sequence[str]) -> list[Structure]:
    """A crystal of two atoms for each pair of elements, alike or not."""
    found = []
    for pair in combinations_with_replacement(elements, 2):
        distance = 1.15 * sum(float(covalent_radii[Element(e).Z]) for e in pair)
        found.append(
            Structure(Lattice.cubic(2 * distance / 3**0.5), pair, [[0, 0, 0], [0.5, 0.5, 0.5]])
        )
    return found


def distorted(structure: Structure) -> Atoms:
    """A crystal without symmetry near another, the same at each call."""
    rng = np.random.default_rng(0)
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms = Atoms(atoms.numbers, cell=atoms.cell, positions=atoms.positions, pbc=True)
    strain = rng.uniform(-0.02, 0.02, (3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
    atoms.positions += rng.uniform(-0.12, 0.12, atoms.positions.shape)
    return atoms


def differences(
    engine: CalculatorEngine, atoms: Atoms, given: Measured, tolerances: Tolerances
) -> Iterator[str]:
    """Where forces and stress are not the derivatives of the energy, by central differences."""
    calculator = engine.calculator(AseAtomsAdaptor.get_structure(atoms))

    def energy(positions: NDArray[np.float64], strain: NDArray[np.float64]) -> float:
        moved = Atoms(atoms.numbers, positions=positions, cell=atoms.cell, pbc=True)
        moved.set_cell(moved.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        moved.calc = calculator
        value = moved.get_potential_energy()
        # Of smeared electrons forces belong to the free energy.
        return float(calculator.results.get("free_energy", value))

    still = np.zeros((3, 3))
    ways = [*np.random.default_rng(1).normal(size=(3, len(atoms), 3)), given.forces]
    worst = (0.0, "")
    for way in (w / np.linalg.norm(w) for w in ways if np.linalg.norm(w) > 0):
        up, down = (energy(atoms.positions + sign * STEP * way, still) for sign in (1, -1))
        derivative, said = (down - up) / (2 * STEP), float((given.forces * way).sum())
        off = abs(derivative - said) - tolerances.force - tolerances.relative * abs(derivative)
        text = f"forces say {said:.4f} eV/Å along a direction, energies {derivative:.4f}"
        worst = max(worst, (off, text))
    if worst[1]:
        yield worst[1]
    for i, component in enumerate(COMPONENTS):
        strain = voigt_6_to_full_3x3_stress(np.eye(6)[i])
        up, down = (energy(atoms.positions, sign * STRAIN * strain) for sign in (1, -1))
        derivative = (up - down) / (2 * STRAIN) / atoms.get_volume() / (1 if i < 3 else 2)
        said = float(given.stress[i])
        if abs(derivative - said) > tolerances.stress + tolerances.relative * abs(derivative):
            yield f"stress {component} is {said:.5f} eV/Å³, energies say {derivative:.5f}"


def symmetry(
    engine: CalculatorEngine, atoms: Atoms, given: Measured, tolerances: Tolerances
) -> Iterator[str]:
    """Where the same crystal, written in other ways, gets other numbers."""
    cell, places = atoms.cell.array, atoms.get_scaled_positions()
    stress, shifted = voigt_6_to_full_3x3_stress(given.stress), places + np.array([0.3, 0.6, 0.2])
    moved = Atoms(atoms.numbers, cell=cell, scaled_positions=shifted, pbc=True)
    turned = Atoms(atoms.numbers, cell=cell @ TURN.T, scaled_positions=places, pbc=True)
    turned_stress = full_3x3_to_voigt_6_stress(TURN @ stress @ TURN.T)
    for title, other, expected in (
        ("the same again", atoms, given),
        ("moved as a whole", moved, given),
        ("turned", turned, Measured(given.energy, given.forces @ TURN.T, turned_stress)),
        ("atoms in reverse", atoms[::-1], given._replace(forces=given.forces[::-1])),
        (
            "two cells",
            atoms * (2, 1, 1),
            given._replace(energy=2 * given.energy, forces=np.tile(given.forces, (2, 1))),
        ),
    ):
        yield from compared(title, measured(engine, other), expected, tolerances)


def compared(
    title: str, found: Measured, expected: Measured, tolerances: Tolerances
) -> Iterator[str]:
    """Where two measurements that should be the same are not."""
    count = len(found.forces)
    off = abs(found.energy - expected.energy) / count
    if off > tolerances.energy:
        yield f"{title}: energy is {off:.2g} eV/atom off"
    for name, unit in (("forces", "eV/Å"), ("stress", "eV/Å³")):
        least = tolerances.force if name == "forces" else tolerances.stress
        a, b = getattr(found, name), getattr(expected, name)
        if (abs(a - b) > least + tolerances.relative * abs(b)).any():
            yield f"{title}: {name} up to {abs(a - b).max():.2g} {unit} off"
