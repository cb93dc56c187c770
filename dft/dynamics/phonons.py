"""Phonons of a relaxed crystal by finite displacements, with phonopy.

A. Togo, J. Phys. Soc. Jpn. 92, 012001 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np
from ase import Atoms
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from pymatgen.core import Structure
from pymatgen.io.phonopy import get_phonopy_structure, get_pmg_structure

from ccdcgan.dft.structures.symmetry import FloatArray

#: Distance between opposite faces that a supercell has at least, Å. At 9 Å, which is one quintuple
#: layer, Bi2Se3 has an imaginary mode of 0.6 THz between the points that the supercell holds.
LENGTH = 12.0

#: Most atoms of a supercell: the force constants of more take gigabytes.
MOST_ATOMS = 400

#: Displacement of an atom, Å.
DISPLACEMENT = 0.02

#: A crystal is stable where no frequency on the mesh lies below, THz: numerical forces leave
#: acoustic modes a little below zero.
STABLE_ABOVE = -0.1

#: Points of the mesh along a reciprocal vector, times its length over 2π, Å.
MESH = 40.0

#: Largest displacement of an atom along an imaginary mode, Å.
AMPLITUDE = 0.3

#: Most atoms of a cell that is displaced along an imaginary mode.
MOST_FOLLOWED = 80

#: Tolerance of symmetry, Å: crystals are snapped to theirs before.
SYMPREC = 1e-4

ForcesOf = Callable[[Atoms], FloatArray]


class TooLargeError(ValueError):
    """A supercell has more atoms than can be computed; the text says how many."""


@dataclass(frozen=True)
class Phonons:
    """Frequencies of a crystal.

    Attributes
    ----------
    lowest : float
        Lowest frequency on the mesh, THz; imaginary ones are negative.
    wave_vector : tuple of 3 floats
        Where that is, in fractional coordinates of the reciprocal primitive cell.
    supercell : tuple of 3 ints
        Multiples of the cell.
    atoms, displacements : int
        Of the supercell, and how many of them were computed.
    """

    lowest: float
    wave_vector: tuple[float, float, float]
    supercell: tuple[int, int, int]
    atoms: int
    displacements: int
    phonopy: Phonopy

    @property
    def is_stable(self) -> bool:
        return self.lowest > STABLE_ABOVE


def supercell_of(structure: Structure) -> tuple[int, int, int]:
    """Multiples of a cell at which opposite faces are `LENGTH` apart at least."""
    reciprocal = np.linalg.norm(np.linalg.inv(structure.lattice.matrix), axis=0)
    a, b, c = (max(1, math.ceil(LENGTH * r - 1e-6)) for r in reciprocal)
    return a, b, c


def phonons_of(structure: Structure, forces: ForcesOf, most: int = MOST_ATOMS) -> Phonons:
    """Phonons of a relaxed crystal.

    Parameters
    ----------
    structure
        Primitive cell, symmetric and relaxed to small forces: what is left of them is subtracted.
        Its magnetic moments, if any, are those of the supercell.
    forces
        Forces (n, 3) on atoms, eV/Å.
    most
        Most atoms of the supercell.

    Raises
    ------
    TooLargeError
        The supercell has more.
    """
    size = supercell_of(structure)
    count = len(structure) * math.prod(size)
    if count > most:
        raise TooLargeError(f"its supercell has {count} atoms, more than {most}")
    phonopy = Phonopy(
        get_phonopy_structure(structure),
        supercell_matrix=np.diag(size),
        symprec=SYMPREC,
        log_level=0,
    )
    phonopy.generate_displacements(distance=DISPLACEMENT)
    moved = phonopy.supercells_with_displacements or []
    # What is left of forces in the undisplaced crystal is not of the displacement.
    rest = forces(_atoms(phonopy.supercell))
    phonopy.forces = [forces(_atoms(cell)) - rest for cell in moved]
    phonopy.produce_force_constants()
    phonopy.symmetrize_force_constants()
    mesh = phonopy.run_mesh(MESH, is_gamma_center=True)
    frequencies = np.asarray(mesh.frequencies)
    x, y, z = map(float, mesh.qpoints[frequencies.min(1).argmin()])
    return Phonons(
        lowest=float(frequencies.min()),
        wave_vector=(x, y, z),
        supercell=size,
        atoms=count,
        displacements=len(moved),
        phonopy=phonopy,
    )


def followed(found: Phonons) -> Structure | None:
    """The crystal displaced along its lowest mode, in the smallest cell that holds the wave.

    Of the waves that small cells hold; None where none of these is imaginary.
    """
    phonopy = found.phonopy
    waves = [
        (point, cell)
        for point, cell in _short_waves()
        if math.prod(cell) * len(phonopy.primitive) <= MOST_FOLLOWED
    ]
    points = np.array([[float(x) for x in point] for point, _ in waves])
    phonopy.run_qpoints(points)
    frequencies = np.asarray(phonopy.get_qpoints_dict()["frequencies"])
    q, band = map(int, np.unravel_index(int(frequencies.argmin()), frequencies.shape))
    if frequencies[q, band] > STABLE_ABOVE:
        return None
    phonopy.run_modulations(np.diag(waves[q][1]), [[points[q], band, 1.0, 0.0]])
    modulations, supercell = phonopy.get_modulations_and_supercell()
    wave = np.real(modulations[0])
    moved = supercell.copy()
    moved.positions = supercell.positions + wave * AMPLITUDE / np.linalg.norm(wave, axis=1).max()
    return get_pmg_structure(moved)


def _short_waves() -> list[tuple[tuple[Fraction, ...], list[int]]]:
    """Wave vectors up to a fourth of the reciprocal vectors, and multiples of the cell to each."""
    parts = sorted({Fraction(i, n) for n in range(1, 5) for i in range(n)})
    return [(point, [x.denominator for x in point]) for point in product(parts, repeat=3)]


def _atoms(cell: PhonopyAtoms) -> Atoms:
    return Atoms(
        cell.symbols,
        cell=cell.cell,
        scaled_positions=cell.scaled_positions,
        magmoms=cell.magnetic_moments,
        pbc=True,
    )
