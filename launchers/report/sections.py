"""HTML fragments of the report: tables, places of the figures and the list of methods."""

import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ccdcgan.launchers.report.figures import (
    STAGES,
    Phase,
    energy,
    formula_html,
    number,
    origin_text,
    stage_totals,
)

LABELS = ("stable", "metastable", "unstable", "not converged", "untrusted")


def text(value: Any) -> str:
    """Escape any value for HTML; a dash stands for None."""
    return "–" if value is None else html.escape(str(value))


def count(value: Any) -> str:
    """Format a whole number with thin spaces between thousands."""
    result = number(value)
    return "–" if result is None else f"{result:,.0f}".replace(",", "\u202f")


def duration(seconds: Any) -> str:
    """Format a time with the two units that matter."""
    value = number(seconds)
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def spacegroup_html(symbol: Any) -> str:
    """Escape a space group, with bars over the digits of rotoinversions and screw subscripts."""
    escaped = text(symbol)
    barred = re.sub(r"-(\d)", r'<span class="over">\1</span>', escaped)
    return re.sub(r"_(\d)", r"<sub>\1</sub>", barred)


def table(head: Iterable[str], rows: Iterable[str], css: str = "") -> str:
    """Wrap header cells and ready rows in a table that scrolls inside its own frame."""
    # A focusable frame, so that the keyboard can scroll it too.
    return (
        f'<div class="scroll {css}" tabindex="0"><table><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: str, css: str = "") -> str:
    return f'<td class="{css}">{value}</td>'


def best_table(best: list[tuple[int, Phase]], total: int) -> str:
    """Return the ranked generated structures; a row carries the index of its phase record."""
    if not best:
        return (
            '<p class="note">No generated structure is both converged and different from all '
            "others, so there is nothing to rank.</p>"
        )
    heads = [
        '<th class="num">rank</th><th>formula</th><th>space group</th><th class="num">atoms</th>',
        '<th class="num">E<sub>f</sub><br><small>eV/atom</small></th>',
        '<th class="num">E<sub>hull</sub><br><small>eV/atom</small></th>',
        '<th>label</th><th class="num">round</th><th>origin</th><th>file</th>',
    ]
    rows = (_best_row(rank, index, phase) for rank, (index, phase) in enumerate(best, start=1))
    note = "A click on a row shows the structure below."
    if total > len(best):
        note += f" The best {len(best)} of {total} are listed."
    return table(heads, rows, "tall") + f'<p class="caption">{note}</p>'


def _best_row(rank: int, index: int, phase: Phase) -> str:
    origin = phase.get("origin") or {}
    label = phase.get("label")
    css = str(label) if label in LABELS else ""
    cells = [
        _cell(str(rank), "num"),
        _cell(formula_html(phase.get("formula", "–")), "nowrap"),
        _cell(spacegroup_html(phase.get("spacegroup")), "nowrap"),
        _cell(str(len(phase["structure"]["sites"])), "num"),
        _cell(energy(phase.get("formation_energy_per_atom")), "num"),
        _cell(energy(phase.get("e_above_hull")), "num"),
        _cell(f'<span class="pill {css}">{text(label)}</span>'),
        _cell(text(origin.get("round")), "num"),
        _cell(text(origin.get("id")), "code wrap"),
        _cell(text(phase.get("file")), "code nowrap"),
    ]
    return f'<tr data-phase="{index}" tabindex="0">{"".join(cells)}</tr>'


def notes(lines: Iterable[str]) -> str:
    """Return what to know before believing the hull, or nothing."""
    listed = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="notes">{listed}</ul>' if listed else ""


def untrusted(phases: Iterable[Phase]) -> str:
    """Return the crystals that are set aside, with the energies of both engines, or nothing."""
    rows = []
    for phase in phases:
        second = phase.get("second_opinion") or {}
        cells = [
            _cell(formula_html(phase.get("formula", "–")), "nowrap"),
            _cell(spacegroup_html(phase.get("spacegroup")), "nowrap"),
            _cell(energy(phase.get("energy_per_atom")), "num"),
            _cell(energy(second.get("energy_per_atom")), "num"),
            _cell(text(origin_text(phase)), "wrap"),
            _cell(text(phase.get("reason")), "wrap"),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if not rows:
        return ""
    heads = [
        '<th>formula</th><th>space group</th><th class="num">energy<br><small>eV/atom</small></th>',
        '<th class="num">second opinion<br><small>eV/atom</small></th><th>origin</th>',
        "<th>why</th>",
    ]
    return (
        '<section aria-labelledby="h-untrusted"><h2 id="h-untrusted">Set aside</h2>'
        + table(heads, rows)
        + '<p class="caption">The engine puts these where another checkpoint does not: false '
        "minima of a potential. They are not on the hull, and nothing was learnt from them.</p>"
        "</section>"
    )


def funnel(rounds: list[dict[str, Any]]) -> str:
    """Return the place of the funnel figure and the table with its numbers."""
    if not rounds:
        return '<p class="note">No round of generation was run.</p>'
    heads = ["<th>round</th>", *(f'<th class="num">{name}</th>' for name in STAGES.values())]
    named: list[tuple[str, Mapping[str, Any]]] = [
        (str(i), counts) for i, counts in enumerate(rounds, start=1)
    ]
    if len(rounds) > 1:
        named.append(("total", stage_totals(rounds)))
    rows = (
        f'<tr><th scope="row">{name}</th>'
        + "".join(_cell(count(counts.get(stage)), "num") for stage in STAGES)
        + "</tr>"
        for name, counts in named
    )
    stackings = sum(int(number(counts.get("stackings")) or 0) for counts in rounds)
    beside = f" Beside the samples {stackings} stackings of known crystals were judged."
    return (
        '<div id="funnel" class="plot"></div><div class="gap"></div>'
        + table(heads, rows)
        + '<p class="caption">Metastable and stable count distinct structures. '
        f"A stage without a bar let nothing pass.{beside if stackings else ''}</p>"
    )


def database(record: Mapping[str, Any]) -> str:
    """Return the sizes of the database and why candidates were rejected."""
    names = ("candidates", "relaxed", "converged", "metastable", "stable")
    sizes = {name: record.get(name) for name in names}
    rejected = dict(
        sorted((record.get("rejected") or {}).items(), key=lambda item: -(number(item[1]) or 0))
    )
    right = (
        _bar_table("rejected because", rejected, count)
        if rejected
        else '<p class="note">No candidate was rejected.</p>'
    )
    left = _bar_table("structures", sizes, count)
    return f'<div class="two"><div>{left}</div><div>{right}</div></div>'


def _bar_table(title: str, values: Mapping[str, Any], show: Any) -> str:
    top = max((number(v) or 0.0 for v in values.values()), default=0.0)
    rows = (
        f"<tr><th scope='row'>{text(name)}</th>{_cell(show(value), 'num')}"
        f'<td class="bar"><i style="width:{100 * (number(value) or 0.0) / (top or 1):.1f}%"></i>'
        "</td></tr>"
        for name, value in values.items()
    )
    return table([f'<th>{text(title)}</th><th class="num"></th><th></th>'], rows)


def curves(records: list[dict[str, Any]]) -> str:
    """Return the places of the learning curves, with their titles."""
    if not records:
        return '<p class="note">No learning curve was recorded.</p>'
    return (
        '<div class="two">'
        + "".join(
            f"<div><h3>{text(record.get('title'))}</h3>"
            f'<div id="curve-{i}" class="plot"></div></div>'
            for i, record in enumerate(records)
        )
        + "</div>"
    )


def method(summary: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    """Return the level of theory, the definitions, the seed and the time of each stage."""
    facts = {
        **{str(k).replace("_", " "): v for k, v in (summary.get("level_of_theory") or {}).items()},
        "seed": summary.get("seed"),
    }
    listed = "".join(f"<dt>{text(k)}</dt><dd>{_value(v)}</dd>" for k, v in facts.items())
    rules = "".join(
        f"<dt>{name}</dt><dd>E<sub>f</sub> &lt; 0 and E<sub>hull</sub> &lt; "
        f"{limits[name]:.3f} eV/atom{also}</dd>"
        for name, also in (("stable", ""), ("metastable", ", and not stable"))
    )
    times = summary.get("wall_seconds") or {}
    spent = _bar_table("stage", times, duration) if times else '<p class="note">Not measured.</p>'
    return (
        f'<div class="two"><div><h3>Level of theory</h3><dl>{listed}</dl>'
        f"<h3>Definitions</h3><dl>{rules}</dl>"
        '<p class="muted small">E<sub>f</sub> is the formation energy from the elements and '
        "E<sub>hull</sub> the energy above the convex hull of all converged phases of this run, "
        "both at the level of theory above. Method: T. Long et al., npj Comput. Mater. 7, 66 "
        f"(2021).</p></div><div><h3>Wall time</h3>{spent}</div></div>"
    )


def _value(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return text(json.dumps(value, default=str, ensure_ascii=False))
    return text(value)


def _second(phase: Phase) -> str:
    second = phase.get("second_opinion")
    if not second:
        return "–"
    return f"{energy(second.get('e_above_hull'))} eV/atom by {second.get('engine')}"


def phase_facts(phase: Phase) -> dict[str, str]:
    """Return the texts of the viewer (not escaped: the page sets them as text nodes)."""
    return {
        "formula": str(phase.get("formula") or "–"),
        "spacegroup": str(phase.get("spacegroup") or "–"),
        "label": str(phase.get("label") or "–"),
        "formation": f"{energy(phase.get('formation_energy_per_atom'))} eV/atom",
        "hull": f"{energy(phase.get('e_above_hull'))} eV/atom",
        "second": _second(phase),
        "origin": origin_text(phase),
        "file": str(phase.get("file") or "–"),
    }
