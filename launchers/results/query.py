"""Questions about phases: by formula, distance to the hull and the like."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self, get_args

from maggma.core import Sort
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pymatgen.core import Composition

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import in_one_line, mistakes, shown
from ccdcgan.dft.structures.hull import NEAR, NOISE, Thresholds
from ccdcgan.dft.systems import composition_of, require_element
from ccdcgan.launchers.results.columns import COLUMNS, LABELS, ORIGINS
from ccdcgan.workflows.documents import OLD_LABELS, NoPlace

#: Label of what has no result; relaxations have it, not phases.
FAILED = "failed"

NO_OBJECT = 'a free filter is a JSON object, such as {"nsites": {"$lte": 8}}'

#: Operators of free filters: those that both kinds of store have, none of which runs code.
OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"),
    *("$and", "$or", "$nor", "$not", "$exists", "$type"),
    *("$all", "$elemMatch", "$size", "$regex", "$options"),
)


def _places() -> dict[str, dict[str, object]]:
    """What labels ask of energies, eV/atom, in MongoDB's language."""
    found: dict[str, dict[str, object]] = {}
    beyond: dict[str, float] = {}
    for word, most in NEAR.items():
        found[word] = {"e_above_hull": {**beyond, "$lte": most + NOISE}}
        beyond = {"$gt": most + NOISE}
    found["above"] = {"e_above_hull": beyond}
    paper = Thresholds()
    below = {"formation_energy_per_atom": {"$lt": 0.0}}
    found["stable"] = {"e_above_hull": {"$lt": paper.stable}, **below}
    metastable = {"$gte": paper.stable, "$lt": paper.metastable}
    found["metastable"] = {"e_above_hull": metastable, **below}
    others = [{"e_above_hull": {"$gte": paper.metastable}}]
    others += [{"formation_energy_per_atom": {"$gte": 0.0}}]
    found["unstable"] = {"$or": others}
    return found


#: Filters of the labels of phases with a place on the hull, the paper's words among them.
PLACES = _places()


