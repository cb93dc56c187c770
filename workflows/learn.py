"""Stage 2 as jobs: autoencoder, constraint, GAN, each kept under the hash of what it saw."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from jobflow import Maker

from ccdcgan.dft.files import digest
from ccdcgan.dft.variables import variables
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Artifact, Claim
from ccdcgan.workflows.jobs import document_job
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.outputs import (
    AutoencoderArtifact,
    AutoencoderOutput,
    ConstraintArtifact,
    ConstraintOutput,
    GanArtifact,
    GanOutput,
)
from ccdcgan.workflows.sections import SMALLEST_DATABASE
from ccdcgan.workflows.storage.stores import (
    artifact_key,
    cached_artifact,
    load_artifact,
    stored_key,
)

if TYPE_CHECKING:
    from ccdcgan.models.energy.potential import Labelled
    from ccdcgan.models.pipeline import Crystals
    from ccdcgan.models.sampling import Files

# Keras takes seconds to import: only what runs one of these jobs needs it.

logger = logging.getLogger("ccdcgan")


@dataclass
class AutoencoderMaker(Maker):
    """The autoencoders, and how many crystals they reconstruct that they never saw."""

    name: str = "autoencoder"

    @document_job("gpu")
    def make(self, entries: list[Claim], campaign: Campaign) -> AutoencoderOutput:
        """Trained or shipped autoencoders, with their figures."""
        from ccdcgan.models.sampling import shipped_autoencoder
        from ccdcgan.workflows.training import autoencoder_of, preset_of, samples_of, stage_log

        start = monotonic()
        preset = preset_of(campaign)
        samples = samples_of(Knowledge.of_job(entries, campaign))
        shipped = campaign.networks.autoencoder == "shipped"
        weights = shipped_autoencoder() if shipped else {}
        contents = {name: digest(content) for name, content in weights.items()}
        seen = [s.key for s in samples]
        # Before 0.2.1 each variant of the GAN had autoencoders of its own.
        key = stored_key(
            *(
                artifact_key("autoencoder", contents, shape, campaign.seed, seen)
                for shape in (preset.autoencoder_digest(), preset.digest())
            )
        )
        # Two variants may train the same ones at a time.
        trained = f"{key}-{campaign.digest()}"
        checkpoint = variables().checkpoints / f"{trained}.npz"

        def make_and_evaluate() -> AutoencoderArtifact:
            progress.report(self.name, 0, 1)
            structures = [s.structure for s in samples]
            log = stage_log(trained)
            made = autoencoder_of(
                structures, campaign.elements, preset, campaign.seed, shipped, checkpoint, log
            )
            progress.report(self.name, 1, 1)
            return made

        artifact = cached_artifact(key, AutoencoderArtifact, make_and_evaluate)
        # Only now that the networks are in the store is their checkpoint of no more use.
        checkpoint.unlink(missing_ok=True)
        return AutoencoderOutput.of(artifact, key=key, seconds=monotonic() - start)


@dataclass
class ConstraintMaker(Maker):
    """The constraint: properties of a crystal, and the guide that tells the generator of them."""

    name: str = "constraint"

    @document_job("gpu")
    def make(
        self,
        entries: list[Claim],
        autoencoder: AutoencoderOutput,
        campaign: Campaign,
        number: int,
    ) -> ConstraintOutput:
        """Trained constraint and potential of a round, with their errors and learning curve."""
        from ccdcgan.workflows.training import (
            crystals_of,
            learnable_frames,
            preset_of,
            samples_of,
            with_properties,
        )

        start = monotonic()
        knowledge = Knowledge.of_job(entries, campaign)
        samples = with_properties(samples_of(knowledge), campaign.properties)
        crystals = crystals_of(samples, campaign.properties)
        frames, foreign = learnable_frames(knowledge) if campaign.prerelaxes else ([], 0)
        seed = campaign.seed_of("constraint", number)
        rows = zip(samples, crystals.targets.tolist(), strict=True)
        learnt = (
            crystals.names,
            [[*s.starts, *row] for s, row in rows],
            [f.energy for f in frames],
        )
        shape = preset_of(campaign).digest()
        key = stored_key(
            artifact_key("constraint", autoencoder.key, shape, seed, *learnt),
            artifact_key("constraint", autoencoder.key, shape, campaign.seed, number, *learnt),
        )
        stage = f"{self.name}, round {number}"
        artifact = cached_artifact(
            key,
            ConstraintArtifact,
            lambda: self._trained(crystals, frames, autoencoder, campaign, seed, stage, key),
        )
        return ConstraintOutput.of(
            artifact, key=key, foreign_frames=foreign, seconds=monotonic() - start
        )

    @staticmethod
    def _trained(
        crystals: Crystals,
        frames: Sequence[Labelled],
        autoencoder: AutoencoderOutput,
        campaign: Campaign,
        seed: int,
        stage: str,
        key: str,
    ) -> ConstraintArtifact:
        """What is trained where the artifact is not there yet."""
        from ccdcgan.models.energy.potential import fit_potential
        from ccdcgan.models.pipeline import train_constraints
        from ccdcgan.models.sampling import POTENTIAL
        from ccdcgan.workflows.training import preset_of, stage_log, stage_progress

        preset = preset_of(campaign)
        progress.report(stage, 0, 1)
        files, figures = train_constraints(
            crystals,
            campaign.elements,
            preset,
            load_files(autoencoder),
            seed,
            guided=preset.gan.variant == "ccdcgan",
            progress=stage_progress(stage),
            log=stage_log(key),
        )
        if len({f.relaxation for f in frames}) >= SMALLEST_DATABASE:
            try:
                learnt, errors = fit_potential(frames, len(campaign.elements), seed)
            except ValueError as error:
                # The campaign does without, as where it errs too much.
                logger.warning("%s: no potential could be learnt: %s", stage, error)
            else:
                figures["potential"] = errors
                if errors.used:
                    files[POTENTIAL] = learnt.to_bytes()
                else:
                    logger.warning("%s: the learnt potential is not used: %s", stage, errors)
        progress.report(stage, 1, 1)
        return ConstraintArtifact(files=files, **figures)


@dataclass
class GanMaker(Maker):
    """The GAN of the campaign's variant, trained on what its constraint has learnt from."""

    name: str = "gan"

    @document_job("gpu")
    def make(
        self,
        autoencoder: AutoencoderOutput,
        constraint: ConstraintOutput,
        campaign: Campaign,
        number: int,
    ) -> GanOutput:
        """Trained generator of a round, with its learning curves."""
        from ccdcgan.models.pipeline import train_generator
        from ccdcgan.workflows.training import preset_of, stage_log, stage_progress

        start = monotonic()
        preset = preset_of(campaign)
        seed = campaign.seed_of("gan", number)
        learnt = ("gan", constraint.key, preset.digest(), campaign.networks.goals)
        key = stored_key(artifact_key(*learnt, seed), artifact_key(*learnt))
        checkpoint = variables().checkpoints / f"{key}.npz"

        def train() -> GanArtifact:
            files, figures = train_generator(
                campaign.properties,
                campaign.networks.goals,
                campaign.elements,
                preset,
                load_files(autoencoder, constraint),
                seed,
                checkpoint=checkpoint,
                progress=stage_progress(f"GAN, round {number}"),
                log=stage_log(key),
            )
            return GanArtifact(files=files, **figures)

        artifact = cached_artifact(key, GanArtifact, train)
        checkpoint.unlink(missing_ok=True)
        return GanOutput.of(artifact, key=key, seconds=monotonic() - start)


def load_files(*stages: AutoencoderOutput | ConstraintOutput | GanOutput) -> Files:
    """The files of the stages whose jobs gave these outputs."""
    files: Files = {}
    for stage in stages:
        files |= load_artifact(stage.key, Artifact).files
    return files
