"""Campaigns on one machine: a folder with embedded stores, run, resumed and reported."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobflow import JobStore, run_locally
from maggma.stores import MontyStore
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter
from ruamel.yaml import YAML

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.networks import write_atomically
from ccdcgan.launchers.report import write_report
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.inverse_design import InverseDesignMaker
from ccdcgan.workflows.stores import DATA, PHASES, RESULTS

CAMPAIGN_FILE = "campaign.yaml"


def embedded_store(folder: Path) -> JobStore:
    """A JobStore in sqlite files: job outputs, relaxation documents and artifacts."""

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
def open_workdir(folder: Path, campaign: Campaign) -> Iterator[None]:
    """Make or enter the folder of a campaign and hold it for this process.

    Raises
    ------
    UserError
        The folder holds another campaign or other files, is in use, or cannot be written.
    """
    stored = folder / CAMPAIGN_FILE
    if stored.exists():
        if load_campaign(stored).digest() != campaign.digest():
            raise UserError(
                f"{folder} holds another campaign (see {stored}): choose another --workdir"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no campaign: choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder} is in use by another ccdcgan run") from None
        if not stored.exists():
            temporary = stored.with_suffix(".tmp")
            with temporary.open("w", encoding="utf-8") as stream:
                YAML().dump(campaign.model_dump(mode="json"), stream)
            os.replace(temporary, stored)
        yield


def run_campaign(campaign: Campaign, folder: Path) -> dict[str, Any]:
    """Run a campaign, or what is left of it, and write its results into the folder.

    Returns
    -------
    ``summary``, ``phases`` and ``curves`` as they were written.
    """
    for relaxation in campaign.relaxations.values():
        relaxation.engine.check(campaign.elements)
    folder = folder.resolve()
    with open_workdir(folder, campaign):
        os.environ["CCDCGAN_CALCULATIONS"] = str(folder / "calculations")
        os.environ["CCDCGAN_CHECKPOINTS"] = str(folder / "checkpoints")
        os.environ["CCDCGAN_LOGS"] = str(folder / "logs")
        store = embedded_store(folder)
        flow = InverseDesignMaker().make(campaign)
        run_locally(flow, store=store, log=False, root_dir=folder, raise_immediately=True)
        outcome = store.get_output(flow.jobs[-1].uuid, which="last", load=True)
        write_results(outcome, folder)
    return dict(outcome)


def write_results(outcome: dict[str, Any], folder: Path) -> None:
    """Write summary.json, phases.json.gz, confirmed.json, structures/*.cif and report.html."""
    write_atomically(
        folder / "summary.json", json.dumps(outcome["summary"], indent=2).encode() + b"\n"
    )
    # mtime=0: the same phases give the same bytes.
    phases = gzip.compress(json.dumps(outcome["phases"]).encode(), mtime=0)
    write_atomically(folder / "phases.json.gz", phases)
    structures = folder / "structures"
    shutil.rmtree(structures, ignore_errors=True)
    structures.mkdir()
    for phase in outcome["phases"]:
        if phase["file"]:
            structure = Structure.from_dict(phase["structure"])
            write_atomically(
                folder / phase["file"], str(CifWriter(structure, symprec=0.01)).encode()
            )
    confirmed = outcome.get("confirmed") or {}
    if confirmed.get("crystals"):
        write_atomically(
            folder / "confirmed.json", json.dumps(confirmed["crystals"], indent=1).encode() + b"\n"
        )
    write_report(
        folder / "report.html", outcome["summary"], outcome["phases"], outcome["curves"], confirmed
    )
