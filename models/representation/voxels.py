"""Sites and lattice voxels: crystals as Gaussian densities on a grid, and their exact inverse."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ccdcgan.models.representation.peaks import PEAK_THRESHOLD, GaussianSums

FloatArray = NDArray[np.floating]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class SitesGrid:
    """Grid on which the sites voxel of one element lives (paper, eq. 4).

    Attributes
    ----------
    points
        Grid points along each axis; along each on average, where the shape follows the cell.
    sigma
        Standard deviation of the Gaussian of one atom, in grid spacings along each axis.
    cube
        Edge of a Cartesian cube in Å (the released code's 15 Å), or None for a grid over the
        fractional coordinates of the cell, which is periodic and knows no longest cell.
    """

    points: int = 16
    sigma: float = 1.0
    cube: float | None = None

    @property
    def periodic(self) -> bool:
        return self.cube is None

    def shapes(self, lengths: FloatArray) -> NDArray[np.int_]:
        """Grid shapes that fit cells: as many points for every cell, spaced as evenly as can be.

        The edges of a shape are powers of two from 4 on with product points³. Of these shapes a
        cell gets the one with the smallest largest spacing, then the smallest second largest,
        then the first in lexicographic order. A cube keeps its shape.

        Parameters
        ----------
        lengths : array (n, 3)
            Lengths of the cells' edges, Å.

        Returns
        -------
        array (n, 3)

        Raises
        ------
        ValueError
            A length is not positive and finite, or a periodic grid's `points` is not a power of
            two from 4 on.
        """
        lengths = np.asarray(lengths, float).reshape(-1, 3)
        wrong = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)).all(1))
        if len(wrong):
            raise ValueError(f"cell {wrong[0]}: lengths {lengths[wrong[0]]} Å are of no cell")
        if not self.periodic:
            return np.full((len(lengths), 3), self.points)
        shapes = grid_shapes(self.points)
        # Rounded, so that the last digits of equal lengths do not choose between equal shapes.
        spacings = np.sort(np.round(np.log(lengths[:, None] / shapes), 6), axis=-1)
        return shapes[np.lexsort(np.moveaxis(spacings, -1, 0), axis=-1)[:, 0]]

    def to_grid(self, coords: FloatArray, shape: Sequence[int] | None = None) -> FloatArray:
        """Fractional coordinates, or Å from the middle of the cube, as grid units."""
        shape = self._sums(shape).shape
        if self.cube is None:
            return np.mod(np.asarray(coords, float), 1.0) * shape
        return (np.asarray(coords, float) / self.cube + 0.5) * (self.points - 1)

    def from_grid(self, positions: FloatArray, shape: Sequence[int] | None = None) -> FloatArray:
        """Inverse of `to_grid`; fractional coordinates lie in [0, 1)."""
        shape = self._sums(shape).shape
        if self.cube is None:
            # The remainder of a tiny negative number rounds to 1.
            return np.mod(np.mod(positions / np.array(shape), 1.0), 1.0)
        return (positions / (self.points - 1) - 0.5) * self.cube

    def _sums(self, shape: Sequence[int] | None) -> GaussianSums:
        own = (self.points,) * 3
        nx, ny, nz = own if shape is None else (int(n) for n in shape)
        if not self.periodic and (nx, ny, nz) != own:
            raise ValueError(f"the cube's grid has the shape {own}, not {(nx, ny, nz)}")
        return GaussianSums((nx, ny, nz), self.sigma, self.periodic)

    def encode(
        self, coords: Sequence[FloatArray], shape: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Sites voxels of a batch.

        Parameters
        ----------
        coords
            One (n_atoms, 3) array a picture: fractional coordinates on a periodic grid, Å from
            the middle of the cube on a Cartesian one. A picture may be empty.
        shape
            Grid points along the axes, one shape for the batch; (points, points, points) if None.

        Returns
        -------
        array (len(coords), *shape)
            The sum of the Gaussians of the atoms and their images.

        Raises
        ------
        ValueError
            An atom lies outside the cube, or a coordinate is not finite; the message gives the
            picture's index. The cube was given another shape than its own.
        """
        sums = self._sums(shape)
        counts = np.array([len(c) for c in coords], int)
        if not counts.any():
            return np.zeros((len(coords), *sums.shape), np.float32)
        flat = np.concatenate([np.asarray(c, float).reshape(-1, 3) for c in coords])
        owner = np.repeat(np.arange(len(coords)), counts)
        infinite = ~np.isfinite(flat).all(1)
        if infinite.any():
            raise ValueError(f"picture {owner[infinite][0]}: a coordinate is not finite")
        grid = self.to_grid(flat, sums.shape)
        if not self.periodic:
            outside = ((grid < 0) | (grid > self.points - 1)).any(1)
            if outside.any():
                picture = owner[outside][0]
                raise ValueError(
                    f"picture {picture}: an atom lies outside the cube of {self.cube} Å"
                )
        return sums.superpose(grid, counts)

    def decode(
        self,
        voxels: FloatArray,
        counts: Sequence[int] | NDArray[np.integer] | None = None,
        threshold: float = PEAK_THRESHOLD,
    ) -> list[NDArray[np.float64]]:
        """Atoms of a batch of sites voxels, below the grid spacing.

        Sums of unit Gaussians come back as they were, also where peaks have merged, down to
        atoms 1.2 grid spacings apart. How: see `GaussianSums.find`.

        Parameters
        ----------
        voxels : array (batch, nx, ny, nz)
        counts
            Number of atoms of each picture, if it is known: the lowest peaks beyond it are left
            out; where peaks are missing, weak and merged ones are accepted down to a lower
            threshold. There may still be fewer atoms.
        threshold
            Maxima below it are background.

        Returns
        -------
        list of (n_atoms, 3) arrays
            Coordinates as `encode` takes them.

        Raises
        ------
        ValueError
            The voxels are no batch of pictures, the cube's have another shape than its grid, or
            `counts` has another length than the batch.
        """
        pictures = np.ascontiguousarray(voxels, np.float32)
        if pictures.ndim != 4:
            raise ValueError(f"voxels of shape {pictures.shape}, not (batch, nx, ny, nz)")
        sums = self._sums(pictures.shape[1:])
        wanted = None if counts is None else np.asarray(counts, int)
        if wanted is not None and wanted.shape != (len(pictures),):
            raise ValueError(f"{len(pictures)} pictures, but counts of shape {wanted.shape}")
        out: list[NDArray[np.float64]] = []
        # Blocks bound the memory that pictures full of noise ask for.
        block = max(1, 2**20 // int(np.prod(sums.shape)))
        for start in range(0, len(pictures), block):
            part = slice(start, start + block)
            found = sums.find(pictures[part], threshold, None if wanted is None else wanted[part])
            coords = np.asarray(self.from_grid(np.concatenate(found), sums.shape), float)
            out += np.split(coords, np.cumsum([len(f) for f in found])[:-1])
        return out


@lru_cache(maxsize=8)
def grid_shapes(points: int) -> NDArray[np.int_]:
    """Shapes of powers of two from 4 on with product points³, in lexicographic order (n, 3)."""
    if points < 4 or points & (points - 1):
        raise ValueError(
            f"a grid that follows the cell has a power of two of points, 4 or more, not {points}"
        )
    edges = [2**k for k in range(2, 3 * points.bit_length())]
    shapes = [s for s in itertools.product(edges, repeat=3) if s[0] * s[1] * s[2] == points**3]
    return np.array(shapes)


@dataclass(frozen=True)
class LatticeGrid:
    """Grid of the lattice voxel (paper, eq. 3).

    A Gaussian of the distance in real space from each grid point of the unit cell to its centre.

    Attributes
    ----------
    points
        Grid points along each lattice vector.
    sigma
        Standard deviation in Å. The paper gives 0.15 without a unit; its code uses 0.26 Å, with
        which a cell of 10 Å touches few points. The default keeps the voxels above the smallest
        single-precision number over the whole cell.
    """

    points: int = 32
    sigma: float = 2.5

    def encode(self, lattices: FloatArray) -> NDArray[np.float32]:
        """Voxels (batch, points, points, points) of row-vector lattices (batch, 3, 3) in Å.

        Raises
        ------
        ValueError
            A lattice is not finite; the message gives its index.
        """
        lattices = np.asarray(lattices, float)
        wrong = np.flatnonzero(~np.isfinite(lattices).all((1, 2)))
        if len(wrong):
            raise ValueError(f"lattice {wrong[0]} is not finite")
        metric = lattices @ lattices.transpose(0, 2, 1)
        six = metric.reshape(-1, 9)[:, [0, 4, 8, 5, 2, 1]] * (-0.5 / self.sigma**2)
        out = six.astype(np.float32) @ _design(self.points)[0]
        return np.exp(out, out=out).reshape(-1, *(self.points,) * 3)

    def decode(self, voxels: FloatArray, floor: float = 1e-3) -> NDArray[np.float64]:
        """Metric tensors (batch, 3, 3) in Å² by weighted least squares.

        -2σ² ln p is linear in the six entries of the metric tensor. The weight p² undoes the
        logarithm's stretching of the noise; points below `floor` are left out.
        """
        p = np.asarray(voxels, np.float32).reshape(len(voxels), -1)
        design, products = _design(self.points)
        weight = np.where(p > floor, np.minimum(p, 1) ** 2, np.float32(0))
        target = np.log(np.maximum(p, np.float32(floor)))
        target *= weight
        rows, columns = np.triu_indices(6)
        normal = np.empty((len(p), 6, 6))
        normal[:, rows, columns] = normal[:, columns, rows] = weight @ products.T
        right = (target @ design.T) * (-2 * self.sigma**2)
        six = np.linalg.solve(normal + 1e-12 * np.eye(6), right[..., None])[..., 0]
        return six[:, np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])]


@lru_cache(maxsize=4)
def _design(points: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coefficients (6, points³) of the metric tensor in the squared distance from the centre.

    Their order is xx, yy, zz, yz, xz, xy. Beside them the 21 products of any two (21, points³).
    """
    axis = (np.arange(points) + 0.5) / points - 0.5
    x, y, z = (u.reshape(-1) for u in np.meshgrid(axis, axis, axis, indexing="ij"))
    design = np.stack([x * x, y * y, z * z, 2 * y * z, 2 * x * z, 2 * x * y])
    first, second = np.triu_indices(6)
    return design.astype(np.float32), (design[first] * design[second]).astype(np.float32)


def lattice_from_metric(metric: FloatArray) -> NDArray[np.float64]:
    """Lower-triangular row-vector lattices in Å of metric tensors in Å², both (batch, 3, 3).

    A tensor that is not positive definite belongs to no cell and gives rows of NaN.
    """
    metric = np.asarray(metric, float)
    out = np.full(metric.shape, np.nan)
    good = np.asarray(np.isfinite(metric).all((1, 2)))
    good[good] = np.linalg.eigvalsh(metric[good]).min(-1) > 1e-6
    if good.any():
        out[good] = np.linalg.cholesky(metric[good])
    return out
