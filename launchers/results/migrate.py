"""``ccdcgan migrate``: a campaign from its folder into MongoDB, and back into a folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maggma.core import Store
from maggma.stores.gridfs import GridFSStore

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.launchers.cluster.launchpad import connect, prepare
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, embedded_store, open_workdir
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.confirm import confirmed_campaign
from ccdcgan.workflows.generate import generated_keys
from ccdcgan.workflows.knowledge import knowledge_key
from ccdcgan.workflows.storage.language import Document
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS, insert

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.settings import Cluster

Name = tuple[Any, ...]

#: Characters of JSON that are written at a time, a whole number of documents.
BATCH = 8_000_000

#: Names in one question to the database.
NAMES = 1000

OUTPUTS = "job outputs"

#: What a campaign consists of: its store and the fields that name a document. What is spoken of
#: comes before what speaks of it.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "relaxations": (RESULTS, ("key",)),
    "artifacts": (DATA, ("key",)),
    "large outputs": (DATA, ("blob_uuid",)),
    OUTPUTS: ("documents", ("uuid", "index")),
    PHASES: (PHASES, ("uid",)),
}


@dataclass(frozen=True)
class Moved:
    """How many documents of a kind a campaign has, and what was done with them.

    Attributes
    ----------
    there
        How many were there before.
    differing
        How many of the campaign's have another one in their place, which stays.
    """

    what: str
    total: int
    there: int = 0
    differing: int = 0

    def __str__(self) -> str:
        notes = [f"already there: {self.there}"] if self.there else []
        if self.differing:
            notes.append(f"different and left as they were: {self.differing}")
        return f"{self.total} {self.what}" + (f" ({', '.join(notes)})" if notes else "")


class Shelf:
    """The documents of one kind in a store.

    Parameters
    ----------
    store, fields
        A connected store, and the fields that name a document in it.
    owner
        Campaign of the job outputs that say none: those of a folder.
    """

    def __init__(self, store: Store, fields: Sequence[str], owner: str | None = None) -> None:
        self._store: Any = store
        self._fields = tuple(fields)
        self._owner = owner

    def name(self, document: Mapping[str, Any]) -> Name:
        return tuple(document[field] for field in self._fields)

    def find(
        self, criteria: Mapping[str, Any], properties: Sequence[str] | None = None
    ) -> Iterator[Document]:
        """The documents that match, without the store's own ``_id``."""
        for document in self._store.query(dict(criteria), properties=properties):
            document.pop("_id", None)
            # The store of artifacts has large outputs, too.
            if all(field in document for field in self._fields):
                if self._owner and properties is None:
                    document.setdefault("metadata", {}).setdefault("campaign", self._owner)
                yield document

    def read(self, names: Set[Name]) -> Iterator[Document]:
        """Those of the names that are there, each once."""
        left = set(names)
        firsts = sorted({name[0] for name in left})
        questions: list[Mapping[str, Any]] = [
            {self._fields[0]: {"$in": firsts[i : i + NAMES]}} for i in range(0, len(firsts), NAMES)
        ]
        for question in questions:
            for document in self.find(question):
                if (name := self.name(document)) in left:
                    left.remove(name)
                    yield document

    def add(self, documents: list[Document]) -> None:
        """Store documents whose names are not there."""
        if isinstance(self._store, GridFSStore):
            self._store.update(documents, key=list(self._fields))
            return
        insert(self._store, documents)

    def remove(self, criteria: Mapping[str, Any]) -> None:
        self._store._collection.delete_many(dict(criteria))


Shelves = Mapping[str, Shelf]


def to_database(folder: Path, cluster: Cluster) -> list[Moved]:
    """Copy the campaign in a folder into the database; once more adds what is missing.

    Raises
    ------
    UserError
        The folder holds no campaign or nothing of it yet, or is in use; the database is not ours,
        or has not got everything.
    """
    folder = folder.resolve()
    stored = folder / CAMPAIGN_FILE
    if not stored.exists():
        raise UserError(f"{folder} holds no campaign: give the folder of a ccdcgan run")
    campaign = load_campaign(stored)
    pad = connect(cluster)
    with (
        open_workdir(folder, campaign),
        _open(embedded_store(folder), campaign.digest()) as here,
    ):
        names = {what: {shelf.name(d) for d in shelf.find({})} for what, shelf in here.items()}
        if not any(names.values()):
            raise UserError(f"{folder} has no results yet: nothing to bring to the database")
        prepare(pad, cluster)
        with _open(cluster.job_store()) as there:
            return _copy_all(here, there, names, campaign)


def to_folder(folder: Path, campaign: Campaign, cluster: Cluster) -> list[Moved]:
    """Copy what a database has of a campaign into a folder, where ``ccdcgan run`` goes on from it.

    Parameters
    ----------
    folder
        New, empty, or of the same campaign, to which what is missing is added.

    Raises
    ------
    UserError
        The database is not ours or has nothing of the campaign; the folder is another's, in use,
        or has not got everything.
    """
    folder = folder.resolve()
    connect(cluster)
    with _open(cluster.job_store()) as there:
        names = _names_of(campaign, there)
        if not any(names.values()):
            raise UserError(
                f"the database has nothing of this campaign ({campaign.digest()}): "
                "does the file name its seed?"
            )
        with (
            open_workdir(folder, campaign),
            _open(embedded_store(folder), campaign.digest()) as here,
        ):
            return _copy_all(there, here, names, campaign)


