"""Nobody's NaN: what is not finite is no result, wherever it comes from."""

from __future__ import annotations

import copy
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from outcomes import outcome_of
from test_results import EVERY
from test_trust import SECOND, cell, palladium

from ccdcgan.dft.engines.frames import Frame
from ccdcgan.dft.engines.vasp.files import Run
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.verdict import refused
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import SecondOpinion
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.launchers.results.export import export
from ccdcgan.launchers.results.outcome import write_results
from ccdcgan.launchers.results.results import Results
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Claim, Outcome, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.storage.stores import PHASES, RESULTS, Relaxations

NOT_FINITE = [math.nan, math.inf, -math.inf]


def strict(text: str | bytes) -> Any:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} in JSON")

    return json.loads(text, parse_constant=refuse)


def spoil(document: dict[str, Any], what: str, value: float) -> str:
    """Put a number that is not finite into a document as it is stored; what its reason says."""
    if what == "geometry":
        document["structure"]["sites"][0]["abc"][1] = value
    elif what == "cell":
        document["structure"]["lattice"]["matrix"][2][2] = value
        return "geometry"
    else:
        name = {"energy": "energy_per_atom", "force": "max_force", "stress": "max_stress"}[what]
        document[name] = value
    return what


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("what", ["energy", "force", "stress", "geometry", "cell"])
def test_a_stored_result_that_is_not_finite_has_failed(
    tmp_path: Path, what: str, value: float
) -> None:
    campaign = Campaign(system=("Be", "Pd"))
    sound = palladium()
    store = embedded_store(tmp_path).additional_stores[RESULTS]
    store.connect()
    # As versions before this one have written it: no model has looked at it.
    stored = copy.deepcopy([d.model_dump(mode="json") for d in sound.values()])
    (bad,) = [d for d in stored if d["key"] == "BePd2"]
    reason = spoil(bad, what, value)
    store.update(stored, key="key")
    documents = Relaxations(store).get(sound)
    found = documents["BePd2"]
    assert (found.energy_per_atom, found.converged) == (None, False)
    assert (found.max_force, found.max_stress, found.second_opinion) == (None, None, None)
    assert found.reason == f"{reason} is not finite"
    decode_structure(found.structure)
    strict(json.dumps(found.model_dump(mode="json"), allow_nan=False))
    # It is on no hull and in no training set; all else is as without it.
    without = {k: d for k, d in documents.items() if k != "BePd2"}
    entries = [Claim(key=k, origin=d.origin) for k, d in documents.items()]
    phases = {p.id: p for p in Knowledge(campaign, documents, entries).phases}
    assert phases["BePd2"].label == "not converged"
    assert phases["BePd2"].e_above_hull is None
    for other in Knowledge(campaign, without, [e for e in entries if e.key != "BePd2"]).phases:
        assert phases[other.id] == other
    assert {s.key for s in Knowledge(campaign, documents).samples} == {"BePd"}


def test_what_stands_beside_a_result_is_left_out_where_it_is_not_finite() -> None:
    sound = palladium()["BePd"]
    frame = Frame(
        cell=[[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]],
        positions=[[0.0, 0, 0]],
        energy=-1.0,
        forces=[[0.0, 0, 0]],
        stress=[0.0] * 6,
    )
    bad = [
        frame.model_copy(update={"energy": math.nan}),
        frame.model_copy(update={"forces": [[0.0, math.inf, 0]]}),
        frame.model_copy(update={"stress": [math.inf, -math.inf, 0, 0, 0, 0]}),
        frame.model_copy(update={"positions": [[math.nan] * 3]}),
    ]
    stored = sound.model_dump(mode="json") | {
        "frames": [f.model_dump() for f in [bad[0], frame, *bad[1:]]],
        "properties": {"bulk_modulus": math.nan, "hardness": 2.0},
        "second_opinion": SecondOpinion(level_of_theory=SECOND, energy_per_atom=math.nan),
    }
    found = RelaxationDocument.model_validate(stored)
    assert (found.energy_per_atom, found.converged) == (sound.energy_per_atom, True)
    assert found.frames == [frame]
    assert found.properties == {"hardness": 2.0}
    assert found.lacking == {"bulk_modulus": "not finite"}
    assert found.second_opinion is None


