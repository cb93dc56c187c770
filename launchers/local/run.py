"""Campaigns on one machine: a folder with embedded stores, run, resumed and reported."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobflow import run_locally
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.files import file_stem, to_json, write_atomically
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.trusted import trust
from ccdcgan.launchers.check.check import require_ready
from ccdcgan.launchers.local.workdir import CALCULATIONS, embedded_store, open_workdir
from ccdcgan.launchers.report.write import write_report
from ccdcgan.launchers.results.failures import relaxations_of
from ccdcgan.launchers.results.reuse import folders_to_reuse, reuse
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.failures import FailedStructure
from ccdcgan.workflows.relax import RelaxMaker

#: How often a job of a DFT code takes as many structures as the campaign relaxes at a time.
TURNS = 10


def run_campaign(
    campaign: Campaign,
    folder: Path,
    others: Sequence[Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run a campaign, or what is left of it, and write its results into the folder.

    Parameters
    ----------
    others
        Folders of campaigns whose relaxations are taken by content key.
    say
        Gets a line for each of them.

    Returns
    -------
    ``summary``, ``phases`` and ``curves`` as they were written.
    """
    folder = folder.resolve()
    others = folders_to_reuse(others, folder)
    trust(campaign.trusted)
    campaign = campaign.completed()
    require_ready(campaign, folder)
    # Keras takes seconds to import, and what is missing is told before.
    from ccdcgan.workflows.flow import InverseDesignMaker, RoundMaker

    with open_workdir(folder, campaign) as campaign:
        os.environ["CCDCGAN_CALCULATIONS"] = str(folder / CALCULATIONS)
        os.environ["CCDCGAN_CHECKPOINTS"] = str(folder / "checkpoints")
        os.environ["CCDCGAN_LOGS"] = str(folder / "logs")
        store = embedded_store(folder)
        for other in others:
            say(str(reuse(other, campaign, relaxations_of(store), folder / CALCULATIONS)))
        # Jobs run one after the other here: few of them wait for their slowest structure.
        relax = RelaxMaker(turns=TURNS)
        flow = InverseDesignMaker(relax=relax, rounds=RoundMaker(relax=relax)).make(campaign)
        flow.update_metadata({"campaign": campaign.digest()})
        run_locally(flow, store=store, log=False, root_dir=folder, raise_immediately=True)
        outcome = store.get_output(flow.jobs[-1].uuid, which="last", load=True)
        write_results(outcome, folder)
    return dict(outcome)


def write_results(outcome: dict[str, Any], folder: Path) -> None:
    """Write summary.json, phases.json.gz, confirmed.json, structures/*.cif and report.html.

    No name of a file is taken from the outcome, which may come from a database.
    """
    failures = [FailedStructure.model_validate(f) for f in outcome.get("failed") or []]
    name_files(outcome["phases"])
    write_atomically(folder / "summary.json", to_json(outcome["summary"], indent=2) + "\n")
    # mtime=0: the same phases give the same bytes.
    phases = gzip.compress(to_json(outcome["phases"]).encode(), mtime=0)
    write_atomically(folder / "phases.json.gz", phases)
    structures = folder / "structures"
    shutil.rmtree(structures, ignore_errors=True)
    structures.mkdir()
    for phase in outcome["phases"]:
        if phase["file"]:
            structure = decode_structure(phase["structure"])
            write_atomically(folder / phase["file"], str(CifWriter(structure, symprec=0.01)))
    confirmed = outcome.get("confirmed") or {}
    if confirmed.get("crystals"):
        write_atomically(folder / "confirmed.json", to_json(confirmed["crystals"], indent=1) + "\n")
    write_report(
        folder / "report.html",
        outcome["summary"],
        outcome["phases"],
        outcome["curves"],
        confirmed,
        failures,
    )


def name_files(phases: Sequence[dict[str, Any]]) -> None:
    """Name the CIF files of those phases that have one: by their rank and formula."""
    named = sorted((p for p in phases if p["file"]), key=lambda p: p["e_above_hull"] or 0.0)
    for rank, phase in enumerate(named, 1):
        phase["file"] = f"structures/{rank:03d}_{file_stem(phase['formula'])}.cif"
