"""The embedded store: answers as MongoDB's, many writers, killed writers, folders of before."""

import copy
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import ObjectId
from jobflow import JobStore
from maggma.stores import MongoStore
from pymongo.errors import BulkWriteError, OperationFailure

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.results.results import Results
from ccdcgan.launchers.workdir import embedded_store, open_workdir
from ccdcgan.workflows.campaign import load_campaign
from ccdcgan.workflows.storage.sqlite import SqliteStore
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS, Relaxations

#: A folder that `embedded_store` of commit fa1a6a8 has made with montydb.
BEFORE = Path(__file__).parent / "data" / "montydb_folder"

AT = datetime(2026, 11, 30, 5, 6, 7, 891000)
DOCUMENTS: list[dict[str, Any]] = [
    {"key": "a", "n": 1, "tags": ["x", "y"], "at": AT, "origin": {"kind": "element", "round": 1}},
    {"key": "b", "n": 2.5, "tags": [], "origin": {"kind": "adopted"}, "raw": b"\0\1", "none": None},
    {"key": "c", "n": "2", "tags": ["y", ["x"]], "id": ObjectId(b"0123456789ab"), "origin": None},
    {"key": "d", "n": 1.0, "list": [{"v": 1, "w": 2}, {"v": 3}], "big": 2**40, "yes": True},
    {"key": "e", "n": None, "odd.name": {"$x": 1}, "list": [{"v": None}, 7], "yes": False},
    {"key": "f", "tags": "x", "energy": float("-inf"), "nan": float("nan"), "text": "ü\u2028\0z"},
]

QUESTIONS: list[dict[str, Any]] = [
    {},
    {"key": "c"},
    {"key": {"$in": ["a", "f", "no"]}},
    {"key": {"$in": []}},
    {"key": {"$in": ["a", "b", "d"]}, "n": 1},
    {"key": {"$nin": ["a"]}, "origin.kind": {"$ne": "adopted"}},
    {"key": "a", "n": {"$gt": 0, "$lt": 2}},
    {"n": 1},
    {"n": None},
    {"n": {"$exists": False}},
    {"n": {"$in": [1, "2", None]}},
    {"n": {"$eq": 2.5}},
    {"tags": "x"},
    {"tags": ["x", "y"]},
    {"tags": {"$in": ["y"]}, "$and": [{"key": "a"}, {"tags": "x"}]},
    {"tags": {"$size": 2}},
    {"tags": {"$all": ["x", "y"]}},
    {"tags": {"$ne": "x"}},
    {"origin.kind": "element"},
    {"origin.kind": None},
    {"origin": {"kind": "adopted"}},
    {"origin.round": {"$exists": True}},
    {"list.v": 3},
    {"list.v": None, "key": "e"},
    {"list": {"$elemMatch": {"v": 1, "w": 2}}},
    {"at": AT},
    {"at": AT.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=1)))},
    {"at": {"$lte": AT}},
    {"id": ObjectId(b"0123456789ab")},
    {"raw": b"\0\1"},
    {"big": 2**40, "yes": True},
    {"yes": {"$ne": True}},
    {"key": {"$regex": "^[AB]$", "$options": "i"}},
    {"$or": [{"key": "a"}, {"origin.kind": "adopted"}]},
    {"$nor": [{"key": "a"}, {"n": 1}]},
    {"key": {"$not": {"$in": ["a"]}}, "n": {"$type": "double"}},
    {"energy": {"$lt": 0}},
    {"text": {"$exists": True}, "nan": {"$exists": True}},
]

PROJECTIONS: list[Any] = [
    None,
    ["n"],
    ["origin.kind", "tags"],
    {"n": 0, "_id": 0},
    {"_id": 0},
    {"_id": 1},
    {"_id": 0, "list.v": 1},
    {"list.v": 0},
    {"origin": 0, "at": 0, "tags": 0},
]


def sqlite_store(path: Path, **more: Any) -> SqliteStore:
    made = SqliteStore(
        str(path), "documents", "key", ["n", "origin.kind", "tags", "list.v", "id"], ["key"], **more
    )
    made.connect()
    return made


@pytest.fixture
def stores(tmp_path, database):
    """The embedded store, and one in MongoDB's protocol; both with the same in them."""
    uri, name = database.uri, database.name
    remote = MongoStore.from_uri(uri, "documents", database=name, key="key")
    remote.connect()
    remote.ensure_index("key", unique=True)
    local = sqlite_store(tmp_path / "new" / "documents.sqlite")
    for store in (local, remote):
        store.update(copy.deepcopy(DOCUMENTS))
    return local, remote


