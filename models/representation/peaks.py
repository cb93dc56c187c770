"""Sums of unit Gaussians on a grid, in grid units: making them, and finding the atoms in them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

#: A peak lower than this is background. An isolated atom in the worst place, the middle of eight
#: grid points, still shows 0.51 on each of them if sigma is 0.75 grid spacings.
PEAK_THRESHOLD = 0.35
#: A residual higher than this is looked into.
RESIDUAL_THRESHOLD = 0.25
#: There an atom may be missing wherever the residual is higher than this.
WEAK_THRESHOLD = 0.15
#: An added atom must explain this part of the squared integral of a Gaussian. A missing atom
#: leaves 0.6 and more, however near it lies to another; a high or wide peak of one atom less.
CLEAR = 0.3
#: A residual lower than this everywhere leaves nothing to explain.
EXPLAINED = 0.03
#: Where voxels are above this an atom is near.
SEEN = 0.1
#: Nearer atoms, in grid spacings, are not told apart.
NEAREST = 1.0
#: Gaussians end where they fall below exp(-16) = 1e-7: single precision shows no more, and the
#: products of three never become denormal numbers, which are slow.
LAST_EXPONENT = -16.0
#: From this distance on, in sigma, the parabola through one atom's voxels ignores the other.
APART = 6.5
#: More atoms than this in a picture are noise, which no fit makes better.
MOST_ATOMS = 64

#: The nearest of the 26 neighbours first: they rule out most points.
_NEIGHBOURS = sorted(
    (step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)),
    key=lambda step: sum(map(abs, step)),
)
_AXES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


@dataclass(frozen=True)
class GaussianSums:
    """Pictures that are sums of unit Gaussians on one grid.

    All positions and lengths are in grid spacings along each axis.

    Attributes
    ----------
    shape
        Grid points along the three axes.
    sigma
        Standard deviation of the Gaussians.
    periodic
        Whether the picture goes on behind its faces.
    """

    shape: tuple[int, int, int]
    sigma: float
    periodic: bool

    @cached_property
    def _images(self) -> list[range]:
        """Along each axis the repetitions of an atom that reach into the picture.

        Zero alone, the nearest, wherever half an axis is longer than the Gaussian.
        """
        reach = [int(np.ceil(5.3 * self.sigma / n - 0.5)) for n in self.shape]
        return [range(-max(k, 0), max(k, 0) + 1) if self.periodic else range(1) for k in reach]

    @cached_property
    def _shifts(self) -> NDArray[np.int_]:
        """The repetitions of `_images` as vectors (n, 3)."""
        return np.array(list(itertools.product(*self._images)), int) * np.array(self.shape, int)

    @property
    def _feels_itself(self) -> bool:
        """Whether an atom's own images reach the values around its maximum."""
        return self.periodic and min(self.shape) < APART * self.sigma

    @cached_property
    def _ball(self) -> NDArray[np.int_]:
        """Grid points (n, 3) up to three sigma from the origin."""
        reach = int(3 * self.sigma)
        cube = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
        near: NDArray[np.int_] = cube[(cube * cube).sum(1) <= (3 * self.sigma) ** 2]
        return near

    def _wrapped(self, d: FloatArray) -> FloatArray:
        """Differences of positions (..., 3) as those to the nearest image."""
        return d - self.shape * np.round(d / self.shape) if self.periodic else d

    def superpose(self, positions: FloatArray, counts: IntArray) -> NDArray[np.float32]:
        """Pictures (len(counts), *shape) of the atoms of all pictures, one after the other.

        The Gaussian of a distance is a product over the axes, so that a picture is a sum of outer
        products, a product of matrices: no distance is ever formed.

        Parameters
        ----------
        positions : array (counts.sum(), 3)
        counts : array (pictures,)
            Number of atoms of each picture.
        """
        out = np.zeros((len(counts), *self.shape), np.float32)
        if not len(positions):
            return out
        factors = []
        for x, n, images in zip(positions.T, self.shape, self._images, strict=True):
            d = np.arange(n) - x[:, None]
            if self.periodic:
                d -= n * np.round(d / n)
            factor = np.zeros(d.shape, np.float32)
            for image in images:
                # Differences are taken in double precision, which positions up to 256 need.
                shifted = (d + image * n if image else d).astype(np.float32)
                exponent = shifted * shifted * np.float32(-0.5 / self.sigma**2)
                factor += np.where(exponent > LAST_EXPONENT, np.exp(exponent), np.float32(0))
            factors.append(factor)
        nx, ny, nz = self.shape
        first = np.concatenate([[0], np.cumsum(counts)])
        # Blocks that stay in the processor's cache.
        block = max(1, 2**18 // (int(counts.max()) * ny * nz))
        for start in range(0, len(counts), block):
            here = counts[start : start + block]
            most = int(here.max())
            slots = np.arange(most) < here[:, None]
            padded = []
            for factor in factors:
                table = np.zeros((len(here), most, factor.shape[1]), np.float32)
                table[slots] = factor[first[start] : first[start + len(here)]]
                padded.append(table)
            gx, gy, gz = padded
            yz = (gy[..., None] * gz[:, :, None, :]).reshape(len(here), most, ny * nz)
            view = out[start : start + block].reshape(len(here), nx, ny * nz)
            np.matmul(gx.transpose(0, 2, 1), yz, out=view)
        return out

    def find(
        self,
        pictures: NDArray[np.float32],
        threshold: float = PEAK_THRESHOLD,
        wanted: IntArray | None = None,
    ) -> list[FloatArray]:
        """Atoms of pictures (batch, *shape): one (n_atoms, 3) array of positions each.

        A local maximum is an atom. The logarithm of a Gaussian is a parabola, which its values on
        both sides of the maximum locate exactly. Where Gaussians overlap, a least-squares fit
        follows; where its residual shows that a peak was more than one atom, atoms are added.

        Parameters
        ----------
        pictures
            Finite or not; what is not finite holds no atom.
        threshold
            Maxima below it are background.
        wanted
            Number of atoms of each picture, if it is known: the lowest peaks beyond it are left
            out; where peaks are missing, weak ones are taken too.
        """
        cells = self._maxima(pictures, threshold)
        counts = np.bincount(cells[:, 0], minlength=len(pictures))
        positions = self._parabolas(pictures, cells)
        atoms: list[FloatArray] = list(np.split(positions, np.cumsum(counts)[:-1]))
        sane = self._sane(pictures, counts if wanted is None else np.maximum(counts, wanted))
        for i in np.flatnonzero(sane & self._overlapping(atoms, counts)):
            atoms[i] = self._fitted(pictures[i], atoms[i])
        most = np.full(len(atoms), MOST_ATOMS) if wanted is None else wanted
        left, weak = min(RESIDUAL_THRESHOLD, threshold), min(WEAK_THRESHOLD, threshold)
        some = np.flatnonzero(sane)
        fits = np.concatenate([positions[:0], *(atoms[i] for i in some)])
        residuals = pictures[some] - self.superpose(fits, counts[some])
        for i in some[residuals.max((1, 2, 3)) > left]:
            atoms[i] = self._completed(pictures[i], atoms[i], weak, most[i])
        if wanted is not None:
            for i in np.flatnonzero(wanted != [len(a) for a in atoms]):
                if len(atoms[i]) > most[i]:
                    strongest = np.argsort(-self._heights(pictures[i], atoms[i]), kind="stable")
                    atoms[i] = atoms[i][np.sort(strongest[: most[i]])]
                elif sane[i]:
                    atoms[i] = self._completed(pictures[i], atoms[i], weak, most[i], known=True)
        if not self.periodic:
            # Noise may push an atom out through a face.
            atoms = [np.clip(a, 0, np.array(self.shape) - 1) for a in atoms]
        return atoms

    def _maxima(self, pictures: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
        """Local maxima above a threshold: rows of picture and grid point (n, 4)."""
        flat = pictures.reshape(-1)
        at = np.flatnonzero(flat > threshold)
        at = at[np.isfinite(flat[at])]
        for step in _NEIGHBOURS:
            beside = self._beside(at, step)
            own, other = flat[at], flat[beside]
            # Of equal values, as half-way between grid points, the first is the maximum.
            at = at[~((other > own) | ((other == own) & (beside < at)))]
        return np.stack(np.unravel_index(at, pictures.shape), 1)

    def _beside(self, at: NDArray[np.int64], step: Sequence[int]) -> NDArray[np.int64]:
        """Flat index of the point one step away; behind a face that is none, a point nearer."""
        out = at
        stride = 1
        for n, s in zip(self.shape[::-1], step[::-1], strict=True):
            if s:
                x = at // stride % n
                moved = (x + s) % n if self.periodic else np.clip(x + s, 0, n - 1)
                out = out + (moved - x) * stride
            stride *= n
        return out

    def _parabolas(
        self, pictures: NDArray[np.float32], cells: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Positions (n, 3) of isolated Gaussians from the values beside their maxima (n, 4)."""
        flat = pictures.reshape(-1)
        at = np.ravel_multi_index(tuple(cells.T), pictures.shape)

        def logs(index: NDArray[np.int64]) -> NDArray[np.float64]:
            # fmax and fmin turn what is not a number into a number as well.
            values = np.fmin(np.fmax(flat[index], 1e-3 * PEAK_THRESHOLD), 1e3)
            return np.log(values, dtype=float)

        middle = logs(at)[:, None]
        plus = np.stack([logs(self._beside(at, step)) for step in _AXES], 1)
        minus = np.stack([logs(self._beside(at, [-s for s in step])) for step in _AXES], 1)
        if not self.periodic:
            # Beyond a face the parabola of a Gaussian goes on.
            beyond = 2 * middle - 1 / self.sigma**2
            first, last = cells[:, 1:] == 0, cells[:, 1:] == np.array(self.shape) - 1
            ends = np.where(last, beyond - minus, plus), np.where(first, beyond - plus, minus)
            plus, minus = ends
        # A true Gaussian has curvature 1/sigma²; noise must not throw the atom far.
        curvature = np.maximum(2 * middle - plus - minus, 0.25 / self.sigma**2)
        return cells[:, 1:] + np.clip((plus - minus) / (2 * curvature), -1.0, 1.0)

    def _sane(self, pictures: NDArray[np.float32], counts: IntArray) -> NDArray[np.bool_]:
        """Whether pictures may be sums of so many Gaussians, which alone are worth a fit.

        Each shows a sphere of points, those near each other fewer together. Noise shows more.
        """
        sphere = 4 / 3 * np.pi * (-2 * np.log(SEEN)) ** 1.5 * self.sigma**3
        seen = np.count_nonzero(pictures > SEEN, axis=(1, 2, 3))
        return (counts <= MOST_ATOMS) & (seen <= 8 * sphere * counts)

    def _overlapping(self, atoms: Sequence[FloatArray], counts: IntArray) -> NDArray[np.bool_]:
        """Whether atoms of a picture, or one and its image, feel each other's Gaussian."""
        reach = APART * self.sigma
        if self._feels_itself:
            return np.asarray(counts > 0)
        out = np.zeros(len(atoms), bool)
        for count in np.unique(counts[(counts > 1) & (counts <= MOST_ATOMS)]):
            which = np.flatnonzero(counts == count)
            first, second = np.triu_indices(count, 1)
            table = np.stack([atoms[int(i)] for i in which])
            d = self._wrapped(table[:, first] - table[:, second])
            out[which] = (np.einsum("bpk,bpk->bp", d, d) < reach**2).any(1)
        return out

    def _heights(self, picture: NDArray[np.float32], atoms: FloatArray) -> NDArray[np.float64]:
        """Height of the Gaussian at each position that gives the value of the nearest point."""
        cells = np.round(atoms).astype(int)
        d = atoms - cells
        points = tuple(np.mod(cells, self.shape).T)
        return np.asarray(picture[points] * np.exp((d * d).sum(1) * (0.5 / self.sigma**2)), float)

    def _refit(
        self,
        picture: NDArray[np.float32],
        residual: NDArray[np.float32],
        start: FloatArray,
        more: FloatArray,
    ) -> tuple[FloatArray, float]:
        """Fit some atoms `start` (n, 3) of a picture and `more` (m, 3), the others fixed.

        `residual` is what all atoms but `more` leave of the picture. Returned are positions
        (n + m, 3) and the decrease of the residual's sum of squares.
        """
        free = np.concatenate([start, more])
        cells = self._around(free)
        cells = cells[np.isfinite(picture[tuple(cells.T)])]
        left = residual[tuple(cells.T)].astype(float)
        values = left + self._evaluate(cells, start)[0]
        positions, error = self._fit(cells, values, free)
        return positions, float(left @ left) - error

    def _around(self, atoms: FloatArray) -> NDArray[np.int64]:
        """Grid points (n, 3) that see one of the atoms (m, 3), each once."""
        cells = (np.round(atoms).astype(int)[:, None] + self._ball).reshape(-1, 3)
        if self.periodic:
            cells = np.mod(cells, self.shape)
        else:
            cells = cells[((cells >= 0) & (cells < self.shape)).all(1)]
        flat = np.unique(np.ravel_multi_index(tuple(cells.T), self.shape))
        return np.stack(np.unravel_index(flat, self.shape), 1)

    def _evaluate(
        self, points: FloatArray | IntArray, atoms: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Density (p,) of atoms (n, 3) at points (p, 3), and its gradients (p, 3n)."""
        d = self._wrapped(points[:, None] - atoms)[:, :, None] + self._shifts
        g = np.exp(np.einsum("paik,paik->pai", d, d) * (-0.5 / self.sigma**2))
        gradients = np.einsum("pai,paik->pak", g, d) / self.sigma**2
        return g.sum((1, 2)), gradients.reshape(len(points), -1)

    def _fit(
        self, points: IntArray, values: FloatArray, start: FloatArray
    ) -> tuple[FloatArray, float]:
        """Positions (n, 3) by Levenberg's least squares, and the sum of squares that is left.

        The start is kept where the best fit moves an atom to another place.
        """
        x, damping = start, 1e-3
        density, gradients = self._evaluate(points, x)
        residual = values - density
        first = error = float(residual @ residual)
        for _ in range(20):
            normal = gradients.T @ gradients
            normal.flat[:: len(normal) + 1] += damping
            step = np.clip(np.linalg.solve(normal, gradients.T @ residual), -0.5, 0.5)
            density, trial = self._evaluate(points, x + step.reshape(-1, 3))
            left = values - density
            if left @ left <= error:
                x = x + step.reshape(-1, 3)
                residual, gradients, error = left, trial, float(left @ left)
                damping = max(0.1 * damping, 1e-6)
            else:
                damping *= 10
            if np.abs(step).max() < 1e-3:
                break
        return (x, error) if np.abs(x - start).max() < 1.5 else (start, first)

    def _fitted(self, picture: NDArray[np.float32], atoms: FloatArray) -> FloatArray:
        """Atoms of one picture, those that overlap fitted."""
        near = self._near(atoms, atoms) < APART * self.sigma
        free = near.sum(1) > (0 if self._feels_itself else 1)
        if not free.any():
            return atoms
        residual = picture - self.superpose(atoms, np.array([len(atoms)]))[0]
        atoms = atoms.copy()
        positions, gain = self._refit(picture, residual, atoms[free], atoms[:0])
        if gain > 0:
            atoms[free] = positions
        return atoms

    def _completed(
        self,
        picture: NDArray[np.float32],
        atoms: FloatArray,
        threshold: float,
        most: int = MOST_ATOMS,
        known: bool = False,
    ) -> FloatArray:
        """Atoms of one picture and those that were missing among them, up to `most` in all.

        Unless their number is `known`, atoms are added that explain a good part of a Gaussian
        each, or that leave nothing of the picture unexplained.
        """
        least = -1e9 if known else CLEAR * (np.sqrt(np.pi) * self.sigma) ** 3
        residual = picture - self.superpose(atoms, np.array([len(atoms)]))[0]
        best, doubts = atoms, 0
        while len(atoms) < most and doubts < 3:
            cells = self._maxima(residual[None], threshold)[:, 1:]
            order = np.argsort(-residual[tuple(cells.T)], kind="stable")[:4]
            trials = []
            for cell in cells[order].astype(float):
                free = self._near(atoms, cell[None])[:, 0] < APART * self.sigma
                positions, gain = self._refit(picture, residual, atoms[free], cell[None])
                trial = np.concatenate([atoms[~free], positions])
                # Two of three merged atoms may at first get nearer than atoms are.
                if self._nearest(trial) >= 0.5 * NEAREST:
                    trials.append((gain, trial))
                    if gain > least:
                        break
            if not trials:
                break
            gain, atoms = max(trials, key=lambda trial: trial[0])
            doubts += gain <= least
            residual = picture - self.superpose(atoms, np.array([len(atoms)]))[0]
            explained = np.abs(residual).max() < EXPLAINED
            if self._nearest(atoms) >= NEAREST and (not doubts or explained):
                best = atoms
        return self._fitted(picture, best)

    def _near(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Distances (n, m) of positions (n, 3) and (m, 3)."""
        d = self._wrapped(a[:, None] - b)
        return np.sqrt(np.einsum("nmk,nmk->nm", d, d))

    def _nearest(self, atoms: FloatArray) -> float:
        first, second = np.triu_indices(len(atoms), 1)
        return float(self._near(atoms, atoms)[first, second].min(initial=np.inf))
