"""The guide: what the constraint thinks of a crystal graph, as a network with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from ccdcgan.models.backend import compile_options
from ccdcgan.models.energy.constraint import error_figures
from ccdcgan.models.energy.goals import Goal, check_goals
from ccdcgan.models.paper.networks import CONSTRAINT, build_paper_constraint
from ccdcgan.models.presets import GuideSettings
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.training import TrainingLog, make_deterministic, watchers

#: Epochs without improvement after which training stops.
PATIENCE = 10


@dataclass
class TrainedGuide:
    """A guide with its errors on crystals that it never saw.

    Attributes
    ----------
    network
        Rows in the networks' space to properties (batch, targets).
    mae, r2
        For each property.
    held_out
        Number of crystals.
    history
        Loss in standardised units by epoch: ``training`` and ``test``.
    """

    network: keras.Model
    mae: list[float]
    r2: list[float]
    held_out: int
    history: dict[str, list[float]]


def build_dense_guide(size: int, targets: int, width: int) -> keras.Model:
    """Whitened crystal graphs (batch, size) to standardised properties (batch, targets)."""
    rows = keras.Input((size,))
    x = layers.GaussianNoise(0.1)(rows)
    for _ in range(3):
        x = layers.LeakyReLU(0.2)(layers.Dense(width)(x))
    return keras.Model(rows, layers.Dense(targets)(x), name="guide")


def train_guide(
    rows: FloatArray,
    targets: FloatArray,
    crystals: NDArray[np.int_],
    settings: GuideSettings,
    seed: int,
    *,
    real: NDArray[np.bool_] | None = None,
    progress: Callable[[int, int], None] | None = None,
    log: TrainingLog | None = None,
) -> TrainedGuide:
    """Train the guide, or the paper's constraint where the rows are images.

    Parameters
    ----------
    rows : array (n, size), or (n, side, side, 1) for the paper's network
        Whitened or folded crystal graphs.
    targets : array (n, t)
        Properties.
    crystals : array (n,)
        Which crystal a row belongs to: all rows of one crystal fall on one side of the split.
    settings
        Network and training.
    seed
        The same seed gives the same network.
    real : array (n,)
        Rows that the errors are taken from; default all.
    progress
        Called with (epochs done, epochs at most).
    log
        Where the losses are written.
    """
    make_deterministic(seed)
    judged = np.ones(len(crystals), bool) if real is None else real
    test = _held_out(crystals, judged, np.random.default_rng(seed))
    x, y = np.asarray(rows, np.float32), np.asarray(targets, np.float32)
    mean, scale = y[~test].mean(0), np.maximum(y[~test].std(0), 1e-6)
    network = _untrained(x, y.shape[1], int((~test).sum()), settings)
    target = (y - mean) / scale
    # The paper's constraint is not stopped, least of all by the crystals that its errors are of.
    images = x.ndim == 4
    stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    fitted = network.fit(
        x[~test],
        target[~test],
        batch_size=settings.batch,
        epochs=settings.epochs,
        validation_data=(x[test], target[test]),
        callbacks=[*([] if images else [stop]), *watchers(settings.epochs, progress, log)],
        verbose=0,
    )
    raw = keras.Input(x.shape[1:])
    scaled = layers.Rescaling(scale.tolist(), mean.tolist())(network(raw))
    model = keras.Model(raw, scaled, name="guide")
    judged = test & judged
    predicted = np.asarray(model.predict(x[judged], verbose=0))
    by_crystal = [crystals[judged] == name for name in np.unique(crystals[judged])]
    p, t = (np.array([a[m].mean(0) for m in by_crystal]) for a in (predicted, y[judged]))
    mae, r2 = zip(*(error_figures(a, b) for a, b in zip(p.T, t.T, strict=True)), strict=True)
    losses = {"training": fitted.history["loss"], "test": fitted.history["val_loss"]}
    return TrainedGuide(model, list(mae), list(r2), len(by_crystal), losses)


def _held_out(
    crystals: NDArray[np.int_], judged: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Rows of a tenth of the crystals, of those that are judged and of the others, by themselves.

    Errors of few relaxed crystals among thousands that were drawn would else have none to be of.
    """
    chosen = []
    for mine in (judged, ~judged):
        names = np.unique(crystals[mine])
        chosen.append(rng.permutation(names)[: max(2, round(0.1 * len(names)))])
    return np.isin(crystals, np.concatenate(chosen))


def _untrained(
    rows: NDArray[np.float32], targets: int, count: int, settings: GuideSettings
) -> keras.Model:
    """A compiled network for such rows, of which it is to learn `count`."""
    steps = -(-count // settings.batch)
    optimizer: keras.optimizers.Optimizer
    if rows.ndim == 4:
        network = build_paper_constraint(rows.shape[1], targets)
        loss, rate = "mse", settings.learning_rate
        optimizer = replace(CONSTRAINT, learning_rate=rate).build()
    else:
        network = build_dense_guide(rows.shape[1], targets, settings.width)
        # The absolute error minds outliers less.
        loss = "mae"
        decaying = keras.optimizers.schedules.CosineDecay(
            settings.learning_rate, steps * settings.epochs, alpha=0.02
        )
        optimizer = keras.optimizers.AdamW(decaying, weight_decay=1e-4)
    network.compile(optimizer, loss, steps_per_execution=min(steps, 16), **compile_options())
    return network


def objective(network: keras.Model, names: Sequence[str], goals: Sequence[Goal]) -> keras.Model:
    """`score` of what a network predicts, as a network: rows to (batch, 1).

    Parameters
    ----------
    network
        Rows to properties (batch, targets).
    names
        Names of the properties.
    goals
        What the search is after.
    """
    check_goals(names, goals)
    rows = keras.Input(network.input_shape[1:])
    properties = network(rows)
    terms = []
    for goal in goals:
        k = list(names).index(goal.property)
        term = properties[:, k : k + 1]
        if goal.value is not None:
            term = ops.abs(term - goal.value)
        terms.append((-goal.weight if goal.direction == "maximise" else goal.weight) * term)
    return keras.Model(rows, sum(terms), name="objective")
