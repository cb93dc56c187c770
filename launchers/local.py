"""Campaigns on one machine: a folder with embedded stores, run, resumed and reported."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

from jobflow import run_locally
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.structures.references import load_references
from ccdcgan.launchers.folder import embedded_store, open_workdir, write_atomically
from ccdcgan.launchers.report import write_report
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.inverse_design import InverseDesignMaker


def run_campaign(campaign: Campaign, folder: Path) -> dict[str, Any]:
    """Run a campaign, or what is left of it, and write its results into the folder.

    Returns
    -------
    ``summary``, ``phases`` and ``curves`` as they were written.
    """
    folder = folder.resolve()
    for relaxation in campaign.relaxations.values():
        relaxation.engine.check(campaign.elements)
    load_references(campaign.references, campaign.elements)
    with open_workdir(folder, campaign) as campaign:
        os.environ["CCDCGAN_CALCULATIONS"] = str(folder / "calculations")
        os.environ["CCDCGAN_CHECKPOINTS"] = str(folder / "checkpoints")
        os.environ["CCDCGAN_LOGS"] = str(folder / "logs")
        store = embedded_store(folder)
        flow = InverseDesignMaker().make(campaign)
        flow.update_metadata({"campaign": campaign.digest()})
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