def plain(documents: Any) -> list[str]:
    """Documents without MongoDB's own names, in a form in which equal types are equal."""
    return [repr({k: v for k, v in d.items() if k != "_id"}) for d in documents]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_answers_are_those_of_mongodb(stores, question):
    local, remote = stores
    by_key = {"key": 1}
    assert plain(local.query(question)) == plain(remote.query(question, sort=by_key))
    assert local.count(question) == remote.count(question)
    there = plain(remote.query(question, sort={"key": -1}, skip=1, limit=2))
    assert plain(local.query(question, sort={"key": -1}, skip=1, limit=2)) == there


@pytest.mark.parametrize("parts", PROJECTIONS, ids=str)
def test_parts_of_documents_are_those_of_mongodb(stores, parts):
    local, remote = (list(s.query({}, parts, sort={"key": 1})) for s in stores)
    assert plain(local) == plain(remote)
    assert [("_id" in d) for d in local] == [("_id" in d) for d in remote]


def test_order_of_different_types_is_that_of_mongodb(stores):
    for order in ({"n": 1, "key": 1}, {"n": -1, "key": -1}, {"origin.kind": 1, "key": -1}):
        local, remote = ([d["key"] for d in s.query({}, ["key"], sort=order)] for s in stores)
        assert local == remote, order


def test_changes_are_those_of_mongodb(stores):
    """Replacing, removing, marking, grouping: each time the same documents."""
    marked = {"$set": {"retry": True, "origin.round": 2}, "$unset": {"tags": ""}}

    def same() -> None:
        local, remote = (plain(s.query({}, sort={"key": 1})) for s in stores)
        assert local == remote

    def values(store: Any, field: str) -> set[str]:
        return {str(float(v)) if isinstance(v, int) else repr(v) for v in store.distinct(field)}

    ids = [{d["key"]: d["_id"] for d in s.query({}, ["key"])} for s in stores]
    for store in stores:
        store.update([{"key": "a", "n": 9, "origin": {"kind": "element"}}, {"key": "g", "n": 1}])
        store.update({"key": "h", "n": 1, "at": AT.replace(tzinfo=UTC)})
        store._collection.update_many({"key": {"$in": ["a", "b"]}, "n": 9}, marked)
    same()
    for store, before in zip(stores, ids, strict=True):
        assert before.items() <= {d["key"]: d["_id"] for d in store.query({}, ["key"])}.items()
    # Found by what is there now, not by what was.
    assert [s.count({"tags": "x", "key": "a"}) for s in stores] == [0, 0]
    assert [s.count({"n": 1}) for s in stores] == [3, 3]
    # The tests' server knows no elements of arrays in this.
    assert values(stores[0], "list.v") == {"1.0", "3.0", "None"}
    for field in ("key", "tags", "origin.kind"):
        assert values(stores[0], field) == values(stores[1], field), field
    for store in stores:
        store.update([{"key": "z", "n": 3, "uuid": "u"}], key=["n", "uuid"])
        store.update([{"key": "y", "n": 3, "uuid": "u"}], key=["n", "uuid"])
        store.remove_docs({"n": 1})
        store.remove_docs({"key": "no"})
    same()
    groups = [sorted((str(k), len(d)) for k, d in s.groupby("origin.kind")) for s in stores]
    assert groups[0] == [g for g in groups[1] if g[0] != "{}"]


def test_what_a_unique_index_refuses(stores):
    for store in stores:
        twice = [{"key": "new"}, {"key": "a", "n": "other"}, {"key": "last"}]
        with pytest.raises(BulkWriteError) as caught:
            store._collection.insert_many(copy.deepcopy(twice), ordered=False)
        assert [e["code"] for e in caught.value.details["writeErrors"]] == [11000]
        assert store.count({"key": {"$in": ["new", "last"]}}) == 2
        assert store.query_one({"key": "a"})["n"] == 1


@pytest.mark.parametrize(
    "question",
    [
        {"$where": "1"},
        {"$or": [{"a": 1}, {"$where": "1"}]},
        {"a": {"$no": 1}},
        {"$no": 1},
        {"a": {"$in": 3}},
        {"$and": {"a": 1}},
    ],
    ids=str,
)
def test_filters_that_are_none(tmp_path, question):
    store = sqlite_store(tmp_path / "documents.sqlite")
    for number in range(2):
        with pytest.raises(OperationFailure):
            list(store.query(question))
        # Of documents, too, not only without any.
        store.update({"key": str(number), "a": 1})


