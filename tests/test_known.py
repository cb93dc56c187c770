"""Known crystals: how they are built, and whether a campaign has found them again."""

import gzip
import json
import shutil
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from rich.console import Console
from test_campaign import command

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.engines.corrections import mp2020
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import LOOSE_TOLERANCES, is_same
from ccdcgan.dft.structures.substitution import starting_volume
from ccdcgan.launchers.local.homologous import REPORTED, known_crystals, stack
from ccdcgan.launchers.local.rediscovery import (
    Known,
    Match,
    Reference,
    _difference,
    known,
    table_of,
)
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.propose import ProposeMaker


@pytest.mark.parametrize(
    ("m", "n", "formula", "group", "atoms", "c"),
    [
        # c: length of the hexagonal cell as measured, Å, of BiSe and Bi4Se3 in three digits.
        (0, 1, "Bi2Se3", "R-3m", 5, 28.64),
        (1, 2, "BiSe", "P-3m1", 12, 22.8),
        (1, 1, "Bi4Se3", "R-3m", 7, 40.0),
        (1, 3, "Bi8Se9", "R-3m", 17, None),
        (1, 5, "Bi4Se5", "P-3m1", 27, None),
        (2, 1, "Bi2Se", "P-3m1", 9, None),
        (7, 2, "Bi3Se", "P-3m1", 24, None),
    ],
)
def test_stacks_are_the_published_crystals(m, n, formula, group, atoms, c):
    structure = stack(m, n)
    assert structure.composition.reduced_formula == formula
    analyzer = SpacegroupAnalyzer(structure, symprec=0.01)
    assert analyzer.get_space_group_symbol() == group
    assert len(structure) == len(analyzer.find_primitive()) == atoms
    if c is not None:
        cell = analyzer.get_conventional_standard_structure()
        assert cell.lattice.c == pytest.approx(c, rel=0.015)


def test_all_that_are_built_have_sensible_bonds():
    crystals = known_crystals()
    formulas = {c.structure.composition.reduced_formula for c in crystals}
    assert len(formulas) == len(REPORTED) == 13
    # Long et al. (2021): eight in their database, seven not.
    paper = {"BiSe3", "Bi2Se3", "Bi4Se5", "Bi3Se2", "Bi5Se3", "Bi2Se", "Bi7Se3", "Bi3Se"}
    paper |= {"BiSe2", "Bi3Se4", "Bi8Se9", "BiSe", "Bi8Se7", "Bi6Se5", "Bi4Se3"}
    assert paper - formulas == {"BiSe2", "BiSe3"} and formulas < paper
    assert len({c.id for c in crystals}) == len(crystals) == 14
    for crystal in crystals:
        structure = crystal.structure
        for site in structure:
            nearest = sorted(n.nn_distance for n in structure.get_neighbors(site, 4.0))
            # Six neighbours of each atom: three above, three below.
            assert nearest[0] > 2.8 and len(nearest) >= 6 and nearest[5] < 3.6
        assert 28 < structure.volume / len(structure) < 36


def test_layers_right_above_each_other_are_similar():
    tetradymite = stack(0, 1)
    above, beside, (_, _, height) = tetradymite.lattice.matrix
    # Selenium above selenium keeps the layers apart.
    other = Structure(
        [above, beside, [0, 0, height + 1.2]],
        tetradymite.species,
        tetradymite.cart_coords,
        coords_are_cartesian=True,
    )
    assert not is_same(tetradymite, other)
    assert is_same(other, tetradymite, LOOSE_TOLERANCES)
    assert not is_same(stack(1, 2), stack(1, 3), LOOSE_TOLERANCES)


def test_multiples_are_the_same_stack():
    assert stack(2, 4) == stack(1, 2)
    with pytest.raises(ValueError, match="0 quintuple layers"):
        stack(1, 0)


def test_bi2se3_is_the_tetradymite_of_aflow():
    data = (
        resources.files("pymatgen.analysis") / "prototypes" / "aflow_prototypes.json.gz"
    ).read_bytes()
    (entry,) = (
        e
        for e in json.loads(gzip.decompress(data))
        if e["tags"]["aflow"] == "A2B3_hR5_166_c_ac" and e["tags"]["strukturbericht"] == "C33"
    )
    prototype = Structure.from_dict(entry["snl"])
    count = Counter(site.specie.symbol for site in prototype)
    metal = min(count, key=lambda e: count[e])
    prototype.replace_species({metal: "Bi", next(e for e in count if e != metal): "Se"})
    assert is_same(stack(0, 1), starting_volume(prototype))
    assert not is_same(stack(1, 2), starting_volume(prototype))


