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
from numpy.typing import ArrayLike, NDArray
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


#: How far a cell's lengths may be from its space group's, as a share; for angles 1 degree.
METRIC = 0.02


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
    return group_of(_symbols()[plain][0])


def settings_of(name: int | str) -> tuple[int, ...]:
    """Hall numbers (1 to 530) of the settings that a number or symbol can mean, the usual first.

    A symbol is that of Hermann and Mauguin, with or without the code of its setting as in
    F d -3 m :2. None where there is no such space group.
    """
    text = str(name).strip()
    if re.fullmatch(r"\d+(\.0*)?", text):
        number = int(float(text))
        return tuple(hall for hall in range(1, 531) if group_of(hall) == number)
    # The Inorganic Crystal Structure Database writes origin choices as S and Z.
    base, _, code = re.sub("(?<=[^:])([sz])$", r":\1", _plain(text)).partition(":")
    whole = _symbols().get(base, ())
    code = {"s": "1", "z": "2"}.get(code, code)
    chosen = tuple(hall for hall in whole if _kind(hall).choice.lower() == code)
    # Some write F m -3 m :1, though it has one origin.
    alone = code == "1" and not any(origin_choice(hall) for hall in whole)
    return whole if not code or alone else chosen


def hall_settings(symbol: str) -> tuple[int, ...]:
    """Hall numbers of the settings that Hall's symbol means; none where it is not known."""
    return _hall_symbols().get(_plain(symbol), ())


def group_of(hall: int) -> int:
    """Number of the space group of a setting."""
    number: int = _kind(hall).number
    return number


def group_of_operations(rotations: ArrayLike, translations: ArrayLike) -> int | None:
    """Number of the space group of operations on fractional coordinates; None of no group."""
    turns = np.round(np.asarray(rotations, float)).astype("intc")
    if not np.isin(np.round(np.linalg.det(turns)), (-1, 1)).all():
        return None
    try:
        # Thirds are often written with four digits.
        kind: Any = spglib.get_spacegroup_type_from_symmetry(turns, translations, symprec=0.001)
    except spglib.SpglibError:
        return None
    return None if kind is None else int(kind.number)


@cache
def operations(hall: int) -> tuple[tuple[str, ...], NDArray[np.int_]]:
    """Symmetry operations of a setting, as x,y,z and as matrices (n, 3, 3)."""
    from pymatgen.core.operations import SymmOp

    found: Any = spglib.get_symmetry_from_database(hall)
    pairs = zip(found["rotations"], found["translations"], strict=True)
    named = (SymmOp.from_rotation_and_translation(r, t).as_xyz_str() for r, t in pairs)
    return tuple(named), found["rotations"]


def origin_choice(hall: int) -> str | None:
    """Origin choice of a setting, 1 or 2; None where its space group has no two of them."""
    choice: str = _kind(hall).choice
    return choice[0] if choice[:1] in ("1", "2") else None


def keep_metric(rotations: ArrayLike, matrix: ArrayLike) -> bool:
    """Whether matrices (n, 3, 3) leave the lengths and angles of a cell as they are.

    Parameters
    ----------
    rotations
        How operations turn fractional coordinates.
    matrix
        Lattice vectors (3, 3) as rows, Å.
    """
    turns, vectors = np.asarray(rotations, float), np.asarray(matrix, float)
    metric = vectors @ vectors.T
    turned = np.einsum("nji,jk,nkl->nil", turns, metric, turns)
    lengths = np.sqrt(np.diag(metric))
    return bool((np.abs(turned - metric) <= METRIC * np.outer(lengths, lengths)).all())


@cache
def _kind(hall: int) -> Any:
    return spglib.get_spacegroup_type(hall)


@cache
def _symbols() -> dict[str, tuple[int, ...]]:
    """Hall numbers by the Hermann-Mauguin symbols of all settings."""
    found: dict[str, tuple[int, ...]] = {}
    for hall in range(1, 531):
        kind = _kind(hall)
        usual = hall == 1 or _kind(hall - 1).number != kind.number
        names = kind.international.split("=")
        # P 2_1/c stands for P 1 2_1/c 1 alone.
        symbols = {names[-1]}
        if usual:
            symbols |= {names[0], kind.international_short, kind.international_full}
        if kind.number in groups_of("monoclinic"):
            # P 1 2_1/n 1 is written as P2_1/n.
            symbols |= {"".join(p for p in symbol.split() if p != "1") for symbol in symbols}
        if kind.number in groups_of("cubic"):
            # F m -3 m was written as F m 3 m.
            symbols |= {symbol.replace("-3", "3") for symbol in symbols}
        for plain in {_plain(symbol) for symbol in symbols}:
            coded = [_plain(plain + kind.choice)] if kind.choice in ("H", "R") else []
            for name in (plain, *coded):
                found[name] = (*found.get(name, ()), hall)
    for symbol, number in FORMER.items():
        found.setdefault(_plain(symbol), found[_plain(short_symbol(number))])
    return found


@cache
def _hall_symbols() -> dict[str, tuple[int, ...]]:
    """Hall numbers by Hall's symbols."""
    found: dict[str, tuple[int, ...]] = {}
    for hall in range(1, 531):
        name = _plain(_kind(hall).hall_symbol)
        found[name] = (*found.get(name, ()), hall)
    return found


def _plain(symbol: str) -> str:
    return re.sub(r"[\s_]", "", symbol).replace("\u2212", "-").lower()


def named(number: int) -> str:
    """A space group for people, as R-3m (166)."""
    return f"{short_symbol(number)} ({number})"


@cache
def short_symbol(number: int) -> str:
    """Short Hermann-Mauguin symbol of a space group's usual setting, as R-3m."""
    symbol: str = _kind(settings_of(number)[0]).international_short
    return symbol


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