def test_a_pattern_is_a_filter(tmp_path):
    store = sqlite_store(tmp_path / "documents.sqlite")
    store.update(copy.deepcopy(DOCUMENTS))
    assert [d["key"] for d in store.query({"key": re.compile("^[AB]", re.IGNORECASE)})] == [
        "a",
        "b",
    ]
    assert [d["key"] for d in store.query({"key": {"$in": [re.compile("b"), "c"]}})] == ["b", "c"]


def test_thousands_of_keys_are_asked_for_at_once(tmp_path):
    store = sqlite_store(tmp_path / "documents.sqlite")
    keys = [f"ü'\"{number}" for number in range(2500)]
    store.update([{"key": key, "n": number % 2} for number, key in enumerate(keys)])
    found = store.query({"n": 1, "key": {"$in": [*keys[100:], "no"]}}, ["key"])
    assert [d["key"] for d in found] == keys[101::2]
    assert store.count({"n": {"$in": [*range(2, 1500), 0]}}) == 1250


def test_objects_and_arrays_become_plain(tmp_path):
    store = sqlite_store(tmp_path / "documents.sqlite")
    store.update({"key": np.str_("a"), "n": np.arange(3), 5: (np.float32(0.5), Path("x"))})
    found = store.query_one({"key": "a"}, {"_id": 0})
    assert found == {"key": "a", "n": [0, 1, 2], "5": [0.5, "x"]}
    assert store.query_one({"n": 2}, ["key"])["key"] == "a"


def test_an_index_made_later_has_what_is_there_and_all_writers_serve_it(tmp_path):
    path = tmp_path / "documents.sqlite"
    first, second = sqlite_store(path), sqlite_store(path)
    first.update(copy.deepcopy(DOCUMENTS))
    assert second.ensure_index("yes") and second.ensure_index("yes")
    assert not second.ensure_index("missing", unique=True)
    first.update({"key": "late", "yes": True})
    assert [d["key"] for d in second.query({"yes": True})] == ["d", "late"]


def test_a_job_store_goes_through_dictionaries_and_pickle(tmp_path):
    store: Any = embedded_store(tmp_path)
    for made in (JobStore.from_dict(store.as_dict()), pickle.loads(pickle.dumps(store))):
        made.connect()
        assert made.docs_store == store.docs_store
        made.update({"uuid": "a", "index": 1, "output": {"large": [1, 2]}}, save={DATA: "large"})
        made.update({"uuid": "a", "index": 2, "output": {"large": [3]}}, save={DATA: "large"})
        assert made.get_output("a", load=True) == {"large": [3]}
        assert made.get_output("a", which=1, load=True) == {"large": [1, 2]}
        assert made.count() == 2 and made.additional_stores[DATA].count() >= 2
        made.close()


def _write(path: Path, name: int, count: int) -> None:
    store = sqlite_store(path)
    for number in range(count):
        store.update({"key": f"{name}-{number}", "n": number})
        store.update({"key": "shared", "n": name})


def test_processes_and_threads_write_at_once(tmp_path):
    path = tmp_path / "documents.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, n, 25)) for n in range(2)]
    threads = [threading.Thread(target=_write, args=(path, n, 25)) for n in range(2, 4)]
    for worker in (*workers, *threads):
        worker.start()
    reader = sqlite_store(path)
    for worker in (*workers, *threads):
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0]
    assert reader.count() == len(reader.distinct("key")) == 4 * 25 + 1
    assert reader.count({"n": 7}) == 4


def test_a_forked_process_has_a_connection_of_its_own(tmp_path):
    store = sqlite_store(tmp_path / "documents.sqlite")
    store.update({"key": "parent"})
    child = os.fork()
    if child == 0:
        store.update({"key": "child"})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store.update({"key": "after"})
    assert sorted(store.distinct("key")) == ["after", "child", "parent"]


