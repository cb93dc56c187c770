"""Tables of the documentation that follow from the code: python docs/tables.py writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ccdcgan.launchers.results.columns import COLUMNS
from ccdcgan.workflows.campaign import Campaign

HERE = Path(__file__).parent

#: Keys of which each kind has keys of its own, and the pages that tell them.
KINDS = {
    "relaxation.engine": "[engines](engines.md), [DFT codes](dft.md)",
    "confirm.relaxation": "as `relaxation`",
}


def columns() -> str:
    """The columns of a phase."""
    lines = ["| column | unit | what |", "|---|---|---|"]
    for name, column in COLUMNS.items():
        lines.append(f"| `{name}` | {column.unit or ''} | {column.description} |")
    return "\n".join(lines)


def keys() -> str:
    """The keys of a campaign file."""
    lines = ["| key | default | what |", "|---|---|---|"]
    for name, default, what in _keys(Campaign, Campaign(), ""):
        lines.append(f"| `{name}` | {default} | {what} |")
    return "\n".join(lines)


def _keys(model: type[BaseModel], default: Any, above: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        key, value = f"{above}{name}", getattr(default, name, None)
        if field.exclude or key == "written":
            continue
        kinds = [k for k in (field.annotation, *get_args(field.annotation)) if _is_model(k)]
        if key in KINDS:
            yield key, "" if value is None else _shown(value), KINDS[key]
        elif len(kinds) == 1:
            if value is None:
                yield key, "null", field.description or ""
            yield from _keys(kinds[0], value or kinds[0].model_construct(), f"{key}.")
        else:
            yield key, _shown(value), (field.description or "").replace("|", "\\|")


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown(value: Any) -> str:
    """A default as a file would have it."""
    value = to_jsonable_python(value)
    return f"`{json.dumps(value)}`".replace("`null`", "null").replace('`"', "`").replace('"`', "`")


#: The tables of the pages, by the names between which they stand.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "numbers.md": {"columns": columns},
    "campaigns.md": {"keys": keys},
}


def renewed(text: str, page: str) -> str:
    """A page with its tables as they are today."""
    for name, table in TABLES[page].items():
        before, found, rest = text.partition(f"<!-- {name} -->\n")
        assert found, f"{page} has no place for {name}"
        text = f"{before}{found}{table()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


if __name__ == "__main__":
    for page in TABLES:
        path = HERE / page
        path.write_text(renewed(path.read_text(encoding="utf-8"), page), encoding="utf-8")
