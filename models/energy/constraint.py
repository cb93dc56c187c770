"""The constraint: properties of crystals, formation energy first, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.linalg import block_diag, cholesky, solve, solve_triangular

from ccdcgan.models.energy.descriptors import Environments, crystal_means, rattled
from ccdcgan.models.energy.errors import MOST_PAIRS, PropertyErrors
from ccdcgan.models.presets import ConstraintSettings
from ccdcgan.models.representation.voxels import FloatArray

#: Fewest values of which R² tells anything: of two it is anything.
TELLING = 5

#: Fewest crystals that a constraint is trained on.
FEWEST = 10


@keras.saving.register_keras_serializable("ccdcgan")
class EnvironmentKernel(layers.Layer):
    """Similarity of atomic environments to reference environments of the same element.

    For each scale ``(x · z)^zeta`` with unit vectors x and z, 0 between different elements:
    (batch, sum of widths + elements) to (batch, scales · references).

    Parameters
    ----------
    widths
        Numbers of each scale.
    elements
        One-hot numbers at the end of a row.
    references
        Reference environments.
    zeta
        Sharpness of the kernel.
    """

    def __init__(
        self, widths: Sequence[int], elements: int, references: int, zeta: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.widths, self.elements = tuple(widths), elements
        self.references, self.zeta = references, zeta
        shape = (references, sum(self.widths) + elements)
        self.environments = self.add_weight(shape=shape, trainable=False, name="environments")

    def call(self, x: Any) -> Any:
        z = self.environments
        start = sum(self.widths)
        same = ops.matmul(x[:, start:], ops.transpose(z[:, start:]))
        parts, first = [], 0
        for width in self.widths:
            scale = slice(first, first + width)
            parts.append(same * ops.matmul(x[:, scale], ops.transpose(z[:, scale])) ** self.zeta)
            first += width
        return ops.concatenate(parts, axis=1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        return (input_shape[0], len(self.widths) * self.references)

    def get_config(self) -> dict[str, Any]:
        own = {
            "widths": list(self.widths),
            "elements": self.elements,
            "references": self.references,
            "zeta": self.zeta,
        }
        return {**super().get_config(), **own}


@dataclass
class Constraint:
    """A trained constraint.

    Attributes
    ----------
    model
        Environments (atoms, width) to the atoms' shares in each property, (atoms, members ·
        targets); a crystal's property is the mean over its atoms.
    environments
        Descriptors of the system.
    targets
        Names of the properties.
    """

    model: keras.Model
    environments: Environments
    targets: tuple[str, ...]

    def predict(self, structures: Sequence[Structure]) -> NDArray[np.float64]:
        """Properties (n, members, targets) of crystals without overlapping atoms."""
        blocks = []
        for first in range(0, len(structures), 64):
            rows, counts = self.environments(structures[first : first + 64])
            # A backend compiles for each number of rows: pad to a few sizes.
            padded = np.zeros((-len(rows) % 256 + len(rows), rows.shape[1]), np.float32)
            padded[: len(rows)] = rows
            shares = np.asarray(self.model.predict_on_batch(padded), float)[: len(rows)]
            blocks.append(crystal_means(shares, counts))
        if not blocks:
            members = int(self.model.output_shape[-1]) // len(self.targets)
            return np.zeros((0, members, len(self.targets)))
        return np.concatenate(blocks).reshape(len(structures), -1, len(self.targets))


@dataclass(frozen=True)
class Starts:
    """Geometries from which relaxations reached crystals.

    Attributes
    ----------
    structures
        Unrelaxed cells.
    crystal : array (k,)
        Index of the crystal that each became.
    """

    structures: Sequence[Structure] = ()
    crystal: NDArray[np.int_] = field(default_factory=lambda: np.zeros(0, int))


def train_constraint(
    structures: Sequence[Structure],
    targets: FloatArray,
    names: Sequence[str],
    e_above_hull: FloatArray,
    elements: Sequence[str],
    settings: ConstraintSettings,
    seed: int,
    starts: Starts | None = None,
) -> tuple[Constraint, dict[str, PropertyErrors]]:
    """Train the constraint on relaxed crystals, and on what they were relaxed from.

    A crystal's property is the mean over its atoms of a function of the atom's environment, a sum
    of kernels around reference environments. The coefficients follow from a regularised linear
    problem, without learning rate or early stop. The members of the ensemble see the crystals
    with different random weights (Bayesian bootstrap).

    What is to be judged is not relaxed: rattled copies, and the starts of the relaxations, have
    the properties of the crystal that they belong to.

    Parameters
    ----------
    structures
        Relaxed primitive cells, each crystal once.
    targets : array (n, t)
        Properties, one column each.
    names
        Names of the columns.
    e_above_hull : array (n,)
        Distance to the hull, eV/atom: far from it errors weigh less.
    elements
        The system.
    settings
        Size and regularisation.
    seed
        The same seed gives the same constraint.
    starts
        Unrelaxed geometries of the crystals, if there are any.

    Returns
    -------
    constraint, errors of each property
        The errors are those of a training on 90% of the crystals (paper, Methods); the constraint
        has learnt from all of them.

    Raises
    ------
    ValueError
        Fewer than `FEWEST` crystals, or a target that is not finite.
    """
    n, y = len(structures), _checked(structures, targets, names)
    starts = starts or Starts()
    copies = [rattled(s, seed + i) for i, s in enumerate(structures)]
    of = np.concatenate([np.arange(n), np.arange(n), starts.crystal])
    kinds = np.repeat([RELAXED, COPY, START], [n, n, len(starts.structures)])
    environments = Environments(elements)
    rows, counts = environments([*structures, *copies, *starts.structures])
    geometries = _Geometries(rows, counts, of, kinds)
    fit = _Fit(environments, geometries, y, np.asarray(e_above_hull, float), settings)
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(n)[: max(2, round(settings.test_fraction * n))]
    test = np.isin(np.arange(n), held_out)
    model, means = fit(~test, rng)
    shape = (len(of), settings.members, len(names))
    predicted = (means @ model[0] + model[1]).reshape(shape)
    near = fit.e_above_hull <= settings.near_hull
    own, start = kinds == RELAXED, (kinds == START) & test[of]
    # Without starts, the errors on rattled copies say what is lost before relaxation.
    unrelaxed = start & near[of] if (start & near[of]).any() else (kinds == COPY) & test[of]
    errors = {
        name: _errors(
            predicted[own][test][:, :, k],
            y[test, k],
            near[test],
            (predicted[unrelaxed][:, :, k].mean(1), y[of[unrelaxed], k]),
        )
        for k, name in enumerate(names)
    }
    network = fit.network(*fit(np.ones(n, bool), rng)[0])
    return Constraint(network, environments, tuple(names)), errors


def _checked(
    structures: Sequence[Structure], targets: FloatArray, names: Sequence[str]
) -> FloatArray:
    """Targets (n, t); a ValueError where they are too few, or one is not finite."""
    n = len(structures)
    if n < FEWEST:
        raise ValueError(f"{n} crystals are too few to train a constraint: at least {FEWEST}")
    y = np.asarray(targets, float).reshape(n, -1)
    for name, column in zip(names, y.T, strict=True):
        if not np.isfinite(column).all():
            bad = structures[int(np.flatnonzero(~np.isfinite(column))[0])]
            raise ValueError(f"{name} of {bad.formula} is not a finite number")
    return y


#: Kinds of geometries.
RELAXED, COPY, START = 0, 1, 2


@dataclass(frozen=True)
class _Geometries:
    """Environments of all geometries of crystals: relaxed, rattled, unrelaxed.

    ``rows`` are those of all atoms, ``counts`` atoms, ``of`` the crystal and ``kinds`` the kind of
    each geometry.
    """

    rows: NDArray[np.float32]
    counts: NDArray[np.int_]
    of: NDArray[np.int_]
    kinds: NDArray[np.int_]


class _Fit:
    """The linear problem of a constraint."""

    def __init__(
        self,
        environments: Environments,
        geometries: _Geometries,
        y: FloatArray,
        e_above_hull: FloatArray,
        settings: ConstraintSettings,
    ) -> None:
        self.environments, self.geometries = environments, geometries
        self.y, self.e_above_hull = y, e_above_hull
        self.settings = settings

    def __call__(
        self, chosen: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[tuple[FloatArray, FloatArray], FloatArray]:
        """Coefficients and offsets from the chosen crystals, and the kernel of all geometries."""
        here, settings = self.geometries, self.settings
        taken = chosen[here.of]
        atoms = np.flatnonzero(np.repeat(taken & (here.kinds != COPY), here.counts))
        some = rng.permutation(atoms)[: settings.references]
        self.layer = EnvironmentKernel(
            self.environments.widths, len(self.environments.elements), len(some), settings.zeta
        )
        self.layer.environments.assign(here.rows[some])
        means = self._means()
        # In the coordinates of the prior the regularisation is the identity.
        root = _root(np.asarray(self.layer(here.rows[some]), float))
        features = solve_triangular(root, means[taken].T, lower=True).T
        # Errors are worth less far from the hull, where nothing new is sought, and for what is
        # not relaxed.
        weight = 1.0 / (1.0 + 15.0 * np.maximum(self.e_above_hull[chosen] - 0.1, 0.0)) ** 2
        y = self.y[chosen]
        offset = np.average(y, axis=0, weights=weight)
        scale = np.sqrt(np.average((y - offset) ** 2, axis=0, weights=weight)) + 1e-12
        drawn = weight * rng.exponential(size=(settings.members, len(weight))) + 1e-9
        place = np.cumsum(chosen) - 1
        crystal = place[here.of[taken]]
        worth = np.array([1.0, settings.copy_weight, settings.start_weight])[here.kinds[taken]]
        target = ((y - offset) / scale)[crystal]
        solutions = _ridge(features, target, worth * drawn[:, crystal], settings.ridge)
        coefficients = solve_triangular(root, np.concatenate(solutions, 1), lower=True, trans="T")
        spread = np.tile(scale, settings.members)
        return (coefficients * spread, np.tile(offset, settings.members)), means

    def _means(self) -> FloatArray:
        """The kernel between geometries (k,) and reference environments."""
        here, blocks, first = self.geometries, [], 0
        for some in np.array_split(here.counts, len(here.counts) // 256 + 1):
            last = first + int(some.sum())
            kernel = np.asarray(self.layer(here.rows[first:last]), float)
            blocks.append(crystal_means(kernel, some))
            first = last
        return np.concatenate(blocks)

    def network(self, coefficients: FloatArray, offsets: FloatArray) -> keras.Model:
        """The last fit as a Keras model."""
        x = keras.Input((self.geometries.rows.shape[1],), name="environments")
        dense = layers.Dense(coefficients.shape[1], name="shares")
        model = keras.Model(x, dense(self.layer(x)), name="constraint")
        dense.set_weights([coefficients.astype(np.float32), offsets.astype(np.float32)])
        return model


def _root(among: FloatArray) -> FloatArray:
    """Lower Cholesky factor of the references' kernel, block by block for each scale."""
    references = len(among)
    blocks = [among[:, i : i + references] for i in range(0, among.shape[1], references)]
    # The kernel comes in single precision.
    jitter = 1e-4 * np.eye(references)
    return block_diag(*(cholesky(b + jitter, lower=True) for b in blocks))


