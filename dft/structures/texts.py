"""Structures in extended XYZ, and what all readers of texts share."""

from __future__ import annotations

import io
import math
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.crystal import Crystal, Skipped, crystal_of
from ccdcgan.dft.structures.decoding import MOST_ATOMS, StructureError, numbers_of
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
    # A minus sign of typography is one, too.
    match = _NUMBER.fullmatch(text.strip().replace("\u2212", "-"))
    if match is None or not math.isfinite(float(match[1])):
        raise StructureError(f"{name} is {text[:30]!r}, which is no number")
    return float(match[1])


_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\(\d*\)?)?")


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


def _of_frame(lines: list[str], label: str) -> Crystal | Skipped:
    from ase.io.extxyz import read_xyz

    if len(lines) - 2 > MOST_ATOMS:
        return Skipped(label, f"more than {MOST_ATOMS} atoms")
    # ASE makes room for as many columns as the header says.
    said = sum(int(n) for n in re.findall(r"[A-Za-z]:(\d+)", _properties(lines[1])))
    if said > (columns := max(len(line.split()) for line in lines[2:])):
        return Skipped(label, f"its Properties are of {said} columns, its lines have {columns}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms = next(iter(read_xyz(io.StringIO("\n".join(lines) + "\n"), slice(0, 1))))
    cell = atoms.cell.array
    if not np.isfinite(cell).all() or not np.isfinite(atoms.positions).all():
        return Skipped(label, "cell or coordinates not finite")
    if atoms.cell.rank != 3:
        return Skipped(label, "no cell" if not cell.any() else "a cell without volume")
    structure = Structure(
        Lattice(cell), atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True
    )
    results = atoms.calc.results if atoms.calc else {}
    moments = results.get("magmoms", atoms.arrays.get("initial_magmoms"))
    if moments is not None:
        shape = (-1, 3) if np.ndim(moments) == 2 else (-1,)
        structure = with_moments(structure, numbers_of(moments, shape, "magnetic moments").tolist())
    row: dict[str, Any] = {"data": results, **atoms.info}
    warning = None if atoms.pbc.all() else "not periodic in all directions: read as if it were"
    return crystal_of(label, structure, row, warning)


def _frame_reason(error: Exception) -> str:
    if isinstance(error, KeyError) and str(error).strip("'\"").isalpha():
        return f"no element {error!s}"
    if "Singular matrix" in str(error):
        return "a cell without volume"
    return one_line(error)
