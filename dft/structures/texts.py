"""Structures in extended XYZ, and what all readers of texts share."""

from __future__ import annotations

import io
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from ccdcgan.dft.structures.crystal import Crystal, Skipped, crystal_of
from ccdcgan.dft.structures.decoding import (
    MOST_ATOMS,
    StructureError,
    numbers_of,
    plain_number,
)
from ccdcgan.dft.structures.moments import with_moments


def one_line(error: BaseException | str, secret: str = "") -> str:
    """An error as one line of at most 200 characters; without a secret."""
    text = " ".join(str(error).split())
    if not text:
        text = type(error).__name__ if isinstance(error, BaseException) else "no reason given"
    elif isinstance(error, KeyError):
        text = f"{text} is missing"
    if secret:
        text = text.replace(secret, "***")
    return text[:200]


def as_text(content: bytes) -> str:
    """Text of whatever encoding, with plain ends of lines.

    Raises
    ------
    StructureError
        It is no text.
    """
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            text = content.decode(encoding, "replace")
            break
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
    if "\0" in text:
        raise StructureError("it is binary, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def number_in(text: str, name: str) -> float:
    """The finite number in a text, without its uncertainty as in 1.234(5).

    Raises
    ------
    StructureError
        It is none; the text names what it should be.
    """
    if text in ("?", "."):
        raise StructureError(f"{name} is {text!r}: it was not determined")
    number = plain_number(re.sub(r"\(\d*\)?$", "", text))
    if number is None:
        raise StructureError(f"{name} is {text[:30]!r}, which is no number")
    return number


def counts_in(line: str) -> list[int] | None:
    """The whole numbers that a line is of, or None."""
    parts = line.split()
    return (
        [int(p) for p in parts]
        if parts and all(re.fullmatch(r"\d{1,9}", p) for p in parts)
        else None
    )


#: The comment line of an extended XYZ frame.
_COMMENT = re.compile(r"\b(Lattice|Properties)\s*=", re.I)


def read_extxyz(text: str, name: str) -> Iterator[Crystal | Skipped]:
    """All frames, each by itself: a bad one says what is wrong with it."""
    lines = text.split("\n")
    starts = [
        i
        for i in range(len(lines) - 1)
        if re.fullmatch(r"\s*\d+\s*", lines[i]) and _COMMENT.search(lines[i + 1])
    ]
    position = number = 0
    while position < len(lines):
        if not lines[position].strip():
            position += 1
            continue
        later = starts[i] if (i := bisect_right(starts, position)) < len(starts) else len(lines)
        count = counts_in(lines[position])
        end = position + 2 + (count[0] if count and len(count) == 1 else 0)
        if position + 2 < end <= later and not _is_row(lines[end : end + 1], lines[end - 1]):
            label = f"{name}#{number}"
            try:
                yield _of_frame(lines[position:end], label)
            except Exception as error:  # noqa: BLE001  ASE's parser raises many kinds
                yield Skipped(label, _frame_reason(error))
        else:
            # What follows belongs to this frame, up to the next line that must begin one.
            end = later
            rows = sum(bool(line.strip()) for line in lines[position + 2 : end])
            reason = "no number of atoms where a frame should begin"
            if count and len(count) == 1:
                reason = f"says {count[0]} atoms, has {rows}"
            yield Skipped(f"{name}#{number}", reason)
        position = end
        number += 1


def _is_row(following: list[str], last: str) -> bool:
    """Whether a frame goes on after its last atom: with a line of as many columns."""
    columns = len(last.split())
    return columns > 1 and any(len(line.split()) == columns for line in following)


def _properties(comment: str) -> str:
    """What a frame's header says of its columns, as in species:S:1:pos:R:3."""
    found = re.search(r"Properties\s*=\s*[\"'{]?([^\s\"'}]+)", comment, re.IGNORECASE)
    return found[1] if found else ""


def _columns(lines: list[str]) -> list[tuple[str, int]]:
    """Names and widths of a frame's columns."""
    found = re.findall(r"([^:]+):[A-Za-z]:(\d+):?", _properties(lines[1]))
    return [(name, int(width)) for name, width in found] or [("species", 1), ("pos", 3)]


def _header_fault(lines: list[str]) -> str | None:
    """Why a frame's header does not belong to its lines, or None."""
    columns = _columns(lines)
    names = [name for name, _ in columns]
    for wanted in (("species", "symbols", "Z", "numbers"), ("pos", "positions")):
        if not set(wanted) & set(names):
            return f"its Properties have no {wanted[0]}, only {', '.join(names[:8])[:80]}"
    # ASE makes room for as many columns as the header says.
    said, least = sum(width for _, width in columns), min(len(line.split()) for line in lines[2:])
    if said > (most := max(len(line.split()) for line in lines[2:])):
        return f"its Properties are of {said} columns, its lines have {most}"
    if said > least:
        return f"its Properties are of {said} columns, one of its lines has {least}"
    if (width := next(w for name, w in columns if name in ("pos", "positions"))) != 3:
        return f"its pos has {width} columns, not 3"
    # What stands in quotes or brackets has signs of its own.
    keys = re.findall(
        r"([^\s=]+)\s*=", re.sub(r"\"[^\"]*\"|'[^']*'|[{\[][^}\]]*[}\]]", "_", lines[1])
    )
    twice = next((key for key in keys if keys.count(key) > 1), None)
    return None if twice is None else f"its header has {twice[:30]} twice"


def _with_elements(lines: list[str]) -> list[str]:
    """The lines of a frame with isotopes of hydrogen as hydrogen.

    Raises
    ------
    StructureError
        A species is no element.
    """
    columns = _columns(lines)
    names = [name for name, _ in columns]
    name = next((n for n in ("species", "symbols") if n in names), None)
    if name is None:
        return lines
    place = sum(width for _, width in columns[: names.index(name)])
    rows = [line.split() for line in lines[2:]]
    for row in rows:
        symbol = row[place].capitalize()
        if not Element.is_valid_symbol(symbol):
            raise StructureError(f"no element {row[place][:20]!r}")
        row[place] = "H" if symbol in ("D", "T") else symbol
    return [*lines[:2], *map(" ".join, rows)]


def _of_frame(lines: list[str], label: str) -> Crystal | Skipped:
    from ase.io.extxyz import read_xyz

    if len(lines) - 2 > MOST_ATOMS:
        return Skipped(label, f"more than {MOST_ATOMS} atoms")
    if reason := _header_fault(lines):
        return Skipped(label, reason)
    lines = _with_elements(lines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms = next(iter(read_xyz(io.StringIO("\n".join(lines) + "\n"), slice(0, 1))))
    cell = atoms.cell.array
    if not np.isfinite(cell).all() or not np.isfinite(atoms.positions).all():
        return Skipped(label, "cell or coordinates not finite")
    if atoms.cell.rank != 3:
        return Skipped(label, "no cell" if not cell.any() else "a cell without volume")
    structure = Structure(
        Lattice(cell, pbc=tuple(atoms.pbc)),
        atoms.get_chemical_symbols(),
        atoms.positions,
        coords_are_cartesian=True,
    )
    results = atoms.calc.results if atoms.calc else {}
    moments = results.get("magmoms", atoms.arrays.get("initial_magmoms"))
    if moments is not None:
        shape = (-1, 3) if np.ndim(moments) == 2 else (-1,)
        structure = with_moments(structure, numbers_of(moments, shape, "magnetic moments").tolist())
    row: dict[str, Any] = {"data": results, **atoms.info}
    return crystal_of(label, structure, row)


def _frame_reason(error: Exception) -> str:
    if "info item Lattice" in str(error):
        return "its Lattice is not of nine numbers"
    if "Singular matrix" in str(error):
        return "a cell without volume"
    return one_line(error)
