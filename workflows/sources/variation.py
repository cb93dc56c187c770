"""Candidates that vary known crystals near the hull: heredity and mutations."""

from __future__ import annotations

import numpy as np

from ccdcgan.dft.structures.variation import vary
from ccdcgan.workflows.sources.base import Context, Proposal

#: Distance to the hull over which a parent becomes less likely by e, eV/atom.
NEARNESS = 0.05

#: Draws for one candidate.
DRAWS = 3


def variation(context: Context, count: int) -> list[Proposal]:
    """Children of known crystals, those near the hull more often."""
    rng, limits = context.rng("variation"), context.limits
    parents = [p for p in context.parents if len(p.cell) <= limits.max_sites]
    if not any(context.is_whole(p.cell) for p in parents):
        return []
    distances = np.array([p.phase.e_above_hull for p in parents], float)
    weights = np.exp(-np.maximum(distances, 0.0) / NEARNESS)
    cells, found = [p.cell for p in parents], list[Proposal]()
    elements = context.campaign.elements
    for _ in range(DRAWS * count):
        if len(found) == count:
            break
        child = vary(cells, weights.tolist(), elements, limits.max_sites, rng)
        if child is None:
            continue
        made, made_of, operator = child
        crystal = limits.version(context.repaired(made))
        if crystal is not None:
            names = "+".join(parents[i].phase.id[:8] for i in made_of)
            origin = context.origin("variation", f"{len(found)} {operator} of {names}")
            found.append(Proposal(origin, crystal))
    return found
