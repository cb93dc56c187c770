"""What ``ccdcgan check`` tests of a cluster from where it is: databases, folder and queues."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import pymongo
from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
from maggma.stores.gridfs import GridFSStore
from pymongo.errors import PyMongoError

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.check.check import folder_finding
from ccdcgan.launchers.check.findings import Finding, tried
from ccdcgan.launchers.cluster.database import MARK, SOON, Database, explain
from ccdcgan.launchers.cluster.files import adapter_settings
from ccdcgan.launchers.cluster.launchpad import (
    Pad,
    connect,
    indexes,
)
from ccdcgan.launchers.cluster.scheduler import scheduler_of
from ccdcgan.launchers.cluster.settings import Cluster, Worker
from ccdcgan.launchers.cluster.walltime import unclear_walltimes
from ccdcgan.launchers.wording import counted
from ccdcgan.workflows.storage.spool import DEADLINE

#: A file of two pieces, as GridFS cuts them.
BLOB = "check" * 60_000


@dataclass(frozen=True)
class Parts:
    """What was found of a cluster, for tests that need it."""

    pad: Pad | None
    queues: tuple[str, ...]
    obstacle: str | None


def cluster_findings(cluster: Cluster) -> Generator[Finding, None, Parts]:
    """Look at databases, folder and queues; nothing that stays is written."""
    named = {
        "LaunchPad": cluster.launchpad,
        "documents": cluster.stores.documents,
        "blobs": cluster.stores.blobs,
        "results": cluster.stores.results,
    }
    uses: dict[tuple[str, str], list[str]] = {}
    for use, chosen in named.items():
        uses.setdefault((chosen.uri_from_environment, chosen.database), []).append(use)
    away: list[str] = []
    for these in uses.values():
        found = tried(partial(_database, named[these[0]], these))
        if found.state == "missing":
            away += these
        yield found
    pad = yield from _launchpad(cluster, away)
    folder = tried(partial(folder_finding, cluster.root))
    yield folder
    queues = []
    for name, worker in cluster.workers.items():
        found = tried(partial(_queue, name, worker, cluster))
        if found.state == "ok":
            queues.append(name)
        yield found
    yield from (Finding("note", line) for line in unclear_walltimes(cluster))
    obstacle = None
    if away:
        obstacle = "the database is away"
    elif pad is None:
        obstacle = "the LaunchPad is not ours"
    elif folder.state == "missing":
        obstacle = "the folder cannot be used"
    return Parts(pad, tuple(queues), obstacle)


def _database(database: Database, uses: Sequence[str]) -> Finding:
    server = database.ping()
    variable = database.uri_from_environment
    try:
        same = _gives_back(database, "blobs" in uses)
    except PyMongoError as error:
        raise UserError(f"{explain(error)} ({variable})") from None
    if not same:
        raise UserError(f"the database does not give back what was written ({variable})")
    return Finding(
        "ok",
        f"database {database.database!r} of {variable}, MongoDB {server}, can be "
        f"written: {', '.join(uses)}",
    )


def _gives_back(database: Database, blobs: bool) -> bool:
    """Write, read and delete a document, and a file, in a collection that is gone afterwards."""
    name = f"{MARK}_check_{uuid4().hex[:8]}"
    client = pymongo.MongoClient[Any](database.uri, serverSelectionTimeoutMS=SOON)
    with client, pymongo.timeout(DEADLINE):
        handle = client[database.database]
        try:
            document = {"_id": name, "text": "check"}
            handle[name].insert_one(document)
            same = handle[name].find_one({"_id": name}) == document
            same &= handle[name].delete_one({"_id": name}).deleted_count == 1
            if blobs:
                files = GridFSStore.from_uri(
                    database.uri,
                    name,
                    database=database.database,
                    mongoclient_kwargs={"serverSelectionTimeoutMS": SOON},
                )
                files.connect()
                files.update([{"key": name, "text": BLOB}], key="key")
                same &= (files.query_one({"key": name}) or {}).get("text") == BLOB
                files.remove_docs({"key": name})
                files.close()
        finally:
            for suffix in ("", ".files", ".chunks"):
                handle.drop_collection(name + suffix)
    return same


def _launchpad(cluster: Cluster, away: Sequence[str]) -> Generator[Finding, None, Pad | None]:
    if "LaunchPad" in away:
        yield Finding("note", "LaunchPad and indexes: not tested: the database is away")
        return None
    try:
        pad = connect(cluster)
    except UserError as error:
        yield Finding("missing", str(error))
        return None
    mark = pad.db[MARK].find_one({"_id": MARK})
    name = cluster.launchpad.database
    if mark is None:
        yield Finding("ok", f"LaunchPad {name!r}: new; ccdcgan submit makes it, with its indexes")
        return pad
    yield Finding("ok", f"LaunchPad {name!r}: made by ccdcgan {mark['version']}")
    if away:
        yield Finding("note", "indexes: not tested: the database is away")
        return pad
    yield tried(partial(_indexes, pad, cluster))
    return pad


def _indexes(pad: Pad, cluster: Cluster) -> Finding:
    wanted = indexes(pad, cluster)
    lacking = []
    for collection, fields, unique in wanted:
        try:
            found = collection.index_information().values()
        except PyMongoError as error:
            raise UserError(f"indexes of {collection.name}: {explain(error)}") from None
        there = [index for index in found if _fields(index) == fields]
        if not any(index.get("unique", False) >= unique for index in there):
            lacking.append(f"{collection.name} ({', '.join(fields)})")
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(wanted)} indexes are missing, such as {lacking[0]}: "
            "the next ccdcgan submit makes them"
        )
    return Finding("ok", f"indexes: all {len(wanted)}")


def _fields(index: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple("-" * (direction == -1) + name for name, direction in index["key"])


def _queue(name: str, worker: Worker, cluster: Cluster) -> Finding:
    adapter = CommonAdapter.from_dict(adapter_settings(worker, name, cluster.config))
    scheduler = scheduler_of(worker.queue)
    command = scheduler.submit_command
    if shutil.which(command) is None:
        raise UserError(
            f"{name} queue: there is no {command!r} on this machine: check on a node of the "
            "cluster, or change the queue's type in my_fireworks.yaml"
        )
    adapter.get_script_str(str(cluster.root / "launches" / name))
    try:
        jobs = scheduler.jobs()
    except UserError as error:
        raise UserError(f"{name} queue: {error}") from None
    there = counted(len(jobs), "job")
    return Finding("ok", f"{name} queue: {scheduler.kind} answers; {there} of yours there")
