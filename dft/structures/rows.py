"""Structures in JSON, CSV and Parquet: of pymatgen, ASE, OPTIMADE, pandas, and in rows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pymatgen.core import Structure

from ccdcgan.dft.structures.archives import VARIABLE, TooLargeError, limit
from ccdcgan.dft.structures.cif import read_cif
from ccdcgan.dft.structures.crystal import (
    FAILED,
    Crystal,
    Passed,
    Skipped,
    crystal_of,
    is_converged,
)
from ccdcgan.dft.structures.decoding import (
    StructureError,
    decode_structure,
    named_type,
    plain_number,
)
from ccdcgan.dft.structures.layouts import of_ase, of_optimade, with_pbc
from ccdcgan.dft.structures.poscar import read_poscar
from ccdcgan.dft.structures.texts import one_line

#: Least bytes of JSON for each list or object, on average: fewer are a way to fill memories.
BYTES_EACH = 25

#: Objects of a file without any structure after which no more is looked for.
MOST_OTHERS = 10_000

#: How deep structures may lie in objects of objects.
DEEPEST = 4

#: Names of what holds a structure in a row.
_STRUCTURE = ("structure", "final_structure", "relaxed_structure", "initial_structure", "atoms")
#: Those of the end of a relaxation.
_LAST = ("final_structure", "relaxed_structure")
_CIF = ("cif", "CIF", "cif_string")

Item = Crystal | Skipped | Passed


def read_json(text: str, name: str, lines: bool = False) -> Iterator[Item]:
    """Structures of JSON or JSON lines.

    What cannot be a structure is refused where it stands in a list with structures, and passed over
    where the file has none.
    """
    if text.count("[") + text.count("{") > max(limit() // BYTES_EACH, 1000):
        raise TooLargeError(
            f"it has more lists and objects than the memory should hold: set {VARIABLE} to allow it"
        )
    values = _lines(text) if lines else _values(text)
    found = False
    others: list[str] = []
    for key, value in values:
        label = name if key is None else f"{name}#{key}"
        if isinstance(value, Skipped):
            yield Skipped(label, value.reason)
            found = True
            continue
        some = False
        for item in _items(value, label, DEEPEST):
            if not found:
                yield from (Skipped(o, "not a structure of a known layout") for o in others)
            found = some = True
            yield item
        if some:
            continue
        if found:
            if not _is_header(value):
                yield Skipped(label, "not a structure of a known layout")
        elif not _is_header(value):
            others.append(label)
            if len(others) > MOST_OTHERS:
                break
    if not found:
        yield Passed(name, "JSON without structures" if text.strip() else "empty")


class _Doubled(dict[str, Any]):
    """An object of JSON in which a name stands twice: which value counts nobody knows."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = Counter(name for name, _ in pairs)
        self.twice = [name for name, count in names.items() if count > 1]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Doubled(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _name_twice(value: Any) -> str | None:
    """A name that stands twice in an object, or in one within it; None where there is none."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, _Doubled):
            return part.twice[0]
        inner = part.values() if isinstance(part, dict) else part
        left += [p for p in inner if isinstance(p, (dict, list))]
    return None


def _values(text: str) -> Iterator[tuple[int | None, Any]]:
    """Values of a list one by one with their numbers, or the only value; or those of lines."""
    begin = _next(text, 0)
    if text[begin : begin + 1] != "[":
        try:
            value, end = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            value, end = Skipped("", _json_reason(error)), len(text)
        if _next(text, end) < len(text) or (isinstance(value, Skipped) and _looks_like_lines(text)):
            yield from _lines(text)
        else:
            yield None, value
        return
    position, number = _next(text, begin + 1), 0
    while text[position : position + 1] != "]":
        try:
            value, position = _DECODER.raw_decode(text, position)
            position = _next(text, position)
            yield number, value
            if text[position : position + 1] == ",":
                position = _next(text, position + 1)
            elif text[position : position + 1] != "]":
                raise ValueError("a comma is missing" if position < len(text) else "it is cut")
        except (ValueError, RecursionError) as error:
            yield number, Skipped("", _json_reason(error))
            return
        number += 1


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(line for line in text.split("\n") if line.strip()):
        try:
            yield number, _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            yield number, Skipped("", _json_reason(error))


def _looks_like_lines(text: str) -> bool:
    """Whether the second line is an object by itself."""
    second = text.strip().split("\n", 2)[1:2]
    try:
        return bool(second) and isinstance(_DECODER.decode(second[0]), dict)
    except (ValueError, RecursionError):
        return False


def _next(text: str, position: int) -> int:
    """Where the next character is that is no space."""
    match = re.compile(r"[ \t\n\r]*").match(text, position)
    return match.end() if match else position


def _json_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "JSON nested too deeply"
    return f"broken JSON: {one_line(error)}"


def _is_header(value: Any) -> bool:
    """Whether it is one of the lines that OPTIMADE begins with."""
    return (isinstance(value, dict) and bool({"x-optimade", "meta"} & value.keys())) or (
        isinstance(value, dict) and value.get("type") in ("info", "references", "links")
    )


def _items(value: Any, label: str, depth: int) -> Iterator[Crystal | Skipped]:
    """Crystals and refusals of a value; none if it is no structure and holds none."""
    if isinstance(value, dict):
        if (table := _table(value)) is not None:
            for i, row in table:
                yield from _items(row, f"{label}#{i}", depth - 1)
        elif _is_row(value):
            yield of_row(value, label)
        elif depth > 0:
            for key, inner in value.items():
                part = f"{label}#{str(key)[:60]}"
                if isinstance(value, _Doubled) and key in value.twice:
                    yield Skipped(part, "stands twice")
                elif isinstance(inner, (dict, list)):
                    yield from _items(inner, part, depth - 1)
    elif isinstance(value, list) and depth > 0 and not _is_array(value):
        for i, inner in enumerate(value):
            yield from _items(inner, f"{label}#{i}", depth - 1)


def _is_array(value: list[Any]) -> bool:
    return bool(value) and not isinstance(value[0], (dict, list))


def _is_row(value: Mapping[str, Any]) -> bool:
    """Whether an object is meant to be a structure."""
    keys = value.keys()
    return (
        "sites" in keys
        or "lattice" in keys
        or any(name in keys for name in (*_STRUCTURE, *_CIF))
        or ("cell" in keys and bool({"positions", "scaled_positions"} & keys))
        or {"numbers", "positions"} <= keys
        or "lattice_vectors" in keys
        or value.get("type") == "structures"
        or ("attributes" in keys and "id" in keys)
        or (bool({"converged", "status"} & keys) and _failed(value))
    )


def _table(value: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]] | None:
    """Rows of a table as pandas writes it by columns, or split into names and data; or None."""
    names = (*_STRUCTURE, *_CIF)
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        keys = [str(c) for c in columns]
        return (
            (i, dict(zip(keys, row, strict=False)))
            for i, row in enumerate(data)
            if isinstance(row, list)
        )
    whole = all(isinstance(v, dict) for v in value.values())
    name = next((n for n in names if n in value), None)
    if whole and name is not None and not {"lattice", "sites"} & value[name].keys():
        return ((key, {c: column.get(key) for c, column in value.items()}) for key in value[name])
    return None


def _failed(row: Mapping[str, Any]) -> bool:
    try:
        return not is_converged(row)
    except StructureError:
        return False


def of_row(row: Mapping[str, Any], label: str) -> Crystal | Skipped:
    """The crystal of an object with a structure in one of the layouts that are known."""
    if name := _name_twice(row):
        return Skipped(label, f"{name[:30]!r} stands twice")
    try:
        found = _structure(row)
    except StructureError as error:
        if _failed(row) and not _holds(row):
            return Skipped(label, FAILED)
        return Skipped(label, str(error))
    except Exception as error:  # noqa: BLE001  pymatgen raises many kinds on wrong numbers
        return Skipped(label, one_line(error))
    if isinstance(found, Structure):
        return crystal_of(label, found, row)
    if isinstance(found, Skipped):
        return Skipped(label, found.reason)
    return crystal_of(label, found.structure, row, found.warning)


def _holds(row: Mapping[str, Any]) -> bool:
    return any(row.get(name) is not None for name in (*_STRUCTURE, *_CIF))


def _structure(row: Mapping[str, Any]) -> Structure | Crystal | Skipped:
    """What a row holds: the structure, or what became of the text that it is in."""
    if "sites" in row or "lattice" in row:
        lattice = row.get("lattice")
        pbc = lattice.get("pbc") if isinstance(lattice, Mapping) else None
        return with_pbc(decode_structure(row), pbc)
    unfinished = any(name in row for name in _LAST)
    for name in _STRUCTURE:
        # An initial geometry has not the energy of a final one that is lacking.
        value = None if unfinished and name == "initial_structure" else row.get(name)
        if isinstance(value, str):
            return _of_text(value)
        if isinstance(value, Mapping):
            return _structure(value)
        if value is not None:
            raise StructureError(f"{name} is {named_type(value)}, not a structure")
    for name in _CIF:
        if isinstance(row.get(name), str):
            return _of_text(row[name])
    if isinstance(row.get("attributes"), Mapping):
        return of_optimade(row["attributes"])
    if "lattice_vectors" in row:
        return of_optimade(row)
    if "cell" in row or "positions" in row:
        return of_ase(row)
    raise StructureError(f"a row without {'final ' if unfinished else ''}structure")


def _of_text(text: str) -> Structure | Crystal | Skipped:
    """A structure in a column of text: JSON, CIF or POSCAR."""
    if not text.strip():
        raise StructureError("a row without structure")
    if text.lstrip().startswith("{"):
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            raise StructureError(_json_reason(error)) from None
        return _structure(value)
    items = read_cif(text, "") if "_cell_length_a" in text else read_poscar(text, "")
    found = [item for item in items if not isinstance(item, Passed)]
    if len(found) > 1:
        raise StructureError(f"{len(found)} structures in one text: give each a row")
    return found[0]


def read_csv(text: str, name: str) -> Iterator[Item]:
    """Rows of a table that has a column of structures in CIF, POSCAR or JSON."""
    rows = _csv_rows(text)
    columns = next(rows, None)
    if columns is None or not set(columns) & {*_STRUCTURE, *_CIF}:
        yield Passed(name, "a table without a column of structures")
        return
    for i, row in enumerate(_csv_rows(text)):
        yield of_row({k: _typed(v) for k, v in row.items()}, f"{name}#{i}")


def csv_numbers(text: str) -> dict[str, dict[str, Any]]:
    """Rows of a table by what stands in their column ``file``, in which archives list CIF files."""
    rows = ({k: _typed(v) for k, v in row.items()} for row in _csv_rows(text))
    return {str(row["file"]): row for row in rows if row.get("file")}


def _csv_rows(text: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(10**8)
    head = text.split("\n", 1)[0]
    delimiter = next((d for d in (",", ";", "\t") if d in head), ",")
    known = {name.lower(): name for name in (*_STRUCTURE, *_CIF)}
    try:
        rows = csv.reader(io.StringIO(text), delimiter=delimiter)
        names = [name.strip() for name in next(rows, [])]
        names = [known.get(name.lower(), name) for name in names]
        if twice := [name for name, count in Counter(names).items() if name and count > 1]:
            raise StructureError(f"the column {twice[0][:30]!r} stands twice")
        for row in rows:
            if row:
                yield dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise StructureError(f"not CSV: {one_line(error)}") from None


def _typed(value: Any) -> Any:
    """The number that a text is, or the text."""
    number = plain_number(value) if isinstance(value, str) else None
    return value if number is None else number


def read_parquet(content: bytes, name: str) -> Iterator[Item]:
    """Rows of Parquet."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        yield Skipped(name, "Parquet needs a package: pip install 'ccdcgan[parquet]'")
        return
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        size = sum(
            file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)
        )
        if size > limit() or file.metadata.num_rows > limit() // 100:
            raise TooLargeError(f"it unpacks to more than {VARIABLE} allows")
        number = 0
        for batch in file.iter_batches(batch_size=500):
            for row in batch.to_pylist():
                if not _is_row(row) and not number:
                    yield Passed(name, f"a table without a column of structures ({_listed(row)})")
                    return
                yield of_row(row, f"{name}#{number}")
                number += 1
    except TooLargeError:
        raise
    except Exception as error:  # noqa: BLE001  pyarrow raises kinds of its own
        yield Skipped(name, one_line(error))


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(str(n)[:30] for n in list(names)[:8])
