"""The sites autoencoder: its layers, its training pictures, the shipped weights, safe loading."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.sources import AflowSource, Filters, Prototype, primitive_cell
from ccdcgan.models.presets import Preset
from ccdcgan.models.representation import autoencoder
from ccdcgan.models.representation.autoencoder import (
    PATCH,
    Patches,
    PeriodicConvolution,
    Pictures,
    build_sites_autoencoder,
    peak_weighted_mse,
)
from ccdcgan.models.representation.default import CrystalGraphs
from ccdcgan.models.representation.voxels import SitesGrid
from ccdcgan.models.sampling import SITES, shipped_autoencoder
from ccdcgan.models.saved import model_bytes, model_from_bytes

GRID = Preset().grid


@pytest.fixture(scope="module")
def shipped() -> keras.Model:
    return model_from_bytes(shipped_autoencoder()[SITES])


@pytest.fixture
def small() -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_sites_autoencoder(filters=4, blocks=1, depth=2)


def pictures(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return GRID.encode([rng.random((int(rng.integers(1, 9)), 3)) for _ in range(count)])[..., None]


def test_periodic_convolution_is_a_convolution() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 5, 5, 3)).astype("float32")
    layer = PeriodicConvolution(4)
    found = np.asarray(layer(x))
    kernel, bias = (np.asarray(w) for w in layer.get_weights())
    kernel = kernel.reshape(3, 3, 3, 3, 4)
    expected = np.zeros((2, 5, 5, 5, 4)) + bias
    for i, j, k in np.ndindex(5, 5, 5):
        for a, b, c in np.ndindex(3, 3, 3):
            neighbour = x[:, (i - a + 1) % 5, (j - b + 1) % 5, (k - c + 1) % 5]
            expected[:, i, j, k] += neighbour @ kernel[a, b, c]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert layer.compute_output_shape((None, 5, 5, 5, 3)) == (None, 5, 5, 5, 4)


def test_patches_of_a_long_grid() -> None:
    x = np.random.default_rng(1).random((2, 4, 8, 32, 1)).astype("float32")
    cut = np.asarray(Patches()(x))
    assert cut.shape == (2, 1, 2, 8, 64) == Patches().compute_output_shape((2, 4, 8, 32, 1))
    np.testing.assert_array_equal(cut[1, 0, 1, 5], x[1, :, 4:, 20:24, 0].ravel())
    np.testing.assert_array_equal(np.asarray(Patches(join=True)(cut)), x)


def test_patches_are_cubes_and_come_together_again() -> None:
    x = np.random.default_rng(1).random((2, 16, 16, 16, 1)).astype("float32")
    cut = np.asarray(Patches()(x))
    assert cut.shape == (2, 4, 4, 4, 64)
    cube = x[1, 4:8, 12:16, 0:4, 0]
    np.testing.assert_array_equal(cut[1, 1, 3, 0], cube.ravel())
    np.testing.assert_array_equal(np.asarray(Patches(join=True)(cut)), x)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_shift_by_a_patch_shifts_the_code_by_a_cell(shipped: keras.Model, axis: int) -> None:
    voxels = pictures(2, 3)
    encoder, decoder = shipped.get_layer("encoder"), shipped.get_layer("decoder")
    code = np.asarray(encoder(voxels))
    shifted = np.asarray(encoder(np.roll(voxels, PATCH, axis)))
    np.testing.assert_array_equal(shifted, np.roll(code, 1, axis))
    back = np.asarray(decoder(code))
    moved = np.asarray(decoder(np.roll(code, 1, axis)))
    np.testing.assert_array_equal(moved, np.roll(back, PATCH, axis))


def test_shapes_of_the_autoencoder(small: keras.Model) -> None:
    encoder, decoder = small.get_layer("encoder"), small.get_layer("decoder")
    for shape in ((8, 8, 8), (4, 8, 16)):
        x = np.random.default_rng(0).random((3, *shape, 1)).astype("float32")
        code = np.asarray(encoder(x))
        assert code.shape == (3, *(n // 4 for n in shape), 2) and (np.abs(code) < 1).all()
        assert np.asarray(decoder(code)).shape == np.asarray(small(x)).shape == x.shape


def test_noise_on_the_code_is_for_training_only(small: keras.Model) -> None:
    x = np.random.default_rng(0).random((2, 8, 8, 8, 1)).astype("float32")
    decoded = small.get_layer("decoder")(small.get_layer("encoder")(x))
    np.testing.assert_allclose(np.asarray(small(x)), np.asarray(decoded), atol=1e-6)
    once, again = np.asarray(small(x, training=True)), np.asarray(small(x, training=True))
    assert np.abs(once - again).max() > 1e-3


def test_loss_weighs_the_atoms() -> None:
    target = np.zeros((1, 2, 2, 2, 1), "float32")
    target[0, 0, 0, 0] = 1.0
    missed = float(np.asarray(peak_weighted_mse(target, np.zeros_like(target)))[0])
    ghost = target[:, ::-1] + target
    invented = float(np.asarray(peak_weighted_mse(target, ghost))[0])
    assert (missed, invented) == pytest.approx((10 / 8, 1 / 8))


def separations(coords: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    d = coords[:, None] - coords[None]
    return np.sort(np.linalg.norm((d - np.round(d)) * lengths, axis=-1).ravel())


def test_training_pictures_are_the_crystals_moved_turned_and_mirrored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(autoencoder, "CROWDED", 0.0)
    crystal = np.array([[0.0, 0.0, 0.0], [0.25, 0.0, 0.0], [0.0, 0.375, 0.0], [0.0, 0.0, 0.5]])
    data = Pictures([(crystal, (4.0, 4.0, 4.0))], GRID, batch=6, steps=3, seed=5)
    assert len(data) == 3
    voxels, target = data[1]
    assert voxels is target and voxels.shape[0] == 6 and voxels[0].size == 16**3
    seen = set()
    for found in GRID.decode(voxels[..., 0]):
        assert len(found) == 4
        # The lengths between the atoms stay, in whatever order the axes are.
        expected = separations(crystal, np.ones(3))
        np.testing.assert_allclose(separations(found, np.ones(3)), expected, atol=2e-3)
        seen.add(tuple(np.round(found[0], 3)))
    assert len(seen) == 6


def test_long_crystals_mostly_lie_along_long_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "CROWDED", 0.0)
    chain = np.column_stack([np.zeros(8), np.arange(8) / 8, np.zeros(8)])
    data = Pictures([(chain, (4.0, 24.0, 5.0))], GRID, batch=20, steps=12, seed=1)
    along = total = 0
    for i in range(12):
        voxels = data[i][0][..., 0]
        if len(set(voxels.shape[1:])) == 1:
            continue
        longest = int(np.argmax(voxels.shape[1:]))
        for found in GRID.decode(voxels):
            total += 1
            spread = [len(np.unique(np.round(found[:, axis], 2))) for axis in range(3)]
            along += int(np.argmax(spread)) == longest
    assert total >= 60 and 0.75 < along / total <= 0.97


def test_some_training_pictures_have_close_pairs() -> None:
    data = Pictures([(np.zeros((1, 3)), (4.0, 4.0, 4.0))], GRID, batch=50, steps=1, seed=2)
    voxels = data[0][0][..., 0]
    crowded = voxels.sum((1, 2, 3)) > 1.5 * voxels.sum((1, 2, 3)).min()
    assert 0.05 < crowded.mean() < 0.4


def test_training_pictures_depend_on_seed_epoch_and_batch_alone() -> None:
    crystals = [(np.random.default_rng(i).random((i + 1, 3)), (4.0, 5.0, 9.0)) for i in range(4)]
    data = Pictures(crystals, GRID, batch=4, steps=2, seed=5)
    first = data[0][0]
    np.testing.assert_array_equal(first, data[0][0])
    assert not np.array_equal(first, data[1][0])
    data.on_epoch_end()
    assert not np.array_equal(first, data[0][0])
    other = Pictures(crystals, GRID, batch=4, steps=2, seed=6)
    assert not np.array_equal(first, other[0][0])


def test_training_brings_the_loss_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "SHAPES", (((1, 1, 1), 1.0),))
    keras.utils.set_random_seed(1)
    small = build_sites_autoencoder(filters=8, blocks=0, depth=2)
    rng = np.random.default_rng(3)
    crystals = [(rng.random((2, 3)), (4.0, 4.0, 4.0)) for _ in range(20)]
    data = Pictures(crystals, SitesGrid(points=8, sigma=0.75), 8, 40, 0)
    small.compile(keras.optimizers.AdamW(5e-3), peak_weighted_mse, jit_compile=False)
    losses = [float(small.train_on_batch(*data[i])) for i in range(40)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_shipped_weights_reconstruct_prototypes_that_they_never_saw(shipped: keras.Model) -> None:
    # The weights come from random crystals: every prototype is held out.
    found = [p for p in AflowSource().load(2, 20, 0) if isinstance(p, Prototype)]
    filters, crystals = Filters(max_length=1e3), []
    rng = np.random.default_rng(11)
    for i in rng.permutation(len(found)):
        structure = primitive_cell(found[i].structure)
        if len(crystals) == 60 or filters.reason(structure, 2):
            continue
        structure.replace_species(dict(zip(structure.composition, ("Bi", "Se"), strict=True)))
        # No atom sits on a special point of the grid.
        structure.translate_sites(range(len(structure)), rng.random(3))
        crystals.append(structure)
    graphs = CrystalGraphs(("Bi", "Se"), GRID, shipped)
    decoded = graphs.decode(graphs.encode(crystals))
    same = [d is not None and is_same(c, d) for c, d in zip(crystals, decoded, strict=True)]
    assert len(same) == 60
    assert sum(same) >= 59


def test_decoder_forgives_noise_on_the_code(shipped: keras.Model) -> None:
    graphs = CrystalGraphs(["Bi"], GRID, shipped)
    rng = np.random.default_rng(12)
    atoms = [rng.random((1, 3)) + np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) for _ in range(20)]
    shapes = np.full((len(atoms), 3), 16)
    codes = graphs.codes(atoms, shapes)
    noise = rng.normal(0, 0.2, codes.shape).astype("float32")
    found = graphs.positions(codes + noise, shapes)
    assert np.mean([len(f) == 2 for f in found]) >= 0.9


def test_saved_and_loaded_models_are_the_same(small: keras.Model) -> None:
    x = np.random.default_rng(4).random((2, 8, 8, 8, 1)).astype("float32")
    loaded = model_from_bytes(model_bytes(small))
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(small(x)))


@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "flipped", "text"])
def test_damaged_weights_are_refused(damage: str) -> None:
    data = shipped_autoencoder()[SITES]
    middle = len(data) // 2
    broken = {
        "empty": b"",
        "noise": np.random.default_rng(0).bytes(5000),
        "cut": data[:middle],
        "flipped": data[:middle]
        + bytes(b ^ 255 for b in data[middle : middle + 64])
        + data[middle + 64 :],
        "text": b"PK not a model",
    }[damage]
    with pytest.raises(ValueError, match="the weights cannot be read"):
        model_from_bytes(broken)


def test_an_archive_with_code_in_it_is_refused() -> None:
    inputs = keras.Input((2,))
    data = model_bytes(keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(inputs)))
    with pytest.raises(ValueError, match="the weights cannot be read"):
        model_from_bytes(data)
