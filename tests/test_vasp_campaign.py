"""A campaign of VASP relaxations in which each thing that goes wrong goes wrong once.

VASP's stand-in hits each formula with a fault. The driver is a process of its own, since one of the
faults kills it; it is started again as a user would.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from potcars import write_potcars
from pymatgen.core import Composition, Lattice, Structure
from vasp_stand_in import Minimiser, pair_potential

from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import RelaxationDocument
from ccdcgan.workflows.storage.stores import RESULTS

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.outputs.UnconvergedVASPWarning"),
]

DRIVER = """
import json, sys
from pathlib import Path
from jobflow import run_locally
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.relax import RelaxMaker

folder = Path(sys.argv[1])
told = json.loads((folder / "told.json").read_text())
job = RelaxMaker().make(told["candidates"], told["campaign"])
run_locally(job, store=embedded_store(folder), log=False, root_dir=folder, ensure_success=True)
"""

#: What hits each formula, and what the documents tell of it.
FAULTS = {
    "BiSe": "zbrent",
    "BiTe": "edddav",
    "SeTe": "brmix",
    "Bi2Se": "subspacematrix",
    "BiSe2": "eddrmm",
    "Bi2Te": "pricel",
    "BiTe2": "unconverged_scf",
    "Se2Te": "ionic_steps",
    "SeTe2": "kill_parent",
    "Bi3Se": "kill",
    "BiSe3": "slow",
    "Bi3Te": "segfault",
    "BiTe3": "truncated_vasprun",
    "Se3Te": "empty_contcar",
    "SeTe3": "hang",
    "Te": "subspacematrix, always",
    "Bi": None,
}
CORRECTED = {
    **{name: name for name in ("zbrent", "edddav", "brmix", "eddrmm", "pricel")},
    "unconverged_scf": "Unconverged",
    "ionic_steps": "Unconverged",
    "hang": "Frozen job",
}
ENGINE = VaspEngine(
    stages=("relax",), polling=0.1, walltime=6 / 3600, buffer=1.0, frozen_after=2.5 / 3600
)
CAMPAIGN = Campaign(
    system=("Bi", "Se", "Te"),
    relaxation={"engine": ENGINE.model_dump(), "fmax": 0.01, "max_steps": 60},
)


@cache
def crystal(formula):
    """A crystal near a minimum, so that a relaxation that is broken off ends in no other one."""
    species = [str(e) for e, n in Composition(formula).items() for _ in range(int(n))]
    species = species * 2 if len(species) == 1 else species
    n = len(species)
    rows = [[1.03 * i / n, 0.51 * (i % 2), 0.5 * (i % 2)] for i in range(n)]
    start = Structure(Lattice.orthorhombic(2.6 * n, 3.9, 4.0), species, rows)
    start.perturb(0.4, seed=1)
    minimiser = Minimiser(np.array(start.lattice.matrix), start.cart_coords, free_cell=True)
    largest = np.inf
    while largest > 1e-3:
        cell, positions = minimiser.geometry()
        _, *derivatives = pair_potential(np.array(start.atomic_numbers), cell, positions)
        push = minimiser.push(*derivatives)
        largest = np.linalg.norm(push, axis=1).max()
        minimiser.move(push)
    minimum = Structure(cell, species, positions, coords_are_cartesian=True)
    strained = minimum.apply_strain([0.06, 0.03, 0.06], inplace=False)
    strained.perturb(0.1, seed=2)
    return strained


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Documents by formula, runs of the stand-in by formula, records and outputs."""
    folder = tmp_path_factory.mktemp("campaign")
    candidates = [
        {"origin": {"kind": "prototype", "id": f}, "structure": crystal(f).as_dict()}
        for f in (*FAULTS, "BiSe")
    ]
    told = {"candidates": candidates, "campaign": CAMPAIGN.model_dump(mode="json")}
    (folder / "told.json").write_text(json.dumps(told))
    faults = {f: fault for f, fault in FAULTS.items() if fault and " " not in fault}
    faults |= {
        "Te": {"fault": "subspacematrix", "times": None},
        "BiSe3": {"fault": "slow", "seconds": 0.9},
    }
    (folder / "faults.json").write_text(json.dumps(faults))
    environment = os.environ | {
        "PMG_VASP_PSP_DIR": str(write_potcars(folder / "psp", ["Bi", "Se", "Te"])),
        "ATOMATE2_VASP_CMD": f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}",
        "CCDCGAN_CALCULATIONS": str(folder / "calculations"),
        "VASP_STAND_IN_LOG": str(folder / "log"),
        "VASP_STAND_IN_FAULTS": str(folder / "faults.json"),
    }
    environment.pop("VASP_STAND_IN_WORKER", None)
    environment.pop("SLURM_JOB_END_TIME", None)
    environment.pop("CCDCGAN_END_TIME", None)
    statuses = []
    while not statuses or statuses[-1]:
        assert len(statuses) < 3, (statuses, (folder / "out").read_text()[-3000:])
        with (folder / "out").open("a") as out:
            run = subprocess.run(
                [sys.executable, "-c", DRIVER, str(folder)],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=300,
            )
        statuses.append(run.returncode)
    assert statuses == [-signal.SIGKILL, 0]
    store = embedded_store(folder)
    store.connect()
    documents = list(store.additional_stores[RESULTS].query())
    runs = defaultdict(list)
    for line in (folder / "log").read_text().splitlines():
        row = json.loads(line)
        runs[row["formula"]].append(row)
    outputs = [d["output"] for d in store.query({}, load=True)]
    return folder, documents, runs, [o for o in outputs if o and "tasks" in o]


