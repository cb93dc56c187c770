"""Sites and lattice voxels: crystals as Gaussian densities on a grid, and their exact inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

#: A peak lower than this is background. An isolated atom in the worst place, the middle of
#: eight grid points one sigma apart, still shows exp(-3/8) = 0.69 on each of them.
PEAK_THRESHOLD = 0.35

_STENCIL = np.array(
    [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=int
)


@dataclass(frozen=True)
class SitesGrid:
    """Grid on which the sites voxel of one element lives (paper, eq. 4).

    Attributes
    ----------
    points
        Grid points along each axis.
    sigma
        Standard deviation of the Gaussian of one atom, in grid spacings.
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

    def to_grid(self, coords: FloatArray) -> FloatArray:
        """Fractional coordinates, or Å from the middle of the cube, as grid units."""
        if self.cube is None:
            return np.mod(np.asarray(coords, float), 1.0) * self.points
        return (np.asarray(coords, float) / self.cube + 0.5) * (self.points - 1)

    def from_grid(self, positions: FloatArray) -> FloatArray:
        if self.cube is None:
            return np.mod(positions / self.points, 1.0)
        return (positions / (self.points - 1) - 0.5) * self.cube

    def _gaussians(self, positions: FloatArray) -> FloatArray:
        """One-dimensional Gaussians of grid positions (..., 3): shape (..., 3, points)."""
        d = positions[..., None] - np.arange(self.points)
        if self.periodic:
            d -= self.points * np.round(d / self.points)
        return np.exp(d * d * (-0.5 / self.sigma**2)).astype(np.float32)

    def encode(self, coords: Sequence[FloatArray]) -> NDArray[np.float32]:
        """Sites voxels of a batch.

        Parameters
        ----------
        coords
            One (n_atoms, 3) array a picture: fractional coordinates on a periodic grid, Å from
            the middle of the cube on a Cartesian one. A picture may be empty.

        Returns
        -------
        array (len(coords), points, points, points)
            The sum of the Gaussians of the atoms. The Gaussian of a distance is a product over
            the axes, so that a picture is a sum of outer products: no distance is ever formed.

        Raises
        ------
        ValueError
            An atom lies outside the cube, or a coordinate is not finite.
        """
        counts = np.array([len(c) for c in coords])
        n = self.points
        out = np.zeros((len(coords), n, n, n), np.float32)
        for count in np.unique(counts[counts > 0]):
            which = np.flatnonzero(counts == count)
            grid = self.to_grid(np.stack([np.asarray(coords[int(i)], float) for i in which]))
            if not np.isfinite(grid).all():
                raise ValueError("a coordinate is not finite")
            if not self.periodic and ((grid < 0) | (grid > n - 1)).any():
                raise ValueError(f"an atom lies outside the cube of {self.cube} Å")
            gx, gy, gz = np.moveaxis(self._gaussians(grid), 2, 0)
            yz = (gy[:, :, :, None] * gz[:, :, None, :]).reshape(len(which), count, n * n)
            out[which] = np.matmul(gx.transpose(0, 2, 1), yz).reshape(-1, n, n, n)
        return out

    def decode(
        self, voxels: FloatArray, threshold: float = PEAK_THRESHOLD, sweeps: int = 6
    ) -> list[NDArray[np.float64]]:
        """Atoms of a batch of sites voxels, below the grid spacing.

        A local maximum is an atom. The logarithm of a Gaussian is a parabola, which its values on
        both sides of the maximum locate exactly; what the other atoms add to these values is
        taken off first, in a few sweeps.

        Parameters
        ----------
        voxels : array (batch, points, points, points)
        threshold
            Maxima below it are background.
        sweeps
            Corrections for overlapping neighbours.

        Returns
        -------
        list of (n_atoms, 3) arrays
            Coordinates as `encode` takes them.
        """
        v = np.asarray(voxels, np.float32)
        # An atom half-way between grid points shows equal values on them. A tilt below the
        # precision of the voxels makes one of them the maximum.
        tilt = 1.0 + np.linspace(0.0, 1e-6, self.points**3).reshape((self.points,) * 3)
        w = v * tilt
        peaks = np.argwhere((w >= _neighbourhood_maximum(w, self.periodic)) & (v > threshold))
        batch = peaks[:, 0]
        counts = np.bincount(batch, minlength=len(v))
        if not len(peaks):
            return [np.zeros((0, 3)) for _ in v]
        # A padded (batch, atoms, 3) table keeps every sweep one array operation.
        order = np.arange(len(peaks)) - np.repeat(np.cumsum(counts) - counts, counts)
        cells = np.zeros((len(v), counts.max(), 3), int)
        cells[batch, order] = peaks[:, 1:]
        real = np.arange(counts.max()) < counts[:, None]
        stencil = cells[:, :, None, :] + _STENCIL
        if self.periodic:
            values = _take(v, np.mod(stencil, self.points))
        else:
            inside = ((stencil >= 0) & (stencil < self.points)).all(-1)
            values = np.where(inside, _take(v, np.clip(stencil, 0, self.points - 1)), 0.0)
        position = cells.astype(float)
        for sweep in range(sweeps):
            own = values
            if sweep:
                # (batch, atom, stencil point, other atom)
                others = self._overlap(stencil, position) * real[:, None, None, :]
                diagonal = np.arange(counts.max())
                others[:, diagonal, :, diagonal] = 0.0
                own = values - others.sum(-1)
            logs = np.log(np.maximum(own, 1e-3 * PEAK_THRESHOLD))
            plus, minus = logs[..., 1::2], logs[..., 2::2]
            if not self.periodic:
                # Beyond a face of the cube the parabola of a Gaussian goes on.
                beyond = 2 * logs[..., :1] - 1 / self.sigma**2
                plus = np.where(inside[..., 1::2], plus, beyond - minus)
                minus = np.where(inside[..., 2::2], minus, beyond - plus)
            curvature = 2 * logs[..., :1] - plus - minus
            # A true Gaussian has curvature 1/sigma²; noise must not throw the atom far.
            shift = (plus - minus) / (2 * np.maximum(curvature, 0.25 / self.sigma**2))
            position = cells + np.clip(shift, -1.0, 1.0)
        coords = np.asarray(self.from_grid(position), float)
        return [coords[i, : counts[i]] for i in range(len(v))]

    def _overlap(self, stencil: FloatArray, position: FloatArray) -> FloatArray:
        d = stencil[:, :, :, None, :] - position[:, None, None, :, :]
        if self.periodic:
            d = d - self.points * np.round(d / self.points)
        return np.exp(np.einsum("...k,...k->...", d, d) * (-0.5 / self.sigma**2))


