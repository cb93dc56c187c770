"""What all trainings share: checkpoints and logs."""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from ccdcgan.models.training import TrainingLog, load_checkpoint, save_checkpoint


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


def test_a_log_is_continued_from_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log")
    for step in (250, 500, 750):
        log.write(step, critic=step / 1000, energy=-0.1)
    with log.path.open("a") as stream:
        stream.write("1000,0.")
    again = TrainingLog(tmp_path / "log")
    again.resume(500)
    again.write(750, critic=0.5, energy=-0.2)
    lines = log.path.read_text().split()
    assert lines == ["step,critic,energy", "250,0.25,-0.1", "500,0.5,-0.1", "750,0.5,-0.2"]
    assert any(f.name.startswith("events") for f in log.path.parent.iterdir())
