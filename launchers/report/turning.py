"""The hull of three elements as a body over the triangle, which the page's script turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull

from ccdcgan.launchers.report.figures import is_generated
from ccdcgan.launchers.report.hull import COLOUR_TOP
from ccdcgan.launchers.report.points import formation, fractions, is_corner
from ccdcgan.workflows.documents import Phase

#: Most points: a canvas draws so many while it is turned.
MOST = 3000


def turning_hull(system: Sequence[str], phases: Sequence[Phase]) -> dict[str, Any] | None:
    """Points and facets of the hull of three elements; None of another number.

    Returns
    -------
    dict
        ``elements``; ``points`` of [phase, a, b, c, formation energy, distance to the hull,
        whether generated], nearest to the hull last; ``facets`` of the lower hull, each three of
        [a, b, c, energy]; ``names``, formulas of its vertices with [a, b, c, energy]; ``top``,
        the energy of the colour scale's end, eV/atom.
    """
    if len(system) != 3:
        return None
    drawn = [
        (i, p, e, p.e_above_hull)
        for i, p in enumerate(phases)
        if (e := formation(p)) is not None and p.e_above_hull is not None
    ]
    drawn.sort(key=lambda item: item[3])
    drawn = drawn[:MOST]
    corners = [([float(i == j) for j in range(3)], 0.0) for i in range(3)]
    members = {p.formula: (fractions(p, system), e) for _, p, e, _ in drawn if is_corner(p)}
    compounds = {name: m for name, m in members.items() if max(m[0]) < 1}
    return {
        "elements": list(system),
        "points": [
            [i, *fractions(p, system), round(e, 4), round(distance, 4), is_generated(p)]
            for i, p, e, distance in reversed(drawn)
        ],
        "facets": _facets([*corners, *compounds.values()]),
        "names": [[name, *x, round(e, 4)] for name, (x, e) in compounds.items()],
        "top": COLOUR_TOP,
    }


def _facets(vertices: Sequence[tuple[Sequence[float], float]]) -> list[list[list[float]]]:
    """Facets of the lower hull of compositions and energies."""
    # Qhull needs a body: a point far above all closes it.
    points = np.array([[*x[:2], e] for x, e in vertices] + [[1 / 3, 1 / 3, 10.0]])
    hull = ConvexHull(points)
    lower = hull.simplices[hull.equations[:, 2] < -1e-9]
    return [[[*vertices[k][0], round(vertices[k][1], 4)] for k in facet] for facet in lower]
