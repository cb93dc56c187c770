"""Compositions that are asked for: formulas as numbers of atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.systems import composition_of


def elements_of_formula(formula: str) -> list[str]:
    """Symbols of the elements of a formula such as ``Bi2Se3``.

    Raises
    ------
    UserError
        It is no formula of elements.
    """
    return list(_amounts(formula))


def atoms_of(formula: str, elements: Sequence[str]) -> list[int]:
    """Numbers of atoms of each element in one unit of a formula such as ``Bi2Se3``.

    Raises
    ------
    UserError
        It is no formula, has other elements than the system, or lacks one of them.
    """
    amounts = _amounts(formula)
    system = "-".join(elements)
    if foreign := sorted(set(amounts) - set(elements)):
        raise UserError(f"{formula}: {', '.join(foreign)} is not in {system}")
    if lacking := [e for e in elements if e not in amounts]:
        raise UserError(
            f"{formula} lacks {', '.join(lacking)}: what is generated holds every element of "
            f"{system}"
        )
    return [round(amounts[e]) for e in elements]


def _amounts(formula: str) -> dict[str, float]:
    """Numbers of atoms in one unit of a formula, or a `UserError`."""
    amounts = {element.symbol: n for element, n in composition_of(formula).items()}
    whole = [round(n) for n in amounts.values()]
    if not np.allclose(whole, list(amounts.values())):
        raise UserError(f"{formula!r} is no formula such as Bi2Se3: give whole numbers")
    # pymatgen reduces some formulas otherwise: NaO to Na2O2, as a peroxide.
    return {symbol: n / math.gcd(*whole) for symbol, n in amounts.items()}


def multiples(
    formulas: Sequence[str], elements: Sequence[str], most: int, fewest: int = 1
) -> list[list[int]]:
    """Numbers of atoms of each element in all cells of formulas from `fewest` to `most` atoms.

    Raises
    ------
    UserError
        As of `atoms_of`, or no cell of a formula has as many atoms.
    """
    found: dict[tuple[int, ...], None] = {}
    for formula in formulas:
        one = atoms_of(formula, elements)
        units = range(math.ceil(fewest / sum(one)), most // sum(one) + 1)
        if not units:
            wanted = f"more than {most}" if sum(one) > most else f"never {fewest} to {most}"
            raise UserError(f"{formula}: {sum(one)} atoms are {wanted}")
        found |= dict.fromkeys(tuple(n * k for n in one) for k in units)
    return [list(counts) for counts in found]
