"""Campaigns from a folder into MongoDB and back."""

import json
from pathlib import Path

import jobflow
import pytest
from bson import ObjectId
from pymatgen.core import Lattice, Structure
from ruamel.yaml import YAML
from services import give_up_soon
from test_campaign import command

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster.settings import load_cluster
from ccdcgan.launchers.results import migrate
from ccdcgan.launchers.results.migrate import to_database, to_folder
from ccdcgan.launchers.workdir import embedded_store, open_workdir
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.confirm import confirmed_campaign
from ccdcgan.workflows.documents import Origin, Phase, RelaxationDocument
from ccdcgan.workflows.generate import generated_keys
from ccdcgan.workflows.outputs import GanArtifact
from ccdcgan.workflows.storage.stores import (
    DATA,
    PHASES,
    RESULTS,
    artifact_key,
    cached_artifact,
    load_artifact,
    publish,
)

CAMPAIGN = Campaign.model_validate({"seed": 3, "confirm": {"relaxation": {"fmax": 0.01}}})
DIGEST = CAMPAIGN.digest()
OTHER = Campaign(seed=4)
LEVEL = CAMPAIGN.relaxation.engine.level_of_theory()

#: Larger than a chunk of GridFS.
WEIGHTS = bytes(range(256)) * 1500


def key_of(number):
    return f"{number:032x}"


def relaxation(number, campaign=CAMPAIGN):
    structure = Structure(Lattice.cubic(3 + number / 7), ["Bi", "Se"], [[0] * 3, [0.5] * 3])
    return RelaxationDocument(
        key=key_of(number),
        level_of_theory=LEVEL,
        structure=structure.as_dict(),
        energy_per_atom=-3.8 + number / 3,
        converged=True,
        campaign=campaign.digest(),
        finished_at="2026-11-22T21:22:53+00:00",
        origin=Origin(kind="prototype", id=f"p{number}"),
        initial_structure=structure.as_dict(),
        lacking={"bulk_modulus": "the potential has no stresses"},
    ).model_dump(mode="json")


def phase(number):
    document = relaxation(number)
    return Phase(
        id=document["key"],
        structure=document["structure"],
        formula="BiSe",
        spacegroup="Pm-3m (221)",
        energy_per_atom=document["energy_per_atom"],
        formation_energy_per_atom=0.1 / 3,
        e_above_hull=number / 30,
        label="within 0.10",
        converged=True,
        distinct=True,
        origin=document["origin"],
        level_of_theory=LEVEL,
    ).model_dump(mode="json")


def output(number, content, **metadata):
    return {
        "uuid": f"job-{number}",
        "index": 1,
        "output": content,
        "completed_at": "2026-11-22T21:22:53.831435",
        "metadata": metadata,
        "hosts": ["flow"],
        "name": f"job {number}",
    }


def artifact(seed):
    files = {"gan.keras": WEIGHTS[seed:], "a.npz": b""}
    return GanArtifact(files=files, history={"loss": [0.1 / 3]})


@pytest.fixture
def fill(monkeypatch):
    """Put a campaign of four relaxations and four artifacts into a JobStore, as its jobs do."""

    def filled(store, campaign=CAMPAIGN, first=1, run=None):
        store.connect()
        monkeypatch.setattr(jobflow.CURRENT_JOB, "store", store)
        numbers = range(first, first + 4)
        metadata = {"campaign": run} if run else {}
        kinds = ("autoencoder", "constraint", "gan")
        keys = {kind: artifact_key(kind, campaign.digest()) for kind in kinds}
        keys["generated"] = generated_keys(keys["gan"], campaign)[0]
        for seed, key in enumerate(keys.values()):
            cached_artifact(key, GanArtifact, lambda seed=seed: artifact(seed))
        documents = [relaxation(n, campaign) for n in numbers]
        if campaign.confirm:
            documents[3]["campaign"] = confirmed_campaign(campaign).digest()
        store.additional_stores[RESULTS].update(documents, key="key")
        publish([phase(n) for n in numbers[:3]], campaign.digest(), "Bi-Se", f"hull-{first}")
        entries = [{"key": d["key"], "origin": d["origin"]} for d in documents]
        candidates = [d["structure"] for d in documents]
        # A reason for a rejection may hold a dot.
        rejected = {"unreadable: bad.cif": 2}
        outputs = [
            output(first, {"candidates": candidates, "rejected": rejected}, **metadata),
            output(first + 1, {"entries": entries[:2], "seconds": 0.1}, **metadata),
            output(first + 2, {"key": keys["autoencoder"], "held_out": 7}, **metadata),
            output(first + 3, {"history": [{"c": {"key": keys["constraint"]}}]}, **metadata),
            output(first + 3, {"deeper": {"gan": {"key": keys["gan"]}}}, **metadata) | {"index": 2},
        ]
        store.update(outputs, save={"data": ["candidates"]})

    return filled


