"""How far the tags of `LIMITED` may differ before a run has another energy than an engine's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pymatgen.core import Structure

from ccdcgan.dft.engines.vasp.doubts import no_minimiser
from ccdcgan.dft.engines.vasp.tags import is_noncollinear

#: Largest EDIFF of each atom, in that of the engine's whole cell. With 1e-5 eV it is 1e-4 eV/atom:
#: the Materials Project's relaxations have 5e-5, and hulls tell 0.025 eV/atom apart.
LOOSER = 10.0

#: Widest smearing whose energies are extrapolated to none within that, eV: VASP's, atomate2's and
#: the Materials Project's own for metals. Fermi's function is about twice as wide as a Gaussian.
WIDEST, WIDEST_FERMI = 0.2, 0.1

#: VASP's own values where INCAR has none.
DEFAULTS = {"EDIFF": 1e-4, "ICHARG": 2, "ISMEAR": 1, "SIGMA": 0.2}

#: Rydberg in eV, and bohr in Å.
RYDBERG, BOHR = 13.605693, 0.529177


def not_self_consistent(incar: Mapping[str, Any]) -> str | None:
    """The tag by which a run has no density of its own, for people; None if it has one."""
    if not _number(incar, "ICHARG") < 10:
        return f"ICHARG = {incar['ICHARG']}"
    tag = no_minimiser(incar)
    return None if tag is None else f"{tag} = {incar[tag]}"


def beyond_limits(
    asked: Mapping[str, Any], ran: Mapping[str, Any], cell: Structure, electrons: float
) -> dict[str, tuple[Any, Any]]:
    """Tags that are beyond what an energy bears: (asked, ran).

    Parameters
    ----------
    asked, ran
        INCAR of the engine and of the run.
    cell
        That the run began with.
    electrons
        In that cell, of the POTCARs.
    """
    found: dict[str, tuple[Any, Any]] = {}
    own = _number(asked, "EDIFF")
    if not _number(ran, "EDIFF") <= LOOSER * own * len(cell):
        found["EDIFF"] = own, ran.get("EDIFF", DEFAULTS["EDIFF"])
    smearing = tuple(_smearing(incar) for incar in (asked, ran))
    if smearing[0] != smearing[1]:
        # One that is narrow enough is told by its tags.
        tags = tuple(tuple(_number(i, t) for t in ("ISMEAR", "SIGMA")) for i in (asked, ran))
        found["ISMEAR and SIGMA"] = tags[0], tags[1]
    if _projection(asked) != _projection(ran):
        found["LREAL"] = asked.get("LREAL", False), ran.get("LREAL", False)
    least = {"NBANDS": _bands(ran, len(cell), electrons), **_grid(asked, cell)}
    for tag, number in least.items():
        if tag in ran and not _number(ran, tag) >= number:
            found[tag] = f"at least {number}", ran[tag]
    return found


def _number(incar: Mapping[str, Any], tag: str) -> float:
    """A tag's number or VASP's own; none, with which nothing compares, where it is no number."""
    try:
        return float(incar.get(tag, DEFAULTS.get(tag, math.nan)))
    except (TypeError, ValueError):
        return math.nan


def _smearing(incar: Mapping[str, Any]) -> tuple[float, float] | None:
    """Kind and width of a smearing that changes energies; None of one that does not."""
    kind, width = (_number(incar, tag) for tag in ("ISMEAR", "SIGMA"))
    special = {-5.0: math.inf, -1.0: WIDEST_FERMI}
    widest = special.get(kind, WIDEST if kind >= 0 else -math.inf)
    return None if width <= widest else (kind, width)


def _projection(incar: Mapping[str, Any]) -> str:
    """How VASP projects, by the letter that it reads.

    Projectors that it optimises itself (Auto) are about 1 meV/atom from exact ones.
    """
    letter = str(incar.get("LREAL", "F")).strip(". ").upper()[:1]
    return "F" if letter in ("A", "N") else letter


def _bands(incar: Mapping[str, Any], atoms: int, electrons: float) -> int:
    """VASP's own number of bands: with fewer the highest one may be occupied."""
    number = max(int(electrons + 2) // 2 + max(atoms // 2, 3), int(0.6 * electrons))
    return number * (2 if is_noncollinear(incar) else 1)


def _grid(incar: Mapping[str, Any], cell: Structure) -> dict[str, int]:
    """Points of the FFT grids that PREC asks for, before VASP looks for a number that suits."""
    precise = str(incar.get("PREC", "N")).strip().upper()[:1]
    reach = math.sqrt(float(incar["ENCUT"]) / RYDBERG) / (2 * math.pi * BOHR)
    least: dict[str, int] = {}
    for axis, length in zip("XYZ", cell.lattice.abc, strict=True):
        least[f"NG{axis}"] = points = int(reach * length * (4 if precise in "AH" else 3))
        least[f"NG{axis}F"] = points * (2 if precise in "AN" else 1)
    return least
