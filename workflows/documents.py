"""The documents that campaigns write, with units."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pymatgen.core import Structure

from ccdcgan.dft.dynamics.document import Spectrum, StabilityFigures
from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.finite import FiniteOrNone
from ccdcgan.dft.relaxation.document import Relaxation, is_finite
from ccdcgan.dft.relaxation.failure import FailureClass
from ccdcgan.dft.structures.decoding import StoredStructure
from ccdcgan.dft.structures.hull import Nearness, nearness
from ccdcgan.dft.structures.moments import MagneticOrder
from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.failures import FailedStructure, FailureCounts
from ccdcgan.workflows.insight import LatentMap, Parity, Provenance, Relative
from ccdcgan.workflows.notebook import html_table

SCHEMA_VERSION = 1

#: Tolerance of two energies of one geometry, eV/atom.
SAME_ENERGY = 0.1

#: How the origins of structures begin that ``ccdcgan evaluate`` was given.
EVALUATED = "evaluated:"

#: Why a phase has no place on the hull.
NoPlace = Literal["not converged", "untrusted", "failed"]

#: How near to the hull a phase is, or why that cannot be said.
Label = Nearness | NoPlace

#: Labels that versions before this one gave to all that converged and could be believed.
OLD_LABELS = ("stable", "metastable", "unstable")


def relabelled(data: Any) -> Any:
    """A stored phase, or its place, with today's word in place of one of `OLD_LABELS`."""
    if not isinstance(data, dict) or data.get("label") not in OLD_LABELS:
        return data
    distance = data.get("e_above_hull")
    return data | {"label": nearness(math.inf if distance is None else distance)}


class Artifact(BaseModel):
    """What a stage keeps under its key: networks as files, and what its kind has beside them."""

    files: dict[str, bytes] = {}


class Origin(BaseModel):
    """Where a structure came from."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["element", "reference", "prototype", "generated", "adopted"]
    id: str = Field(
        description="Prototype and assignment, model and sample, the beginnings of the content "
        "keys of the crystals that a stacking is made of, or where a run that was adopted lies."
    )
    source: str | None = Field(
        None, description="Proposal source of what was generated; null of earlier versions."
    )
    round: int | None = Field(None, description="Round that generated it, from 1.")
    model: str | None = Field(None, description="Key of the generator.")
    sample: int | None = Field(None, description="Index of the noise vector.")
    noise_seed: int | None = Field(None, description="Seed of the noise vectors.")
    predicted_formation_energy: float | None = Field(None, description="eV/atom.")
    magnetic_order: str | None = Field(
        None, description="Of its start, where that is not the ferromagnetic one of any engine."
    )
    prerelaxed: bool | None = Field(
        None, description="Whether a potential learnt from the campaign has relaxed it before."
    )

    @property
    def source_name(self) -> str:
        """Proposal source; of a generated crystal of an earlier version, what its name says."""
        if self.kind != "generated":
            return self.kind
        if self.id.startswith(EVALUATED):
            return "evaluated"
        return self.source or ("stackings" if self.is_stacking else "generator")

    @property
    def is_stacking(self) -> bool:
        """Whether it is a stacking of known crystals."""
        return self.id.startswith("stacking:")


class Candidate(BaseModel):
    """A structure that waits for its relaxation."""

    origin: Origin
    structure: StoredStructure = Field(description="pymatgen structure.")


class RelaxationDocument(Relaxation):
    """A relaxation with its origin; without formation energy, since a hull changes."""

    schema_version: int = SCHEMA_VERSION
    campaign: str = Field(description="Digest of the campaign that asked first.")
    finished_at: str | None = Field(None, description="When, in UTC (ISO 8601).")
    origin: Origin
    initial_structure: StoredStructure = Field(description="Unrelaxed pymatgen structure.")
    properties: dict[str, float] = Field(
        default_factory=dict, description="Further numbers of the relaxed crystal, by name."
    )
    retry: bool = Field(False, description="Whether it failed, and is to be tried again.")
    lacking: dict[str, str] = Field(
        default_factory=dict, description="Properties that could not be computed, and why."
    )

    @model_validator(mode="before")
    @classmethod
    def _somewhere(cls, data: Any) -> Any:
        """What ended nowhere is where it began, without an energy."""
        if not isinstance(data, dict) or is_finite(data.get("structure", {})):
            return data
        return data | {
            "structure": data.get("initial_structure"),
            "energy_per_atom": None,
            "max_force": None,
            "max_stress": None,
            "converged": False,
            "failure": "crystal",
            "reason": data.get("reason") or "geometry is not finite",
            "second_opinion": None,
        }

    @model_validator(mode="after")
    def _no_nan_beside(self) -> Self:
        for name in [name for name, n in self.properties.items() if not math.isfinite(n)]:
            del self.properties[name]
            self.lacking[name] = "not finite"
        return self

    @property
    def has_own_frames(self) -> bool:
        """Whether its last frame has its energy: of VASP 5, versions before this one took another.

        Of a relaxation that ran out of steps, the last frame is an earlier geometry.
        """
        # Those of a symmetrised crystal are of what it was before, with a similar energy.
        if self.symmetrised or not (self.converged and self.frames):
            return True
        if self.energy_per_atom is None:
            return True
        last = self.frames[-1]
        energy = self.internal_energy_per_atom or 0.0
        return abs(last.energy / len(last.forces) - energy) < SAME_ENERGY

    @property
    def framed(self) -> Structure:
        """A structure with the sites of the frames, in their order."""
        return self.initial_structure if self.symmetrised else self.structure

    @classmethod
    def of(cls, result: Relaxation, candidate: Candidate, campaign: str) -> RelaxationDocument:
        """What is stored of a relaxation that has just ended; `campaign` is a digest."""
        return cls(
            **dict(result),
            campaign=campaign,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            origin=candidate.origin,
            initial_structure=candidate.structure,
        )


class Claim(BaseModel):
    """A campaign's claim on a relaxation document."""

    key: str = Field(description="Content key of the relaxation document.")
    origin: Origin