@pytest.fixture
def config(tmp_path, database, monkeypatch):
    """my_fireworks.yaml with the test's database."""
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
    own = {"database": database.name}
    worker = {"queue": {"type": "SLURM"}}
    settings = {
        "folder": str(tmp_path / "cluster"),
        "launchpad": own,
        "stores": {"documents": own, "blobs": own, "results": own},
        "workers": dict.fromkeys(("dft", "gpu", "light"), worker),
    }
    path = tmp_path / "fireworks.yaml"
    YAML().dump(settings, path)
    return path


@pytest.fixture
def cluster(config):
    return load_cluster(config)


@pytest.fixture
def folder(tmp_path, fill):
    path = tmp_path / "run"
    with open_workdir(path, CAMPAIGN):
        fill(embedded_store(path))
    return path


def contents(store, hidden="_id"):
    """All documents of a JobStore as sorted JSON, by store."""
    store.connect()
    stores = {"documents": store.docs_store, **store.additional_stores}
    found = {}
    for name, part in stores.items():
        documents = [{k: v for k, v in d.items() if k != hidden} for d in part.query({})]
        found[name] = sorted(json.dumps(d, sort_keys=True, default=str) for d in documents)
    return found


def owned(found):
    """What is in a folder as it is in a database: the job outputs say whose they are."""
    documents = [json.loads(text) for text in found["documents"]]
    for document in documents:
        document["metadata"].setdefault("campaign", DIGEST)
    return {**found, "documents": sorted(json.dumps(d, sort_keys=True) for d in documents)}


def raw(database):
    """Everything in a database, with the identities of the documents."""
    names = sorted(database.handle.list_collection_names())
    return {n: sorted(database.handle[n].find({}), key=lambda d: str(d["_id"])) for n in names}


def totals(moved):
    return [(m.total, m.there, m.differing) for m in moved]


FRESH = [(4, 0, 0), (4, 0, 0), (1, 0, 0), (5, 0, 0), (3, 0, 0)]
AGAIN = [(n, n, 0) for n, _, _ in FRESH]


def test_there_and_back(tmp_path, database, cluster, folder, fill, monkeypatch):
    fill(cluster.job_store(), OTHER, first=50, run=OTHER.digest())
    others = contents(cluster.job_store())
    before = contents(embedded_store(folder))
    assert totals(to_database(folder, cluster)) == FRESH
    assert contents(embedded_store(folder)) == before
    expected = owned(before)
    assert contents(cluster.job_store()) == {
        name: sorted(texts + others[name]) for name, texts in expected.items()
    }
    # The campaign was not submitted; the database is ours and has its indexes.
    assert "campaigns" not in database.handle.list_collection_names()
    assert database.handle["ccdcgan"].count_documents({}) == 1
    assert any(i.get("unique") for i in database.handle["relaxations"].list_indexes())

    back = tmp_path / "back"
    assert totals(to_folder(back, CAMPAIGN, cluster)) == FRESH
    assert contents(embedded_store(back)) == expected
    for store in (cluster.job_store(), embedded_store(back)):
        store.connect()
        monkeypatch.setattr(jobflow.CURRENT_JOB, "store", store)
        assert load_artifact(artifact_key("gan", DIGEST), GanArtifact) == artifact(2)
        loaded = store.get_output("job-1", load=True)
        assert [c["lattice"]["a"] for c in loaded["candidates"]] == [3 + n / 7 for n in range(1, 5)]
    # Into a folder that has it, too.
    assert totals(to_folder(folder, CAMPAIGN, cluster)) == AGAIN


def test_twice_changes_nothing(tmp_path, database, cluster, folder):
    to_database(folder, cluster)
    before = raw(database)
    assert totals(to_database(folder, cluster)) == AGAIN
    assert raw(database) == before
    back = tmp_path / "back"
    to_folder(back, CAMPAIGN, cluster)
    # With the identities of the documents.
    before = contents(embedded_store(back), hidden=None)
    assert totals(to_folder(back, CAMPAIGN, cluster)) == AGAIN
    assert contents(embedded_store(back), hidden=None) == before


