"""Elements: each one's own crystal structure, other structures that it may have, their energies."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import AflowSource, Prototype, primitive_cell
from ccdcgan.dft.structures.substitution import substitute
from ccdcgan.dft.systems import atomic_volume, require_element

#: Most atoms in the primitive cell of an element's own structure: S8 has 32, alpha-Mn 29.
OWN_SITES = 32

#: Which structure each element has: its name in `_catalogue`, and the elements. Where nothing else
#: is said: the one of low temperature and pressure in Donohue, The Structures of the Elements
#: (Wiley, 1974), and Young, Phase Diagrams of the Elements (University of California Press, 1991).
GROUND_STATES = {
    # Li: Ackland et al., Science 356, 1254 (2017): not 9R, as was long believed. Ce: alpha, not
    # gamma.
    "aflow:A_cF4_225_a": "Li Ne Al Ar Ca Ni Cu Kr Sr Rh Pd Ag Xe Ce Ir Pt Au Pb Ac Th",
    "aflow:A_cI2_229_a": "K V Cr Fe Rb Nb Mo Cs Ba Eu Ta W",
    # Yb: Bucher et al., Phys. Rev. B 2, 3911 (1970).
    "aflow:A_hP2_194_c": "He Be Mg Sc Ti Co Y Zr Tc Ru Gd Tb Dy Ho Er Tm Yb Lu Hf Re Os Tl",
    "elements:A_hP2_194_c-wide": "Zn Cd",
    "aflow:A_hP4_194_ac": "La Pr Nd Pm",
    # Na: 9R, Berliner et al., Phys. Rev. B 40, 12086 (1989).
    "aflow:A_hR3_166_ac": "Na Sm",
    # Ti: PBE without dispersion prefers omega (Mei et al., Phys. Rev. B 80, 104116 (2009)), which
    # experiments see under pressure alone.
    "elements:A_cP8_205_c-H": "H",
    "aflow:A_hR12_166_2h": "B",
    "aflow:A_hP4_194_bc": "C",
    "aflow:A_cP8_205_c": "N",
    "aflow:A_mC4_12_i": "O",
    "elements:A_mC8_15_f": "F",
    "aflow:A_cF8_227_a": "Si Ge Sn",
    "aflow:A_oC8_64_f-2": "P",
    "aflow:A_oF128_70_4h": "S",
    "elements:A_oC8_64_f-Cl": "Cl",
    "elements:A_oC8_64_f-Br": "Br",
    "aflow:A_oC8_64_f-3": "I",
    "aflow:A_cI58_217_ac2g": "Mn",
    "aflow:A_oC8_64_f": "Ga",
    "aflow:A_hR2_166_c-3": "As Sb Bi",
    "aflow:A_hP3_152_a": "Se Te",
    "elements:A_tI2_139_a": "In",
    "aflow:A_hR1_166_a": "Hg",
    "aflow:A_tI2_139_a": "Pa",
    "aflow:A_oC4_63_c": "U",
    "aflow:A_oP8_62_2c": "Np",
    "aflow:A_mP16_11_8e": "Pu",
}


#: Our own prototypes that any element is tried on.
SHARED = ("elements:A_hP3_191_ad", "elements:A_tI2_139_a")


def _written() -> list[tuple[str, Structure]]:
    """Structures that AFLOW's prototypes lack or have otherwise, from the literature."""
    make = Structure.from_spacegroup
    # H2 with 0.75 Å on fcc, as ortho-H2 orders: Silvera, Rev. Mod. Phys. 52, 393 (1980). Para-H2's
    # molecules are round on hcp, which no atoms at rest are.
    hydrogen = make("Pa-3", Lattice.cubic(5.31), ["H"], [[0.0408] * 3])
    # alpha-F2, cell of Meyer, Barrett & Greer, J. Chem. Phys. 49, 1902 (1968), in the setting of
    # Pauling, Keaveny & Robinson, J. Solid State Chem. 2, 225 (1970): molecules on (1/4, 1/4, 0),
    # tilted by 18° either way from the layers' normal. Coordinates made from that with 1.42 Å.
    # Measured anew: 5.478, 3.270, 7.265 Å, 102.09°, Ivlev et al., Chem. Eur. J. 25, 3310 (2019).
    fluorine = make(
        "C2/c", Lattice.monoclinic(5.50, 3.28, 7.28, 102.17), ["F"], [[0.2765, 0.3169, 0.0949]]
    )
    # Donohue & Goodman, Acta Cryst. 18, 568 (1965), from Collin's data; AFLOW's A18 is an older
    # reading. Vonnegut & Warren, J. Am. Chem. Soc. 58, 2459 (1936).
    chlorine = make("Cmce", Lattice.orthorhombic(6.24, 4.48, 8.26), ["Cl"], [[0, 0.1173, 0.1016]])
    bromine = make("Cmce", Lattice.orthorhombic(6.67, 4.48, 8.72), ["Br"], [[0, 0.135, 0.110]])
    # omega: Vohra & Spencer, Phys. Rev. Lett. 86, 3068 (2001).
    omega = make(
        "P6/mmm", Lattice.hexagonal(4.58, 2.83), ["Ti"] * 2, [[0, 0, 0], [1 / 3, 2 / 3, 0.5]]
    )
    # c/a = 1.86, which the type's own, 1.62, is too far from.
    wide = make("P6_3/mmc", Lattice.hexagonal(2.665, 4.947), ["Zn"], [[1 / 3, 2 / 3, 0.25]])
    # c/a = 1.52; AFLOW's entry for A6 has the face-centred cell's lengths in a body-centred cell.
    indium = make("I4/mmm", Lattice.tetragonal(3.253, 4.947), ["In"], [[0, 0, 0]])
    return [
        ("elements:A_cP8_205_c-H", hydrogen),
        ("elements:A_mC8_15_f", fluorine),
        ("elements:A_oC8_64_f-Cl", chlorine),
        ("elements:A_oC8_64_f-Br", bromine),
        ("elements:A_hP3_191_ad", omega),
        ("elements:A_hP2_194_c-wide", wide),
        ("elements:A_tI2_139_a", indium),
    ]


