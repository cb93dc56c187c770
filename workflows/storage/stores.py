"""Stores as the jobs see them: relaxations, phases, and artifacts such as trained networks."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jobflow
from maggma.core import Store

from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.workflows.documents import Artifact, Candidate, RelaxationDocument
from ccdcgan.workflows.storage.language import Document
from ccdcgan.workflows.storage.spool import Spool, retry_while_unreachable, unless_there
from ccdcgan.workflows.storage.sqlite import SqliteStore

A = TypeVar("A", bound=Artifact)

#: Names of the JobStore's additional stores: relaxation documents under their content keys,
#: artifacts and whatever of a job's output is too large for one document, and phases.
RESULTS, DATA, PHASES = "results", "data", "phases"

#: Stands for the dot in names of files: databases read a dot in a key as a path.
DOT = "\N{FULLWIDTH FULL STOP}"


def current_store(name: str) -> Store:
    """An additional store of the JobStore that the running job writes to.

    jobflow-remote gives each job files of its own in its place, and copies them into the database
    when the job has ended. What other jobs have found is in the JobStore of jobflow's settings.
    """
    store: Any = jobflow.CURRENT_JOB.store
    if type(getattr(store, "docs_store", None)).__module__.startswith("jobflow_remote."):
        store = jobflow.SETTINGS.JOB_STORE
        # Without effect on one that is connected.
        store.connect()
    if store is None or name not in store.additional_stores:
        raise RuntimeError(f"the JobStore needs an additional store named {name!r}")
    return store.additional_stores[name]


class Relaxations:
    """Relaxation documents under their content keys.

    Parameters
    ----------
    store
        maggma store of the documents; by default that of the running job.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store if store is not None else current_store(RESULTS)
        self._spool = Spool()

    def done(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys whose result is there, and that nobody wants tried again."""
        return {d["key"] for d in self._of(keys, {"retry": {"$ne": True}}, ["key"])}

    def converged(self, keys: Iterable[str]) -> dict[str, bool]:
        """Those of the keys that are there, and whether their relaxations converged."""
        return {d["key"]: bool(d["converged"]) for d in self._of(keys, {}, ["key", "converged"])}

    def _of(
        self,
        keys: Iterable[str],
        criteria: Mapping[str, object],
        properties: list[str] | None = None,
    ) -> Iterator[Document]:
        """Documents of these keys that meet the criteria."""
        wanted = {"key": {"$in": sorted(set(keys))}, **criteria}
        return iter(self._store.query(wanted, properties))

    def put(self, document: RelaxationDocument) -> None:
        """Store a document at once; the same key is never stored twice.

        While the database is away, the document waits on disk: `settle` waits for it.
        """
        self._spool.put(RESULTS, self._store, document.model_dump(mode="json"))

    def add(self, documents: Sequence[RelaxationDocument]) -> None:
        """Store many documents whose keys are not there."""
        insert(self._store, [d.model_dump(mode="json") for d in documents])

    def settle(self) -> None:
        """Wait until all documents are in the database."""
        self._spool.settle({RESULTS: self._store})

    def adopted(self) -> list[tuple[str, Candidate]]:
        """Keys and initial structures of runs of others that were taken as results."""
        fields = ["key", "origin", "initial_structure"]
        return [
            (d["key"], Candidate(origin=d["origin"], structure=d["initial_structure"]))
            for d in self._store.query({"origin.kind": "adopted"}, fields)
        ]

    def without(self, keys: Iterable[str], property_: str) -> list[str]:
        """Those of the keys whose crystal has converged and was never asked for a property."""
        criteria = {
            "converged": True,
            f"properties.{property_}": {"$exists": False},
            f"lacking.{property_}": {"$exists": False},
        }
        return [d["key"] for d in self._of(keys, criteria, ["key"])]

    def without_opinion(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys whose crystal has an energy and no second opinion."""
        criteria = {"energy_per_atom": {"$ne": None}, "second_opinion": None}
        return [d["key"] for d in self._of(keys, criteria, ["key"])]

    def get(self, keys: Iterable[str], frames: bool = True) -> dict[str, RelaxationDocument]:
        """Documents by key, with their frames or without."""
        fields = None if frames else sorted(set(RelaxationDocument.model_fields) - {"frames"})
        found = self._of(keys, {}, fields)
        return {d["key"]: RelaxationDocument.model_validate(d) for d in found}


def insert(store: Store, documents: list[Document]) -> None:
    """Store many documents whose names are not there, in one go."""
    with unless_there():
        store._collection.insert_many(documents, ordered=False)


#: To be raised when artifacts hold something else than before: older ones are made anew.
FORMAT = 2


def artifact_key(kind: str, *parts: Any) -> str:
    """Key of an artifact: a hash of its kind and of everything that it was made from."""
    text = json.dumps([FORMAT, kind, *parts], sort_keys=True, default=str)
    return f"{kind}-{digest(text, 24)}"


def cached_artifact(key: str, kind: type[A], make: Callable[[], A]) -> A:
    """The artifact under a key, made and stored if it is not there yet."""
    found = _settled().query_one({"key": key})
    if found is None:
        found = keep_artifact(key, make())
    return kind.model_validate(_unpack(found["value"]))


def stored_key(today: str, earlier: str) -> str:
    """The key under which an artifact is stored: an earlier version's if that has stored it."""
    store = _settled()
    is_earlier = not store.query_one({"key": today}, ["key"]) and store.query_one(
        {"key": earlier}, ["key"]
    )
    return earlier if is_earlier else today


def _settled() -> Store:
    """The store of artifacts; one that was made while the database was away may lie on disk."""
    store = current_store(DATA)
    Spool().settle({DATA: store})
    return store


def keep_artifact(key: str, made: Artifact) -> Document:
    """Store an artifact under a key that has none; the document that is stored."""
    store, spool = current_store(DATA), Spool()
    plain = made.model_dump(mode="json", exclude={"files"})
    files = {"files": made.files} if made.files else {}
    document = {"key": key, "value": _pack({**files, **plain})}
    spool.put(DATA, store, document)
    spool.settle({DATA: store})
    return document


def stored_artifact(key: str, kind: type[A]) -> A | None:
    """The artifact under a key; None where there is none."""
    return artifact_in(current_store(DATA), key, kind)


def artifact_in(store: Store, key: str, kind: type[A]) -> A | None:
    """The artifact under a key in a store; None where there is none."""
    found = store.query_one({"key": key})
    return None if found is None else kind.model_validate(_unpack(found["value"]))


def load_artifact(key: str, kind: type[A]) -> A:
    """The artifact under a key, which must be there."""
    found = stored_artifact(key, kind)
    if found is None:
        raise RuntimeError(f"artifact {key} is missing from the store {DATA!r}")
    return found


def load_bytes(key: str) -> bytes | None:
    """What `store_bytes` has kept under a key; None if there is nothing."""
    found = current_store(DATA).query_one({"key": key})
    return None if found is None else _unpack(found["value"])["content"]


def store_bytes(key: str, content: bytes) -> None:
    """Keep something under a key, in place of what is there."""
    Spool().put(DATA, current_store(DATA), {"key": key, "value": _pack({"content": content})})


def publish(
    phases: Sequence[Document], campaign: str, system: str, hull: str, *, all_of_them: bool = False
) -> None:
    """Put a campaign's phases where people query them, in place of its earlier ones.

    A folder holds one campaign, whose digest changes as more or less is asked of it: there they
    also take the place of the same crystals of an earlier digest, at the end of all.

    Parameters
    ----------
    phases
        Documents of `Phase`.
    campaign, system, hull
        Digest of the campaign, its system as in Bi-Se, and key of the hull that judged the phases.
    all_of_them
        Whether these are the campaign's last.
    """
    documents: dict[str, Document] = {}
    for phase in phases:
        document = {**phase_document(phase, campaign, system), "hull": hull}
        documents.setdefault(document["uid"], document)
    store = current_store(PHASES)
    collection = store._collection
    earlier: Document = {"campaign": campaign}
    if isinstance(store, SqliteStore):
        same = {} if all_of_them else {"id": {"$in": [d["id"] for d in documents.values()]}}
        earlier = {"$or": [earlier, {"system": system, **same}]}

    def replace() -> None:
        if store.query_one(earlier, ["uid"]):
            collection.delete_many(earlier)
        if documents:
            collection.insert_many([dict(d) for d in documents.values()])

    retry_while_unreachable(replace)


def phase_document(phase: Mapping[str, Any], campaign: str, system: str) -> Document:
    """What is stored of a phase: itself, whose it is, and numbers to query by.

    ``density`` is in g/cm³, ``volume_per_atom`` in Å³.
    """
    structure = decode_structure(phase["structure"])
    return {
        **phase,
        "uid": f"{campaign}:{phase['id']}",
        "campaign": campaign,
        "system": system,
        "elements": sorted(e.symbol for e in structure.composition.elements),
        "nsites": len(structure),
        "density": float(structure.density),
        "volume_per_atom": structure.volume / len(structure),
    }


def _pack(value: Any) -> Any:
    """Bytes as base64 text, which any store can hold, and names without dots."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {k.replace(".", DOT): _pack(v) for k, v in value.items()}
    return value


def _unpack(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    return {k.replace(DOT, "."): _unpack(v) for k, v in value.items()}
