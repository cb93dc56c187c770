"""Random symmetric candidates by PyXtal (extra ``random``)."""

from __future__ import annotations

from ccdcgan.dft.structures.crystal import Skipped
from ccdcgan.dft.structures.sources import primitive_cell, random_crystals
from ccdcgan.dft.structures.spacegroups import ALL_GROUPS
from ccdcgan.workflows.sources.base import Context, Proposal

#: Draws for one candidate, and at most for each crystal that is relaxed: PyXtal takes 0.1 to 0.3 s.
DRAWS, MOST = 4, 10


def random(context: Context, count: int) -> list[Proposal]:
    """Space group and composition drawn uniformly among compatible pairs."""
    campaign, limits = context.campaign, context.limits
    seed = int(context.rng("random").integers(2**31))
    found: list[Proposal] = []
    draws = random_crystals(
        campaign.elements,
        min(DRAWS * count, MOST * campaign.loop.relaxations),
        limits.max_sites,
        seed,
        campaign.searched(),
        sorted(campaign.search.groups) or ALL_GROUPS,
    )
    for made in draws:
        if len(found) == count:
            break
        if isinstance(made, Skipped):
            continue
        # PyXtal gives the conventional cell.
        crystal = limits.version(context.repaired(primitive_cell(made.structure)))
        if crystal is not None:
            found.append(Proposal(context.origin("random", made.id), crystal))
    return found
