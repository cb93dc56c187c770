"""The LaunchPad: connecting to it, making it ours, and FireWorks' one in bulk and with patience."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from fireworks import Firework, LaunchPad, Workflow
from pymongo import ReplaceOne

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.yaml_files import read_yaml
from ccdcgan.launchers.cluster.database import MARK, SOON, address_in
from ccdcgan.launchers.cluster.moved import renamed
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.launchers.cluster.trusted import objection, restrict
from ccdcgan.workflows.storage.spool import retry_while_unreachable

logger = logging.getLogger("ccdcgan")

#: A filter in MongoDB's language.
Query = Mapping[str, Any]

#: Versions of the jobs on a LaunchPad: in the second, modules of `moved.MOVED` have new names.
VERSIONS = (1, 2)

#: Our own collections beside FireWorks'.
CAMPAIGNS, QUEUE_JOBS, PROGRESS, LEASES = "campaigns", "queue_jobs", "progress", "leases"

#: States of jobs that can run without anybody's help.
LIVE = ("READY", "RESERVED", "RUNNING")

#: FireWorks' own, as attributes of its LaunchPad.
FIREWORKS_COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs", "fw_id_assigner")

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


class RetryingCollection:
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
        return lambda *args, **kwargs: retry_while_unreachable(
            lambda: found(*args, **kwargs), self._seconds
        )


class RefusedError(BaseException):
    """A job that must not be run; past FireWorks, which takes any `Exception` for a failed job."""

    def __init__(self, fw_id: int, reason: str) -> None:
        super().__init__(fw_id, reason)
        self.fw_id, self.reason = fw_id, reason


class Pad(LaunchPad):
    """FireWorks' LaunchPad, for workers and for many jobs at a time.

    Jobs whose functions are not of trusted packages are neither decoded nor handed out.

    Parameters
    ----------
    patience
        Seconds to wait for a database that is away; None fails at once.
    trusted
        Packages whose functions jobs may call, beside `trusted.PACKAGES`.
    settings
        FireWorks' own, as in my_launchpad.yaml.
    """

    def __init__(
        self, patience: float | None = None, trusted: Iterable[str] = (), **settings: Any
    ) -> None:
        super().__init__(**{"strm_lvl": "ERROR", **settings})
        self.trusted = tuple(trusted)
        self._refused: list[int] = []
        self._choosing = False
        restrict(self.trusted)
        self.campaigns = self.db[CAMPAIGNS]
        if patience is not None:
            for name in (*FIREWORKS_COLLECTIONS, "campaigns"):
                setattr(self, name, RetryingCollection(getattr(self, name), patience))

    @classmethod
    def from_folder(cls, folder: Path, patience: float) -> Pad:
        """That of a folder of `files.write_files`."""
        path, own = folder / "my_launchpad.yaml", folder / "my_fworker.yaml"
        for file in (path, own):
            if not file.is_file():
                raise UserError(f"there is no {file}: make it with ccdcgan cluster write")
        settings = read_yaml(path)
        # Folders of earlier versions have none.
        trusted = (read_yaml(own).get("env") or {}).get("trusted", ())
        options = {"serverSelectionTimeoutMS": int(1000 * patience) + SOON}
        with address_in(f"host in {path}"):
            return cls(patience, trusted, **{**settings, "mongoclient_kwargs": options})

    def get_fw_by_id(self, fw_id: int) -> Firework:
        """See FireWorks'; a job that is to be run is looked at before it is decoded."""
        stored = self.get_fw_dict_by_id(fw_id)
        if self._choosing and (reason := objection(stored, self.trusted)):
            raise RefusedError(fw_id, reason)
        return Firework.from_dict(renamed(stored))

    def _get_a_fw_to_run(
        self, query: Query | None = None, fw_id: int | None = None, checkout: bool = True
    ) -> Firework | None:
        """FireWorks'; a job that is not trusted stays where it is."""
        self._choosing = True
        try:
            while True:
                wanted = {**(query or {}), **self._not_refused()}
                try:
                    return super()._get_a_fw_to_run(wanted, fw_id, checkout)
                except RefusedError as refused:
                    self._refuse(refused.fw_id, refused.reason)
                if fw_id:
                    return None
        finally:
            self._choosing = False

    def _not_refused(self) -> Query:
        return {"fw_id": {"$nin": self._refused}} if self._refused else {}

    def _refuse(self, fw_id: int, reason: str) -> None:
        """Give a job back, with a mark for whoever looks for work."""
        self._refused.append(fw_id)
        mark = {"refused": {"reason": reason, "trusted": trusted_text(self.trusted)}}
        self.fireworks.update_one({"fw_id": fw_id}, {"$set": mark})
        self.fireworks.update_one(
            {"fw_id": fw_id, "state": "RESERVED"}, {"$set": {"state": "READY"}}
        )
        logger.warning(
            "job %d is not run: %s, which is not trusted (see docs/security.md)", fw_id, reason
        )

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
        """FireWorks'; what is added or runs again in a paused or cancelled campaign waits."""
        query = {"_id": wf.metadata.get("campaign"), "held": {"$exists": True}}
        if found := self.campaigns.find_one(query, {"held": 1}):
            for fw_id in updated_ids:
                if wf.fw_states[fw_id] in {"READY", "WAITING"}:
                    wf.id_fw[fw_id].state = wf.fw_states[fw_id] = found["held"]
        super()._update_wf(wf, updated_ids)


