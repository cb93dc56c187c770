"""How sure distances to the hull are, by what two checkpoints, or two levels, differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from ccdcgan.dft.structures.hull import DEPTHS, NEAR, NOISE

#: Fewest crystals that tell of a campaign how far two checkpoints differ.
FEWEST = 5

#: As near to the hull, eV/atom, are crystals that tell of it.
NEARBY = DEPTHS[-1]


def uncertainties(
    own: Sequence[float | None], other: Sequence[float | None], told_by: Sequence[bool]
) -> list[float | None]:
    """Standard deviations of distances to the hull between two checkpoints, eV/atom.

    That of a crystal is ``sqrt((s² + d²) / 2)``. d is the difference of its two distances, each on
    the hull of its own checkpoint; s is 1.4826 times the median absolute deviation of d over the
    crystals that tell of the campaign, which of normal errors is their standard deviation. A half,
    for the errors of both checkpoints are in a difference. It is no error against experiment: what
    both have wrong alike is not in it.

    Parameters
    ----------
    own, other
        Distances by both, eV/atom.
    told_by
        Which crystals may tell of the campaign; of those, the ones within `NEARBY` of the own hull
        do.

    Returns
    -------
    None where one of the distances is missing, or fewer than `FEWEST` crystals tell.
    """
    apart = [None if a is None or b is None else b - a for a, b in zip(own, other, strict=True)]
    told = [
        difference
        for difference, distance, may in zip(apart, own, told_by, strict=True)
        if may and difference is not None and distance is not None and distance <= NEARBY + NOISE
    ]
    if len(told) < FEWEST:
        return [None] * len(apart)
    spread = 1.4826 * float(np.median(np.abs(np.array(told) - np.median(told))))
    return [None if d is None else float(np.sqrt((spread**2 + d**2) / 2)) for d in apart]


def probability_within(
    distance: float | None, uncertainty: float | None, most: float = NEAR["within 0.025"]
) -> float | None:
    """Probability that a crystal is within a distance of the hull, by a normal distribution."""
    if distance is None or uncertainty is None:
        return None
    return float(norm.cdf((most - distance) / max(uncertainty, NOISE)))