def test_compositions_are_left_out_of_the_prototypes(empty_store):
    settings = {"filters": {"max_sites": 6}, "max_candidates": 20, "element_sites": 3}

    def propose(**more) -> dict:
        campaign = parse_campaign({"database": settings | more}, "x").model_dump(mode="json")
        return ProposeMaker.make.original(ProposeMaker(), campaign)

    def formulas(proposed: dict, kind: str) -> Counter:
        return Counter(
            Structure.from_dict(c["structure"]).composition.reduced_formula
            for c in proposed["candidates"]
            if c["origin"]["kind"] == kind
        )

    everything, less = propose(max_candidates=None), propose(without=["Bi4Se4", "Bi2Se3"])
    gone = formulas(everything, "prototype")["BiSe"] + formulas(everything, "prototype")["Bi2Se3"]
    assert less["rejected"]["left out by database.without"] == gone > 0
    assert "left out by database.without" not in everything["rejected"]
    # They are left out before the cut: others take their places.
    assert formulas(less, "prototype").total() == 20
    assert not {"BiSe", "Bi2Se3"} & set(formulas(less, "prototype"))
    assert formulas(less, "element") == formulas(everything, "element")


def test_a_ternary_has_the_binaries_that_its_hull_needs(empty_store):

    def proposed(system: str) -> Counter:
        settings = {"filters": {"max_sites": 5}, "max_candidates": 20, "element_sites": 3}
        campaign = parse_campaign({"system": system, "database": settings}, "x")
        made = ProposeMaker.make.original(ProposeMaker(), campaign.model_dump(mode="json"))
        candidates = made["candidates"]
        assert len({c["origin"]["id"] for c in candidates}) == len(candidates)
        return Counter(
            Structure.from_dict(c["structure"]).composition.chemical_system
            for c in candidates
            if c["origin"]["kind"] == "prototype"
        )

    assert proposed("Bi-Se") == {"Bi-Se": 20}
    ternary = proposed("Bi-Se-Te")
    assert ternary == {"Bi-Se": 20, "Bi-Te": 20, "Se-Te": 20, "Bi-Se-Te": 20}


def test_what_is_left_out_is_part_of_the_campaign():
    base = Campaign()
    assert base.digest() == parse_campaign({"database": {"without": []}}, "x").digest()
    one, same = (
        parse_campaign({"database": {"without": w}}, "x")
        for w in (["Bi2Se3", "Bi3Se"], ["Bi6Se2", "Bi4Se6", "Bi2Se3"])
    )
    assert one == same and one.digest() == same.digest() != base.digest()
    assert one.database.without == ("Bi2Se3", "Bi3Se")


@pytest.mark.parametrize("formula", ["Bi", "Bi2Te3", "BiSbSe", "Selenide", "2"])
def test_what_cannot_be_left_out_is_said_in_one_line(tmp_path, monkeypatch, capsys, formula):
    folder = tmp_path / "run"
    code, said = command(
        monkeypatch, capsys, "run", "--workdir", str(folder), "--without", f"Bi2Se3,{formula}"
    )
    assert code == 2 and formula in said and len(said.splitlines()) == 1
    assert not folder.exists()


@pytest.fixture(scope="module")
def campaign(finished, tmp_path_factory) -> Path:
    """The folder of a small campaign, to write into."""
    folder = tmp_path_factory.mktemp("known") / "run"
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture(scope="module")
def references(campaign) -> Path:
    """A generated crystal, one of the database, a stack, and what is no reference."""
    with gzip.open(campaign / "phases.json.gz") as stream:
        phases = [p for p in json.load(stream) if p["converged"]]
    generated = next(p for p in phases if p["origin"]["kind"] == "generated")
    prototype = next(p for p in phases if p["origin"]["kind"] == "prototype")
    folder = campaign.parent / "references"
    folder.mkdir()
    crystals = {"a": generated["structure"], "b": prototype["structure"]}
    crystals["c"] = stack(2, 1).as_dict()
    foreign = stack(0, 1)
    foreign.replace_species({"Se": "Te"})
    crystals["d"] = foreign.as_dict()
    for name, crystal in crystals.items():
        (folder / f"{name}.json").write_text(json.dumps(crystal))
    (folder / "origins.txt").write_text(json.dumps([generated["origin"], prototype["origin"]]))
    return folder


