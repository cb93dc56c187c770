"""Time and memory of planning, judging and concluding with many known relaxations. Prints JSON.

    OMP_NUM_THREADS=1 python benchmarks/knowledge.py [--documents 10000] [--new 50] [--embedded]

Random crystals of 2 to 16 atoms in 64 formulas of Bi-Se, with energies out of a random number
generator, are stored as relaxations. Each step is a process of its own, as a job is; times are
in seconds without imports, of the wall clock and of this process's processor (the database's
own comes on top):

- ``first``: all are judged by a campaign that knows nothing yet;
- ``judging``: a round's beginning, with `--new` more relaxations;
- ``planning``: a round without its networks: 2,000 candidates, of which 100 are chosen;
  once with the environments of all starts to be worked out, and once more;
- ``concluding``: the end of the campaign, with `--new` more.

CCDCGAN_MONGODB_URI is the address of a MongoDB, where a database of its own is made and dropped;
`--embedded` takes the store of a campaign's folder in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any
from uuid import uuid4

import jobflow
import numpy as np
from jobflow import JobStore
from maggma.stores import MemoryStore, MongoURIStore
from pymatgen.core import Lattice, Structure
from pymongo import MongoClient

from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.choosing import choose
from ccdcgan.workflows.conclude import conclude, publish_phases
from ccdcgan.workflows.documents import Claim, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS

CAMPAIGN = Campaign()
LEVEL = CAMPAIGN.relaxation.engine.level_of_theory()

#: Numbers of Bi and Se of 64 formulas.
FORMULAS = sorted(
    ((a, b) for a in range(1, 16) for b in range(1, 16) if gcd(a, b) == 1 and a + b <= 16), key=sum
)[:64]
CANDIDATES, CHOSEN = 2000, 100


def crystal(rng: np.random.Generator, formula: tuple[int, int]) -> Structure:
    """A random crystal of 30 Å³ per atom."""
    species = ["Bi"] * formula[0] + ["Se"] * formula[1]
    if len(species) <= 4:
        species = species * 2
    lengths, angles = rng.uniform(1.0, 1.6, 3), rng.uniform(80.0, 100.0, 3)
    lattice = Lattice.from_parameters(*lengths, *angles)
    return Structure(lattice.scale(30.0 * len(species)), species, rng.random((len(species), 3)))


def documents(count: int) -> Iterator[RelaxationDocument]:
    """The elements, and as many relaxations."""
    rng = np.random.default_rng(0)
    ends = [("Bi", -3.8), ("Se", -3.4)]
    for number in range(count + len(ends)):
        if number < len(ends):
            symbol, energy = ends[number]
            end = start = Structure(Lattice.cubic(3.0), [symbol], [[0] * 3])
        else:
            formula = FORMULAS[number % len(FORMULAS)]
            start, end = crystal(rng, formula), crystal(rng, formula)
            share = formula[0] / sum(formula)
            energy = -3.8 * share - 3.4 * (1 - share) + float(rng.normal(0.0, 0.1))
        yield RelaxationDocument(
            key=f"{number:032d}",
            level_of_theory=LEVEL,
            structure=end,
            energy_per_atom=energy,
            converged=bool(number < len(ends) or rng.random() < 0.9),
            campaign="benchmark",
            origin=Origin(kind="prototype", id=str(number)),
            initial_structure=start,
        )


def job_store(where: str) -> JobStore:
    """The store of a database, as URI|name, or of a folder."""
    if "|" not in where:
        return embedded_store(Path(where))
    uri, name = where.split("|")

    def store(collection: str, key: str) -> MongoURIStore:
        return MongoURIStore(uri, collection, database=name, key=key)

    return JobStore(
        MemoryStore(),
        additional_stores={
            RESULTS: store("relaxations", "key"),
            DATA: store("artifacts", "key"),
            PHASES: store("phases", "uid"),
        },
    )


def plan(entries: list[Claim]) -> None:
    """A round's generation, but for the networks."""
    knowledge = Knowledge.of_job(entries, CAMPAIGN)
    seen, novelty = knowledge.seen(), knowledge.novelty()
    knowledge.keep()
    rng = np.random.default_rng(1)
    candidates = [crystal(rng, FORMULAS[n % len(FORMULAS)]) for n in range(CANDIDATES)]
    ground = [knowledge.hull.hull_energy(c.composition) for c in candidates]
    gain = np.exp(rng.normal(size=CANDIDATES)) - min(ground)
    chosen = choose(candidates, gain, seen, CHOSEN, CHOSEN, novelty)
    assert len(chosen) == CHOSEN


def end(entries: list[Claim]) -> None:
    """The end of a campaign."""
    errors = {FORMATION_ENERGY: {"mae": 0.1, "r2": 0.5, "held_out": 10}}
    constraint = {"properties": errors, "history": {}, "seconds": 0.0}
    vars(conclude)["original"](
        {"seconds": 0.0},
        {"rejected": {}, "skipped": [], "seconds": 0.0},
        {"match_fraction": 1.0, "held_out": 10, "seconds": 0.0},
        {
            "entries": entries,
            "history": [
                {
                    "funnel": {"sampled": 0, "decoded": 0, "valid": 0, "screened": 0},
                    "constraint": constraint,
                    "gan": {"seconds": 0.0, "history": {"critic": [], "formation_energy": []}},
                    "generation_seconds": 0.0,
                    "relaxation_seconds": 0.0,
                }
            ],
        },
        CAMPAIGN.model_dump(mode="json"),
    )


STEPS = {
    "first": lambda entries: publish_phases(Knowledge.of_job(entries, CAMPAIGN)),
    "judging": lambda entries: publish_phases(Knowledge.of_job(entries, CAMPAIGN)),
    "planning": plan,
    "planning again": plan,
    "concluding": end,
}


def step(name: str, where: str, count: int) -> None:
    """One job, in this process."""
    store = job_store(where)
    store.connect()
    jobflow.CURRENT_JOB.store = store
    origin = Origin(kind="prototype", id="benchmark")
    entries = [Claim(key=f"{n:032d}", origin=origin) for n in range(count + 2)]
    start, busy = time.monotonic(), time.process_time()
    STEPS[name](entries)
    seconds, busy = time.monotonic() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = {"seconds": seconds, "processor": busy, "gigabytes": peak}
    print(json.dumps({figure: round(value, 2) for figure, value in figures.items()}))


def main() -> None:
    """Fill a database, take the steps one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=50)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--where", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step, options.where, options.documents)
        return
    new, most = options.new, options.documents
    counts = dict.fromkeys(STEPS, most - new) | {"first": most - 2 * new, "concluding": most}
    with tempfile.TemporaryDirectory() as folder:
        where, client, name = folder, None, f"ccdcgan_{uuid4().hex[:8]}"
        if not options.embedded:
            client = MongoClient[dict[str, Any]](os.environ["CCDCGAN_MONGODB_URI"])
            where = f"{os.environ['CCDCGAN_MONGODB_URI']}|{name}"
        try:
            store: Any = job_store(where)
            store.connect()
            results = store.additional_stores[RESULTS]
            results.ensure_index("key", unique=True)
            start = time.monotonic()
            results._collection.insert_many([d.model_dump(mode="json") for d in documents(most)])
            print(json.dumps({"filling": round(time.monotonic() - start, 1)}), flush=True)
            store.close()
            for task, count in counts.items():
                command = [sys.executable, __file__, "--step", task, "--where", where]
                command += ["--documents", str(count)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                print(json.dumps({"step": task, "known": count, **figures}), flush=True)
        finally:
            if client is not None:
                client.drop_database(name)


if __name__ == "__main__":
    main()
