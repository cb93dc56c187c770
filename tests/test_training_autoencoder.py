"""The autoencoder trained on a campaign's own crystals."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from ccdcgan.models.pipeline import train_autoencoders
from ccdcgan.models.presets import preset_from
from ccdcgan.models.sampling import SITES
from ccdcgan.models.saved import model_from_bytes
from ccdcgan.models.training import TrainingLog


def crystals() -> list[Structure]:
    rng = np.random.default_rng(0)
    return [
        Structure(Lattice.cubic(4.0 + i / 10), ["Bi", "Se"], rng.random((2, 3))) for i in range(32)
    ]


def test_training_repeats_learns_and_reports(tmp_path):
    preset = preset_from({"autoencoder_epochs": 6})
    done = []
    first, again = (
        train_autoencoders(
            crystals(),
            ["Bi", "Se"],
            preset,
            3,
            progress=lambda i, n: done.append((i, n)),
            log=TrainingLog(tmp_path / name),
        )
        for name in ("first", "again")
    )
    weights = [model_from_bytes(files[SITES]).get_weights() for files, _ in (first, again)]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert done[:6] == [(i + 1, 6) for i in range(6)]
    header, *rows = (tmp_path / "first" / "log.csv").read_text().split()
    losses = [float(row.split(",")[1]) for row in rows]
    assert header == "step,training" and len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({}, 2),
        # Killed in the first and in the second of the two autoencoders.
        ({"based_on": "paper-small", "paper": {"filters": 2, "lattice_points": 8}}, 2),
        ({"based_on": "paper-small", "paper": {"filters": 2, "lattice_points": 8}}, 5),
    ],
    ids=["default", "paper, lattice", "paper, sites"],
)
def test_a_killed_training_goes_on_to_the_same_networks(tmp_path, settings, last):
    preset = preset_from({"autoencoder_epochs": 4, **settings})
    checkpoint = tmp_path / "checkpoints" / "state.npz"
    seen: list[int] = []

    def train(name: str, checkpoint: Path | None, last: int):
        def report(done: int, of: int) -> None:
            seen.append(done)
            if done == last:
                raise KeyboardInterrupt

        log = TrainingLog(tmp_path / name)
        return train_autoencoders(
            crystals()[:20],
            ["Bi", "Se"],
            preset,
            3,
            held_out=crystals()[20:24],
            checkpoint=checkpoint,
            progress=report,
            log=log,
        )

    whole, history = train("whole", None, 0)
    with pytest.raises(KeyboardInterrupt):
        train("killed", checkpoint, last)
    seen.clear()
    resumed, again = train("killed", checkpoint, 0)
    assert last <= min(seen) <= last + 1
    assert again == history
    assert resumed.keys() == whole.keys()
    for file in whole:
        pairs = (model_from_bytes(files[file]).get_weights() for files in (whole, resumed))
        for a, b in zip(*pairs, strict=True):
            np.testing.assert_array_equal(a, b)
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
