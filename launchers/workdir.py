"""A campaign's folder: its embedded stores, and how files get into it."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from jobflow import JobStore
from maggma.core import Store
from ruamel.yaml import YAML

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import InUseError, locked, write_atomically, writing
from ccdcgan.dft.mistakes import shown
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.storage.montydb import take_over
from ccdcgan.workflows.storage.sqlite import SqliteStore
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS

CAMPAIGN_FILE = "campaign.yaml"

DOCUMENTS = Path("store", "documents.sqlite")

#: Where versions before this one have stored their documents, and the seconds to wait for others
#: that take them over.
EARLIER, TAKE_OVER = Path("store", "ccdcgan"), 60.0

#: Folder of DFT calculations, which go on wherever they are copied to.
CALCULATIONS = "calculations"


def embedded_store(folder: Path, read_only: bool = False) -> JobStore:
    """A JobStore in a sqlite file: job outputs, relaxation documents, artifacts and phases.

    What an earlier version has stored there is taken over. Only to be read, it is empty where there
    is none.

    Raises
    ------
    UserError
        An earlier version is running there, or a later one was.
    """
    store = _store_in(folder, read_only)
    end = monotonic() + TAKE_OVER
    while _earlier(folder) and os.access(folder / "store", os.W_OK):
        try:
            with locked(folder / ".lock", f"{folder} is in use by a run of an earlier version"):
                take_over(_earlier(folder))
        except InUseError:
            # Or by another command that takes it over.
            if monotonic() > end:
                raise
            sleep(0.2)
    return store


def can_open(folder: Path) -> bool:
    """Whether a folder has an embedded store that can be opened.

    Where nothing may be written, as in the folder of a colleague, one can be read, but not taken
    over from an earlier version.
    """
    if os.access(folder / "store", os.W_OK):
        return (folder / "store").is_dir()
    return (folder / DOCUMENTS).exists() and not _earlier(folder)


def store_to_read(folder: Path) -> JobStore:
    """The same store, which is only read, beside a run that writes; empty where there is none.

    Raises
    ------
    UserError
        An earlier version has written it.
    """
    if _earlier(folder):
        raise UserError(
            f"{folder} was written by an earlier version: ccdcgan query --workdir {folder} takes "
            "it over"
        )
    return _store_in(folder, read_only=True)


def _store_in(folder: Path, read_only: bool = False) -> JobStore:
    def store(name: str, unique: str | None, *indexes: str) -> SqliteStore:
        key = unique or indexes[0]
        file, names = str(folder / DOCUMENTS), [unique] if unique else []
        return SqliteStore(file, name, key, indexes, names, read_only)

    return JobStore(
        store("jobs", None, "uuid"),
        additional_stores={
            RESULTS: store("relaxations", "key", "campaign", "converged", "origin.kind"),
            # Large outputs of jobs have a blob_uuid in place of a key.
            DATA: store("artifacts", None, "key", "blob_uuid", "job_uuid"),
            PHASES: store("phases", "uid", "campaign"),
        },
    )


def _earlier(folder: Path) -> dict[Path, SqliteStore]:
    """Files in which an earlier version has its documents, and the stores of this one."""
    made: Any = _store_in(folder)
    stores = (made.docs_store, *made.additional_stores.values())
    files = {folder / EARLIER / f"{store.collection_name}.collection": store for store in stores}
    return {file: store for file, store in files.items() if file.exists()}


def relaxations_of(store: Any) -> Store:
    """The store of relaxations of a JobStore, connected."""
    found: Store = store.additional_stores[RESULTS]
    found.connect()
    return found


def campaign_of(folder: Path) -> Campaign:
    """The campaign of a folder.

    Raises
    ------
    UserError
        It holds none.
    """
    stored = folder / CAMPAIGN_FILE
    if not stored.exists():
        raise UserError(f"{folder} holds no campaign: name the --workdir of a ccdcgan run")
    return load_campaign(stored)


def taken_up(folder: Path, campaign: Campaign) -> Campaign:
    """The campaign as a folder would go on with it.

    That is the campaign itself. Where it leaves the choice of the engine or its stages to us, it
    has those that the folder began with.

    Raises
    ------
    UserError
        The folder holds another campaign (see `Campaign.differences`) or other files.
    """
    stored = folder / CAMPAIGN_FILE
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --workdir")
    if not stored.exists():
        if folder.exists() and any(p.name != CALCULATIONS for p in folder.iterdir()):
            raise UserError(
                f"{folder} is not empty and holds no campaign: choose another --workdir"
            )
        return campaign
    begun = load_campaign(stored)
    differences = begun.differences(campaign)
    for before in campaign.as_begun_before() if differences else ():
        if not begun.differences(before):
            return before
    if differences:
        told = [
            f"{key} is {_value(there)} there and {_value(here)} here"
            for key, (there, here) in differences.items()
        ]
        more = f", and {len(told) - 3} more" if len(told) > 3 else ""
        raise UserError(
            f"{folder} holds another campaign ({', '.join(told[:3])}{more}): choose another "
            f"--workdir, or set what is in {stored}"
        )
    return campaign


def _value(value: Any) -> str:
    return "not set" if value is None else shown(value)


@contextlib.contextmanager
def open_workdir(folder: Path, campaign: Campaign) -> Iterator[Campaign]:
    """Make or enter the folder of a campaign and hold it for this process.

    A campaign that only does more or less than the one in the folder goes on with it; the earlier
    file stays beside the new one as ``campaign.1.yaml``, ``campaign.2.yaml`` and so on.

    Yields
    ------
    The campaign as `taken_up`.

    Raises
    ------
    UserError
        The folder holds another campaign or other files, is in use, or cannot be written.
    """
    stored = folder / CAMPAIGN_FILE
    campaign = taken_up(folder, campaign)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"{folder} is in use by another ccdcgan run"):
        take_over(_earlier(folder))
        if not stored.exists() or load_campaign(stored) != campaign:
            _store(campaign, stored)
        yield campaign


def _store(campaign: Campaign, path: Path) -> None:
    if path.exists():
        numbers = itertools.count(1)
        earlier = next(p for n in numbers if not (p := path.with_suffix(f".{n}.yaml")).exists())
        write_atomically(earlier, path.read_bytes())
    with writing(path) as stream:
        YAML().dump(campaign.model_dump(mode="json"), stream)
