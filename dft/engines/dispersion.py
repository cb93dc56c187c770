"""Dispersion corrections, added to what has none: DFT-D3(BJ) and DFT-D4."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ase.calculators.calculator import Calculator
from ase.calculators.mixing import SumCalculator
from pymatgen.core import Element

from ccdcgan.dft.engines.base import Dispersion
from ccdcgan.dft.errors import UserError

#: Names in levels of theory.
TITLES: dict[Dispersion, str] = {"d3bj": "D3(BJ)", "d4": "D4"}

#: Functionals with parameters in both packages, by the name that their packages use.
FUNCTIONALS = {"PBE": "pbe", "PBEsol": "pbesol", "r2SCAN": "r2scan"}

#: Highest atomic number with parameters.
LAST: dict[Dispersion, int] = {"d3bj": 94, "d4": 86}


def title(dispersion: Dispersion, functional: str) -> str:
    """What a level of theory says of it, as D3(BJ) of PBE."""
    return f"{TITLES[dispersion]} of {functional}"


def with_dispersion(
    calculator: Calculator, dispersion: Dispersion | None, functional: str | None
) -> Calculator:
    """The calculator with a dispersion correction on top, or as it is without one.

    D3 has its two-body terms alone, as VASP's IVDW = 12 has; D4 has three-body terms, too.
    """
    if dispersion is None:
        return calculator
    method = _method(dispersion, functional)
    if dispersion == "d3bj":
        from dftd3.ase import DFTD3

        return SumCalculator([calculator, DFTD3(method=method, damping="d3bj")])
    from dftd4.ase import DFTD4

    return SumCalculator([calculator, DFTD4(method=method)])


def check(dispersion: Dispersion | None, functional: str | None, elements: Sequence[str]) -> None:
    """Raise a `UserError` if a package, or parameters of the functional or an element, lack."""
    if dispersion is None:
        return
    _method(dispersion, functional)
    beyond = [e for e in elements if LAST[dispersion] < Element(e).Z]
    if beyond:
        raise UserError(
            f"dispersion {dispersion} has no parameters of {' and '.join(beyond)}: leave "
            "engine.dispersion out"
        )
    package = "dftd3" if dispersion == "d3bj" else "dftd4"
    if find_spec(package) is None:
        raise UserError(f"dispersion {dispersion} needs the package: pip install {package}")


def _method(dispersion: Dispersion, functional: str | None) -> str:
    if functional not in FUNCTIONALS:
        raise UserError(
            f"dispersion {dispersion} has no parameters for {functional or 'an unknown functional'}"
            f": known are {', '.join(FUNCTIONALS)}; leave engine.dispersion out, or name the "
            "functional that a checkpoint of your own has learnt with "
            "engine.checkpoint_functional"
        )
    return FUNCTIONALS[functional]
