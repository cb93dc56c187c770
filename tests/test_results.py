"""Asking for phases, in a folder and in a database, and files made of them."""

import csv
import dataclasses
import gc
import gzip
import io
import json
import math
import re
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from maggma.stores import MongoStore
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.optimade import OptimadeStructureAdapter
from test_campaign import command

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.references import read_references
from ccdcgan.launchers.cli.results import Export, Query
from ccdcgan.launchers.cluster.submission import Submission
from ccdcgan.launchers.results.columns import COLUMNS, flat
from ccdcgan.launchers.results.export import export
from ccdcgan.launchers.results.query import PhaseQuery, parse_where
from ccdcgan.launchers.results.results import Results
from ccdcgan.launchers.results.rows import rows_of, table_of
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Claim, RelaxationDocument
from ccdcgan.workflows.phases import unplaced
from ccdcgan.workflows.storage.stores import (
    DATA,
    PHASES,
    RESULTS,
    phase_document,
    publish,
    stored_key,
)

#: Energies of the elements, eV/atom, by engine.
ELEMENTS = {
    "SevenNet-0": {"Bi": -3.9, "Se": -3.5},
    "VASP 6.4 (PBE)": {"Bi": -4.0, "Se": -3.6, "Te": -3.1},
}
CAMPAIGNS = {"SevenNet-0": "aa00aa00aa00aa00", "VASP 6.4 (PBE)": "aabbaabbaabbaabb"}


def phase(number, counts, distance, label, origin, engine="SevenNet-0", formation=-0.3, **more):
    """The document of a phase, as it is in a store."""
    species = [symbol for symbol, n in counts.items() for _ in range(n)]
    n = len(species)
    lattice = Lattice.orthorhombic(4 + 0.1 * number, 5.3, 3.1 * n)
    structure = Structure(lattice, species, [[0.3 * i, 0.07 * i, (i + 0.1) / n] for i in range(n)])
    elements = sorted(counts)
    if len(elements) == 1:
        formation = 0.0
    mean = sum(ELEMENTS[engine][e] * counts[e] for e in elements) / n
    return {
        "id": f"{number:032x}",
        "uid": f"{CAMPAIGNS[engine]}:{number:032x}",
        "campaign": CAMPAIGNS[engine],
        "system": "Bi-Se" if engine == "SevenNet-0" else "Bi-Se-Te",
        "hull": f"hull-{engine[0]}",
        "elements": elements,
        "nsites": n,
        "density": float(structure.density),
        "volume_per_atom": structure.volume / n,
        "structure": json.loads(structure.to_json()),
        "formula": structure.composition.reduced_formula,
        "spacegroup": "Pm (6)",
        "energy_per_atom": mean + formation,
        "formation_energy_per_atom": formation,
        "e_above_hull": distance,
        "label": label,
        "converged": label != "not converged",
        "reason": "too many steps" if label == "not converged" else None,
        "distinct": True,
        "origin": {
            "kind": origin,
            "id": f"{origin}-{number}",
            "round": 1 if origin == "generated" else None,
            "model": None,
            "sample": number if origin == "generated" else None,
            "noise_seed": None,
            "predicted_formation_energy": None,
        },
        "level_of_theory": {
            "engine": engine,
            "package": "p",
            "checkpoint": "0123456789abcdef",
            "scale": "PBE, uncorrected",
            "pseudopotentials": {},
        },
        "file": None,
        **more,
    }


VASP = "VASP 6.4 (PBE)"
EVERY = [
    phase(1, {"Bi": 2}, 0.0, "on the hull", "element"),
    phase(2, {"Se": 3}, 0.0, "on the hull", "element"),
    phase(3, {"Bi": 2, "Se": 3}, 0.0, "on the hull", "prototype", formation=-0.41),
    phase(4, {"Bi": 4, "Se": 6}, 0.02, "within 0.025", "generated", formation=-0.39),
    phase(5, {"Bi": 2, "Se": 3}, 0.03, "within 0.10", "generated", distinct=False),
    phase(6, {"Bi": 1, "Se": 1}, 0.12, "above", "generated", formation=-0.2),
    phase(7, {"Bi": 1, "Se": 2}, 0.4, "above", "prototype", formation=0.1),
    phase(8, {"Bi": 4, "Se": 5}, 0.21, "not converged", "generated", distinct=False),
    # The words of an earlier version.
    phase(9, {"Bi": 1}, 0.0, "unstable", "element", VASP),
    phase(10, {"Te": 3}, 0.0, "unstable", "element", VASP),
    phase(11, {"Se": 2}, 0.001, "unstable", "element", VASP),
    phase(12, {"Bi": 2, "Te": 3}, 0.0, "stable", "prototype", VASP, formation=-0.35),
    phase(13, {"Bi": 2, "Se": 1, "Te": 2}, 0.11, "metastable", "generated", VASP),
]


def paper_word(p) -> str | None:
    """What the paper calls a phase; None of one that has not converged."""
    below = p["formation_energy_per_atom"] < 0
    if not p["converged"]:
        return None
    if below and p["e_above_hull"] < 0.1:
        return "stable"
    return "metastable" if below and p["e_above_hull"] < 0.15 else "unstable"


