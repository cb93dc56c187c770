"""How much each source may propose: a bandit on what its relaxations have brought."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ccdcgan.workflows.documents import Phase

#: Each source keeps this share of what all would have alike: none is given up for bad luck.
LEAST = 0.25

#: Draws of the posterior means.
DRAWS = 2000


def rewards(phases: Sequence[Phase], limit: float) -> dict[str, list[float]]:
    """What each relaxation of a source has brought, from 0 to 1.

    One is a new crystal on the hull, zero what is `limit` (eV/atom) above it or was known.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for phase in phases:
        if phase.origin.kind != "generated":
            continue
        gained = 0.0
        if phase.distinct and phase.e_above_hull is not None and phase.label != "untrusted":
            gained = float(np.clip(1.0 - phase.e_above_hull / limit, 0.0, 1.0))
        found[phase.origin.source_name].append(gained)
    return dict(found)


def shares(
    sources: Sequence[str], brought: Mapping[str, Sequence[float]], rng: np.random.Generator
) -> dict[str, float]:
    """Share of the proposals of each source, one in all.

    Thompson sampling (Biometrika 25, 285 (1933)) with a beta distribution of each source's mean
    reward: the share is the probability that it is the best, but for `LEAST`.
    """
    won = [sum(brought.get(s, ())) for s in sources]
    lost = [len(brought.get(s, ())) - w for s, w in zip(sources, won, strict=True)]
    draws = rng.beta(1.0 + np.array(won), 1.0 + np.array(lost), (DRAWS, len(sources)))
    best = np.bincount(draws.argmax(1), minlength=len(sources)) / DRAWS
    mixed = LEAST / len(sources) + (1.0 - LEAST) * best
    return dict(zip(sources, mixed.tolist(), strict=True))