def test_references_are_found_again(campaign, references, monkeypatch, capsys, tmp_path):
    generated, prototype = json.loads((references / "origins.txt").read_text())
    before = (campaign / "phases.json.gz").read_bytes()
    out = tmp_path / "known.json"
    arguments = ("known", "--campaign", campaign, "--references", references, "--out", out)
    code, said = command(monkeypatch, capsys, *map(str, arguments))
    assert code == 0, said
    assert "3 known crystals found again" in said
    found = json.loads(out.read_text())
    assert found["left_out"] == {"other elements than Bi-Se": 1}
    first, second, third = found["references"]
    assert [r["id"] for r in found["references"]] == [f"file:{n}.json" for n in "abc"]
    assert all(r["converged"] for r in found["references"])
    assert first["generated"]["origin"]["round"] == generated["round"]
    assert first["generated"]["origin"]["sample"] == generated["sample"]
    # Relaxed to the same threshold once more: hardly anything happens.
    assert first["generated"]["displacement"] < 0.1
    assert abs(first["generated"]["energy_difference"]) < 20
    assert first["samples"] >= 1
    assert first["best_energy_difference"] <= first["generated"]["energy_difference"]
    assert second["database"]["origin"]["id"] == prototype["id"]
    assert third["formula"] == "Bi2Se" and third["database"] is None is third["generated"]
    assert third["spacegroup"] == "P-3m1 (164)" and third["displacement"] < 0.3
    assert isinstance(third["e_above_hull"], float)
    # Neither the campaign nor what is asked again changes, and nothing is relaxed twice.
    assert (campaign / "phases.json.gz").read_bytes() == before
    monkeypatch.setattr("ccdcgan.workflows.relax.relax_many", lambda cells, *_: list(cells))
    assert known(campaign, references).model_dump(mode="json") == found


def test_energies_are_compared_as_on_the_hull():
    """MP2020 corrects a manganese oxide with peroxide bonds otherwise than rutile."""
    level = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE, uncorrected")

    def relaxed(key, structure, energy):
        crystal = structure.as_dict()
        return RelaxationDocument.model_validate(
            {
                **{"key": key, "structure": crystal, "initial_structure": crystal},
                **{"energy_per_atom": energy, "converged": True, "campaign": "x"},
                **{"origin": {"kind": "prototype", "id": key}, "level_of_theory": level},
            }
        )

    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.4, 2.87), ["Mn", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    )
    peroxide = Structure(
        Lattice.cubic(4.0), ["Mn", "O", "O"], [[0, 0, 0], [0.5, 0.5, 0.317], [0.5, 0.5, 0.683]]
    )
    ends = [
        relaxed("Mn", Structure(Lattice.cubic(2.8), ["Mn"], [[0, 0, 0]]), -9.0),
        relaxed("O", Structure(Lattice.cubic(4), ["O", "O"], [[0, 0, 0], [0.3, 0, 0]]), -4.9),
    ]
    oxides = [relaxed("rutile", rutile, -7.0), relaxed("peroxide", peroxide, -7.0)]
    crystals = [(d.structure, d.energy_per_atom, level) for d in [*ends, *oxides]]
    hull = Hull.of(crystals, ["Mn", "O"], mp2020())
    # Wang et al., Sci. Rep. 11, 15496 (2021): Mn -1.668, O of oxides -0.687, of peroxides -0.465.
    expected = 1e3 * 2 * (0.687 - 0.465) / 3
    assert _difference(oxides[1], oxides[0], hull) == pytest.approx(expected, abs=0.1)


def test_references_of_other_systems_must_be_given(monkeypatch, capsys, tmp_path, campaign):
    code, said = command(monkeypatch, capsys, "known", "--campaign", str(tmp_path))
    assert code == 2 and "holds no campaign" in said
    monkeypatch.setattr(
        "ccdcgan.launchers.local.finished.Campaign.elements", property(lambda _: ["Bi", "Te"])
    )
    code, said = command(monkeypatch, capsys, "known", "--campaign", str(campaign))
    assert code == 2 and "--references" in said and len(said.splitlines()) == 1


def test_the_table_fits_a_terminal_and_names_what_did_not_converge(capsys):
    plain = {"key": "k", "formula": "Bi8Se7", "atoms": 45, "spacegroup": "P-3m1 (164)"}
    crystals = [
        Reference(id="5-7", **plain, converged=True, reason=None, displacement=0.1),
        Reference(id="x", **plain, converged=False, reason="[oops]", displacement=None),
    ]
    origin = Origin(kind="generated", id="g", round=20, sample=12345)
    match = Match(id="i", origin=origin, displacement=0.123, energy_difference=-0.84)
    crystals.append(crystals[0].model_copy(update={"similar": match, "converged": True}))
    level = LevelOfTheory(engine="e", package="p", checkpoint="c", scale="s")
    found = Known(
        campaign="c", level_of_theory=level, left_out={}, references=crystals, definitions={}
    )
    Console(width=80).print(table_of(found))
    said = capsys.readouterr().out
    assert "0 of 3 known crystals found again, 1 more similar" in said
    assert "≈20: 12345 0.12 -0.8" in said and "x: [oops]" in said and "…" not in said
