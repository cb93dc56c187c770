"""Which crystals cannot match: a fast test before pymatgen's StructureMatcher that loses no match.

The matcher scales two cells to one volume and looks for a basis of one lattice whose lengths and
angles are those of the other within its tolerances, and for a translation that brings every
atom within its tolerance, on the mean of both lattices, of a partner of the same species. So:

- if no such basis is there, the two do not match;
- with one atom right upon its partner, every other is within twice the tolerance of its own; if
  one has no atom so near, whatever partner the first is put upon, the two do not match.

All that is known of one composition is tested at once, in arrays.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

Floats = NDArray[np.float64]

#: What is added to tolerances: shapes are kept in single precision.
SLACK = 1e-4

#: Lattice vectors, or pairs of atoms, times cells that are looked at in one go.
MOST = 200_000

#: Atoms of a cell beyond which only lattices are compared: for the others there is no memory.
LARGEST = 400


class Shape(NamedTuple):
    """A reduced cell in numbers that can be stored.

    Attributes
    ----------
    species
        Elements in the order of their names with their numbers of atoms: ``Bi:2 Se:3``.
    numbers
        Single-precision numbers as base64: three lattice vectors in units of the edge of the cube
        of one atom, then the fractional coordinates, in the order of the species.
    """

    species: str
    numbers: str

    @property
    def formula(self) -> str:
        """The species of one formula unit, of whatever elements."""
        names, counts = zip(*(s.rsplit(":", 1) for s in self.species.split()), strict=True)
        numbers = [int(count) for count in counts]
        units = gcd(*numbers)
        return " ".join(f"{n}:{k // units}" for n, k in zip(names, numbers, strict=True))

    @classmethod
    def of(cls, reduced: Structure) -> Shape:
        # Finer names would have to be equal wherever the matcher finds species equal.
        names = ["/".join(sorted(e.symbol for e in site.species.elements)) for site in reduced]
        order = np.argsort(np.array(names), kind="stable")
        edge = (reduced.volume / len(reduced)) ** (1 / 3)
        rows = np.concatenate([reduced.lattice.matrix / edge, reduced.frac_coords[order]])
        counts = sorted(Counter(names).items())
        return cls(
            " ".join(f"{name}:{count}" for name, count in counts),
            base64.b64encode(rows.astype("<f4").tobytes()).decode(),
        )


@dataclass(frozen=True)
class Cell:
    """What a shape stores: numbers of atoms of each element, lattice vectors and coordinates."""

    counts: tuple[int, ...]
    lattice: Floats
    coordinates: Floats

    @classmethod
    def of(cls, shape: Shape) -> Cell:
        counts = tuple(int(part.rpartition(":")[2]) for part in shape.species.split())
        rows = np.frombuffer(base64.b64decode(shape.numbers), "<f4").astype(float).reshape(-1, 3)
        return cls(counts, rows[:3], rows[3:])

    @cached_property
    def parameters(self) -> Floats:
        """Lengths, and angles (degrees), of the lattice vectors, (6,)."""
        return _parameters(self.lattice)


class _Bases(NamedTuple):
    """Bases of a lattice that are like those of others.

    Attributes
    ----------
    other : array (n,)
        Index of the other lattice.
    whole : array (n, 3, 3)
        The basis in units of the lattice's own vectors.
    parameters : array (n, 6)
        Lengths and angles (degrees).
    """

    other: NDArray[np.int_]
    whole: NDArray[np.int_]
    parameters: Floats


def may_match(
    cell: Cell, others: Sequence[Cell], tolerances: Mapping[str, float]
) -> NDArray[np.int_]:
    """Indices, ascending, of those cells of the same species that the matcher may find to match.

    Parameters
    ----------
    cell
        It is the first of the two structures that the matcher is given.
    tolerances
        ``ltol``, ``stol`` and ``angle_tol`` of the matcher.
    """
    if not others:
        return np.zeros(0, int)
    parameters = np.array([other.parameters for other in others])
    most = 1.0 + tolerances["ltol"] + SLACK
    # Lengths of a reduced basis are the least there are, and of product below √2 volumes (Seeber).
    ratio = np.sort(parameters[:, :3]) / np.sort(cell.parameters[:3])
    like = np.flatnonzero(((ratio > 1.0 / most) & (ratio < np.sqrt(2.0) * most**2)).all(1))
    if not len(like):
        return like
    whole, vectors = _lattice_vectors(cell.lattice, parameters[like, :3].max() * most)
    atoms = len(cell.coordinates)
    found = []
    parts = 1 + len(like) * max(len(whole), atoms**2) // MOST
    for some in np.array_split(like, min(parts, len(like))):
        bases = _bases(whole, vectors, parameters[some], tolerances)
        near = np.arange(len(bases.other))
        if len(near) and atoms <= LARGEST:
            mean = (bases.parameters + parameters[some][bases.other]) / 2
            coordinates = np.array([others[i].coordinates for i in some])
            near = _near(cell, bases, mean, coordinates, tolerances["stol"])
        found.append(some[np.unique(bases.other[near])])
    return np.concatenate(found)


def _lattice_vectors(lattice: Floats, longest: float) -> tuple[NDArray[np.int_], Floats]:
    """All but the zero vector, up to a length: in units of the lattice's vectors, and as such."""
    reach = np.floor(longest * np.linalg.norm(np.linalg.inv(lattice), axis=0) + SLACK)
    axes = [np.arange(-n, n + 1) for n in reach.astype(int)]
    whole = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    vectors = whole @ lattice
    lengths = np.linalg.norm(vectors, axis=1)
    some = (lengths > 0) & (lengths <= longest)
    return whole[some], vectors[some]


