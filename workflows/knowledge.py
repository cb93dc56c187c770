"""What a campaign knows: worked out of its relaxations once, and grown by those that are new."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.hull import Hull, nearness
from ccdcgan.dft.structures.matching import SeenStructures, shape_of
from ccdcgan.dft.structures.moments import is_magnetic
from ccdcgan.dft.structures.shapes import Shape
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.spacegroups import spacegroup
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.crystals import COPY_ENERGY, Crystals
from ccdcgan.workflows.documents import Claim, Phase, RelaxationDocument
from ccdcgan.workflows.phases import (
    Sample,
    second_place,
    set_uncertainties,
    unplaced,
    without_noise,
)
from ccdcgan.workflows.storage.stores import Relaxations, artifact_key, load_bytes, store_bytes
from ccdcgan.workflows.trust import hull_members, untrusted

if TYPE_CHECKING:
    from ccdcgan.workflows.choosing import Novelty

#: By so much, eV/atom, an order of moments is lower than another.
MAGNETIC = 0.001


class Fact(BaseModel):
    """What one relaxation tells that no later one changes."""

    source: str = Field(
        description="Hash of the structures and the energy that it was worked out of."
    )
    spacegroup: str
    end: Shape | None = Field(description="Of the relaxed structure; null where it is degenerate.")
    start: Shape | None = Field(description="Of the initial structure.")
    crystal: str | None = Field(
        None, description="Key of the first relaxation of the same crystal; null unless converged."
    )
    distance: float | None = Field(
        None,
        description="From the initial structure to the nearest crystal that was known before, as "
        "`Novelty` measures it: negative where it cannot be; null where nobody has asked.",
    )


_FACTS = TypeAdapter(dict[str, Fact])


class Knowledge:
    """Classes of equal crystals, hull, phases, samples and novelty of a campaign's relaxations.

    Parameters
    ----------
    campaign
        Its settings.
    documents
        Relaxations by content key, with or without their frames.
    claims
        What the campaign has relaxed, in its order: database first, then round by round. By default
        all documents by their keys.
    facts
        By content key, what was worked out before. Those that no longer fit are worked out anew.
    """

    def __init__(
        self,
        campaign: Campaign,
        documents: Mapping[str, RelaxationDocument],
        claims: Sequence[Claim] | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        if claims is None:
            claims = [Claim(key=key, origin=documents[key].origin) for key in sorted(documents)]
        self.campaign, self.claims = campaign, claims
        self.documents = {c.key: documents[c.key] for c in claims}
        self._stored = dict(facts or {})
        self.facts = self._grown(self._stored)

    @classmethod
    def of_job(cls, claims: Sequence[Claim], campaign: Campaign) -> Self:
        """What the claims of a job tell; facts are taken from its JobStore, and kept there."""
        documents = Relaxations().get([c.key for c in claims], frames=False)
        knowledge = cls(campaign, documents, claims, _stored_facts(campaign))
        knowledge.keep()
        return knowledge

    def keep(self) -> None:
        """Keep what was worked out in the JobStore of the running job, if it is new."""
        merged = {**self._stored, **self.facts}
        if merged != self._stored:
            store_bytes(knowledge_key(self.campaign), zlib.compress(_FACTS.dump_json(merged)))
            self._stored = {key: fact.model_copy() for key, fact in merged.items()}

    def structure(self, key: str) -> Structure:
        """A relaxed structure."""
        return self.documents[key].structure

    def _start(self, key: str) -> Structure:
        return self.documents[key].initial_structure

    def _grown(self, stored: Mapping[str, Fact]) -> dict[str, Fact]:
        """The facts of all documents: those that are stored, and classes of what is new."""
        sources = {key: _source(d) for key, d in self.documents.items()}
        facts = {
            key: fact.model_copy()
            for key, fact in stored.items()
            if key in sources and fact.source == sources[key]
        }
        # A crystal whose first relaxation is not there any more has no name.
        whole = {None, *facts}
        facts = {key: fact for key, fact in facts.items() if fact.crystal in whole}
        new = [key for key in sources if key not in facts]
        for key in new:
            end = self.structure(key)
            facts[key] = Fact(
                source=sources[key],
                spacegroup=spacegroup(end),
                end=shape_of(end),
                start=shape_of(self._start(key)),
            )
        formulas = {fact.end.formula for key in new if (fact := facts[key]).end is not None}
        crystals = Crystals(self.campaign.elements, self.documents)
        for key, fact in facts.items():
            if fact.crystal == key and fact.end is not None and fact.end.formula in formulas:
                crystals.know(key, fact.end)
        for key in new:
            if self.documents[key].converged:
                facts[key].crystal = crystals.name(key, facts[key].end)
        return {key: facts[key] for key in sources}

    @cached_property
    def untrusted(self) -> dict[str, str]:
        """Keys of relaxations that cannot be believed, with the reason of each."""
        return untrusted(self.documents.values())

    @cached_property
    def hull(self) -> Hull:
        """The convex hull of `hull_members`.

        Raises
        ------
        UserError
            See `Hull`.
        """
        return self._hull_of(self._on_hull)

    @cached_property
    def _on_hull(self) -> list[RelaxationDocument]:
        return hull_members(self.documents.values(), self.untrusted)

    def _hull_of(self, documents: Sequence[RelaxationDocument], second: bool = False) -> Hull:
        """The hull of documents, or of their second opinions."""
        crystals = []
        for document in documents:
            given = document.second_opinion if second else document
            assert given is not None and given.energy_per_atom is not None
            crystals.append(
                (self.structure(document.key), given.energy_per_atom, given.level_of_theory)
            )
        return Hull.of(crystals, self.campaign.elements, self.campaign.corrections)

    @cached_property
    def _second_hull(self) -> Hull | None:
        """The hull by the second opinions; None where there are none of all end members."""
        both = [d for d in self._on_hull if d.second_opinion is not None]
        try:
            return self._hull_of(both, second=True) if both else None
        except UserError:
            return None

    @cached_property
    def phases(self) -> list[Phase]:
        """Phases in the order of the claims.

        Converged claims make the hull. One that ran out of steps is placed on it all the same, as
        ``not converged``; one that was rejected has no energy and no place. One that cannot be
        believed is ``untrusted``, with its distance to a hull that it is not part of.
        """
        corrections = self.campaign.corrections
        first: dict[str, Phase] = {}
        phases = []
        for claim in self.claims:
            document, fact = self.documents[claim.key], self.facts[claim.key]
            structure = self.structure(claim.key)
            phase = unplaced(claim, document, fact.spacegroup)
            phase.level_of_theory = phase.level_of_theory.model_copy(
                update={"corrections": self.hull.level.corrections}
            )
            phases.append(phase)
            if document.energy_per_atom is None:
                continue
            place = self.hull.place(structure, document.energy_per_atom)
            distance = without_noise(place.e_above_hull)
            if corrections is not None:
                phase.correction_per_atom = place.energy - document.energy_per_atom
            phase.energy_per_atom = place.energy
            phase.formation_energy_per_atom = place.formation_energy
            phase.e_above_hull = distance
            phase.second_opinion = second_place(document, structure, self._second_hull)
            if document.key in self.untrusted:
                phase.label, phase.reason = "untrusted", self.untrusted[document.key]
            elif fact.crystal is not None:
                met = first.setdefault(fact.crystal, phase)
                phase.distinct = met is phase
                alike = phase.origin.kind == met.origin.kind
                if met is not phase and alike and self._is_lower_magnet(phase.id, met.id):
                    met.distinct, phase.distinct = False, True
                    first[fact.crystal] = phase
        self._label(phases)
        set_uncertainties(phases)
        return phases

    def _label(self, phases: Sequence[Phase]) -> None:
        """Say how near to the hull the crystals are that have a place on it."""
        placed = [
            (phase, crystal, phase.e_above_hull)
            for phase in phases
            if (crystal := self.facts[phase.id].crystal) is not None
            and phase.e_above_hull is not None
            and phase.label != "untrusted"
        ]
        lowest: dict[str, float] = {}
        for _, crystal, here in placed:
            lowest[crystal] = min(here, lowest.get(crystal, here))
        for phase, crystal, here in placed:
            # What relaxations of one crystal leave open does not take it off the hull.
            there = lowest[crystal]
            phase.label = nearness(there if here - there < COPY_ENERGY else here)

    @cached_property
    def samples(self) -> list[Sample]:
        """Distinct converged crystals that hold every element, in the order of their keys.

        Were a crystal there twice, a model would be tested on what it has learnt.
        """
        found: dict[str, Sample] = {}
        for key in sorted(self.documents):
            document, crystal = self.documents[key], self.facts[key].crystal
            energy = document.energy_per_atom
            if crystal is None or energy is None or key in self.untrusted or not self._whole(key):
                continue
            structure, start = self.structure(key), {key: self._start(key)}
            if crystal in found:
                found[crystal].starts.update(start)
                if not self._is_lower_magnet(key, found[crystal].key):
                    continue
                start = found[crystal].starts
            place = self.hull.place(structure, energy)
            properties = {
                **document.properties,
                FORMATION_ENERGY: place.formation_energy,
                "e_above_hull": place.e_above_hull,
                "volume_per_atom": structure.volume / len(structure),
                "density": float(structure.density),
            }
            found[crystal] = Sample(key, primitive_cell(structure), properties, start)
        return list(found.values())

    def _is_lower_magnet(self, key: str, met: str) -> bool:
        """Whether a crystal that was met with other magnetic moments is met with lower ones.

        Or without any: an order may fall to none on the way.
        """
        energy, other = (self.documents[k].energy_per_atom for k in (key, met))
        assert energy is not None and other is not None
        magnetic = is_magnetic(self.structure(key)) or is_magnetic(self.structure(met))
        return magnetic and energy < other - MAGNETIC

    def _whole(self, key: str) -> bool:
        """Whether a crystal holds every element."""
        return len(self.structure(key).composition) == len(self.campaign.elements)

    def seen(self) -> SeenStructures:
        """All relaxed and initial structures, converged or not."""
        seen = SeenStructures()
        for key, fact in self.facts.items():
            seen.add_later(partial(self.structure, key), fact.end)
            seen.add_later(partial(self._start, key), fact.start)
        return seen

    def novelty(self) -> Novelty:
        """What the relaxations, in their order, tell of distances and novelty."""
        # Keras takes seconds to import, and only this needs it.
        from ccdcgan.workflows.choosing import Distance, Novelty

        novelty = Novelty(self.campaign.elements)
        told: list[Distance] = []
        origins = {c.key: c.origin for c in reversed(self.claims)}
        # In the order of the claims, as the documents are.
        for key, fact in self.facts.items():
            if fact.crystal is None or not self._whole(key):
                continue
            if fact.distance is None:
                distance = novelty.distance_of(self._start(key))
                fact.distance = -1.0 if distance is None else distance
            is_new = fact.crystal == key
            if fact.distance >= 0:
                told.append(Distance(fact.distance, is_new, origins[key].is_stacking))
            if is_new:
                formula = self.structure(key).composition.reduced_formula
                novelty.add_later(formula, partial(self.structure, key))
        novelty.fit(told)
        return novelty


def _stored_facts(campaign: Campaign) -> dict[str, Fact]:
    """What was kept before; nothing where another version has kept something else."""
    stored = load_bytes(knowledge_key(campaign))
    try:
        return {} if stored is None else _FACTS.validate_json(zlib.decompress(stored))
    except ValidationError:
        return {}


def knowledge_key(campaign: Campaign) -> str:
    """Key of the artifact with the facts of a campaign."""
    # Not its digest: a campaign that does more goes on with what is known.
    relaxation = campaign.relaxation.model_dump(mode="json", exclude={"magnetic_orders"})
    return artifact_key("knowledge", campaign.elements, campaign.seed, relaxation)


def _source(document: RelaxationDocument) -> str:
    parts: list[object] = [document.converged, document.energy_per_atom]
    for structure in (document.structure, document.initial_structure):
        moments = structure.site_properties.get("magmom")
        rows = [structure.lattice.matrix.tolist(), structure.frac_coords.tolist()]
        parts += [*rows, [site.species_string for site in structure], moments]
    return digest(json.dumps(parts, default=str), 16)
