"""Chemical systems, formulas, and the volumes of elements' atoms."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from pymatgen.core import Composition, Element

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import shown

#: Names of hydrogen that pymatgen takes for elements of their own.
ISOTOPES = ("D", "T")

#: Numbers as they are printed in formulas.
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

#: Longest text of symbols that a hint is looked for.
LONGEST = 20

#: Most elements of a system: all systems of fewer of them are relaxed for the hull.
MOST_ELEMENTS = 8


def parse_system(system: Any) -> list[str]:
    """Element symbols of a system, in the order given.

    Parameters
    ----------
    system
        A text such as ``Bi-Se``, or the symbols; what a file holds in their place is refused.

    Raises
    ------
    UserError
        An unknown or repeated element, an isotope, fewer than two elements or more than
        `MOST_ELEMENTS`.
    """
    if isinstance(system, str):
        system = system.replace("–", "-").split("-")
    if not isinstance(system, Sequence) or not all(isinstance(s, str) for s in system):
        raise UserError("the system is a text of elements, as in Bi-Se")
    symbols = [s.strip() for s in system if s.strip()]
    for symbol in symbols:
        if symbol in ISOTOPES:
            raise UserError(f"{symbol} is hydrogen, whatever its isotope: write H in the system")
        require_element(symbol, " in the system: write it as in Bi-Se")
    if len(set(symbols)) != len(symbols):
        raise UserError(f"an element occurs twice in the system {'-'.join(symbols)}")
    if not 2 <= len(symbols) <= MOST_ELEMENTS:
        raise UserError(
            f"the system {'-'.join(symbols) or '(empty)'} needs at least two elements, as in "
            f"Bi-Se, and at most {MOST_ELEMENTS}"
        )
    return symbols


def electronegativity(symbol: str) -> float:
    """Pauling's electronegativity of an element; 0 where it has none: He, Ne, Ar and others.

    pymatgen's own is NaN there, with which no maximum and no order is one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = float(Element(symbol).X)
    return 0.0 if math.isnan(known) else known


def electronegativity_range(composition: Composition) -> float:
    """Largest difference of electronegativities of a composition's elements that have one."""
    known = [x for element in composition if (x := electronegativity(element.symbol))]
    return max(known) - min(known) if known else 0.0


def composition_of(formula: str) -> Composition:
    """Composition of a formula such as ``Bi2Se3``, whose numbers may be subscripts.

    Raises
    ------
    UserError
        It is no formula of elements; one line, with what may be meant.
    """
    plain = formula.translate(SUBSCRIPTS).strip()
    try:
        found = Composition(plain)
        # pymatgen takes isotopes for hydrogen.
        has_isotopes = any(s in ISOTOPES for s in re.findall("[A-Z][a-z]?", plain))
        if found and all(isinstance(e, Element) for e in found) and not has_isotopes:
            return found
    except Exception:  # noqa: BLE001  pymatgen raises many kinds on what is no formula
        pass
    runs = re.findall(r"[A-Za-z]+|[\d.]+", plain)
    parts = [spelled(run) if run[0].isalpha() else [run] for run in runs]
    symbols = [s for part in parts for s in part if s[0].isalpha()]
    meant = "".join(chain.from_iterable(parts))
    is_meant = "".join(runs) == plain != meant and all(parts)
    is_meant = is_meant and 0 < len(symbols) == len(set(symbols))
    hint = f"; did you mean {meant}?" if is_meant else ""
    raise UserError(f"{shown(formula)} is no formula such as Bi2Se3{hint}")


def require_element(symbol: str, how: str) -> None:
    """Raise a `UserError` where a text is no symbol of an element, which says how to write it."""
    if not Element.is_valid_symbol(symbol):
        meant = spelled(symbol)
        hint = f"; did you mean {'-'.join(meant)}?" if meant else ""
        raise UserError(f"unknown element {shown(symbol)}{how}{hint}")


def spelled(text: str) -> list[str]:
    """The fewest symbols of elements that spell a text, whatever its capitals; [] if none do.

    Where capitals tell the symbols apart they do.
    """
    told = re.findall(r"[A-Z][a-z]?", text)
    if not text.isupper() and "".join(told) == text and all(map(Element.is_valid_symbol, told)):
        return told
    best: list[list[str] | None] = [[]]
    for end in range(1, min(len(text), LONGEST) + 1):
        ways = [
            [*before, symbol]
            for size in (1, 2)
            if size <= end
            and (before := best[end - size]) is not None
            and Element.is_valid_symbol(symbol := text[end - size : end].capitalize())
            and symbol not in ISOTOPES
        ]
        best.append(min(ways, key=len, default=None))
    return (best[-1] or []) if len(text) <= LONGEST else []


@cache
def atomic_volume(symbol: str) -> float:
    """Volume of an atom in its elemental solid, Å³, or that of a sphere of its radius."""
    element = Element(symbol)
    molar = element.molar_volume
    if molar:
        return float(molar) / 0.602214
    radius = element.atomic_radius_calculated or element.atomic_radius or 1.5
    return 6.0 * float(radius) ** 3