WRITER = """
import sys
from pathlib import Path
from ccdcgan.workflows.storage.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], "documents", "key", ["n"], ["key"])
store.connect()
for number in range(10**6):
    store.update([{"key": f"{number}-{i}", "n": number, "text": "x" * 3000} for i in range(4)])
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_stored(tmp_path):
    path = tmp_path / "documents.sqlite"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    stored = [int(writer.stdout.readline()) for _ in range(12)]
    writer.send_signal(signal.SIGKILL)
    stored += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    store = sqlite_store(path)
    for number in stored:
        assert store.count({"n": number}) == 4
    # Of one that was on its way, all or nothing.
    assert store.count({"n": stored[-1] + 1}) in (0, 4)
    assert store.count() == sum(1 for _ in store.query({"n": {"$gte": 0}}))
    check = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
    assert check == ("ok",)


def test_what_may_not_be_written_can_be_read(tmp_path, monkeypatch):
    writer = sqlite_store(tmp_path / "documents.sqlite")
    writer.update({"key": "a"})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    during = sqlite_store(tmp_path / "documents.sqlite")
    writer.update({"key": "b"})
    assert during.count() == 2
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        during.update({"key": "c"})
    during.close()
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["documents.sqlite"]
    assert sqlite_store(tmp_path / "documents.sqlite").count() == 2
    assert [p.name for p in tmp_path.iterdir()] == ["documents.sqlite"]


def test_a_file_of_a_later_version_is_left_alone(tmp_path):
    path = tmp_path / "documents.sqlite"
    sqlite_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="later version"):
        sqlite_store(path)


@pytest.fixture
def before(tmp_path) -> Path:
    folder = tmp_path / "before"
    shutil.copytree(BEFORE, folder)
    return folder


def contents(folder: Path) -> dict[str, list[str]]:
    store: Any = embedded_store(folder)
    store.connect()
    stores = {"jobs": store.docs_store, **store.additional_stores}
    found = {name: sorted(plain(s.query())) for name, s in stores.items()}
    store.close()
    return found


def test_a_folder_of_before_is_taken_over(before):
    found = contents(before)
    assert {name: len(d) for name, d in found.items()} == {
        "jobs": 1,
        RESULTS: 3,
        DATA: 2,
        PHASES: 4,
    }
    assert [p.name for p in (before / "store").iterdir()] == ["documents.sqlite"]
    store: Any = embedded_store(before)
    store.connect()
    output = store.get_output("a", load=True)
    assert output == {
        "curves": [1.0, 2.0],
        "at": AT,
        "id": ObjectId("6b0d10496f325724af150ba7"),
        "raw": b"\0\1",
        "a.b": 1,
    }
    relaxations = Relaxations(store.additional_stores[RESULTS])
    keys = [f"{n:032x}" for n in range(4)]
    assert relaxations.converged(keys) == {keys[0]: True, keys[1]: True, keys[2]: False}
    assert len(relaxations.get(keys, frames=False)) == 3
    assert contents(before) == found


def test_questions_to_a_folder_of_before(before):
    assert Results.in_folder(before).count() == 4
    assert [p["formula"] for p in Results.in_folder(before).find(limit=1)] == ["Bi"]


def test_taking_over_goes_on_where_it_was_stopped(before, tmp_path, monkeypatch):
    shutil.copytree(before, tmp_path / "other")
    whole = contents(tmp_path / "other")
    calls = []

    def stop(store, documents):
        calls.append(store.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        insert(store, documents)

    from ccdcgan.workflows.storage import montydb
    from ccdcgan.workflows.storage.stores import insert

    with monkeypatch.context() as patch:
        patch.setattr(montydb, "insert", stop)
        with pytest.raises(KeyboardInterrupt):
            embedded_store(before)
    # What it was stays whole.
    files = {p.name for p in (before / "store" / "ccdcgan").glob("*.collection")}
    assert files == {f"{n}.collection" for n in ("jobs", "relaxations", "artifacts", "phases")}
    assert contents(before) == whole


def test_a_run_of_an_earlier_version_is_not_disturbed(before, monkeypatch):
    from ccdcgan.dft.files import locked
    from ccdcgan.launchers import workdir

    monkeypatch.setattr(workdir, "TAKE_OVER", 0.3)
    with locked(before / ".lock", "in use"), pytest.raises(UserError, match="earlier version"):
        embedded_store(before)
    assert (before / "store" / "ccdcgan" / "relaxations.collection").exists()
    # Whoever goes on with the folder takes it over.
    with open_workdir(before, load_campaign(before / "campaign.yaml")):
        assert not (before / "store" / "ccdcgan").exists()
        assert Results.in_folder(before).count() == 4


def test_two_take_over_at_once(before):
    code = (
        "import sys; from pathlib import Path; "
        "from ccdcgan.launchers.results.results import Results; "
        "print(Results.in_folder(Path(sys.argv[1])).count())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(before)]
    asked = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [p.communicate()[0].strip() for p in asked] == ["4"] * 3


def test_other_files_beside_those_of_before_stay(before):
    (before / "store" / "ccdcgan" / "mine.txt").write_text("x")
    contents(before)
    assert [p.name for p in (before / "store" / "ccdcgan").iterdir()] == ["mine.txt"]
    assert Results.in_folder(before).count() == 4
