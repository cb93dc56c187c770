"""Training of the constraint and of the GANs: what they learn, repeatability, resumption."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

from ccdcgan.models import gan
from ccdcgan.models.constraint import TrainedConstraint, train_constraint
from ccdcgan.models.gan import TrainedGan, sample, train_gan
from ccdcgan.models.presets import ConstraintSettings, GanSettings
from ccdcgan.models.training import load_checkpoint, model_bytes, model_from_bytes, save_checkpoint

SMALL_CONSTRAINT = ConstraintSettings(
    width=32, members=2, steps=120, batch=64, learning_rate=1e-2, dropout=0.0
)
SMALL_GAN = GanSettings(
    variant="dcgan", width=32, batch=32, steps=500, critic_steps=2, average=0.98
)


class KilledError(Exception):
    """What a test raises where a job would be killed."""


# --- constraint ---------------------------------------------------------------------------------


def crystals(count: int, rows: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Graphs, energies that are linear in what the graphs of a crystal share, and crystals."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(count) * 7 + 3, rows)
    shared = np.repeat(rng.normal(size=(count, 4)), rows, axis=0)
    vectors = np.column_stack([shared, rng.normal(size=(count * rows, 2))])
    energies = shared @ [0.2, -0.1, 0.05, 0.3] - 0.4
    order = rng.permutation(len(owner))
    return vectors[order], energies[order], owner[order]


@pytest.fixture(scope="module")
def trained() -> TrainedConstraint:
    return train_constraint(*crystals(60), SMALL_CONSTRAINT, seed=4)


def test_constraint_beats_the_mean(trained: TrainedConstraint) -> None:
    _, energies, _ = crystals(60)
    assert trained.held_out == 6
    assert trained.mae < 0.4 * np.abs(energies - energies.mean()).mean()
    assert trained.r2 > 0.7
    for curve in trained.history.values():
        assert np.isfinite(curve).all() and curve[-1] < curve[0]


def test_constraint_predicts_energies_it_never_saw(trained: TrainedConstraint) -> None:
    vectors = np.random.default_rng(9).normal(size=(200, 6))
    energies = vectors[:, :4] @ [0.2, -0.1, 0.05, 0.3] - 0.4
    predicted = np.asarray(trained.model.predict(vectors, verbose=0))
    assert predicted.shape == (200, 2)
    assert np.abs(predicted.mean(1) - energies).mean() < 0.4 * np.abs(energies + 0.4).mean()


def test_all_graphs_of_a_crystal_are_on_one_side() -> None:
    # Graphs of a crystal are alike here, and energies have no reason: only who has seen other
    # graphs of the test crystals can predict them.
    rng = np.random.default_rng(1)
    names = np.arange(100)
    owner = rng.permutation(np.repeat(names, 4))
    vectors = rng.normal(size=(100, 12))[owner] + rng.normal(0, 0.01, (400, 12))
    energies = rng.normal(size=100)[owner]
    settings = replace(SMALL_CONSTRAINT, steps=400)
    blind = train_constraint(vectors, energies, owner, settings, seed=4)
    assert blind.held_out == 10
    assert blind.r2 < 0.3
    # The same network with every graph a crystal of its own.
    seeing = train_constraint(vectors, energies, np.arange(400), settings, seed=4)
    assert seeing.held_out == 40
    assert seeing.r2 > 0.7


def test_same_seed_same_constraint(trained: TrainedConstraint) -> None:
    again = train_constraint(*crystals(60), SMALL_CONSTRAINT, seed=4)
    vectors = crystals(60)[0]
    np.testing.assert_array_equal(
        np.asarray(trained.model.predict(vectors, verbose=0)),
        np.asarray(again.model.predict(vectors, verbose=0)),
    )
    assert (again.mae, again.r2, again.history) == (trained.mae, trained.r2, trained.history)


def test_too_few_crystals_for_a_constraint() -> None:
    with pytest.raises(ValueError, match="9 crystals are too few"):
        train_constraint(*crystals(9), SMALL_CONSTRAINT, seed=4)


def test_networks_load_in_another_process(trained: TrainedConstraint, tmp_path: Path) -> None:
    vectors = crystals(60)[0][:5].astype(np.float32)
    generator = gan.build_dense_generator(rows(), np.ones(200), SMALL_GAN)
    noise = np.random.default_rng(0).normal(size=(5, generator.input_shape[-1]))
    expected = []
    for name, model, x in (("e", trained.model, vectors), ("g", generator, noise)):
        data = model_bytes(model)
        expected.append(np.asarray(model(x)))
        np.testing.assert_array_equal(np.asarray(model_from_bytes(data)(x)), expected[-1])
        (tmp_path / f"{name}.keras").write_bytes(data)
        np.save(tmp_path / f"{name}.npy", x)
    script = (
        "import numpy as np; from pathlib import Path\n"
        "from ccdcgan.models.training import model_from_bytes\n"
        "for name in ('e', 'g'):\n"
        "    model = model_from_bytes(Path(f'{name}.keras').read_bytes())\n"
        "    np.save(f'{name}-out.npy', np.asarray(model(np.load(f'{name}.npy'))))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=120)
    for name, value in zip(("e", "g"), expected, strict=True):
        np.testing.assert_allclose(np.load(tmp_path / f"{name}-out.npy"), value, atol=1e-6)


# --- checkpoints --------------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.npz"
    saved = [keras.Variable(np.arange(6.0).reshape(2, 3)), keras.Variable(3, dtype="int64")]
    save_checkpoint(path, saved, done=7, curve=[1.0, 2.0])
    assert [f.name for f in path.parent.iterdir()] == ["state.npz"]
    fresh = [keras.Variable(np.zeros((2, 3))), keras.Variable(0, dtype="int64")]
    rest = load_checkpoint(path, fresh)
    assert rest is not None and int(rest["done"]) == 7 and list(rest["curve"]) == [1.0, 2.0]
    for a, b in zip(saved, fresh, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_unusable_checkpoints_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    variables = [keras.Variable(np.ones((2, 3)))]
    assert load_checkpoint(path, variables) is None
    save_checkpoint(path, [np.zeros((4, 4))], done=1)
    assert load_checkpoint(path, variables) is None
    save_checkpoint(path, [], done=1)
    assert load_checkpoint(path, variables) is None
    save_checkpoint(path, [np.zeros((2, 3))], done=1)
    whole = path.read_bytes()
    for broken in (b"", b"not a checkpoint", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(broken)
        assert load_checkpoint(path, variables) is None
    flipped = bytearray(whole)
    flipped[whole.index(b"NUMPY") + 130] ^= 255
    path.write_bytes(bytes(flipped))
    assert load_checkpoint(path, variables) is None
    np.testing.assert_array_equal(np.asarray(variables[0]), 1.0)


# --- GANs ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan, "CHUNK", 100)


@pytest.fixture
def without_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes most of the time of a small training."""
    compile_ = tf.function

    def plain(*args: Any, **kwargs: Any) -> Any:
        return compile_(*args, **{**kwargs, "jit_compile": False})

    monkeypatch.setattr(tf, "function", plain)


