"""Stage 2 as jobs: autoencoder, constraint, GAN, each kept under the hash of what it saw."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from ccdcgan.models.autoencoder import train_sites_autoencoder
from ccdcgan.models.constraint import train_constraint
from ccdcgan.models.gan import train_gan
from ccdcgan.models.paper_graphs import Folding, PaperCrystalGraphs, train_paper_autoencoders
from ccdcgan.models.presets import PRESETS, Preset
from ccdcgan.models.representation import CrystalGraphs, Whitening, anchored, coordinates
from ccdcgan.models.training import make_deterministic, model_bytes, model_from_bytes
from ccdcgan.models.voxels import LatticeGrid
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
    chosen = campaign.networks
    preset = PRESETS[chosen.preset]
    gan = replace(preset.gan, variant=chosen.variant, omega=chosen.omega)
    constraint = preset.constraint
    if chosen.gan_steps is not None:
        gan = replace(gan, steps=chosen.gan_steps)
    if chosen.constraint_steps is not None:
        constraint = replace(constraint, steps=chosen.constraint_steps)
    epochs = chosen.autoencoder_epochs or preset.autoencoder_epochs
    return replace(preset, gan=gan, constraint=constraint, autoencoder_epochs=epochs)


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


Graphs = CrystalGraphs | PaperCrystalGraphs
Space = Whitening | Folding


def crystal_graphs(campaign: Campaign, autoencoder: dict[str, Any]) -> Graphs:
    """Encoder and decoder of a campaign from its autoencoder artifact."""
    preset = preset_of(campaign)
    model = model_from_bytes(autoencoder["model"])
    if preset.networks == "paper":
        lattice = model_from_bytes(autoencoder["lattice_model"])
        return PaperCrystalGraphs(campaign.elements, preset.grid, model, lattice, LatticeGrid())
    return CrystalGraphs(campaign.elements, preset.grid, model)


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
        shipped = settings.networks.autoencoder == "shipped"
        weights = shipped_autoencoder() if shipped else b""
        key = artifact_key(
            "autoencoder",
            hashlib.sha256(weights).hexdigest(),
            preset.digest(),
            settings.seed,
            [s.key for s in samples],
        )

        def make_and_evaluate() -> dict[str, Any]:
            progress.report("autoencoder", 0, 1)
            cells = [anchored(primitive_cell(s.structure), 1)[0] for s in samples]
            # The shipped weights come from random crystals: every prototype is held out.
            models, held_out = {"model": weights}, cells
            if not shipped:
                order = np.random.default_rng(settings.seed).permutation(len(cells))
                n_test = max(2, len(cells) // 10)
                held_out = [cells[i] for i in order[:n_test]]
                models = _train_autoencoder([cells[i] for i in order[n_test:]], settings)
            graphs = crystal_graphs(settings, models)
            fitting = [c for c in held_out if graphs.fits(c)]
            decoded = graphs.decode(graphs.encode(fitting))
            same = [d is not None and is_same(c, d) for c, d in zip(fitting, decoded, strict=True)]
            progress.report("autoencoder", 1, 1)
            return {
                **models,
                "match_fraction": sum(same) / len(held_out),
                "held_out": len(held_out),
            }

        artifact = cached_artifact(key, make_and_evaluate)
        return {
            "key": key,
            "match_fraction": artifact["match_fraction"],
            "held_out": artifact["held_out"],
            "seconds": monotonic() - start,
        }


def _train_autoencoder(cells: Sequence[Structure], campaign: Campaign) -> dict[str, Any]:
    """The autoencoders of a campaign, trained on its own crystals."""
    preset = preset_of(campaign)
    if preset.networks == "paper":
        assert preset.grid.cube is not None
        graphs = PaperCrystalGraphs(campaign.elements, preset.grid, None, None, LatticeGrid())
        fitting = [c for c in cells if graphs.fits(c)]
        if not fitting:
            raise UserError(f"no crystal fits into the cube of {preset.grid.cube} Å")
        sites, lattice = train_paper_autoencoders(
            fitting,
            campaign.elements,
            preset.grid,
            LatticeGrid(),
            preset.autoencoder_epochs,
            campaign.seed,
        )
        return {"model": model_bytes(sites), "lattice_model": model_bytes(lattice)}
    make_deterministic(campaign.seed)
    pictures = [coordinates(c, element) for c in cells for element in campaign.elements]
    model = train_sites_autoencoder(
        [p for p in pictures if len(p)], preset.grid, preset.autoencoder_epochs, campaign.seed
    )
    return {"model": model_bytes(model)}


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
            space: Space
            if isinstance(graphs, CrystalGraphs):
                space = Whitening.fit(rows, graphs.head, preset.gan.latent)
            else:
                space = Folding(1 + len(settings.elements))
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
            weights = np.ones(len(distance))
            if preset.gan.energy_scale is not None:
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
    structures: Sequence[Structure], graphs: Graphs
) -> tuple[np.ndarray, np.ndarray]:
    """Crystal graphs of the crystals, several origins each, and which crystal a row belongs to."""
    cells = [[c for c in anchored(primitive_cell(s)) if graphs.fits(c)] for s in structures]
    owner = np.repeat(np.arange(len(cells)), [len(c) for c in cells])
    return graphs.encode([cell for group in cells for cell in group]), owner


def load_space(data: bytes) -> tuple[Space, dict[str, np.ndarray]]:
    """The networks' space from a constraint artifact, and the arrays that were stored with it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = dict(stored)
    if "n_rows" in arrays:
        return Folding(int(arrays.pop("n_rows"))), arrays
    fields = ("mean", "head_scale", "components", "deviations")
    return Whitening(**{f: arrays.pop(f) for f in fields}), arrays


def _save_arrays(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # none is allow_pickle
    return stream.getvalue()


def predict_formation_energy(
    structures: Sequence[Structure], graphs: Graphs, space: Space, model: keras.Model
) -> np.ndarray:
    """Predictions of the ensemble, (n, members) in eV/atom, for crystals as they are.

    What does not fit into the preset's grid has no prediction but infinity.
    """
    cells = [anchored(s, 1)[0] for s in structures]
    fitting = [graphs.fits(c) for c in cells]
    rows = graphs.encode([c for c, fits in zip(cells, fitting, strict=True) if fits])
    out = np.full((len(cells), int(model.output_shape[-1])), np.inf)
    if len(rows):
        out[fitting] = model.predict(space.forward(rows), verbose=0)
    return out
