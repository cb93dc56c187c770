"""DCGAN, DCGAN + constraint and CCDCGAN: networks that draw crystal graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from ccdcgan.models.backend import compile_steps, input_gradient, value_and_gradients
from ccdcgan.models.gan.generators import (
    build_networks,
    chosen,
    draw_compositions,
)
from ccdcgan.models.presets import GanSettings
from ccdcgan.models.representation.protocol import Conditions
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.training import (
    DivergedError,
    TrainingLog,
    all_finite,
    load_checkpoint,
    make_deterministic,
    save_checkpoint,
)

#: Steps in one compiled call; a checkpoint is written after each.
CHUNK = 250

#: How often a training goes on with other random numbers after it has diverged.
MOST_DIVERGED = 3

#: XLA saves a quarter of a dense step's time, but takes about ten seconds to compile: TensorFlow
#: uses it from that many steps. The paper's convolutions gain nothing from it on a CPU.
XLA_STEPS = 2000

#: Numbers that a step returns.
CURVES = ("critic", "critic_loss", "generator_loss", "formation_energy")


@dataclass
class TrainedGan:
    """A generator and the curves of its training.

    Attributes
    ----------
    generator
        Exponential moving average of the generator's weights.
    history
        Means over chunks of steps: ``critic`` (score of the data minus that of generated graphs:
        the Wasserstein estimate, or log-odds), ``critic_loss``, ``generator_loss`` and
        ``formation_energy`` (what the objective predicts for generated graphs, eV/atom).
    """

    generator: keras.Model
    history: dict[str, list[float]]


class _Training:
    """Networks, optimizers, random numbers and a step."""

    def __init__(
        self,
        data: FloatArray,
        weights: FloatArray,
        settings: GanSettings,
        networks: tuple[keras.Model, keras.Model],
        objective: keras.Model | None,
        conditions: Conditions,
        seed: int,
    ) -> None:
        self.settings, self.seed, self.diverged = settings, seed, 0
        self.generator, self.critic = networks
        self.average = keras.models.clone_model(self.generator)
        self.average.set_weights(self.generator.get_weights())
        self.objective = objective
        self.optimizers = [
            keras.optimizers.Adam(settings.learning_rate, beta_1=0.5, beta_2=0.999)
            for _ in range(2)
        ]
        self.optimizers[0].build(self.generator.trainable_variables)
        self.optimizers[1].build(self.critic.trainable_variables)
        # A variable, for JAX would compile an array into its program.
        self.data = keras.Variable(np.asarray(data, np.float32), trainable=False)
        self.weights = np.asarray(weights, np.float64)
        self.compositions = np.zeros((len(data), 0), np.float32)
        if (composition := conditions.composition) is not None:
            self.compositions = np.asarray(data, np.float32)[:, composition.columns]
        # Batch normalisation sees real and generated images apart, as in the released code.
        self.together = self.data.ndim == 2
        # Half precision has no room for small gradients.
        self.loss_scale = 1024.0 if settings.precision == "mixed_float16" else 1.0

    @property
    def variables(self) -> list[Any]:
        """The state of the training."""
        parts = [self.generator, self.critic, self.average, *self.optimizers]
        return [v for part in parts for v in part.variables]

    def compiled(self) -> Callable[[Any, int], NDArray[np.float32]]:
        """The chunk of steps as one call."""
        frozen = [self.data, *(self.objective.variables if self.objective else [])]
        jit = self.data.ndim == 2 and self.settings.steps >= XLA_STEPS
        return compile_steps(self.step, [*self.variables, *frozen], len(CURVES), jit)

    def draw(self, first: int) -> tuple[Any, ...]:
        """Random numbers of a chunk of steps: they depend on the seed and a step's number alone.

        And on how often the training has diverged.

        The last `batch` rows of noise and compositions are the generator's step, the others the
        critic's.
        """
        s = self.settings
        m, real = self.compositions.shape[1], s.critic_steps * s.batch
        noise = np.zeros((CHUNK, real + s.batch, self.average.inputs[0].shape[1]), np.float32)
        wanted = np.zeros((CHUNK, real + s.batch, m), np.float32)
        rows = np.zeros((CHUNK, real), np.int32)
        t = np.zeros((CHUNK, real), np.float32)
        for i in range(min(CHUNK, s.steps - first)):
            rng = np.random.default_rng([self.seed, first + i, *self.again])
            rng.standard_normal(dtype=np.float32, out=noise[i])
            rng.random(dtype=np.float32, out=t[i])
            u = rng.random((real + s.batch, 1 + 2 * m))
            rows[i] = chosen(self.weights, u[:real, 0])
            wanted[i] = draw_compositions(self.compositions, self.weights, u, s.composition_jitter)
        return noise, wanted, rows, t

    def step(self, noise: Any, wanted: Any, rows: Any, t: Any) -> tuple[Any, ...]:
        """The critic's steps and one of the generator; gives `CURVES`."""
        batch, n = self.settings.batch, self.settings.critic_steps * self.settings.batch
        critic, loss = ops.zeros(()), ops.zeros(())
        # The generator rests while the critic learns: one call draws for all of its steps.
        generated = self._generate(noise[:n], wanted[:n])
        for k in range(0, n, batch):
            real = ops.take(self.data, rows[k : k + batch], axis=0)
            critic, loss = self._critic_step(real, generated[k : k + batch], t[k : k + batch])
        return critic, loss, *self._generator_step(noise[n:], wanted[n:])

    def _generate(self, noise: Any, wanted: Any) -> Any:
        inputs = [noise, wanted] if len(self.generator.inputs) > 1 else noise
        return ops.cast(self.generator(inputs, training=True), "float32")

    def _score(self, graphs: Any) -> Any:
        return self.critic(graphs, training=True)

    def _critic_step(self, real: Any, fake: Any, t: Any) -> tuple[Any, Any]:
        for layer in self.critic.layers:
            if hasattr(layer, "project"):
                layer.project()

        def loss() -> tuple[Any, Any]:
            if self.together:
                on_real, on_fake = ops.split(self._score(ops.concatenate([real, fake])), 2)
            else:
                on_real, on_fake = self._score(real), self._score(fake)
            distance = ops.mean(on_real) - ops.mean(on_fake)
            if self.settings.loss == "bce":
                loss = ops.mean(ops.softplus(-on_real)) + ops.mean(ops.softplus(on_fake))
                loss = 0.5 * loss
            elif self.settings.loss == "hinge":
                loss = ops.mean(ops.relu(1.0 - on_real)) + ops.mean(ops.relu(1.0 + on_fake))
            else:
                loss = self.settings.penalty * self._penalty(real, fake, t) - distance
            return self.loss_scale * loss, (distance, loss)

        return self._learn(loss, self.critic, self.optimizers[1])

    def _penalty(self, real: Any, fake: Any, t: Any) -> Any:
        """Mean squared deviation of the critic's gradient from one, between real and generated."""
        between = real + ops.reshape(t, (-1, *[1] * (real.ndim - 1))) * (fake - real)
        gradient = input_gradient(self._score, between)
        norm = ops.sqrt(ops.sum(gradient**2, axis=tuple(range(1, real.ndim))) + 1e-12)
        return ops.mean((norm - 1.0) ** 2)

    def _generator_step(self, noise: Any, wanted: Any) -> tuple[Any, Any]:
        s = self.settings

        def loss() -> tuple[Any, Any]:
            fake = self._generate(noise, wanted)
            score = self._score(fake)
            loss = ops.mean(ops.softplus(-score)) if s.loss == "bce" else -ops.mean(score)
            energy = ops.zeros(())
            if self.objective is not None:
                energies = ops.cast(self.objective(fake, training=False), "float32")
                energy = ops.mean(energies)
                if s.variant == "ccdcgan":
                    loss += s.omega * (
                        energy if s.guidance == "energy" else ops.mean(ops.exp(energies))
                    )
            return self.loss_scale * loss, (loss, energy)

        numbers = self._learn(loss, self.generator, self.optimizers[0])
        fast_and_slow = (self.generator.trainable_variables, self.average.trainable_variables)
        for fast, slow in zip(*fast_and_slow, strict=True):
            slow.assign(s.average * slow + (1.0 - s.average) * fast)
        return numbers

    def _learn(self, loss: Callable[[], tuple[Any, Any]], model: Any, optimizer: Any) -> Any:
        _, numbers, gradients = value_and_gradients(loss, model.trainable_variables)
        if self.loss_scale != 1.0:
            gradients = [g / self.loss_scale for g in gradients]
        optimizer.apply(gradients, model.trainable_variables)
        return numbers

    @property
    def again(self) -> list[int]:
        """What sets random numbers apart from those with which the training has diverged."""
        return [self.diverged] if self.diverged else []

    def state(self) -> list[NDArray[Any]]:
        """Copies of the variables."""
        return [np.array(variable) for variable in self.variables]

    def go_back(self, state: Sequence[NDArray[Any]]) -> None:
        """Put the variables back to where they were, with other random numbers from there on."""
        self.diverged += 1
        for variable, before in zip(self.variables, state, strict=True):
            variable.assign(before)

    def copy_statistics(self) -> None:
        """Moving statistics average themselves: the averaged generator takes them over."""
        fast_and_slow = (
            self.generator.non_trainable_variables,
            self.average.non_trainable_variables,
        )
        for fast, slow in zip(*fast_and_slow, strict=True):
            slow.assign(fast)


