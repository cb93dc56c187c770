"""The autoencoder trained on a campaign's own crystals."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
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
