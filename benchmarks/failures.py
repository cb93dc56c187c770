"""Time and memory of `ccdcgan failures` and `retry` beside thousands of relaxations. Prints JSON.

Usage: python benchmarks/failures.py [--documents N] [--failed N] [--embedded]

CCDCGAN_MONGODB_URI is the address of a MongoDB; a database of its own is made there and dropped.
Without one, the tests' SecantusDB is started; with `--embedded` a campaign's folder is filled
instead. Commands are processes of their own: their time, on the clock and of the processor, has
Python's imports in it; their memory is the largest that was resident, in GB. Marking is what
`retry --structures` does before it runs or submits the campaign.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from pymatgen.core import Lattice, Structure
from ruamel.yaml import YAML

from ccdcgan.dft.engines.frames import Frame
from ccdcgan.dft.engines.vasp.record import Attempt, write_record
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.launchers.cluster.settings import load_cluster
from ccdcgan.launchers.results.failures import Wanted, failures_of_folder
from ccdcgan.launchers.results.retry import Again, prepare_retry
from ccdcgan.launchers.workdir import CALCULATIONS, CAMPAIGN_FILE, embedded_store, relaxations_of
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.failures import FailedStructure
from ccdcgan.workflows.storage.stores import Relaxations

CAMPAIGN = Campaign.model_validate({"system": "Bi-Se", "relaxation": {"engine": {"name": "vasp"}}})
#: Documents that are made at a time.
BATCH = 500


def documents(number: int, failed: int) -> Iterator[RelaxationDocument]:
    """Relaxations of cells of eight atoms with six frames, some of which failed."""
    engine = CAMPAIGN.relaxation.engine
    species = ["Bi"] * 4 + ["Se"] * 4
    rng = np.random.default_rng(0)
    for i in range(number):
        cell = Structure(Lattice.cubic(6.0 + 1e-5 * i), species, rng.random((8, 3)))
        frame = Frame(
            cell=cell.lattice.matrix.tolist(),
            positions=cell.cart_coords.round(5).tolist(),
            energy=-30.0,
            forces=rng.random((8, 3)).round(4).tolist(),
            stress=[0.0] * 6,
        )
        bad = i % (number // failed) == 0
        result = Relaxation(
            key=f"{i:032x}",
            level_of_theory=engine.level_of_theory(),
            structure=cell,
            energy_per_atom=None if bad else -3.0,
            converged=not bad,
            reason=f"failed in 4 ways: largest force is 0.{i % 90 + 10} eV/Å" if bad else None,
            failure="crystal" if bad else None,
            said="Error EDDDAV: Call to ZHEGV failed. Returncode = 7" if bad else None,
            frames=[] if bad else [frame] * 6,
        )
        candidate = Candidate(origin=Origin(kind="prototype", id=str(i)), structure=cell)
        yield RelaxationDocument.of(result, candidate, CAMPAIGN.digest())


def fill(store: Relaxations, calculations: Path, number: int, failed: int) -> None:
    """Store the documents, and write the records of those that failed."""
    batch: list[RelaxationDocument] = []
    for document in documents(number, failed):
        batch.append(document)
        if not document.converged:
            folder = calculations / document.key
            folder.mkdir(parents=True)
            attempts = [Attempt(f"0{n}-relax", 0, n - 1, outcome="failed") for n in range(1, 5)]
            write_record(folder, attempts)
        if len(batch) == BATCH:
            store.add(batch)
            batch = []
    if batch:
        store.add(batch)


def measured(*command: object) -> tuple[dict[str, float], str]:
    """Seconds and gigabytes of a command, and what it printed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ccdcgan.launchers.cli", *map(str, command)], stdout=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read().decode()
    if status:
        raise SystemExit(f"{command} ended with {status}")
    figures = {
        "s": seconds,
        "processor s": usage.ru_utime + usage.ru_stime,
        "GB": usage.ru_maxrss / 2**20,
    }
    return {name: round(value, 2) for name, value in figures.items()}, text


def address(stack: ExitStack, folder: Path) -> str:
    """That of CCDCGAN_MONGODB_URI, or of a server that is started here."""
    if uri := os.environ.get("CCDCGAN_MONGODB_URI"):
        return uri
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
    from services import MongoServer

    (folder / "mongodb").mkdir()
    server = MongoServer(folder / "mongodb")
    server.start()
    stack.callback(server.stop)
    os.environ["CCDCGAN_MONGODB_URI"] = server.uri
    return server.uri


def write_cluster(path: Path, name: str) -> None:
    """my_fireworks.yaml of a database of its own."""
    place = {"database": name}
    settings = {
        "folder": str(path.parent / "shared"),
        "launchpad": place,
        "stores": dict.fromkeys(("documents", "blobs", "results"), place),
        "workers": {kind: {"queue": {"type": "SLURM"}} for kind in ("dft", "gpu", "light")},
    }
    with path.open("w") as stream:
        YAML().dump(settings, stream)


def main() -> None:
    """Fill, ask, mark; see the top."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--failed", type=int, default=500)
    parser.add_argument("--embedded", action="store_true")
    told = parser.parse_args()
    figures: dict[str, Any] = {"documents": told.documents, "failed": told.failed}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ccdcgan-")))
        where: list[object]
        if told.embedded:
            where = [folder]
            with (folder / CAMPAIGN_FILE).open("w") as stream:
                YAML().dump(CAMPAIGN.model_dump(mode="json"), stream)
            store, calculations = relaxations_of(embedded_store(folder)), folder / CALCULATIONS
        else:
            import pymongo

            from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, connect, prepare
            from ccdcgan.launchers.cluster.submission import Submission

            uri, name = address(stack, folder), f"ccdcgan_benchmark_{uuid4().hex[:8]}"
            client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
            stack.callback(client.drop_database, name)
            write_cluster(folder / "cluster.yaml", name)
            where = ["--config", folder / "cluster.yaml"]
            cluster = load_cluster(folder / "cluster.yaml")
            pad = connect(cluster)
            prepare(pad, cluster)
            digest, settings = CAMPAIGN.digest(), CAMPAIGN.model_dump(mode="json")
            run = Submission(
                id=digest, digest=digest, name="benchmark", settings=settings, submitted=True
            )
            pad.db[CAMPAIGNS].insert_one(run.stored())
            store, calculations = relaxations_of(cluster.job_store()), cluster.root / CALCULATIONS
        fill(Relaxations(store), calculations, told.documents, told.failed)
        figures["failures"], text = measured("failures", *where, "--format", "json")
        found = [FailedStructure.model_validate(f) for f in json.loads(text)]
        figures["listed"] = len(found)
        of = [] if told.embedded else ["--campaign", "benchmark"]
        again = ("retry", *where, "--structures", *of, "--dry-run")
        figures["retry --dry-run"], _ = measured(*again)
        start = time.perf_counter()
        prepare_retry(store, calculations, found, Again(incar={"ALGO": "Normal"}))
        figures["marking"] = {"s": round(time.perf_counter() - start, 2)}
        if told.embedded:
            figures["marked"] = sum(f.waits for f in failures_of_folder(folder, Wanted()))
        else:
            figures["marked"] = store.count({"retry": True})
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