def train_gan(
    data: FloatArray,
    weights: FloatArray,
    settings: GanSettings,
    objective: keras.Model | None,
    seed: int,
    *,
    conditions: Conditions | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    log: TrainingLog | None = None,
) -> TrainedGan:
    """Train a GAN on crystal graphs.

    The random numbers of step k depend on the seed and k alone, so that a training which was
    killed goes on from its checkpoint to the same generator, and that TensorFlow and JAX see the
    same numbers. One that diverges goes back to the last chunk without NaN, and on with others.

    Parameters
    ----------
    data : array (n, size), or (n, side, side, 1) for the paper's networks
        Whitened crystal graphs, or folded ones.
    weights : array (n,)
        Positive weights with which the rows are drawn.
    settings
        Networks, loss, steps.
    objective
        Frozen network from rows of `data`'s kind to (n, members) predictions of what shall be
        low: the constraint's formation energy, eV/atom.
    seed
        Same seed, same generator.
    conditions
        What the dense generator can be asked for; the paper's has none.
    checkpoint
        File that holds the state between chunks of steps.
    progress
        Called with (steps done, steps in all).
    log
        Gets the curves after every chunk.

    Raises
    ------
    ValueError
        Fewer than 10 rows, ``ccdcgan`` without an objective, or a composition for images.
    DivergedError
        Losses or networks are no longer finite, whatever the random numbers.
    """
    conditions = conditions or Conditions()
    _check(data, settings, objective, conditions)
    make_deterministic(seed)
    networks = build_networks(data, weights, settings, seed, conditions)
    training = _Training(data, weights, settings, networks, objective, conditions, seed)
    done, history = _resumed(training, checkpoint)
    if log:
        log.resume(done)
    run, last = training.compiled(), training.state()
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(training.draw, done)
        while done < settings.steps:
            first, count = done, min(CHUNK, settings.steps - done)
            arrays = upcoming.result()
            done += count
            upcoming = pool.submit(training.draw, done)
            numbers = run(arrays, count)
            training.copy_statistics()
            state = training.state()
            if not all_finite(numbers, *state):
                if training.diverged == MOST_DIVERGED:
                    raise _diverged(numbers, first)
                upcoming.result()
                training.go_back(last)
                done, upcoming = first, pool.submit(training.draw, first)
                continue
            last, means = (
                state,
                dict(zip(CURVES, numbers.astype(float).mean(0).tolist(), strict=True)),
            )
            for name, mean in means.items():
                history[name].append(mean)
            if log:
                log.write(done, **means)
            if checkpoint:
                save_checkpoint(checkpoint, state, done=done, diverged=training.diverged, **history)
            if progress:
                progress(done, settings.steps)
    return TrainedGan(training.average, history)


