"""Sites autoencoder of the default preset: one picture of one element to a short code and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from ccdcgan.models.backend import compile_options
from ccdcgan.models.representation.voxels import FloatArray, SitesGrid
from ccdcgan.models.training import TrainingLog, load_checkpoint, save_checkpoint

#: Edge, in grid points, of the cubes that the grid is cut into.
PATCH = 4


@keras.saving.register_keras_serializable("ccdcgan")
class PeriodicConvolution(layers.Layer):
    """3×3×3 convolution on a periodic grid, (batch, n, n, n, c) to (batch, n, n, n, filters).

    Written as 27 rolled copies and one matrix product: TensorFlow has no fast gradient of a
    three-dimensional convolution on a CPU (measured: four times slower and more).
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.dense = layers.Dense(filters)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.dense.build((*input_shape[:-1], 27 * int(input_shape[-1] or 0)))
        self.built = True

    def call(self, x: Any) -> Any:
        steps = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
        return self.dense(ops.concatenate([ops.roll(x, s, axis=(1, 2, 3)) for s in steps], -1))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("ccdcgan")
class Patches(layers.Layer):
    """(batch, nx, ny, nz, 1) to (batch, nx/4, ny/4, nz/4, 64): every 4×4×4 cube becomes a pixel.

    With `join`, the other way round.
    """

    def __init__(self, join: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.join = join

    def call(self, x: Any) -> Any:
        _, a, b, c, _ = ops.shape(x)
        if self.join:
            cubes = ops.reshape(x, (-1, a, b, c, PATCH, PATCH, PATCH))
            shape = (-1, a * PATCH, b * PATCH, c * PATCH, 1)
            return ops.reshape(ops.transpose(cubes, (0, 1, 4, 2, 5, 3, 6)), shape)
        a, b, c = a // PATCH, b // PATCH, c // PATCH
        cubes = ops.reshape(x, (-1, a, PATCH, b, PATCH, c, PATCH))
        return ops.reshape(ops.transpose(cubes, (0, 1, 3, 5, 2, 4, 6)), (-1, a, b, c, PATCH**3))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        edges = [
            None if n is None else n * PATCH if self.join else n // PATCH for n in input_shape[1:4]
        ]
        return (input_shape[0], *edges, 1 if self.join else PATCH**3)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "join": self.join}


def build_sites_autoencoder(
    filters: int = 64, blocks: int = 2, depth: int = 4, noise: float = 0.2
) -> keras.Model:
    """Autoencoder of periodic sites voxels whose code keeps its place in space.

    It is convolutional throughout and takes grids of any shape, so that one set of weights serves
    cells of every aspect ratio.

    Parameters
    ----------
    filters, blocks
        Channels and residual blocks on either side of the code.
    depth
        Numbers in the code for each 4×4×4 cube of grid points, in (-1, 1).
    noise
        Standard deviation of the noise that training puts on the code. What a GAN draws is never
        exactly a code; the decoder learns to forgive.

    Returns
    -------
    model
        With the submodels ``encoder`` (batch, nx, ny, nz, 1) -> (batch, nx/4, ny/4, nz/4, depth)
        and ``decoder`` back to voxels; edges are multiples of 4.
    """
    picture = keras.Input((None, None, None, 1), name="voxels")
    x = PeriodicConvolution(filters)(Patches()(picture))
    x = _residual(x, filters, blocks)
    encoder = keras.Model(picture, layers.Dense(depth, activation="tanh")(x), name="encoder")

    code = keras.Input((None, None, None, depth), name="code")
    y = _residual(PeriodicConvolution(filters)(code), filters, blocks)
    y = PeriodicConvolution(PATCH**3)(y)
    decoder = keras.Model(code, Patches(join=True)(y), name="decoder")
    noisy = layers.GaussianNoise(noise)(encoder(picture))
    return keras.Model(picture, decoder(noisy), name="sites_autoencoder")


def _residual(x: Any, filters: int, blocks: int) -> Any:
    for _ in range(blocks):
        y = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
        x = layers.Add()([x, PeriodicConvolution(filters)(y)])
    return layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))


@keras.saving.register_keras_serializable("ccdcgan")
def peak_weighted_mse(target: Any, prediction: Any) -> Any:
    """Mean squared error with weight 1 + 9x: an atom fills few of the voxels."""
    error = ops.square(target - prediction) * (1.0 + 9.0 * target)
    return ops.mean(error, axis=tuple(range(1, len(error.shape))))


