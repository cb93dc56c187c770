"""What a search is after: properties to minimise, to maximise, or to bring near a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ccdcgan.models.representation.voxels import FloatArray

#: The property that every search has: eV/atom against the elements.
FORMATION_ENERGY = "formation_energy_per_atom"


@dataclass(frozen=True)
class Goal:
    """One property of the objective.

    Attributes
    ----------
    property
        Name of a number that the relaxed crystals of the database have.
    direction
        Whether it shall be small, large, or near `value`.
    weight
        What one unit of the property is worth, in eV/atom of formation energy.
    value
        Where to, for ``near``; in units of the property.
    """

    property: str = FORMATION_ENERGY
    direction: Literal["minimise", "maximise", "near"] = "minimise"
    weight: float = 1.0
    value: float | None = None

    def __post_init__(self) -> None:
        if (self.direction == "near") != (self.value is not None):
            raise ValueError(f"the goal for {self.property}: 'near', and only that, needs a value")
        if not all(map(math.isfinite, (self.weight, self.value or 0.0))):
            raise ValueError(f"the goal for {self.property}: weight and value are finite numbers")
        if self.weight < 0:
            raise ValueError(
                f"the goal for {self.property}: a weight below 0 turns it around; choose the other "
                "direction"
            )


def score(values: FloatArray, names: Sequence[str], goals: Sequence[Goal]) -> NDArray[np.float64]:
    """What goals make of properties (..., targets): one number to be minimised, (...,).

    Raises
    ------
    ValueError
        No such property was predicted.
    """
    check_goals(names, goals)
    total = np.zeros(np.shape(values)[:-1])
    for goal in goals:
        value = np.asarray(values)[..., list(names).index(goal.property)]
        if goal.value is not None:
            value = np.abs(value - goal.value)
        total += (-goal.weight if goal.direction == "maximise" else goal.weight) * value
    return total


def check_goals(names: Sequence[str], goals: Sequence[Goal]) -> None:
    """Raise ValueError if a goal is for a property that was not learnt."""
    for goal in goals:
        if goal.property not in names:
            known = ", ".join(names)
            raise ValueError(f"no prediction of {goal.property!r}: the constraint knows {known}")