def _check(
    data: FloatArray,
    settings: GanSettings,
    objective: keras.Model | None,
    conditions: Conditions,
) -> None:
    """Raise a ValueError where `train_gan` cannot begin."""
    if len(data) < 10:
        raise ValueError(f"{len(data)} crystal graphs are too few to train a GAN: at least 10")
    if settings.variant == "ccdcgan" and objective is None:
        raise ValueError("the CCDCGAN needs a trained constraint")
    if conditions.composition is not None and np.ndim(data) != 2:
        raise ValueError("the paper's generator cannot be asked for a composition")


def _resumed(training: _Training, checkpoint: Path | None) -> tuple[int, dict[str, list[float]]]:
    """Steps that are done, and their curves: those of the checkpoint, which is loaded."""
    state = load_checkpoint(checkpoint, training.variables) if checkpoint else None
    if state is None:
        return 0, {name: [] for name in CURVES}
    # Earlier versions have stopped where they diverged.
    training.diverged = int(state.get("diverged", 0))
    return int(state["done"]), {name: [float(v) for v in state[name]] for name in CURVES}


def _diverged(numbers: NDArray[np.float32], first: int) -> DivergedError:
    """What to tell of the numbers (steps, `CURVES`) of a chunk that begins at a step."""
    broken = np.flatnonzero(~np.isfinite(numbers).all(1))
    step = first + (int(broken[0]) if len(broken) else len(numbers))
    return DivergedError(
        f"the GAN diverged at step {step}, also with other random numbers: lower its learning "
        "rate, or gan_steps to less than that"
    )


def sample(
    generator: keras.Model, count: int, seed: int, composition: FloatArray | None = None
) -> NDArray[np.float32]:
    """`count` generated rows; row i comes from noise that depends on the seed and i alone.

    Parameters
    ----------
    composition : (m,) or array (k, m)
        Numbers of atoms of each element, or several such compositions that take turns. Without
        it the compositions are drawn as in training.

    Raises
    ------
    ValueError
        A composition for the paper's generator, or not one number for each element.
    """
    width = int(generator.inputs[0].shape[1])
    rng = np.random.default_rng([seed, 0, 1])
    inputs: Any = rng.standard_normal((count, width), dtype=np.float32)
    if len(generator.inputs) > 1:
        prior = generator.get_layer("prior")
        wanted = prior.draw(count, seed)
        if composition is not None:
            known = prior.whitened(composition)
            wanted = known[np.arange(count) % len(known)]
        inputs = [inputs, wanted]
    elif composition is not None:
        raise ValueError("the paper's generator cannot be asked for a composition")
    return np.asarray(generator.predict(inputs, batch_size=512, verbose=0), np.float32)