class SecondPlace(BaseModel):
    """Where another engine puts a phase, by a single point on the hull of such energies."""

    engine: str
    energy_per_atom: float = Field(description="eV/atom, corrected as the phase's own.")
    e_above_hull: FiniteOrNone = Field(description="Distance to that hull, eV/atom.")


class Phase(BaseModel):
    """A relaxed structure with its place on the hull."""

    id: str = Field(description="Content key of its relaxation.")
    structure: StoredStructure = Field(description="Relaxed pymatgen structure.")
    formula: str
    spacegroup: str = Field(description="Within 0.1 Å, as R-3m (166).")
    energy_per_atom: FiniteOrNone = Field(
        description="eV/atom at the level of theory, its corrections included."
    )
    correction_per_atom: FiniteOrNone = Field(
        None, description="What of the energy is the level's correction, eV/atom; null without."
    )
    formation_energy_per_atom: FiniteOrNone = Field(description="eV/atom, against the elements.")
    e_above_hull: FiniteOrNone = Field(
        description="Distance to the hull, eV/atom; negative for what lies below it and is not "
        "part of it."
    )
    e_above_hull_uncertainty: FiniteOrNone = Field(
        None,
        description="Standard deviation of that distance between checkpoints, eV/atom: see "
        "`uncertainties`; null without a second opinion.",
    )
    probability_within: FiniteOrNone = Field(
        None,
        description="Probability, by that uncertainty, that it is at most 0.025 eV/atom.",
    )
    label: Label = Field(
        description="Whether the crystal is on the hull, or how near to it: by its lowest "
        "relaxation, if that is less than 0.002 eV/atom lower; or why it has no place."
    )
    converged: bool
    reason: str | None = Field(None, description="Why it did not converge, or cannot be believed.")
    failure: FailureClass | None = Field(None, description="Whose fault it is that it failed.")
    said: str | None = Field(None, description="What the code said last, where it failed.")
    host: str | None = Field(None, description="Where its last run was.")
    folder: str | None = Field(None, description="Where its files lie, of a DFT code.")
    second_opinion: SecondPlace | None = None
    distinct: bool = Field(description="Matches no earlier phase of the campaign.")
    magnetic_order: MagneticOrder | None = Field(
        None, description="Of the relaxed crystal's moments; null where they were not computed."
    )
    origin: Origin
    level_of_theory: LevelOfTheory
    stability: StabilityFigures | None = Field(None, description="Null where nobody has asked.")
    file: str | None = Field(None, description="CIF file in the campaign's folder.")
    displacement: FiniteOrNone = Field(
        None,
        description="Root mean square of the atoms' displacements on relaxation, Å; null where "
        "the crystal became another one, or nobody has asked.",
    )
    relative: Relative | None = Field(None, description="Null where nobody has asked.")

    _words = model_validator(mode="before")(relabelled)

    def _repr_html_(self) -> str:
        rows: dict[str, object] = {
            "space group": self.spacegroup,
            "atoms": len(self.structure),
            "formation energy, eV/atom": self.formation_energy_per_atom,
            "above the hull, eV/atom": self.e_above_hull,
            "label": self.label,
            "origin": f"{self.origin.source_name}: {self.origin.id}",
            "level of theory": self.level_of_theory,
        }
        return html_table(self.formula, (), list(rows.items()))


