"""Proposal sources side by side: finds per relaxation by depth, with the same judge and budget.

    python benchmarks/sources.py WORK [--sources mix,variation] [--seeds 0,1,2] [--system Bi-Se]

Runs `ccdcgan run` of the quickstart campaign with each source alone, and with the default mix, in a
folder of its own under WORK; `prior` is the generator after one step of training, which draws the
blended crystals that it starts from. Repair, judge, learnt potential, choice and budget are the
same; the relaxations of the database are taken from the first folder of the system. What came out
is kept in benchmarks/sources/runs.json: what is there is not run again.

Records are formulas of which a generated crystal is the lowest of the campaign.

A find is new if it matches no crystal of the database, no published phase (Bi-Se: the stacks of
``ccdcgan known``, relaxed by the campaign's engine) and no earlier find within the wide tolerances
(length 0.3, sites 0.5, angle 10°): near copies are no finds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from pymatgen.core import Structure
from ruamel.yaml import YAML
from scipy.stats import binomtest

from ccdcgan.dft.structures.hull import DEPTHS
from ccdcgan.dft.structures.matching import LOOSE_TOLERANCES, is_same
from ccdcgan.launchers.local.finished import open_finished
from ccdcgan.launchers.local.homologous import known_crystals
from ccdcgan.workflows.documents import Origin, Phase
from ccdcgan.workflows.phases import records

RUNS = Path(__file__).with_suffix("") / "runs.json"
SOURCES = (
    "mix",
    "generator",
    "prior",
    "variation",
    "substitution",
    "random",
    "wyckoff",
    "stackings",
)
#: Space groups of crystals without symmetry.
LOW = ("P1 (1)", "P-1 (2)")
#: Most atoms of a published phase: more are not generated.
MOST_ATOMS = 20


def run(folder: Path, system: str, source: str, seed: int, reuse: Path | None) -> dict[str, Any]:
    """Run a campaign and count what it has found."""
    text = resources.files("ccdcgan.launchers").joinpath("presets/quickstart.yaml").read_text()
    data = {**YAML(typ="safe").load(text), "system": system}
    if source == "prior":
        data["networks"]["gan_steps"] = 1
        source = "generator"
    if source != "mix":
        data["loop"]["sources"] = [source]
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    with path.open("w") as stream:
        YAML().dump(data, stream)
    command = [sys.executable, "-m", "ccdcgan.launchers.cli", "run", str(path)]
    command += ["--seed", str(seed), "--workdir", str(folder)]
    if reuse is not None and not folder.exists():
        command += ["--reuse", str(reuse)]
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = sum(after[:2]) - sum(before[:2])
    with gzip.open(folder / "phases.json.gz") as stream:
        phases = [Phase.model_validate(p) for p in json.load(stream)]
    summary = json.loads((folder / "summary.json").read_text())
    stages = {name: round(s) for name, s in summary["wall_seconds"].items()}
    crystals = published(reuse or folder) if system == "Bi-Se" else []
    spent = {"seconds": round(seconds), "processor": round(processor)}
    return {**spent, "stages": stages, **count(phases, crystals)}


def published(folder: Path) -> list[Structure]:
    """Published phases of Bi-Se as the engine of a campaign relaxes them."""
    asked = [
        (Origin(kind="prototype", id=f"known:{c.id}"), c.structure)
        for c in known_crystals()
        if len(c.structure) <= MOST_ATOMS
    ]
    with open_finished(folder, "known") as finished:
        return [d.structure for d in finished.relax(asked) if d.converged]


def count(phases: list[Phase], crystals: list[Structure]) -> dict[str, Any]:
    """New finds of a campaign by depth and source, and records."""
    known = [p.structure for p in phases if p.origin.kind != "generated"] + crystals
    own = [p for p in phases if p.origin.kind == "generated"]
    new: list[Phase] = []
    for phase in own:
        if not phase.converged or phase.label == "untrusted" or phase.e_above_hull is None:
            continue
        same = [s for s in known if s.composition.reduced_formula == phase.formula]
        if not any(is_same(phase.structure, s, LOOSE_TOLERANCES) for s in same):
            new.append(phase)
            known.append(phase.structure)
    held, made = records(phases), {p.origin.source_name for p in own}
    low = [p for p in own if p.e_above_hull is not None and p.e_above_hull <= DEPTHS[-1]]
    return {
        "relaxed": len(own),
        **{
            f"{depth:g}": sum(
                p.converged and p.e_above_hull is not None and p.e_above_hull <= depth for p in own
            )
            for depth in DEPTHS[1:]
        },
        **{
            f"{depth:g} new": sum((p.e_above_hull or 0) <= depth for p in new)
            for depth in DEPTHS[1:]
        },
        "0.1 low symmetry": sum(p.spacegroup in LOW for p in low),
        "records": sum(n for source, n in held.items() if source in made),
        "records by source": held,
        "sources": dict(Counter(p.origin.source_name for p in own)),
        "sources 0.025 new": dict(
            Counter(p.origin.source_name for p in new if (p.e_above_hull or 0) <= DEPTHS[1])
        ),
    }


def main() -> None:
    """Run what is not there yet and print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--system", default="Bi-Se")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--reuse", type=Path, help="folder of a campaign of the system")
    options = parser.parse_args()
    known = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    reuse = options.reuse
    for seed in map(int, options.seeds.split(",")):
        for source in options.sources.split(","):
            name = f"{options.system} {source} {seed}"
            folder = options.work / name.replace(" ", "_")
            if name not in known:
                known[name] = run(folder, options.system, source, seed, reuse)
                RUNS.parent.mkdir(exist_ok=True)
                RUNS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            if reuse is None and folder.exists():
                reuse = folder
    print_table(known, options.system)


def print_table(known: dict[str, dict[str, Any]], system: str) -> None:
    """A row for each source: its finds, their shares of what was relaxed, and what they cost."""
    print(
        "| source (seeds) | relaxed | new within 0.025, 0.05, 0.10 | share within 0.025 "
        "| within 0.10 | within 0.10 in 1,000 s | records a run | P1 or P-1 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for source in SOURCES:
        runs = [r for n, r in known.items() if n.rsplit(" ", 1)[0] == f"{system} {source}"]
        if not runs:
            continue
        total = {key: sum(r[key] for r in runs) for key in runs[0] if isinstance(runs[0][key], int)}
        found = [total[f"{depth:g} new"] for depth in DEPTHS[1:]]
        # The database is the same for all.
        spent = total["processor"] - sum(r["stages"]["database"] for r in runs)
        print(
            f"| {source} ({len(runs)}) | {total['relaxed']} | {', '.join(map(str, found))} | "
            f"{_share(found[0], total['relaxed'])} | {_share(found[-1], total['relaxed'])} | "
            f"{1000 * found[-1] / spent:.0f} | {total['records'] / len(runs):.0f} | "
            f"{total['0.1 low symmetry']} of {total['0.1']} |"
        )


def _share(found: int, relaxed: int) -> str:
    low, high = binomtest(found, relaxed).proportion_ci(method="wilson")
    return f"{100 * found / relaxed:.0f}% [{100 * low:.0f}, {100 * high:.0f}]"


if __name__ == "__main__":
    main()
