"""Corrections that put GGA and GGA+U energies on one scale, by pymatgen's MP2020 scheme.

Potentials fitted to MPtrj's uncorrected energies have learnt GGA+U for oxides and fluorides of
some metals beside GGA for everything else (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)), as the
Materials Project computes them: two levels of theory in one engine. The scheme, with the anion
corrections that belong to it, is that of Wang et al., Sci. Rep. 11, 15496 (2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from pymatgen.core import Composition, Structure

from ccdcgan.dft.engines.base import EngineSettings, LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.systems import electronegativity

#: Metals whose oxides and fluorides the Materials Project computes with U.
METALS = frozenset({"V", "Cr", "Mn", "Fe", "Co", "Ni", "Mo", "W"})
ANIONS = frozenset({"O", "F"})

#: Name in levels of theory.
MP2020 = "MP2020 corrections"

#: What an entry tells of its run, by which its input set is known.
TOLD = ("run_type", "is_hubbard", "hubbards", "potcar_spec", "potcar_symbols")

#: O-O distances, in units of the sum of the covalent radii, that make a peroxide (as in pymatgen).
PEROXIDE = 1.05


def mixes_scales(elements: Sequence[str]) -> bool:
    """Whether MPtrj has GGA+U energies for compounds of these elements."""
    return bool(METALS & set(elements)) and bool(ANIONS & set(elements))


def is_mixed(level: LevelOfTheory) -> bool:
    """Whether energies of a level are GGA+U for some oxides and fluorides, and GGA for all else.

    That is `EngineSettings.mixes_scales` where only the level is known.
    """
    learnt = level.engine.startswith("SevenNet-") and level.scale == "PBE, uncorrected"
    return learnt or "the Materials Project's U" in level.scale


def is_materials_project(level: LevelOfTheory) -> bool:
    """Whether energies of a level may stand beside raw ones of the Materials Project's.

    These are of VASP with its POTCARs, U and a cutoff of at least its own, and nothing beyond PBE.
    """
    beyond = (level.head, level.dispersion, level.corrections, level.pressure)
    scale = "PBE with the Materials Project's U, uncorrected"
    return level.package == "vasp" and level.scale == scale and not any(beyond)


def takes(structure: Structure, energy_per_atom: float, parameters: Mapping[str, Any]) -> bool:
    """Whether MP2020 takes an entry of VASP's for one of the Materials Project's input sets.

    Parameters
    ----------
    parameters
        What the entry tells of its run: ``run_type``, ``hubbards`` and ``potcar_spec``.
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    plain = {k: parameters[k] for k in TOLD if k in parameters}
    energy = energy_per_atom * len(structure)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entry = ComputedStructureEntry(structure, energy, parameters=plain)
            return _strict_scheme().process_entry(entry) is not None
    except Exception:  # noqa: BLE001  pymatgen raises several kinds on what is not told
        return False


@cache
def _strict_scheme() -> Any:
    """The scheme that looks at POTCARs, too."""
    from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility()


def warnings_of(engine: EngineSettings, corrected: bool, elements: Sequence[str]) -> list[str]:
    """What a user should know of the energies of an engine in a system, a line each."""
    found = []
    metals = " and ".join(sorted(METALS & set(elements)))
    anions = " and ".join(sorted(ANIONS & set(elements)))
    if corrected and getattr(engine, "dispersion", None):
        found.append(
            "MP2020's corrections were fitted to energies without dispersion: formation energies "
            "lie up to 0.1 eV/atom too low with engine.dispersion"
        )
    if engine.mixes_scales and mixes_scales(elements) and not corrected:
        found.append(
            f"{engine.name} gives GGA+U energies to compounds of {metals} with {anions} and GGA to "
            "all else: without relaxation.corrections formation energies are wrong by up to 1.7 "
            "eV/atom"
        )
    return found


class Corrections:
    """MP2020's corrections of compounds by their composition and the kind of their anions."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], float] = {}

    @cached_property
    def _scheme(self) -> Any:
        from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility

        return MaterialsProject2020Compatibility(check_potcar=False)

    def per_atom(self, structure: Structure) -> float:
        """What is added to the energy of a crystal, eV/atom.

        Raises
        ------
        UserError
            The scheme has no answer for it.
        """
        composition = structure.composition.element_composition
        if len(composition) == 1:
            return 0.0
        kinds = _kinds(structure)
        key = (composition.reduced_formula, kinds["oxide_type"], kinds["sulfide_type"])
        if key not in self._known:
            self._known[key] = self._computed(composition.reduced_composition, kinds)
        return self._known[key]

    def _computed(self, composition: Composition, kinds: dict[str, str]) -> float:
        from pymatgen.entries.computed_entries import ComputedEntry

        # pymatgen takes the last of this order for the anion, which NaN of noble gases would upset.
        symbols = sorted((e.symbol for e in composition), key=electronegativity)
        composition = Composition({symbol: composition[symbol] for symbol in symbols})
        expected = self._scheme.u_settings.get(symbols[-1], {})
        values = {symbol: expected.get(symbol, 0) for symbol in symbols}
        has_u = any(values.values())
        entry = ComputedEntry(
            composition,
            0.0,
            parameters={
                "run_type": "GGA+U" if has_u else "GGA",
                "hubbards": values if has_u else {},
                "software": "vasp",
            },
            data={k: v for k, v in kinds.items() if v},
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self._scheme.get_adjustments(entry)
        except Exception as error:  # noqa: BLE001  pymatgen raises several kinds
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"MP2020's corrections have no answer for {composition.formula}: {said}"
            ) from None
        return float(sum(a.value for a in found) / composition.num_atoms)


def _kinds(structure: Structure) -> dict[str, str]:
    """Kind of oxide and of sulfide; empty where there is no oxygen or no sulfur."""
    from pymatgen.analysis.structure_analyzer import oxide_type, sulfide_type

    symbols = {e.symbol for e in structure.composition}
    oxide = str(oxide_type(structure, PEROXIDE)) if "O" in symbols else ""
    sulfide = ""
    if "S" in symbols:
        try:
            sulfide = str(sulfide_type(structure) or "")
        except Exception:  # noqa: BLE001  neighbours of odd cells
            sulfide = "sulfide"
    return {"oxide_type": oxide, "sulfide_type": sulfide}


@cache
def mp2020() -> Corrections:
    """The process's corrections: what a formula has got once is known."""
    return Corrections()
