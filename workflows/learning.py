"""Stage 2 as jobs: autoencoder, constraint, GAN, each kept under the hash of what it saw."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any

import keras
import numpy as np
from jobflow import Maker, job
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.matching import is_same
from ccdcgan.dft.sources import primitive_cell
from ccdcgan.models.constraint import train_constraint
from ccdcgan.models.gan import train_gan
from ccdcgan.models.presets import Preset
from ccdcgan.models.representation import CrystalGraphs, Whitening, anchored
from ccdcgan.models.training import model_bytes, model_from_bytes
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.database import worker_class
from ccdcgan.workflows.documents import Entry
from ccdcgan.workflows.phases import Sample, training_set
from ccdcgan.workflows.stores import (
    Relaxations,
    artifact_key,
    cached_artifact,
    load_artifact,
)

SHIPPED_WEIGHTS = "sites_autoencoder.keras"
#: A training needs at least this many crystals that hold every element.
SMALLEST_DATABASE = 20


def preset_of(campaign: Campaign) -> Preset:
    """The preset of a campaign with the campaign's own choices in it."""
    preset = Preset(campaign.networks.preset)
    gan = replace(preset.gan, variant=campaign.networks.variant, omega=campaign.networks.omega)
    return replace(preset, gan=gan)


def shipped_autoencoder() -> bytes:
    """The sites autoencoder that comes with the package, in Keras's format."""
    return resources.files("ccdcgan.models").joinpath("weights", SHIPPED_WEIGHTS).read_bytes()


def samples_of(entries: Sequence[dict[str, Any]], campaign: Campaign) -> list[Sample]:
    """What can be learnt from, or a clear error if it is too little."""
    documents = Relaxations().get([Entry.model_validate(e).key for e in entries])
    samples = training_set(documents, campaign)
    if len(samples) < SMALLEST_DATABASE:
        raise UserError(
            f"{len(samples)} relaxed crystals hold {' and '.join(campaign.elements)}; training "
            f"needs at least {SMALLEST_DATABASE}: add prototype sources or widen database.filters"
        )
    return samples


def crystal_graphs(campaign: Campaign, autoencoder: dict[str, Any]) -> CrystalGraphs:
    """Encoder and decoder of a campaign from its autoencoder artifact."""
    return CrystalGraphs(
        campaign.elements, preset_of(campaign).grid, model_from_bytes(autoencoder["model"])
    )


@dataclass
class AutoencoderMaker(Maker):
    """The sites autoencoder, and how many crystals it reconstructs that it never saw."""

    name: str = "sites autoencoder"

    @job(config=worker_class("gpu"))
    def make(self, entries: list[dict[str, Any]], campaign: dict[str, Any]) -> dict[str, Any]:
        """Return the ``key`` of the artifact, ``match_fraction`` and ``held_out``."""
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        preset = preset_of(settings)
        samples = samples_of(entries, settings)
        weights = shipped_autoencoder()
        key = artifact_key(
            "autoencoder",
            hashlib.sha256(weights).hexdigest(),
            asdict(preset.grid),
            [s.key for s in samples],
        )

        def evaluate() -> dict[str, Any]:
            progress.report("autoencoder", 0, 1)
            graphs = CrystalGraphs(settings.elements, preset.grid, model_from_bytes(weights))
            # The shipped weights come from random crystals: every prototype is held out.
            cells = [anchored(primitive_cell(s.structure), 1)[0] for s in samples]
            decoded = graphs.decode(graphs.encode(cells))
            same = [d is not None and is_same(c, d) for c, d in zip(cells, decoded, strict=True)]
            progress.report("autoencoder", 1, 1)
            return {
                "model": weights,
                "match_fraction": float(np.mean(same)),
                "held_out": len(same),
            }

        artifact = cached_artifact(key, evaluate)
        return {
            "key": key,
            "match_fraction": artifact["match_fraction"],
            "held_out": artifact["held_out"],
            "seconds": monotonic() - start,
        }