@contextlib.contextmanager
def _open(store: Any, owner: str | None = None) -> Iterator[Shelves]:
    with store:
        stores = {"documents": store.docs_store, **store.additional_stores}
        yield {
            what: Shelf(stores[name], fields, owner if what == OUTPUTS else None)
            for what, (name, fields) in KINDS.items()
        }


def _names_of(campaign: Campaign, there: Shelves) -> dict[str, set[Name]]:
    """Names of all that belongs to a campaign, in a database with others."""
    digest = campaign.digest()
    names: dict[str, set[Name]] = {what: set() for what in KINDS}
    keys: set[str] = set()
    # One that was submitted again has a number behind its digest.
    runs = {"metadata.campaign": {"$regex": f"^{digest}"}}
    for document in there[OUTPUTS].find(runs):
        names[OUTPUTS].add(there[OUTPUTS].name(document))
        keys.update(_values(document["output"], "key"))
        names["large outputs"].update((blob,) for blob in _values(document["output"], "blob_uuid"))
    for document in there[PHASES].find({"campaign": digest}, ["uid", "id"]):
        names[PHASES].add((document["uid"],))
        keys.add(document["id"])
    askers = [digest, *([confirmed_campaign(campaign).digest()] if campaign.confirm else [])]
    asked = there["relaxations"].find({"campaign": {"$in": askers}}, ["key"])
    keys.update(document["key"] for document in asked)
    # What a generator has drawn is named by no output: see GenerateMaker.
    generators = {key for key in keys if key.startswith("gan-")}
    keys |= {key for gan in generators for key in generated_keys(gan, campaign)}
    if keys:
        keys.add(knowledge_key(campaign))
    for key in keys:
        names["artifacts" if "-" in key else "relaxations"].add((key,))
    return names


def _values(value: Any, field: str) -> Iterator[str]:
    """All texts that stand under the name of a field, however deep."""
    if isinstance(value, dict):
        if isinstance(found := value.get(field), str):
            yield found
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _values(part, field)


def _copy_all(
    source: Shelves, target: Shelves, names: Mapping[str, Set[Name]], campaign: Campaign
) -> list[Moved]:
    moved = [
        _copy(what, source[what], target[what], names[what]) for what in KINDS if what != PHASES
    ]
    return [*moved, _copy_phases(source[PHASES], target[PHASES], campaign.digest())]


def _copy_phases(source: Shelf, target: Shelf, campaign: str) -> Moved:
    """Copy phases; those of two hulls do not mix, as distances to them do not compare."""
    own = {"campaign": campaign}
    here, there = (
        {d["uid"]: d.get("hull") for d in shelf.find(own, ["uid", "hull"])}
        for shelf in (source, target)
    )
    if set(there.values()) - set(here.values()):
        # A campaign's phases only grow in number: fewer are of an earlier hull.
        if not there.keys() < here.keys():
            return Moved(PHASES, len(here), len(here.keys() & there.keys()), len(here))
        target.remove(own)
    return _copy(PHASES, source, target, {(uid,) for uid in here})


def _copy(what: str, source: Shelf, target: Shelf, names: Set[Name]) -> Moved:
    """Copy the documents of these names that the target has not, and look whether it has them.

    Raises
    ------
    UserError
        What has arrived is not what was sent.
    """
    there = _digests(target, names)
    sent: dict[Name, str] = {}
    batch: list[Document] = []
    size = 0
    for document in source.read(names):
        text = _text(document)
        name = source.name(document)
        sent[name] = _digest(text)
        if name not in there:
            batch.append(document)
            size += len(text)
        if size > BATCH:
            target.add(batch)
            batch, size = [], 0
            progress.report(what, len(sent), len(names))
    if batch:
        target.add(batch)
        progress.report(what, len(sent), len(sent))
    arrived = _digests(target, sent.keys() - there.keys())
    wrong = [n for n in sent.keys() - there.keys() if arrived.get(n) != sent[n]]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(sent)} {what} have not arrived as they were sent: "
            "run the same command again"
        )
    differing = [n for n in sent.keys() & there.keys() if there[n] != sent[n]]
    return Moved(what, len(sent), len(sent.keys() & there.keys()), len(differing))


def _digests(shelf: Shelf, names: Set[Name]) -> dict[Name, str]:
    return {shelf.name(d): _digest(_text(d)) for d in shelf.read(names)} if names else {}


def _text(document: Document) -> str:
    """A document as text that is the same in every kind of store."""
    return json.dumps(document, sort_keys=True, default=str)


def _digest(text: str) -> str:
    return digest(text)
