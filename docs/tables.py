"""Tables of the documentation that follow from the code: python docs/tables.py writes them."""

from __future__ import annotations

import re
from pathlib import Path

from ccdcgan.launchers.results.columns import COLUMNS

PAGE = Path(__file__).parent / "numbers.md"


def columns() -> str:
    """The columns of a phase."""
    lines = ["| column | unit | what |", "|---|---|---|"]
    for name, column in COLUMNS.items():
        lines.append(f"| `{name}` | {column.unit or ''} | {column.description} |")
    return "\n".join(lines)


def renewed(text: str) -> str:
    """The page with the table as it is today."""
    pattern = r"(?<=<!-- columns -->\n).*?(?=<!-- end -->)"
    return re.sub(pattern, lambda _: columns() + "\n", text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