def rows(count: int = 200, size: int = 6) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, size)).astype(np.float32)


def assert_same(a: TrainedGan, b: TrainedGan) -> None:
    for x, y in zip(a.generator.get_weights(), b.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.history == b.history


def resumed(settings: GanSettings, data: np.ndarray, seed: int, checkpoint: Path) -> TrainedGan:
    """A training that is killed after 300 steps and started again."""

    def kill(done: int, total: int) -> None:
        assert total == settings.steps
        if done == 300:
            raise KilledError

    weights = np.ones(len(data))
    with pytest.raises(KilledError):
        train_gan(data, weights, settings, None, seed, checkpoint, kill)
    assert checkpoint.exists()
    steps: list[int] = []
    result = train_gan(
        data, weights, settings, None, seed, checkpoint, lambda done, _: steps.append(done)
    )
    assert steps == [*range(400, settings.steps, 100), settings.steps]
    return result


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("loss", ["wgan-gp", "bce"])
def test_a_killed_training_goes_on_to_the_same_generator(tmp_path: Path, loss: str) -> None:
    settings = replace(SMALL_GAN, loss=loss, steps=450)
    calls: list[tuple[int, int]] = []
    whole = train_gan(
        rows(), np.ones(200), settings, None, 3, progress=lambda *done: calls.append(done)
    )
    assert calls == [(100, 450), (200, 450), (300, 450), (400, 450), (450, 450)]
    assert len(whole.history["critic"]) == 5
    # A broken checkpoint is ignored.
    state = tmp_path / "state.npz"
    state.write_bytes(b"PK\x03\x04 half a checkpoint")
    assert_same(whole, resumed(settings, rows(), 3, state))
    # A finished one leaves nothing to do.
    steps: list[int] = []
    again = train_gan(
        rows(), np.ones(200), settings, None, 3, state, lambda done, _: steps.append(done)
    )
    assert not steps
    assert_same(whole, again)


def first_number(size: int) -> keras.Model:
    """A constraint of two members to whom the energy is the first number, and a bit more."""
    inputs = keras.Input((size,))
    kernel = np.zeros((size, 2), np.float32)
    kernel[0] = 1.0
    dense = keras.layers.Dense(2)
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([kernel, np.array([-0.1, 0.1], np.float32)])
    return model


@pytest.mark.usefixtures("without_xla")
def test_ccdcgan_lowers_the_predicted_energy() -> None:
    constraint = first_number(6)
    before = [w.copy() for w in constraint.get_weights()]
    energies, shown = {}, {}
    for variant in ("dcgan", "ccdcgan"):
        settings = replace(SMALL_GAN, variant=variant, omega=20.0, steps=200, critic_steps=1)
        result = train_gan(rows(), np.ones(200), settings, constraint, 3)
        drawn = sample(result.generator, 500, 0)
        energies[variant] = float(np.asarray(constraint.predict(drawn, verbose=0)).mean())
        shown[variant] = result.history["formation_energy"][-1]
    assert energies["ccdcgan"] < energies["dcgan"] - 0.5
    assert shown["ccdcgan"] < shown["dcgan"] - 0.5
    for a, b in zip(before, constraint.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("without_xla")
def test_wgan_learns_a_mixture_and_its_weights() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.normal([-2.0, 1.0], 0.3, (100, 2)), rng.normal([2.0, 0.0], 0.3, (300, 2))
    data = np.concatenate([left, right])
    settings = replace(SMALL_GAN, steps=500, learning_rate=1e-3, batch=64, critic_steps=4)
    # The weights make the two equally likely: the mean is between them.
    weights = np.r_[np.full(100, 3.0), np.ones(300)]
    result = train_gan(data, weights, settings, None, 0)
    drawn = sample(result.generator, 2000, 0)
    np.testing.assert_allclose(drawn.mean(0), [0.0, 0.5], atol=0.4)
    share = (drawn[:, 0] > 0).mean()
    assert 0.3 < share < 0.7
    assert drawn[:, 0].std() == pytest.approx(2.0, abs=0.6)


def test_samples_depend_on_seed_and_number_alone() -> None:
    keras.utils.set_random_seed(0)
    generator = gan.build_dense_generator(rows(), np.ones(200), SMALL_GAN)
    many, few = sample(generator, 600, 5), sample(generator, 40, 5)
    assert many.shape == (600, 6) and many.dtype == np.float32
    np.testing.assert_allclose(many[:40], few, atol=1e-6)
    np.testing.assert_array_equal(many, sample(generator, 600, 5))
    assert not np.array_equal(many[:40], sample(generator, 40, 6))


def test_what_cannot_be_trained_says_so() -> None:
    with pytest.raises(ValueError, match="9 crystal graphs are too few"):
        train_gan(rows(9), np.ones(9), SMALL_GAN, None, 0)
    with pytest.raises(ValueError, match="needs a trained constraint"):
        train_gan(rows(), np.ones(200), replace(SMALL_GAN, variant="ccdcgan"), None, 0)
