"""A table of phases that is held in memory, and its rows that a question is about.

A store answers any question, but reads all documents for most; whoever asks often keeps the table.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from maggma.core import Store

from ccdcgan.launchers.results.columns import as_frame
from ccdcgan.launchers.results.phases_file import is_phase
from ccdcgan.launchers.results.query import PLACES, PhaseQuery
from ccdcgan.workflows.documents import OLD_LABELS, NoPlace, relabelled

if TYPE_CHECKING:
    import pandas as pd

#: What of MongoDB's language the filters of labels use.
COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "$lt": operator.lt,
    "$lte": operator.le,
    "$gt": operator.gt,
    "$gte": operator.ge,
}

#: Columns with few different values, which a table of many rows holds once.
REPEATED = (
    *("formula", "spacegroup", "magnetic_order", "second_engine", "label", "reason", "failure"),
    *("said", "host", "origin", "source", "model", "engine", "level_of_theory", "campaign"),
    *("system", "hull", "elements"),
)


def table_of(store: Store, criteria: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The flat table of all phases of a connected store, with their ``uid`` and ``elements``.

    Parameters
    ----------
    criteria
        What the phases must fulfil, as MongoDB asks; default nothing.
    """
    found = store.query(dict(criteria or {}), {"structure": 0, "_id": 0})
    return as_table(relabelled(phase) for phase in found if is_phase(phase))


def as_table(phases: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The flat table of documents of phases, with their ``uid`` and ``elements``, as Bi-Se."""
    documents = list(phases)
    table = as_frame(documents)
    table["uid"] = [str(p.get("uid")) for p in documents]
    table["elements"] = ["-".join(map(str, p.get("elements") or ())) for p in documents]
    return table.astype(dict.fromkeys(REPEATED, "category"))


def rows_of(query: PhaseQuery, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table that a question is about, in its order, those without a value last.

    A free filter is not for tables: a store has to be asked.
    """
    asked: list[Callable[[], Any]] = []
    if query.formula is not None:
        asked.append(lambda: table["formula"] == query.formula)
    if query.elements is not None:
        asked.append(lambda: table["elements"] == "-".join(query.elements or ()))
    if query.containing is not None:
        wanted = set(query.containing)
        asked.append(lambda: _each(table["elements"], lambda e: wanted <= set(e.split("-"))))
    if query.max_e_above_hull is not None:
        asked.append(lambda: table["e_above_hull"] <= query.max_e_above_hull)
    if query.label is not None:
        asked.append(lambda: _labelled(table, query.label or ""))
    if query.campaign is not None:
        begins = (query.campaign,) if isinstance(query.campaign, str) else query.campaign
        asked.append(lambda: _each(table["campaign"], lambda c: c.startswith(begins)))
    if query.origin is not None:
        asked.append(lambda: table["origin"] == query.origin)
    if query.source is not None:
        asked.append(lambda: table["source"] == query.source)
    if query.engine is not None:
        name = query.engine.lower()
        asked.append(lambda: _each(table["engine"], lambda e: e.lower() == name))
    if query.distinct is not None:
        asked.append(lambda: table["distinct"] == query.distinct)
    found = table
    if asked:
        kept = asked[0]()
        for condition in asked[1:]:
            kept &= condition()
        found = table[kept.fillna(False).astype(bool)]
    column = query.sort.removeprefix("-")
    return found.sort_values(
        [column, "uid"], ascending=[column == query.sort, True], na_position="last"
    )


def _each(column: pd.Series, test: Callable[[str], bool]) -> pd.Series:
    """Whether each of a column's values passes a test, which is asked once for equal ones."""
    passed = {value for value in column.cat.categories if test(str(value))}
    return column.isin(passed)


def _labelled(table: pd.DataFrame, label: str) -> Any:
    """Rows of a label; those of earlier versions have today's in the table."""
    if label not in OLD_LABELS:
        return table["label"] == label
    return ~table["label"].isin(get_args(NoPlace)) & _compared(table, PLACES[label])


def _compared(table: pd.DataFrame, condition: Mapping[str, Any]) -> Any:
    """Rows that pass one of the filters of `PLACES`."""
    kept: Any = True
    for name, wanted in condition.items():
        if name == "$or":
            found: Any = False
            for part in wanted:
                found = found | _compared(table, part)
            kept = kept & found
            continue
        for sign, number in wanted.items():
            kept = kept & COMPARED[sign](table[name], number)
    return kept