class Place(BaseModel):
    """Where a phase lies on the hull of a level of theory."""

    formation_energy_per_atom: FiniteOrNone = Field(description="eV/atom.")
    e_above_hull: FiniteOrNone = Field(description="Distance to the hull, eV/atom.")
    e_above_hull_uncertainty: FiniteOrNone = Field(
        None,
        description="Standard deviation of that distance, eV/atom: before, between checkpoints; "
        "after, between both levels. See `uncertainties`.",
    )
    probability_within: FiniteOrNone = Field(
        None,
        description="Probability, by that uncertainty, that it is at most 0.025 eV/atom.",
    )
    label: str

    _words = model_validator(mode="before")(relabelled)

    @classmethod
    def of(cls, phase: Phase) -> Place:
        return cls.model_validate(phase.model_dump(include=set(cls.model_fields)))


class Confirmation(BaseModel):
    """A phase relaxed again at another level of theory, with its place on both hulls."""

    id: str = Field(description="Content key of the campaign's own relaxation.")
    key: str = Field(description="Content key of the confirming relaxation.")
    formula: str
    spacegroup: str = Field(description="Of the confirmed crystal.")
    magnetic_order: MagneticOrder | None = Field(None, description="Of its moments.")
    structure: StoredStructure = Field(description="As relaxed at the confirming level.")
    before: Place = Field(description="At the campaign's level, on the hull of all its phases.")
    after: Place = Field(description="At the confirming level, on the hull of what was confirmed.")
    converged: bool
    reason: str | None = None
    displacement: FiniteOrNone = Field(
        description="Root mean square of the atoms' displacements on relaxation, Å; null where "
        "the crystal is another one afterwards."
    )
    level_of_theory: LevelOfTheory


class Agreement(BaseModel):
    """How far two levels of theory agree on confirmed crystals, each on its own hull."""

    crystals: int = Field(description="Those that have a place on both hulls, without elements.")
    same_label: int
    converged: int = Field(description="Those that converged at the confirming level.")
    kendall: FiniteOrNone = Field(description="Kendall's tau of the two distances to the hull.")
    e_above_hull: FiniteOrNone = Field(description="Mean absolute difference, eV/atom.")
    formation_energy: FiniteOrNone = Field(description="Mean absolute difference, eV/atom.")


class Funnel(BaseModel):
    """What became of the samples of one round before any is relaxed.

    sampled: proposed by all sources; valid: of the decoded ones; proposed: the valid by source;
    screened: passed every screen and chosen for relaxation. left_out: of a round that chose
    nothing, why, and how many crystals. stackings: judged beside the samples, of earlier versions.
    """

    sampled: int = 0
    decoded: int = 0
    valid: int = 0
    proposed: dict[str, int] = {}
    stackings: int | None = None
    screened: int = 0
    left_out: dict[str, int] = {}

    def nothing_chosen(self, number: int) -> str:
        """A line on a round, of this number, that chose nothing to relax."""
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.left_out.items())
        return (
            f"round {number} chose nothing to relax: of {self.sampled} samples "
            f"{self.decoded} were decoded, {self.valid} valid; of what was judged: "
            f"{reasons or 'nothing'}"
        )


class SourceCounts(BaseModel):
    """What a proposal source has brought in one round."""

    proposed: int = Field(0, description="Candidates that passed the screen of sane crystals.")
    relaxed: int = 0
    new: int = Field(0, description="Distinct crystals that were not known.")
    within: dict[str, int] = Field(
        default_factory=dict,
        description="Of those, how many lie within a distance of the hull, eV/atom.",
    )


