"""Candidates that are other stackings of known crystals, for phases of long cells."""

from __future__ import annotations

from collections import Counter

from pymatgen.core import Composition

from ccdcgan.dft.structures.stacking import stackings as stacked
from ccdcgan.workflows.documents import Origin
from ccdcgan.workflows.sources.base import Context, Proposal

#: Stackings of one formula that are proposed, in units of those that may be relaxed of it.
STACKED = 3


def stackings(context: Context, count: int) -> list[Proposal]:
    """New stackings of known crystals within the stable threshold of their hull."""
    settings, limits = context.campaign, context.limits
    most = STACKED * settings.loop.screening.per_formula
    near = [
        p for p in context.parents if (p.phase.e_above_hull or 0.0) <= settings.thresholds.stable
    ]
    if not near:
        return []
    crystals = [p.cell for p in near]
    distances = [p.phase.e_above_hull or 0.0 for p in near]
    seen, counts = context.seen.copy(), Counter[str]()
    found: list[Proposal] = []
    for parts, made in stacked(crystals, distances, limits.max_sites):
        composition = sum((crystals[i].composition for i in parts), Composition())
        formula = composition.reduced_formula
        if len(composition) < len(settings.elements):
            continue
        name = "+".join(near[i].phase.id[:8] for i in parts)
        origin = Origin(
            kind="generated", id=f"stacking:{name}", source="stackings", round=context.number
        )
        for crystal in made:
            if len(found) == count:
                return found
            if counts[formula] == most:
                break
            version = limits.version(crystal)
            if version is not None and seen.add_if_new(version):
                counts[formula] += 1
                found.append(Proposal(origin, version))
    return found
