"""The autoencoder trained on a campaign's own crystals."""

import numpy as np
from pymatgen.core import Lattice, Structure

from ccdcgan.models.training import model_from_bytes
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.learning import _train_autoencoder


def crystals() -> list[Structure]:
    rng = np.random.default_rng(0)
    return [
        Structure(Lattice.cubic(4.0 + i / 10), ["Bi", "Se"], rng.random((2, 3))) for i in range(16)
    ]


def test_training_repeats():
    data = {"networks": {"autoencoder": "train", "autoencoder_epochs": 2}}
    campaign = parse_campaign(data, "test")
    first = _train_autoencoder(crystals(), campaign)
    again = _train_autoencoder(crystals(), campaign)
    weights = [model_from_bytes(m["model"]).get_weights() for m in (first, again)]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
