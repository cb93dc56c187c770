"""The LaunchPad: connecting to it, making it ours, and FireWorks' one in bulk and with patience."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from fireworks import Firework, LaunchPad, Workflow
from pymongo import MongoClient, ReplaceOne
from pymongo.errors import (
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from ruamel.yaml import YAML

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster import Cluster, Database
from ccdcgan.workflows.documents import SCHEMA_VERSION
from ccdcgan.workflows.spool import patiently

#: Collection with what we know of the database itself, in one document.
MARK = "ccdcgan"

#: Our own collections beside FireWorks'.
CAMPAIGNS, QUEUE_JOBS, PROGRESS, LEASES = "campaigns", "queue_jobs", "progress", "leases"

#: FireWorks' own, as attributes of its LaunchPad.
FIREWORKS_COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs", "fw_id_assigner")

#: Milliseconds until a person is told that the database does not answer.
SOON = 5000

#: What FireWorks writes with. Twice does no harm: each names the document that it changes.
WRITES = {
    "aggregate",
    "count_documents",
    "delete_many",
    "find_one",
    "find_one_and_replace",
    "find_one_and_update",
    "insert_many",
    "insert_one",
    "replace_one",
    "update_many",
    "update_one",
    "bulk_write",
}


class Patient:
    """A collection whose operations wait for a database that is away.

    pymongo repeats reads, and writes to a replica set, once; a run of hours must outlive a server
    that is restarted.
    """

    def __init__(self, collection: Any, seconds: float) -> None:
        self._collection = collection
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._collection, name)
        if name not in WRITES:
            return found
        return lambda *args, **kwargs: patiently(lambda: found(*args, **kwargs), self._seconds)


class Pad(LaunchPad):
    """FireWorks' LaunchPad, for workers and for many jobs at a time.

    Parameters
    ----------
    patience
        Seconds to wait for a database that is away; None fails at once.
    settings
        FireWorks' own, as in my_launchpad.yaml.
    """

    def __init__(self, patience: float | None = None, **settings: Any) -> None:
        super().__init__(**{"strm_lvl": "ERROR", **settings})
        self.campaigns = self.db[CAMPAIGNS]
        if patience is not None:
            for name in (*FIREWORKS_COLLECTIONS, "campaigns"):
                setattr(self, name, Patient(getattr(self, name), patience))

    @classmethod
    def from_folder(cls, folder: Path, patience: float) -> Pad:
        """That of a folder of `cluster.write_files`."""
        path = folder / "my_launchpad.yaml"
        try:
            settings = YAML(typ="safe").load(path.read_text())
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}): make it with ccdcgan cluster write"
            ) from None
        options = {"serverSelectionTimeoutMS": int(1000 * patience) + SOON}
        return cls(patience, **{**settings, "mongoclient_kwargs": options})

    def _upsert_fws(self, fws: list[Firework], reassign_all: bool = False) -> dict[int, int]:
        """FireWorks', in two round trips instead of two for each job."""
        if reassign_all:
            found: dict[int, int] = super()._upsert_fws(fws, reassign_all=True)
            return found
        fws.sort(key=lambda fw: fw.fw_id)
        new = [fw for fw in fws if fw.fw_id < 0]
        old_new = {}
        if new:
            first = self.get_new_fw_id(quantity=len(new))
            for number, fw in enumerate(new, first):
                old_new[fw.fw_id] = number
                fw.fw_id = number
        writes = [ReplaceOne({"fw_id": fw.fw_id}, fw.to_db_dict(), upsert=True) for fw in fws]
        if writes:
            self.fireworks.bulk_write(writes, ordered=True)
        return old_new

    def _update_wf(self, wf: Workflow, updated_ids: Iterable[int]) -> None:
        """FireWorks'; what is born or runs again in a paused or cancelled campaign waits."""
        query = {"_id": wf.metadata.get("campaign"), "held": {"$exists": True}}
        if found := self.campaigns.find_one(query, {"held": 1}):
            for fw_id in updated_ids:
                if wf.fw_states[fw_id] in {"READY", "WAITING"}:
                    wf.id_fw[fw_id].state = wf.fw_states[fw_id] = found["held"]
        super()._update_wf(wf, updated_ids)


def connect(cluster: Cluster) -> Pad:
    """The LaunchPad, after a first answer of its database.

    Raises
    ------
    UserError
        It cannot be reached, rejects the password, belongs to another project, or was made by
        another version; one line, in which no password is.
    """
    pad = open_pad(cluster)
    mark = pad.db[MARK].find_one({"_id": MARK})
    name = cluster.launchpad.database
    if mark is None:
        if pad.fireworks.find_one({}, {"_id": 1}) or pad.workflows.find_one({}, {"_id": 1}):
            raise UserError(
                f"the LaunchPad in database {name!r} belongs to another project: "
                "set launchpad.database to another name"
            )
    elif mark["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"database {name!r} was made by ccdcgan {mark['version']} "
            f"(documents of version {mark['schema_version']}, here {SCHEMA_VERSION}): use that "
            "version, or another launchpad.database"
        )
    return pad


