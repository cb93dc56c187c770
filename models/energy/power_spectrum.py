"""Moments of the neighbours' density around atoms, and their gradients along the vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, pairwise
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from ccdcgan.models.representation.voxels import FloatArray

#: Radius of an environment, Å.
CUTOFF = 6.0
#: Radial functions of an environment, and of the pair terms.
RADIAL, PAIR = 7, 12
#: Distance (Å) from which neighbours count less and less, and the power of that: what is near
#: decides (Willatt et al., Phys. Chem. Chem. Phys. 20, 29661 (2018)).
NEAR, DECLINE = 3.0, 7
#: Largest power of the cosine of an angle.
DEGREE = 3
#: Components of a symmetric tensor, in the order of ASE.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))

#: Exponents of x, y and z of all products of up to `DEGREE` components of a unit vector, their
#: degrees, and how often each stands in that power of a scalar product.
EXPONENTS = np.array(
    [
        np.bincount(np.array(axes, int), minlength=3)
        for degree in range(DEGREE + 1)
        for axes in combinations_with_replacement(range(3), degree)
    ]
)
DEGREES = EXPONENTS.sum(1)
MULTIPLICITY = np.array(
    [factorial(int(e.sum())) / np.prod([factorial(int(k)) for k in e]) for e in EXPONENTS]
)


@dataclass(frozen=True)
class Geometry:
    """A cell with its atoms.

    Attributes
    ----------
    cell : array (3, 3)
        Å.
    species_index : array (n,)
        Index of each atom's element.
    positions : array (n, 3)
        Å.
    """

    cell: FloatArray
    species_index: NDArray[np.int_]
    positions: FloatArray

    def __len__(self) -> int:
        return len(self.species_index)


class Neighbours:
    """Pairs of neighbours in a cell: atoms `i`, neighbours `j`, and `vectors` between them, Å."""

    def __init__(self, here: Geometry) -> None:
        self.n = len(here)
        cell = np.ascontiguousarray(here.cell, float)
        self.volume = abs(float(np.linalg.det(cell)))
        # The neighbour search asks for atoms in the cell.
        inside = np.mod(here.positions @ np.linalg.inv(cell), 1.0) % 1.0
        positions = np.ascontiguousarray(inside @ cell)
        i, j, images, r = find_points_in_spheres(
            positions, positions, CUTOFF, np.ones(3, np.int64), cell
        )
        # Without the atom itself; the images of one neighbour stand together.
        order = np.lexsort((j, here.species_index[j], i))
        order = order[r[order] > 1e-6]
        self.i, self.j = i[order], j[order]
        self.vectors = positions[self.j] - positions[self.i] + images[order] @ cell

    def forces(self, gradients: FloatArray, some: Any = slice(None)) -> FloatArray:
        """Forces (n, 3, k) from gradients (pairs, 3, k) of energies along some of the pairs."""
        atoms = np.arange(self.n)[:, None]
        ends = (atoms == self.i[some]).astype(float) - (atoms == self.j[some])
        out: FloatArray = np.tensordot(ends, gradients, 1)
        return out

    def virials(self, gradients: FloatArray, some: Any = slice(None)) -> FloatArray:
        """Stresses times the volume (6, k), of gradients (pairs, 3, k) along some of the pairs."""
        return np.stack([self.vectors[some, a] @ gradients[:, b] for a, b in VOIGT])


class Surroundings(Neighbours):
    """Moments of the neighbours' density around each atom, and their gradients.

    Moments are sums over the neighbours of one element of a radial function and a product of
    components of the unit vector to the neighbour (moment tensors; Shapeev, Multiscale Model.
    Simul. 14, 1153 (2016)).
    """

    def __init__(self, here: Geometry, elements: int) -> None:
        super().__init__(here)
        self.elements = elements
        r = np.linalg.norm(self.vectors, axis=1)
        self.block = self.i * elements + here.species_index[self.j]
        self.first = np.flatnonzero(np.diff(self.block, prepend=-1))
        self.unit = self.vectors / r[:, None]
        self.radial, self.radial_derivative = _radial_functions(r)
        powers = self.unit[:, None, :] ** np.arange(DEGREE + 1)[:, None]
        factors = [powers[:, EXPONENTS[:, a], a] for a in range(3)]
        self.products = factors[0] * factors[1] * factors[2]
        gradients = np.empty((len(r), len(EXPONENTS), 3))
        for a in range(3):
            lowered = EXPONENTS[:, a] * powers[:, np.maximum(EXPONENTS[:, a] - 1, 0), a]
            gradients[:, :, a] = lowered * factors[(a + 1) % 3] * factors[(a + 2) % 3]
        # Only what is across the vector turns it: a product of degree d has d of it along.
        along = (self.products * DEGREES)[:, :, None] * self.unit[:, None, :]
        self.product_gradients = (gradients - along) / r[:, None, None]
        both = self.radial[:, :RADIAL, None] * self.products[:, None, :]
        self.moments = self._summed(both).reshape(self.n, elements * RADIAL, -1)
        self.pairs = self._summed(self.radial).reshape(self.n, elements * PAIR)

    def _summed(self, values: FloatArray) -> FloatArray:
        """Sums over the neighbours of one element of each atom."""
        out = np.zeros((self.n * self.elements, *values.shape[1:]))
        if len(self.first):
            out[self.block[self.first]] = np.add.reduceat(values, self.first, axis=0)
        return out

    def spectra(self) -> tuple[FloatArray, FloatArray]:
        """Rotation-free unit vectors (n, width) of the atoms, and their lengths before (n,).

        Scalar products of all moments of a degree are a symmetric matrix of channels: a row is the
        upper triangles of those matrices.
        """
        parts = []
        for degree in range(DEGREE + 1):
            some = self.moments[:, :, degree == DEGREES]
            weighted = some * MULTIPLICITY[degree == DEGREES]
            parts.append(weighted @ some.transpose(0, 2, 1))
        upper, scale = _triangle(self.moments.shape[1])
        rows = (np.stack(parts, 1)[:, :, *upper] / scale).reshape(self.n, -1)
        lengths = np.linalg.norm(rows, axis=1) + 1e-12
        return rows / lengths[:, None], lengths

    def matrices(self, spectra: FloatArray) -> FloatArray:
        """Symmetric matrices (k, degrees, channels, channels) of the triangles (k, width)."""
        channels = self.elements * RADIAL
        (above, beside), scale = _triangle(channels)
        values = spectra.reshape(len(spectra), DEGREE + 1, -1) * scale
        out = np.empty((len(spectra), DEGREE + 1, channels, channels))
        out[:, :, above, beside] = out[:, :, beside, above] = values
        return out

    def gradients_of_spectra(self) -> tuple[FloatArray, FloatArray]:
        """Gradients of spectra before they were normalised, as far as one element's channels go.

        Returns
        -------
        along : array (n, n, 3, degrees · `RADIAL` · channels)
            Of an atom's spectrum along the vectors to a neighbour, summed over its images.
            Of a spectrum, only what `by_element` gives for the neighbour.
        strained : array (n, elements, 6, degrees · `RADIAL` · channels)
            The same times the vectors, summed over the neighbours of an element.
        """
        gradients = (
            self.radial_derivative[:, :RADIAL, None, None]
            * self.products[:, None, :, None]
            * self.unit[:, None, None, :]
            + self.radial[:, :RADIAL, None, None] * self.product_gradients[:, None]
        )
        gradients = np.ascontiguousarray(gradients.transpose(0, 3, 1, 2))
        shape = gradients.shape[1:]
        along = np.zeros((self.n * self.n, *shape))
        pair = self.i * self.n + self.j
        first = np.flatnonzero(np.diff(pair, prepend=-1))
        if len(first):
            along[pair[first]] = np.add.reduceat(gradients, first, axis=0)
        strained = np.zeros((self.n * self.elements, len(VOIGT), *shape[1:]))
        for a, b in pairwise([*self.first, len(self.block)]):
            virials = np.tensordot(self.vectors[a:b], gradients[a:b], (0, 0))
            strained[self.block[a]] = [virials[v] for v in VOIGT]
        return (
            self._on_spectra(along.reshape(self.n, -1, 3, *shape[1:])),
            self._on_spectra(strained.reshape(self.n, self.elements, -1, *shape[1:])),
        )

    def _on_spectra(self, moved: FloatArray) -> FloatArray:
        """Gradients of atoms' spectra from those of their moments, (n, …, RADIAL, products)."""
        weighted = (2.0 * MULTIPLICITY * self.moments).swapaxes(1, 2)[:, None, None]
        parts = [
            moved[..., degree == DEGREES] @ weighted[..., degree == DEGREES, :]
            for degree in range(DEGREE + 1)
        ]
        return np.stack(parts, -3).reshape(*moved.shape[:3], -1)

    def by_element(self, spectra: FloatArray) -> FloatArray:
        """Entries of spectra (k, width) by the element of their first channel.

        An array (elements, k, degrees · `RADIAL` · channels): off the diagonal of their matrices,
        they are there twice.
        """
        parts = self.matrices(spectra).reshape(len(spectra), DEGREE + 1, self.elements, -1)
        return parts.transpose(2, 0, 1, 3).reshape(self.elements, len(spectra), -1)


