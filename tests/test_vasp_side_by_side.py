"""Several structures are relaxed by VASP at a time on one node."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from jobflow import run_locally
from pymatgen.core import Lattice, Structure
from test_vasp_signals import inside

from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.side_by_side import relax_all_by_vasp
from ccdcgan.dft.relaxation.failure import MachineError
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.confirm import confirmed_campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.relax import RelaxMaker
from ccdcgan.workflows.storage.stores import RESULTS

STAND_IN = f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}"
RELAXATION = {
    "engine": {"name": "vasp", "polling": 0.1, "buffer": 0, "stages": ["relax"]},
    "fmax": 0.05,
    "max_steps": 60,
}
CAMPAIGN = Campaign.model_validate({"relaxation": RELAXATION, "workers": 2})
CRYSTALS = {
    name: Structure(
        Lattice.orthorhombic(2.6 * len(species), 3.9, 4.0),
        species,
        [[1.03 * i / len(species), 0.51 * (i % 2), 0.5 * (i % 2)] for i in range(len(species))],
    )
    for name, species in {
        "BiSe": ["Bi", "Se"],
        "Bi2Se": ["Bi", "Bi", "Se"],
        "BiSe2": ["Bi", "Se", "Se"],
        "Bi3Se": ["Bi", "Bi", "Bi", "Se"],
    }.items()
}

#: Notes begin and end of each run; none goes on before two have begun.
TOGETHER = """#!/bin/sh
echo begin >> "$NOTES"
n=0
until [ "$(grep -c begin "$NOTES")" -ge 2 ] || [ $n -gt 600 ]; do sleep 0.1; n=$((n+1)); done
"""


@pytest.fixture
def machine(vasp_machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOTES", str(vasp_machine / "notes"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    return vasp_machine


def logged(machine: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (machine / "log").read_text().splitlines()]


def test_as_many_as_workers_run_together(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One meets a full disk: what runs beside it is kept, nothing else begins, and later all do."""
    command = machine / "vasp"
    command.write_text(TOGETHER + f'{STAND_IN}\nstatus=$?\necho end >> "$NOTES"\nexit $status\n')
    command.chmod(0o755)
    monkeypatch.setenv("ATOMATE2_VASP_CMD", str(command))
    full = machine / "full"
    full.touch()
    faults = {
        "BiSe": {"fault": "disk", "while": str(full)},
        "Bi2Se": {"fault": "slow", "seconds": 0.2, "while": str(full)},
    }
    (machine / "faults.json").write_text(json.dumps(faults))
    candidates = [
        Candidate(origin=Origin(kind="prototype", id=i), structure=s.as_dict())
        for i, s in CRYSTALS.items()
    ]
    store = embedded_store(machine)

    def relax() -> dict[str, RelaxationDocument]:
        plain = [c.model_dump(mode="json") for c in candidates]
        # All in one job, as in a folder.
        job = RelaxMaker(turns=10).make(plain, CAMPAIGN.model_dump(mode="json"))
        try:
            run_locally(job, store=store, log=False, root_dir=machine, raise_immediately=True)
        finally:
            store.connect()
            found = store.additional_stores[RESULTS].query()
            documents.update({d["origin"]["id"]: RelaxationDocument(**d) for d in found})
        return documents

    documents: dict[str, RelaxationDocument] = {}
    with pytest.raises(MachineError, match="disk of .*free space there"):
        relax()
    begun = {Structure.from_file(p).composition.reduced_formula for p in calculations(machine)}
    assert set(documents) == begun - {"BiSe"} and "Bi2Se" in documents and len(begun) < 4
    assert len(json.loads(record(machine, "BiSe").read_text())) == 1

    full.unlink()
    assert set(relax()) == set(CRYSTALS)
    lines = (machine / "notes").read_text().split()
    running = [
        lines[: i + 1].count("begin") - lines[: i + 1].count("end") for i in range(len(lines))
    ]
    assert max(running) == 2
    assert {row["threads"] for row in logged(machine)} == {"3"}, "VASP's threads are the user's"
    # Each once, but for the one that the disk has ended.
    assert len(logged(machine)) == 5

    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(machine / "alone"))
    monkeypatch.setenv("ATOMATE2_VASP_CMD", STAND_IN)
    for name, crystal in CRYSTALS.items():
        alone, _ = relax_by_vasp(crystal, CAMPAIGN.relaxation)
        assert documents[name].converged and documents[name].key == alone.key
        near = 5e-3 if name == "BiSe" else 1e-9
        assert documents[name].energy_per_atom == pytest.approx(alone.energy_per_atom, abs=near)


def calculations(machine: Path) -> list[Path]:
    return sorted((machine / "calculations").glob("*/01-relax/POSCAR"))


def record(machine: Path, formula: str) -> Path:
    (found,) = (
        p.parent.parent / "calculation.json"
        for p in calculations(machine)
        if Structure.from_file(p).composition.reduced_formula == formula
    )
    return found


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_end_with_their_parent(machine: Path, number: signal.Signals) -> None:
    (machine / "faults.json").write_text(json.dumps({"*": {"fault": "hang", "times": 9}}))
    crystals = [CRYSTALS[name] for name in ("BiSe", "Bi2Se", "BiSe2")]
    # A process that is started takes seconds to import what this one has.
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            list(relax_all_by_vasp(crystals, CAMPAIGN.relaxation, 2))
        finally:
            os._exit(1)
    folder = machine / "calculations"
    end = time.monotonic() + 120
    while sum(b" F= " in f.read_bytes() for f in folder.glob("*/01-relax/OSZICAR")) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    running = inside(folder)
    ours = psutil.Process(child)
    workers = ours.children(recursive=True)
    assert len(running) >= 2
    ours.send_signal(number)
    ours.wait(timeout=30)
    assert not psutil.wait_procs([*running, *workers], timeout=30)[1]

    records = [json.loads(p.read_text()) for p in folder.glob("*/calculation.json")]
    assert len(records) == 2, "nothing is begun after the signal"
    for (attempt,) in records:
        assert (attempt["outcome"], attempt["reason"]) == ("stopped", "interrupted")
        assert attempt["steps"] >= 1


def test_a_confirmation_by_vasp_takes_its_own_number() -> None:
    """As many runs of VASP as of a potential would be too many."""
    confirm = {"relaxation": RELAXATION}
    potential = Campaign.model_validate({"workers": 8, "confirm": confirm})
    assert confirmed_campaign(potential).workers is None
    several = Campaign.model_validate({"workers": 8, "confirm": {**confirm, "workers": 4}})
    assert confirmed_campaign(several).workers == 4
    assert several.digest() == potential.digest() and not several.differences(potential)
    both = Campaign.model_validate({"relaxation": RELAXATION, "workers": 2, "confirm": confirm})
    assert confirmed_campaign(both).workers == 2
