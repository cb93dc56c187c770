"""Results on their way into a database that is away, refuses them, or has them already."""

import errno
import json
import time

import pytest
from crystals import CSCL, ROCKSALT
from deadly import LEVEL
from maggma.stores import MemoryStore, MongoStore
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Origin
from ccdcgan.workflows.relax import relax_missing
from ccdcgan.workflows.storage import spool as module
from ccdcgan.workflows.storage.spool import Spool, retry_while_unreachable
from ccdcgan.workflows.storage.stores import Relaxations


@pytest.fixture
def store(database):
    made = MongoStore.from_uri(
        database.uri,
        "relaxations",
        database=database.name,
        key="key",
        mongoclient_kwargs={"serverSelectionTimeoutMS": 60000},
    )
    made.connect()
    made._collection.create_index("key", unique=True)
    return made


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DEADLINE", 1.0)
    monkeypatch.setattr(module, "PAUSE", 0.2)
    return Spool(tmp_path / "spool")


def keys(store) -> list[str]:
    return sorted(d["key"] for d in store.query({}, ["key"]))


def test_what_is_stored_leaves_no_file(spool, store):
    spool.put("results", store, {"key": "a", "energy": -3.0})
    assert keys(store) == ["a"] and spool.waiting() == []


def test_results_wait_on_disk_until_the_database_is_back(spool, store, stoppable_server):
    stoppable_server.stop()
    start = time.monotonic()
    for key in "abc":
        spool.put("results", store, {"key": key, "energy": -3.0})
    # The computation goes on: only the first write has waited for its deadline.
    assert time.monotonic() - start < 10
    assert [json.loads(p.read_text())["document"]["key"] for p in spool.waiting()] == [
        "a",
        "b",
        "c",
    ]
    assert not spool.deliver({"results": store})
    stoppable_server.start()
    # Anybody who sees the folder brings them in.
    Spool(spool.folder).settle({"results": store})
    assert keys(store) == ["a", "b", "c"] and spool.waiting() == []


def test_patience_has_an_end_that_says_where_the_results_are(
    spool, store, stoppable_server, monkeypatch
):
    monkeypatch.setenv("CCDCGAN_PATIENCE", "1")
    stoppable_server.stop()
    spool.put("results", store, {"key": "a"})
    with pytest.raises(UserError, match=f"1 results are in {spool.folder}.*ccdcgan retry"):
        spool.settle({"results": store})
    assert len(spool.waiting()) == 1


def test_a_result_that_is_there_already_is_no_error(spool, store):
    for energy in (-3.0, -3.0):
        spool.put("results", store, {"key": "a", "energy": energy})
    assert keys(store) == ["a"]


def test_what_the_database_refuses_does_not_stop_the_others(spool, store):
    spool.folder.mkdir()
    # More than a document may hold.
    poison = {"store": "results", "document": {"key": "a", "much": "x" * 17_000_000}}
    (spool.folder / "results-a.json").write_text(json.dumps(poison))
    spool.put("results", store, {"key": "b"})
    assert keys(store) == ["b"]
    assert [p.name for p in spool.folder.iterdir()] == ["results-a.refused"]
    # One's own is an error, and stays, too.
    for key, value in (("c", poison["document"]["much"]), ("d", 2**70)):
        with pytest.raises((BulkWriteError, DocumentTooLarge, OverflowError)):
            spool.put("results", store, {"key": key, "much": value})
        kept = json.loads((spool.folder / f"results-{key}.refused").read_text())
        assert kept["document"]["much"] == value
    assert spool.waiting() == []


#: What a database says that is full, or whose user has lost rights.
PASSING = [
    OperationFailure("available disk space of 524 bytes is less than required", 14031),
    OperationFailure("you are over your space quota, using 512 MB of 512 MB", 8000),
    OperationFailure("not authorized on ccdcgan to execute command", 13),
    OperationFailure("Authentication failed.", 18),
    BulkWriteError({"writeErrors": [{"index": 0, "code": 14031, "errmsg": "disk"}]}),
]


