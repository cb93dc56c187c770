"""Folders that go on with a campaign that does more or less, and those that hold another one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from small_campaign import CAMPAIGN, ccdcgan, results
from test_campaign import command

from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.local.presets import preset_text
from ccdcgan.launchers.workdir import embedded_store, open_workdir
from ccdcgan.workflows.campaign import Campaign, load_campaign, parse_campaign
from ccdcgan.workflows.documents import Claim, Origin
from ccdcgan.workflows.relax import merge_entries
from ccdcgan.workflows.storage.stores import RESULTS

VASP = {"name": "vasp", "incar": {"ALGO": "Fast"}}
BEGUN: dict[str, Any] = {
    "system": "Bi-Se",
    "relaxation": {"engine": {"name": "sevennet"}, "fmax": 0.1},
    "confirm": {"relaxation": {"engine": VASP}},
}


def changed(where: str, value: Any) -> dict[str, Any]:
    data = parse_campaign(BEGUN, "x").model_dump(mode="json")
    *above, key = where.split(".")
    inner = data
    for part in above:
        inner = inner[part]
    inner[key] = value
    return data


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("database.max_candidates", 40),
        ("database.filters.max_sites", 8),
        ("database.sources", [{"source": "aflow"}, {"source": "random", "count": 7}]),
        ("database.element_sites", 5),
        ("references", [{"source": "files", "path": "/known.cif"}]),
        ("loop.rounds", 5),
        ("loop.samples", 100),
        ("loop.relaxations", 100),
        ("loop.stackings", 10),
        ("loop.screening.max_sites", 12),
        ("networks.gan_steps", 500),
        ("workers", 1),
        ("confirm", None),
        ("confirm.count", 3),
        ("confirm.relaxation.engine.walltime", 12.0),
        ("confirm.relaxation.engine.incar", {"ALGO": "Fast", "NCORE": 4}),
    ],
)
def test_what_is_done_more_or_less_goes_on(tmp_path: Path, where: str, value: Any) -> None:
    folder, stored = tmp_path / "run", tmp_path / "run" / "campaign.yaml"
    before, after = parse_campaign(BEGUN, "x"), parse_campaign(changed(where, value), "x")
    assert next(iter(before.changes(after))).startswith(where)
    with open_workdir(folder, before):
        first = stored.read_bytes()
    for _ in range(2):
        with open_workdir(folder, after) as campaign:
            assert campaign == load_campaign(stored) == after
    # The earlier file stays, and only a change makes another.
    assert [p.name for p in folder.glob("campaign.*.yaml")] == ["campaign.1.yaml"]
    assert (folder / "campaign.1.yaml").read_bytes() == first
    with open_workdir(folder, before):
        assert load_campaign(folder / "campaign.2.yaml") == after


@pytest.mark.parametrize("where", ["relaxation", "confirm"])
def test_a_folder_keeps_the_stages_that_it_began_with(tmp_path: Path, where: str) -> None:
    def campaign(**engine: Any) -> Campaign:
        relaxation = {"engine": {"name": "vasp", **engine}}
        chosen = {"relaxation": relaxation}
        return parse_campaign(chosen if where == "relaxation" else {"confirm": chosen}, "x")

    def stages(campaign: Campaign) -> list[Any]:
        engines = [r.engine for r in campaign.relaxations.values()]
        return [e.stages for e in engines if isinstance(e, VaspEngine)]

    folder, new = tmp_path / "old", tmp_path / "new"
    with open_workdir(folder, campaign(stages=["relax"])) as begun:
        assert stages(begun) == [("relax",)]
    with open_workdir(folder, campaign()) as again:
        assert stages(again) == [("relax",)] and again.digest() == begun.digest()
    with open_workdir(new, campaign()) as first:
        assert stages(first) == [("relax", "relax", "static")]
    with open_workdir(new, campaign()) as again:
        assert again.digest() == first.digest()
    own = [["relax", {"kind": "static", "incar": {"ALGO": a, "ENCUT": 600}}] for a in ("All", "N")]
    with open_workdir(tmp_path / "own", campaign(stages=own[0])):
        pass
    with open_workdir(tmp_path / "own", campaign(stages=own[1])) as again:
        assert stages(again) != stages(campaign(stages=own[0])), "of a technical tag"
    other = campaign(stages=["relax", "relax", "static"])
    with pytest.raises(UserError, match="stages"), open_workdir(folder, other):
        pass


def test_a_folder_goes_on_without_the_symmetry_that_it_began_without(tmp_path: Path) -> None:
    """The preset's file of today and of before; another force is another campaign."""
    text = preset_text("quickstart")
    before = "\n".join(line for line in text.splitlines() if "refine:" not in line)
    today, old, other = (
        parse_campaign(YAML(typ="safe").load(t), "x")
        for t in (text, before, text.replace("refine: 0.01", "refine: 0.02"))
    )
    assert today.relaxation.refine and today.digest() != old.digest()
    with open_workdir(tmp_path / "old", old):
        pass
    with open_workdir(tmp_path / "old", today) as again:
        assert again.relaxation.refine is None and again.digest() == old.digest()
    with (
        pytest.raises(UserError, match="refine is not set there and 0.02 here"),
        open_workdir(tmp_path / "old", other),
    ):
        pass
    with open_workdir(tmp_path / "new", today) as first:
        assert first.digest() == today.digest()
    with open_workdir(tmp_path / "new", today) as again:
        assert again.digest() == first.digest()


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("system", ["Bi", "Te"], ["system is ['Bi', 'Se'] there and ['Bi', 'Te'] here"]),
        ("seed", 4, ["seed is 0 there and 4 here"]),
        ("relaxation.fmax", 0.02, ["relaxation.fmax is 0.1 there and 0.02 here"]),
        ("relaxation.max_steps", 9, ["relaxation.max_steps"]),
        ("relaxation.engine", {"name": "chgnet"}, ["relaxation.engine.name", "'chgnet'"]),
        ("relaxation.engine.dispersion", "d3bj", ["relaxation.engine.dispersion", "'d3bj'"]),
        ("confirm.relaxation.engine.incar", {"ENCUT": 400}, ["engine.incar.ENCUT", "400"]),
        ("networks.preset", "default", ["networks.preset"]),
        ("networks.omega", 0.5, ["networks.omega is 0.1 there and 0.5 here"]),
        ("networks.goals", [{"property": "density"}], ["networks.goals", "density"]),
        ("database.without", ["BiSe"], ["database.without is not set there and ['BiSe'] here"]),
        ("thresholds.stable", 0.05, ["thresholds.stable is 0.1 there and 0.05 here"]),
    ],
)
def test_another_campaign_is_refused_with_both_values(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    value: Any,
    words: list[str],
) -> None:
    folder = tmp_path / "run"
    with open_workdir(folder, parse_campaign(BEGUN, "x")):
        before = (folder / "campaign.yaml").read_bytes()
    other = parse_campaign(changed(where, value), "x")
    with pytest.raises(UserError, match="holds another campaign") as error:
        open_workdir(folder, other).__enter__()
    message = str(error.value)
    assert all(word in message for word in [*words, str(folder), "--workdir"]), message
    assert "\n" not in message and len(message) < 900
    assert (folder / "campaign.yaml").read_bytes() == before
    path = tmp_path / "other.yaml"
    YAML().dump(other.model_dump(mode="json"), path)
    for verb in ("run", "check"):
        code, said = command(monkeypatch, capsys, verb, str(path), "--workdir", str(folder))
        assert code == 2 and words[0] in said and "Traceback" not in said