def open_pad(cluster: Cluster) -> Pad:
    """The LaunchPad as it is, once its database has answered."""
    chosen = cluster.launchpad
    ping(chosen)
    return Pad(
        host=chosen.uri,
        name=chosen.database,
        uri_mode=True,
        mongoclient_kwargs={"serverSelectionTimeoutMS": SOON},
    )


def ping(database: Database) -> dict[str, Any]:
    """What the server says of itself, or a clear error."""
    variable = database.uri_from_environment
    try:
        handle = database_of(database)
        # Something that needs the right to read.
        handle[MARK].find_one({"_id": MARK})
        info: dict[str, Any] = handle.client.server_info()
        return info
    except (InvalidURI, ConfigurationError, ValueError):
        # The message would repeat the address.
        raise UserError(
            f"{variable} is not the address of a MongoDB: it should look like "
            "mongodb://user:password@host:27017/"
        ) from None
    except PyMongoError as error:
        raise UserError(f"{explain(error)} ({variable})") from None


def explain(error: PyMongoError) -> str:
    """One line for an error of the database, without an address that may hold a password."""
    if isinstance(error, OperationFailure):
        if error.code in (18, 8000):
            return "the database rejects the user or the password"
        if error.code == 13:
            return "the database user has no right to do this"
        return f"the database refuses: {str((error.details or {}).get('errmsg', error.code))[:200]}"
    if isinstance(error, ServerSelectionTimeoutError):
        reason = str(error).split(",")[0].split(" (")[0]
        return f"cannot reach the database: {reason[:200]}"
    return f"the database does not answer: {type(error).__name__}"


def prepare(pad: Pad, cluster: Cluster) -> None:
    """Make the LaunchPad ours: its mark, its counters, and every index; again does no harm."""
    pad.db[MARK].update_one(
        {"_id": MARK},
        {
            "$setOnInsert": {
                "schema_version": SCHEMA_VERSION,
                "version": metadata.version("ccdcgan"),
                "created_at": now(),
            }
        },
        upsert=True,
    )
    pad.db.fw_id_assigner.update_one(
        {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
    )
    pad.tuneup()
    for collection, fields, unique in indexes(pad, cluster):
        collection.create_index(directed(fields), unique=unique)


def database_of(chosen: Database) -> Any:
    """The handle of a database."""
    client: MongoClient[dict[str, Any]] = MongoClient(chosen.uri, serverSelectionTimeoutMS=SOON)
    return client[chosen.database]


def directed(fields: Sequence[str]) -> list[tuple[str, int]]:
    """Fields of an index with their directions: a minus sign is for descending."""
    return [(f.removeprefix("-"), -1 if f.startswith("-") else 1) for f in fields]


def indexes(pad: Pad, cluster: Cluster) -> list[tuple[Any, tuple[str, ...], bool]]:
    """Our indexes beyond FireWorks' own: collection, fields, whether they are unique."""
    stores = cluster.stores
    files = database_of(stores.blobs)[f"{stores.blobs.collection}.files"]
    relaxations = database_of(stores.results)[stores.results.relaxations]
    phases = database_of(stores.results)[stores.results.phases]
    outputs = database_of(stores.documents)[stores.documents.collection]
    return [
        # The next job of a class, first come first served.
        (pad.db.fireworks, ("spec._fworker", "state", "-spec._priority", "created_on"), False),
        (pad.db.fireworks, ("spec.campaign", "state", "spec.stage"), False),
        (pad.db.workflows, ("metadata.campaign",), False),
        (pad.db[QUEUE_JOBS], ("class", "state"), False),
        (pad.db[PROGRESS], ("campaign",), False),
        # jobflow makes none, and its stores become unusable at a few thousand outputs.
        (outputs, ("uuid", "index"), True),
        (files, ("metadata.key",), False),
        (files, ("metadata.blob_uuid",), False),
        (relaxations, ("key",), True),
        (relaxations, ("campaign", "finished_at"), False),
        (phases, ("uid",), True),
        *(
            (phases, (field, "e_above_hull"), False)
            for field in ("campaign", "formula", "elements")
        ),
    ]


def now() -> str:
    """The time in UTC as it stands in our documents."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def this_hour(ago: int = 0) -> str:
    """The hour in UTC under which relaxations are counted; `ago` hours back."""
    return (datetime.now(UTC) - timedelta(hours=ago)).strftime("%Y-%m-%dT%H")