@pytest.mark.parametrize("after", [0, 3, 6, 8, 11, 15])
def test_broken_off_and_repeated(tmp_path, cluster, folder, monkeypatch, after):
    expected = owned(contents(embedded_store(folder)))
    back = tmp_path / "back"
    add = migrate.Shelf.add
    for copy in (lambda: to_database(folder, cluster), lambda: to_folder(back, CAMPAIGN, cluster)):
        done = []

        def broken(shelf, documents, done=done):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(add(shelf, documents))

        with monkeypatch.context() as patch:
            patch.setattr(migrate, "BATCH", 0)
            patch.setattr(migrate.Shelf, "add", broken)
            with pytest.raises(KeyboardInterrupt):
                copy()
        moved = copy()
        assert [m.total for m in moved] == [n for n, _, _ in FRESH]
        assert sum(m.there for m in moved) == after
        assert not any(m.differing for m in moved)
    assert contents(cluster.job_store()) == expected
    assert contents(embedded_store(back)) == expected


def test_what_is_there_stays(tmp_path, database, config, cluster, folder, monkeypatch, capsys):
    theirs = {**relaxation(2), "energy_per_atom": -9.0, "campaign": "theirs"}
    database.handle["relaxations"].insert_one(dict(theirs))
    gan = artifact_key("gan", DIGEST)
    store = cluster.store_of(DATA)
    store.connect()
    store.update([{"key": gan, "value": {"other": 1}}], key="key")
    code, message = command(
        *(monkeypatch, capsys, "migrate", str(folder), "--to", "mongodb", "--config", str(config))
    )
    assert code == 0
    assert (
        "4 relaxations (already there: 1, different and left as they were: 1), "
        "4 artifacts (already there: 1, different and left as they were: 1), 1 large outputs, "
        "5 job outputs, 3 phases"
    ) in message
    found = database.handle["relaxations"].find_one({"key": key_of(2)}, {"_id": 0})
    assert found == theirs
    assert [d["value"] for d in store.query({"key": gan})] == [{"other": 1}]


def test_phases_of_two_hulls_do_not_mix(tmp_path, cluster, folder, monkeypatch):
    to_database(folder, cluster)

    def judged(place, numbers, hull):
        store = embedded_store(folder) if place == "folder" else cluster.job_store()
        store.connect()
        monkeypatch.setattr(jobflow.CURRENT_JOB, "store", store)
        publish([phase(n) for n in numbers], DIGEST, "Bi-Se", hull)

    def hulls(store):
        store.connect()
        found = store.additional_stores[PHASES].query({"campaign": DIGEST})
        return sorted((d["hull"], int(d["id"], 16)) for d in found)

    # The run in the folder has gone on.
    judged("folder", [1, 2, 3, 4], "later")
    assert totals(to_database(folder, cluster))[-1] == (4, 0, 0)
    assert hulls(cluster.job_store()) == [("later", n) for n in (1, 2, 3, 4)]
    # That in the database has.
    judged("database", [1, 2, 3, 4, 5], "last")
    assert totals(to_database(folder, cluster))[-1] == (4, 4, 4)
    assert hulls(cluster.job_store()) == [("last", n) for n in (1, 2, 3, 4, 5)]
    assert totals(to_folder(folder, CAMPAIGN, cluster))[-1] == (5, 0, 0)
    assert hulls(embedded_store(folder)) == [("last", n) for n in (1, 2, 3, 4, 5)]
    # Each has gone its own way.
    judged("folder", [1, 2, 6], "another")
    assert totals(to_database(folder, cluster))[-1] == (3, 2, 3)
    assert hulls(cluster.job_store()) == [("last", n) for n in (1, 2, 3, 4, 5)]