def by_formula(campaign):
    return {d["origin"]["id"]: RelaxationDocument.model_validate(d) for d in campaign[1]}


def record(campaign, key):
    return json.loads((campaign[0] / "calculations" / key / "calculation.json").read_text())


def test_every_structure_exactly_once(campaign):
    _, documents, _, _ = campaign
    assert Counter(d["origin"]["id"] for d in documents) == Counter(list(FAULTS))
    assert len({d["key"] for d in documents}) == len(FAULTS)


@pytest.mark.parametrize("formula", [f for f in FAULTS if f != "Te"])
def test_what_can_be_repaired_converges(campaign, formula):
    from pymatgen.io.vasp import Vasprun

    document, fault = by_formula(campaign)[formula], FAULTS[formula]
    runs = campaign[2][formula]
    assert document.converged, document.reason
    assert document.level_of_theory.checkpoint == ENGINE.level_of_theory().checkpoint
    assert fault in {run["fault"] for run in runs}
    attempts = record(campaign, document.key)
    assert document.attempts == len(attempts) and attempts[-1]["outcome"] == "done"
    if fault in CORRECTED:
        assert CORRECTED[fault] in document.corrections
    elif fault is not None:
        assert document.attempts > 1
        assert attempts[0]["outcome"] == (
            "stopped" if fault in ("slow", "kill_parent") else "failed"
        )
    assert document.steps == sum(run["steps"] for run in runs)

    path = campaign[0] / "calculations" / document.key / attempts[-1]["folder"] / "vasprun.xml"
    last = Vasprun(path, parse_dos=False, parse_eigen=False).ionic_steps[-1]
    largest = np.linalg.norm(last["forces"], axis=1).max()
    assert largest < CAMPAIGN.relaxation.fmax and document.max_force == pytest.approx(largest)


def test_what_never_ends_is_a_failure_with_its_reason(campaign):
    document = by_formula(campaign)["Te"]
    assert not document.converged and document.energy_per_atom is None
    assert document.reason == "failed in 4 ways: custodian could not repair: subspacematrix"
    rungs = [a["incar"].get("ALGO") for a in record(campaign, document.key)]
    assert rungs == [None, "Normal", "All", "All"]


def test_no_relaxation_begins_again(campaign):
    for formula, runs in campaign[2].items():
        for i, run in enumerate(runs[1:], 1):
            earlier = [r for r in runs[:i] if r["steps"] and r["fault"] != "empty_contcar"]
            assert not earlier or run["start"] != runs[0]["start"], formula


def test_task_documents_are_the_jobs_outputs(campaign):
    documents, outputs = by_formula(campaign), campaign[3]
    tasks = {key: task for o in outputs for key, task in o["tasks"].items()}
    converged = {d.key: d for d in documents.values() if d.converged}
    assert set(tasks) == set(converged)
    for key, task in tasks.items():
        assert task["state"] == "successful"
        assert task["output"]["energy_per_atom"] == pytest.approx(converged[key].energy_per_atom)


def test_energies_are_those_of_undisturbed_runs(campaign, tmp_path, monkeypatch):
    import pymatgen.core

    psp = str(campaign[0] / "psp")
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", psp)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", psp)
    stand_in = Path(__file__).with_name("vasp_stand_in.py")
    monkeypatch.setenv("ATOMATE2_VASP_CMD", f"{sys.executable} {stand_in}")
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path))
    monkeypatch.delenv("VASP_STAND_IN_FAULTS", raising=False)
    for formula, document in by_formula(campaign).items():
        if document.converged:
            result, _ = relax_by_vasp(crystal(formula), CAMPAIGN.relaxation)
            assert result.attempts == 1 and result.key == document.key
            assert document.energy_per_atom == pytest.approx(result.energy_per_atom, abs=1e-3), (
                formula
            )
