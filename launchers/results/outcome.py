"""Results of a campaign in its folder: written there, and fetched from a cluster."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maggma.core import Sort
from pydantic import ValidationError
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import file_stem, to_json, write_atomically
from ccdcgan.launchers.cluster.launchpad import connect
from ccdcgan.launchers.cluster.submit import find_campaign
from ccdcgan.launchers.report.write import write_report
from ccdcgan.launchers.workdir import open_workdir
from ccdcgan.workflows.documents import Outcome, Phase

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.settings import Cluster


def write_results(outcome: Outcome, folder: Path) -> None:
    """Write summary.json, phases.json.gz, confirmed.json, structures/*.cif and report.html.

    No name of a file is taken from the outcome, which may come from a database.
    """
    name_files(outcome.phases)
    summary = to_json(outcome.summary.model_dump(mode="json"), indent=2)
    write_atomically(folder / "summary.json", summary + "\n")
    # mtime=0: the same phases give the same bytes.
    phases = to_json([phase.model_dump(mode="json") for phase in outcome.phases])
    write_atomically(folder / "phases.json.gz", gzip.compress(phases.encode(), mtime=0))
    structures = folder / "structures"
    shutil.rmtree(structures, ignore_errors=True)
    structures.mkdir()
    for phase in outcome.phases:
        if phase.file:
            structure = phase.structure
            write_atomically(folder / phase.file, str(CifWriter(structure, symprec=0.01)))
    if confirmed := outcome.confirmed.crystals:
        text = to_json([crystal.model_dump(mode="json") for crystal in confirmed], indent=1)
        write_atomically(folder / "confirmed.json", text + "\n")
    write_report(folder / "report.html", outcome)


def name_files(phases: Sequence[Phase]) -> None:
    """Name the CIF files of those phases that have one: by their rank and formula."""
    named = sorted((p for p in phases if p.file), key=lambda p: p.e_above_hull or 0.0)
    for rank, phase in enumerate(named, 1):
        phase.file = f"structures/{rank:03d}_{file_stem(phase.formula)}.cif"


def fetch(name: str, cluster: Cluster, folder: Path) -> None:
    """Write the result files of a campaign that is done, as ``ccdcgan run`` does.

    Raises
    ------
    UserError
        The campaign is unknown or not done, or the folder holds something else.
    """
    found = find_campaign(connect(cluster), name)
    for database in (cluster.stores.documents, cluster.stores.blobs):
        database.ping()
    store = cluster.job_store()
    store.connect()
    # Not jobflow's get_output, which imports what the data name.
    stored = store.query_one(
        {"uuid": found.outcome}, ["output"], sort={"index": Sort.Descending}, load=True
    )
    if stored is None:
        raise UserError(f"campaign {found.id} is not done: see ccdcgan status {found.id}")
    outcome = _outcome(stored["output"], found.id)
    # A database says nothing of whom to trust.
    with open_workdir(folder, found.campaign().model_copy(update={"trusted": ()})):
        write_results(outcome, folder)


def _outcome(stored: object, campaign: str) -> Outcome:
    try:
        return Outcome.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise UserError(
            f"the results of campaign {campaign} in the database are damaged ({what}): "
            "submit it once more with --again"
        ) from None