@cache
def _triangle(channels: int) -> tuple[tuple[NDArray[np.int_], NDArray[np.int_]], FloatArray]:
    """Indices of an upper triangle, and by what its entries are divided to keep scalar products."""
    rows, columns = np.triu_indices(channels)
    return (rows, columns), np.where(rows == columns, 1.0, np.sqrt(0.5))


def _radial_functions(r: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Chebyshev polynomials that fade at the cutoff, (pairs, `PAIR`), and their derivatives."""
    x = np.clip(1.0 - 2.0 * r / CUTOFF, -1.0 + 1e-9, 1.0 - 1e-9)
    k, angle = np.arange(PAIR), np.arccos(x)[:, None]
    value = np.cos(k * angle)
    derivative = k * np.sin(k * angle) / np.sin(angle) * (-2.0 / CUTOFF)
    turn = np.pi / CUTOFF * r
    end, end_derivative = 0.5 * (1.0 + np.cos(turn)), -0.5 * np.pi / CUTOFF * np.sin(turn)
    power = (r / NEAR) ** DECLINE
    weight = 1.0 / (1.0 + power)
    weight_derivative = -DECLINE / r * power * weight**2
    fade = (end * weight)[:, None]
    falling = (end_derivative * weight + end * weight_derivative)[:, None]
    return value * fade, derivative * fade + value * falling
