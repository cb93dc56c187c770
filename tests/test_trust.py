"""False minima, corrections and unconverged end members: what a hull is made of."""

from __future__ import annotations

from itertools import permutations

import pytest
from pymatgen.core import Composition, Lattice, Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.engines.corrections import Corrections, mixes_scales, mp2020
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import SecondOpinion
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.documents import Claim, Origin, Phase, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.phases import warnings_of
from ccdcgan.workflows.trust import is_too_deep, untrusted

LEVEL = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE, uncorrected")
SECOND = LEVEL.model_copy(update={"engine": "Other", "checkpoint": "2" * 16})


def cell(edge: float, *species: str) -> Structure:
    places = [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5]]
    return Structure(Lattice.cubic(edge), species, places[: len(species)])


def relaxed(
    key: str,
    structure: Structure,
    energy: float,
    second: float | None = None,
    converged: bool = True,
    kind: str = "prototype",
) -> RelaxationDocument:
    opinion = None
    if second is not None:
        opinion = SecondOpinion(level_of_theory=SECOND, energy_per_atom=second)
    return RelaxationDocument(
        key=key,
        structure=structure.as_dict(),
        energy_per_atom=energy,
        converged=converged,
        reason=None if converged else "not converged in 200 steps",
        campaign="x",
        origin=Origin.model_validate({"kind": kind, "id": key}),
        initial_structure=structure.as_dict(),
        level_of_theory=LEVEL,
        second_opinion=opinion,
    )


def palladium(*more: RelaxationDocument) -> dict[str, RelaxationDocument]:
    """Beryllium, palladium, the real BePd2, and others."""
    documents = [
        relaxed("Be", cell(2.3, "Be"), -3.74, -3.73, kind="element"),
        relaxed("Pd", cell(2.7, "Pd"), -5.18, -5.20, kind="element"),
        relaxed("BePd2", cell(3.4, "Be", "Pd", "Pd"), -5.21, -5.19),
        relaxed("BePd", cell(2.9, "Be", "Pd"), -4.90, -4.88),
        *more,
    ]
    return {d.key: d for d in documents}


#: The false minimum that SevenNet-0 has: chains of palladium, where another checkpoint is repelled.
HOLE = relaxed("hole", cell(3.1, "Be", "Pd", "Pd"), -10.33, 28.24)


def phases(documents: dict[str, RelaxationDocument], campaign: Campaign) -> dict[str, Phase]:
    entries = [Claim(key=k, origin=d.origin) for k, d in documents.items()]
    return {p.id: p for p in Knowledge(campaign, documents, entries).phases}


def test_a_false_minimum_is_set_aside_with_both_numbers() -> None:
    campaign = Campaign(system=("Be", "Pd"))
    documents = palladium(HOLE)
    assert set(untrusted(documents.values())) == {"hole"}
    found = phases(documents, campaign)
    hole = found["hole"]
    assert hole.label == "untrusted"
    assert not hole.distinct
    assert hole.reason is not None
    assert "-10.33" in hole.reason
    assert "28.24" in hole.reason
    assert hole.e_above_hull == pytest.approx(-10.33 + 5.21, abs=1e-9)
    assert hole.second_opinion is not None
    assert hole.second_opinion.e_above_hull == pytest.approx(28.24 + 5.19, abs=1e-9)
    # Nothing else moves, and nothing is learnt from it.
    without = phases(palladium(), campaign)
    for key, phase in without.items():
        assert found[key] == phase
    samples = {s.key for s in Knowledge(campaign, documents).samples}
    assert samples == {s.key for s in Knowledge(campaign, palladium()).samples}
    lines = warnings_of(list(found.values()), documents, campaign)
    assert any("1 of 5 crystals are set aside as untrusted" in line for line in lines)


def test_where_the_other_engine_has_the_hole_the_crystal_stays() -> None:
    documents = palladium(relaxed("fine", cell(3.3, "Be", "Pd"), -4.7, -30.0))
    assert untrusted(documents.values()) == {}


def test_engines_that_disagree_everywhere_set_nothing_aside() -> None:
    documents = palladium()
    for number, document in enumerate(documents.values()):
        assert document.second_opinion is not None
        document.second_opinion.energy_per_atom += 0.5 + 0.1 * number
    assert untrusted(documents.values()) == {}


def test_a_formation_energy_beyond_chemistry_needs_no_second_opinion() -> None:
    hole = HOLE.model_copy(update={"second_opinion": None})
    documents = palladium(hole)
    assert set(untrusted(documents.values())) == {"hole"}
    assert documents.keys() - untrusted(documents.values()) == set(palladium())
    # What chemistry has: LaF3 at -4.4 eV/atom.
    fluoride = [
        relaxed("La", cell(4.0, "La"), -4.9, kind="element"),
        relaxed("F", cell(3.0, "F"), -1.9, kind="element"),
        relaxed("LaF3", cell(4.5, "La", "F", "F", "F"), -2.65 - 4.4),
    ]
    assert untrusted(fluoride) == {}


def test_a_lower_end_member_that_ran_out_of_steps_is_neither_dropped_nor_hidden() -> None:
    documents = {
        d.key: d
        for d in (
            relaxed("Ga", cell(2.7, "Ga"), -3.0, kind="element"),
            relaxed("polymer", cell(3.0, "N"), -7.48, kind="element"),
            relaxed("N2", cell(4.0, "N", "N"), -8.32, converged=False, kind="element"),
            relaxed("GaN", cell(3.2, "Ga", "N"), -6.1),
            relaxed("low", cell(3.3, "Ga", "N"), -6.2, converged=False),
        )
    }
    campaign = Campaign(system=("Ga", "N"))
    found = phases(documents, campaign)
    assert found["GaN"].formation_energy_per_atom == pytest.approx(-6.1 + (3.0 + 8.32) / 2)
    assert found["N2"].e_above_hull == 0.0
    assert found["N2"].label == "not converged"
    assert found["polymer"].e_above_hull == pytest.approx(0.84)
    # It lies below the hull, and says so.
    assert found["low"].e_above_hull == pytest.approx(-0.1)
    lines = warnings_of(list(found.values()), documents, campaign)
    assert any("end member N" in line and "200 steps" in line for line in lines)
    assert any("100 meV/atom below the hull" in line for line in lines)