def ids(phases) -> list[str]:
    return [p["uid"] for p in phases]


#: Questions, and which phases answer them.
QUESTIONS = [
    ({}, lambda p: True),
    ({"formula": "Se3Bi2"}, lambda p: p["formula"] == "Bi2Se3"),
    ({"formula": "Bi4 Se6"}, lambda p: p["formula"] == "Bi2Se3"),
    ({"formula": "Bi0.4Se0.6"}, lambda p: p["formula"] == "Bi2Se3"),
    ({"formula": "Bi"}, lambda p: set(p["elements"]) == {"Bi"}),
    ({"formula": "Bi7Se"}, lambda p: False),
    ({"elements": "Se-Bi"}, lambda p: set(p["elements"]) == {"Bi", "Se"}),
    ({"elements": ["Bi"]}, lambda p: set(p["elements"]) == {"Bi"}),
    ({"containing": "Se"}, lambda p: "Se" in p["elements"]),
    ({"containing": "Te, Bi"}, lambda p: {"Bi", "Te"} <= set(p["elements"])),
    ({"elements": "Bi-Te", "containing": "Bi"}, lambda p: set(p["elements"]) == {"Bi", "Te"}),
    ({"max_e_above_hull": 0.02}, lambda p: p["e_above_hull"] <= 0.02),
    ({"label": "on the hull"}, lambda p: p["e_above_hull"] == 0),
    ({"label": "within 0.025"}, lambda p: 0 < p["e_above_hull"] <= 0.025),
    ({"label": "within 0.10"}, lambda p: 0.025 < p["e_above_hull"] <= 0.1),
    ({"label": "above"}, lambda p: p["converged"] and p["e_above_hull"] > 0.1),
    ({"label": "stable"}, lambda p: paper_word(p) == "stable"),
    ({"label": "metastable"}, lambda p: paper_word(p) == "metastable"),
    ({"label": "unstable"}, lambda p: paper_word(p) == "unstable"),
    ({"label": "within 0.025", "max_e_above_hull": 0.01}, lambda p: p["uid"] == ids(EVERY)[10]),
    ({"label": "not converged"}, lambda p: not p["converged"]),
    ({"campaign": "aabb"}, lambda p: p["campaign"] == CAMPAIGNS[VASP]),
    ({"campaign": "aa"}, lambda p: True),
    ({"campaign": "a.00"}, lambda p: False),
    ({"origin": "generated"}, lambda p: p["origin"]["kind"] == "generated"),
    ({"engine": "sevennet-0"}, lambda p: p["level_of_theory"]["engine"] == "SevenNet-0"),
    ({"engine": "vasp 6.4 (pbe)"}, lambda p: p["level_of_theory"]["engine"] == VASP),
    ({"engine": "VASP"}, lambda p: False),
    ({"distinct": True}, lambda p: p["distinct"]),
    ({"distinct": False}, lambda p: not p["distinct"]),
    (
        {"label": "within 0.10", "origin": "generated", "distinct": False},
        lambda p: p["uid"] == ids(EVERY)[4],
    ),
    ({"where": {}}, lambda p: True),
    ({"where": {"nsites": {"$lte": 3}}}, lambda p: p["nsites"] <= 3),
    ({"where": {"origin.round": 1}}, lambda p: p["origin"]["round"] == 1),
    ({"where": {"origin.round": None}}, lambda p: p["origin"]["round"] is None),
    ({"where": {"spacegroup": {"$regex": "^pm", "$options": "i"}}}, lambda p: True),
    ({"where": {"elements": {"$size": 3}}}, lambda p: len(p["elements"]) == 3),
    ({"where": {"formula": {"$not": {"$in": ["Bi2Se3"]}}}}, lambda p: p["formula"] != "Bi2Se3"),
    (
        {"where": {"$or": [{"label": "metastable"}, {"density": {"$gt": 6}}]}},
        lambda p: p["label"] == "metastable" or p["density"] > 6,
    ),
    # Beside a filter of the same name, not in its place.
    ({"label": "stable", "where": {"label": "metastable"}}, lambda p: False),
    (
        {"max_e_above_hull": 0.2, "where": {"e_above_hull": {"$gt": 0}}},
        lambda p: 0 < p["e_above_hull"] <= 0.2,
    ),
    ({"where": {"no.such.thing": 3}}, lambda p: False),
]