@dataclass
class ConstraintMaker(Maker):
    """The constraint: formation energy from the crystal graph."""

    name: str = "constraint"

    @job(config=worker_class("gpu"))
    def make(
        self,
        entries: list[dict[str, Any]],
        autoencoder: dict[str, Any],
        campaign: dict[str, Any],
        number: int,
    ) -> dict[str, Any]:
        """Return the ``key`` of the artifact, its errors and its learning curve."""
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        preset = preset_of(settings)
        samples = samples_of(entries, settings)
        key = artifact_key(
            "constraint",
            autoencoder["key"],
            preset.digest(),
            settings.seed,
            number,
            [[s.key, s.formation_energy] for s in samples],
        )

        def train() -> dict[str, Any]:
            stage = f"constraint, round {number}"
            progress.report(stage, 0, 1)
            graphs = crystal_graphs(settings, load_artifact(autoencoder["key"]))
            rows, owner = encode_samples([s.structure for s in samples], graphs)
            space = Whitening.fit(rows, graphs.head, preset.gan.latent)
            energies = np.array([s.formation_energy for s in samples])[owner]
            trained = train_constraint(
                space.forward(rows), energies, owner, preset.constraint, settings.seed + number
            )
            progress.report(stage, 1, 1)
            return {
                "model": model_bytes(trained.model),
                "space": _save_arrays(**vars(space), rows=rows, owner=owner),
                "mae": trained.mae,
                "r2": trained.r2,
                "held_out": trained.held_out,
                "history": trained.history,
            }

        artifact = cached_artifact(key, train)
        return {
            "key": key,
            **{k: artifact[k] for k in ("mae", "r2", "held_out", "history")},
            "seconds": monotonic() - start,
        }


@dataclass
class GanMaker(Maker):
    """The GAN of the campaign's variant, trained on everything relaxed so far."""

    name: str = "gan"

    @job(config=worker_class("gpu"))
    def make(
        self,
        entries: list[dict[str, Any]],
        constraint: dict[str, Any],
        campaign: dict[str, Any],
        number: int,
    ) -> dict[str, Any]:
        """Return the ``key`` of the artifact and its learning curves."""
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        preset = preset_of(settings)
        samples = samples_of(entries, settings)
        key = artifact_key("gan", constraint["key"], preset.digest(), settings.seed, number)

        def train() -> dict[str, Any]:
            artifact = load_artifact(constraint["key"])
            space, arrays = load_space(artifact["space"])
            distance = np.array([s.e_above_hull for s in samples])[arrays["owner"]]
            weights = np.exp(-np.maximum(distance, 0.0) / preset.gan.energy_scale)
            checkpoint = Path(os.environ.get("CCDCGAN_CHECKPOINTS", "checkpoints")) / f"{key}.npz"
            trained = train_gan(
                space.forward(arrays["rows"]),
                weights,
                preset.gan,
                model_from_bytes(artifact["model"]),
                settings.seed + number,
                checkpoint,
                lambda done, total: progress.report(f"GAN, round {number}", done, total),
            )
            return {
                "generator": model_bytes(trained.generator),
                "history": trained.history,
                "checkpoint": str(checkpoint),
            }

        artifact = cached_artifact(key, train)
        # Only now that the generator is in the store is its checkpoint of no more use.
        Path(artifact["checkpoint"]).unlink(missing_ok=True)
        return {
            "key": key,
            "history": artifact["history"],
            "seconds": monotonic() - start,
        }


def encode_samples(
    structures: Sequence[Structure], graphs: CrystalGraphs
) -> tuple[np.ndarray, np.ndarray]:
    """Crystal graphs of the crystals, several origins each, and which crystal a row belongs to."""
    cells = [anchored(primitive_cell(s)) for s in structures]
    owner = np.repeat(np.arange(len(cells)), [len(c) for c in cells])
    return graphs.encode([cell for group in cells for cell in group]), owner


def load_space(data: bytes) -> tuple[Whitening, dict[str, np.ndarray]]:
    """Whitening of a constraint artifact, and the arrays that were stored with it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = dict(stored)
    fields = ("mean", "head_scale", "components", "deviations")
    return Whitening(**{f: arrays.pop(f) for f in fields}), arrays


def _save_arrays(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # none is allow_pickle
    return stream.getvalue()


def predict_formation_energy(
    structures: Sequence[Structure], graphs: CrystalGraphs, space: Whitening, model: keras.Model
) -> np.ndarray:
    """Predictions of the ensemble, (n, members) in eV/atom, for crystals as they are."""
    cells = [anchored(s, 1)[0] for s in structures]
    return np.asarray(model.predict(space.forward(graphs.encode(cells)), verbose=0))
