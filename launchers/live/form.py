"""The form of the live page: a field for each of a `PhaseQuery`, and the question in an address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.report.sections import text
from ccdcgan.launchers.results.columns import COLUMNS, LABELS, ORIGINS
from ccdcgan.launchers.results.query import FAILED, PhaseQuery, uses

#: Fields with few possible values, and those values.
CHOICES: dict[str, Iterable[str]] = {
    "label": [label for label in LABELS if label != FAILED],
    "origin": ORIGINS,
    "distinct": ("true", "false"),
    "sort": [name for column in COLUMNS for name in (column, f"-{column}")],
}

#: Phases on a page, and most of them.
ROWS, MOST_ROWS = 50, 500

#: Fields that are numbers.
NUMBERS = ("max_e_above_hull", "limit")

Asked = Mapping[str, str]


def asked_of(parameters: Mapping[str, str]) -> dict[str, str]:
    """What of an address is a question; what is empty is not asked."""
    return {
        name: value.strip()
        for name in PhaseQuery.model_fields
        if (value := parameters.get(name, "")).strip()
    }


def question_of(asked: Asked) -> PhaseQuery:
    """The question.

    Raises
    ------
    UserError
        A value cannot be asked for.
    """
    values: dict[str, Any] = dict(asked)
    # Of a text only numbers are read as such.
    if "distinct" in values:
        values["distinct"] = values["distinct"].lower() in ("true", "1", "yes", "on")
    query = PhaseQuery.of(values)
    if uses(query.where, "$regex"):
        # One that backtracks without end would hold the server, and nothing stops it.
        raise UserError("$regex is for ccdcgan query --where; a page takes $eq, $in, $gt, $lt, …")
    return query


def address(asked: Asked, path: str = "", **changes: object) -> str:
    """The address of a question, escaped for HTML."""
    parts = {**asked, **{name: str(value) for name, value in changes.items() if value is not None}}
    return text(f"{path}?{urlencode(parts)}")


def form(asked: Asked, hidden: Iterable[str] = ()) -> str:
    """The form with what was asked in it, without the fields that are `hidden`."""
    fields = [
        _field(name, field.description or "", asked.get(name, ""))
        for name, field in PhaseQuery.model_fields.items()
        if name not in hidden
    ]
    return (
        f'<form method="get" action="/" class="filters">{"".join(fields)}'
        '<div class="buttons"><button type="submit">Show</button> <a href="/">all</a></div></form>'
    )


def _field(name: str, description: str, value: str) -> str:
    label = name.replace("_", " ").replace("max e above hull", "largest E_hull")
    note = f'<small id="d-{name}">{text(description.replace("`", ""))}</small>'
    shared = f'id="f-{name}" name="{name}" aria-describedby="d-{name}"'
    if name in CHOICES:
        empty = "" if name == "sort" else "<option></option>"
        value = value or (PhaseQuery.model_fields[name].default if name == "sort" else "")
        options = "".join(
            f"<option{' selected' if choice == value else ''}>{text(choice)}</option>"
            for choice in CHOICES[name]
        )
        control = f"<select {shared}>{empty}{options}</select>"
    else:
        kind = 'type="number" step="any"' if name in NUMBERS else 'type="text"'
        control = f'<input {kind} {shared} value="{text(value)}" autocomplete="off">'
    return f'<div><label for="f-{name}">{text(label)}</label>{control}{note}</div>'
