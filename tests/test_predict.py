"""``ccdcgan predict``: the crystal structure of a composition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import complaint, status_of
from pymatgen.core import Lattice, Structure
from ruamel.yaml import YAML

from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.launchers.local import predict
from ccdcgan.launchers.local.predict import Prediction, Wishes, campaign_of
from ccdcgan.workflows.campaign import Campaign, load_campaign, parse_campaign

#: Energies of seconds, and networks that learn next to nothing.
QUICK = """
relaxation: {engine: {name: sevennet}, fmax: 0.3, refine: null}
networks: {gan_steps: 50, guide_epochs: 2}
workers: 1
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Se"], "Se has one element"),
        (["bise"], "'bise' is no formula such as Bi2Se3"),
        (["Xx2Se"], "'Xx2Se' is no formula such as Bi2Se3"),
        (["Bi2Se3", "--max-atoms", "4"], "Bi2Se3: 5 atoms are more than 4"),
        (["PoSe"], "Po"),
        ([""], "'' is no formula such as Bi2Se3"),
        (["Bi2Se3:"], "'Bi2Se3:' is no formula such as Bi2Se3"),
        (["1/2Bi2Se3"], "'1/2Bi2Se3' is no formula such as Bi2Se3"),
        (["Bi2.5Se3"], "'Bi2.5Se3' has parts of atoms: give whole numbers"),
        (["Bi0Se"], "Bi0Se has one element"),
        (["Bi2Se3", "NaCl", "Se6Bi4"], "Bi2Se3 is asked for twice"),
        (["NaCl", "--spacegroup", "230", "--max-atoms", "8"], "NaCl up to 8 atoms can have space"),
        (["NaCl", "--spacegroup", "Fm-4m"], "did you mean 'fm-3m'"),
        (["NaCl", "--crystal-system", "cubick"], "did you mean 'cubic'"),
        (["NaCl", "--pressure", "-3"], "relaxation.pressure: Input should be greater than or"),
        (["NaCl", "--pressure", "1e6"], "relaxation.pressure: Input should be less than or"),
        (["NaCl", "--pressure", "nan"], "relaxation.pressure: nan is no finite number"),
        (["NaCl", "--budget", "0"], "--budget"),
        (["NaCl", "--minutes", "0"], "--minutes 0: give more than 0"),
        (["NaCl", "TiC", "--to-file", "a.yaml"], "--to-file a.yaml: a campaign is for one formula"),
        (["BiSe", "--json", "nowhere/a.json"], "there is no folder nowhere"),
        (["BiSe", "--campaign", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_mistakes_get_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    if any(option in arguments for option in ("230", "Fm-4m")):
        pytest.importorskip("pyxtal")
    monkeypatch.chdir(tmp_path)
    assert words in complaint(monkeypatch, capsys, "predict", *arguments)
    assert not any(tmp_path.iterdir())


def test_the_campaign_of_a_formula() -> None:
    found = campaign_of("Se6Bi4", Wishes(max_sites=12, without_prototypes=True, seed=3))
    assert (found.elements, found.seed) == (["Bi", "Se"], 3)
    assert found.search.compositions == ("Bi2Se3",)
    # A place exchanged makes one of the other: all of the type are left out.
    assert found.database.without == ("Bi2Se3", "Bi3Se2")
    # First, as it makes few: the others have what it leaves.
    assert found.sources == ("random", *Campaign().sources)
    assert found.relaxation.refine == 0.01
    assert found.searched() == [[2, 3], [4, 6]]
    assert campaign_of("NaCl").elements == ["Na", "Cl"]
    assert campaign_of("NaCl").database.elements == "own"
    pressed = campaign_of("NaCl", Wishes(pressure=20, spacegroups=("Fm-3m",)))
    assert pressed.relaxation.pressure == 20 and pressed.database.elements == "all"
    assert pressed.search.groups == {225}
    kept = {"pressure": 5, "fmax": 0.1, "refine": 0.02}
    base = parse_campaign({"relaxation": kept, "workers": 2}, "x")
    begun = campaign_of("NaCl", base=base)
    assert (begun.relaxation, begun.workers) == (base.relaxation, 2)
    assert begun.database.elements == "all"


def test_a_prediction_is_submitted_as_any_campaign(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.yaml").write_text(QUICK)
    asked = ("predict", "ClNa", "--campaign", "quick.yaml", "--pressure", 20, "--budget", 200)
    assert status_of(monkeypatch, *asked, "--to-file", "nacl.yaml") == 0
    assert "ccdcgan submit nacl.yaml" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nacl.yaml", "quick.yaml"]
    written = load_campaign(tmp_path / "nacl.yaml")
    here = campaign_of("NaCl", Wishes(pressure=20), load_campaign(tmp_path / "quick.yaml"))
    # 60 prototypes, and 20 a round.
    assert written.loop.rounds == 7
    alike = written.model_copy(update={"loop": here.loop})
    assert alike.digest() == here.digest() and not alike.changes(here)
    assert status_of(monkeypatch, *asked, "--to-file", "nacl.yaml") == 2
    assert "nacl.yaml exists already" in capsys.readouterr().err


class BegunError(Exception):
    """A campaign was begun."""


@pytest.mark.parametrize(
    ("budget", "there", "prototypes"),
    [
        (10, None, 24),
        (60, None, 30),
        (400, None, 60),
        # With others, what the folder has would not be drawn again.
        (60, 60, 60),
        (400, 30, 30),
    ],
)
def test_a_search_begins_with_prototypes_for_half_its_budget(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    budget: int,
    there: int | None,
    prototypes: int,
) -> None:
    begun: list[Campaign] = []

    def begin(campaign: Campaign, folder: Path, **more: object) -> None:
        begun.append(campaign)
        raise BegunError

    monkeypatch.setattr("ccdcgan.launchers.local.run.run_campaign", begin)
    asked = campaign_of("NaCl")
    if there is not None:
        database = asked.database.model_copy(update={"max_candidates": there})
        before = asked.model_copy(update={"database": database})
        predict.write_campaign(before, tmp_path / "campaign.yaml")
    with pytest.raises(BegunError):
        predict.predict(asked, tmp_path, budget)
    assert begun[0].database.max_candidates == prototypes
    if there is None:
        assert predict.prototypes_of(budget) == prototypes
        rounds = predict.rounds_of(budget)
        assert rounds == 1 or abs(prototypes + predict.ROUND * rounds - budget) <= predict.ROUND


def test_prototypes_of_a_type_are_left_out_of_subscripts_as_well() -> None:
    without = campaign_of("Bi₂Se₃", Wishes(without_prototypes=True)).database.without
    assert without == campaign_of("Bi2Se3", Wishes(without_prototypes=True)).database.without
    assert "Bi2Se3" in without and "Bi3Se2" in without


def test_a_structure_is_predicted_and_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "ROUND", 3)
    monkeypatch.setattr(predict, "PROTOTYPES", 24)
    monkeypatch.setattr(predict, "SAMPLES", 60)
    (tmp_path / "quick.yaml").write_text(QUICK)
    command = ("predict", "ClNa", "--max-atoms", 4, "--campaign", "quick.yaml", "--json", "a.json")
    assert status_of(monkeypatch, *command, "--budget", 1) == 0
    found = Prediction.model_validate_json((tmp_path / "a.json").read_text())
    plain = json.loads((tmp_path / "a.json").read_text())
    assert found.formula == plain["formula"] == "NaCl"
    assert list(plain) == ["formula", "level_of_theory", "seconds", "relaxed", "structures"]
    energies = [one.energy_per_atom for one in found.structures]
    assert energies == sorted(energies) and found.structures[0].e_above_lowest == 0.0
    rocksalt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    assert is_same(found.structures[0].structure, rocksalt)
    for one, stored in zip(found.structures, plain["structures"], strict=True):
        structure = decode_structure(stored["structure"])
        assert structure == one.structure == Structure.from_dict(stored["structure"])
        assert structure.composition.reduced_formula == "NaCl" and len(structure) <= 4
        assert one.e_above_lowest == pytest.approx(one.energy_per_atom - energies[0])
    assert {one.source for one in found.structures} >= {"prototype"}
    assert found.structures[0].spacegroup in capsys.readouterr().out

    more = found.relaxed + 1
    assert status_of(monkeypatch, *command, "--budget", more) == 0
    again = Prediction.model_validate_json((tmp_path / "a.json").read_text())
    assert again.relaxed >= more
    assert energies[0] in [one.energy_per_atom for one in again.structures]
    campaign = YAML(typ="safe").load((tmp_path / "ccdcgan-predict/NaCl/campaign.yaml").read_text())
    assert campaign["search"]["compositions"] == ["NaCl"]
