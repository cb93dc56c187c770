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
    steps: int = 1500
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
        Crystals are drawn for training with weight exp(-E_hull / energy_scale), eV/atom.
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
    energy_scale: float = 0.12


@dataclass(frozen=True)
class Preset:
    """Representation and networks of a campaign."""

    name: str = "quickstart"
    grid: SitesGrid = SitesGrid(points=16, sigma=0.75)
    networks: str = "dense"
    constraint: ConstraintSettings = field(default_factory=ConstraintSettings)
    gan: GanSettings = field(default_factory=GanSettings)

    def digest(self) -> str:
        """Hash of all values: models of different presets never mix."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
