"""The autoencoder trained on a campaign's own crystals."""

import numpy as np
from pymatgen.core import Lattice, Structure

from ccdcgan.models.training import model_from_bytes
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.learning import _train_autoencoder, crystal_graphs


def crystals() -> list[Structure]:
    rng = np.random.default_rng(0)
    return [
        Structure(Lattice.cubic(4.0 + i / 10), ["Bi", "Se"], rng.random((2, 3))) for i in range(16)
    ]


def test_training_repeats_and_learns():
    data = {"networks": {"autoencoder": "train", "autoencoder_epochs": 12}}
    campaign = parse_campaign(data, "test")
    first = _train_autoencoder(crystals(), campaign)
    again = _train_autoencoder(crystals(), campaign)
    weights = [model_from_bytes(m["model"]).get_weights() for m in (first, again)]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)

    graphs = crystal_graphs(campaign, first)
    voxels = graphs.grid.encode([c.frac_coords for c in crystals()])[..., None]
    one = _train_autoencoder(
        crystals(), parse_campaign({"networks": {**data["networks"], "autoencoder_epochs": 1}}, "x")
    )
    short = crystal_graphs(campaign, one)
    error, early = (
        float(np.mean((np.asarray(g.autoencoder(voxels)) - voxels) ** 2)) for g in (graphs, short)
    )
    assert error < early
