"""What the jobs of a campaign hand on to each other: one document for each kind of job."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.documents import Candidate, Claim, FiniteOrNone, Funnel

#: Losses or other values of a training, by name of the curve; null where one is not finite.
History = dict[str, list[FiniteOrNone]]


class SkippedPrototype(BaseModel):
    """A prototype that could not be read."""

    id: str
    reason: str


class Timed(BaseModel):
    """An output with the time that it took."""

    seconds: float = Field(description="Of the job, or of all jobs of its stage together.")


class ProposedOutput(Timed):
    """Structures of stage 1 that wait for their relaxation, and what was left out of them."""

    candidates: list[Candidate] = []
    rejected: dict[str, int] = Field(description="Prototypes that were left out, by reason.")
    skipped: list[SkippedPrototype]


class RelaxedOutput(Timed):
    """Entries of relaxed candidates, in their order, each content key once."""

    entries: list[Claim] = []


class VaspOutput(RelaxedOutput):
    """Entries of candidates that VASP has relaxed."""

    tasks: dict[str, dict[str, Any]] = Field(
        description="atomate2's documents of the runs that gave the energies, by content key."
    )


class AutoencoderOutput(Timed):
    """The autoencoders of a campaign."""

    key: str = Field("", description="Of the artifact with the networks.")
    match_fraction: float = Field(description="Share of the held-out crystals that it gives back.")
    held_out: int


class PropertyErrors(BaseModel):
    """Errors of a constraint for crystals that it has not seen, in the property's unit."""

    mae: float
    r2: FiniteOrNone = None
    held_out: int
    mae_near_hull: FiniteOrNone = None
    r2_near_hull: FiniteOrNone = None
    near_hull: int | None = Field(None, description="Held-out crystals that are near the hull.")
    spread: float | None = Field(None, description="Standard deviation of the ensemble.")
    unrelaxed: float | None = Field(
        None, description="Root mean square error for what is not relaxed; the paper's has none."
    )


class ConstraintOutput(Timed):
    """The constraint of a round, its guide, and the potential learnt for it."""

    key: str = Field("", description="Of the artifact with the networks.")
    properties: dict[str, PropertyErrors]
    guide: dict[str, PropertyErrors] = Field({}, description="Of the guide; empty without one.")
    history: History = Field({}, description="Losses of the guide.")
    potential: PotentialErrors | None = None
    foreign_frames: int = Field(
        0, description="Relaxations whose frames have energies that are not theirs."
    )


class GanOutput(Timed):
    """The generator of a round."""

    key: str = Field("", description="Of the artifact with the networks.")
    history: History


class GeneratedOutput(Timed):
    """Generated candidates for relaxation, and the funnel that led to them."""

    candidates: list[Candidate]
    funnel: Funnel


class RoundReport(BaseModel):
    """What a round has done."""

    funnel: Funnel
    constraint: ConstraintOutput
    gan: GanOutput
    generation_seconds: float
    relaxation_seconds: float = Field(0.0, description="Zero until the round has ended.")


class RoundsOutput(BaseModel):
    """What a campaign has relaxed when its last round has ended."""

    entries: list[Claim]
    history: list[RoundReport]
