"""Sixty structures relaxed by the tests' stand-in for VASP, twenty kinds of fault, one retry.

Usage: python benchmarks/faults.py [--structures N] [--out FILE]

CCDCGAN_MONGODB_URI is the address of a MongoDB; a database of its own is made there and dropped.
The structures are relaxed twice: undisturbed in this process, and by a worker of a cluster's `dft`
class on which every third structure meets a fault of the machine and every third one of the
crystal, each of which lasts until the machine is mended or a tag changes. Then the machine is
mended, and one `ccdcgan retry --structures` and one worker do the rest. Prints JSON: what failed,
the largest difference of energies to the undisturbed relaxations, documents for each structure, and
ionic steps that were done again where a later geometry was there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import pymatgen.core
from jobflow import Flow
from pymatgen.core import Structure

TESTS = Path(__file__).parent.parent / "tests"
sys.path.append(str(TESTS))

from potcars import write_potcars  # noqa: E402  of the tests, which are no package
from test_vasp_campaign import crystal  # noqa: E402

from ccdcgan.dft.engines.vasp.relax import relax_by_vasp  # noqa: E402
from ccdcgan.launchers.cluster.settings import load_cluster  # noqa: E402
from ccdcgan.launchers.cluster.submit import submit  # noqa: E402
from ccdcgan.workflows.campaign import Campaign, parse_campaign  # noqa: E402
from ccdcgan.workflows.jobs import in_stage  # noqa: E402
from ccdcgan.workflows.relax import RelaxMaker  # noqa: E402

#: All of them last until the machine is mended.
MACHINES = (
    *("disk", "quota", "oom", "memory", "mount", "network", "node_fail", "node", "modules"),
    "licence",
)

#: Those that last until somebody asks for `TAG`, and those that custodian or the ladder mends.
LASTING = ("edddav", "eddrmm", "brmix", "subspacematrix", "zheev")
MENDED = ("pricel", "posmap", "unconverged_scf", "ionic_steps", "explodes")
CRYSTALS = (*LASTING, *MENDED)

TAG = {"POTIM": "0.25"}

FORMULAS = ("BiSe", "BiSe2", "Bi2Se", "BiSe3", "Bi3Se", "Bi2Se3", "Bi3Se2", "Bi", "Se")

CAMPAIGN = {
    "system": "Bi-Se",
    "relaxation": {
        "engine": {"name": "vasp", "polling": 0.1, "stages": ["relax"]},
        "fmax": 0.002,
        "max_steps": 60,
    },
}


def structures(number: int) -> list[Structure]:
    """Crystals near minima, no two alike."""
    found = []
    for index in range(number):
        structure = crystal(FORMULAS[index % len(FORMULAS)]).copy()
        structure.perturb(0.02, seed=100 + index)
        found.append(structure)
    return found


def told(keys: list[str], broken: Path) -> dict[str, dict[str, Any]]:
    """What hits each structure, by content key: a third nothing."""
    faults: dict[str, dict[str, Any]] = {}
    for index, key in enumerate(keys):
        kind = index // 3
        if index % 3 == 0:
            faults[key] = {"fault": MACHINES[kind % len(MACHINES)], "while": str(broken)}
        elif index % 3 == 1:
            faults[key] = {"fault": CRYSTALS[kind % len(CRYSTALS)]}
            if faults[key]["fault"] in LASTING:
                faults[key] |= {"times": None, "unless": TAG}
    return faults


def command(*arguments: object) -> str:
    """What a command of ours says."""
    words = [sys.executable, "-m", "ccdcgan.launchers.cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def disturbed(
    candidates: list[dict[str, Any]], keys: list[str], folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Relax on a cluster with faults, mend, try again: failures before, documents in the end."""
    name = f"faults_{uuid4().hex[:8]}"
    part = {"database": name}
    queue = {"queue": {"queue": "main"}, "idle": 0}
    config = folder / "my_fireworks.yaml"
    settings = {
        "folder": str(folder / "shared"),
        "launchpad": part,
        "stores": dict.fromkeys(("documents", "blobs", "results"), part),
        "workers": dict.fromkeys(("dft", "gpu", "light"), queue),
    }
    config.write_text(json.dumps(settings))
    broken = folder / "broken"
    broken.touch()
    (folder / "faults.json").write_text(json.dumps(told(keys, broken)))
    os.environ["VASP_STAND_IN_FAULTS"] = str(folder / "faults.json")
    os.environ["VASP_STAND_IN_LOG"] = str(folder / "log")

    def flow(_: object, campaign: Campaign) -> Flow:
        plain = campaign.model_dump(mode="json")
        job = in_stage(RelaxMaker().make(candidates, plain, "database"), "database")
        return Flow([job], output=job.output)

    cluster = load_cluster(config)
    database = cluster.launchpad.handle()
    config_folder = folder / "config"
    work = ("worker", config_folder / "dft", "--idle", 0)
    try:
        with mock.patch("ccdcgan.workflows.flow.InverseDesignMaker.make", flow):
            submit(parse_campaign(CAMPAIGN, "faults"), "faults", cluster)
            command("cluster", "write", config_folder, "--config", config)
            command(*work)
            failed = json.loads(command("failures", "--config", config, "--format", "json"))
            broken.unlink()
            tags = [f"--incar={tag}={value}" for tag, value in TAG.items()]
            words = ["ccdcgan", "retry", "--structures", "--config", str(config)]
            words += ["--campaign", "faults", *tags]
            # Here, so that what it submits is the flow above.
            with mock.patch.object(sys, "argv", words):
                from ccdcgan.launchers.cli.app import app

                app(standalone_mode=False)
        command(*work)
        return failed, list(database.relaxations.find())
    finally:
        database.client.drop_database(name)


