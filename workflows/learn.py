"""Stage 2 as jobs: autoencoder, constraint, GAN, each kept under the hash of what it saw."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from jobflow import Maker, job
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.models.energy.constraint import Starts
from ccdcgan.models.energy.potential import Labelled, fit_potential
from ccdcgan.models.pipeline import (
    Crystals,
    train_autoencoders,
    train_constraints,
    train_generator,
    usable,
)
from ccdcgan.models.presets import PRESETS, Preset
from ccdcgan.models.representation.default import anchored
from ccdcgan.models.sampling import POTENTIAL, Files, crystal_graphs, shipped_autoencoder
from ccdcgan.models.training import TrainingLog
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import SMALLEST_DATABASE, Campaign
from ccdcgan.workflows.documents import RelaxationDocument
from ccdcgan.workflows.jobs import worker_class
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.phases import Sample
from ccdcgan.workflows.storage.stores import (
    Relaxations,
    artifact_key,
    cached_artifact,
    load_artifact,
)

logger = logging.getLogger("ccdcgan")


def preset_of(campaign: Campaign) -> Preset:
    """The preset of a campaign with the campaign's own choices in it."""
    chosen = campaign.networks
    preset = PRESETS[chosen.preset]
    gan = replace(
        preset.gan,
        variant=chosen.variant,
        omega=chosen.omega,
        loss=chosen.loss or preset.gan.loss,
        steps=chosen.gan_steps or preset.gan.steps,
    )
    guide = replace(preset.guide, epochs=chosen.guide_epochs or preset.guide.epochs)
    epochs = chosen.autoencoder_epochs or preset.autoencoder_epochs
    return replace(preset, gan=gan, guide=guide, autoencoder_epochs=epochs)


def samples_of(knowledge: Knowledge) -> list[Sample]:
    """What can be learnt from, or a clear error if it is too little."""
    samples, campaign = knowledge.samples, knowledge.campaign
    cells = [s.structure for s in samples]
    good, _ = usable(cells, campaign.elements, preset_of(campaign))
    if len(good) < SMALLEST_DATABASE:
        raise UserError(
            f"{len(good)} relaxed crystals hold {' and '.join(campaign.elements)}; training "
            f"needs at least {SMALLEST_DATABASE}: add prototype sources, widen database.filters or "
            "raise database.max_candidates; what is relaxed stays"
        )
    return [samples[i] for i in good]


def with_properties(samples: Sequence[Sample], names: Sequence[str]) -> Sequence[Sample]:
    """The samples that have all properties, or a clear error if they are too few."""
    for name in names:
        having = [s for s in samples if name in s.properties]
        if len(having) < SMALLEST_DATABASE:
            known = ", ".join(sorted(samples[0].properties))
            raise UserError(
                f"{len(samples) - len(having)} of {len(samples)} relaxed crystals have no {name!r},"
                f" which networks.goals asks for, and training needs {SMALLEST_DATABASE} that have "
                f"it; known are {known}"
            )
        samples = having
    return samples


def crystals_of(samples: Sequence[Sample], names: Sequence[str]) -> Crystals:
    """Crystals with the properties of these names, and what they were relaxed from."""
    starts = [(start, i) for i, s in enumerate(samples) for start in s.starts.values()]
    return Crystals(
        [s.structure for s in samples],
        np.array([[s.properties[name] for name in names] for s in samples]),
        list(names),
        np.array([s.properties["e_above_hull"] for s in samples]),
        Starts([start for start, _ in starts], np.array([i for _, i in starts], int)),
    )


def frames_of(documents: Mapping[str, RelaxationDocument], campaign: Campaign) -> list[Labelled]:
    """What the relaxations say on their way, for learning a potential."""
    kinds = {element: i for i, element in enumerate(campaign.elements)}
    return [
        Labelled(
            cell=np.array(frame.cell),
            kinds=np.array([kinds[s.specie.symbol] for s in decode_structure(d.structure)]),
            positions=np.array(frame.positions),
            energy=frame.energy,
            forces=np.array(frame.forces),
            stress=np.array(frame.stress),
            relaxation=number,
        )
        for number, (_, d) in enumerate(sorted(documents.items()))
        if d.has_own_frames
        for frame in d.frames
    ]


def stage_progress(stage: str) -> Callable[[int, int], None]:
    """A stage's reporter of (done, total)."""
    return lambda done, total: progress.report(stage, done, total)


def stage_log(key: str) -> TrainingLog | None:
    """Where a stage logs its losses: a folder of its own under ``CCDCGAN_LOGS``, if that is set."""
    folder = os.environ.get("CCDCGAN_LOGS")
    return TrainingLog(Path(folder) / key) if folder else None


