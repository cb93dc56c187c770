"""``ccdcgan stability``: phonons and elastic constants as a stage of a campaign."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import complaint, status_of
from small_campaign import CAMPAIGN, results

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.results.results import Results
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows import phases as phases_of
from ccdcgan.workflows import stability as stage
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.sections import StabilitySettings
from ccdcgan.workflows.storage.stores import DATA, PHASES, artifact_in, artifact_key


def test_the_best_crystal_of_a_campaign_is_examined_once(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, file = tmp_path / "run", tmp_path / "stability.json"
    shutil.copytree(finished, folder)
    _, before = results(folder)
    # Whatever its two new crystals are: another machine rounds otherwise, and finds others.
    monkeypatch.setattr(phases_of, "paper_word", lambda phase, thresholds: "metastable")
    assert status_of(monkeypatch, "stability", folder, "--count", 1, "--json", file) == 0
    (found,) = json.loads(file.read_text())
    _, phases = results(folder)
    # The folder's campaign asks for more now: it is another one, and its crystals show once.
    assert Results.in_folder(folder).count() == len(phases)
    assert Results.in_folder(folder).hull() is not None
    # What was there is there, with the same energies; the new ones come from imaginary modes.
    energies = {p["id"]: p["energy_per_atom"] for p in phases}
    assert {p["id"]: p["energy_per_atom"] for p in before}.items() <= energies.items()
    added = [p for p in phases if p["id"] not in {q["id"] for q in before}]
    assert all(p["origin"]["source"] == "mode" for p in added)
    # Of imaginary modes those that a small cell holds are followed.
    store = embedded_store(folder).additional_stores[DATA]
    store.connect()
    key = artifact_key("stability", stage.VERSION, found["id"])
    kept = artifact_in(store, key, stage.StabilityArtifact)
    store.close()
    assert kept is not None and len(added) == (kept.stability.followed is not None)
    assert kept.stability.followed is None or found["dynamically_stable"] is False
    (phase,) = [p for p in phases if p["stability"]]
    assert phase["id"] == found["id"] and phase["formula"] == found["formula"]
    assert phase["stability"]["lowest_frequency_thz"] == found["lowest_frequency_thz"]
    assert found["dynamically_stable"] == (found["lowest_frequency_thz"] > -0.1)
    assert found["born_stable"] == ((found["shear_modulus_gpa"] or 0) > 0)
    (row,) = Results.in_folder(folder).frame(where={"stability": {"$ne": None}}).to_dict("records")
    assert row["lowest_frequency_thz"] == found["lowest_frequency_thz"]
    assert "Phonons and elastic constants" in (folder / "report.html").read_text()
    assert found["formula"] in capsys.readouterr().out

    monkeypatch.setattr(stage, "in_workers", lambda task, structures, *more: iter(()))
    again = tmp_path / "again.json"
    assert status_of(monkeypatch, "stability", folder, "--count", 1, "--json", again) == 0
    assert json.loads(again.read_text()) == [found]


def test_a_campaign_without_new_crystals_is_left_as_it_is(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    store = embedded_store(folder).additional_stores[PHASES]
    store.connect()
    store._collection.delete_many({"origin.kind": "generated"})
    store.close()
    before = (folder / "campaign.yaml").read_text(), sorted(folder.iterdir())
    assert "no new crystal near the hull" in complaint(monkeypatch, capsys, "stability", folder)
    assert ((folder / "campaign.yaml").read_text(), sorted(folder.iterdir())) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "holds no campaign"),
        (["--json", "nowhere/a.json"], "there is no folder nowhere"),
        (["--count", "0"], "count"),
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
    assert words in complaint(monkeypatch, capsys, "stability", *arguments)


@pytest.mark.parametrize(
    ("relaxation", "words"),
    [
        (
            {"engine": {"name": "vasp", "stages": ["static"]}},
            "stability: phonons by vasp need a relaxation among engine.stages and none of a maker",
        ),
        (
            {"engine": {"name": "vasp", "stages": ["relax", {"kind": "static", "maker": "a.b:C"}]}},
            "stability: phonons by vasp need a relaxation among engine.stages and none of a maker",
        ),
        ({"pressure": 5.0}, "stability: elastic constants are those at no pressure"),
    ],
)
def test_what_cannot_be_examined_is_refused(relaxation: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_campaign({"relaxation": relaxation, "stability": {"count": 2}}, "a file")


def test_a_folder_that_cannot_be_examined_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "relaxation: {engine: {name: vasp, stages: [static]}}\n"
    (tmp_path / "campaign.yaml").write_text(text)
    assert "phonons by vasp need a relaxation" in complaint(
        monkeypatch, capsys, "stability", tmp_path
    )


def test_a_campaign_without_the_stage_keeps_its_digest() -> None:
    from ruamel.yaml import YAML

    plain = parse_campaign(YAML(typ="safe").load(CAMPAIGN), "small")
    assert "stability" not in plain.model_dump(mode="json")
    more = plain.model_copy(update={"stability": StabilitySettings(count=3)})
    assert more.digest() != plain.digest() and not plain.differences(more)
