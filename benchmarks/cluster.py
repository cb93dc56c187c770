"""Own time and memory of the cluster part with many waiting relaxations. Prints JSON.

Usage: python benchmarks/cluster.py [--structures N] [--batch N] [--run JOBS] [--documents N]

CCDCGAN_MONGODB_URI is the address of a MongoDB; a database of its own is made there and dropped.
A relaxation costs nothing here, so that all time is ours: submitting, splitting into jobs, taking
jobs, content keys, writing results, progress, `status`. `--batch 1` is what DFT codes get: at
most 500 jobs. `--documents` fills the database beforehand with jobs and relaxations of other
campaigns; the query plan of `status` is printed with its figures. As a yardstick the same number of
documents is written one by one by pymongo alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import jobflow
from fireworks import FWorker
from fireworks.core.rocket_launcher import launch_rocket
from jobflow import Flow, job
from jobflow.managers.fireworks import flow_to_workflow
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, Pad, open_pad, prepare
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.launchers.cluster.status import counts_pipeline, status_of
from ccdcgan.launchers.cluster.submission import Submission
from ccdcgan.launchers.cluster.worker import ProgressWriter
from ccdcgan.workflows import progress, relax
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.jobs import in_stage, worker_class
from ccdcgan.workflows.relax import MOST_JOBS, RelaxMaker

CAMPAIGN = Campaign()

#: Fractional coordinates.
BI = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]


def rocksalt(a: float) -> Structure:
    """Eight atoms, lattice constant in Å."""
    coords = BI + [[x + 0.5 for x in row] for row in BI]
    return Structure(Lattice.cubic(a), ["Bi"] * 4 + ["Se"] * 4, coords)


@job(data="candidates", config=worker_class("light"))
def candidates(number: int) -> dict[str, Any]:
    """Rocksalt cells of eight atoms, each with a lattice constant of its own."""
    found = []
    for i in range(number):
        cell = rocksalt(5.5 + 1e-4 * i)
        origin = {"kind": "prototype", "id": str(i)}
        found.append({"origin": origin, "structure": cell.as_dict()})
    return {"candidates": found}


def at_once(
    structures: Sequence[Structure], settings: RelaxationSettings, workers: int | None
) -> Iterator[tuple[int, Relaxation]]:
    """Relaxations that cost nothing."""
    level = settings.engine.level_of_theory()
    for i, structure in enumerate(structures):
        key = content_key(structure, level, settings)
        plain = structure.as_dict()
        yield (
            i,
            Relaxation(
                key=key,
                level_of_theory=level,
                structure=plain,
                energy_per_atom=-3.0,
                converged=True,
            ),
        )


@contextmanager
def timed(figures: dict[str, Any], name: str) -> Iterator[None]:
    """Note how long something takes."""
    start = time.perf_counter()
    yield
    figures[name] = round(time.perf_counter() - start, 3)


def fill(pad: Pad, cluster: Cluster, number: int) -> None:
    """Documents of other campaigns: half of them jobs, half of them relaxations."""
    relaxations = cluster.stores.results.handle()[cluster.stores.results.relaxations]
    states = ["COMPLETED"] * 17 + ["READY", "WAITING", "FIZZLED"]
    for start in range(0, number // 2, 10000):
        size = min(10000, number // 2 - start)
        numbers = range(start, start + size)
        pad.fireworks.insert_many(
            [
                {
                    "fw_id": 10**9 + i,
                    "state": states[i % 20],
                    "name": "relax structures",
                    "launches": [],
                    "created_on": "2026-01-01T00:00:00",
                    "updated_on": "2026-01-01T00:00:00",
                    "spec": {"campaign": f"other{i % 97}", "stage": "database", "_fworker": "none"},
                }
                for i in numbers
            ]
        )
        relaxations.insert_many(
            [
                {
                    "key": f"{i:032x}",
                    "campaign": f"other{i % 97}",
                    "finished_at": f"2026-01-01T{i % 24:02d}:00:00",
                    "energy_per_atom": -3.0,
                }
                for i in numbers
            ]
        )


def stages_of(plan: Any) -> list[str]:
    """Names of the stages in a query plan."""
    if isinstance(plan, dict):
        own = [plan["stage"]] if isinstance(plan.get("stage"), str) else []
        return own + [s for value in plan.values() for s in stages_of(value)]
    if isinstance(plan, list):
        return [s for value in plan for s in stages_of(value)]
    return []


def measure(arguments: argparse.Namespace, cluster: Cluster, folder: Path) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {"structures": arguments.structures, "batch": arguments.batch}
    pad = open_pad(cluster)
    prepare(pad, cluster)
    if arguments.documents:
        with timed(figures, "filling_s"):
            fill(pad, cluster, arguments.documents)
        figures["documents"] = arguments.documents
    store = cluster.job_store()
    store.connect()
    jobflow.SETTINGS.JOB_STORE = store
    os.environ["CCDCGAN_SPOOL"] = str(folder / "spool")
    progress.listen(ProgressWriter(pad))
    run = "benchmark"
    plain = CAMPAIGN.model_dump(mode="json")

    def take(name: str, number: int) -> None:
        worker = FWorker(name, query={"spec._fworker": name})
        for _ in range(number):
            launch_rocket(pad, worker, strm_lvl="CRITICAL")

    with timed(figures, "submitting_s"):
        first = in_stage(candidates(arguments.structures), "prototypes")
        maker = RelaxMaker(batch_size=arguments.batch)
        second = in_stage(maker.make(first.output["candidates"], plain, "database"), "database")
        flow = Flow([first, second])
        flow.update_metadata({"campaign": run})
        pad.add_wf(flow_to_workflow(flow, metadata={"campaign": run}))
        pad.db[CAMPAIGNS].insert_one({"_id": run, "digest": CAMPAIGN.digest()})
    with timed(figures, "proposing_s"):
        take("light", 1)
    with timed(figures, "splitting_s"):
        take("dft", 1)
    figures["waiting_jobs"] = pad.fireworks.count_documents({"spec.campaign": run})
    submission = Submission.model_validate(pad.db[CAMPAIGNS].find_one({"_id": run}))
    with timed(figures, "status_s"):
        status_of(pad, cluster, submission)
    plan = pad.db.command(
        "explain", {"aggregate": "fireworks", "pipeline": counts_pipeline(run), "cursor": {}}
    )
    figures["status_plan"] = sorted(set(stages_of(plan)))
    size = max(arguments.batch, -(-arguments.structures // MOST_JOBS))
    jobs = -(-arguments.structures // size)
    jobs = min(jobs, arguments.run or jobs)
    done = min(arguments.structures, jobs * size)
    with mock.patch.object(relax, "relax_many", at_once), timed(figures, "running_s"):
        take("dft", jobs)
    figures["running_ms_per_structure"] = round(1000 * figures["running_s"] / done, 2)
    preparing = figures["submitting_s"] + figures["splitting_s"]
    figures["own_ms_per_structure"] = round(
        figures["running_ms_per_structure"] + 1000 * preparing / arguments.structures, 2
    )
    with timed(figures, "status_afterwards_s"):
        status_of(pad, cluster, submission)
    figures["yardstick_ms_per_document"] = yardstick(pad, min(done, 1000))
    figures["memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    return figures


def yardstick(pad: Pad, number: int) -> float:
    """Milliseconds for one document of the same size by pymongo alone."""
    cell = rocksalt(5.5).as_dict()
    write: Callable[..., Any] = pad.db.yardstick.replace_one
    pad.db.yardstick.create_index("key", unique=True)
    start = time.perf_counter()
    for i in range(number):
        write({"key": str(i)}, {"key": str(i), "a": cell, "b": cell}, upsert=True)
    return round(1000 * (time.perf_counter() - start) / number, 2)


def main() -> int:
    """Measure in a database of its own and print figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=RelaxMaker().batch_size)
    parser.add_argument("--run", type=int, help="jobs to run of all that wait")
    parser.add_argument("--documents", type=int, default=0, help="of other campaigns")
    arguments = parser.parse_args()
    name = f"ccdcgan_benchmark_{uuid4().hex[:8]}"
    place = {"database": name}
    queue = {"queue": {"type": "SLURM"}}
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster.model_validate(
            {
                "folder": folder,
                "launchpad": place,
                "stores": {"documents": place, "blobs": place, "results": place},
                "workers": {"dft": queue, "gpu": queue, "light": queue},
            }
        )
        os.chdir(folder)
        try:
            figures = measure(arguments, cluster, Path(folder))
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            if os.environ.get("CCDCGAN_MONGODB_URI"):
                cluster.launchpad.handle().client.drop_database(name)
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