@pytest.fixture
def workdir(tmp_path) -> Path:
    """Folder of a campaign with the phases in its store."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "campaign.yaml").write_text("system: Bi-Se\n")
    store = embedded_store(folder).additional_stores[PHASES]
    store.connect()
    store._collection.insert_many([dict(p) for p in EVERY])
    store.close()
    return folder


@pytest.fixture(params=["folder", "database"])
def results(request) -> Results:
    if request.param == "folder":
        return Results.in_folder(request.getfixturevalue("workdir"))
    database = request.getfixturevalue("database")
    database.handle["phases"].insert_many([dict(p) for p in EVERY])
    return Results(MongoStore.from_uri(database.uri, "phases", database=database.name, key="uid"))


def test_every_question_is_answered_alike(results):
    for asked, passes in QUESTIONS:
        expected = sorted(ids(p for p in EVERY if passes(p)))
        assert sorted(ids(results.find(**asked))) == expected, asked
        assert results.count(**asked) == len(expected), asked
        assert len(results.frame(**asked)) == len(expected), asked


def test_a_table_in_memory_answers_as_a_store_does(workdir):
    store = Results.in_folder(workdir)
    table = table_of(store._store)
    asked = [q for q, _ in QUESTIONS if "where" not in q]
    asked += [{"sort": "-density"}, {"sort": "formula", "label": "above"}]
    asked += [{"label": "untrusted"}, {"source": "variation"}, {"campaign": ("aabb", "no")}]
    for question in asked:
        query = PhaseQuery.of(question)
        assert list(rows_of(query, table)["uid"]) == ids(store.find(query)), question


def test_order_and_number(results):
    nearest = sorted(EVERY, key=lambda p: (p["e_above_hull"], p["uid"]))
    assert ids(results.find()) == ids(nearest)
    assert ids(results.find(limit=4)) == ids(nearest[:4])
    largest = sorted(sorted(EVERY, key=lambda p: p["uid"]), key=lambda p: -p["density"])
    assert ids(results.find(sort="-density", limit=5)) == ids(largest[:5])
    by_origin = sorted(EVERY, key=lambda p: (p["origin"]["kind"], p["uid"]))
    assert ids(results.find(sort="origin")) == ids(by_origin)


def test_documents_and_table(results):
    (found,) = results.find(formula="BiSe")
    assert found == EVERY[5]
    (bare,) = results.find(formula="BiSe", structures=False)
    assert bare == {key: value for key, value in EVERY[5].items() if key != "structure"}
    frame = results.frame(origin="generated", engine="SevenNet-0")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["sample"].tolist() == [4, 5, 6, 8]
    assert json.loads(frame["level_of_theory"][0]) == EVERY[3]["level_of_theory"]
    assert list(results.frame(formula="Bi9Se").columns) == list(COLUMNS)
    # Stored as unstable, stable and metastable.
    words = results.frame(engine=VASP, sort="id")["label"].tolist()
    assert words == [*["on the hull"] * 2, "within 0.025", "on the hull", "above"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"fromula": "BiSe"}, ["'fromula'", "did you mean 'formula'"]),
        ({"max_e_above_hull": "near"}, ["max_e_above_hull", "'near'"]),
        ({"formula": "Xx2"}, ["'Xx2'", "Bi2Se3"]),
        ({"formula": ""}, ["no formula"]),
        ({"formula": "[red]"}, ["no formula"]),
        ({"elements": "Bi-Xx"}, ["'Xx'", "Bi-Se"]),
        ({"containing": ""}, ["unknown element"]),
        ({"max_e_above_hull": math.nan}, ["eV/atom"]),
        ({"label": "metastabel"}, ["on the hull, within 0.025"]),
        ({"origin": "found"}, ["element, reference, prototype, generated"]),
        ({"sort": "energy"}, ["energy_per_atom"]),
        ({"sort": "--nsites"}, ["'-nsites'", "choose nsites"]),
        ({"limit": 0}, ["from 1"]),
        ({"where": {"$where": "sleep(1)"}}, ["$where"]),
        ({"where": {"$expr": {"$function": {"body": "x"}}}}, ["$expr"]),
        ({"where": {"$or": [{"a": {"$function": 1}}]}}, ["$function"]),
        ({"where": {"a": {"$accumulator": 1}}}, ["$accumulator"]),
        ({"where": ["a"]}, ["JSON object"]),
        ({"where": {"nsites": {}}}, ["empty condition"]),
        ({"where": {"nsites": {"$in": 3}}}, ["not understood", "$in"]),
        ({"where": {"formula": {"$regex": "("}}}, ["not understood"]),
        ({"where": {"$or": {"nsites": 3}}}, ["not understood", "$or"]),
    ],
)
def test_what_cannot_be_asked_gets_one_line(results, asked, words):
    with pytest.raises(UserError) as caught:
        results.find(**asked)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize("asking", [Query, Export])
def test_every_field_of_a_question_is_an_option(asking):
    own = {"workdir", "config", "format_", "structures", "out"}
    assert {field.name for field in dataclasses.fields(asking)} - own == set(
        PhaseQuery.model_fields
    )
    assert all(field.description for field in PhaseQuery.model_fields.values())


def test_filter_document():
    assert PhaseQuery().filter == {}
    assert PhaseQuery(formula="Bi4Se6", label="untrusted").filter == {
        "formula": "Bi2Se3",
        "label": "untrusted",
    }
    where = {"formula": "BiSe"}
    assert PhaseQuery(where=where).filter == where
    assert PhaseQuery(formula="Bi2Se3", where=where).filter == {
        "$and": [{"formula": "Bi2Se3"}, where]
    }
    for text in ("{'a': 1}", "[1]", "", "3", "[" * 100_000):
        with pytest.raises(UserError, match="JSON"):
            parse_where(text)
    with pytest.raises(UserError, match="has 'nsites' twice: join both by .and"):
        parse_where('{"nsites": {"$gt": 1}, "nsites": {"$lt": 9}}')
    deep: dict = {}
    for _ in range(2000):
        deep = {"$and": [deep]}
    with pytest.raises(UserError, match="deep"):
        PhaseQuery(where=deep)


def test_folders_without_phases(tmp_path):
    with pytest.raises(UserError, match="holds no campaign"):
        Results.in_folder(tmp_path)
    (tmp_path / "campaign.yaml").write_text("system: Bi-Se\n")
    with pytest.raises(UserError, match="no phases yet"):
        Results.in_folder(tmp_path)
    (tmp_path / "phases.json.gz").write_bytes(b"\x1f\x8bno")
    with pytest.raises(UserError, match="cannot be read"):
        Results.in_folder(tmp_path)


def test_folder_of_an_earlier_version(tmp_path):
    """Its phases are in phases.json.gz alone, without what a store adds."""
    added = {"uid", "campaign", "system", "elements", "nsites", "density", "volume_per_atom"}
    own = [p for p in EVERY if p["level_of_theory"]["engine"] == "SevenNet-0"]
    plain = [{k: v for k, v in p.items() if k not in {*added, "hull"}} for p in own]
    rejected = {**plain[5], "id": "f" * 32, "energy_per_atom": None, "e_above_hull": None}
    (tmp_path / "campaign.yaml").write_text("system: Bi-Se\n")
    content = gzip.compress(json.dumps([*plain, rejected, plain[3]]).encode())
    (tmp_path / "phases.json.gz").write_bytes(content)
    results = Results.in_folder(tmp_path)
    assert not (tmp_path / "store").exists()
    found = {p["id"]: p for p in results.find()}
    digest = Campaign().digest()
    for p in own:
        changed = {"campaign": digest, "uid": f"{digest}:{p['id']}"}
        expected = {k: v for k, v in {**p, **changed}.items() if k != "hull"}
        assert found.pop(p["id"]) == expected
    assert not found
    assert ids(results.find(elements="Bi-Se", max_e_above_hull=0.01)) == [f"{digest}:{3:032x}"]


def test_query_prints_tables_csv_and_json(workdir, monkeypatch, capsys):
    asked = ("query", "--workdir", str(workdir), "--elements", "Bi-Se", "--distinct")
    code, text = command(monkeypatch, capsys, *asked, "--label", "stable")
    assert code == 0
    lines = [line for line in text.splitlines() if "Bi2Se3" in line]
    assert len(lines) == 2 and "-0.410" in lines[0] and "0.020" in lines[1]

    code, text = command(monkeypatch, capsys, *asked, "--format", "csv", "--sort", "-nsites")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0 and list(rows[0]) == list(COLUMNS)
    assert [row["nsites"] for row in rows] == ["10", "5", "3", "2"]
    assert float(rows[0]["energy_per_atom"]) == EVERY[3]["energy_per_atom"]

    where = '{"nsites": {"$lte": 3}}'
    code, text = command(monkeypatch, capsys, *asked, "--format", "json", "--where", where)
    assert code == 0 and [p["formula"] for p in json.loads(text)] == ["BiSe", "BiSe2"]
    assert "structure" not in json.loads(text)[0]
    more = ("--format", "json", "--structures", "--limit", "1")
    code, text = command(monkeypatch, capsys, *asked, *more)
    assert code == 0 and json.loads(text) == [EVERY[2]]

    assert command(monkeypatch, capsys, *asked, "--formula", "Bi9Se") == (0, "no phase matches\n")
    _, said = command(monkeypatch, capsys, *asked, "--engine", "sevennet")
    assert f"none has the engine sevennet; there are SevenNet-0, {VASP}" in said
    _, said = command(monkeypatch, capsys, *asked, "--source", "nosuch")
    assert "none has the source nosuch; there are none" in said
    code, text = command(monkeypatch, capsys, "query", "--workdir", str(workdir))
    assert code == 0 and "more than one level of theory" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--formula", "Xx"], ["no formula"]),
        (["--where", "{nsites: 3}"], ["not valid JSON"]),
        (["--where", '{"$where": "1"}'], ["$where"]),
        (["--sort", "hull_distance"], ["cannot sort"]),
        (["--limit", "0"], ["--limit"]),
        (["--format", "yaml"], ["table, json, csv"]),
        (["--structures"], ["--format json"]),
        (["--config", "x.yaml"], ["--workdir or --config"]),
    ],
)
def test_mistakes_get_one_line(workdir, monkeypatch, capsys, arguments, words):
    code, text = command(monkeypatch, capsys, "query", "--workdir", str(workdir), *arguments)
    assert code == 2 and len(text.strip().splitlines()) == 1
    assert all(word in text for word in words), text


def test_a_campaign_that_asks_for_more_loses_and_doubles_nothing_in_its_folder(
    workdir, monkeypatch
):
    store = embedded_store(workdir).additional_stores[PHASES]
    store.connect()
    monkeypatch.setattr("ccdcgan.workflows.storage.stores.current_store", lambda name: store)
    of_before = [p for p in EVERY if p["system"] == "Bi-Se"]
    again, more = of_before[:3], {**of_before[0], "id": "f" * 32}

    def shown() -> list[tuple[str, str]]:
        found = Results.in_folder(workdir).find(where={"system": "Bi-Se"})
        return sorted((p["id"], p["campaign"]) for p in found)

    # On the way, of what is known so far.
    publish(again, "new", "Bi-Se", "hull")
    before = {p["id"]: p["campaign"] for p in of_before}
    assert dict(shown()) == before | dict.fromkeys((p["id"] for p in again), "new")
    assert len(shown()) == len(of_before)
    # At the end.
    publish([*again, more], "new", "Bi-Se", "hull", all_of_them=True)
    assert shown() == sorted((p["id"], "new") for p in [*again, more])
    Results.in_folder(workdir).hull(where={"system": "Bi-Se"})


def test_what_an_earlier_version_has_trained_is_found_under_its_key(workdir, monkeypatch):
    store = embedded_store(workdir).additional_stores[DATA]
    store.connect()
    monkeypatch.setattr("ccdcgan.workflows.storage.stores.current_store", lambda name: store)
    assert stored_key("today", "earlier") == "today"
    store.update([{"key": "earlier", "value": {}}], key="key")
    assert stored_key("today", "earlier") == "earlier"
    store.update([{"key": "today", "value": {}}], key="key")
    assert stored_key("today", "earlier") == "today"


@pytest.mark.parametrize(
    "arguments",
    [["query", "--workdir"], ["query", "--failed", "--workdir"], ["failures"], ["hull", "Bi-Se"]],
)
def test_asking_writes_nothing(workdir, monkeypatch, capsys, arguments):
    def files() -> dict[Path, tuple[bytes, int]]:
        gc.collect()  # What nobody holds any more is closed, and its journal goes.
        here = (p for p in workdir.rglob("*") if p.is_file())
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in here}

    before = files()
    code, said = command(monkeypatch, capsys, *arguments, str(workdir))
    assert code in (0, 2), said
    assert files() == before


def test_without_a_folder(tmp_path, monkeypatch, capsys, workdir):
    monkeypatch.chdir(tmp_path)
    code, text = command(monkeypatch, capsys, "query")
    assert code == 2 and "--workdir" in text
    workdir.rename("ccdcgan-run")
    code, text = command(monkeypatch, capsys, "query", "--formula", "BiSe")
    assert code == 0 and "BiSe" in text


def test_commands_ask_the_database_of_a_cluster(database, tmp_path, monkeypatch, capsys):
    database.handle["phases"].insert_many([dict(p) for p in EVERY])
    workers = {name: {"queue": {}} for name in ("dft", "gpu", "light")}
    config = tmp_path / "my_fireworks.yaml"
    settings = {"stores": {"results": {"database": database.name}}, "workers": workers}
    config.write_text(json.dumps(settings))
    asked = ("--config", str(config), "--campaign", CAMPAIGNS[VASP], "--label", "stable")
    monkeypatch.delenv("CCDCGAN_MONGODB_URI", raising=False)
    code, text = command(monkeypatch, capsys, "query", *asked)
    assert code == 2 and "CCDCGAN_MONGODB_URI" in text
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
    code, text = command(monkeypatch, capsys, "query", *asked, "--format", "json")
    assert code == 0 and ids(json.loads(text)) == [EVERY[11]["uid"]]
    out = tmp_path / "new" / "crystals.zip"
    code, text = command(monkeypatch, capsys, "export", *asked, str(out))
    assert code == 0 and "1 phase in" in text and out.exists()


def test_a_campaign_that_was_extended_on_a_cluster_shows_its_crystals_once(database):
    begun = Campaign(system="Bi-Se")
    more = begun.model_copy(update={"loop": begun.loop.model_copy(update={"rounds": 7})})
    another = Campaign(system="Bi-Se", seed=1)
    without = begun.model_copy(update={"loop": begun.loop.model_copy(update={"rounds": 9})})
    for number, campaign in enumerate((begun, more, another, without)):
        submission = Submission(
            _id=f"{campaign.digest()}",
            digest=campaign.digest(),
            name="search",
            system="Bi-Se",
            settings=campaign.model_dump(mode="json"),
            claimed=float(number),
            submitted=True,
        )
        database.handle["campaigns"].insert_one(submission.stored())
    # The last one has nothing as yet; the first one has a crystal that the second lacks so far.
    crystals = [(EVERY[0], begun), (EVERY[0], more), (EVERY[0], another), (EVERY[1], begun)]
    database.handle["phases"].insert_many(
        {**crystal, "uid": f"{c.digest()}:{crystal['id']}", "campaign": c.digest()}
        for crystal, c in crystals
    )
    store = MongoStore.from_uri(database.uri, "phases", database=database.name, key="uid")
    found = Results(store, campaigns=database.handle["campaigns"])
    once = sorted((c.digest(), crystal["id"]) for crystal, c in crystals[1:])
    assert sorted((p["campaign"], p["id"]) for p in found.find()) == once
    assert found.count() == 3
    assert found.count(EVERY[0]["formula"], where={"id": EVERY[0]["id"]}) == 2
    assert found.count("XeF2") == 0
    assert sorted((p["campaign"], p["id"]) for p in found.find(campaign="search")) == once
    assert {p["campaign"] for p in found.find(campaign=begun.digest())} == {begun.digest()}
    # Of another person the same name is another campaign.
    database.handle["campaigns"].update_one(
        {"_id": begun.digest()}, {"$set": {"submitted_by": "somebody"}}
    )
    assert found.count() == 4


def failed(number, counts, origin, engine="SevenNet-0", **more):
    """The document of a relaxation that failed; older ones have no class of failure."""
    p = phase(number, counts, None, "failed", origin, engine)
    own = {k: p[k] for k in ("campaign", "origin", "level_of_theory", "structure")}
    initial = {"initial_structure": p["structure"], "key": p["id"], "frames": []}
    return {**own, **initial, "converged": False, "reason": f"force is 0.{number} eV/Å", **more}


FAILED = [
    failed(21, {"Bi": 1, "Se": 3}, "prototype"),
    failed(
        22,
        {"Bi": 3, "Se": 1},
        "generated",
        failure="stopped",
        said="[red]\x1b[31mZBRENT",
        host="node7",
        folder="/scratch/calculations/22",
        energy_per_atom=-3.0,
    ),
    failed(23, {"Bi": 2, "Te": 1}, "prototype", VASP, structure={"sites": 3}),
    failed(24, {"Bi": 1, "Te": 2}, "prototype", VASP),
    {**failed(25, {"Bi": 1, "Se": 1}, "prototype"), "converged": True, "energy_per_atom": -3.9},
]


@pytest.fixture(params=["folder", "cluster"])
def with_failures(request, tmp_path, monkeypatch):
    """Where to ask, as the command line has it."""
    if request.param == "folder":
        folder = request.getfixturevalue("workdir")
        store = embedded_store(folder).additional_stores[RESULTS]
        store.connect()
        store._collection.insert_many([dict(d) for d in FAILED])
        return ("--workdir", str(folder))
    database = request.getfixturevalue("database")
    database.handle["phases"].insert_many([dict(p) for p in EVERY])
    database.handle["relaxations"].insert_many([dict(d) for d in FAILED])
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
    config = tmp_path / "my_fireworks.yaml"
    workers = {name: {"queue": {}} for name in ("dft", "gpu", "light")}
    settings = {"stores": {"results": {"database": database.name}}, "workers": workers}
    config.write_text(json.dumps(settings))
    return ("--config", str(config))


def test_what_failed_is_asked_for_like_phases(with_failures, tmp_path, monkeypatch, capsys):
    asked = (*with_failures, "--label", "failed")

    def query(*more):
        code, text = command(monkeypatch, capsys, "query", *asked, *more, "--format", "json")
        assert code == 0, text
        return json.loads(text)

    # One that is damaged hides no others.
    rows = {p["formula"]: p for p in query()}
    assert set(rows) == {"BiSe3", "Bi3Se", "BiTe2"}
    assert {p["label"] for p in rows.values()} == {"failed"}
    assert rows["BiSe3"]["failure"] == "crystal" and rows["BiSe3"]["energy_per_atom"] is None
    assert rows["BiSe3"]["reason"] == "force is 0.21 eV/Å" and rows["BiSe3"]["system"] == "Bi-Se"
    last = rows["Bi3Se"]
    assert (last["failure"], last["host"]) == ("stopped", "node7")
    assert last["folder"] == "/scratch/calculations/22" and "ZBRENT" in last["said"]
    assert [p["formula"] for p in query("--formula", "Se2Bi6")] == ["Bi3Se"]
    assert [p["formula"] for p in query("--campaign", "aabb")] == ["BiTe2"]
    assert query("--max-e-above-hull", "1") == []
    # No other question finds them.
    code, text = command(monkeypatch, capsys, "query", *with_failures, "--format", "json")
    assert code == 0 and len(json.loads(text)) == len(EVERY)

    code, text = command(monkeypatch, capsys, "query", *asked)
    assert code == 0 and "node7" in text and "[red]" in text and "\x1b" not in text
    code, text = command(monkeypatch, capsys, "query", *asked, "--format", "csv")
    found = {row["formula"]: row for row in csv.DictReader(io.StringIO(text))}
    assert found["Bi3Se"]["folder"] == "/scratch/calculations/22"
    assert found["BiSe3"]["host"] == "" and found["BiSe3"]["failure"] == "crystal"
    for name, number in (("out.zip", 3), ("out.extxyz", 3), ("out.jsonl", 3), ("out.json", 1)):
        code, text = command(monkeypatch, capsys, "export", *asked, str(tmp_path / name))
        assert code == 0 and text.startswith(f"{number} phase"), text


def test_host_and_folder_of_what_succeeded_are_columns():
    relaxed = RelaxationDocument.model_validate(
        FAILED[4] | {"host": "node8", "folder": "/scratch/25"}
    )
    found = unplaced(
        Claim(key=relaxed.key, origin=relaxed.origin),
        relaxed,
    )
    row = flat(phase_document(found.model_dump(mode="json"), relaxed.campaign, "Bi-Se"))
    assert (row["host"], row["folder"], row["failure"]) == ("node8", "/scratch/25", None)


def test_a_folder_in_which_all_failed_can_be_asked(tmp_path, monkeypatch, capsys):
    (tmp_path / "campaign.yaml").write_text("system: Bi-Se\n")
    store = embedded_store(tmp_path).additional_stores[RESULTS]
    store.connect()
    store._collection.insert_many([dict(FAILED[0])])
    assert [p["formula"] for p in Results.in_folder(tmp_path).find(label="failed")] == ["BiSe3"]
    # Results that were fetched have no store.
    with pytest.raises(UserError, match="report.html lists it"):
        Results(store).find(label="failed")


def test_hostile_text_stays_text(workdir, tmp_path, monkeypatch, capsys):
    hostile = {
        "formula": "../../x[red]\x1b[31mBi\n2",
        "spacegroup": "[bold]P1[/]",
        "reason": 'a"b\nc=1',
    }
    store = embedded_store(workdir).additional_stores[PHASES]
    store.connect()
    store._collection.insert_many([{**EVERY[2], **hostile, "uid": "z", "nsites": 99}])
    asked = ("--workdir", str(workdir), "--where", '{"uid": "z"}')
    code, text = command(monkeypatch, capsys, "query", *asked)
    assert code == 0 and "[bold]P1[/]" in text and "[red]" in text and "\x1b" not in text
    (line,) = [line for line in text.splitlines() if "99" in line]
    assert "on the hull" in line
    out = tmp_path / "out.zip"
    assert command(monkeypatch, capsys, "export", *asked, str(out))[0] == 0
    with zipfile.ZipFile(out) as archive:
        cif, table = archive.namelist()
        assert re.fullmatch(r"\w+\.cif", cif) and table == "phases.csv"
        archive.extractall(tmp_path / "there")
        (row,) = csv.DictReader(io.StringIO(archive.read(table).decode(), newline=""))
    assert row["formula"] == hostile["formula"] and row["file"] == cif
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == sorted([cif, table])
    out = tmp_path / "out.extxyz"
    assert command(monkeypatch, capsys, "export", *asked, str(out))[0] == 0
    (atoms,) = ase.io.read(out, index=":")
    assert atoms.info["reason"] == 'a"b c=1' and len(atoms) == 5


def test_exported_cif_files_are_the_crystals(tmp_path):
    path = tmp_path / "out.zip"
    assert export(EVERY, path) == len(EVERY)
    with zipfile.ZipFile(path) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("phases.csv").decode())))
        for row, p in zip(rows, EVERY, strict=True):
            read = Structure.from_str(archive.read(row["file"]).decode(), fmt="cif")
            assert StructureMatcher(scale=False).fit(read, Structure.from_dict(p["structure"]))
            assert float(row["energy_per_atom"]) == p["energy_per_atom"]
            assert row["id"] == p["id"] and row["round"] == str(p["origin"]["round"] or "")
            assert json.loads(row["level_of_theory"]) == p["level_of_theory"]
    before = path.read_bytes()
    export(EVERY, path)
    assert path.read_bytes() == before


def test_exported_extxyz_is_read_by_ase(tmp_path):
    path = tmp_path / "out.extxyz"
    export(EVERY, path)
    for atoms, p in zip(ase.io.read(path, index=":"), EVERY, strict=True):
        structure = Structure.from_dict(p["structure"])
        assert atoms.get_chemical_symbols() == [s.specie.symbol for s in structure]
        assert atoms.positions == pytest.approx(structure.cart_coords, abs=1e-7)
        assert atoms.cell.array == pytest.approx(structure.lattice.matrix, abs=1e-7)
        for name in ("formula", "energy_per_atom", "e_above_hull", "label", "campaign"):
            assert atoms.info[name] == p[name]
        assert atoms.info["engine"] == p["level_of_theory"]["engine"]
        assert json.loads(atoms.info["level_of_theory"]) == p["level_of_theory"]


def test_exported_entries_make_a_phase_diagram(tmp_path):
    path = tmp_path / "out.json"
    own = [p for p in EVERY if p["level_of_theory"]["engine"] == VASP]
    export(own, path)
    entries = [ComputedStructureEntry.from_dict(d) for d in json.loads(path.read_text())]
    diagram = PhaseDiagram(entries)
    for entry, p in zip(entries, own, strict=True):
        assert entry.entry_id == p["uid"] and entry.correction == 0
        assert entry.energy == pytest.approx(p["energy_per_atom"] * p["nsites"])
        formation = diagram.get_form_energy_per_atom(entry)
        if p["id"] != own[2]["id"]:
            assert formation == pytest.approx(p["formation_energy_per_atom"])
        assert entry.parameters == p["level_of_theory"]
        assert entry.data["origin"] == p["origin"] and entry.data["label"] == p["label"]
        assert entry.structure == Structure.from_dict(p["structure"])


def test_exported_entries_have_raw_energies_and_the_correction(tmp_path):
    corrected = EVERY[2] | {"correction_per_atom": -0.3}
    export([corrected], tmp_path / "out.json")
    (entry,) = [
        ComputedStructureEntry.from_dict(d) for d in json.loads((tmp_path / "out.json").read_text())
    ]
    assert entry.energy_per_atom == pytest.approx(corrected["energy_per_atom"])
    assert entry.correction_per_atom == pytest.approx(-0.3)
    (back,) = read_references(tmp_path / "out.json").crystals
    assert back.energy_per_atom == pytest.approx(corrected["energy_per_atom"])


@pytest.mark.parametrize("suffix", ["zip", "extxyz", "json", "jsonl"])
def test_what_is_untrusted_has_no_energy_for_whoever_reads_the_export(tmp_path, suffix):
    sane, hole = EVERY[2], EVERY[2] | {"label": "untrusted", "uid": "hole", "id": "hole"}
    export([sane, hole], tmp_path / f"out.{suffix}")
    known = read_references(tmp_path / f"out.{suffix}").crystals
    assert [c.energy_per_atom for c in known] == [pytest.approx(sane["energy_per_atom"]), None]


def test_exported_parquet_is_read_by_pandas(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"
    export(EVERY, path)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == [*COLUMNS, "structure"]
    for (_, row), p in zip(frame.iterrows(), EVERY, strict=True):
        assert row["energy_per_atom"] == p["energy_per_atom"] and row["id"] == p["id"]
        assert row["distinct"] == p["distinct"]
        assert json.loads(row["level_of_theory"]) == p["level_of_theory"]
        assert json.loads(row["structure"]) == p["structure"]
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=re.escape("pip install 'ccdcgan[parquet]'")):
        export(EVERY, path)


def test_exported_optimade_lines_keep_to_the_specification(tmp_path):
    path = tmp_path / "out.jsonl"
    others = {"id": "b", "uid": "b", "campaign": "0" * 16}
    carbon = phase(14, {"Bi": 1, "Se": 1}, 0.1, "stable", "generated", **others)
    oxide = Structure(
        Lattice.cubic(9), ["O", "H", "Br", "H", "C", "H"], [[i / 6] * 3 for i in range(6)]
    )
    carbon["structure"] = json.loads(oxide.to_json())
    export([*EVERY, carbon], path)
    header, meta, info, *resources = map(json.loads, path.read_text().splitlines())
    assert header["x-optimade"]["api_version"] == header["x-optimade"]["meta"]["api_version"]
    assert meta["meta"]["data_returned"] == len(resources) == len(EVERY) + 1
    assert (info["type"], info["id"]) == ("info", "structures")
    assert info["properties"]["_ccdcgan_e_above_hull"]["unit"] == "eV/atom"
    assert len({r["id"] for r in resources}) == len(resources)
    for resource, p in zip(resources, [*EVERY, carbon], strict=True):
        a, structure = resource["attributes"], Structure.from_dict(p["structure"])
        own = {name for name in a if name.startswith("_")}
        assert own == set(info["properties"])
        assert resource["type"] == "structures" and set(a) - own == {
            *("elements", "nelements", "elements_ratios", "chemical_formula_descriptive"),
            *("chemical_formula_reduced", "chemical_formula_hill", "chemical_formula_anonymous"),
            *("dimension_types", "nperiodic_dimensions", "lattice_vectors", "nsites", "species"),
            *("cartesian_site_positions", "species_at_sites", "structure_features"),
            *("last_modified", "immutable_id"),
        }
        back = OptimadeStructureAdapter.get_structure(resource)
        assert back.lattice == structure.lattice and back.species == structure.species
        assert back.cart_coords == pytest.approx(structure.cart_coords)
        theirs = OptimadeStructureAdapter.get_optimade_structure(structure)["attributes"]
        for name in set(theirs) - {"species", "chemical_formula_descriptive", "last_modified"}:
            if name in ("lattice_vectors", "cartesian_site_positions"):
                assert np.allclose(a[name], theirs[name], rtol=0, atol=1e-9), name
            else:
                assert a[name] == theirs[name], name
        assert sum(a["elements_ratios"]) == pytest.approx(1)
        assert [s["name"] for s in a["species"]] == a["elements"]
        assert a["_ccdcgan_e_above_hull"] == p["e_above_hull"]
        assert a["_ccdcgan_level_of_theory"] == p["level_of_theory"]
    formulas = {r["attributes"]["chemical_formula_hill"] for r in resources}
    assert {"Bi4Se6", "CH3BrO", "Bi"} <= formulas
    by_formula = {r["attributes"]["chemical_formula_reduced"]: r["attributes"] for r in resources}
    assert by_formula["Bi2SeTe2"]["chemical_formula_anonymous"] == "A2B2C"
    assert by_formula["BrCH3O"]["chemical_formula_anonymous"] == "A3BCD"


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(UserError, match="no phase matches"):
        export([], tmp_path / "out.zip")
    with pytest.raises(UserError, match="no phase matches"):
        export([{**EVERY[0], "energy_per_atom": None}], tmp_path / "out.zip")
    with pytest.raises(UserError, match=r"\.zip, \.extxyz, \.json, \.parquet, \.jsonl"):
        export(EVERY, tmp_path / "out.cif")
    assert not list(tmp_path.iterdir())
