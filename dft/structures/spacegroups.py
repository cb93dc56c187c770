"""Space groups that are asked for: their names, and which compositions fit them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import combinations
from typing import Any, Literal

import numpy as np
import spglib
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import did_you_mean, shown
from ccdcgan.dft.structures.moments import with_moments
from ccdcgan.dft.structures.symmetry import TOLERANCES, space_group_number

CrystalSystem = Literal[
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"
]

#: Numbers of all space groups.
ALL_GROUPS = range(1, 231)

#: First and last space group of each crystal system.
SYSTEMS: dict[CrystalSystem, tuple[int, int]] = {
    "triclinic": (1, 2),
    "monoclinic": (3, 15),
    "orthorhombic": (16, 74),
    "tetragonal": (75, 142),
    "trigonal": (143, 167),
    "hexagonal": (168, 194),
    "cubic": (195, 230),
}

#: Symbols that the International Tables had before e stood for two glide planes.
FORMER = {"Abm2": 39, "Aba2": 41, "Cmca": 64, "Cmma": 67, "Ccca": 68}


def groups_of(system: CrystalSystem) -> range:
    """Numbers of the space groups of a crystal system."""
    first, last = SYSTEMS[system]
    return range(first, last + 1)


def number_of(name: int | str) -> int:
    """Number of a space group in the International Tables, from itself or a symbol as R-3m.

    Raises
    ------
    ValueError
        There is none; the text says so.
    """
    text = str(name).strip()
    if re.fullmatch(r"\d{1,4}", text):
        if not 1 <= int(text) <= 230:
            raise ValueError(f"there is no space group {text}: they are numbered from 1 to 230")
        return int(text)
    plain = _plain(text)
    if plain not in _symbols():
        raise ValueError(
            f"{shown(name)} is no space group such as 166 or R-3m"
            f"{did_you_mean(plain, _symbols(), 0.8)}"
        )
    return _symbols()[plain]


@cache
def _symbols() -> dict[str, int]:
    """Numbers by the Hermann-Mauguin symbols of all settings."""
    found = {_plain(symbol): number for symbol, number in FORMER.items()}
    for hall in range(1, 531):
        kind: Any = spglib.get_spacegroup_type(hall)
        for symbol in (kind.international_short, *kind.international.split("=")):
            found.setdefault(_plain(symbol), kind.number)
            if kind.number in groups_of("monoclinic"):
                # P 1 2_1/n 1 is written as P2_1/n.
                short = "".join(part for part in symbol.split() if part != "1")
                found.setdefault(_plain(short), kind.number)
    return found


def _plain(symbol: str) -> str:
    return re.sub(r"[\s_]", "", symbol).lower()


def named(number: int) -> str:
    """A space group for people, as R-3m (166)."""
    return f"{_standard_symbols()[number]} ({number})"


@cache
def _standard_symbols() -> dict[int, str]:
    """Short Hermann-Mauguin symbols of the standard settings by number."""
    found: dict[int, str] = {}
    for hall in range(1, 531):
        kind: Any = spglib.get_spacegroup_type(hall)
        found.setdefault(kind.number, kind.international_short)
    return found


def spacegroup(structure: Structure, tolerance: float = TOLERANCES[0]) -> str:
    """Symbol and number of a crystal's space group within a tolerance (Å), as R-3m (166).

    Magnetic moments do not count.
    """
    return named(_number(structure, tolerance))


def in_groups(structure: Structure, groups: Collection[int]) -> bool:
    """Whether a structure has one of these space groups within 0.1 Å; any, where there are none."""
    return not groups or _number(structure, TOLERANCES[0]) in groups


def _number(structure: Structure, tolerance: float) -> int:
    return space_group_number(with_moments(structure, None), tolerance)


def fits(group: int, counts: Sequence[int]) -> bool:
    """Whether sites of a space group can take so many atoms of each element in a primitive cell.

    Raises
    ------
    UserError
        PyXtal is not there.
    """
    require_pyxtal()
    pyxtal = _group(group)
    # Wyckoff multiplicities are those of the conventional cell.
    return bool(pyxtal.check_compatible([n * pyxtal.cellsize() for n in counts])[0])


def require_pyxtal() -> None:
    """Raise a `UserError` where PyXtal is not there."""
    if find_spec("pyxtal") is None:
        raise UserError(
            "space groups and random crystals need PyXtal: pip install 'ccdcgan[random]'"
        )


@cache
def _group(number: int) -> Any:
    from pyxtal.symmetry import Group

    return Group(number, quick=False)


def all_counts(elements: int, fewest: int, most: int) -> Iterator[list[int]]:
    """Numbers of atoms of so many elements in all cells from `fewest` to `most` atoms."""
    for total in range(max(fewest, elements), most + 1):
        for cuts in combinations(range(1, total), elements - 1):
            yield np.diff([0, *cuts, total]).tolist()
