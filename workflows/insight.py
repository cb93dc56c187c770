"""Documents of what a report tells beside phases and counts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Relative(BaseModel):
    """The known crystal that a new one is most alike."""

    kinship: Literal["copy", "substitution", "neither"] = Field(
        description="substitution: alike once elements are exchanged; neither: none is alike."
    )
    formula: str | None = None
    origin: str | None = Field(None, description="Kind and id of the known crystal.")
    among: int = Field(description="Known crystals that were asked.")


class Parity(BaseModel):
    """True values, eV/atom, beside what a model has predicted of what it had not seen."""

    title: str
    pairs: list[tuple[float, float]] = Field(description="True, predicted.")


class LatentMap(BaseModel):
    """Crystals as points of a plane: the two principal components of their crystal graphs."""

    ids: list[str] = Field(description="Content keys of their relaxations.")
    points: list[tuple[float, float]]
    explained: tuple[float, float] = Field(description="Share of the variance of each axis.")


class Provenance(BaseModel):
    """What made the results, so that they can be made again."""

    campaign: dict[str, Any] = Field(description="Its settings.")
    digest: str = Field(description="Of the campaign.")
    versions: dict[str, str] = Field(description="Of Python and of packages.")
