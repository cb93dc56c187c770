"""What the jobs of a campaign hand on to each other: one document for each kind of job."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, Field

from ccdcgan.dft.dynamics.document import Stability
from ccdcgan.dft.finite import FiniteOrNone
from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.documents import Artifact, Candidate, Claim, Funnel
from ccdcgan.workflows.insight import LatentMap

#: atomate2's document of a run, as it is stored.
TaskDocument = dict[str, Any]

#: Losses or other values of a training, by name of the curve; null where one is not finite.
History = dict[str, list[FiniteOrNone]]


class SkippedPrototype(BaseModel):
    """A prototype that could not be read."""

    id: str
    reason: str


class Timed(BaseModel):
    """An output with the time that it took."""

    seconds: float = Field(description="Of the job, or of all jobs of its stage together.")

    @classmethod
    def of(cls, artifact: Artifact, **own: Any) -> Self:
        """With what an artifact has beside its files."""
        return cls(**artifact.model_dump(exclude={"files"}), **own)


class ProposedOutput(Timed):
    """Structures of stage 1 that wait for their relaxation, and what was left out of them."""

    candidates: list[Candidate] = []
    rejected: dict[str, int] = Field(description="Prototypes that were left out, by reason.")
    skipped: list[SkippedPrototype]


class RelaxedOutput(Timed):
    """Claims on relaxed candidates, in their order, each content key once."""

    entries: list[Claim] = []


class VaspOutput(RelaxedOutput):
    """Claims on candidates that VASP has relaxed."""

    tasks: dict[str, TaskDocument] = Field(
        description="atomate2's documents of the runs that gave the energies, by content key."
    )


class AutoencoderFigures(BaseModel):
    """How good autoencoders are."""

    match_fraction: float = Field(description="Share of the held-out crystals that it gives back.")
    held_out: int
    history: History = Field({}, description="Losses by epoch of those trained here, by name.")


class AutoencoderArtifact(Artifact, AutoencoderFigures):
    """Autoencoders with their figures."""


class AutoencoderOutput(AutoencoderFigures, Timed):
    """The autoencoders of a campaign."""

    key: str = Field("", description="Of the artifact with the networks.")


class ConstraintFigures(BaseModel):
    """How good a constraint, its guide and the potential are."""

    properties: dict[str, PropertyErrors]
    guide: dict[str, PropertyErrors] = Field({}, description="Of the guide; empty without one.")
    history: History = Field({}, description="Losses of the guide.")
    potential: PotentialErrors | None = None


class ConstraintArtifact(Artifact, ConstraintFigures):
    """A constraint, its guide and the potential, with their figures."""


class ConstraintOutput(ConstraintFigures, Timed):
    """The constraint of a round, its guide, and the potential learnt for it."""

    key: str = Field("", description="Of the artifact with the networks.")
    foreign_frames: int = Field(
        0, description="Relaxations whose frames have energies that are not theirs."
    )


class GanArtifact(Artifact):
    """A generator with its losses."""

    history: History


class GanOutput(Timed):
    """The generator of a round."""

    key: str = Field("", description="Of the artifact with the networks.")
    history: History


class GeneratedArtifact(Artifact):
    """Generated candidates, and the funnel that led to them."""

    candidates: list[Candidate]
    funnel: Funnel
    latent: LatentMap | None = None


class GeneratedOutput(Timed):
    """Generated candidates for relaxation, and the funnel that led to them."""

    candidates: list[Candidate]
    funnel: Funnel
    latent: LatentMap | None = None


class Examined(BaseModel):
    """A phase with its phonons and elastic constants."""

    id: str = Field(description="Content key of its relaxation.")
    formula: str
    spacegroup: str
    stability: Stability


class StabilityOutput(Timed):
    """Examined crystals, and those displaced along imaginary modes, which wait for relaxation."""

    crystals: list[Examined] = []
    candidates: list[Candidate] = []


class RoundReport(BaseModel):
    """What a round has done."""

    funnel: Funnel
    constraint: ConstraintOutput
    gan: GanOutput
    generation_seconds: float
    relaxation_seconds: float = Field(0.0, description="Zero until the round has ended.")
    latent: LatentMap | None = Field(None, description="What it knew and what it has chosen.")


class RoundsOutput(BaseModel):
    """What a campaign has relaxed when its last round has ended."""

    entries: list[Claim]
    history: list[RoundReport]
