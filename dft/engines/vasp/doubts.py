"""INCAR tags of a campaign that VASP refuses, and those that do not do what people expect."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

#: Words that VASP knows, by their first letters as it reads them; of ALGO see `no_minimiser`.
WORDS = {
    "ALGO": "ABCDEFGNSV4TIMQR",
    "PREC": "LMHNAS",
}

#: Largest SYMPREC, beside VASP's own 1e-5: atoms as far apart as that would be taken for equal.
ROUGHEST = 1e-2

#: Tags whose value is a number above nothing.
POSITIVE = ("ENCUT", "EDIFF", "KPAR", "NCORE", "NPAR", "NSIM", "NELM", "POTIM")

#: GGA beside which VASP's nonlocal van der Waals functionals are defined.
NONLOCAL = {"BF", "BO", "CX", "MK", "ML", "OR", "RE"}


def refuse_values(incar: Mapping[str, Any]) -> None:
    """Refuse values that no structure, or not every one, can be computed with.

    Raises
    ------
    ValueError
        The text says what to do.
    """
    for tag in POSITIVE:
        value = incar.get(tag)
        # What is not finite is refused wherever it stands.
        if isinstance(value, float) and not math.isfinite(value):
            continue
        if value is not None and not _is_positive(value):
            raise ValueError(f"{tag}: {value!r} is no number above 0")
    if incar.get("ISPIN", 1) not in (1, 2):
        raise ValueError("ISPIN: 1 is without spin, 2 with it; there is no other")
    for tag, letters in WORDS.items():
        word = str(incar.get(tag) or letters[0]).strip().upper()
        if word[:1] not in letters:
            raise ValueError(f"{tag}: VASP knows no {incar[tag]!r}")
    if other := no_minimiser(incar):
        raise ValueError(
            f"{other}: {incar[other]!r} gives no energy of a ground state: Normal, Fast, VeryFast, "
            "All, Damped and Conjugate do"
        )
    if "SYMPREC" in incar and not (_is_positive(incar["SYMPREC"]) and incar["SYMPREC"] <= ROUGHEST):
        raise ValueError(f"SYMPREC: {incar['SYMPREC']!r} is no number from 0 to {ROUGHEST:g}")
    if incar.get("ISYM", 2) not in (-1, 0, 1, 2, 3):
        raise ValueError(f"ISYM: VASP knows no {incar['ISYM']!r}")
    if "NELECT" in incar:
        raise ValueError("NELECT: one number cannot fit cells of different size: leave it out")
    icharg = incar.get("ICHARG", 0)
    if isinstance(icharg, int) and icharg >= 10:
        raise ValueError("ICHARG: from 10 on the density is kept, and energies mean nothing")
    moments = incar.get("MAGMOM")
    if moments is not None and not isinstance(moments, dict):
        raise ValueError(
            "MAGMOM: one list cannot fit structures of different size: give one number for each "
            "element, as in MAGMOM: {Fe: 5.0}, or moments with the structures"
        )
    for name, moment in (moments or {}).items():
        numbers = moment if isinstance(moment, (list, tuple)) and len(moment) == 3 else [moment]
        if not all(isinstance(m, (int, float)) and math.isfinite(m) for m in numbers):
            raise ValueError(f"MAGMOM: {name}: {moment!r} is no number")


def no_minimiser(incar: Mapping[str, Any]) -> str | None:
    """Which of ALGO and IALGO makes electrons not self-consistent; None where they become so."""
    # Of words that begin with other letters VASP reads the first one alone.
    word = str(incar.get("ALGO") or "Normal").strip().upper()
    if word not in ("N", "A", "C") and not word.startswith(("NORM", "AL", "CO", "F", "V", "D")):
        return "ALGO"
    number = incar.get("IALGO", 38)
    # Below 5 VASP keeps the bands or rotates them; 90 diagonalises, for many empty ones.
    is_one = isinstance(number, (int, float)) and number >= 5 and number != 90
    return None if is_one else "IALGO"


def doubts(incar: Mapping[str, Any]) -> Iterator[str]:
    """What VASP runs with, and should be known before, one line each.

    Parameters
    ----------
    incar
        Tags of the campaign's own.
    """
    algorithm = str(incar.get("ALGO", "")).strip().upper()[:1]
    if incar.get("METAGGA") and "GGA" in incar:
        yield "METAGGA replaces GGA, which VASP ignores: leave GGA out"
    if incar.get("LHFCALC") and algorithm not in {"A", "D", "N"}:
        yield "LHFCALC is for ALGO: All, Damped or Normal: VASP stops or goes astray with another"
    if incar.get("LUSE_VDW") and str(incar.get("GGA", "PE")).upper() not in NONLOCAL:
        yield (
            "LUSE_VDW without the GGA that it belongs to (such as MK, BO, OR, ML, with AGGAC: 0.0) "
            "counts correlation twice"
        )
    if incar.get("MAGMOM") and incar.get("ISPIN") == 1:
        yield "MAGMOM is ignored with ISPIN: 1"
    if incar.get("ISMEAR") == -5:
        yield "ISMEAR: -5 gives metals wrong forces: 1 or 0 with a small SIGMA relaxes all"
    if str(incar.get("LREAL", "F")).strip(".").upper()[:1] not in {"F", "N"}:
        yield "LREAL other than False is not exact: cells of fewer than some 20 atoms gain nothing"
    if _is_positive(incar.get("NELM")) and incar["NELM"] < 20:
        yield f"NELM: {incar['NELM']} electronic steps may be too few: VASP's own choice is 60"
    if _is_positive(incar.get("EDIFF")) and incar["EDIFF"] > 1e-4:
        yield f"EDIFF: {incar['EDIFF']} eV leaves forces noisy: 1e-5 or less relaxes well"
    if "NPAR" in incar and "NCORE" in incar:
        yield "NPAR and NCORE say the same twice: VASP takes NPAR"
    for tag in ("NBANDS", "NUPDOWN"):
        if tag in incar:
            yield f"{tag}: one number is for all structures, however large their cells"


def _is_positive(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(float(str(value))) and float(str(value)) > 0