@cache
def _catalogue() -> dict[str, Structure]:
    """All elemental prototypes by name, as their sources give them."""
    found = [p for p in AflowSource().load(1, 0, 0) if isinstance(p, Prototype)]
    return {p.id: p.structure for p in found} | dict(_written())


@cache
def _prototype(name: str) -> Prototype:
    """A prototype's primitive cell; reducing all of them would take eight seconds."""
    return Prototype(name, primitive_cell(_catalogue()[name]))


def library(max_sites: int) -> list[Prototype]:
    """Elemental prototypes with at most so many atoms in the primitive cell, small cells first.

    They are AFLOW's, designated or not, and our own ones of no single element.
    """
    names = [n for n, s in _catalogue().items() if n.startswith("aflow:") or n in SHARED]
    # AFLOW's cells are primitive ones already.
    found = [_prototype(n) for n in names if len(_catalogue()[n]) <= 4 * max_sites]
    found = [p for p in found if len(p.structure) <= max_sites]
    return sorted(found, key=lambda p: len(p.structure))


@cache
def ground_state(symbol: str) -> Prototype | None:
    """The crystal structure that an element is known to have at low temperature, or None.

    That of density-functional theory where experiments differ for a reason named at
    `GROUND_STATES`. Known for the 89 elements of MPtrj; the id begins with ``own:``.

    Raises
    ------
    UserError
        There is no such element.
    """
    require_element(symbol, ": write it as in Bi")
    name = next((n for n, symbols in GROUND_STATES.items() if symbol in symbols.split()), None)
    if name is None:
        return None
    found = _as_element(_prototype(name), symbol)
    return Prototype(f"own:{found.id.partition(':')[2]}", found.structure)


def _as_element(prototype: Prototype, symbol: str) -> Prototype:
    """A prototype of one element as another, at its own lattice where it is that element's.

    Scaling to the volume of the solid would break molecules; it is left to lattices that are far
    off, as of high pressure.
    """
    structure = prototype.structure
    own = {site.specie.symbol for site in structure} == {symbol}
    ratio = structure.volume / len(structure) / atomic_volume(symbol)
    if own and 0.5 < ratio < 1.9:
        return Prototype(f"{prototype.id}>{symbol}", structure)
    return substitute(prototype, [symbol])[0]


def end_members(
    elements: Sequence[str], max_sites: int, own_sites: int = OWN_SITES, *, own_only: bool = False
) -> list[Prototype]:
    """Candidate structures of each pure element, its own first, then the library's.

    Parameters
    ----------
    elements
        Symbols.
    max_sites
        Most atoms of the library's prototypes; at least 3, so that A7 (Bi) and A8 (trigonal Se)
        are never cut off.
    own_sites
        Most atoms of an element's own structure.
    own_only
        Whether the library's are left out where the own one is there.

    Raises
    ------
    UserError
        There is no such element.
    """
    found: list[Prototype] = []
    for symbol in elements:
        # The matcher takes fcc, bcc and what lies between them by a strain for the same; but a
        # relaxation keeps the symmetry that it begins with, and only some find the minimum.
        seen: defaultdict[int, SeenStructures] = defaultdict(SeenStructures)
        own = ground_state(symbol)
        first = [own] if own is not None and len(own.structure) <= own_sites else []
        others = [_as_element(p, symbol) for p in library(max(max_sites, 3))]
        for candidate in first if own_only and first else first + others:
            if seen[_space_group(candidate.structure)].add_if_new(candidate.structure):
                found.append(candidate)
    return found


def _space_group(structure: Structure) -> int:
    number: int = SpacegroupAnalyzer(structure, symprec=0.01).get_space_group_number()
    return number


@cache
def reference_table() -> dict[str, Any]:
    """Energies (eV/atom) of all elements by the default engine; docs/elements.md shows them.

    ``level`` is the level of theory. Each of ``elements`` has ``energy``, ``prototype`` and
    ``space_group`` of the lowest structure found, and ``known``, the energy of its ground state.
    """
    file = resources.files("ccdcgan.dft.structures").joinpath("elements.json")
    table: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return table


def off_the_table(symbol: str, energy_per_atom: float, level: LevelOfTheory) -> float | None:
    """How far a pure element lies above the lowest known energy of that level, eV/atom.

    None where the table is of another level or pressure or lacks the element.
    """
    if level.pressure:
        return None
    table = reference_table()
    ours = LevelOfTheory.model_validate(table["level"])
    if any(getattr(level, name) != getattr(ours, name) for name in ("checkpoint", "head")):
        return None
    if level.dispersion != ours.dispersion or symbol not in table["elements"]:
        return None
    return energy_per_atom - float(table["elements"][symbol]["energy"])