def test_no_hull_has_it() -> None:
    documents = palladium()
    # Past the model, as a table of energies might bring it.
    documents["BePd"].energy_per_atom = math.nan
    with pytest.raises(UserError, match="BePd is not finite"):
        _ = Knowledge(Campaign(system=("Be", "Pd")), documents).hull


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize(
    ("name", "said"), [("energy_per_atom", "energy"), ("max_force", "force"), ("max_stress", "s")]
)
@pytest.mark.parametrize("stage", ["relax", "static"])
def test_a_run_of_vasp_whose_numbers_are_not_finite_is_no_result(
    stage: Any, name: str, said: str, value: float
) -> None:
    structure = cell(5.0, "Be", "Pd", "Pd")
    run = Run(
        structure=structure,
        energy_per_atom=-5.0,
        max_force=0.001,
        max_stress=0.0001,
        electronic=True,
        ionic=True,
    )
    engine = VaspEngine()
    settings = RelaxationSettings(engine=engine)
    assert refused(run, engine, stage, settings) is None
    setattr(run, name, value)
    reason = refused(run, engine, stage, settings)
    assert reason is not None
    assert reason.startswith(said)
    assert reason.endswith("is not finite")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with the phases of an earlier version, one of them without a sound energy."""
    store = embedded_store(tmp_path).additional_stores[PHASES]
    store.connect()
    spoilt = {**EVERY[3], "energy_per_atom": math.nan, "e_above_hull": math.nan, "uid": "a:nan"}
    beside = {**EVERY[5], "second_opinion": {"engine": "o", "energy_per_atom": math.nan}}
    store._collection.insert_many([copy.deepcopy(p) for p in [*EVERY[:3], spoilt, beside]])
    (tmp_path / "campaign.yaml").write_text("system: Bi-Se\n")
    return tmp_path


@pytest.mark.parametrize("suffix", ["json", "jsonl", "zip", "extxyz"])
def test_published_phases_without_a_sound_energy_are_not_shown(
    published: Path, suffix: str
) -> None:
    results = Results.in_folder(published)
    found = results.find()
    assert sorted(p["uid"] for p in found) == sorted(p["uid"] for p in [*EVERY[:3], EVERY[5]])
    out = published / f"out.{suffix}"
    assert export([*found, {**found[0], "energy_per_atom": math.nan}], out) == 4
    text = out.read_bytes()
    if suffix == "json":
        strict(text)
    elif suffix == "jsonl":
        for line in text.splitlines():
            strict(line)
    assert b"nan" not in text.lower()


def test_the_files_of_a_campaign_are_strict_json(tmp_path: Path) -> None:
    bad = {"e_above_hull": math.nan, "formation_energy_per_atom": math.inf}
    curve = {"title": "t", "x_label": "x", "y_label": "y", "x": [1.0], "series": {"a": [math.nan]}}
    stored = outcome_of(EVERY[0]["level_of_theory"]).model_dump(mode="json")
    stored |= {"phases": [{**p, **bad} for p in EVERY[:4]], "curves": [curve]}
    stored["summary"]["constraint"]["r2"] = math.nan
    write_results(Outcome.model_validate(stored), tmp_path)
    assert strict((tmp_path / "summary.json").read_bytes())["constraint"]["r2"] is None
    phases = strict(gzip.decompress((tmp_path / "phases.json.gz").read_bytes()))
    assert [(p["e_above_hull"], p["formation_energy_per_atom"]) for p in phases] == [
        (None, None)
    ] * 4
