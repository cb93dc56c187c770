"""DCGAN, DCGAN + constraint and CCDCGAN: networks that draw crystal graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from ccdcgan.models.presets import GanSettings
from ccdcgan.models.training import load_checkpoint, make_deterministic, save_checkpoint
from ccdcgan.models.voxels import FloatArray

#: Steps in one compiled call; a checkpoint is written after each.
CHUNK = 250


@keras.saving.register_keras_serializable("ccdcgan")
class CrystalPrior(layers.Layer):
    """Gaussian noise (batch, noise) to blurred blends of known crystal graphs (batch, size).

    A few hundred crystals are isolated points in the space of crystal graphs: a network that
    starts from plain noise needs many thousand steps before anything it draws can be decoded.
    Here the noise chooses two known crystals and how to blend and blur them; the network that
    follows learns to turn that into a crystal.

    Parameters
    ----------
    rows, size
        Number of crystal graphs and their length.
    blur
        Standard deviation of what is added, in whitened units.
    """

    def __init__(self, rows: int, size: int, blur: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.size, self.blur = rows, size, blur
        self.graphs = self.add_weight(shape=(rows, size), trainable=False, name="graphs")
        self.cumulative = self.add_weight(shape=(rows,), trainable=False, name="cumulative")

    def set_crystals(self, graphs: FloatArray, weights: FloatArray) -> None:
        """Known crystal graphs (rows, size), and the weights (rows,) to choose them with."""
        self.graphs.assign(np.asarray(graphs, np.float32))
        self.cumulative.assign(np.cumsum(weights) / np.sum(weights))

    def call(self, z: Any) -> Any:
        uniform = 0.5 * (1.0 + ops.erf(z[:, :3] / np.sqrt(2.0)))
        first, second = self._choose(uniform[:, :1]), self._choose(uniform[:, 1:2])
        share = 0.5 * uniform[:, 2:3] ** 2
        noise = z[:, 3 : 3 + self.size]
        return (1.0 - share) * first + share * second + self.blur * noise

    def _choose(self, u: Any) -> Any:
        index = ops.sum(ops.cast(u > self.cumulative[None], "int32"), axis=1)
        return ops.take(self.graphs, ops.minimum(index, self.rows - 1), axis=0)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        return (input_shape[0], self.size)

    def get_config(self) -> dict[str, Any]:
        own = {"rows": self.rows, "size": self.size, "blur": self.blur}
        return {**super().get_config(), **own}


def build_dense_generator(
    data: FloatArray, weights: FloatArray, settings: GanSettings
) -> keras.Model:
    """Noise (batch, 3 + size) to whitened crystal graphs (batch, size), starting as the prior."""
    rows, size = np.shape(data)
    z = keras.Input((3 + size,))
    prior = CrystalPrior(rows, size, settings.blur, name="prior")
    start = prior(z)
    x = start
    for _ in range(2):
        x = layers.LeakyReLU(0.2)(layers.Dense(settings.width)(x))
    change = layers.Dense(size, kernel_initializer="zeros")(x)
    model = keras.Model(z, layers.Add()([start, change]), name="generator")
    prior.set_crystals(data, weights)
    return model


def build_dense_critic(size: int, settings: GanSettings) -> keras.Model:
    """Whitened crystal graphs (batch, size) to one score (batch, 1).

    It is unbounded for the Wasserstein loss and a probability for binary cross-entropy.
    """
    g = keras.Input((size,))
    x = g
    for _ in range(2):
        x = layers.LeakyReLU(0.2)(layers.Dense(settings.width)(x))
    last = layers.Dense(1, activation="sigmoid" if settings.loss == "bce" else None)
    return keras.Model(g, last(x), name="critic")


@dataclass
class TrainedGan:
    """A generator and the curves of its training.

    Attributes
    ----------
    generator
        Exponential moving average of the generator's weights.
    history
        By chunk of steps: ``critic`` (Wasserstein estimate, or binary cross-entropy) and
        ``formation_energy`` (mean prediction for generated graphs, eV/atom).
    """

    generator: keras.Model
    history: dict[str, list[float]]


class _Training:
    """Networks, optimizers and the compiled chunk of steps."""

    def __init__(
        self,
        data: FloatArray,
        weights: FloatArray,
        settings: GanSettings,
        networks: tuple[keras.Model, keras.Model],
        constraint: keras.Model | None,
        seed: int,
    ) -> None:
        self.settings = settings
        self.generator, self.critic = networks
        self.noise = int(self.generator.input_shape[-1])
        self.average = keras.models.clone_model(self.generator)
        self.average.set_weights(self.generator.get_weights())
        self.constraint = constraint
        beta = 0.5
        self.optimizers = [
            keras.optimizers.Adam(settings.learning_rate, beta_1=beta, beta_2=0.999)
            for _ in range(2)
        ]
        self.optimizers[0].build(self.generator.trainable_variables)
        self.optimizers[1].build(self.critic.trainable_variables)
        self.data = tf.constant(np.asarray(data, np.float32))
        self.log_weights = tf.constant(np.log(np.asarray(weights, np.float32))[None])
        self.seed = seed
        # The paper's convolutions with batch normalisation gain nothing from XLA on a CPU.
        self.chunk = tf.function(self._chunk, jit_compile=len(self.data.shape) == 2)

    @property
    def variables(self) -> list[Any]:
        return [
            *self.generator.variables,
            *self.critic.variables,
            *self.average.variables,
            *self.optimizers[0].variables,
            *self.optimizers[1].variables,
        ]

    def _noise(self, step: tf.Tensor, stream: int) -> tf.Tensor:
        shape = (self.settings.batch, self.noise)
        return tf.random.stateless_normal(shape, [self.seed * 64 + stream, step])

    def _real(self, step: tf.Tensor, stream: int) -> tf.Tensor:
        # Gumbel maxima draw from the weights; tf.random.stateless_categorical has no XLA kernel.
        shape = (self.settings.batch, int(self.data.shape[0]))
        u = tf.random.stateless_uniform(shape, [self.seed * 64 + stream, step], minval=1e-9)
        return tf.gather(self.data, tf.argmax(self.log_weights - tf.math.log(-tf.math.log(u)), 1))

    def _critic_step(self, step: tf.Tensor, stream: int) -> tf.Tensor:
        real = self._real(step, stream)
        fake = self.generator(self._noise(step, stream + 1), training=True)
        with tf.GradientTape() as tape:
            if self.settings.loss == "bce":
                loss = _bce(self.critic(real, training=True), 1.0)
                loss = 0.5 * (loss + _bce(self.critic(fake, training=True), 0.0))
                shown = loss
            else:
                shape = [self.settings.batch] + [1] * (len(real.shape) - 1)
                t = tf.random.stateless_uniform(shape, [self.seed * 64 + stream + 2, step])
                between = real + t * (fake - real)
                with tf.GradientTape() as inner:
                    inner.watch(between)
                    score = self.critic(between, training=True)
                slope = inner.gradient(score, between)
                axes = tuple(range(1, len(real.shape)))
                norm = tf.sqrt(tf.reduce_sum(slope**2, axes) + 1e-12)
                distance = tf.reduce_mean(self.critic(real, training=True)) - tf.reduce_mean(
                    self.critic(fake, training=True)
                )
                loss = -distance + self.settings.penalty * tf.reduce_mean((norm - 1.0) ** 2)
                shown = distance
        gradients = tape.gradient(loss, self.critic.trainable_variables)
        self.optimizers[1].apply(gradients, self.critic.trainable_variables)
        return shown

    def _generator_step(self, step: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            fake = self.generator(self._noise(step, 60), training=True)
            score = self.critic(fake, training=True)
            if self.settings.loss == "bce":
                loss = _bce(score, 1.0)
            else:
                loss = -tf.reduce_mean(score)
            energy = tf.zeros(())
            if self.constraint is not None:
                energy = tf.reduce_mean(self.constraint(fake, training=False))
                if self.settings.variant == "ccdcgan":
                    loss += self.settings.omega * energy
        gradients = tape.gradient(loss, self.generator.trainable_variables)
        self.optimizers[0].apply(gradients, self.generator.trainable_variables)
        keep = self.settings.average
        for slow, fast in zip(self.average.variables, self.generator.variables, strict=True):
            # Counters and moving statistics are copied: they average themselves.
            slow.assign(keep * slow + (1.0 - keep) * fast if fast.trainable else fast)
        return energy

    def _chunk(self, first: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        critic, energy = tf.zeros(()), tf.zeros(())
        for i in tf.range(count):
            for k in range(self.settings.critic_steps):
                critic = self._critic_step(first + i, 3 * k)
            energy = self._generator_step(first + i)
        return critic, energy


def _bce(probability: tf.Tensor, target: float) -> tf.Tensor:
    return tf.reduce_mean(
        keras.losses.binary_crossentropy(tf.fill(tf.shape(probability), target), probability)
    )


def train_gan(
    data: FloatArray,
    weights: FloatArray,
    settings: GanSettings,
    constraint: keras.Model | None,
    seed: int,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TrainedGan:
    """Train a GAN on crystal graphs.

    The random numbers of step k depend on the seed and k alone, so that a training which was
    killed goes on from its checkpoint to the same generator.

    Parameters
    ----------
    data : array (n, size), or (n, side, side, 1) for the paper's networks
        Whitened crystal graphs, or folded ones.
    weights : array (n,)
        Positive weights with which the rows are drawn.
    settings
        Networks, loss, steps.
    constraint
        Frozen network that predicts the formation energy (eV/atom) of `data`'s kind of rows.
    seed
        Same seed, same generator.
    checkpoint
        File that holds the state between chunks of steps.
    progress
        Called with (steps done, steps in all).

    Raises
    ------
    ValueError
        Fewer than 10 rows, or ``ccdcgan`` without a constraint.
    """
    if len(data) < 10:
        raise ValueError(f"{len(data)} crystal graphs are too few to train a GAN: at least 10")
    if settings.variant == "ccdcgan" and constraint is None:
        raise ValueError("the CCDCGAN needs a trained constraint")
    make_deterministic(seed)
    if np.ndim(data) == 2:
        generator = build_dense_generator(data, weights, settings)
        networks = generator, build_dense_critic(int(np.shape(data)[1]), settings)
    else:
        from ccdcgan.models.paper import build_paper_discriminator, build_paper_generator

        side = int(np.shape(data)[1])
        networks = build_paper_generator(200, side), build_paper_discriminator(side)
    training = _Training(data, weights, settings, networks, constraint, seed)
    done = 0
    history: dict[str, list[float]] = {"critic": [], "formation_energy": []}
    state = load_checkpoint(checkpoint, training.variables) if checkpoint else None
    if state is not None:
        done = int(state["done"])
        history = {name: [float(v) for v in state[name]] for name in history}
    while done < settings.steps:
        count = min(CHUNK, settings.steps - done)
        critic, energy = training.chunk(tf.constant(done), tf.constant(count))
        done += count
        history["critic"].append(float(critic))
        history["formation_energy"].append(float(energy))
        if not np.isfinite(history["critic"][-1]):
            raise ValueError("the training of the GAN diverged: lower its learning rate")
        if checkpoint:
            save_checkpoint(checkpoint, training.variables, done=done, **history)
        if progress:
            progress(done, settings.steps)
    return TrainedGan(training.average, history)


def sample(generator: keras.Model, count: int, seed: int) -> NDArray[np.float32]:
    """`count` generated rows; row i comes from noise that depends on the seed and i alone."""
    noise = int(generator.input_shape[-1])
    z = np.random.default_rng([seed, 7]).standard_normal((count, noise)).astype(np.float32)
    return np.asarray(generator.predict(z, batch_size=512, verbose=0))
