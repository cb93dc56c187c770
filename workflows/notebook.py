"""Tables for Jupyter; a text of any origin is text there."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in HTML; None is a dash, a float has three digits."""
    lines = [f"<p><b>{escape(title)}</b></p>" if title else "", "<table>"]
    if headings:
        lines.append("<tr>" + "".join(f"<th>{escape(h)}</th>" for h in headings) + "</tr>")
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    return escape(f"{round(value, 3) + 0.0:.3f}" if isinstance(value, float) else str(value))
