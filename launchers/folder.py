"""A campaign's folder: its embedded stores, and how files get into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jobflow import JobStore
from maggma.stores import MontyStore
from ruamel.yaml import YAML

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import locked, writing
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.stores import DATA, PHASES, RESULTS

CAMPAIGN_FILE = "campaign.yaml"


def embedded_store(folder: Path) -> JobStore:
    """A JobStore in sqlite files: job outputs, relaxation documents, artifacts and phases."""

    def store(name: str, key: str) -> MontyStore:
        return MontyStore(
            name, database_path=str(folder / "store"), database_name="ccdcgan", key=key
        )

    return JobStore(
        store("jobs", "uuid"),
        additional_stores={
            RESULTS: store("relaxations", "key"),
            DATA: store("artifacts", "key"),
            PHASES: store("phases", "uid"),
        },
    )


@contextlib.contextmanager
def open_workdir(folder: Path, campaign: Campaign) -> Iterator[Campaign]:
    """Make or enter the folder of a campaign and hold it for this process.

    Yields
    ------
    The campaign: where it leaves the choice of the engine to us, with the one that the folder began
    with.

    Raises
    ------
    UserError
        The folder holds another campaign or other files, is in use, or cannot be written.
    """
    stored = folder / CAMPAIGN_FILE
    if stored.exists():
        before = campaign.as_begun_before()
        begun = load_campaign(stored).digest()
        if before is not None and before.digest() == begun:
            campaign = before
        if begun != campaign.digest():
            raise UserError(
                f"{folder} holds another campaign (see {stored}): choose another --workdir"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no campaign: choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"{folder} is in use by another ccdcgan run"):
        if not stored.exists():
            with writing(stored) as stream:
                YAML().dump(campaign.model_dump(mode="json"), stream)
        yield campaign
