"""Times of the live page over a synthetic store of many phases.

    python benchmarks/live.py --phases 100000

Prints JSON: seconds to make the store, to read it for the first time, of pages with different
questions (the first that somebody asks, and the same once more), and of pages while the phases
change, as at the end of a round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from bson import ObjectId
from pymatgen.core import Lattice, Structure
from werkzeug.test import Client

from ccdcgan.launchers.cli.errors import explain
from ccdcgan.launchers.live.folder import Folder
from ccdcgan.launchers.live.live import Live
from ccdcgan.launchers.live.server import App
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.storage.stores import PHASES

QUESTIONS = {
    "all": "",
    "all, page 1000": "page=1000",
    "by formula": "formula=Bi2Se3",
    "on the hull": "label=on+the+hull",
    "generated, distinct, near, by density": "origin=generated&distinct=true"
    "&max_e_above_hull=0.1&sort=-density",
    "sorted by a text": "sort=spacegroup",
    "500 rows": "limit=500",
}


def crystal(drawn: random.Random) -> Structure:
    """A crystal of some composition."""
    species = ["Bi"] * drawn.randint(1, 6) + ["Se"] * drawn.randint(1, 6)
    count = len(species)
    lattice = Lattice.orthorhombic(4 + drawn.random(), 5 + drawn.random(), 3.0 * count)
    frac = [[0.3 * j % 1, 0.07 * j % 1, j / count] for j in range(count)]
    return Structure(lattice, species, frac)


def phases(number: int) -> list[dict[str, Any]]:
    """Documents of phases as a run stores them, of so many compositions and energies."""
    drawn = random.Random(0)
    made = []
    some = [crystal(drawn) for _ in range(500)]
    plain = [structure.as_dict() for structure in some]
    for i in range(number):
        structure, count = some[i % 500], len(some[i % 500])
        above = abs(drawn.gauss(0, 0.2))
        generated = drawn.random() < 0.7
        made.append(
            {
                "_id": ObjectId(),
                "id": f"{i:032x}",
                "uid": f"aa00aa00aa00aa00:{i:032x}",
                "campaign": "aa00aa00aa00aa00",
                "system": "Bi-Se",
                "hull": "hull-1",
                "elements": ["Bi", "Se"],
                "nsites": count,
                "density": float(structure.density),
                "volume_per_atom": structure.volume / count,
                "structure": plain[i % 500],
                "formula": structure.composition.reduced_formula,
                "spacegroup": drawn.choice(["R-3m (166)", "P1 (1)", "C2/m (12)", "Fm-3m (225)"]),
                "energy_per_atom": -4.0,
                "formation_energy_per_atom": -0.4 + above,
                "e_above_hull": above,
                "label": "within 0.025" if above < 0.025 else "above",
                "converged": True,
                "distinct": drawn.random() < 0.5,
                "origin": {
                    "kind": "generated" if generated else "prototype",
                    "id": f"sample-{i}",
                    "source": "generator" if generated else None,
                    "round": 1 if generated else None,
                },
                "level_of_theory": {
                    "engine": "SevenNet-0",
                    "package": "sevenn 0.12",
                    "checkpoint": "0123456789abcdef",
                    "scale": "PBE, uncorrected",
                },
            }
        )
    return made


def timed(client: Client, address: str) -> float:
    """Seconds of one request."""
    begin = perf_counter()
    answer = client.get(address)
    assert answer.status_code == 200, answer.text[:500]
    return perf_counter() - begin


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--phases", type=int, default=100_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "campaign.yaml").write_text("system: Bi-Se\n")
        begin = perf_counter()
        embedded: Any = embedded_store(folder)
        store = embedded.additional_stores[PHASES]
        store.connect()
        made = phases(wanted.phases)
        store._collection.insert_many(made)
        result: dict[str, Any] = {"phases": wanted.phases, "made": perf_counter() - begin}
        begin = perf_counter()
        live = Live(Folder(folder))
        live.load()
        result["first reading"] = perf_counter() - begin
        client = Client(App(live, explain).wsgi)
        result["pages"] = {
            name: {
                "first": timed(client, f"/?{question}"),
                "again": timed(client, f"/?{question}"),
                "hull": timed(client, f"/hull?{question}"),
            }
            for name, question in QUESTIONS.items()
        }
        free = '/?where={"nsites":{"$lte":4}}'
        result["free filter"] = {"first": timed(client, free), "again": timed(client, free)}
        # As a run publishes: all phases anew.
        sleep(3)
        changed = [{**phase, "_id": ObjectId()} for phase in made]

        def publish() -> None:
            store._collection.delete_many({})
            store._collection.insert_many(changed)

        # A process of its own, as a run is.
        writer = multiprocessing.get_context("fork").Process(target=publish)
        writer.start()
        times = []
        end = perf_counter() + 60
        while writer.is_alive() or perf_counter() < end:
            times.append(timed(client, "/"))
            sleep(0.5)
        result["while it changes"] = {"pages": len(times), "slowest": max(times)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
