"""The networks of Long et al. (2021), as in the tables of the paper.

Its Supplementary Tables 1 to 5 give the layers, its Methods the optimisers; every departure from
the paper, or from the code released with it, is commented where it is made. The builders return
models that are not compiled: the loss belongs to the training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from ccdcgan.models.representation.voxels import FloatArray

#: Numbers in a row of the crystal graph: the code of one element, or of the lattice and zeros.
ROW = 200

#: λ of eq. (5). The released code sets it to zero; the paper does not.
WEIGHT_DECAY = 1e-6

#: Negative slope of the leaky ReLU; momentum of the batch normalisation (Keras's own is 0.99).
SLOPE, MOMENTUM, DROPOUT = 0.2, 0.8, 0.25


@dataclass(frozen=True)
class PaperOptimizer:
    """Settings of Adam (paper, Methods).

    Attributes
    ----------
    learning_rate, beta_1, beta_2
        As the paper has them. The released code learns ten times slower, with 0.0003 and 0.0002
        in place of 0.003 and 0.002.
    batch
        Samples of a step. The main text gives no batch size, the released code trains the
        autoencoders on one picture a step.
    """

    learning_rate: float
    beta_1: float
    beta_2: float
    batch: int

    def build(self, epsilon: float = 1e-7) -> keras.optimizers.Optimizer:
        """A new optimiser: Keras ties one to the variables of a single model.

        The paper does not name Adam's ``epsilon``, beside which gradients are small.
        """
        return keras.optimizers.Adam(
            self.learning_rate, beta_1=self.beta_1, beta_2=self.beta_2, epsilon=epsilon
        )


AUTOENCODER = PaperOptimizer(0.003, 0.9, 0.99, batch=16)
#: Adam's epsilon for the autoencoders, times the mean squared norm of a picture, by which the
#: gradients of eq. (5) grow. With a small one Adam takes steps of 0.003 however small the gradients
#: are: while only what all pictures share is learnt, the codes of all of them drift to the same ±1,
#: where their tanh has no gradient left (docs/paper.md).
EPSILON = 5e-4

GAN = PaperOptimizer(0.002, 0.5, 0.999, batch=128)
CONSTRAINT = PaperOptimizer(0.002, 0.5, 0.999, batch=128)


def build_paper_sites_autoencoder(
    points: int = 64, filters: int = 64, code: int = 200
) -> keras.Model:
    """Autoencoder of the sites voxel of one element (Supplementary Table 1; Methods).

    Parameters
    ----------
    points
        Grid points along an axis, 4 times a power of two: 64 gives the five convolutions of the
        encoder and the five of the decoder.
    filters
        Channels of every layer but the last of either half.
    code
        Numbers in the code, each in (-1, 1).

    Returns
    -------
    model
        (batch, points, points, points, 1) to the same shape, with the submodels ``encoder`` to
        (batch, code) and ``decoder`` back. Keras adds the penalty λ/2 Σ w² of eq. (5), 3e-4 for
        new weights, to any loss.
    """
    return _autoencoder(points, filters, code, "paper_sites_autoencoder")


def build_paper_lattice_autoencoder(
    points: int = 32, filters: int = 64, code: int = 25
) -> keras.Model:
    """Autoencoder of the lattice voxel (Supplementary Table 2; Methods).

    Parameters and result are those of `build_paper_sites_autoencoder`; 32 points give four
    convolutions on either side. Who builds a crystal graph pads the code with zeros to a row.
    """
    return _autoencoder(points, filters, code, "paper_lattice_autoencoder")


def _autoencoder(points: int, filters: int, code: int, name: str) -> keras.Model:
    # The Methods give a stride of 2 to all convolutions "except the first and last"; five of them
    # then end on 8³ points, which no 4³ kernel takes to a single point. The first has it, too.
    halvings = max(points, 1).bit_length() - 3
    if halvings < 1 or points != 4 << halvings:
        raise ValueError(f"points must be 8, 16, 32, 64, ..., not {points}")

    def options(strides: int, padding: str) -> dict[str, Any]:
        # Keras's L2(x) is x Σ w², eq. (5) has λ/2. Biases are no weights: a penalty on them would
        # not prevent overfitting. The tables name no initial values, so that Keras's stay.
        decay = keras.regularizers.L2(WEIGHT_DECAY / 2)
        return {"strides": strides, "padding": padding, "kernel_regularizer": decay}

    voxels = keras.Input((points, points, points, 1), name="voxels")
    x = voxels
    for _ in range(halvings):
        x = layers.Conv3D(filters, 4, **options(2, "same"))(x)
        x = layers.LeakyReLU(SLOPE)(x)
    x = layers.Conv3D(code, 4, activation="tanh", **options(1, "valid"))(x)
    encoder = keras.Model(voxels, layers.Flatten()(x), name="encoder")

    latent = keras.Input((code,), name="code")
    y = layers.Reshape((1, 1, 1, code))(latent)
    y = layers.Conv3DTranspose(filters, 4, **options(1, "valid"))(y)
    y = layers.LeakyReLU(SLOPE)(y)
    for _ in range(halvings - 1):
        y = layers.Conv3DTranspose(filters, 4, **options(2, "same"))(y)
        y = layers.LeakyReLU(SLOPE)(y)
    # The released code sends this sigmoid through a step function while it trains; its gradient
    # vanishes almost everywhere, and the paper does not have it.
    y = layers.Conv3DTranspose(1, 4, activation="sigmoid", **options(2, "same"))(y)
    decoder = keras.Model(latent, y, name="decoder")
    return keras.Model(voxels, decoder(encoder(voxels)), name=name)


def build_paper_generator(noise: int = 200, side: int = 28) -> keras.Model:
    """Generator of crystal graphs (Supplementary Table 3).

    Parameters
    ----------
    noise
        Numbers that it starts from.
    side
        Edge of the folded crystal graph, a multiple of 4; 28 in the paper.

    Returns
    -------
    model
        (batch, noise) to (batch, side, side, 1), in (-1, 1) as the codes are.
    """
    _check_side(side)
    quarter = side // 4
    z = keras.Input((noise,), name="noise")
    x = layers.Dense(128 * quarter**2, activation="relu")(z)
    x = layers.Reshape((quarter, quarter, 128))(x)
    for filters in (128, 64):
        x = layers.UpSampling2D()(x)
        x = layers.Conv2D(filters, 3, padding="same")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM)(x)
        x = layers.ReLU()(x)
    x = layers.Conv2D(1, 3, padding="same", activation="tanh")(x)
    return keras.Model(z, x, name="paper_generator")


def build_paper_discriminator(side: int = 28) -> keras.Model:
    """Discriminator of crystal graphs (Supplementary Table 4).

    Returns
    -------
    model
        (batch, side, side, 1) to (batch, 1), the probability that a graph is real.
    """
    image, features = _convolutions(side)
    real = layers.Dense(1, activation="sigmoid")(features)
    return keras.Model(image, real, name="paper_discriminator")


def build_paper_constraint(side: int = 28, targets: int = 1) -> keras.Model:
    """Formation energy of a crystal graph, eV/atom (Supplementary Table 5), or more properties.

    Returns
    -------
    model
        (batch, side, side, 1) to (batch, targets).
    """
    image, x = _convolutions(side)
    for units in (1024, 256, 256, 256, 64):
        x = layers.LeakyReLU(SLOPE)(layers.Dense(units)(x))
    # No activation here: a leaky ReLU would press the negative energies, the ones sought, by five.
    return keras.Model(image, layers.Dense(targets)(x), name="paper_constraint")


def _convolutions(side: int) -> tuple[Any, Any]:
    """The four blocks that discriminator and constraint share, from image to flat features."""
    _check_side(side)
    image = keras.Input((side, side, 1), name="graph")
    x = image
    for filters, strides in ((32, 2), (64, 2), (128, 2), (256, 1)):
        x = layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
        # The paper pads its 7×7 image to an even 8×8; an image of even side, which only other
        # row counts have, needs no such padding.
        if filters == 64 and x.shape[1] % 2:
            x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
        if filters > 32:
            x = layers.BatchNormalization(momentum=MOMENTUM)(x)
        x = layers.Dropout(DROPOUT)(layers.LeakyReLU(SLOPE)(x))
    return image, layers.Flatten()(x)


def _check_side(side: int) -> None:
    if side < 4 or side % 4:
        raise ValueError(f"the side of a graph must be a multiple of 4, not {side}")


def folded_side(n_rows: int) -> int:
    """Smallest multiple of 4 whose square holds `n_rows` rows: 28 for the three of a binary.

    The multicomponent release of the code folds into 160×160, room for 128 rows; the zeros that a
    few elements leave there would be most of the work.
    """
    if n_rows < 1:
        raise ValueError(f"a crystal graph has at least one row, not {n_rows}")
    return 4 * math.ceil((math.isqrt(n_rows * ROW - 1) + 1) / 4)


def fold(rows: FloatArray) -> FloatArray:
    """Crystal graphs (batch, n_rows, 200) as images (batch, side, side, 1), padded with zeros.

    `folded_side` gives the side. Row follows row, so that no row is a line of the image.
    """
    rows = np.asarray(rows)
    if rows.ndim != 3 or rows.shape[2] != ROW:
        raise ValueError(f"rows must have the shape (batch, n_rows, {ROW}), not {rows.shape}")
    batch, n_rows = rows.shape[:2]
    side = folded_side(n_rows)
    images: NDArray[Any] = np.zeros((batch, side**2), rows.dtype)
    images[:, : n_rows * ROW] = rows.reshape(batch, n_rows * ROW)
    return images.reshape(batch, side, side, 1)


def unfold(images: FloatArray, n_rows: int) -> FloatArray:
    """Rows (batch, n_rows, 200) of images (batch, side, side, 1); the padding is dropped."""
    images = np.asarray(images)
    side = folded_side(n_rows)
    if images.shape[1:] != (side, side, 1):
        raise ValueError(f"{n_rows} rows fold to (batch, {side}, {side}, 1), not {images.shape}")
    flat = images.reshape(len(images), side**2)
    return flat[:, : n_rows * ROW].reshape(len(images), n_rows, ROW)
