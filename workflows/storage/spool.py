"""Results on disk until the database has them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import pymongo
from bson.errors import BSONError
from maggma.core import Store
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import file_stem, to_json, write_atomically
from ccdcgan.dft.variables import variables
from ccdcgan.workflows.storage.language import DUPLICATE_KEY

logger = logging.getLogger("ccdcgan")
T = TypeVar("T")

#: Timeout of one write, s, and the bytes that add a second to it.
DEADLINE, RATE = 10.0, 5e5

#: How files end that no database takes.
REFUSED = ".refused"

#: MongoDB's codes of what is wrong with a document itself: values, types, names of fields, a
#: collection's own rules, size. All others, such as a full disk or a lack of rights, may pass.
FAULTY = {2, 9, 14, 15, 22, 52, 53, 54, 55, 56, 57, 66, 121, 10334, 17280, 17419, 17420}

#: What a document, its file or the database may raise on the way from one to the other.
UNSTORED = (
    *(PyMongoError, BSONError),
    *(ValueError, TypeError, KeyError, OverflowError, RecursionError),
)

#: Pause between two tries to reach a database that is away, s.
PAUSE = 5.0


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database cannot be reached now."""
    return isinstance(error, ConnectionFailure) or (
        isinstance(error, PyMongoError) and error.timeout
    )


def is_refused(error: BaseException) -> bool:
    """Whether an error says that the database never takes a document, for what is in it."""
    if isinstance(error, BulkWriteError):
        codes = {e["code"] for e in error.details["writeErrors"]}
        return bool(codes) and codes <= FAULTY
    if isinstance(error, OperationFailure):
        return error.code in FAULTY
    return not isinstance(error, PyMongoError)


def retry_while_unreachable(
    action: Callable[[], T],
    seconds: float | None = None,
    passes: Callable[[PyMongoError], bool] = is_away,
) -> T:
    """Do something with the database, again and again for as long as it is away.

    Parameters
    ----------
    action
        What may be done twice: the answer of a first time may have been lost.
    seconds
        Until giving up; by default those of `variables`.
    passes
        Which errors are waited for.
    """
    end = monotonic() + (variables().patience if seconds is None else seconds)
    while True:
        try:
            return action()
        except PyMongoError as error:
            if not passes(error) or monotonic() >= end:
                raise
            logger.warning("the database %s: waiting", _trouble(error))
            sleep(min(PAUSE, max(0.0, end - monotonic())))


@contextlib.contextmanager
def unless_there() -> Iterator[None]:
    """Stores what nobody else has stored at the same moment under the same name."""
    try:
        yield
    except DuplicateKeyError:
        pass
    except BulkWriteError as error:
        if any(e["code"] != DUPLICATE_KEY for e in error.details["writeErrors"]):
            raise


class Spool:
    """Documents on their way into the stores, on disk first.

    What is computed while the database is away, or by a worker that is killed before its write,
    gets in with the next delivery of anybody who sees the folder.

    Parameters
    ----------
    folder
        On a disk that all workers see; None writes straight through, for a store that is a file
        itself. By default that of `variables`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or variables().spool
        self._away_until = 0.0
        self._trouble = ""

    def put(self, name: str, store: Store, document: Mapping[str, Any]) -> None:
        """Store a document under its ``key``; on disk while the database takes nothing."""
        if self.folder is None:
            store.update([dict(document)], key="key")
            return
        path = self.folder / f"{name}-{file_stem(document['key'])}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, to_json({"store": name, "document": document}))
        except OSError as error:
            # The disk may be full, or away, and the database all the same alive.
            logger.error("%s: %s: straight into the database", error.strerror, path)
            with unless_there():
                retry_while_unreachable(
                    lambda: store.update([dict(document)], key="key"),
                    passes=lambda error: not is_refused(error),
                )
            return
        if monotonic() >= self._away_until and not self.deliver({name: store}, path):
            self._away_until = monotonic() + PAUSE

    def deliver(self, stores: Mapping[str, Store], own: Path | None = None) -> bool:
        """Bring what is on disk into the stores; False if the database takes nothing, or not all.

        A file whose content the database refuses, or that is none of ours, is set aside as
        ``*.refused``; one's own is besides an error.
        """
        self._trouble = ""
        for path in self.waiting():
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                # Another worker has delivered it.
                continue
            except OSError as error:
                logger.error("%s cannot be read: %s", path, error.strerror)
                continue
            try:
                found = json.loads(text)
                if found["store"] not in stores:
                    continue
                with pymongo.timeout(DEADLINE + len(text) / RATE), unless_there():
                    stores[found["store"]].update([found["document"]], key="key")
            except UNSTORED as error:
                if not is_refused(error):
                    self._trouble = _trouble(error)
                    if is_away(error):
                        break
                    continue
                # It must not stop everybody else's.
                logger.error("the database does not take %s: %s", path, _short(error))
                with contextlib.suppress(OSError):
                    os.replace(path, path.with_suffix(REFUSED))
                if path == own:
                    raise
                continue
            # Where nothing can be removed, it is delivered again, which does no harm.
            with contextlib.suppress(OSError):
                path.unlink()
        if self._trouble:
            logger.warning("the database %s: results wait in %s", self._trouble, self.folder)
        return not self._trouble

    def settle(self, stores: Mapping[str, Store]) -> None:
        """Wait until everything is in the stores.

        Raises
        ------
        UserError
            The database has taken nothing for too long.
        """
        end = monotonic() + variables().patience
        while not self.deliver(stores):
            if monotonic() >= end:
                raise UserError(
                    f"the database {self._trouble}; {len(self.waiting())} results are in "
                    f"{self.folder} and get in with: ccdcgan retry"
                )
            sleep(PAUSE)

    def waiting(self) -> list[Path]:
        """Files that are not in the database yet."""
        return [] if self.folder is None else sorted(self.folder.glob("*.json"))


def _trouble(error: BaseException) -> str:
    """What the database is or does."""
    return f"{'is away' if is_away(error) else 'takes nothing'} ({_short(error)})"


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).split(',')[0]}"[:200]