def test_a_submitted_campaign_by_its_name(
    tmp_path, database, config, cluster, fill, monkeypatch, capsys
):
    # Its relaxations were another campaign's before.
    fill(cluster.job_store(), OTHER, first=1, run=f"{DIGEST}-2")
    store = cluster.job_store()
    store.connect()
    own = {"uid": f"{DIGEST}:{key_of(3)}", "id": key_of(3), "campaign": DIGEST, "hull": "h"}
    store.additional_stores[PHASES].update([own], key="uid")
    store.additional_stores[RESULTS].update(
        [relaxation(60, OTHER), relaxation(61, CAMPAIGN)], key="key"
    )
    # A second file, as two workers leave it that were killed with the same result.
    gan = artifact_key("gan", OTHER.digest())
    twin = {"key": gan, "value": {"files": {}}}
    store.additional_stores[DATA]._collection.put(json.dumps(twin).encode(), metadata={"key": gan})
    database.handle["ccdcgan"].insert_one({"_id": "ccdcgan", "schema_version": 1, "version": "x"})
    settings = CAMPAIGN.model_dump(mode="json")
    database.handle["campaigns"].insert_one(
        {"_id": DIGEST, "name": "mine", "settings": settings, "submitted": True}
    )
    back = tmp_path / "back"
    arguments = ("--to", "folder", "--campaign", "mine", "--config", str(config))
    code, message = command(monkeypatch, capsys, "migrate", str(back), *arguments)
    assert code == 0 and f"ccdcgan run {back / 'campaign.yaml'} --workdir {back}" in message
    found = contents(embedded_store(back))
    keys = {json.loads(text)["key"] for text in found[RESULTS]}
    # Two that an output names, that of a phase, and the one that was relaxed for it.
    assert keys == {key_of(1), key_of(2), key_of(3), key_of(61)}
    assert len(found["documents"]) == 5 and len(found[PHASES]) == 1
    # What was drawn is found by the loop, which is the same in both campaigns.
    assert sum('"value"' in text for text in found[DATA]) == 4
    with open_workdir(back, CAMPAIGN):
        pass


def test_what_does_not_arrive_is_an_error(cluster, folder, monkeypatch):
    add = migrate.Shelf.add

    def altered(shelf, documents):
        add(shelf, [{**d, "converged": False} if "converged" in d else d for d in documents])

    with monkeypatch.context() as patch:
        patch.setattr(migrate.Shelf, "add", altered)
        with pytest.raises(UserError, match="4 of 4 relaxations have not arrived"):
            to_database(folder, cluster)
    monkeypatch.setattr(migrate.Shelf, "add", lambda shelf, documents: add(shelf, documents[:-1]))
    with pytest.raises(UserError, match="1 of 4 artifacts have not arrived"):
        to_database(folder, cluster)


@pytest.mark.parametrize(
    ("collection", "document", "words"),
    [
        ("fireworks", {"fw_id": 1}, "another project"),
        ("ccdcgan", {"_id": "ccdcgan", "schema_version": 0, "version": "0.1"}, "ccdcgan 0.1"),
    ],
)
def test_a_database_that_is_not_ours_is_left_alone(
    tmp_path, database, cluster, folder, collection, document, words
):
    database.handle[collection].insert_one({"_id": ObjectId(), **document})
    before = raw(database)
    with pytest.raises(UserError, match=words):
        to_database(folder, cluster)
    with pytest.raises(UserError, match=words):
        to_folder(tmp_path / "back", CAMPAIGN, cluster)
    assert raw(database) == before and not (tmp_path / "back").exists()


def test_folders_and_campaigns_that_do_not_fit(
    tmp_path, database, config, folder, monkeypatch, capsys
):
    foreign, empty, back = (tmp_path / name for name in ("foreign", "empty", "back"))
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    with open_workdir(empty, OTHER):
        pass
    campaign = str(folder / "campaign.yaml")

    def says(*arguments: str | Path) -> str:
        given = [str(a) for a in arguments]
        code, message = command(monkeypatch, capsys, "migrate", *given, "--config", str(config))
        assert code == 2 and len(message.strip().splitlines()) == 1
        return message

    assert "holds no campaign" in says(foreign, "--to", "mongodb")
    assert "no results yet" in says(empty, "--to", "mongodb")
    assert "--campaign is for --to folder" in says(
        folder, "--to", "mongodb", "--campaign", campaign
    )
    with open_workdir(folder, CAMPAIGN):
        assert "in use" in says(folder, "--to", "mongodb")
    assert "--campaign" in says(back, "--to", "folder")
    assert "no campaign 'mine'" in says(back, "--to", "folder", "--campaign", "mine")
    assert DIGEST in says(back, "--to", "folder", "--campaign", campaign)
    assert not back.exists() and not database.handle.list_collection_names()

    to_database(folder, load_cluster(config))
    assert "not empty" in says(foreign, "--to", "folder", "--campaign", campaign)
    assert "another campaign" in says(empty, "--to", "folder", "--campaign", campaign)
    with open_workdir(folder, CAMPAIGN):
        assert "in use" in says(folder, "--to", "folder")
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", "mongodb://127.0.0.1:1/")
    give_up_soon(monkeypatch, 200)
    assert "cannot reach the database" in says(folder, "--to", "mongodb")