def _take(v: FloatArray, index: NDArray[np.int_]) -> FloatArray:
    batch = np.arange(len(v)).reshape(-1, 1, 1)
    return v[batch, index[..., 0], index[..., 1], index[..., 2]].astype(float)


def _neighbourhood_maximum(v: FloatArray, periodic: bool) -> FloatArray:
    """Largest value among the 27 points around each point."""
    for axis in (1, 2, 3):
        up, down = np.roll(v, 1, axis), np.roll(v, -1, axis)
        if not periodic:
            first, last = [slice(None)] * 4, [slice(None)] * 4
            first[axis], last[axis] = slice(0, 1), slice(-1, None)
            up[tuple(first)], down[tuple(last)] = -np.inf, -np.inf
        v = np.maximum(np.maximum(up, down), v)
    return v


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

    def _fractional(self) -> FloatArray:
        axis = (np.arange(self.points) + 0.5) / self.points - 0.5
        return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)

    def encode(self, lattices: FloatArray) -> NDArray[np.float32]:
        """Voxels (batch, points, points, points) of row-vector lattices (batch, 3, 3) in Å."""
        lattices = np.asarray(lattices, float)
        if not np.isfinite(lattices).all():
            raise ValueError("a lattice is not finite")
        metric = lattices @ lattices.transpose(0, 2, 1)
        u = self._fractional()
        quadratic = np.einsum("pi,bij,pj->bp", u, metric, u)
        shape = (len(lattices), *(self.points,) * 3)
        return np.exp(quadratic * (-0.5 / self.sigma**2)).astype(np.float32).reshape(shape)

    def decode(self, voxels: FloatArray, floor: float = 1e-3) -> NDArray[np.float64]:
        """Metric tensors (batch, 3, 3) in Å² by weighted least squares.

        -2σ² ln p is linear in the six entries of the metric tensor. The weight p² undoes the
        logarithm's stretching of the noise; points below `floor` are left out.
        """
        p = np.asarray(voxels, float).reshape(len(voxels), -1)
        x, y, z = self._fractional().T
        design = np.stack([x * x, y * y, z * z, 2 * y * z, 2 * x * z, 2 * x * y], 1)
        weight = np.where(p > floor, np.minimum(p, 1.0) ** 2, 0.0)
        target = -2 * self.sigma**2 * np.log(np.maximum(p, floor))
        normal = np.einsum("bp,pi,pj->bij", weight, design, design, optimize=True)
        right = (weight * target) @ design
        six = np.linalg.solve(normal + 1e-12 * np.eye(6), right[..., None])[..., 0]
        rows = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
        return six[:, rows]


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
