"""Default campaigns by two engines, in several chemistries: cost, finds by depth, symmetry.

    python benchmarks/engines.py WORK [--systems Bi-Se,Ti-C] [--seeds 0,1] [--engines NAME,NAME]

Runs `ccdcgan run` of the quickstart campaign for each system, seed and engine in a folder of its
own under WORK, one after the other, and keeps what came out in benchmarks/engines/runs.json: what
is there is not run again. Prints a table of all that is there; times are those of the machine that
it ran on, and only comparable within one system and seed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

RUNS = Path(__file__).with_suffix("") / "runs.json"

#: As in a campaign file.
ENGINES: dict[str, dict[str, Any]] = {
    "7net-0": {"engine": {"name": "sevennet"}},
    "7net-0+d3bj": {"engine": {"name": "sevennet", "dispersion": "d3bj"}},
    "7net-l3i5": {"engine": {"name": "sevennet", "checkpoint": "7net-l3i5"}},
    "7net-l3i5+d3bj": {
        "engine": {"name": "sevennet", "checkpoint": "7net-l3i5", "dispersion": "d3bj"}
    },
}
SYSTEMS = ("Bi-Se", "Ti-C", "Li-S", "Mg-O", "Al-Ni")
DEPTHS = (0.025, 0.05, 0.10)
#: Space groups of crystals without symmetry.
LOW = ("P1 (1)", "P-1 (2)")


def campaign(system: str, relaxation: dict[str, Any]) -> dict[str, Any]:
    """The quickstart campaign of a system with an engine."""
    text = resources.files("ccdcgan.launchers").joinpath("presets/quickstart.yaml").read_text()
    data = YAML(typ="safe").load(text)
    # As the default was when the table was made.
    loop = {**data["loop"], "sources": ["generator"]}
    loop["screening"] = {**loop["screening"], "within": 0.1}
    relaxation = {**data["relaxation"], **relaxation}
    return {**data, "system": system, "relaxation": relaxation, "loop": loop}


def run(folder: Path, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run a campaign and count what it has found."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    with path.open("w") as stream:
        YAML().dump(data, stream)
    start, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", "ccdcgan.launchers.cli", "run", path, "--seed", seed]
    subprocess.run([str(c) for c in [*command, "--workdir", folder]], check=True)
    after = os.times()
    with gzip.open(folder / "phases.json.gz") as stream:
        phases = json.load(stream)
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "wall_seconds": round(time.monotonic() - start),
        "processor_seconds": round(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        ),
        "stages": {k: round(v) for k, v in summary["wall_seconds"].items()},
        **count(phases),
        "warnings": summary["warnings"],
    }


def count(phases: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Generated crystals by distance to the hull, and those without symmetry among them."""
    everything = list(phases)
    own = [
        p
        for p in everything
        if p["origin"]["kind"] == "generated" and p["converged"] and p["label"] != "untrusted"
    ]
    found: dict[str, Any] = {"relaxed": len(own)}
    for depth in DEPTHS:
        low = [p for p in own if p["formation_energy_per_atom"] < 0 and p["e_above_hull"] <= depth]
        found[f"{depth}"] = len(low)
        found[f"{depth} distinct"] = sum(p["distinct"] for p in low)
        found[f"{depth} low symmetry"] = sum(p["spacegroup"] in LOW for p in low)
    found["untrusted"] = sum(p["label"] == "untrusted" for p in everything)
    ground = [p for p in everything if p["label"] != "not converged" and not p["e_above_hull"]]
    found["hull"] = sorted({f"{p['formula']} {p['spacegroup'].split()[0]}" for p in ground})
    found["Bi2Se3 R-3m"] = min(
        (
            p["e_above_hull"]
            for p in everything
            if p["formula"] == "Bi2Se3" and p["spacegroup"].startswith("R-3m")
        ),
        default=None,
    )
    return found


def main() -> None:
    """Run what is not there yet and print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--engines", default="7net-0,7net-l3i5+d3bj")
    options = parser.parse_args()
    known = json.loads(RUNS.read_text()) if RUNS.exists() else {}
    for seed in map(int, options.seeds.split(",")):
        for system in options.systems.split(","):
            for engine in options.engines.split(","):
                name = f"{system} {engine} {seed}"
                if name in known:
                    continue
                folder = options.work / name.replace(" ", "_")
                known[name] = run(folder, campaign(system, ENGINES[engine]), seed)
                RUNS.parent.mkdir(exist_ok=True)
                RUNS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    print("| run | minutes | relaxed | ≤ 0.025, 0.05, 0.10 | distinct | P1 or P-1 | untrusted |")
    print("|---|---|---|---|---|---|---|")
    for name, found in sorted(known.items()):
        depths = ", ".join(str(found[f"{d}"]) for d in DEPTHS)
        distinct = ", ".join(str(found[f"{d} distinct"]) for d in DEPTHS)
        low = f"{found['0.1 low symmetry']} of {found['0.1']}"
        minutes = f"{found['wall_seconds'] / 60:.1f}"
        print(
            f"| {name} | {minutes} | {found['relaxed']} | {depths} | {distinct} | {low} | "
            f"{found['untrusted']} |"
        )


if __name__ == "__main__":
    main()
