"""Presets: every choice that shapes the networks, as plain values that print and hash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.mistakes import did_you_mean, in_one_line, mistakes, not_numbers, shown
from ccdcgan.dft.yaml_files import read_yaml
from ccdcgan.models.representation.voxels import SitesGrid

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]

#: Changes whenever models of an earlier version can no longer be used.
FORMAT = 5
#: The same of the paper's networks alone.
PAPER_FORMAT = 1


@dataclass(frozen=True)
class ConstraintSettings:
    """The model that predicts properties of a crystal from its atoms' environments.

    Attributes
    ----------
    references
        Reference environments, drawn from the training crystals.
    zeta
        Sharpness of the kernel.
    ridge
        Regularisation, relative to the variance of the property.
    copy_weight
        Weight of a rattled copy beside its relaxed crystal.
    start_weight
        Weight of the geometry that a crystal was relaxed from (docs/design-notes.md).
    members
        Size of the ensemble.
    test_fraction
        Crystals held out for the errors (paper: 10%).
    near_hull
        Errors are also given for crystals within this distance of the hull, eV/atom.
    """

    references: Count = 1000
    zeta: Count = 6
    ridge: Positive = 1e-4
    copy_weight: Weight = 0.04
    start_weight: Weight = 0.1
    members: Count = 8
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    near_hull: Weight = 0.3


@dataclass(frozen=True)
class GuideSettings:
    """The network that tells the generator what the constraint thinks of a crystal graph.

    Attributes
    ----------
    samples
        Generated crystal graphs that the constraint judges for the guide to learn from, beside
        the relaxed crystals.
    epochs
        Most passes over them; training stops early when the held-out tenth improves no more.
    """

    samples: Annotated[int, Field(ge=0)] = 2000
    width: Count = 256
    epochs: Count = 60
    batch: Count = 64
    learning_rate: Positive = 1e-3


@dataclass(frozen=True)
class GanSettings:
    """The generative adversarial network.

    Attributes
    ----------
    variant
        ``ccdcgan``: the predicted formation energy is part of the generator's objective, with
        weight `omega` (paper, eq. 2); ``dcgan+constraint``: it only screens; ``dcgan``: neither.
    loss
        ``wgan-gp``: Wasserstein distance with gradient penalty; ``hinge``: with spectral
        normalisation of the critic; ``bce``: the paper's cross-entropy.
    guidance
        What `omega` weighs: the mean ``energy`` (paper, eq. 2), or the mean of its ``exp``
        (released code), which rewards an ever lower energy less.
    latent
        Most whitened numbers of a crystal graph in which the default networks work; fewer lose
        crystals (docs/design-notes.md).
    blur
        Noise on the known crystals that the default generator starts from, in whitened units.
    energy_scale
        Crystals are drawn for training with weight exp(-E_hull / energy_scale), eV/atom; None
        draws all alike.
    composition_jitter
        Probability that an element's number of atoms in the composition that the default
        generator is asked for comes from another known crystal.
    precision
        ``auto``: bfloat16 with float32 weights for the paper's convolutions on an accelerator,
        else float32; or a name of Keras's dtype policies.
    """

    variant: Literal["ccdcgan", "dcgan+constraint", "dcgan"] = "ccdcgan"
    loss: Literal["wgan-gp", "hinge", "bce"] = "wgan-gp"
    omega: Weight = 0.1
    guidance: Literal["energy", "exp"] = "energy"
    latent: Count = 1024
    blur: Weight = 0.5
    width: Count = 256
    steps: Count = 1000
    critic_steps: Count = 2
    batch: Count = 64
    learning_rate: Positive = 3e-4
    penalty: Weight = 10.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.995
    energy_scale: Positive | None = 0.12
    composition_jitter: Share = 0.15
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"


@dataclass(frozen=True)
class PaperSizes:
    """What the paper's autoencoders have beside the sites grid.

    Attributes
    ----------
    lattice_points
        Points of the lattice voxel along each axis.
    filters
        Channels of the convolutions.
    """

    lattice_points: Count = 32
    filters: Count = 64


@dataclass(frozen=True)
class Preset:
    """Representation and networks of a campaign.

    Attributes
    ----------
    grid
        Grid of the sites voxels.
    networks
        ``dense``, in the whitened space of crystal graphs, or ``paper``, its convolutions.
    max_sites
        Most atoms in a primitive cell that is learnt from (paper: 20).
    autoencoder_epochs
        Passes over the campaign's own crystals where it trains its autoencoder.
    paper
        Sizes of the paper's autoencoders.
    """

    name: str = "quickstart"
    grid: SitesGrid = SitesGrid(points=16, sigma=0.75)
    networks: Literal["dense", "paper"] = "dense"
    max_sites: Count = 20
    autoencoder_epochs: Count = 60
    paper: PaperSizes = field(default_factory=PaperSizes)
    constraint: ConstraintSettings = field(default_factory=ConstraintSettings)
    guide: GuideSettings = field(default_factory=GuideSettings)
    gan: GanSettings = field(default_factory=GanSettings)

    def digest(self) -> str:
        """Hash of all values: models of different presets never mix."""
        return self._digest(asdict(self))

    def autoencoder_digest(self) -> str:
        """Hash of what shapes the autoencoders alone: the variants of the GAN share them."""
        names = ("grid", "networks", "max_sites", "autoencoder_epochs", "paper")
        return self._digest({name: value for name, value in asdict(self).items() if name in names})

    def _digest(self, values: dict[str, Any]) -> str:
        paper = values.pop("paper")
        if self.networks == "paper":
            values["paper"] = [PAPER_FORMAT, paper]
        return digest(json.dumps([FORMAT, values], sort_keys=True), 16)

    def __str__(self) -> str:
        stream = StringIO()
        YAML().dump(asdict(self), stream)
        return stream.getvalue()


#: Voxels of 15 Å / 63 spacing and the 0.26 Å of the released code: the paper's σ = 0.15 has no
#: unit, and Gaussians of 0.15 Å would fall between its grid points.
PAPER_GRID = SitesGrid(points=64, sigma=0.26 / (15.0 / 63), cube=15.0)

#: The paper's networks on the paper's grids.
PAPER = Preset(
    "paper",
    grid=PAPER_GRID,
    networks="paper",
    autoencoder_epochs=100,
    # The paper's constraint sees crystal graphs alone. Its main text gives neither batch size
    # nor epochs.
    guide=GuideSettings(samples=0, epochs=200, batch=128, learning_rate=2e-3),
    gan=GanSettings(
        loss="bce",
        steps=1_000_000,
        critic_steps=1,
        batch=128,
        learning_rate=2e-3,
        average=0.0,
        energy_scale=None,
    ),
)

PRESETS: dict[str, Preset] = {
    "quickstart": Preset(),
    "default": Preset(
        "default",
        autoencoder_epochs=200,
        guide=GuideSettings(samples=10_000, epochs=100),
        gan=GanSettings(steps=10_000, batch=128, critic_steps=3),
    ),
    "paper": PAPER,
    # For two cores: grids of 16 points, which halve twice, where the paper's halve four times
    # (sites) and three times (lattice); 40 epochs in place of 100; 20,000 steps in place of a
    # million. Kernels, filters, losses, optimisers and the points that a Gaussian spans stay.
    "paper-small": replace(
        PAPER,
        name="paper-small",
        grid=replace(PAPER_GRID, points=16),
        paper=PaperSizes(lattice_points=16),
        autoencoder_epochs=40,
        gan=replace(PAPER.gan, steps=20_000),
    ),
}


def load_preset(path: Path) -> Preset:
    """A preset from a YAML file: values that differ from those of the preset it is `based_on`.

    Raises
    ------
    ValueError
        The file is not readable, or has an unknown key or a value that does not fit; the message
        names it.
    """
    try:
        return preset_from(read_yaml(path), str(path))
    except UserError as error:
        raise ValueError(str(error)) from None


def preset_from(data: dict[str, Any], name: str = "preset") -> Preset:
    """A preset from plain values, as `load_preset`; `name` is for messages."""
    values = dict(data)
    base = values.pop("based_on", "default")
    if not isinstance(base, str) or base not in PRESETS:
        raise ValueError(f"{name}: based_on must be one of {', '.join(PRESETS)}, not {shown(base)}")
    merged = _merge(asdict(PRESETS[base]), values, name, "")
    wrong = dict(not_numbers(merged))
    try:
        if not wrong:
            return TypeAdapter(Preset).validate_python(merged)
    except ValidationError as error:
        wrong = mistakes(error, Preset, merged)
    raise ValueError(f"{name}: {in_one_line(list(wrong.values()))}")


def _merge(base: dict[str, Any], change: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    for key, value in change.items():
        if key not in base:
            hint = did_you_mean(str(key), base)
            if not hint:
                keys = base if where else {"based_on": None, **base}
                hint = f"; the keys are {', '.join(keys)}"
            raise ValueError(f"{name}: unknown key {shown(f'{where}{key}')}{hint}")
        if isinstance(base[key], dict):
            if not isinstance(value, dict):
                raise ValueError(f"{name}: {where}{key} holds keys and values, not {shown(value)}")
            value = _merge(base[key], value, name, f"{where}{key}.")
        base = {**base, key: value}
    return base
