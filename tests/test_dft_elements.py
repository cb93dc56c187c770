"""Elements: each has its own structure, which comes first; the table tells what lies off it."""

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Lattice, Structure

from ccdcgan.dft.engines.potentials import MPTRJ_ELEMENTS, SevenNetEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.elements import (
    GROUND_STATES,
    end_members,
    ground_state,
    library,
    off_the_table,
    reference_table,
)

ELEMENTS = [Element.from_Z(z).symbol for z in sorted(MPTRJ_ELEMENTS)]
TIGHT = StructureMatcher(ltol=0.05, stol=0.1, angle_tol=3, primitive_cell=True)


def own(symbol: str) -> Structure:
    found = ground_state(symbol)
    assert found is not None
    return found.structure


def distances(structure: Structure, cutoff: float) -> list[list[float]]:
    """Sorted distances (Å) of each atom to those within a cutoff."""
    centers, _, _, found = structure.get_neighbor_list(cutoff)
    return [sorted(found[centers == i].tolist()) for i in range(len(structure))]


def test_each_element_has_one_ground_state() -> None:
    listed = [symbol for symbols in GROUND_STATES.values() for symbol in symbols.split()]
    assert len(listed) == len(set(listed)) == 89
    assert set(listed) == set(ELEMENTS)
    gate = RelaxationSettings().gate
    for symbol in ELEMENTS:
        found = ground_state(symbol)
        assert found is not None and found.id.startswith("own:") and found.id.endswith(symbol)
        assert found.structure.composition.chemical_system == symbol
        assert gate(found.structure) is None, symbol


@pytest.mark.parametrize(
    # Bond lengths, Å, of the molecules: Huber & Herzberg, Constants of Diatomic Molecules (1979);
    # I2's is 0.05 longer in the crystal (van Bolhuis et al., Acta Cryst. 23, 90 (1967)).
    ("symbol", "length", "within"),
    [
        ("H", 0.741, 0.02),
        ("N", 1.098, 0.02),
        ("O", 1.208, 0.1),  # AFLOW's coordinates of alpha-O2 say 1.30
        ("F", 1.412, 0.02),
        ("Cl", 1.988, 0.02),
        ("Br", 2.281, 0.02),
        ("I", 2.715, 0.02),
    ],
)
def test_molecules(symbol: str, length: float, within: float) -> None:
    """Each atom has one partner at the molecule's bond length, and nobody else near."""
    for near in distances(own(symbol), 1.25 * length):
        assert len(near) == 1
        assert near[0] == pytest.approx(length, abs=within)


def test_sulfur_is_rings_of_eight() -> None:
    s8 = own("S")
    assert len(s8) == 32
    for near in distances(s8, 2.5):
        assert near == pytest.approx([2.05, 2.05], abs=0.02)
    first, second, _, _ = s8.get_neighbor_list(2.5)
    bonded = np.zeros((32, 32), bool)
    bonded[first, second] = True
    reached = np.linalg.matrix_power(bonded + np.eye(32, dtype=int), 8) > 0
    assert set(reached.sum(1)) == {8}


def test_boron_is_icosahedra() -> None:
    """Each atom has five neighbours in its icosahedron, and some more outside."""
    b12 = own("B")
    assert len(b12) == 12
    assert b12.get_space_group_info(0.01) == ("R-3m", 166)
    assert all(len(near) >= 6 for near in distances(b12, 2.05))


@pytest.mark.parametrize(
    ("symbol", "crystal"),
    [
        # Handbook lattices of what is easily confused with something simpler.
        (
            "Bi",
            Structure.from_spacegroup(
                "R-3m", Lattice.hexagonal(4.546, 11.862), ["Bi"], [[0, 0, 0.2339]]
            ),
        ),
        (
            "Se",
            Structure.from_spacegroup(
                "P3_121", Lattice.hexagonal(4.366, 4.954), ["Se"], [[0.2254, 0, 1 / 3]]
            ),
        ),
        (
            "In",
            Structure.from_spacegroup(
                "I4/mmm", Lattice.tetragonal(3.253, 4.947), ["In"], [[0, 0, 0]]
            ),
        ),
        (
            "Zn",
            Structure.from_spacegroup(
                "P6_3/mmc", Lattice.hexagonal(2.665, 4.947), ["Zn"], [[1 / 3, 2 / 3, 0.25]]
            ),
        ),
        (
            "C",
            Structure.from_spacegroup(
                "P6_3/mmc",
                Lattice.hexagonal(2.464, 6.711),
                ["C", "C"],
                [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]],
            ),
        ),
    ],
)
def test_own_lattice(symbol: str, crystal: Structure) -> None:
    found = own(symbol)
    assert TIGHT.fit(crystal, found)
    volume = crystal.volume / len(crystal)
    assert found.volume / len(found) == pytest.approx(volume, rel=0.02)


@pytest.mark.parametrize("symbol", ["N", "S", "In", "Zn", "Cu", "Hg"])
def test_own_structure_comes_first(symbol: str) -> None:
    found = end_members(["Bi", symbol], 4)
    mine = [p for p in found if p.structure.composition.chemical_system == symbol]
    expected = ground_state(symbol)
    assert expected is not None and mine[0].id == expected.id
    sizes = [len(p.structure) for p in mine[1:]]
    assert sizes == sorted(sizes) and max(sizes) <= 4
    assert found[0].id.startswith("own:") and found[0].id.endswith(">Bi")
    assert len({p.id for p in found}) == len(found)