def can_run(pad: Pad) -> Query:
    """Jobs that run or will: not those that workers have refused, unless more is trusted now."""
    return {"state": {"$in": LIVE}, "refused.trusted": {"$ne": trusted_text(pad.trusted)}}


def trusted_text(packages: Iterable[str]) -> str:
    """Trusted packages as they stand beside a job that was refused."""
    return " ".join(sorted(packages))


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
    elif mark["schema_version"] not in VERSIONS:
        raise UserError(
            f"database {name!r} was made by ccdcgan {mark['version']} "
            f"(jobs of version {mark['schema_version']}, here {VERSIONS[-1]}): use that "
            "version, or another launchpad.database"
        )
    return pad


def open_pad(cluster: Cluster) -> Pad:
    """The LaunchPad as it is, once its database has answered."""
    chosen = cluster.launchpad
    chosen.ping()
    return Pad(
        trusted=cluster.trusted,
        host=chosen.uri,
        name=chosen.database,
        uri_mode=True,
        mongoclient_kwargs={"serverSelectionTimeoutMS": SOON},
    )


def prepare(pad: Pad, cluster: Cluster) -> None:
    """Make the LaunchPad ours: its mark, its counters, and every index; again does no harm."""
    pad.db[MARK].update_one(
        {"_id": MARK},
        {
            "$setOnInsert": {
                "schema_version": VERSIONS[-1],
                "version": metadata.version("ccdcgan"),
                "created_at": now(),
            }
        },
        upsert=True,
    )
    # Versions that do not know the modules of what is submitted from now on stay away.
    pad.db[MARK].update_one(
        {"_id": MARK, "schema_version": {"$in": VERSIONS[:-1]}},
        {"$set": {"schema_version": VERSIONS[-1], "version": metadata.version("ccdcgan")}},
    )
    pad.db.fw_id_assigner.update_one(
        {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
    )
    pad.tuneup()
    for collection, fields, unique in indexes(pad, cluster):
        collection.create_index(directed(fields), unique=unique)


def directed(fields: Sequence[str]) -> list[tuple[str, int]]:
    """Fields of an index with their directions: a minus sign is for descending."""
    return [(f.removeprefix("-"), -1 if f.startswith("-") else 1) for f in fields]


def indexes(pad: Pad, cluster: Cluster) -> list[tuple[Any, tuple[str, ...], bool]]:
    """Our indexes beyond FireWorks' own: collection, fields, whether they are unique."""
    stores = cluster.stores
    files = stores.blobs.handle()[f"{stores.blobs.collection}.files"]
    relaxations = stores.results.handle()[stores.results.relaxations]
    phases = stores.results.handle()[stores.results.phases]
    outputs = stores.documents.handle()[stores.documents.collection]
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
        (relaxations, ("origin.kind",), False),
        (relaxations, ("converged", "campaign"), False),
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
