"""``ccdcgan predict``: the crystal structure of a composition."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from ruamel.yaml import YAML

from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.launchers.cli import app
from ccdcgan.launchers.local import predict
from ccdcgan.launchers.local.predict import Prediction, campaign_of
from ccdcgan.workflows.campaign import Campaign

#: Energies of seconds, and networks that learn next to nothing.
QUICK = """
relaxation: {engine: {name: sevennet}, fmax: 0.3}
networks: {gan_steps: 50, guide_epochs: 2}
workers: 1
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ccdcgan", *map(str, arguments)])
    try:
        app.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Se"], "Se has one element"),
        (["bise"], "'bise' is no formula such as Bi2Se3"),
        (["Xx2Se"], "'Xx2Se' is no formula such as Bi2Se3"),
        (["Bi2Se3", "--max-atoms", "4"], "Bi2Se3: 5 atoms are more than 4"),
        (["PoSe"], "Po"),
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
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "predict", *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]
    assert not any(tmp_path.iterdir())


def test_the_campaign_of_a_formula() -> None:
    found = campaign_of("Se6Bi4", max_sites=12, without_prototypes=True, seed=3)
    assert (found.elements, found.seed) == (["Bi", "Se"], 3)
    assert found.search.compositions == ("Bi2Se3",)
    # A place exchanged makes one of the other: all of the type are left out.
    assert found.database.without == ("Bi2Se3", "Bi3Se2")
    assert set(found.sources) == {*Campaign().sources, "random"}
    assert found.searched() == [[2, 3], [4, 6]]
    assert campaign_of("NaCl").elements == ["Na", "Cl"]


def test_a_structure_is_predicted_and_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "ROUND", 3)
    monkeypatch.setattr(predict, "PROTOTYPES", 24)
    (tmp_path / "quick.yaml").write_text(QUICK)
    command = ("predict", "ClNa", "--max-atoms", 4, "--campaign", "quick.yaml", "--json", "a.json")
    assert run(monkeypatch, *command, "--budget", 1) == 0
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
    assert run(monkeypatch, *command, "--budget", more) == 0
    again = Prediction.model_validate_json((tmp_path / "a.json").read_text())
    assert again.relaxed >= more
    assert energies[0] in [one.energy_per_atom for one in again.structures]
    campaign = YAML(typ="safe").load((tmp_path / "ccdcgan-predict/NaCl/campaign.yaml").read_text())
    assert campaign["search"]["compositions"] == ["NaCl"]
