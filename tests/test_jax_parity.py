"""TensorFlow and JAX train the same GAN: the same numbers go in, the same come out."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from ccdcgan.models.gan import training as gan
from ccdcgan.models.presets import GanSettings
from ccdcgan.models.representation.protocol import Composition, Conditions

LOSSES = ("wgan-gp", "bce")
#: JAX compiles for longer than such a training takes.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def trainings(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Curves and samples of a small CCDCGAN for each loss; checkpoints go to the folder."""
    gan.CHUNK = 20
    rng = np.random.default_rng(1)
    data = rng.normal(size=(60, 8)).astype(np.float32)
    data[:, 2:4] = np.round(data[:, 2:4])
    inputs = keras.Input((8,))
    dense = keras.layers.Dense(2)
    constraint = keras.Model(inputs, dense(inputs))
    dense.set_weights([rng.normal(size=(8, 2)), np.zeros(2)])
    out = {}
    for loss in LOSSES:
        settings = GanSettings(
            loss=loss, steps=40, batch=16, width=16, critic_steps=1, learning_rate=2e-3
        )
        trained = gan.train_gan(
            data,
            np.linspace(0.1, 1.0, 60),
            settings,
            constraint,
            seed=3,
            conditions=Conditions(
                Composition(2, np.ones(2), np.full(2, 4.0)), groups=np.arange(60) % 2
            ),
            checkpoint=folder / f"{loss}.npz",
        )
        samples = gan.sample(trained.generator, 8, 0).ravel().tolist()
        out[loss] = {**trained.history, "samples": samples}
    return out


def test_both_backends_train_the_same_gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = keras.backend.backend()
    other = "jax" if own == "tensorflow" else "tensorflow"
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    monkeypatch.setattr(gan, "CHUNK", gan.CHUNK)
    process = subprocess.Popen(
        [sys.executable, __file__],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": other, "XLA_FLAGS": QUICK},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    (tmp_path / "own").mkdir()
    here = trainings(tmp_path / "own")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    there = json.loads(output.splitlines()[-1])
    for loss in LOSSES:
        assert set(here[loss]) == set(there[loss])
        for name, expected in here[loss].items():
            assert there[loss][name] == pytest.approx(expected, rel=1e-3, abs=1e-3), (loss, name)
        first, last = here[loss]["generator_loss"]
        assert abs(first - last) > 0.01
    # What one backend has trained the other reads: here it finds nothing left to do.
    again = trainings(tmp_path)
    for loss in LOSSES:
        assert again[loss]["critic"] == there[loss]["critic"]
        assert again[loss]["samples"] == pytest.approx(there[loss]["samples"], rel=1e-4, abs=1e-4)


if __name__ == "__main__":
    print(json.dumps(trainings(Path.cwd())))