def test_a_stage_of_several_jobs_took_the_time_of_all() -> None:
    def entry(key: str) -> dict[str, Any]:
        origin = Origin(kind="prototype", id=key)
        return Claim(key=key, origin=origin).model_dump(mode="json")

    batches = [{"entries": [entry(k)], "seconds": took} for k, took in (("a", 2.0), ("b", 3.0))]
    merged = merge_entries.original(batches)
    assert merged == {"entries": [entry("a"), entry("b")], "seconds": 5.0}


def documents(folder: Path) -> dict[str, dict[str, Any]]:
    store = embedded_store(folder)
    store.connect()
    found = {d["key"]: d for d in store.additional_stores[RESULTS].query()}
    store.close()
    return found


def test_more_candidates_and_rounds_take_what_is_there(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = documents(folder)
    assert len(before) > 50
    text = CAMPAIGN.replace("max_candidates: 24", "max_candidates: 26")
    text = text.replace("rounds: 1", "rounds: 2").replace("relaxations: 2", "relaxations: 3")
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text(text)
    process = ccdcgan("run", campaign, "--workdir", folder, cwd=tmp_path)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    summary, phases = results(folder)
    assert summary["database"]["candidates"] == 26 and len(summary["rounds"]) == 2
    after = documents(folder)
    # Each has the time that it took: none was relaxed again.
    assert {key: after[key] for key in before} == before
    assert len(before) < len(after) <= len(before) + 2 + 2 * 3
    assert {p["id"] for p in phases} <= after.keys()
    assert load_campaign(folder / "campaign.1.yaml").loop.rounds == 1
