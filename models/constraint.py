"""The constraint: formation energy from a crystal graph, by a small ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from ccdcgan.models.paper import build_paper_constraint
from ccdcgan.models.presets import ConstraintSettings
from ccdcgan.models.training import make_deterministic
from ccdcgan.models.voxels import FloatArray

#: Points of a learning curve.
CURVE_POINTS = 40


@dataclass
class TrainedConstraint:
    """A trained constraint with its errors on crystals that it never saw.

    Attributes
    ----------
    model
        Whitened crystal graphs (n, size) to formation energies (n, members), eV/atom.
    mae, r2
        Mean absolute error (eV/atom) and coefficient of determination on the test crystals.
    held_out
        Number of test crystals.
    history
        Mean absolute error of the members in eV/atom along the training, at `CURVE_POINTS`
        points: ``training`` (of one batch) and ``test``.
    """

    model: keras.Model
    mae: float
    r2: float
    held_out: int
    history: dict[str, list[float]]


def build_dense_constraint(size: int, settings: ConstraintSettings) -> keras.Model:
    """Ensemble of dense networks, (batch, size) to (batch, members), in standardised energies."""
    x = keras.Input((size,))
    members = []
    for _ in range(settings.members):
        y = layers.GaussianNoise(0.1)(x)
        for _ in range(2):
            y = layers.Dense(settings.width)(y)
            y = layers.LeakyReLU(0.2)(y)
            y = layers.Dropout(settings.dropout)(y)
        members.append(layers.Dense(1)(y))
    return keras.Model(x, layers.Concatenate()(members), name="constraint")


@keras.saving.register_keras_serializable("ccdcgan")
def ensemble_error(target: Any, prediction: Any) -> Any:
    """Mean absolute error of the members: each learns from its own error."""
    return ops.mean(ops.abs(prediction - target), axis=-1)


def train_constraint(
    vectors: FloatArray,
    energies: FloatArray,
    crystals: NDArray[np.int_],
    settings: ConstraintSettings,
    seed: int,
) -> TrainedConstraint:
    """Train the constraint (paper: 90/10 split, Methods).

    Parameters
    ----------
    vectors : array (n, size), or (n, side, side, 1) for the paper's network
        Whitened crystal graphs, or folded ones.
    energies : array (n,)
        Formation energies, eV/atom.
    crystals : array (n,)
        Which crystal a graph belongs to: all graphs of one crystal fall on one side of the split.
    settings
        Network and training.
    seed
        The same seed gives the same network.

    Raises
    ------
    ValueError
        Fewer than 10 crystals.
    """
    names = np.unique(crystals)
    if len(names) < 10:
        raise ValueError(f"{len(names)} crystals are too few to train a constraint: at least 10")
    make_deterministic(seed)
    rng = np.random.default_rng(seed)
    n_test = max(2, round(settings.test_fraction * len(names)))
    test_names = rng.permutation(names)[:n_test]
    test = np.isin(crystals, test_names)
    x, y = np.asarray(vectors, np.float32), np.asarray(energies, np.float32)[:, None]
    mean, scale = float(y[~test].mean()), float(max(y[~test].std(), 1e-3))
    if x.ndim == 2:
        network = build_dense_constraint(x.shape[1], settings)
    else:
        network = build_paper_constraint(x.shape[1])
    target = (y - mean) / scale
    chunk = max(1, settings.steps // CURVE_POINTS)
    train = _compiled_steps(network, x[~test], target[~test], settings, seed)
    history: dict[str, list[float]] = {"training": [], "test": []}
    for first in range(0, settings.steps, chunk):
        loss = train(tf.constant(first), tf.constant(min(chunk, settings.steps - first)))
        error = ensemble_error(target[test], network(x[test], training=False))
        history["training"].append(scale * float(loss))
        history["test"].append(scale * float(ops.mean(error)))
    raw = keras.Input(x.shape[1:])
    model = keras.Model(raw, layers.Rescaling(scale, mean)(network(raw)), name="constraint")
    predicted = np.asarray(model.predict(x[test], verbose=0)).mean(1)
    by_crystal = [crystals[test] == c for c in test_names]
    p = np.array([predicted[m].mean() for m in by_crystal])
    t = np.array([y[test, 0][m].mean() for m in by_crystal])
    return TrainedConstraint(
        model,
        mae=float(np.abs(p - t).mean()),
        r2=float(1 - ((p - t) ** 2).sum() / max(((t - t.mean()) ** 2).sum(), 1e-12)),
        held_out=len(p),
        history=history,
    )


def _compiled_steps(
    network: keras.Model, x: FloatArray, y: FloatArray, settings: ConstraintSettings, seed: int
) -> Any:
    """Function of (first step, number of steps) that trains and returns the last loss.

    Many steps in one compiled call: Keras's `fit` spends most of its time between the steps of
    so small a network.
    """
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps),
        weight_decay=1e-3,
    )
    optimizer.build(network.trainable_variables)
    rows, targets = tf.constant(x), tf.constant(y)

    def steps(first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        loss = tf.zeros(())
        for i in tf.range(count):
            chosen = tf.random.stateless_uniform(
                [settings.batch], [seed, first + i], 0, len(x), tf.int32
            )
            with tf.GradientTape() as tape:
                predicted = network(tf.gather(rows, chosen), training=True)
                loss = tf.reduce_mean(ensemble_error(tf.gather(targets, chosen), predicted))
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply(gradients, network.trainable_variables)
        return loss

    # XLA would compile for longer than the whole training takes.
    return tf.function(steps)