@pytest.mark.parametrize("trouble", PASSING)
def test_a_database_that_is_full_or_revokes_rights_is_waited_for(
    spool, store, monkeypatch, caplog, trouble
):
    def refuse(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setenv("CCDCGAN_PATIENCE", "0")
    with monkeypatch.context() as patch:
        patch.setattr(store, "update", refuse)
        for key in "ab":
            spool.put("results", store, {"key": key, "energy": -3.0})
        assert "the database takes nothing" in caplog.text
        with pytest.raises(UserError, match="takes nothing .*2 results are in .*ccdcgan retry"):
            spool.settle({"results": store})
    assert len(spool.waiting()) == len(list(spool.folder.iterdir())) == 2
    Spool(spool.folder).settle({"results": store})
    assert keys(store) == ["a", "b"] and spool.waiting() == []


def test_a_full_disk_waits_for_a_full_database(spool, store, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    update, troubles = store.update, [*PASSING]

    def sometimes(*arguments: object, **options: object) -> None:
        if troubles:
            raise troubles.pop()
        update(*arguments, **options)

    monkeypatch.setattr(store, "update", sometimes)
    spool.put("results", store, {"key": "a"})
    assert keys(store) == ["a"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"1", b'{"store": []}', b'{"store": "results"}']
)
def test_a_file_that_is_none_of_ours_is_set_aside(spool, store, content):
    spool.folder.mkdir()
    (spool.folder / "results-a.json").write_bytes(content)
    spool.put("results", store, {"key": "b"})
    assert keys(store) == ["b"]
    assert [p.name for p in spool.folder.iterdir()] == ["results-a.refused"]


def test_a_full_disk_loses_nothing_while_the_database_is_there(spool, store, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    for _ in range(2):
        spool.put("results", store, {"key": "a", "energy": -3.0})
    assert keys(store) == ["a"]
    assert "No space left on device" in caplog.text and "into the database" in caplog.text


def test_a_file_that_cannot_be_read_stops_nobody(spool, store, caplog):
    spool.folder.mkdir()
    # A folder, as not even root can read one.
    (spool.folder / "results-a.json").mkdir()
    spool.put("results", store, {"key": "b"})
    assert keys(store) == ["b"]
    assert f"{spool.folder / 'results-a.json'} cannot be read" in caplog.text


def test_no_key_leads_out_of_the_folder(spool, store, tmp_path, monkeypatch):
    monkeypatch.setattr(Spool, "deliver", lambda *_: True)
    for key in ("../../outside", str(tmp_path / "outside")):
        spool.put("results", store, {"key": key})
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) == 2 and {p.parent for p in written} == {spool.folder}


def test_files_of_other_stores_are_left_to_those_who_have_them(spool, store):
    spool.folder.mkdir()
    path = spool.folder / "data-x.json"
    path.write_text(json.dumps({"store": "data", "document": {"key": "x"}}))
    spool.put("results", store, {"key": "a"})
    assert spool.waiting() == [path]


def test_actions_are_repeated_while_the_database_is_away(store, stoppable_server, spool):
    calls = []

    def count() -> int:
        calls.append(1)
        if len(calls) == 1:
            stoppable_server.stop()
            stoppable_server.start()
        return store._collection.count_documents({})

    assert retry_while_unreachable(count, 30) == 0
    with pytest.raises(ZeroDivisionError):
        retry_while_unreachable(lambda: 1 // 0, 30)


def test_result_that_is_cut_on_its_way_is_relaxed_again(tmp_path, monkeypatch):
    """As by a power cut: the file is set aside, and the job does not end without its result."""
    store = MemoryStore(key="key")
    store.connect()
    relaxations = Relaxations(store)
    relaxations._spool = Spool(tmp_path / "spool")
    # As long as the database is away.
    relaxations._spool._away_until = float("inf")
    wanted = {
        key: Candidate(origin=Origin(kind="prototype", id=key), structure=structure)
        for key, structure in {"a": ROCKSALT, "b": CSCL}.items()
    }
    asked = []

    def relaxed(structures, settings):
        asked.append([key for key, c in wanted.items() if c.structure in structures])
        for number, key in enumerate(asked[-1]):
            yield number, Relaxation(key=key, level_of_theory=LEVEL, structure=structures[number])
            if len(asked) <= cuts:
                relaxations._spool.waiting()[0].write_text("")

    monkeypatch.setattr("ccdcgan.workflows.relax.relaxed", relaxed)
    cuts = 1
    relax_missing(relaxations, wanted, Campaign(), "relaxations")
    assert asked == [["a", "b"], ["a"]] and keys(store) == ["a", "b"]

    store.remove_docs({})
    asked.clear()
    cuts = 2
    with pytest.raises(UserError, match="does not take 1 results"):
        relax_missing(relaxations, wanted, Campaign(), "relaxations")
