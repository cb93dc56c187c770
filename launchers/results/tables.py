"""Tables for spreadsheets."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

#: What makes a spreadsheet take a text as a formula.
FORMULA = ("=", "+", "-", "@")


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV, in which texts of any origin are texts: no spreadsheet computes them.

    One that would be a formula has an apostrophe before it. Numbers stay as they are.
    """
    stream = io.StringIO()
    names = list(columns)
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writerow({name: _cell(name) for name in names})
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Python's writer quotes the one, and leaves the other to break the row.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    # Spreadsheets take wide signs for ordinary ones, and pass over any white space before them.
    plain = unicodedata.normalize("NFKC", text)
    if not plain.lstrip().startswith(FORMULA) and not plain.startswith(("\t", "\n")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
