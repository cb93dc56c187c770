"""A sqlite file that threads and processes share."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

#: Timeout of the writes of others, s.
TIMEOUT = 60.0


class _Connection(sqlite3.Connection):
    """One to which there can be weak references."""


#: Connections of the process that this one was forked from, whose locks closing would release.
_inherited: list[_Connection] = []


class File:
    """A sqlite file with a connection for every thread and process.

    A commit is on the disk when it returns. Where nothing may be written, the file is read.

    Parameters
    ----------
    path
        The file.
    read_only
        Whether it is only read, without a lock that a writer would wait for; it must be there.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self._pid = os.getpid()
        self._start()

    def _start(self) -> None:
        self._local = threading.local()
        self._opened: weakref.WeakSet[_Connection] = weakref.WeakSet()

    @property
    def connection(self) -> sqlite3.Connection:
        """The one of the calling thread."""
        if self._pid != os.getpid():
            _inherited.extend(self._opened)
            self._pid = os.getpid()
            self._start()
        if not hasattr(self._local, "connection"):
            self._local.connection = self._open()
            self._opened.add(self._local.connection)
        return self._local.connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction of writes, of which all are done or none."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            # sqlite may have ended it itself, as on a full disk.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connections of all threads; one that goes on makes a new one."""
        if self._pid == os.getpid():
            for connection in list(self._opened):
                connection.close()
        self._start()

    def _open(self) -> _Connection:
        path = self.path
        exists = path.exists()
        may_write = os.access(path.parent, os.W_OK) and (not exists or os.access(path, os.W_OK))
        if may_write:
            # A reader that may not write would leave its journal behind.
            mode = "mode=rw" if self.read_only else "mode=rwc"
        else:
            # Without a journal nobody is writing; else its index is there, which can be read.
            idle = not path.with_name(path.name + "-wal").exists()
            mode = "mode=ro&immutable=1" if idle else "mode=ro"
        address = f"{path.resolve().as_uri()}?{mode}"
        connection = sqlite3.connect(
            address,
            uri=True,
            timeout=TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        if self.read_only:
            connection.execute("PRAGMA query_only = ON")
        elif may_write:
            connection.execute("PRAGMA synchronous = FULL")
            self._use_write_ahead_log(connection)
        return connection

    def _use_write_ahead_log(self, connection: sqlite3.Connection) -> None:
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # For this sqlite does not wait itself.
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)
