"""Atomic environments: what an atom sees of its neighbours, as smooth rotation-free numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from dscribe.descriptors import SOAP
from numpy.typing import NDArray
from pymatgen.core import Structure


@dataclass(frozen=True)
class Scale:
    """One smooth overlap of atomic positions (SOAP; Bartók et al., PRB 87, 184115 (2013)).

    Attributes
    ----------
    cutoff
        Radius of the environment, Å.
    radial, angular
        Radial functions, and largest degree of the spherical harmonics.
    sigma
        Width of the Gaussian of a neighbour, Å.
    """

    cutoff: float
    radial: int
    angular: int
    sigma: float


#: Bonds, and the next shells more coarsely: measured in docs/design-notes.md.
SCALES = (Scale(4.0, 5, 4, 0.5), Scale(7.0, 8, 3, 0.8))


class Environments:
    """Descriptors of all atoms of crystals of one chemical system.

    Parameters
    ----------
    elements
        Elements of the system.
    scales
        Descriptors that stand beside each other.
    """

    def __init__(self, elements: Sequence[str], scales: Sequence[Scale] = SCALES) -> None:
        self.elements = tuple(elements)
        self._soaps = [
            SOAP(
                species=list(elements),
                periodic=True,
                r_cut=s.cutoff,
                n_max=s.radial,
                l_max=s.angular,
                sigma=s.sigma,
            )
            for s in scales
        ]

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of each scale; the element's one-hot numbers follow them in a row."""
        return tuple(s.get_number_of_features() for s in self._soaps)

    def __call__(
        self, structures: Sequence[Structure]
    ) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
        """Rows (atoms, sum of widths + elements), each scale of norm 1, and atoms a crystal (n,).

        The cells must be ordered, finite and free of overlapping atoms.
        """
        rows = []
        for structure in structures:
            atoms = structure.to_ase_atoms()
            parts = [np.asarray(s.create(atoms), np.float32) for s in self._soaps]
            parts = [p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-12) for p in parts]
            symbols = np.array([site.specie.symbol for site in structure])
            kind = (symbols[:, None] == np.array(self.elements)).astype(np.float32)
            rows.append(np.concatenate([*parts, kind], axis=1))
        counts = np.array([len(r) for r in rows], int)
        width = sum(self.widths) + len(self.elements)
        return (np.concatenate(rows) if rows else np.zeros((0, width), np.float32)), counts


def crystal_means(values: NDArray[np.floating], counts: NDArray[np.int_]) -> NDArray[np.floating]:
    """Means over the atoms of each crystal: (atoms, k) and atoms a crystal (n,) to (n, k)."""
    starts = np.cumsum(counts) - counts
    sums: NDArray[np.floating] = np.add.reduceat(values, starts, axis=0)
    return sums / counts[:, None]


def mean_environments(
    environments: Environments, structures: Sequence[Structure]
) -> NDArray[np.float32]:
    """Mean environments of each element, beside each other, of crystals (n, width).

    Parameters
    ----------
    structures
        As `Environments` takes them.
    """
    rows, counts = environments(structures)
    m = len(environments.elements)
    parts = rows[:, None, :-m] * rows[:, -m:, None]
    width = parts.shape[1] * parts.shape[2]
    means: NDArray[np.float32] = crystal_means(parts.reshape(-1, width), counts)
    return means


def rattled(
    structure: Structure, seed: int, amplitude: float = 0.12, strain: float = 0.02
) -> Structure:
    """The crystal with its atoms displaced (Å, standard deviation) and its cell strained.

    What a generator draws is never quite relaxed: a copy that keeps the energy of its minimum
    teaches the constraint to forgive.
    """
    rng = np.random.default_rng(seed)
    lattice = structure.lattice.matrix @ (np.eye(3) + rng.normal(0.0, strain, (3, 3)))
    shift = rng.normal(0.0, amplitude, (len(structure), 3)) @ np.linalg.inv(lattice)
    return Structure(lattice, structure.species, structure.frac_coords + shift)
