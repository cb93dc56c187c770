"""What a figure shows, apart from how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

Symbol = Literal["circle", "ring", "star", "triangle", "filled triangle"]


@dataclass(frozen=True)
class Series:
    """Points or a line.

    Attributes
    ----------
    x, y
        Coordinates; NaN for none.
    colour
        As #rrggbb; of points with `values` not used.
    symbol
        Of points; None for a line.
    values
        Numbers that colours stand for.
    labels
        What each point is.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    symbol: Symbol | None = None
    values: Sequence[float] | None = None
    labels: Sequence[str] | None = None


@dataclass(frozen=True)
class Chart:
    """Series on two axes.

    Attributes
    ----------
    name
        Number of the paper's figure, as 2b.
    title
        What it shows.
    value_label
        What colours stand for.
    value_range
        What the ends of the colours stand for.
    y_range
        Smallest and largest y that are shown; None for all.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    value_label: str | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    log_y: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Portrait:
    """A crystal with its crystal graph, a square image, or without one."""

    label: str
    structure: Structure
    graph: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Portraits:
    """Crystals side by side; `name` and `title` as of `Chart`."""

    name: str
    title: str
    crystals: Sequence[Portrait] = field(default_factory=list)


Figure = Chart | Portraits
