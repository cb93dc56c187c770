"""What a proposal source is given in a round, and what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.models.repair import resized, separated
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.sampling import SPACE, Files, load_space
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Origin, Phase
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.screening import Limits


class Proposal(NamedTuple):
    """A candidate; its structure is None where nothing came of it."""

    origin: Origin
    structure: Structure | None


class Parent(NamedTuple):
    """A known crystal that others are made of."""

    phase: Phase
    cell: Structure


@dataclass(frozen=True)
class Context:
    """What is known when a round proposes.

    Attributes
    ----------
    knowledge
        Of what has been relaxed.
    seen
        All relaxed and initial structures; a source that asks by adding takes a copy.
    files
        Of the trained networks.
    model, number
        Key of the generator, and the round.
    """

    knowledge: Knowledge
    seen: SeenStructures
    files: Files
    model: str
    number: int

    @property
    def campaign(self) -> Campaign:
        return self.knowledge.campaign

    @cached_property
    def statistics(self) -> Mapping[str, FloatArray]:
        """What the networks have kept of known crystals."""
        return load_space(self.files[SPACE])[1]

    @cached_property
    def limits(self) -> Limits:
        """What a candidate must keep to."""
        settings = self.campaign
        return Limits.of(settings.loop.screening, self.statistics["extremes"], settings.search)

    @cached_property
    def parents(self) -> list[Parent]:
        """Distinct crystals with a place on the hull, nearest to it first."""
        placed = [
            p
            for p in self.knowledge.phases
            if p.distinct and p.e_above_hull is not None and p.label != "untrusted"
        ]
        placed.sort(key=lambda p: (p.e_above_hull, p.id))
        return [Parent(p, primitive_cell(p.structure)) for p in placed]

    def rng(self, source: str) -> np.random.Generator:
        """Random numbers of a source in this round."""
        return np.random.default_rng(self.campaign.entropy(source, self.number))

    def origin(self, source: str, name: str) -> Origin:
        """Where a candidate of this round comes from."""
        return Origin(
            kind="generated", id=f"{source}:{self.number}-{name}", source=source, round=self.number
        )

    def repaired(self, structure: Structure) -> Structure:
        """A crystal of a usual volume, with atoms apart, as far as the networks know of both."""
        if "volumes" not in self.statistics:
            return structure
        elements = self.campaign.elements
        sized = resized(structure, self.statistics["volumes"], elements)
        return separated(sized, self.statistics["shortest"], elements)

    def is_whole(self, structure: Structure) -> bool:
        """Whether a structure holds every element of the system."""
        return len(structure.composition) == len(self.campaign.elements)


class Source(Protocol):
    """Proposes candidates for the relaxations of a round.

    What it gives is screened, judged, relaxed by the learnt potential and chosen as all else is.
    """

    def __call__(self, context: Context, count: int) -> Iterable[Proposal]:
        """At most `count` candidates, the same for the same context."""
