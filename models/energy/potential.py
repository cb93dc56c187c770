"""A potential of a chemical system, learnt from the relaxations that it has seen.

What a generator draws is far from relaxed. A potential that costs a thousandth of the engine's
brings it near a minimum before anything is chosen.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from ccdcgan.models.energy.errors import MOST_PAIRS
from ccdcgan.models.energy.power_spectrum import PAIR, Geometry, Neighbours, Surroundings
from ccdcgan.models.representation.voxels import FloatArray

#: Most reference environments of each element.
REFERENCES = 800
#: Most frames that are learnt from; more are drawn at random.
MOST_FRAMES = 3000
#: Frames whose equations are added at once.
BATCH = 32

#: A potential is used whose error for energies that it has not seen is less than this part of that
#: of a guess from the composition alone, and whose rank correlation is more than this
#: (docs/design-notes.md).
MOST_ERROR, LEAST_RANK = 0.7, 0.3

#: Fewest relaxations that are held out: one or two say little.
HELD_OUT = 3

#: Errors that are allowed, of energies (eV/atom), forces (eV/Å) and virials (eV/atom), and how
#: those of forces and virials grow with them.
ALLOWED = (0.006, 0.03, 0.05)
GROWTH = (0.0, 0.2, 0.2)


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

    A Gaussian approximation potential (Bartók et al., Phys. Rev. Lett. 104, 136403 (2010)) with
    the squared scalar product of unit spectra as its kernel: a sum of such kernels is one quadratic
    form, however many references there were.

    Parameters
    ----------
    offsets : array (m,)
        Energies of the elements' atoms, eV.
    pairs : array (m, m · PAIR)
        Coefficients of the pair terms of each element.
    kernels : array (m, width, width)
        Symmetric matrix of the quadratic form of each element, eV.
    """

    def __init__(self, offsets: FloatArray, pairs: FloatArray, kernels: FloatArray) -> None:
        self.offsets, self.pairs, self.kernels = offsets, pairs, kernels

    def __call__(self, here: Geometry) -> tuple[float, FloatArray, FloatArray]:
        """Energy (eV), forces (n, 3) in eV/Å, and stress (6,) in ASE's order and sign, eV/Å³."""
        # Numba takes a second to import, which every command would wait for.
        from ccdcgan.models.energy.compiled import BASIS, energy_and_gradients

        near = Neighbours(here)
        energy, gradients = energy_and_gradients(
            here.species_index,
            near.i,
            near.j,
            near.vectors,
            self.offsets,
            self.pairs,
            self.kernels,
            BASIS,
        )
        stress = near.virials(gradients[:, :, None])[:, 0] / near.volume
        return energy, near.forces(gradients), stress

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
    guess_mae
        Error of energies that are guessed from the composition alone, eV/atom; None in results of
        earlier versions.
    spearman
        Rank correlation of true and predicted energies per atom; None where one is all the same.
    used
        Whether the potential is good enough to be used: see `MOST_ERROR`.
    parity
        True and predicted energies of some of these frames, eV/atom.
    """

    energy_mae: float
    force_mae: float
    mean_force: float
    held_out: int
    guess_mae: float | None = None
    spearman: float | None = None
    used: bool = True
    parity: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        guess = "" if self.guess_mae is None else f", those of a guess by {self.guess_mae:.3f}"
        rank = "" if self.spearman is None else f" (Spearman {self.spearman:.2f})"
        return (
            f"energies of {self.held_out} frames that it has not seen are wrong by "
            f"{self.energy_mae:.3f} eV/atom{rank}{guess}"
        )


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
        The errors are those of a fit without a tenth of the relaxations, or three of them.

    Raises
    ------
    ValueError
        Frames of fewer than ten relaxations, or none with one of the elements.
    """
    rng = np.random.default_rng(seed)
    if len(frames) > MOST_FRAMES:
        frames = [frames[i] for i in sorted(rng.permutation(len(frames))[:MOST_FRAMES])]
    relaxations = np.unique([f.relaxation for f in frames])
    if len(relaxations) < 10:
        raise ValueError(f"{len(relaxations)} relaxations are too few to learn a potential from")
    number = max(HELD_OUT, len(relaxations) // 10)
    held_out = set(rng.permutation(relaxations)[:number].tolist())
    basis = _Basis.of(frames, elements, rng)
    kept = [f for f in frames if f.relaxation not in held_out]
    test = [f for f in frames if f.relaxation in held_out]
    normal, right = basis.equations(kept)
    errors = _errors(basis.potential(basis.solve(normal, right)), test, kept)
    more = basis.equations(test)
    return basis.potential(basis.solve(normal + more[0], right + more[1])), errors


def _errors(
    potential: Potential, frames: Sequence[Labelled], learnt: Sequence[Labelled]
) -> PotentialErrors:
    """Errors of a potential for frames, beside those that it has learnt from."""
    # Half a second to import, which every command would wait for.
    from scipy.stats import spearmanr

    found = [potential(f)[:2] for f in frames]
    energies = np.array([e / len(f) for (e, _), f in zip(found, frames, strict=True)])
    true = _energies(frames)
    mae = float(np.abs(energies - true).mean())
    elements = len(potential.offsets)
    by_element = np.linalg.lstsq(_fractions(learnt, elements), _energies(learnt), rcond=None)[0]
    guess = float(np.abs(_fractions(frames, elements) @ by_element - true).mean())
    varied = np.ptp(energies) > 0 and np.ptp(true) > 0
    rank = float(spearmanr(energies, true).statistic) if varied else None
    forces = np.concatenate([f.forces for f in frames])
    missed = np.concatenate([f for _, f in found]) - forces
    # Frames of one relaxation follow each other.
    some = np.linspace(0, len(frames) - 1, min(MOST_PAIRS, len(frames))).round().astype(int)
    return PotentialErrors(
        energy_mae=mae,
        force_mae=float(np.abs(missed).mean()),
        mean_force=float(np.abs(forces).mean()),
        held_out=len(frames),
        guess_mae=guess,
        spearman=rank,
        used=mae < MOST_ERROR * guess and rank is not None and rank > LEAST_RANK,
        parity=tuple(zip(true[some].tolist(), energies[some].tolist(), strict=True)),
    )


def _energies(frames: Sequence[Labelled]) -> FloatArray:
    """Energies (n,), eV/atom."""
    return np.array([f.energy / len(f) for f in frames])


def _fractions(frames: Sequence[Labelled], elements: int) -> FloatArray:
    """Fractions of the elements (n, elements)."""
    return np.array([np.bincount(f.species_index, minlength=elements) / len(f) for f in frames])


def _labels(frame: Labelled) -> FloatArray:
    """Energy, forces and virials (1 + 3n + 6,)."""
    volume = abs(float(np.linalg.det(frame.cell)))
    return np.concatenate([[frame.energy], frame.forces.ravel(), frame.stress * volume])


def _allowed(n: int, labels: FloatArray) -> FloatArray:
    """Errors that are allowed of the labels of a frame of n atoms."""
    sizes = [1, 3 * n, 6]
    least = np.repeat([n * ALLOWED[0], ALLOWED[1], n * ALLOWED[2]], sizes)
    allowed: FloatArray = least + np.repeat(GROWTH, sizes) * np.abs(labels)
    return allowed


@dataclass(frozen=True)
class _Kernels:
    """Kernels between some atoms of an element and its k reference environments.

    Attributes
    ----------
    products, gradients : arrays (atoms, k)
        Scalar products of unit spectra, and derivatives of the kernels with respect to those
        products, for spectra before they were normalised.
    spectra, references : arrays (elements, atoms or k, degrees · RADIAL · channels)
        Unit spectra by the element of their first channel.
    """

    products: FloatArray
    gradients: FloatArray
    spectra: FloatArray
    references: FloatArray

    @classmethod
    def of(cls, near: Surroundings, some: NDArray[np.bool_], references: FloatArray) -> _Kernels:
        """Of some atoms of a geometry."""
        spectra, lengths = (values[some] for values in near.spectra())
        products = spectra @ references.T
        return cls(
            products,
            2.0 * products / lengths[:, None],
            near.by_element(spectra),
            near.by_element(references),
        )

    def gradient(self, moved: FloatArray, element: int) -> FloatArray:
        """Gradients (atoms, …, k), from those of an element's part of the spectra."""
        # A spectrum that grows without turning leaves the kernel as it is.
        growing = np.einsum("ijaw,iw->ija", moved, self.spectra[element])
        out: FloatArray = np.tensordot(moved, self.references[element], (-1, -1))
        out -= growing[..., None] * self.products[:, None, None]
        out *= self.gradients[:, None, None]
        return out


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
            for species, pool in enumerate(pools):
                pool.append(spectra[frame.species_index == species])
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
        n = near.n
        out = np.zeros((1 + 3 * n + 6, self.size))
        out[0, :m] = np.bincount(here.species_index, minlength=m)
        there = np.unique(here.species_index)
        for a, b in product(there, there):
            some = (here.species_index[near.i] == a) & (here.species_index[near.j] == b)
            gradients = near.radial_derivative[some, None, :] * near.unit[some, :, None]
            columns = slice(first := m + (a * m + b) * PAIR, first + PAIR)
            out[0, columns] = near.radial[some].sum(0)
            out[1:-6, columns] = near.forces(gradients, some).reshape(3 * n, -1)
            out[-6:, columns] = near.virials(gradients, some)
        along, strained = near.gradients_of_spectra()
        for species in there:
            own = here.species_index == species
            kernels = _Kernels.of(near, own, self.references[species])
            columns = slice(first := m + m * m * PAIR + species * k, first + k)
            out[0, columns] = (kernels.products**2).sum(0)
            forces = np.zeros((n, 3, k))
            for other in there:
                theirs = here.species_index == other
                pulls = kernels.gradient(along[own][:, theirs], other)
                forces[own] += pulls.sum(1)
                forces[theirs] -= pulls.sum(0)
                out[-6:, columns] += kernels.gradient(strained[own][:, [other]], other).sum((0, 1))
            out[1:-6, columns] = forces.reshape(3 * n, k)
        return out

    def equations(self, frames: Sequence[Labelled]) -> tuple[FloatArray, FloatArray]:
        """Normal equations (size, size), (size,) of weighted least squares."""
        normal, right = np.zeros((self.size, self.size)), np.zeros(self.size)
        for first in range(0, len(frames), BATCH):
            batch = frames[first : first + BATCH]
            labels = [_labels(f) for f in batch]
            allowed = np.concatenate(
                [_allowed(len(f), known) for f, known in zip(batch, labels, strict=True)]
            )
            rows = np.concatenate([self.rows(f) for f in batch]) / allowed[:, None]
            normal += rows.T @ rows
            right += rows.T @ (np.concatenate(labels) / allowed)
        return normal, right

    def solve(self, normal: FloatArray, right: FloatArray) -> FloatArray:
        """Coefficients, with those of the kernels as in a Gaussian process."""
        m, pairs, _ = self._sizes
        prior = np.diag(np.repeat([1e-4, 1.0, 0.0], self._sizes))
        k = self.references.shape[1]
        for species, rows in enumerate(self.references):
            at = m + pairs + species * k
            prior[at : at + k, at : at + k] = (rows @ rows.T) ** 2 + 1e-5 * np.eye(k)
        out: FloatArray = solve(normal + prior, right, assume_a="pos")
        return out

    def potential(self, coefficients: FloatArray) -> Potential:
        """The potential with these coefficients."""
        m, pairs, _ = self._sizes
        offsets, pair, kernels = np.split(coefficients, [m, m + pairs])
        weighted = kernels.reshape(m, -1, 1) * self.references
        forms = self.references.swapaxes(1, 2) @ weighted
        return Potential(offsets, pair.reshape(m, -1), forms)
