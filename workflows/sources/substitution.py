"""Candidates that are prototypes beyond the database: decorated, and in larger cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from ccdcgan.dft.structures.sources import AflowSource, Filters, Prototype, collect
from ccdcgan.dft.structures.substitution import substitute
from ccdcgan.workflows.sources.base import Context, Proposal

#: Longest lattice vector of a prototype, Å: that of R-3m Bi4Se3's primitive cell has 14.
MAX_LENGTH = 15.0


def substitution(context: Context, count: int) -> list[Proposal]:
    """AFLOW's prototypes with all decorations, in random order."""
    rng, limits = context.rng("substitution"), context.limits
    campaign = context.campaign
    prototypes = _prototypes(len(campaign.elements), limits.max_sites)
    seen, found = context.seen.copy(), list[Proposal]()
    without = campaign.database.without
    for candidate in _substituted(prototypes, context, rng.permutation(len(prototypes)).tolist()):
        if len(found) == count:
            break
        if candidate.structure.composition.reduced_formula in without:
            continue
        crystal = limits.version(context.repaired(candidate.structure))
        if crystal is not None and seen.add_if_new(crystal):
            found.append(Proposal(context.origin("substitution", candidate.id), crystal))
    return found


@cache
def _prototypes(n_elements: int, max_sites: int) -> tuple[Prototype, ...]:
    filters = Filters(max_sites=max_sites, max_length=MAX_LENGTH)
    found, _, _ = collect([AflowSource(decorated=True)], filters, n_elements, 0)
    return tuple(found)


def _substituted(
    prototypes: Sequence[Prototype], context: Context, order: list[int]
) -> Iterator[Prototype]:
    for number in order:
        yield from substitute(prototypes[number], context.campaign.elements)
