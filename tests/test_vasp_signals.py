"""VASP ends with the process that has started it, whatever ends that, and goes on later."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.settings import RelaxationSettings

STAND_IN = f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}"
BISE = Structure(Lattice.orthorhombic(3.9, 3.8, 4.1), ["Bi", "Se"], [[0, 0, 0], [0.53, 0.49, 0.5]])


@pytest.fixture
def machine(vasp_machine: Path) -> Path:
    return vasp_machine


def relax() -> Relaxation:
    engine = VaspEngine(polling=0.1, buffer=0.0, stages=("relax",))
    return relax_by_vasp(BISE, RelaxationSettings(engine=engine))[0]


def relaxation() -> psutil.Process:
    """The same in a process of its own."""
    # A process that is started takes seconds to import what this one has.
    number = os.fork()
    if number == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            relax()
        finally:
            os._exit(1)
    return psutil.Process(number)


def inside(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_vasp_is_left(machine: Path, number: signal.Signals) -> None:
    # After its first ionic step.
    (machine / "faults.json").write_text(json.dumps({"*": {"fault": "hang", "times": 1}}))
    first = relaxation()
    calculations = machine / "calculations"
    end = time.monotonic() + 60
    while not any(b" F= " in f.read_bytes() for f in calculations.glob("*/01-relax/OSZICAR")):
        assert time.monotonic() < end and first.is_running()
        time.sleep(0.05)
    running = inside(calculations)
    assert running
    first.send_signal(number)
    first.wait(timeout=30)
    assert not psutil.wait_procs(running, timeout=10)[1]

    (record,) = calculations.glob("*/calculation.json")
    (attempt,) = json.loads(record.read_text())
    if number is signal.SIGKILL:
        assert attempt["outcome"] == "running", "nobody was there to write"
    else:
        assert (attempt["outcome"], attempt["reason"]) == ("stopped", "interrupted")
        assert attempt["steps"] >= 1 and attempt["seconds"] > 0

    result = relax()
    assert result.converged and result.attempts == 2
    runs = json.loads(record.read_text())
    assert runs[0]["outcome"] == "stopped" and runs[0]["seconds"] > 0
    assert result.seconds == pytest.approx(sum(run["seconds"] for run in runs))
    assert result.steps == sum(run["steps"] for run in runs)
    log = [json.loads(line) for line in (machine / "log").read_text().splitlines()]
    assert log[-1]["energy_first"] < log[0]["energy_first"], "from its last geometry"
