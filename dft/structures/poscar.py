"""Structures in POSCAR of VASP 5 or later; every line is what it should be, or none is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure

from ccdcgan.dft.structures.crystal import Crystal, Skipped, crystal_of
from ccdcgan.dft.structures.decoding import MOST_ATOMS, StructureError
from ccdcgan.dft.structures.texts import counts_in, number_in, one_line


def read_poscar(text: str, name: str) -> Iterator[Crystal | Skipped]:
    """The one structure of a POSCAR."""
    try:
        structure = _structure(text.rstrip().split("\n"))
    except Exception as error:  # noqa: BLE001  pymatgen raises many kinds on wrong numbers
        yield Skipped(name, one_line(error))
    else:
        yield crystal_of(name, structure, {})


def _structure(lines: Sequence[str]) -> Structure:
    if len(lines) < 7:
        raise StructureError(f"not POSCAR: {len(lines)} lines")
    matrix, factors = _lattice(lines[1:5])
    begin = 5
    while begin < min(len(lines), 30) and re.match(r"\s*[A-Za-z]", lines[begin]):
        begin += 1
    # Long lists of elements go on in a second line, and so do their numbers.
    after = begin + max(1, begin - 5)
    counts = [n for line in lines[begin:after] for n in counts_in(_bare(line)) or []]
    if not counts:
        line = _bare(lines[begin])[:40] if begin < len(lines) else ""
        raise StructureError(f"line {begin + 1} should have the numbers of atoms: {line!r}")
    total = sum(counts)
    if total > MOST_ATOMS:
        raise StructureError(f"more than {MOST_ATOMS} atoms")
    flags = _first(lines, after) in ("s", "S")
    mode = after + flags
    if not re.match(r"\s*[A-Za-z]", lines[mode] if mode < len(lines) else ""):
        raise StructureError("no line Direct or Cartesian before the coordinates")
    if "configuration=" in lines[mode]:
        raise StructureError("an XDATCAR with many structures: write it as extxyz by ase convert")
    rows = [line.split() for line in lines[mode + 1 : mode + 1 + total]]
    good = next((i for i, row in enumerate(rows) if len(row) < 3), len(rows))
    if good < total:
        raise StructureError(f"says {total} atoms, has {good} lines of coordinates")
    _check_rest(lines[mode + 1 + total :], total)
    species = _species(lines[5:begin], counts, [row[6 if flags else 3 :] for row in rows])
    coordinates = np.array([[_number(part) for part in row[:3]] for row in rows])
    if _first(lines, mode) in "cCkK":
        return Structure(Lattice(matrix), species, coordinates * factors, coords_are_cartesian=True)
    return Structure(Lattice(matrix), species, coordinates)


def _bare(line: str) -> str:
    """A line without its comment."""
    return re.split("[!#]", line, maxsplit=1)[0].strip()


def _first(lines: Sequence[str], number: int) -> str:
    return lines[number].strip()[:1] if number < len(lines) else ""


def _number(part: str) -> float:
    # Fortran writes 1.8D0.
    return number_in(re.sub("[dD]", "e", part), "a coordinate or lattice vector")


def _lattice(lines: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lattice vectors (3, 3), Å, and what Cartesian coordinates are multiplied by."""
    try:
        scale, *vectors = ([_number(part) for part in _bare(line).split()] for line in lines)
    except StructureError:
        raise StructureError("not POSCAR: lines 2 to 5 are no scale and lattice") from None
    if len(scale) not in (1, 3) or any(len(vector) != 3 for vector in vectors):
        raise StructureError("not POSCAR: lines 2 to 5 are no scale and lattice")
    matrix, factors = np.array(vectors), np.array(scale)
    if len(scale) == 1 and scale[0] < 0:
        # It is minus the volume of the cell, Å³.
        volume = abs(float(np.linalg.det(matrix)))
        if volume < 1e-12:
            raise StructureError("a cell without volume")
        factors = np.array([(-scale[0] / volume) ** (1 / 3)])
    if factors.min() <= 0:
        raise StructureError("a scaling factor that is not above 0")
    return matrix * factors, factors


def _species(
    lines: Sequence[str], counts: Sequence[int], ends: Sequence[Sequence[str]]
) -> list[str]:
    """The element of each atom: from the line of symbols, or from the ends of the rows."""
    # Files of VASP's own potentials have names as Bi_d/3ab4.
    symbols = [re.split("[_/]", part)[0] for line in lines for part in _bare(line).split()]
    own = [_element(end[0]) if end else None for end in ends]
    if not symbols:
        named = [element for element in own if element is not None]
        if len(named) < len(own):
            raise StructureError("no element symbols: VASP 4 format")
        return named
    if len(symbols) != len(counts):
        raise StructureError(f"{len(symbols)} elements, but {len(counts)} numbers of atoms")
    for symbol in symbols:
        if _element(symbol) is None:
            raise StructureError(f"no element {symbol[:20]!r}")
    species = [str(_element(s)) for s, n in zip(symbols, counts, strict=True) for _ in range(n)]
    # T and F are flags of selective dynamics.
    for i, (element, other, end) in enumerate(zip(species, own, ends, strict=True)):
        if other not in (None, element) and end[0] not in ("T", "F"):
            raise StructureError(
                f"atom {i} is {element} by the line of elements, {other} by its own"
            )
    return species


def _element(text: str) -> str | None:
    symbol = text.capitalize()
    return symbol if Element.is_valid_symbol(symbol) else None


def _check_rest(lines: Sequence[str], total: int) -> None:
    """Refuse what follows the coordinates and is no part of one structure, as velocities are."""
    if lines and len(_numbers(lines[0])) >= 3:
        raise StructureError(f"says {total} atoms, has more lines of coordinates")
    for i in range(len(lines) - 5):
        scale, *vectors = (_numbers(line) for line in lines[i : i + 4])
        ends = [counts_in(_bare(line)) for line in lines[i + 4 : i + 6]]
        is_lattice = len(scale) in (1, 3) and all(len(vector) == 3 for vector in vectors)
        if is_lattice and (ends[0] or (ends[1] and re.match(r"\s*[A-Z]", lines[i + 4]))):
            raise StructureError("more than one structure: give each a file of its own")


def _numbers(line: str) -> list[float]:
    try:
        return [float(part) for part in line.split()]
    except ValueError:
        return []
