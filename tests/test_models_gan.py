"""The GANs: what they learn, compositions, repeatability, resumption."""

import csv
import os
import shutil
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

from ccdcgan.dft.errors import UserError
from ccdcgan.models.backend import compile_steps
from ccdcgan.models.gan import training as gan
from ccdcgan.models.gan.generators import build_dense_generator, build_networks
from ccdcgan.models.gan.training import TrainedGan, sample, train_gan
from ccdcgan.models.presets import GanSettings
from ccdcgan.models.representation.protocol import Composition, Conditions
from ccdcgan.models.saved import model_bytes
from ccdcgan.models.training import TrainingLog

SMALL = GanSettings(variant="dcgan", width=32, batch=32, steps=250, critic_steps=2, average=0.98)
#: Two elements in columns 1 and 2 of six: three and five atoms on average.
ATOMS = Conditions(Composition(1, np.array([2.0, 1.0]), np.array([3.0, 5.0])))


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan, "CHUNK", 50)


def rows(count: int = 200, size: int = 6) -> np.ndarray:
    """Rows with whole numbers of atoms."""
    data = np.random.default_rng(1).normal(size=(count, size)).astype(np.float32)
    data[:, 1] = (np.clip(np.round(2 * data[:, 1] + 3), 1, 9) - 3) / 2
    data[:, 2] = np.clip(np.round(data[:, 2] + 5), 1, 9) - 5
    return data


def first_number(size: int, slope: float = 1.0) -> keras.Model:
    """An objective of two members, to whom the energy is the first number, and a bit more."""
    inputs = keras.Input((size,))
    kernel = np.zeros((size, 2), np.float32)
    kernel[0] = slope
    dense = keras.layers.Dense(2)
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([kernel, np.array([-0.1, 0.1], np.float32)])
    return model


