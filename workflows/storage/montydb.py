"""Stores of folders of versions that kept them with montydb: taken over once."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import bson

from ccdcgan.workflows.storage.sqlite import SqliteStore
from ccdcgan.workflows.storage.stores import insert

#: Documents that are taken over at a time.
BATCH = 500


def take_over(files: Mapping[Path, SqliteStore]) -> None:
    """Bring the documents of montydb's files into stores, then remove the files.

    Whoever is stopped in between may begin again: documents that are there stay. Nobody else may
    write to the files meanwhile.

    Parameters
    ----------
    files
        Files and the stores that their documents belong in, which are closed at the end.
    """
    for file, store in files.items():
        store.connect()
        with contextlib.closing(sqlite3.connect(file)) as connection:
            # As text, montydb has stored bytes of BSON.
            rows = connection.execute("SELECT CAST(v AS BLOB) FROM documents ORDER BY rowid")
            while batch := rows.fetchmany(BATCH):
                insert(store, [bson.decode(document) for (document,) in batch])
        store.close()
    for file in files:
        for part in ("", "-wal", "-shm"):
            file.with_name(file.name + part).unlink(missing_ok=True)
        for settings in ("monty.storage.cfg", ".monty.storage"):
            (file.parent.parent / settings).unlink(missing_ok=True)
        # Somebody may have put something of their own there.
        with contextlib.suppress(OSError):
            file.parent.rmdir()
