"""Sites autoencoder of the default preset: one picture of one element to a short code and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from ccdcgan.models.voxels import FloatArray, SitesGrid

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
    """(batch, n, n, n, 1) to (batch, n/4, n/4, n/4, 64), or back: every 4×4×4 cube one pixel."""

    def __init__(self, points: int, join: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.points, self.join = points, join
        m = points // PATCH
        cut = np.arange(points**3).reshape(m, PATCH, m, PATCH, m, PATCH)
        index = cut.transpose(0, 2, 4, 1, 3, 5).ravel()
        self.index = (np.argsort(index) if join else index).astype("int32")
        self.shape_out = (points,) * 3 + (1,) if join else (m, m, m, PATCH**3)

    def call(self, x: Any) -> Any:
        flat = ops.reshape(x, (-1, self.points**3))
        return ops.reshape(ops.take(flat, self.index, axis=1), (-1, *self.shape_out))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.shape_out)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "points": self.points, "join": self.join}


def build_sites_autoencoder(
    points: int = 16, filters: int = 64, blocks: int = 2, depth: int = 4, noise: float = 0.2
) -> keras.Model:
    """Autoencoder of periodic sites voxels whose code keeps its place in space.

    Parameters
    ----------
    points
        Grid points along an axis, a multiple of 4.
    filters, blocks
        Channels and residual blocks on either side of the code.
    depth
        Numbers in the code for each 4×4×4 cube of grid points: the code has
        ``depth * (points / 4)**3`` numbers in (-1, 1).
    noise
        Standard deviation of the noise that training puts on the code. What a GAN draws is never
        exactly a code; the decoder learns to forgive.

    Returns
    -------
    model
        With the submodels ``encoder`` (batch, points, points, points, 1) -> (batch, code) and
        ``decoder`` back to voxels.
    """
    m = points // PATCH
    picture = keras.Input((points, points, points, 1), name="voxels")
    x = PeriodicConvolution(filters)(Patches(points)(picture))
    x = _residual(x, filters, blocks)
    x = layers.Dense(depth, activation="tanh")(x)
    encoder = keras.Model(picture, layers.Flatten()(x), name="encoder")

    code = keras.Input((depth * m**3,), name="code")
    y = PeriodicConvolution(filters)(layers.Reshape((m, m, m, depth))(code))
    y = _residual(y, filters, blocks)
    y = PeriodicConvolution(PATCH**3)(y)
    decoder = keras.Model(code, Patches(points, join=True)(y), name="decoder")
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


class Pictures(keras.utils.PyDataset):
    """Batches of single-element pictures, each moved, turned and mirrored at random.

    The crystal stays the same under a shift of the origin and a renaming of the axes, so that
    every epoch sees other pictures of it. Batch `i` of epoch `e` depends on the seed, e and i
    alone.
    """

    def __init__(
        self,
        coords: Sequence[FloatArray],
        grid: SitesGrid,
        batch: int,
        steps: int,
        seed: int,
        start: int = 0,
    ) -> None:
        super().__init__()
        self.coords, self.grid, self.batch, self.steps = coords, grid, batch, steps
        self.seed, self.epoch = seed, start

    def __len__(self) -> int:
        return self.steps

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        chosen = rng.integers(len(self.coords), size=self.batch)
        moved = [
            np.asarray(self.coords[i])[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
            + rng.random(3)
            for i in chosen
        ]
        voxels = self.grid.encode(moved)[..., None]
        return voxels, voxels


def train_sites_autoencoder(
    pictures: Sequence[FloatArray], grid: SitesGrid, epochs: int, seed: int, batch: int = 32
) -> keras.Model:
    """Train the default sites autoencoder on single-element pictures.

    Parameters
    ----------
    pictures
        Fractional coordinates (n_atoms, 3) of the atoms of one element of one crystal each.
    grid
        Periodic sites grid.
    epochs
        Passes over the pictures, each time moved, turned and mirrored at random.
    seed
        Seed of the pictures; seed Keras beforehand for the weights.
    """
    model = build_sites_autoencoder(grid.points)
    steps = max(1, len(pictures) // batch)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps * epochs, alpha=0.01)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-5), peak_weighted_mse)
    model.fit(Pictures(pictures, grid, batch, steps, seed), epochs=epochs, verbose=0)
    return model
