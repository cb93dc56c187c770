"""Random symmetric candidates by PyXtal (extra ``random``)."""

from __future__ import annotations

from ccdcgan.dft.structures.crystal import Skipped
from ccdcgan.dft.structures.sources import random_crystals
from ccdcgan.workflows.sources.base import Context, Proposal

#: Draws for one candidate.
DRAWS = 4


def random(context: Context, count: int) -> list[Proposal]:
    """Space group and composition drawn uniformly among compatible pairs."""
    campaign, limits = context.campaign, context.limits
    seed = int(context.rng("random").integers(2**31))
    found: list[Proposal] = []
    asked, draws = campaign.searched(), DRAWS * count
    for made in random_crystals(campaign.elements, draws, limits.max_sites, seed, asked):
        if len(found) == count:
            break
        if isinstance(made, Skipped):
            continue
        crystal = context.repaired(made.structure)
        if limits.allow(crystal):
            found.append(Proposal(context.origin("random", made.id), crystal))
    return found