def rocksalt(edge: float, *species: str) -> Structure:
    lattice = Lattice.cubic(edge)
    return Structure.from_spacegroup("Fm-3m", lattice, species, [[0, 0, 0], [0.5] * 3])


NIO = rocksalt(4.18, "Ni", "O").get_primitive_structure()


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        # Wang et al., Sci. Rep. 11, 15496 (2021): Ni -2.541, O -0.687, peroxide -0.465, N -0.361.
        (NIO, (-2.541 - 0.687) / 2),
        (rocksalt(4.21, "Mg", "O").get_primitive_structure(), -0.687 / 2),
        (cell(2.5, "Ni"), 0.0),
        (Structure(Lattice.cubic(5.0), ["O", "O"], [[0, 0, 0], [0.24, 0, 0]]), 0.0),
        (rocksalt(4.5, "Ga", "N").get_primitive_structure(), -0.361 / 2),
        (rocksalt(3.4, "Al", "Ni").get_primitive_structure(), 0.0),
    ],
)
def test_corrections_are_those_of_the_paper(structure: Structure, expected: float) -> None:
    for _ in range(2):
        assert mp2020().per_atom(structure) == pytest.approx(expected, abs=1e-9)


def test_peroxides_are_told_from_oxides() -> None:
    peroxide = Structure(
        Lattice.tetragonal(3.81, 6.84),
        ["Ba", "Ba", "O", "O", "O", "O"],
        [[0, 0, 0], [0.5] * 3, [0, 0, 0.39], [0, 0, 0.61], [0.5, 0.5, 0.89], [0.5, 0.5, 0.11]],
    )
    assert mp2020().per_atom(peroxide) == pytest.approx(-0.465 * 4 / 6)


def nickel_oxide() -> dict[str, RelaxationDocument]:
    """Energies of SevenNet-0: NiO comes out unstable without corrections."""
    oxygen = Structure(Lattice.cubic(4.0), ["O", "O"], [[0, 0, 0], [0.3, 0, 0]])
    return {
        "Ni": relaxed("Ni", cell(2.5, "Ni"), -5.78, kind="element"),
        "O": relaxed("O", oxygen, -4.915, kind="element"),
        "NiO": relaxed("NiO", NIO, (-5.78 - 4.915) / 2 + 0.412),
    }


def test_corrections_come_by_themselves_where_scales_mix() -> None:
    campaign = Campaign(system=("Ni", "O"))
    found = phases(nickel_oxide(), campaign)
    assert found["NiO"].formation_energy_per_atom == pytest.approx(0.412 - 1.614)
    assert found["NiO"].e_above_hull == 0.0
    assert found["NiO"].correction_per_atom == pytest.approx(-1.614)
    for phase in found.values():
        assert phase.level_of_theory.corrections == "MP2020 corrections"
    assert Knowledge(campaign, nickel_oxide()).hull.level.corrections is not None
    plain = parse_campaign({"system": "Ni-O", "relaxation": {"corrections": "none"}}, "file")
    found = phases(nickel_oxide(), plain)
    assert found["NiO"].formation_energy_per_atom == pytest.approx(0.412)
    assert found["NiO"].correction_per_atom is None
    lines = warnings_of(list(found.values()), nickel_oxide(), plain)
    assert any("GGA+U" in line for line in lines)


def test_where_scales_do_not_mix_nothing_is_corrected() -> None:
    assert mixes_scales(["Ni", "O"])
    assert mixes_scales(["Bi", "Fe", "F"])
    assert not mixes_scales(["Ni", "S"])
    assert not mixes_scales(["Zn", "O"])
    for system, engine in (
        ("Bi-Se", {"name": "sevennet"}),
        ("Zn-O", {"name": "sevennet"}),
        ("Ni-O", {"name": "chgnet"}),
        ("Ni-O", {"name": "sevennet", "checkpoint": "7net-mf-0", "modal": "R2SCAN"}),
        ("Ni-O", {"name": "vasp"}),
    ):
        campaign = parse_campaign({"system": system, "relaxation": {"engine": engine}}, "file")
        assert campaign.corrections is None
    for engine in ({"name": "chgnet"}, {"name": "vasp"}):
        data = {"relaxation": {"engine": engine, "corrections": "mp2020"}}
        with pytest.raises(UserError, match="corrections"):
            parse_campaign({"system": "Ni-O", **data}, "file")


@pytest.mark.parametrize("order", list(permutations(["Fe", "O", "He"])))
def test_a_noble_gas_changes_nothing_wherever_it_stands(order: tuple[str, ...]) -> None:
    """He, Ne and Ar have no electronegativity: pymatgen's is NaN."""
    amounts = {"Fe": 1, "O": 2, "He": 1}
    species = [symbol for symbol in order for _ in range(amounts[symbol])]
    crystal = cell(3.5, *species)
    # Wang et al., Sci. Rep. 11, 15496 (2021).
    assert Corrections().per_atom(crystal) == pytest.approx((-2.256 - 2 * 0.687) / 4)
    salt = Composition({{"Fe": "Li", "O": "F"}.get(e, e): 2 for e in order})
    assert not is_too_deep(salt, -2.6)
    assert is_too_deep(salt, -8.0)
