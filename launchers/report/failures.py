"""The report's tables of what failed: how many for which reason, and each with its place."""

from __future__ import annotations

from collections.abc import Sequence

from ccdcgan.launchers.report.figures import energy, formula_html
from ccdcgan.launchers.report.sections import count, table, text
from ccdcgan.workflows.failures import FailedStructure, FailureCounts

#: Most reasons and structures that are listed.
MAX_REASONS, MAX_ROWS = 20, 100


def failed(failures: Sequence[FailedStructure]) -> str:
    """The section of the structures that have no result; nothing where there are none."""
    if not failures:
        return ""
    counts = FailureCounts.of(failures)
    reasons = (
        f'<tr><td>{text(r.kind)}</td><td class="wrap">{text(r.reason)}</td>'
        f'<td class="num">{count(r.count)}</td></tr>'
        for r in counts.reasons[:MAX_REASONS]
    )
    heads = [
        "<th>formula</th><th>origin</th><th>fault of</th><th>reason</th><th>it said</th>",
        '<th class="num">runs</th><th class="num">steps</th>',
        '<th class="num">force<br><small>eV/Å</small></th><th>host</th><th>folder</th>',
    ]
    notes = [
        f"{count(counts.total)} without a result: {count(counts.crystal)} by the "
        f"crystal's own fault, {count(counts.stopped)} were stopped."
    ]
    if len(counts.reasons) > MAX_REASONS:
        notes.append(f"{MAX_REASONS} of {count(len(counts.reasons))} reasons are listed.")
    if len(failures) > MAX_ROWS:
        notes.append(f"{MAX_ROWS} of {count(len(failures))} structures are listed.")
    notes.append("ccdcgan failures lists all, ccdcgan retry tries them again.")
    return (
        '<section aria-labelledby="h-failed"><h2 id="h-failed">Failed</h2>'
        + table(['<th>fault of</th><th>reason</th><th class="num">structures</th>'], reasons)
        + f'<p class="caption">{" ".join(notes)}</p>'
        + table(heads, map(_row, failures[:MAX_ROWS]), "tall")
        + "</section>"
    )


def _row(failure: FailedStructure) -> str:
    formula = "–" if failure.formula is None else formula_html(failure.formula)
    cells = [
        ("nowrap", formula),
        ("wrap", text(failure.origin)),
        ("", text(failure.kind)),
        ("wrap", text(failure.reason)),
        ("wrap", text(failure.said)),
        ("num", count(failure.runs)),
        ("num", count(failure.steps)),
        ("num", energy(failure.max_force)),
        ("nowrap", text(failure.host)),
        ("code wrap", text(failure.folder)),
    ]
    return "<tr>" + "".join(f'<td class="{css}">{cell}</td>' for css, cell in cells) + "</tr>"
