"""The networks of the paper: their layers against its tables, folding, saving, one step."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import pytest

from ccdcgan.models.paper import networks as paper


def weighted(model: keras.Model) -> list[tuple[tuple[int, ...], int]]:
    """Output shape without the batch, and number of parameters, of the layers that have any."""
    return [
        (tuple(layer.output.shape[1:]), layer.count_params())
        for layer in model.layers
        if layer.count_params()
    ]


def kernels(model: keras.Model) -> list[np.ndarray]:
    """A bias before a batch normalisation has no gradient, so that only kernels must move."""
    pairs = zip(model.weights, model.get_weights(), strict=True)
    return [value for weight, value in pairs if weight.name == "kernel"]


@pytest.mark.parametrize(
    ("build", "points", "inner", "code"),
    [
        (paper.build_paper_sites_autoencoder, 64, [32, 16, 8, 4], 200),
        (paper.build_paper_lattice_autoencoder, 32, [16, 8, 4], 25),
    ],
)
def test_autoencoder_layers(
    build: Callable[[], keras.Model], points: int, inner: list[int], code: int
) -> None:
    model = build()
    encoder, decoder = model.get_layer("encoder"), model.get_layer("decoder")
    voxels = (None, points, points, points, 1)
    assert model.input_shape == model.output_shape == voxels
    assert encoder.input_shape == voxels and encoder.output_shape == (None, code)
    assert decoder.input_shape == (None, code) and decoder.output_shape == voxels
    middle = 4**3 * 64 * 64 + 64
    expected = [((n, n, n, 64), middle) for n in inner]
    expected[0] = (expected[0][0], 4**3 * 1 * 64 + 64)
    assert weighted(encoder) == [*expected, ((1, 1, 1, code), 4**3 * 64 * code + code)]
    expected = [((n, n, n, 64), middle) for n in reversed(inner)]
    expected[0] = (expected[0][0], 4**3 * code * 64 + 64)
    assert weighted(decoder) == [*expected, ((points, points, points, 1), 4**3 * 64 * 1 + 1)]
    assert encoder.layers[-2].activation is keras.activations.tanh
    assert decoder.layers[-1].activation is keras.activations.sigmoid
    slopes = [x.negative_slope for x in encoder.layers if isinstance(x, keras.layers.LeakyReLU)]
    assert slopes == [0.2] * len(inner)


def test_autoencoder_totals() -> None:
    # 4³·64·64 + 64 = 262,208 three times on either side of the sites' code, twice of the lattice's.
    sites = 2 * 3 * 262_208 + 4_160 + (819_200 + 200) + (819_200 + 64) + 4_097
    lattice = 2 * 2 * 262_208 + 4_160 + (102_400 + 25) + (102_400 + 64) + 4_097
    assert paper.build_paper_sites_autoencoder().count_params() == sites == 3_220_169
    assert paper.build_paper_lattice_autoencoder().count_params() == lattice == 1_261_978


def test_weight_penalty_is_half_lambda_times_sum_of_squares() -> None:
    model = paper.build_paper_sites_autoencoder(points=8, filters=4, code=6)
    values = kernels(model)
    assert len(values) == 4
    expected = 0.5 * 1e-6 * sum(float((w.astype(float) ** 2).sum()) for w in values)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("points", [-8, 0, 4, 12, 48, 65])
def test_autoencoder_refuses_grids_that_do_not_halve(points: int) -> None:
    with pytest.raises(ValueError, match="points"):
        paper.build_paper_sites_autoencoder(points=points)


def test_generator_layers() -> None:
    model = paper.build_paper_generator()
    assert model.input_shape == (None, 200) and model.output_shape == (None, 28, 28, 1)
    assert weighted(model) == [
        ((6272,), 200 * 6272 + 6272),
        ((14, 14, 128), 3**2 * 128 * 128 + 128),
        ((14, 14, 128), 4 * 128),
        ((28, 28, 64), 3**2 * 128 * 64 + 64),
        ((28, 28, 64), 4 * 64),
        ((28, 28, 1), 3**2 * 64 * 1 + 1),
    ]
    assert model.count_params() == 1_260_672 + 147_584 + 512 + 73_792 + 256 + 577
    assert model.layers[-1].activation is keras.activations.tanh


CONVOLUTIONS = [
    ((14, 14, 32), 3**2 * 1 * 32 + 32),
    ((7, 7, 64), 3**2 * 32 * 64 + 64),
    ((8, 8, 64), 4 * 64),
    ((4, 4, 128), 3**2 * 64 * 128 + 128),
    ((4, 4, 128), 4 * 128),
    ((4, 4, 256), 3**2 * 128 * 256 + 256),
    ((4, 4, 256), 4 * 256),
]


def test_discriminator_layers() -> None:
    model = paper.build_paper_discriminator()
    assert model.input_shape == (None, 28, 28, 1)
    assert weighted(model) == [*CONVOLUTIONS, ((1,), 4 * 4 * 256 * 1 + 1)]
    assert model.layers[-1].activation is keras.activations.sigmoid


def test_constraint_layers() -> None:
    model = paper.build_paper_constraint()
    assert model.input_shape == (None, 28, 28, 1)
    assert weighted(model) == [
        *CONVOLUTIONS,
        ((1024,), 4 * 4 * 256 * 1024 + 1024),
        ((256,), 1024 * 256 + 256),
        ((256,), 256 * 256 + 256),
        ((256,), 256 * 256 + 256),
        ((64,), 256 * 64 + 64),
        ((1,), 64 * 1 + 1),
    ]
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("build", [paper.build_paper_discriminator, paper.build_paper_constraint])
def test_shared_blocks(build: Callable[[], keras.Model]) -> None:
    layers = build().layers
    rates = [x.rate for x in layers if isinstance(x, keras.layers.Dropout)]
    momenta = [x.momentum for x in layers if isinstance(x, keras.layers.BatchNormalization)]
    slopes = {x.negative_slope for x in layers if isinstance(x, keras.layers.LeakyReLU)}
    assert (rates, momenta, slopes) == ([0.25] * 4, [0.8] * 3, {0.2})


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 8, 32, 128])
def test_fold_and_back(n_rows: int) -> None:
    rows = np.random.default_rng(n_rows).standard_normal((2, n_rows, 200)).astype(np.float32)
    images = paper.fold(rows)
    side = next(s for s in range(4, 1000, 4) if s * s >= n_rows * 200)
    assert images.shape == (2, side, side, 1) and images.dtype == np.float32
    assert not images.reshape(2, -1)[:, n_rows * 200 :].any()
    np.testing.assert_array_equal(paper.unfold(images, n_rows), rows)


def test_three_rows_fold_into_28() -> None:
    images = paper.fold(np.arange(1, 601, dtype=float).reshape(1, 3, 200))
    assert images.shape == (1, 28, 28, 1)
    assert images[0, 1, 0, 0] == 29 and np.count_nonzero(images) == 600


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        paper.fold(np.zeros((3, 200)))
    with pytest.raises(ValueError, match="one row"):
        paper.fold(np.zeros((2, 0, 200)))
    with pytest.raises(ValueError, match="28"):
        paper.unfold(np.zeros((2, 32, 32, 1)), 3)
    for build in (paper.build_paper_generator, paper.build_paper_discriminator):
        with pytest.raises(ValueError, match="multiple of 4"):
            build(side=30)


@pytest.mark.parametrize("side", [20, 32])
def test_networks_of_other_sides(side: int) -> None:
    generator = paper.build_paper_generator(noise=10, side=side)
    assert generator.output_shape == (None, side, side, 1)
    assert paper.build_paper_discriminator(side).input_shape == generator.output_shape
    assert paper.build_paper_constraint(side).output_shape == (None, 1)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: paper.build_paper_sites_autoencoder(8, 4, 6), (8, 8, 8, 1)),
        (lambda: paper.build_paper_lattice_autoencoder(16, 4, 5), (16, 16, 16, 1)),
        (paper.build_paper_generator, (200,)),
        (paper.build_paper_discriminator, (28, 28, 1)),
        (paper.build_paper_constraint, (28, 28, 1)),
    ],
)
def test_saved_and_loaded_alike(
    build: Callable[[], keras.Model], shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = build()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32)
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)
    assert float(sum(loaded.losses)) == pytest.approx(float(sum(model.losses)), rel=1e-5)


def test_decoder_is_a_model_of_its_own() -> None:
    model = paper.build_paper_sites_autoencoder(8, 4, 6)
    x = np.random.default_rng(0).random((2, 8, 8, 8, 1), np.float32)
    code = model.get_layer("encoder")(x)
    assert float(np.abs(code).max()) < 1
    np.testing.assert_allclose(model.get_layer("decoder")(code), model(x), rtol=1e-5)


def test_optimizers_are_those_of_the_paper() -> None:
    for settings, values in [
        (paper.AUTOENCODER, (0.003, 0.9, 0.99)),
        (paper.GAN, (0.002, 0.5, 0.999)),
        (paper.CONSTRAINT, (0.002, 0.5, 0.999)),
    ]:
        adam = settings.build()
        got = (float(adam.learning_rate), adam.beta_1, adam.beta_2)
        assert got == pytest.approx(values) and settings.build() is not adam
    assert (paper.AUTOENCODER.batch, paper.GAN.batch) == (16, 128)


def test_one_step_changes_the_weights() -> None:
    rng = np.random.default_rng(0)
    images = paper.fold(rng.uniform(-1, 1, (4, 3, 200)).astype(np.float32))
    discriminator, constraint = paper.build_paper_discriminator(), paper.build_paper_constraint()
    for model, loss, settings in [
        (discriminator, "binary_crossentropy", paper.GAN),
        (constraint, "mse", paper.CONSTRAINT),
    ]:
        model.compile(settings.build(), loss, run_eagerly=True)
        before = kernels(model)
        assert np.isfinite(model.train_on_batch(images, rng.random((4, 1))))
        assert all((old != new).any() for old, new in zip(before, kernels(model), strict=True))

    generator = paper.build_paper_generator()
    discriminator.trainable = False
    frozen = discriminator.get_weights()
    both = keras.Sequential([generator, discriminator])
    both.compile(paper.GAN.build(), "binary_crossentropy", run_eagerly=True)
    before = kernels(generator)
    noise = rng.standard_normal((4, 200)).astype(np.float32)
    assert np.isfinite(both.train_on_batch(noise, np.ones((4, 1))))
    assert all((old != new).any() for old, new in zip(before, kernels(generator), strict=True))
    for old, new in zip(frozen, discriminator.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
