"""The HTML of the live page; every text of a store goes through `text`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from ccdcgan.launchers.live.form import MOST_ROWS, ROWS, Asked, address, form
from ccdcgan.launchers.live.live import View, counts
from ccdcgan.launchers.live.source import Fresh, Progress
from ccdcgan.launchers.report.failures import failed
from ccdcgan.launchers.report.figures import energy, formula_html
from ccdcgan.launchers.report.sections import count, spacegroup_html, table, text
from ccdcgan.launchers.report.write import asset

#: Columns of the table of phases, and their heads.
HEADS = {
    "formula": "formula",
    "spacegroup": "space group",
    "nsites": "atoms",
    "formation_energy_per_atom": "E<sub>f</sub><br><small>eV/atom</small>",
    "e_above_hull": "E<sub>hull</sub><br><small>eV/atom</small>",
    "e_above_hull_uncertainty": "±<br><small>eV/atom</small>",
    "label": "label",
    "origin": "origin",
    "source": "source",
    "round": "round",
    "engine": "engine",
    "campaign": "campaign",
}

#: Those that are numbers.
NUMBERS = ("nsites", "formation_energy_per_atom", "e_above_hull", "e_above_hull_uncertainty")

#: Classes of labels in the style.
PILLS = {"on the hull": "hull", "within 0.025": "within", "within 0.10": "within"}

#: Where the script draws the hull of the phases that are asked for.
HULL = '<div id="hull" class="plot" hidden></div><p class="caption" id="hull-caption"></p>'

Row = Mapping[str, Any]


def live_page(
    title: str, view: View | None, asked: Asked, number: int, problem: str | None, mark: str
) -> str:
    """The page of one question.

    Parameters
    ----------
    title
        What is looked at.
    view
        What it shows; None where nothing can be shown, for the `problem`.
    asked, number
        The question as it stands in the address, and the page of the table, from 1.
    problem
        One line.
    mark
        Of what is shown: another where something has changed.
    """
    note = "" if problem is None else f'<p class="problem" role="alert">{text(problem)}</p>'
    note = f'<div id="problem" data-live>{note}</div>'
    return Template(_asset("live.html")).substitute(
        title=text(_heading(title, view)),
        style=asset("style.css") + _asset("live.css"),
        mark=text(mark),
        state=text(view.progress.state if view else ""),
        problem=note,
        cards=_cards(view) if view else "",
        main=_main(view, asked, number) if view else "",
    )


def _heading(title: str, view: View | None) -> str:
    """The title, after the system where it is one."""
    systems = [] if view is None else list(view.rows["system"].unique())
    return f"{str(systems[0]).replace('-', '–')} · {title}" if len(systems) == 1 else title


def _asset(name: str) -> str:
    return resources.files("ccdcgan.launchers.live").joinpath(name).read_text("utf-8")


def _cards(view: View) -> str:
    new = counts(view.rows)
    items = {
        "structures relaxed": view.progress.relaxed,
        "phases": len(view.table),
        "phases that are asked for": len(view.rows),
        **{f"of these new and {word}": number for word, number in new.items()},
        "without a result": len(view.progress.failures),
    }
    cards = "".join(
        f'<div class="card"><div class="value">{count(number)}</div>'
        f'<div class="what">{text(what)}</div></div>'
        for what, number in items.items()
    )
    return f'<div class="cards" id="cards" data-live>{cards}</div>'


def _main(view: View, asked: Asked, number: int) -> str:
    return "".join(
        (
            _section("progress", "Progress", _progress(view.progress, asked)),
            _section("phases", "Phases", _filters(asked) + HULL + _phases(view, asked, number)),
            asset("crystal.html"),
            _section("newest", "Newest crystals", _newest(view.progress.newest)),
            f'<div id="failures" data-live>{failed(view.progress.failures)}</div>',
        )
    )


def _filters(asked: Asked) -> str:
    """The form, closed where nothing but an order is asked."""
    state = " open" if set(asked) - {"sort", "campaign"} else ""
    return f"<details{state}><summary>Filters</summary>{form(asked)}</details>"


def _section(name: str, title: str, content: str) -> str:
    return f'<section aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{content}</section>'


def _progress(progress: Progress, asked: Asked) -> str:
    parts = []
    if progress.report:
        link = address({}, "/report", campaign=asked.get("campaign"))
        parts.append(f'<p><a href="{link}">The report of the campaign</a></p>')
    if progress.stages:
        rows = (
            f'<tr><th scope="row">{text(s.name)}</th><td>{text(s.state)}</td></tr>'
            for s in progress.stages
        )
        parts.append(table(["<th>stage</th><th>state</th>"], rows, "tall"))
    if progress.runs:
        heads = ["<th>campaign</th><th>name</th><th>system</th><th>submitted</th><th>jobs</th>"]
        parts.append(table(heads, (_run(r.id, vars(r)) for r in progress.runs), "tall"))
    return f'<div id="progress" data-live>{"".join(parts) or _note(progress.state)}</div>'


def _run(id: str, run: Mapping[str, str]) -> str:
    cells = "".join(f"<td>{text(run[name])}</td>" for name in ("name", "system", "submitted"))
    return (
        f'<tr><th scope="row"><a href="{address({}, "/", campaign=id)}">{text(id)}</a></th>'
        f"{cells}<td>{text(run['jobs'])}</td></tr>"
    )


def _note(line: str) -> str:
    return f'<p class="note">{text(line)}</p>'


def _phases(view: View, asked: Asked, number: int) -> str:
    size = min(view.query.limit or ROWS, MOST_ROWS)
    total = len(view.rows)
    pages = max(1, math.ceil(total / size))
    number = min(max(1, number), pages)
    shown = view.rows.iloc[(number - 1) * size : number * size].to_dict("records")
    if not total:
        none = (
            "No phase matches."
            if len(view.table)
            else "No phases yet: they come with the first hull."
        )
        return f'<div id="phases" data-live>{_note(none)}</div>'
    heads = [_head(name, label, view.query.sort, asked) for name, label in HEADS.items()]
    listing = table(heads, map(_phase, shown), "tall")
    return f'<div id="phases" data-live>{listing}{_pager(asked, number, pages, size, total)}</div>'


def _head(name: str, label: str, sort: str, asked: Asked) -> str:
    other = f"-{name}" if sort == name else name
    state = {name: "ascending", f"-{name}": "descending"}.get(sort, "none")
    arrow = {"ascending": " ↑", "descending": " ↓"}.get(state, "")
    css = ' class="num"' if name in NUMBERS or name == "round" else ""
    link = address(asked, "/", sort=other)
    return f'<th{css} aria-sort="{state}"><a href="{link}">{label}{arrow}</a></th>'


def _phase(row: Row) -> str:
    cells = []
    for name in HEADS:
        value = row[name]
        # pandas has several words for nothing.
        value = None if value is None or value != value or str(value) == "<NA>" else value
        if name == "formula":
            cell = formula_html(str(value))
        elif name == "spacegroup":
            cell = spacegroup_html(str(value))
        elif name in ("nsites", "round"):
            cell = text(None if value is None else int(value))
        elif name in NUMBERS:
            cell = energy(value)
        elif name == "label":
            cell = f'<span class="pill {PILLS.get(str(value), "")}">{text(str(value))}</span>'
        elif name == "campaign":
            cell = text(str(value)[:8])
        else:
            cell = text(value)
        css = "num" if name in NUMBERS or name == "round" else "nowrap"
        cells.append(f'<td class="{css}">{cell}</td>')
    return f'<tr data-phase="{text(str(row["uid"]))}" tabindex="0">{"".join(cells)}</tr>'


def _pager(asked: Asked, number: int, pages: int, size: int, total: int) -> str:
    first, last = (number - 1) * size + 1, min(number * size, total)
    links = [f"{count(first)}–{count(last)} of {count(total)}"]
    for there, word in ((number - 1, "previous"), (number + 1, "next")):
        if 1 <= there <= pages:
            link = address(asked, "/", page=there)
            links.append(f'<a rel="{word[:4]}" href="{link}#h-phases">{word}</a>')
    return f'<nav class="pager" aria-label="Pages">{" · ".join(links)}</nav>'


def _newest(newest: Sequence[Fresh]) -> str:
    if not newest:
        return f'<div id="newest" data-live>{_note("Nothing is relaxed yet.")}</div>'
    heads = [
        "<th>ended (UTC)</th><th>formula</th><th>origin</th>"
        '<th class="num">energy<br><small>eV/atom</small></th><th>result</th>'
    ]
    rows = (
        f'<tr data-phase="relaxation:{text(f.key)}" tabindex="0">'
        f'<td class="nowrap">{text(f.at[:19].replace("T", " "))}</td>'
        f'<td class="nowrap">{formula_html(f.formula)}</td><td class="wrap">{text(f.origin)}</td>'
        f'<td class="num">{energy(f.energy_per_atom)}</td>'
        f'<td class="wrap">{text(f.result)}</td></tr>'
        for f in newest
    )
    return f'<div id="newest" data-live>{table(heads, rows, "tall")}</div>'
