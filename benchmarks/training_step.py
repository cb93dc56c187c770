"""Steps per second of a CCDCGAN training beside the usual Keras loop: prints one JSON line.

Usage: KERAS_BACKEND=tensorflow|jax python benchmarks/training_step.py [--preset default|paper]

The rows are random numbers of the preset's size. The usual loop has the same networks, losses and
batch: for every critic step it calls predict_on_batch and train_on_batch, for the generator's
train_on_batch of generator, critic and constraint together. Compilation is timed apart; each
speed is that of the fastest of a few blocks of steps, for other processes only slow them down.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, ops

from ccdcgan.models.backend import TENSORFLOW, input_gradient, value_and_gradients
from ccdcgan.models.gan import training as gan
from ccdcgan.models.gan.generators import build_networks
from ccdcgan.models.paper.networks import build_paper_constraint, folded_side
from ccdcgan.models.presets import PRESETS, GanSettings
from ccdcgan.models.representation.protocol import Composition, Conditions
from ccdcgan.models.training import make_deterministic

ROWS, COMPOSITIONS, ELEMENTS, BLOCKS = 1000, 80, 3, 5


class Player(keras.Model):
    """A network that learns by `train_on_batch` from a loss of its own."""

    def __init__(self, network: keras.Model, others: list[keras.Model], loss: Any) -> None:
        super().__init__()
        self.network, self.others, self.own_loss = network, others, loss

    def call(self, x: Any) -> Any:
        return self.network(x)

    def train_step(self, *inputs: Any) -> Any:
        if TENSORFLOW:
            return self.learn(inputs[0])
        state, data = inputs
        parts = [
            self.trainable_variables, self.non_trainable_variables, self.optimizer.variables,
            self.metrics_variables,
        ]  # fmt: skip
        pairs = [p for v, s in zip(parts, state, strict=True) for p in zip(v, s, strict=True)]
        with keras.StatelessScope(pairs) as scope:
            logs = self.learn(data)
        return logs, tuple([scope.get_current_value(v) for v in part] for part in parts)

    def learn(self, data: Any) -> dict[str, Any]:
        variables = self.network.trainable_variables
        loss, _, gradients = value_and_gradients(lambda: (self.own_loss(data[0]), ()), variables)
        self.optimizer.apply(gradients, variables)
        return {"loss": loss}


def adam(settings: GanSettings) -> keras.optimizers.Optimizer:
    """The optimizer of either network."""
    return keras.optimizers.Adam(settings.learning_rate, beta_1=0.5, beta_2=0.999)


def wasserstein_loop(
    generator: keras.Model, critic: keras.Model, constraint: keras.Model, settings: GanSettings
) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """Functions that train the critic on (real, fake), and the generator on its inputs."""

    def critic_loss(data: Any) -> Any:
        real, fake, t = data
        gradient = input_gradient(lambda x: critic(x, training=True), real + t * (fake - real))
        norm = ops.sqrt(ops.sum(gradient**2, axis=1) + 1e-12)
        distance = ops.mean(critic(real, training=True)) - ops.mean(critic(fake, training=True))
        return settings.penalty * ops.mean((norm - 1.0) ** 2) - distance

    def generator_loss(data: Any) -> Any:
        fake = generator(data, training=True)
        energy = ops.mean(constraint(fake, training=False))
        return settings.omega * energy - ops.mean(critic(fake, training=True))

    players = (
        Player(critic, [], critic_loss),
        Player(generator, [critic, constraint], generator_loss),
    )
    for player in players:
        player.compile(optimizer=adam(settings), jit_compile=False if TENSORFLOW else "auto")
        player.optimizer.build(player.network.trainable_variables)
        player.built = True

    def train_critic(real: Any, fake: Any) -> None:
        t = np.random.random_sample((len(real), 1)).astype(np.float32)
        players[0].train_on_batch((real, fake, t))

    return train_critic, players[1].train_on_batch


def cross_entropy_loop(
    generator: keras.Model, critic: keras.Model, constraint: keras.Model, settings: GanSettings
) -> tuple[Callable[[Any, Any], Any], Callable[[Any], Any]]:
    """The same with Keras's own losses: the usual DCGAN."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    jit = False if TENSORFLOW else "auto"
    critic.compile(optimizer=adam(settings), loss=loss, jit_compile=jit)
    ones, zeros = np.ones((settings.batch, 1)), np.zeros((settings.batch, 1))
    constraint.trainable = critic.trainable = False
    z = keras.Input(generator.input_shape[1:])
    fake = generator(z)
    both = keras.Model(z, [critic(fake), constraint(fake)])
    losses = [loss, lambda _, energy: ops.mean(energy)]
    both.compile(
        optimizer=adam(settings), loss=losses, loss_weights=[1.0, settings.omega], jit_compile=jit
    )

    def train_critic(real: Any, fake: Any) -> None:
        critic.trainable = True
        critic.train_on_batch(real, ones)
        critic.train_on_batch(fake, zeros)
        critic.trainable = False

    def train_generator(inputs: Any) -> None:
        both.train_on_batch(inputs, [ones, zeros])

    return train_critic, train_generator