def autoencoder_of(
    structures: Sequence[Structure],
    elements: Sequence[str],
    preset: Preset,
    seed: int,
    shipped: bool,
    log: TrainingLog | None,
) -> tuple[Files, dict[str, Any]]:
    """The shipped autoencoder, or one trained on 90% of the crystals, with its figures.

    Figures are ``match_fraction``, the share of the ``held_out`` crystals that it gives back.
    """
    cells = [anchored(s, 1)[0] for s in structures]
    # The shipped weights come from random crystals: every crystal is held out.
    files, held_out = shipped_autoencoder() if shipped else {}, cells
    if not shipped:
        order = np.random.default_rng(seed).permutation(len(cells))
        n_test = max(2, len(cells) // 10)
        held_out = [cells[i] for i in order[:n_test]]
        files = train_autoencoders(
            [cells[i] for i in order[n_test:]],
            elements,
            preset,
            seed,
            progress=stage_progress("autoencoder"),
            log=log,
        )
    graphs = crystal_graphs(elements, preset, files)
    fitting = [c for c in held_out if graphs.fits(c)]
    decoded = graphs.decode(graphs.encode(fitting))
    same = [d is not None and is_same(c, d) for c, d in zip(fitting, decoded, strict=True)]
    return files, {"match_fraction": sum(same) / len(held_out), "held_out": len(held_out)}


@dataclass
class AutoencoderMaker(Maker):
    """The autoencoders, and how many crystals they reconstruct that they never saw."""

    name: str = "autoencoder"

    @job(config=worker_class("gpu"))
    def make(self, entries: list[dict[str, Any]], campaign: dict[str, Any]) -> dict[str, Any]:
        """Return the ``key`` of the artifact and its figures."""
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        preset = preset_of(settings)
        samples = samples_of(Knowledge.of_job(entries, settings))
        shipped = settings.networks.autoencoder == "shipped"
        weights = shipped_autoencoder() if shipped else {}
        key = artifact_key(
            "autoencoder",
            {name: digest(content) for name, content in weights.items()},
            preset.digest(),
            settings.seed,
            [s.key for s in samples],
        )

        def make_and_evaluate() -> dict[str, Any]:
            progress.report(self.name, 0, 1)
            structures = [s.structure for s in samples]
            log = stage_log(key)
            files, figures = autoencoder_of(
                structures, settings.elements, preset, settings.seed, shipped, log
            )
            progress.report(self.name, 1, 1)
            return {"files": files, **figures}

        artifact = cached_artifact(key, make_and_evaluate)
        return {
            "key": key,
            "match_fraction": artifact["match_fraction"],
            "held_out": artifact["held_out"],
            "seconds": monotonic() - start,
        }


@dataclass
class ConstraintMaker(Maker):
    """The constraint: properties of a crystal, and the guide that tells the generator of them."""

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
        knowledge = Knowledge.of_job(entries, settings)
        samples = with_properties(samples_of(knowledge), settings.properties)
        crystals = crystals_of(samples, settings.properties)
        frames, foreign = [], 0
        if settings.prerelaxes:
            believed = Relaxations().get(knowledge.documents.keys() - knowledge.untrusted.keys())
            frames = frames_of(believed, settings)
            foreign = sum(not d.has_own_frames for d in believed.values())
        key = artifact_key(
            "constraint",
            autoencoder["key"],
            preset.digest(),
            settings.seed,
            number,
            crystals.names,
            [[*s.starts, *row] for s, row in zip(samples, crystals.targets.tolist(), strict=True)],
            [f.energy for f in frames],
        )
        stage = f"{self.name}, round {number}"

        def train() -> dict[str, Any]:
            progress.report(stage, 0, 1)
            files, figures = train_constraints(
                crystals,
                settings.elements,
                preset,
                load_artifact(autoencoder["key"])["files"],
                settings.seed + number,
                guided=preset.gan.variant == "ccdcgan",
                progress=stage_progress(stage),
                log=stage_log(key),
            )
            if len({f.relaxation for f in frames}) >= SMALLEST_DATABASE:
                learnt, errors = fit_potential(
                    frames, len(settings.elements), settings.seed + number
                )
                figures["potential"] = asdict(errors)
                if errors.used:
                    files[POTENTIAL] = learnt.to_bytes()
                else:
                    logger.warning("%s: the learnt potential is not used: %s", stage, errors)
            progress.report(stage, 1, 1)
            return {"files": files, **figures}

        artifact = cached_artifact(key, train)
        return {
            "key": key,
            **{k: v for k, v in artifact.items() if k != "files"},
            "foreign_frames": foreign,
            "seconds": monotonic() - start,
        }


@dataclass
class GanMaker(Maker):
    """The GAN of the campaign's variant, trained on what its constraint has learnt from."""

    name: str = "gan"

    @job(config=worker_class("gpu"))
    def make(
        self,
        autoencoder: dict[str, Any],
        constraint: dict[str, Any],
        campaign: dict[str, Any],
        number: int,
    ) -> dict[str, Any]:
        """Return the ``key`` of the artifact and its learning curves."""
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        preset = preset_of(settings)
        key = artifact_key("gan", constraint["key"], preset.digest(), settings.networks.goals)
        folder = os.environ.get("CCDCGAN_CHECKPOINTS", "checkpoints")
        checkpoint = Path(folder) / f"{key}.npz"

        def train() -> dict[str, Any]:
            files, figures = train_generator(
                settings.properties,
                settings.networks.goals,
                settings.elements,
                preset,
                load_files(autoencoder, constraint),
                settings.seed + number,
                checkpoint=checkpoint,
                progress=stage_progress(f"GAN, round {number}"),
                log=stage_log(key),
            )
            return {"files": files, **figures}

        artifact = cached_artifact(key, train)
        # Only now that the generator is in the store is its checkpoint of no more use.
        checkpoint.unlink(missing_ok=True)
        return {
            "key": key,
            "history": artifact["history"],
            "seconds": monotonic() - start,
        }


def load_files(*stages: dict[str, Any]) -> Files:
    """The files of the stages whose jobs gave these outputs."""
    files: Files = {}
    for stage in stages:
        files |= load_artifact(stage["key"])["files"]
    return files
