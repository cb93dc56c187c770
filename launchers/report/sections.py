"""HTML fragments of the report: tables, places of the figures and the list of methods."""

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.structures.hull import DEPTHS, NEAR, depth_name
from ccdcgan.launchers.report.figures import (
    NumberedPhase,
    energy,
    formula_html,
    origin_text,
    stage_totals,
    stages,
)
from ccdcgan.workflows.documents import (
    Curve,
    DatabaseCounts,
    Phase,
    SourceCounts,
    Summary,
)
from ccdcgan.workflows.phases import sources_of

#: Characters that would turn the order of what follows them around.
DIRECTIONS = {
    number: f"\\u{number:04x}"
    for number in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def text(value: str | int | None) -> str:
    """Escape a value for HTML; a dash stands for None, marks of direction are to be read."""
    return "–" if value is None else html.escape(str(value).translate(DIRECTIONS))


def count(value: float | None) -> str:
    """Format a whole number with thin spaces between thousands."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def percent(probability: float | None) -> str:
    """Format a probability."""
    return "–" if probability is None else f"{100 * probability:.0f}%"


def duration(seconds: float) -> str:
    """Format a time with the two units that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def spacegroup_html(symbol: str) -> str:
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


def best_table(best: Sequence[NumberedPhase], total: int) -> str:
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
        '<th class="num">±<br><small>eV/atom</small></th>',
        '<th class="num">within<br><small>0.025</small></th>',
        '<th>label</th><th class="num">round</th><th>origin</th><th>file</th>',
    ]
    rows = (_best_row(rank, index, phase) for rank, (index, phase) in enumerate(best, start=1))
    note = (
        "A click on a row shows the structure below, one on a heading sorts. ±: standard deviation "
        "of the distance to the hull between two checkpoints, each on its own hull; the next "
        "column is the probability, by it, that the crystal is within 0.025 eV/atom. Space groups "
        "are those within 0.1 Å."
    )
    if total > len(best):
        note += f" The best {len(best)} of {total} are listed."
    listed = f'<div id="best" class="sortable">{table(heads, rows, "tall")}</div>'
    return f'{listed}<p class="caption">{note}</p>'


