"""Chemical systems, and the volumes of their elements' atoms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from pymatgen.core import Element

from ccdcgan.dft.errors import UserError

#: Names of hydrogen that pymatgen takes for elements of their own.
ISOTOPES = ("D", "T")

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
        if not Element.is_valid_symbol(symbol):
            raise UserError(
                f"unknown element {symbol[:20]!r} in the system: write it as in Bi-Se"
                f"{_meant_by(symbol)}"
            )
    if len(set(symbols)) != len(symbols):
        raise UserError(f"an element occurs twice in the system {'-'.join(symbols)}")
    if not 2 <= len(symbols) <= MOST_ELEMENTS:
        raise UserError(
            f"the system {'-'.join(symbols) or '(empty)'} needs at least two elements, as in "
            f"Bi-Se, and at most {MOST_ELEMENTS}"
        )
    return symbols


def _meant_by(text: str) -> str:
    """A hint at the elements of a text without hyphens or capitals."""
    parts = re.findall(r"[A-Z][a-z]?", text) or [text[:3].capitalize()]
    known = all(map(Element.is_valid_symbol, parts))
    if known and "".join(parts).lower() == text.lower():
        return f"; did you mean {'-'.join(parts)}?"
    return ""


@cache
def atomic_volume(symbol: str) -> float:
    """Volume of an atom in its elemental solid, Å³, or that of a sphere of its radius."""
    element = Element(symbol)
    molar = element.molar_volume
    if molar:
        return float(molar) / 0.602214
    radius = element.atomic_radius_calculated or element.atomic_radius or 1.5
    return 6.0 * float(radius) ** 3