#: Grid shapes of the training, as edges relative to the grid's points, and how often each comes:
#: a crystal's grid follows its cell, and most cells are nearly as long as wide.
SHAPES = (((1, 1, 1), 0.5), ((0.5, 1, 2), 0.25), ((0.5, 0.5, 4), 0.15), ((0.25, 2, 2), 0.05),
          ((0.25, 1, 4), 0.05))  # fmt: skip
#: Share of pictures that get close pairs of atoms, and the pairs' distances in grid spacings:
#: random crystals hardly have such pairs, some molecules and long cells do.
CROWDED, CLOSE = 0.2, (1.5, 4.0)

#: Fractional coordinates (n_atoms, 3) of the atoms of one element, and the cell's lengths.
Picture = tuple[FloatArray, Sequence[float]]


class Pictures:
    """Batches of single-element pictures, each moved, turned and mirrored at random.

    The crystal stays the same under a shift of the origin and a renaming of the axes, so that
    every epoch sees other pictures of it. A batch has one grid shape; the long axis of a crystal
    mostly lies along that of the grid. Batch `i` of epoch `e` depends on the seed, e and i alone.
    """

    def __init__(
        self, pictures: Sequence[Picture], grid: SitesGrid, batch: int, steps: int, seed: int
    ) -> None:
        self.pictures, self.grid, self.batch, self.steps = pictures, grid, batch, steps
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return self.steps

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        kind = rng.choice(len(SHAPES), p=[p for _, p in SHAPES])
        shape = (rng.permutation(SHAPES[kind][0]) * self.grid.points).astype(int)
        moved = []
        for i in rng.integers(len(self.pictures), size=self.batch):
            coords, lengths = self.pictures[i]
            axes = rng.permutation(3)
            if rng.random() < 0.8:
                axes = np.argsort(lengths, kind="stable")[
                    np.argsort(np.argsort(shape, kind="stable"))
                ]
            coords = np.asarray(coords)[:, axes] * rng.choice([-1, 1], 3) + rng.random(3)
            if rng.random() < CROWDED:
                coords = _with_close_pairs(coords, shape, rng)
            moved.append(coords)
        voxels = self.grid.encode(moved, tuple(shape))[..., None]
        return voxels, voxels


def _with_close_pairs(
    coords: FloatArray, shape: NDArray[np.int_], rng: np.random.Generator
) -> FloatArray:
    for _ in range(rng.integers(1, 3)):
        direction = rng.normal(size=3)
        direction *= rng.uniform(*CLOSE) / np.linalg.norm(direction)
        near = coords[rng.integers(len(coords))] + direction / shape
        coords = np.concatenate([coords, near[None]])
    return coords


def train_sites_autoencoder(
    pictures: Sequence[Picture],
    grid: SitesGrid,
    epochs: int,
    seed: int,
    batch: int = 32,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    log: TrainingLog | None = None,
) -> keras.Model:
    """Train the default sites autoencoder on single-element pictures.

    A training that was killed goes on from its checkpoint to the same network.

    Parameters
    ----------
    pictures
        Atoms of one element of one crystal each.
    grid
        Periodic sites grid.
    epochs
        Passes over the pictures, each time moved, turned and mirrored at random.
    seed
        Seed of the pictures; seed Keras beforehand for the weights.
    checkpoint
        File that holds the state between epochs.
    progress
        Called with (epochs done, epochs).
    log
        Where the losses are written.
    """
    model = build_sites_autoencoder()
    steps = max(1, len(pictures) // batch)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps * epochs, alpha=0.01)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-5)
    model.compile(optimizer, peak_weighted_mse, **compile_options())
    data = Pictures(pictures, grid, batch, steps, seed)
    optimizer.build(model.trainable_variables)
    variables = [*model.variables, *optimizer.variables]
    state = load_checkpoint(checkpoint, variables) if checkpoint else None
    data.epoch = int(state["done"]) if state else 0
    if log is not None:
        log.resume(data.epoch)
    # Keras's `fit` takes no data whose batches differ in shape.
    for epoch in range(data.epoch, epochs):
        losses = [float(model.train_on_batch(*data[i])) for i in range(steps)]
        model.reset_metrics()
        data.on_epoch_end()
        if log is not None:
            log.write(epoch + 1, training=float(np.mean(losses)))
        if checkpoint is not None:
            save_checkpoint(checkpoint, variables, done=epoch + 1)
        if progress is not None:
            progress(epoch + 1, epochs)
    return model