def _ridge(
    features: FloatArray, target: FloatArray, weights: FloatArray, ridge: float
) -> list[FloatArray]:
    """Ridge regressions (columns, targets), one for each row of weights, in the smaller space."""
    rows, columns = features.shape
    if rows < columns:
        gram = features @ features.T
        return [
            features.T @ solve(gram + np.diag(ridge / w), target, assume_a="pos") for w in weights
        ]
    out = []
    for w in weights[:, :, None]:
        normal = features.T @ (w * features) + ridge * np.eye(columns)
        out.append(solve(normal, features.T @ (w * target), assume_a="pos"))
    return out


def _errors(
    members: FloatArray,
    truth: FloatArray,
    near: NDArray[np.bool_],
    unrelaxed: tuple[FloatArray, FloatArray],
) -> PropertyErrors:
    predicted = members.mean(1)
    mae, r2 = error_figures(predicted, truth)
    mae_near, r2_near = error_figures(predicted[near], truth[near])
    missed = unrelaxed[0] - unrelaxed[1]
    return PropertyErrors(
        mae=mae,
        r2=r2,
        held_out=len(truth),
        mae_near_hull=mae_near,
        r2_near_hull=r2_near,
        near_hull=int(near.sum()),
        spread=float(members.std(1).mean()),
        unrelaxed=float(np.sqrt((missed**2).mean())),
        parity=list(zip(truth.tolist(), predicted.tolist(), strict=True))[:MOST_PAIRS],
    )


def error_figures(predicted: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Mean absolute error, NaN of fewer than two values, and R², NaN of fewer than `TELLING`."""
    residual = predicted - truth
    mae = float(np.abs(residual).mean()) if len(truth) > 1 else math.nan
    if len(truth) < TELLING:
        return mae, math.nan
    variance = ((truth - truth.mean()) ** 2).sum()
    return mae, float(1 - (residual**2).sum() / max(variance, 1e-12))
