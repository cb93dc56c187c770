"""Presets: every choice that shapes the networks, as plain values that print and hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field

from ccdcgan.models.voxels import SitesGrid


@dataclass(frozen=True)
class ConstraintSettings:
    """The network that predicts the formation energy from a crystal graph."""

    width: int = 192
    members: int = 4
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 1e-3
    dropout: float = 0.1
    test_fraction: float = 0.1


@dataclass(frozen=True)
class GanSettings:
    """The generative adversarial network.

    Attributes
    ----------
    variant
        ``ccdcgan``: the predicted formation energy is part of the generator's objective, with
        weight `omega` (paper, eq. 2); ``dcgan+constraint``: it only screens; ``dcgan``: neither.
    loss
        ``wgan-gp``: Wasserstein distance with gradient penalty; ``bce``: the paper's.
    latent
        Whitened components of the crystal graphs in which the default networks work.
    blur
        Noise on the known crystals that the default generator starts from, in whitened units.
    energy_scale
        Crystals are drawn for training with weight exp(-E_hull / energy_scale), eV/atom; None
        draws all alike.
    """

    variant: str = "ccdcgan"
    loss: str = "wgan-gp"
    omega: float = 0.1
    latent: int = 192
    blur: float = 0.2
    width: int = 256
    steps: int = 1000
    critic_steps: int = 2
    batch: int = 64
    learning_rate: float = 3e-4
    penalty: float = 10.0
    average: float = 0.995
    energy_scale: float | None = 0.12


@dataclass(frozen=True)
class Preset:
    """Representation and networks of a campaign.

    Attributes
    ----------
    grid
        Grid of the sites voxels.
    networks
        ``dense``, in the whitened space of crystal graphs, or ``paper``, its convolutions.
    autoencoder_epochs
        Passes over the campaign's own crystals where it trains its autoencoder.
    """

    name: str = "quickstart"
    grid: SitesGrid = SitesGrid(points=16, sigma=0.75)
    networks: str = "dense"
    autoencoder_epochs: int = 60
    constraint: ConstraintSettings = field(default_factory=ConstraintSettings)
    gan: GanSettings = field(default_factory=GanSettings)

    def digest(self) -> str:
        """Hash of all values: models of different presets never mix."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


#: Voxels of 15 Å / 63 spacing and the 0.26 Å of the released code: the paper's σ = 0.15 has no
#: unit, and Gaussians of 0.15 Å would fall between its grid points.
PAPER_GRID = SitesGrid(points=64, sigma=0.26 / (15.0 / 63), cube=15.0)

PRESETS: dict[str, Preset] = {
    "quickstart": Preset(),
    "default": Preset(
        "default",
        autoencoder_epochs=200,
        constraint=ConstraintSettings(steps=6000),
        gan=GanSettings(steps=10_000, batch=128, critic_steps=3),
    ),
    "paper": Preset(
        "paper",
        grid=PAPER_GRID,
        networks="paper",
        autoencoder_epochs=100,
        # The main text gives neither the batch size nor the epochs of the constraint.
        constraint=ConstraintSettings(members=1, steps=20_000, batch=128, learning_rate=2e-3),
        gan=GanSettings(
            loss="bce",
            steps=1_000_000,
            critic_steps=1,
            batch=128,
            learning_rate=2e-3,
            average=0.0,
            energy_scale=None,
        ),
    ),
}