class RoundCounts(Funnel):
    """The funnel of one round to its end.

    distinct: converged, and matches nothing in the database and nothing generated before. Of
    those, distinct_within counts what lies within a distance of the hull, eV/atom; stable and
    metastable are the paper's words, by the campaign's thresholds, and these include those.
    """

    relaxed: int = 0
    converged: int = 0
    distinct: int = 0
    distinct_within: dict[str, int] = {}
    distinct_metastable: int = 0
    distinct_stable: int = 0
    sources: dict[str, SourceCounts] = {}


class DatabaseCounts(BaseModel):
    """Stage 1 in numbers.

    Candidates, what became of them and the untrusted are relaxations of prototypes. The others
    count each crystal once, be it a prototype, a reference or adopted: distinct_within by distance
    to the hull, eV/atom; stable and metastable as in `RoundCounts`.
    """

    candidates: int = 0
    relaxed: int = 0
    converged: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    references: int = 0
    adopted: int = 0
    untrusted: int = 0
    distinct: int = 0
    distinct_within: dict[str, int] = {}
    stable: int = 0
    metastable: int = 0


class AutoencoderFigures(BaseModel):
    """How well the autoencoder gives back the campaign's crystals."""

    match_fraction: FiniteOrNone = None
    held_out: int = 0


class ConstraintFigures(BaseModel):
    """How well the constraint predicts formation energies that it has not seen."""

    mae_ev_per_atom: FiniteOrNone = None
    r2: FiniteOrNone = None
    held_out: int = 0


class Summary(BaseModel):
    """summary.json."""

    schema_version: int = SCHEMA_VERSION
    system: list[str]
    level_of_theory: LevelOfTheory
    seed: int
    thresholds: dict[str, float]
    database: DatabaseCounts
    autoencoder: AutoencoderFigures
    constraint: ConstraintFigures
    potential: PotentialErrors | None = Field(
        None, description="Of the potential learnt for the last round; null without one."
    )
    rounds: list[RoundCounts]
    records: dict[str, int] = Field(
        {},
        description="Of how many formulas each source, or prototypes and references, holds the "
        "lowest crystal.",
    )
    new_to: dict[str, int] = Field(
        {},
        description="Crystals, each once, that the new ones of the rounds are unlike, by what they "
        "are; beside these, all that was generated before.",
    )
    failures: FailureCounts = Field(
        FailureCounts(), description="Structures without a result, confirmations included."
    )
    wall_seconds: dict[str, float] = Field(
        description="Of the jobs of each stage, all together: some may have run side by side."
    )
    warnings: list[str] = Field(
        default_factory=list, description="What to know before believing the hull."
    )

    @property
    def newness(self) -> str:
        """What new crystals are new to, as the half of a sentence."""
        known = ", ".join(
            f"{number or 'no'} {name}"
            for name, number in self.new_to.items()
            if number or name == "references"
        )
        return f"unlike {known or 'the database'} and all generated before"

    @property
    def paper_words(self) -> str:
        """How many of the new crystals the paper would call metastable and stable, and when."""
        stable, metastable = (
            sum(getattr(counts, name) for counts in self.rounds)
            for name in ("distinct_stable", "distinct_metastable")
        )
        most = self.thresholds
        return (
            f"in the paper's words {metastable} metastable, {stable} of them stable (negative "
            f"formation energy, less than {most['metastable']:g} and {most['stable']:g} eV/atom "
            "above the hull)"
        )


class Curve(BaseModel):
    """A learning curve for the report."""

    title: str
    x_label: str
    y_label: str
    x: list[float]
    series: dict[str, list[FiniteOrNone]]


class Confirmed(BaseModel):
    """What was relaxed again at another level of theory."""

    crystals: list[Confirmation] = []
    agreement: Agreement | None = None
    problem: str | None = Field(None, description="Why there is no hull at that level.")


class Outcome(BaseModel):
    """The results of a campaign; earlier versions have stored it without what has a default."""

    summary: Summary
    phases: list[Phase] = Field(description="Those with an energy.")
    confirmed: Confirmed = Confirmed()
    failed: list[FailedStructure] = Field([], description="Structures without a result.")
    curves: list[Curve]
    parity: list[Parity] = []
    latent: LatentMap | None = None
    spectra: dict[str, Spectrum] = Field({}, description="Phonons, by ids of phases.")
    provenance: Provenance | None = None
