"""Errors of what predicts properties of crystals, for crystals that it has not seen."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ccdcgan.dft.finite import FiniteOrNone

#: Most pairs of true and predicted values that are kept.
MOST_PAIRS = 200


class PropertyErrors(BaseModel):
    """Errors for one property, in its unit; those near the hull are missing where none is."""

    mae: float = Field(description="Mean absolute error.")
    r2: FiniteOrNone = Field(None, description="Coefficient of determination.")
    held_out: int = Field(description="Number of crystals.")
    mae_near_hull: FiniteOrNone = Field(
        None, description="Of the crystals within `ConstraintSettings.near_hull` of the hull."
    )
    r2_near_hull: FiniteOrNone = None
    near_hull: int | None = Field(None, description="Held-out crystals that are near the hull.")
    spread: float | None = Field(
        None, description="Standard deviation of the ensemble's members, averaged."
    )
    unrelaxed: float | None = Field(
        None,
        description="Root mean square error where crystals near the hull are judged by what they "
        "were relaxed from; by rattled copies where there is none. The paper's has none.",
    )
    parity: list[tuple[float, float]] = Field(
        [], description="True and predicted values of the first crystals that were held out."
    )