class PhaseQuery(BaseModel):
    """A question about phases; what is None is not asked.

    Raises
    ------
    UserError
        A value cannot be asked for; the message says what can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    formula: str | None = Field(
        None, description="In any multiple and order: Se3Bi2 asks for Bi2Se3."
    )
    elements: tuple[str, ...] | None = Field(
        None, description="Exactly these elements: Bi-Se, or symbols."
    )
    containing: tuple[str, ...] | None = Field(None, description="At least these elements.")
    max_e_above_hull: float | None = Field(
        None, description="Largest distance to the hull, eV/atom."
    )
    label: str | None = Field(
        None,
        description="On the hull; within 0.025 or within 0.10, and not nearer; above; not "
        "converged (on its way, with an energy); untrusted; or failed: all that has not "
        "converged, also without an energy, which no other question finds. Stable, metastable and "
        "unstable are the paper's words.",
    )
    campaign: str | tuple[str, ...] | None = Field(
        None,
        description="Digest of a campaign, or its beginning; on a cluster also its name.",
    )
    origin: str | None = Field(
        None, description="element, reference, prototype, generated or adopted."
    )
    source: str | None = Field(
        None, description="Proposal source of generated crystals, as variation."
    )
    engine: str | None = Field(
        None, description="Name of what computed the energies, in upper or lower case."
    )
    distinct: bool | None = Field(
        None,
        description="Only those that match no earlier phase of their campaign, or only those that "
        "do.",
    )
    where: Mapping[str, Any] | None = Field(
        None,
        description="A filter in MongoDB's language, or JSON of one, beside the others; nothing "
        "that runs code.",
    )
    sort: str = Field(
        "e_above_hull", description="A column of `COLUMNS`; after a -, the largest first."
    )
    limit: int | None = Field(None, description="Most phases.")

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Self:
        """A question from its fields by name."""
        try:
            return cls(**asked)
        except ValidationError as error:
            wrong = list(mistakes(error, cls, asked).values())
            raise UserError(in_one_line(wrong)) from None

    @field_validator("formula")
    @classmethod
    def _reduce(cls, formula: str | None) -> str | None:
        return None if formula is None else reduced_formula(formula)

    @field_validator("elements", "containing", mode="before")
    @classmethod
    def _parse_symbols(cls, elements: str | Sequence[str] | None) -> list[str] | None:
        return None if elements is None else _symbols(elements)

    @field_validator("max_e_above_hull")
    @classmethod
    def _is_a_number(cls, distance: float | None) -> float | None:
        if distance is not None and not math.isfinite(distance):
            raise UserError("the largest distance to the hull is a number of eV/atom")
        return distance

    @field_validator("label", "origin")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        choices = LABELS if info.field_name == "label" else ORIGINS
        if value is not None and value not in (*choices, *OLD_LABELS):
            raise UserError(
                f"unknown {info.field_name} {value!r}: choose one of {', '.join(choices)}"
            )
        return value

    @field_validator("where", mode="before")
    @classmethod
    def _is_safe(cls, where: Any) -> Any:
        if isinstance(where, str):
            where = parse_where(where)
        if not isinstance(where, Mapping | None):
            raise UserError(NO_OBJECT)
        _check_operators(where)
        return where

    @field_validator("sort")
    @classmethod
    def _is_a_column(cls, sort: str) -> str:
        name = sort.removeprefix("-")
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1) or [", ".join(COLUMNS)]
            raise UserError(f"cannot sort by {name!r}: choose {close[0]}")
        return sort

    @field_validator("limit")
    @classmethod
    def _is_positive(cls, limit: int | None) -> int | None:
        if limit is not None and limit < 1:
            raise UserError("the limit is a number of phases from 1")
        return limit

    @property
    def filter(self) -> dict[str, object]:
        """The question as a MongoDB filter."""
        symbols = {"$eq": self.elements, "$all": self.containing}
        most, engine, campaigns = self.max_e_above_hull, self.engine, self.campaign
        beginnings = (campaigns,) if isinstance(campaigns, str) else campaigns or ()
        asked = {
            "formula": self.formula,
            "elements": {how: list(these) for how, these in symbols.items() if these is not None}
            or None,
            "e_above_hull": None if most is None else {"$lte": most},
            "label": self.label if self.label in get_args(NoPlace) else None,
            "campaign": None
            if campaigns is None
            else {"$regex": f"^({'|'.join(map(re.escape, beginnings))})"},
            "origin.kind": self.origin,
            "origin.source": self.source,
            "level_of_theory.engine": None
            if engine is None
            else {"$regex": f"^{re.escape(engine)}$", "$options": "i"},
            "distinct": self.distinct,
        }
        query: dict[str, object] = {k: v for k, v in asked.items() if v is not None}
        parts = [part for part in (query, self._near, dict(self.where or {})) if part]
        return {"$and": parts} if len(parts) > 1 else dict(*parts)

    @property
    def _near(self) -> dict[str, object]:
        """What a label of a place on the hull asks for; earlier versions have stored others."""
        if self.label not in PLACES:
            return {}
        if self.label in OLD_LABELS:
            return {"label": {"$nin": list(get_args(NoPlace))}, **PLACES[self.label]}
        old = {"label": {"$in": list(OLD_LABELS)}, **PLACES[self.label]}
        return {"$or": [{"label": self.label}, old]}

    @property
    def order(self) -> dict[str, Sort | int]:
        """Sorting by a column; the same everywhere where phases are equal in it."""
        name = self.sort.removeprefix("-")
        direction = Sort.Ascending if name == self.sort else Sort.Descending
        return {COLUMNS[name].path: direction, "uid": Sort.Ascending}


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which every name stands once."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"the free filter has {shown(name)} twice: join both by $and")
        found[name] = value
    return found


def parse_where(text: str) -> Mapping[str, Any]:
    """A free filter from JSON.

    Raises
    ------
    UserError
        The text is no JSON object.
    """
    try:
        where = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise UserError(f"the free filter is not valid JSON: {reason}") from None
    if not isinstance(where, dict):
        raise UserError(NO_OBJECT)
    return where


def reduced_formula(formula: str) -> str:
    """A formula in any multiple and order, reduced.

    Raises
    ------
    UserError
        It is none.
    """
    whole = composition_of(formula).get_integer_formula_and_factor()[0]
    return str(Composition(whole).reduced_formula)


def _symbols(elements: str | Sequence[str]) -> list[str]:
    parts = re.split(r"[-–,\s]+", elements.strip()) if isinstance(elements, str) else elements
    for symbol in parts:
        require_element(symbol, ": write elements as in Bi-Se")
    return sorted(set(parts))


def uses(where: Any, operator: str) -> bool:
    """Whether a free filter has an operator somewhere."""
    if isinstance(where, Mapping):
        return operator in where or any(uses(value, operator) for value in where.values())
    return isinstance(where, list) and any(uses(value, operator) for value in where)


def _check_operators(where: Any, depth: int = 0) -> None:
    if depth > 50:
        raise UserError("the free filter is nested too deeply")
    if isinstance(where, Mapping):
        if depth and not where:
            # Each store understands it in its own way.
            raise UserError("the free filter has an empty condition: {}")
        for key, value in where.items():
            if str(key).startswith("$") and key not in OPERATORS:
                raise UserError(f"{key} is not for free filters: these know {', '.join(OPERATORS)}")
            _check_operators(value, depth + 1)
    elif isinstance(where, list):
        for value in where:
            _check_operators(value, depth + 1)
