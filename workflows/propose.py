"""Stage 1, first half: prototypes onto the system, and which of them wait for a relaxation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from jobflow import Maker

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.elements import end_members
from ccdcgan.dft.structures.references import load_references
from ccdcgan.dft.structures.sources import Prototype, collect
from ccdcgan.dft.structures.spacegroups import in_groups
from ccdcgan.dft.structures.substitution import candidates, subsystem_members
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Origin
from ccdcgan.workflows.jobs import document_job
from ccdcgan.workflows.outputs import ProposedOutput, SkippedPrototype
from ccdcgan.workflows.storage.stores import RESULTS, Relaxations, current_store


def substituted(
    campaign: Campaign, prototypes: Sequence[Prototype], rejected: Counter[str]
) -> list[Prototype]:
    """Candidates of a campaign's system; those left out join the ones `rejected`, by reason.

    Raises
    ------
    UserError
        There is none.
    """
    chosen = campaign.database
    found, duplicates = candidates(prototypes, campaign.elements)
    if duplicates:
        rejected["duplicate"] += duplicates
    kept = [p for p in found if p.structure.composition.reduced_formula not in chosen.without]
    if len(kept) < len(found):
        rejected["left out by database.without"] += len(found) - len(kept)
    if not kept:
        reasons = ", ".join(f"{n} {r}" for r, n in rejected.items()) or "none was found"
        raise UserError(f"no prototype passes the filters ({reasons}): widen database.filters")
    search = campaign.search
    kept.sort(
        key=lambda p: (
            p.structure.composition.reduced_formula not in search.compositions,
            not in_groups(p.structure, search.groups),
        )
    )
    if chosen.max_candidates is not None and len(kept) > chosen.max_candidates:
        rejected["beyond max_candidates"] += len(kept) - chosen.max_candidates
        kept = kept[: chosen.max_candidates]
    return kept


def adopted(store: Relaxations, campaign: Campaign) -> list[Candidate]:
    """What the store has of the campaign's system and level that ``ccdcgan adopt`` brought."""
    found = []
    for key, candidate in store.adopted():
        composition = candidate.structure.composition
        if {e.symbol for e in composition.elements} - set(campaign.elements):
            continue
        if composition.reduced_formula in campaign.database.without:
            continue
        if key_of(candidate, campaign.relaxation) == key:
            found.append(candidate)
    return sorted(found, key=lambda c: c.origin.id)


def _candidates(kind: str, prototypes: Sequence[Prototype]) -> Iterator[Candidate]:
    for prototype in prototypes:
        origin = Origin.model_validate({"kind": kind, "id": prototype.id})
        yield Candidate(origin=origin, structure=prototype.structure)


@dataclass
class ProposeMaker(Maker):
    """Substituted prototypes and end members of a campaign."""

    name: str = "propose structures"

    @document_job("light", data="candidates")
    def make(self, campaign: Campaign) -> ProposedOutput:
        """Candidates of a campaign, and what was left out of them."""
        start = monotonic()
        # A worker without its campaign has a JobStore that forgets everything.
        store = Relaxations(current_store(RESULTS))
        chosen = campaign.database
        magnetic = campaign.relaxation.engine.is_magnetic
        prototypes, rejected, skipped = collect(
            chosen.sources, chosen.filters, len(campaign.elements), campaign.seed, magnetic=magnetic
        )
        kept = substituted(campaign, prototypes, rejected)
        elements = end_members(
            campaign.elements,
            chosen.element_sites,
            chosen.own_element_sites,
            own_only=chosen.elements == "own",
        )
        references, unread = load_references(
            campaign.references, campaign.elements, magnetic=magnetic
        )
        fewer = subsystem_members(campaign.elements, chosen.filters, chosen.max_candidates)
        # Known crystals first: what matches one of them later is not new.
        proposed = [
            *_candidates("reference", references),
            *_candidates("element", elements),
            *adopted(store, campaign),
            *_candidates("prototype", fewer + kept),
        ]
        return ProposedOutput(
            candidates=proposed,
            rejected=dict(rejected),
            skipped=[SkippedPrototype(id=s.id, reason=s.reason) for s in skipped + unread],
            seconds=monotonic() - start,
        )


def key_of(candidate: Candidate, relaxation: RelaxationSettings) -> str:
    """Content key of a candidate's relaxation."""
    structure = candidate.structure
    level = relaxation.level_of_theory(elements_of(structure))
    return content_key(structure, level, relaxation)
