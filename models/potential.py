"""A potential of a chemical system, learnt from the relaxations that it has seen.

What a generator draws is far from relaxed. A potential that costs a thousandth of the engine's
brings it near a minimum before anything is chosen.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from ccdcgan.models.moments import PAIR, RADIAL, Geometry, Surroundings
from ccdcgan.models.voxels import FloatArray

#: Sharpness of the kernel.
ZETA = 2
#: Most reference environments of each element.
REFERENCES = 300
#: Most frames that are learnt from; more are drawn at random.
MOST_FRAMES = 3000

#: Errors that are allowed, of energies (eV/atom), forces (eV/Å) and virials (eV/atom), and how
#: those of forces and virials grow with them.
ALLOWED = (0.01, 0.1, 0.05)
GROWTH = (0.0, 0.05, 0.1)


@dataclass(frozen=True)
class Labelled(Geometry):
    """A geometry with what an engine says of it.

    Attributes
    ----------
    energy
        eV.
    forces : array (n, 3)
        eV/Å.
    stress : array (6,)
        In ASE's order and sign, eV/Å³.
    relaxation
        Number of the relaxation that it comes from.
    """

    energy: float
    forces: FloatArray
    stress: FloatArray
    relaxation: int


class Potential:
    """Energy as a sum over atoms of pair terms and kernels around reference environments.

    A Gaussian approximation potential (Bartók et al., Phys. Rev. Lett. 104, 136403 (2010)).

    Parameters
    ----------
    offsets : array (m,)
        Energies of the elements' atoms, eV.
    pairs : array (m, m · PAIR)
        Coefficients of the pair terms of each element.
    references : array (m, k, width)
        Unit spectra of the reference environments of each element.
    kernels : array (m, k)
        Their coefficients.
    """

    def __init__(
        self, offsets: FloatArray, pairs: FloatArray, references: FloatArray, kernels: FloatArray
    ) -> None:
        self.offsets, self.pairs = offsets, pairs
        self.references, self.kernels = references, kernels

    def __call__(self, here: Geometry) -> tuple[float, FloatArray, FloatArray]:
        """Energy (eV), forces (n, 3) in eV/Å, and stress (6,) in ASE's order and sign, eV/Å³."""
        near = Surroundings(here, len(self.offsets))
        spectra, lengths = near.spectra()
        pairs = self.pairs[here.kinds]
        energy = float(self.offsets[here.kinds].sum() + (near.pairs * pairs).sum())
        upstream = np.zeros_like(spectra)
        for kind in np.unique(here.kinds):
            some = here.kinds == kind
            energies, upstream[some] = self._kernel(int(kind), spectra[some])
            energy += float(energies.sum())
        upstream /= lengths[:, None]
        # One energy: cheaper summed over radial functions before it meets the vectors.
        moments = near.on_moments(upstream[:, :, None])[..., 0]
        of_pair = moments.reshape(near.n * near.elements, RADIAL, -1)[near.block]
        falling = np.einsum("pr,prm->pm", near.radial_slope[:, :RADIAL], of_pair)
        steep = (falling * near.products).sum(1) + (
            near.radial_slope * pairs.reshape(near.n * near.elements, PAIR)[near.block]
        ).sum(1)
        across = np.einsum("pr,prm->pm", near.radial[:, :RADIAL], of_pair)
        slopes = steep[:, None] * near.unit + np.einsum("pm,pma->pa", across, near.product_slopes)
        return energy, near.forces(slopes), near.virials(slopes[:, :, None])[:, 0] / near.volume

    def _kernel(self, kind: int, spectra: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Kernel energies of atoms of an element, and slopes with respect to their spectra."""
        likeness = spectra @ self.references[kind].T
        slopes = ZETA * likeness ** (ZETA - 1) * self.kernels[kind]
        along = (slopes * likeness).sum(1)[:, None] * spectra
        return likeness**ZETA @ self.kernels[kind], slopes @ self.references[kind] - along

    def to_bytes(self) -> bytes:
        """The potential as a file, for `from_bytes`."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **vars(self))
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Potential:
        """The potential that `to_bytes` has written."""
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return cls(**stored)


@dataclass(frozen=True)
class PotentialErrors:
    """Errors for frames of relaxations that the potential never saw.

    Attributes
    ----------
    energy_mae
        eV/atom.
    force_mae, mean_force
        Mean absolute error and mean absolute value of the forces' components, eV/Å.
    held_out
        Number of frames.
    """

    energy_mae: float
    force_mae: float
    mean_force: float
    held_out: int


def fit_potential(
    frames: Sequence[Labelled], elements: int, seed: int
) -> tuple[Potential, PotentialErrors]:
    """Learn a potential from energies, forces and stresses by regularised least squares.

    Parameters
    ----------
    frames
        Geometries on the way of relaxations.
    elements
        Number of elements.
    seed
        The same seed gives the same potential.

    Returns
    -------
    potential, errors
        The errors are those of a fit without a tenth of the relaxations.

    Raises
    ------
    ValueError
        Frames of fewer than ten relaxations, or none with one of the elements.
    """
    rng = np.random.default_rng(seed)
    relaxations = np.unique([f.relaxation for f in frames])
    if len(relaxations) < 10:
        raise ValueError(f"{len(relaxations)} relaxations are too few to learn a potential from")
    held_out = set(rng.permutation(relaxations)[: max(1, len(relaxations) // 10)].tolist())
    if len(frames) > MOST_FRAMES:
        frames = [frames[i] for i in sorted(rng.permutation(len(frames))[:MOST_FRAMES])]
    basis = _Basis.of(frames, elements, rng)
    systems = {True: _Problem(basis.size), False: _Problem(basis.size)}
    test: list[tuple[Labelled, FloatArray]] = []
    for frame in frames:
        rows = basis.rows(frame)
        tested = frame.relaxation in held_out
        systems[tested].add(rows, frame)
        if tested:
            test.append((frame, rows))
    learnt = basis.solve(systems[False])
    systems[False].join(systems[True])
    missed = [rows @ learnt - _labels(f) for f, rows in test]
    parts = [(m[0] / len(f.kinds), m[1:-6]) for m, (f, _) in zip(missed, test, strict=True)]
    errors = PotentialErrors(
        energy_mae=float(np.mean([abs(e) for e, _ in parts])),
        force_mae=float(np.abs(np.concatenate([f for _, f in parts])).mean()),
        mean_force=float(np.abs(np.concatenate([f.forces.ravel() for f, _ in test])).mean()),
        held_out=len(test),
    )
    return basis.potential(basis.solve(systems[False])), errors


def _labels(frame: Labelled) -> FloatArray:
    """Energy, forces and virials (1 + 3n + 6,)."""
    volume = abs(float(np.linalg.det(frame.cell)))
    return np.concatenate([[frame.energy], frame.forces.ravel(), frame.stress * volume])


class _Problem:
    """Normal equations of weighted least squares."""

    def __init__(self, size: int) -> None:
        self.normal, self.right = np.zeros((size, size)), np.zeros(size)

    def add(self, rows: FloatArray, frame: Labelled) -> None:
        """Learn from a frame, with the energy, forces and virials of each coefficient."""
        n, labels = len(frame.kinds), _labels(frame)
        sizes = [1, 3 * n, 6]
        least = np.repeat([n * ALLOWED[0], ALLOWED[1], n * ALLOWED[2]], sizes)
        allowed = least + np.repeat(GROWTH, sizes) * np.abs(labels)
        rows = rows / allowed[:, None]
        self.normal += rows.T @ rows
        self.right += rows.T @ (labels / allowed)

    def join(self, other: _Problem) -> None:
        """Learn what another one has learnt from."""
        self.normal += other.normal
        self.right += other.right


@dataclass(frozen=True)
class _Basis:
    """What the energy is a linear combination of: offsets, pair terms, and kernels."""

    references: FloatArray

    @classmethod
    def of(cls, frames: Sequence[Labelled], elements: int, rng: np.random.Generator) -> _Basis:
        """With reference environments from the frames."""
        pools: list[list[FloatArray]] = [[] for _ in range(elements)]
        for frame in frames:
            spectra, _ = Surroundings(frame, elements).spectra()
            for kind, pool in enumerate(pools):
                pool.append(spectra[frame.kinds == kind])
        counts = [sum(map(len, pool)) for pool in pools]
        if not all(counts):
            raise ValueError("a potential needs frames with each of its elements")
        k = max(1, min(REFERENCES, *(n // 4 for n in counts)))
        chosen = [np.concatenate(pool)[rng.permutation(sum(map(len, pool)))[:k]] for pool in pools]
        return cls(np.stack(chosen))

    @property
    def _sizes(self) -> tuple[int, int, int]:
        m, k, _ = self.references.shape
        return m, m * m * PAIR, m * k

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return sum(self._sizes)

    def rows(self, here: Geometry) -> FloatArray:
        """Energy, forces and virials of each basis function, (1 + 3n + 6, size)."""
        m, k, _ = self.references.shape
        near = Surroundings(here, m)
        spectra, lengths = near.spectra()
        out = np.zeros((1 + 3 * near.n + 6, self.size))
        out[0, :m] = np.bincount(here.kinds, minlength=m)

        def put(
            first: int, energies: FloatArray, pairs: NDArray[np.bool_], slopes: FloatArray
        ) -> None:
            """Columns from `first` on, from slopes (pairs, 3, k) along some of the pairs."""
            columns = slice(first, first + len(energies))
            out[0, columns] = energies
            out[1:-6, columns] = near.forces(slopes, pairs).reshape(3 * near.n, -1)
            out[-6:, columns] = near.virials(slopes, pairs)

        kinds = [(int(a), int(b)) for a in np.unique(here.kinds) for b in np.unique(here.kinds)]
        for a, b in kinds:
            some = (here.kinds[near.i] == a) & (here.kinds[near.j] == b)
            slopes = near.radial_slope[some, None, :] * near.unit[some, :, None]
            put(m + (a * m + b) * PAIR, near.radial[some].sum(0), some, slopes)
        on_moments = np.zeros((*near.moments.shape, k))
        energies = {}
        for kind in np.unique(here.kinds):
            of_kind = here.kinds == kind
            references, rows = self.references[kind], spectra[of_kind]
            likeness = rows @ references.T
            energies[int(kind)] = (likeness**ZETA).sum(0)
            slope = ZETA * likeness ** (ZETA - 1) / lengths[of_kind, None]
            towards = near.on_moments(references.T[None], of_kind)
            along = near.on_moments(rows[:, :, None], of_kind) * likeness[:, None, None]
            on_moments[of_kind] = (towards - along) * slope[:, None, None]
        kernels = near.along_pairs(on_moments)
        for kind, energy in energies.items():
            own = here.kinds[near.i] == kind
            put(m + m * m * PAIR + kind * k, energy, own, kernels[own])
        return out

    def solve(self, problem: _Problem) -> FloatArray:
        """Coefficients, with those of the kernels as in a Gaussian process."""
        m, pairs, _ = self._sizes
        prior = np.diag(np.repeat([1e-4, 1.0, 0.0], self._sizes))
        k = self.references.shape[1]
        for kind, rows in enumerate(self.references):
            at = m + pairs + kind * k
            prior[at : at + k, at : at + k] = (rows @ rows.T) ** ZETA + 1e-5 * np.eye(k)
        out: FloatArray = solve(problem.normal + prior, problem.right, assume_a="pos")
        return out

    def potential(self, coefficients: FloatArray) -> Potential:
        """The potential with these coefficients."""
        m, pairs, _ = self._sizes
        offsets, pair, kernels = np.split(coefficients, [m, m + pairs])
        return Potential(offsets, pair.reshape(m, -1), self.references, kernels.reshape(m, -1))