def repeated_steps(lines: list[dict[str, Any]]) -> dict[str, int]:
    """Ionic steps that were done again where a later geometry was there, by content key.

    A run that goes on computes the geometry that the last one was to compute next; one that starts
    where an earlier one has started does again all that it does, up to the steps of that one.
    """
    found: Counter[str] = Counter()
    starts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for run in lines:
        before = starts[Path(run["cwd"]).parent.name]
        if before.get(run["start"]):
            found[Path(run["cwd"]).parent.name] += min(run["steps"], before[run["start"]])
        before[run["start"]] = max(run["steps"], before.get(run["start"], 0))
    return dict(found)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--structures", type=int, default=60)
    parser.add_argument("--out", type=Path, help="JSON file for the raw figures.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as made:
        folder = Path(made)
        potcars = str(write_potcars(folder / "psp", ["Bi", "Se"]))
        # pymatgen has read its settings already; the worker's has not.
        pymatgen.core.SETTINGS["PMG_VASP_PSP_DIR"] = os.environ["PMG_VASP_PSP_DIR"] = potcars
        os.environ["ATOMATE2_VASP_CMD"] = f"{sys.executable} {TESTS / 'vasp_stand_in.py'}"
        os.environ["CCDCGAN_CALCULATIONS"] = str(folder / "undisturbed")
        os.environ["VASP_STAND_IN_LOG"] = str(folder / "undisturbed.log")
        os.environ.pop("VASP_STAND_IN_FAULTS", None)
        settings = parse_campaign(CAMPAIGN, "faults").relaxation
        wanted = structures(arguments.structures)
        expected = {r.key: r for r, _ in (relax_by_vasp(s, settings) for s in wanted)}
        candidates = [
            {"origin": {"kind": "prototype", "id": str(i)}, "structure": s.as_dict()}
            for i, s in enumerate(wanted)
        ]
        failed, documents = disturbed(candidates, list(expected), folder)
        energies = {d["key"]: d["energy_per_atom"] for d in documents if d["converged"]}
        differences = {
            key: abs(energies[key] - (r.energy_per_atom or 0.0))
            for key, r in expected.items()
            if key in energies
        }
        lines = _lines(folder / "log")
        figures = {
            "structures": len(expected),
            "kinds_of_fault": len({*MACHINES, *CRYSTALS}),
            "failed": Counter(f["kind"] for f in failed),
            "results_after_retry": len(energies),
            "documents": len(documents),
            "largest_difference_ev_per_atom": max(differences.values()),
            "ionic_steps_undisturbed": sum(r["steps"] for r in _lines(folder / "undisturbed.log")),
            "ionic_steps": sum(r["steps"] for r in lines),
            "runs": len(lines),
            "steps_repeated": repeated_steps(lines),
            "failures": [
                {k: f[k] for k in ("kind", "formula", "reason", "said", "runs", "steps")}
                for f in failed
            ],
        }
        text = json.dumps(figures, indent=1)
        print(text)
        if arguments.out is not None:
            arguments.out.write_text(text + "\n")


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


if __name__ == "__main__":
    main()