def assert_same(a: TrainedGan, b: TrainedGan) -> None:
    for x, y in zip(a.generator.get_weights(), b.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.history == b.history


# --- the prior and compositions -----------------------------------------------------------------


def known(weights: np.ndarray | None = None, groups: np.ndarray | None = None) -> keras.Model:
    """An untrained generator without blur."""
    settings = replace(SMALL, blur=0.0)
    data, conditions = rows(), replace(ATOMS, groups=groups)
    weights = np.ones(len(data)) if weights is None else weights
    return build_dense_generator(data, weights, settings, conditions)


def test_the_prior_chooses_by_weight_and_composition() -> None:
    data = np.zeros((3, 6), np.float32)
    # The second composition is half an atom away; of it there is a crystal of three times the
    # weight.
    close = Conditions(Composition(1, np.array([0.5, 1.0]), np.zeros(2)))
    data[:, 1:3] = [[-0.5, -2], [0.5, -2], [0.5, -2]]
    data[:, 5] = [0.0, 10.0, 100.0]
    settings = replace(SMALL, blur=0.0)
    generator = build_dense_generator(data, np.array([1.0, 1.0, 3.0]), settings, close)
    noise = np.random.default_rng(0).standard_normal((40_000, generator.inputs[0].shape[1]))
    # An infinite noise of the share leaves the first crystal alone.
    noise[:, 4] = -np.inf
    wanted = np.tile([[-0.5, -2.0]], (len(noise), 1))
    last = np.asarray(generator.predict([noise, wanted], batch_size=8192, verbose=0))[:, 5]
    far = np.exp(-(0.5**2) / (2 * 0.4**2))
    expected = np.array([1.0, far, 3.0 * far]) / (1.0 + 4.0 * far)
    found = [np.mean(np.abs(last - value) < 1e-3) for value in (0.0, 10.0, 100.0)]
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert sum(found) == 1.0


def test_crystals_of_different_groups_do_not_blend() -> None:
    groups = np.arange(200) % 3
    data = rows()
    data[:, 5] = groups
    settings = replace(SMALL, blur=0.0)
    mixed = build_dense_generator(data, np.ones(200), settings, ATOMS)
    apart = build_dense_generator(data, np.ones(200), settings, replace(ATOMS, groups=groups))
    off = [np.abs(d - np.round(d)) for d in (sample(g, 500, 0)[:, 5] for g in (mixed, apart))]
    assert (off[0] > 1e-3).mean() > 0.3
    assert off[1].max() < 1e-5


def test_compositions_of_samples() -> None:
    generator = known(np.r_[np.full(100, 1.0), np.full(100, 1e-9)])
    asked = sample(generator, 50, 0, (4, 3))
    np.testing.assert_array_equal(asked[:, 1:3], np.tile([[0.5, -2.0]], (50, 1)))
    turns = sample(generator, 5, 0, np.array([(4, 3), (1, 6)]))
    np.testing.assert_array_equal(turns[:, 1], [0.5, -1.0, 0.5, -1.0, 0.5])
    np.testing.assert_array_equal(turns[:, 2], [-2.0, 1.0, -2.0, 1.0, -2.0])
    # Without one: those of the rows that have weight, some with one element's from another.
    drawn = sample(generator, 2000, 0)[:, 1:3]
    heavy = rows()[:100, 1:3]
    assert np.isin(drawn[:, 0], heavy[:, 0]).all() and np.isin(drawn[:, 1], heavy[:, 1]).all()
    seen = {tuple(c) for c in heavy.tolist()}
    new = np.mean([tuple(c) not in seen for c in drawn.tolist()])
    assert 0.0 < new < 0.28
    with pytest.raises(ValueError, match="a composition has 2 numbers, not 3"):
        sample(generator, 5, 0, (1, 2, 3))


def test_samples_depend_on_seed_and_number_alone() -> None:
    generator = known()
    many, few = sample(generator, 600, 5), sample(generator, 40, 5)
    assert many.shape == (600, 6) and many.dtype == np.float32
    np.testing.assert_allclose(many[:40], few, atol=1e-6)
    np.testing.assert_array_equal(many, sample(generator, 600, 5))
    assert not np.array_equal(few, sample(generator, 40, 6))


# --- training -----------------------------------------------------------------------------------


def test_a_killed_training_goes_on_to_the_same_generator(tmp_path: Path) -> None:
    settings = replace(SMALL, steps=170)
    data, weights = rows(), np.linspace(0.1, 1.0, 200)
    state, killed = tmp_path / "state.npz", tmp_path / "killed"
    # A broken checkpoint is ignored.
    state.write_bytes(b"PK\x03\x04 half a checkpoint")
    calls: list[tuple[int, int]] = []
    logs = TrainingLog(tmp_path / "whole"), TrainingLog(killed)

    def keep(*done: int) -> None:
        """Keep what a process that is killed in its third chunk leaves."""
        calls.append(done)
        if done[0] == 100:
            shutil.copy(state, tmp_path / "at 100.npz")
        if done[0] == 150:
            logs[1].path.write_text(logs[0].path.read_text() + "170,0.1")

    whole = train_gan(
        data, weights, settings, None, 3,
        conditions=ATOMS, checkpoint=state, progress=keep, log=logs[0],
    )  # fmt: skip
    assert calls == [(50, 170), (100, 170), (150, 170), (170, 170)]
    assert {len(curve) for curve in whole.history.values()} == {4}
    # The same again, and then a finished training, which leaves nothing to do.
    for expected in ([150, 170], []):
        steps: list[int] = []
        again = train_gan(
            data, weights, settings, None, 3, conditions=ATOMS,
            checkpoint=tmp_path / "at 100.npz",
            progress=lambda done, _, steps=steps: steps.append(done), log=logs[1],
        )  # fmt: skip
        assert steps == expected
        assert_same(whole, again)
    assert logs[1].path.read_text() == logs[0].path.read_text()
    with logs[0].path.open() as stream:
        table = list(csv.reader(stream))
    assert table[0] == ["step", *whole.history]
    assert [row[0] for row in table[1:]] == ["50", "100", "150", "170"]
    assert [float(row[1]) for row in table[1:]] == whole.history["critic"]


def test_a_killed_training_of_the_paper_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout and batch normalisation have a state as well."""
    monkeypatch.setattr(gan, "CHUNK", 2)
    images = np.tanh(np.random.default_rng(0).normal(size=(12, 8, 8, 1)))
    settings = GanSettings(
        variant="dcgan", loss="bce", steps=4, batch=4, critic_steps=1, average=0.5
    )
    state, half = tmp_path / "state.npz", tmp_path / "half.npz"

    def keep(done: int, total: int) -> None:
        if done == 2:
            shutil.copy(state, half)

    whole = train_gan(images, np.ones(12), settings, None, 0, checkpoint=state, progress=keep)
    assert_same(whole, train_gan(images, np.ones(12), settings, None, 0, checkpoint=half))
    drawn = sample(whole.generator, 3, 0)
    assert drawn.shape == (3, 8, 8, 1) and np.abs(drawn).max() < 1.0
    with pytest.raises(ValueError, match="cannot be asked for a composition"):
        sample(whole.generator, 3, 0, (1, 2))


def test_ccdcgan_lowers_the_objective() -> None:
    objective = first_number(6)
    before = [w.copy() for w in objective.get_weights()]
    settings = replace(
        SMALL, omega=10.0, steps=100, critic_steps=1, learning_rate=2e-3, average=0.9
    )
    drawn, shown = {}, {}
    for name in ("dcgan", "energy", "exp"):
        own = {"variant": name} if name == "dcgan" else {"variant": "ccdcgan", "guidance": name}
        result = train_gan(
            rows(), np.ones(200), replace(settings, **own), objective, 3, conditions=ATOMS
        )
        drawn[name] = float(sample(result.generator, 500, 0)[:, 0].mean())
        shown[name] = result.history["formation_energy"][-1]
    for means in (drawn, shown):
        # exp rewards an ever lower energy less.
        assert means["energy"] < means["exp"] - 0.3 and means["exp"] < means["dcgan"] - 0.3
    for a, b in zip(before, objective.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", ["wgan-gp", "hinge", "bce"])
def test_gans_learn_a_mixture_and_its_weights(loss: str) -> None:
    rng = np.random.default_rng(2)
    left, right = rng.normal([-2.0, 1.0], 0.3, (100, 2)), rng.normal([2.0, 0.0], 0.3, (300, 2))
    data = np.concatenate([left, right])
    settings = replace(
        SMALL, loss=loss, steps=400, penalty=1.0, learning_rate=1e-3, batch=64, average=0.99
    )
    # The weights make the two equally likely: the mean is between them.
    weights = np.r_[np.full(100, 3.0), np.ones(300)]
    drawn = sample(train_gan(data, weights, settings, None, 0).generator, 2000, 0)
    np.testing.assert_allclose(drawn.mean(0), [0.0, 0.5], atol=0.4)
    assert 0.3 < (drawn[:, 0] > 0).mean() < 0.7
    # The prior's blends, which lie between the two, have been pulled apart.
    assert drawn[:, 0].std() == pytest.approx(2.0, abs=0.5)


def test_hinge_bounds_the_critics_slope() -> None:
    settings = replace(SMALL, loss="hinge", steps=50)
    _, critic = build_networks(rows(), np.ones(200), settings, 0, ATOMS)
    wrapped = [layer for layer in critic.layers if hasattr(layer, "project")]
    assert len(wrapped) == 3
    for _ in range(30):
        for layer in wrapped:
            layer.project()
    norms = [np.linalg.norm(np.asarray(layer.kernel), 2) for layer in wrapped]
    np.testing.assert_allclose(norms, 1.0, rtol=0.02)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_stays_finite_and_keeps_compositions(precision: str) -> None:
    settings = replace(SMALL, precision=precision, steps=20, critic_steps=1)
    result = train_gan(rows(), np.ones(200), settings, None, 0, conditions=ATOMS)
    kinds = {layer.compute_dtype for layer in result.generator.layers}
    assert precision.removeprefix("mixed_") in kinds
    assert keras.config.dtype_policy().name == "float32"
    drawn = sample(result.generator, 20, 0, (4, 3))
    assert np.isfinite(drawn).all()
    np.testing.assert_array_equal(drawn[:, 1:3], np.tile([[0.5, -2.0]], (20, 1)))


def test_what_cannot_be_trained_says_so() -> None:
    with pytest.raises(ValueError, match="9 crystal graphs are too few"):
        train_gan(rows(9), np.ones(9), SMALL, None, 0)
    with pytest.raises(ValueError, match="needs a trained constraint"):
        train_gan(rows(), np.ones(200), replace(SMALL, variant="ccdcgan"), None, 0)
    with pytest.raises(ValueError, match="cannot be asked for a composition"):
        train_gan(np.zeros((12, 8, 8, 1)), np.ones(12), SMALL, None, 0, conditions=ATOMS)
    settings = replace(SMALL, variant="ccdcgan", guidance="exp", critic_steps=1)
    with pytest.raises(UserError, match="diverged at step 0, also with other random numbers"):
        train_gan(rows(), np.ones(200), settings, first_number(6, 1e6), 0)


def test_a_training_that_diverges_goes_on_from_its_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other random numbers; a checkpoint that holds NaN is as good as none."""
    state, settings = tmp_path / "state.npz", replace(SMALL, steps=100, critic_steps=1)

    def train() -> gan.TrainedGan:
        return train_gan(rows(), np.ones(200), settings, None, 0, checkpoint=state)

    undisturbed = train()
    arrays = dict(np.load(state))
    np.savez(state, **{**arrays, "v0": np.full_like(arrays["v0"], np.nan)})
    assert_same(undisturbed, train())
    state.unlink()
    draw = gan._Training.draw

    def poisoned(training: gan._Training, first: int) -> tuple[Any, ...]:
        noise, *others = draw(training, first)
        # Of one step's noise, as a gradient would be that goes to infinity.
        if first == 50 and training.diverged < 2:
            noise[7] = np.nan
        return noise, *others

    monkeypatch.setattr(gan._Training, "draw", poisoned)
    trained = train()
    assert int(np.load(state)["diverged"]) == 2
    for name, curve in trained.history.items():
        assert len(curve) == 2 and np.isfinite(curve).all()
        assert curve[0] == undisturbed.history[name][0]
    assert trained.history["critic_loss"][1] != undisturbed.history["critic_loss"][1]
    assert np.isfinite(sample(trained.generator, 20, 0)).all()


def test_a_backend_that_cannot_train_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    message = "^KERAS_BACKEND=torch cannot train GANs: use tensorflow or jax$"
    with pytest.raises(RuntimeError, match=message):
        compile_steps(lambda: (), [])


def test_generators_load_in_another_process(tmp_path: Path) -> None:
    generator = known()
    (tmp_path / "g.keras").write_bytes(model_bytes(generator))
    script = (
        "import numpy as np; from pathlib import Path\n"
        "from ccdcgan.models.saved import model_from_bytes\n"
        "model = model_from_bytes(Path('g.keras').read_bytes())\n"
        "from ccdcgan.models.gan.training import sample\n"
        "np.save('free.npy', sample(model, 20, 1))\n"
        "np.save('asked.npy', sample(model, 20, 1, (1, 1)))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=120)
    for name, composition in (("free", None), ("asked", (1, 1))):
        expected = sample(generator, 20, 1, composition)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, atol=1e-6)
