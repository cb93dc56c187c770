"""Stage 3 as a job: draw crystal graphs, decode and screen them, choose what to relax."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from jobflow import Maker

from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Claim
from ccdcgan.workflows.jobs import document_job
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.learn import load_files
from ccdcgan.workflows.outputs import (
    AutoencoderOutput,
    ConstraintOutput,
    GanOutput,
    GeneratedArtifact,
    GeneratedOutput,
)
from ccdcgan.workflows.storage.stores import artifact_key, cached_artifact, stored_key


@dataclass
class GenerateMaker(Maker):
    """Candidates drawn by a trained generator."""

    name: str = "generate"

    @document_job("gpu")
    def make(
        self,
        entries: list[Claim],
        autoencoder: AutoencoderOutput,
        constraint: ConstraintOutput,
        gan: GanOutput,
        campaign: Campaign,
        number: int,
    ) -> GeneratedOutput:
        """Candidates for relaxation, and the funnel that led to them."""
        # Keras takes seconds to import: whoever only makes or reads this job needs none of it.
        from ccdcgan.workflows.drawing import generated, mapped

        start = monotonic()
        key = stored_key(*generated_keys(gan.key, campaign))

        def generate() -> GeneratedArtifact:
            files = load_files(autoencoder, constraint, gan)
            knowledge = Knowledge.of_job(entries, campaign)
            candidates, funnel = generated(knowledge, files, constraint.properties, gan.key, number)
            latent = mapped(knowledge, files, candidates)
            return GeneratedArtifact(candidates=candidates, funnel=funnel, latent=latent)

        artifact = cached_artifact(key, GeneratedArtifact, generate)
        return GeneratedOutput.of(artifact, seconds=monotonic() - start)


def generated_keys(gan: str, campaign: Campaign) -> tuple[str, str]:
    """Keys of the artifact of a round's candidates: today's, and that of earlier versions."""
    # A campaign of more rounds begins with the same ones.
    today, earlier = (
        artifact_key("generated", gan, campaign.choice(rounds=rounds)) for rounds in (False, True)
    )
    return today, earlier