def _bases(
    whole: NDArray[np.int_], vectors: Floats, others: Floats, tolerances: Mapping[str, float]
) -> _Bases:
    """Bases out of these vectors that are like those of other lattices, parameters (n, 6)."""
    lengths = np.linalg.norm(vectors, axis=1)
    unit = vectors / lengths[:, None]
    most = 1.0 + tolerances["ltol"] + SLACK
    ratio = lengths / others[:, :3, None]
    is_long = (ratio < most) & (ratio > 1.0 / most)
    apart = tolerances["angle_tol"] + 100 * SLACK
    least = np.cos(np.radians(np.minimum(others[:, 3:] + apart, 180.0))) - 1e-9
    largest = np.cos(np.radians(np.maximum(others[:, 3:] - apart, 0.0))) + 1e-9

    def is_at(cosines: Floats, k: NDArray[np.int_], angle: int) -> NDArray[np.bool_]:
        return (cosines >= least[k, angle, None]) & (cosines <= largest[k, angle, None])

    k, a = np.nonzero(is_long[:, 0])
    row, b = np.nonzero(is_long[k, 1] & is_at(unit[a] @ unit.T, k, 2))
    k, a = k[row], a[row]
    meets = is_long[k, 2] & is_at(unit[a] @ unit.T, k, 1)
    row, c = np.nonzero(meets & is_at(unit[b] @ unit.T, k, 0))
    k, axes = k[row], np.stack([a[row], b[row], c], 1)
    # Of other determinants, it is the basis of another lattice.
    is_basis = np.abs(np.abs(np.linalg.det(whole[axes].astype(float))) - 1.0) < 0.5
    k, axes = k[is_basis], axes[is_basis]
    return _Bases(k, whole[axes], _parameters(vectors[axes]))


def _parameters(bases: Floats) -> Floats:
    """Lengths, and angles (degrees), of bases (…, 3, 3), as (…, 6)."""
    lengths = np.linalg.norm(bases, axis=-1)
    unit = bases / lengths[..., None]
    cosines = (unit[..., [1, 0, 0], :] * unit[..., [2, 2, 1], :]).sum(-1)
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))], -1)


def _near(
    cell: Cell,
    bases: _Bases,
    mean: Floats,
    others: Floats,
    tolerance: float,
) -> NDArray[np.int_]:
    """Those of the bases, by number, in which atoms can be near partners.

    Parameters
    ----------
    mean : array (bases, 6)
        Parameters of the mean lattices.
    others : array (n, atoms, 3)
        Coordinates of the others.
    """
    cosines = np.cos(np.radians(mean[:, 3:]))
    metric = mean[:, :3, None] * mean[:, None, :3]
    for angle, (i, j) in enumerate([(1, 2), (0, 2), (0, 1)]):
        metric[:, i, j] *= cosines[:, angle]
        metric[:, j, i] = metric[:, i, j]
    root = np.linalg.cholesky(metric)
    edge = (np.abs(np.linalg.det(root)) / len(cell.coordinates)) ** (1 / 3)
    reach = 2.0 * tolerance * edge * (1.0 + SLACK) + SLACK
    # The same along each vector.
    along = reach[:, None] * np.sqrt(np.diagonal(np.linalg.inv(metric), axis1=1, axis2=2))
    # Where that is less than half of it, only the image that is looked at can be so near.
    reach[(along >= 0.5).any(1)] = np.inf
    own = cell.coordinates @ np.linalg.inv(bases.whole)
    ends = np.cumsum(cell.counts)
    blocks = [slice(end - n, end) for n, end in sorted(zip(cell.counts, ends, strict=True))]
    # The first atom of the rarest species is put upon each of its partners.
    anchor = blocks[0].start
    shifts = own[:, blocks[0]] - others[bases.other, anchor][:, None]
    row = np.repeat(np.arange(len(own)), shifts.shape[1])
    shift = shifts.reshape(-1, 3)
    for block in blocks:
        is_met = np.zeros((len(row), block.stop - block.start), bool)
        for atom in range(block.start, block.stop):
            partner = (others[bases.other[row], atom] + shift)[:, None]
            apart = own[row, block] - partner
            apart -= np.round(apart)
            is_near = (np.abs(apart) <= along[row, None]).all(2)
            distance = np.linalg.norm(apart @ root[row], axis=2)
            is_near &= distance <= reach[row, None]
            keep = is_near.any(1)
            row, shift, is_met = row[keep], shift[keep], (is_met | is_near)[keep]
        row, shift = row[is_met.all(1)], shift[is_met.all(1)]
    return row