def test_end_members() -> None:
    """A7 for Bi and A8 for Se, written down from the handbook, are among the candidates."""
    a7 = Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(4.546, 11.862), ["Bi"], [[0, 0, 0.2339]]
    )
    a8 = Structure.from_spacegroup(
        "P3_121", Lattice.hexagonal(4.366, 4.954), ["Se"], [[0.2254, 0, 1 / 3]]
    )
    found = end_members(["Bi", "Se"], 20)
    tight = StructureMatcher(ltol=0.15, stol=0.15, angle_tol=5)
    for element, crystal in (("Bi", a7), ("Se", a8)):
        mine = [p.structure for p in found if p.structure.composition.chemical_system == element]
        assert any(tight.fit(crystal, s) for s in mine), element
        sizes = [len(s) for s in mine[1:]]
        assert sizes == sorted(sizes)
    assert {p.structure.composition.chemical_system for p in found} == {"Bi", "Se"}
    assert len({p.id for p in found}) == len(found)


def test_end_members_fit_small_limits() -> None:
    """A limit below three atoms keeps A7 and A8 all the same."""
    sizes = [len(p.structure) for p in end_members(["Se"], 1)]
    assert max(sizes) == 3


def test_types_that_a_strain_leads_to_all_stay() -> None:
    """The matcher takes them for the same, but a relaxation keeps the symmetry it begins with."""
    numbers = {p.structure.get_space_group_info(0.01)[1] for p in end_members(["In"], 4)}
    # fcc, bcc, their tetragonal and rhombohedral strains, simple cubic.
    assert {225, 229, 139, 166, 221} <= numbers


def test_a_structure_is_there_once() -> None:
    """Copper's own is fcc, which the library has, too."""
    groups = [p.structure.get_space_group_info(0.01)[1] for p in end_members(["Cu"], 4)]
    assert groups.count(225) == 1
    assert groups.count(229) == 1


def test_limits_of_atoms() -> None:
    first = {s: end_members([s], 3, own_sites=11)[0].id for s in ("N", "B", "S")}
    assert first["N"].startswith("own:")
    assert not first["B"].startswith("own:") and not first["S"].startswith("own:")
    assert end_members(["B"], 3, own_sites=12)[0].id.startswith("own:")
    everything = end_members(["Bi"], 8)
    assert max(len(p.structure) for p in everything) == 8
    assert len(everything) > len(end_members(["Bi"], 4))


def test_library_has_undesignated_prototypes() -> None:
    names = {p.id for p in library(8)}
    assert {"aflow:A_cF4_225_a", "aflow:A_cP8_205_c", "elements:A_hP3_191_ad"} <= names
    assert all(len(p.structure) <= 8 for p in library(8))


def test_molecules_of_the_library_keep_their_lengths() -> None:
    """Another nitrogen is not scaled to the volume of the solid: that would break its bonds."""
    gamma = next(p for p in end_members(["N"], 4) if "A_tP4_136_f" in p.id)
    assert min(min(near) for near in distances(gamma.structure, 1.6)) == pytest.approx(1.1, abs=0.1)


def test_unknown_elements() -> None:
    with pytest.raises(UserError, match="unknown element 'Xx'"):
        ground_state("Xx")
    with pytest.raises(UserError, match="unknown element 'Xx'"):
        end_members(["Bi", "Xx"], 4)
    # Known, but nothing is told of its structure: the library all the same.
    assert ground_state("Po") is None
    assert len(end_members(["Po"], 4)) > 10


def test_table_is_of_the_default_level() -> None:
    table = reference_table()
    level = RelaxationSettings().engine.level_of_theory()
    assert table["level"] == level.model_dump(exclude_defaults=True)
    assert set(table["elements"]) == set(ELEMENTS)
    for symbol, row in table["elements"].items():
        # The known structure is among those that the lowest is taken from.
        if symbol == "Pu":  # none: docs/elements.md says why
            assert row["known"] is None
        else:
            assert row["energy"] <= row["known"] + 1e-6, symbol
        assert row["prototype"].endswith(f">{symbol}")


def test_off_the_table() -> None:
    level = RelaxationSettings().engine.level_of_theory(["N"])
    lowest = reference_table()["elements"]["N"]["energy"]
    # N2 as relaxed from alpha-N2; MP's raw PBE energy is -8.336 eV/atom.
    assert lowest == pytest.approx(-8.34, abs=0.05)
    assert off_the_table("N", lowest + 0.838, level) == pytest.approx(0.838)
    assert off_the_table("N", lowest, level) == pytest.approx(0)
    corrected = level.model_copy(update={"corrections": "MP2020"})
    assert off_the_table("N", lowest, corrected) == pytest.approx(0)
    assert off_the_table("Po", -3.0, level) is None
    for other in (
        SevenNetEngine(),
        SevenNetEngine(checkpoint="7net-l3i5"),
        SevenNetEngine(checkpoint="7net-mf-0", modal="PBE", dispersion="d3bj"),
    ):
        assert off_the_table("N", lowest, other.level_of_theory(["N"])) is None