def plain_steps_per_second(
    data: Any, settings: GanSettings, conditions: Conditions, constraint: Any, steps: int
) -> float:
    """Speed of the usual Keras loop."""
    generator, critic = build_networks(data, np.ones(len(data)), settings, 0, conditions)
    recipe = cross_entropy_loop if settings.loss == "bce" else wasserstein_loop
    train_critic, train_generator = recipe(generator, critic, constraint, settings)

    def inputs() -> Any:
        z = np.random.standard_normal((settings.batch, generator.inputs[0].shape[1]))
        rows = np.random.randint(0, len(data), settings.batch)
        z = z.astype(np.float32)
        composition = conditions.composition
        return z if composition is None else [z, data[rows][:, composition.columns]]

    def step() -> None:
        for _ in range(settings.critic_steps):
            real = data[np.random.randint(0, len(data), settings.batch)]
            train_critic(real, generator.predict_on_batch(inputs()))
        x = inputs()
        # A tuple of inputs would be taken for inputs and targets.
        train_generator(x if settings.loss == "bce" else (x,))

    times = []
    for _ in range(BLOCKS + 1):
        start = perf_counter()
        for _ in range(steps):
            step()
        times.append(perf_counter() - start)
    return steps / min(times)


def compiled_steps_per_second(
    data: Any, settings: GanSettings, conditions: Conditions, constraint: Any, steps: int
) -> tuple[float, float]:
    """Speed of `train_gan`, and seconds before its second chunk: building and compiling."""
    gan.CHUNK, gan.XLA_STEPS = steps, 0
    times = [perf_counter()]
    gan.train_gan(
        data, np.ones(len(data)), replace(settings, steps=(BLOCKS + 1) * steps), constraint, 0,
        conditions=conditions, progress=lambda *_: times.append(perf_counter()),
    )  # fmt: skip
    return steps / np.diff(times[1:]).min(), times[1] - times[0]


def main() -> int:
    """Time both and print the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("default", "paper"), default="default")
    parser.add_argument("--steps", type=int, help="steps of a measurement")
    arguments = parser.parse_args()
    settings = PRESETS[arguments.preset].gan
    steps = arguments.steps or {"default": 40, "paper": 3}[arguments.preset]
    make_deterministic(0)
    rng = np.random.default_rng(0)
    conditions = Conditions()
    if arguments.preset == "paper":
        side = folded_side(1 + ELEMENTS)
        data = np.tanh(rng.normal(size=(ROWS, side, side, 1))).astype(np.float32)
        constraint = build_paper_constraint(side)
    else:
        data = rng.normal(size=(ROWS, settings.latent)).astype(np.float32)
        composition = Composition(9, np.ones(ELEMENTS), np.full(ELEMENTS, 6.0))
        known = rng.integers(-5, 6, (COMPOSITIONS, ELEMENTS))
        conditions = Conditions(composition)
        data[:, composition.columns] = known[rng.integers(0, COMPOSITIONS, ROWS)]
        x = keras.Input((settings.latent,))
        hidden = layers.Dense(256, "silu")(layers.Dense(256, "silu")(x))
        constraint = keras.Model(x, layers.Dense(1)(hidden))
    case = (data, settings, conditions)
    speed, seconds = compiled_steps_per_second(*case, constraint, steps)
    alone = replace(settings, variant="dcgan")
    without, _ = compiled_steps_per_second(data, alone, conditions, None, steps)
    plain = plain_steps_per_second(*case, constraint, steps)
    line = {
        "preset": arguments.preset,
        "backend": keras.backend.backend(),
        "device": keras.distribution.list_devices()[0],
        "batch": settings.batch,
        "steps_per_second": round(speed, 2),
        "without_constraint": round(without, 2),
        "train_on_batch": round(plain, 2),
        "ratio": round(speed / plain, 2),
        "seconds_of_first_chunk": round(seconds, 1),
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