def _best_row(rank: int, index: int, phase: Phase) -> str:
    cells = [
        _cell(str(rank), "num"),
        _cell(formula_html(phase.formula), "nowrap"),
        _cell(spacegroup_html(phase.spacegroup), "nowrap"),
        _cell(str(len(phase.structure)), "num"),
        _cell(energy(phase.formation_energy_per_atom), "num"),
        _cell(energy(phase.e_above_hull), "num"),
        _cell(energy(phase.e_above_hull_uncertainty), "num"),
        _cell(percent(phase.probability_within), "num"),
        _cell(f'<span class="pill {phase.label}">{phase.label}</span>'),
        _cell(text(phase.origin.round), "num"),
        _cell(text(phase.origin.id), "code wrap"),
        _cell(text(phase.file), "code nowrap"),
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
        second = phase.second_opinion
        cells = [
            _cell(formula_html(phase.formula), "nowrap"),
            _cell(spacegroup_html(phase.spacegroup), "nowrap"),
            _cell(energy(phase.energy_per_atom), "num"),
            _cell(energy(second.energy_per_atom if second else None), "num"),
            _cell(text(origin_text(phase)), "wrap"),
            _cell(text(phase.reason), "wrap"),
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


def funnel(summary: Summary) -> str:
    """Return the place of the funnel figure and the table with its numbers."""
    rounds = summary.rounds
    if not rounds:
        return '<p class="note">No round of generation was run.</p>'
    named = [(str(i), stages(counts)) for i, counts in enumerate(rounds, start=1)]
    total = stage_totals(rounds)
    heads = ["<th>round</th>", *(f'<th class="num">{name}</th>' for name in total)]
    if len(rounds) > 1:
        named.append(("total", total))
    rows = (
        f'<tr><th scope="row">{name}</th>'
        + "".join(_cell(count(counts[stage]), "num") for stage in total)
        + "</tr>"
        for name, counts in named
    )
    stackings = sum(counts.stackings or 0 for counts in rounds)
    brought = sources_of(rounds)
    beside = f" Beside the samples {stackings} stackings of known crystals were judged."
    return (
        '<div id="funnel" class="plot"></div><div class="gap"></div>'
        + table(heads, rows)
        + f'<p class="caption">Distinct: {text(summary.newness)}; on the hull, and within so many '
        f"eV/atom of it, of these; {text(summary.paper_words)}. "
        f"A stage without a bar let nothing pass.{beside if stackings else ''}</p>"
        + (_sources(brought, summary) if brought else "")
    )


def _sources(brought: Mapping[str, SourceCounts], summary: Summary) -> str:
    """What each proposal source has brought."""
    depths = [f"{depth:g}" for depth in DEPTHS]
    heads = [
        '<th>source</th><th class="num">proposed</th><th class="num">relaxed</th>',
        '<th class="num">new</th>',
        *(f'<th class="num">{depth_name(depth)}</th>' for depth in depths),
        '<th class="num">lowest of a formula</th>',
    ]
    rows = (
        f'<tr><th scope="row">{text(name)}</th>'
        + "".join(_cell(count(n), "num") for n in (c.proposed, c.relaxed, c.new))
        + "".join(_cell(count(c.within.get(depth)), "num") for depth in depths)
        + _cell(count(summary.records.get(name, 0)), "num")
        + "</tr>"
        for name, c in brought.items()
    )
    others = {k: n for k, n in summary.records.items() if k not in brought}
    held = ", ".join(f"{text(kind)} {number}" for kind, number in others.items())
    note = f"New: {text(summary.newness)}. Distances in eV/atom. The last column counts formulas"
    note += f"; beside the sources: {held}." if held else "."
    return f'<div class="gap"></div>{table(heads, rows)}<p class="caption">{note}</p>'


def database(counts: DatabaseCounts) -> str:
    """Return the sizes of the database and why candidates were rejected."""
    names = ("candidates", "relaxed", "converged", "distinct")
    sizes: dict[str, int] = {name: getattr(counts, name) for name in names}
    near = reversed(counts.distinct_within.items())
    sizes |= {f"distinct, {depth_name(depth)}": number for depth, number in near}
    rejected = dict(sorted(counts.rejected.items(), key=lambda item: -item[1]))
    right = (
        _bar_table("rejected because", rejected, count)
        if rejected
        else '<p class="note">No candidate was rejected.</p>'
    )
    left = _bar_table("structures", sizes, count)
    return f'<div class="two"><div>{left}</div><div>{right}</div></div>'


def _bar_table(title: str, values: Mapping[str, float], show: Callable[[float], str]) -> str:
    top = max(values.values(), default=0.0)
    rows = (
        f"<tr><th scope='row'>{text(name)}</th>{_cell(show(value), 'num')}"
        f'<td class="bar"><i style="width:{100 * value / (top or 1):.1f}%"></i>'
        "</td></tr>"
        for name, value in values.items()
    )
    return table([f'<th>{text(title)}</th><th class="num"></th><th></th>'], rows)


def curves(records: Sequence[Curve]) -> str:
    """Return the places of the learning curves, with their titles."""
    if not records:
        return '<p class="note">No learning curve was recorded.</p>'
    return (
        '<div class="two">'
        + "".join(
            f'<div><h3>{text(record.title)}</h3><div id="curve-{i}" class="plot"></div></div>'
            for i, record in enumerate(records)
        )
        + "</div>"
    )


def method(summary: Summary) -> str:
    """Return the level of theory, the definitions, the seed and the time of each stage."""
    limits = summary.thresholds
    facts = {**_facts(summary.level_of_theory), "seed": str(summary.seed)}
    listed = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items())
    rules = "".join(
        f"<dt>{word}</dt><dd>E<sub>hull</sub> ≤ {most:g} eV/atom, and none of the above</dd>"
        if most
        else f"<dt>{word}</dt><dd>E<sub>hull</sub> = 0</dd>"
        for word, most in NEAR.items()
    )
    rules += "".join(
        f"<dt>{name} (paper)</dt><dd>E<sub>f</sub> &lt; 0 and E<sub>hull</sub> &lt; "
        f"{limits[name]:.3f} eV/atom</dd>"
        for name in ("stable", "metastable")
    )
    times = summary.wall_seconds
    spent = _bar_table("stage", times, duration) if times else '<p class="note">Not measured.</p>'
    return (
        f'<div class="two"><div><h3>Level of theory</h3><dl>{listed}</dl>'
        f"<h3>Definitions</h3><dl>{rules}</dl>"
        '<p class="muted small">E<sub>f</sub> is the formation energy from the elements and '
        "E<sub>hull</sub> the energy above the convex hull of all converged phases of this run, "
        "both at the level of theory above. Method: T. Long et al., npj Comput. Mater. 7, 66 "
        f"(2021).</p></div><div><h3>Wall time</h3>{spent}</div></div>"
    )


def _facts(level: LevelOfTheory) -> dict[str, str | None]:
    """A level of theory, field by field."""
    return {
        name.replace("_", " "): json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict)
        else value
        for name, value in level.model_dump().items()
    }
