"""What the drill does to a campaign: a function for each fault, which its first line tells.

Here those on one machine; `drill_faults_cluster` has the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from drill_campaign import Confirmed, Local, Run, Whole

Strike = Callable[[Any, float], None]

#: Seeds of faults that end processes, and of all others.
KILLS, OTHERS = 20, 5


@dataclass(frozen=True)
class Fault:
    """A fault, and the kind of campaign that it strikes.

    Attributes
    ----------
    strike
        Runs a campaign with the fault; called with the run, which has not begun, and the moment, a
        fraction of the undisturbed campaign's processor time.
    lacks
        What this machine lacks for it, if anything.
    """

    name: str
    strike: Strike
    on: type[Run]
    seeds: int
    lacks: Callable[[], str]

    @property
    def words(self) -> str:
        return (self.strike.__doc__ or "").splitlines()[0].rstrip(".")


FAULTS: dict[str, Fault] = {}


def fault(
    on: type[Run], seeds: int = OTHERS, lacks: Callable[[], str] = lambda: ""
) -> Callable[[Strike], Strike]:
    """Take a function into `FAULTS`."""

    def taken(strike: Strike) -> Strike:
        name = strike.__name__.replace("_", "-")
        FAULTS[name] = Fault(name, strike, on, seeds, lacks)
        return strike

    return taken


# On one machine.


@fault(Whole, KILLS)
def kill(run: Local, moment: float) -> None:
    """SIGKILL to the campaign's process."""
    _signal(run, moment, signal.SIGKILL)


@fault(Whole, KILLS)
def terminate(run: Local, moment: float) -> None:
    """SIGTERM to the campaign's process."""
    _signal(run, moment, signal.SIGTERM)


def _signal(run: Local, moment: float, number: signal.Signals) -> None:
    run.start()
    run.until(moment)
    if not run.is_over:
        os.kill(pid_of(run), number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert run.process is not None
            run.process.wait(60)


@fault(Local, KILLS)
def kill_relaxation(run: Local, moment: float) -> None:
    """SIGKILL to a process that relaxes."""
    run.start()
    # Either in the database's relaxations or in those of the round.
    if moment > 0.5:
        run.until(0.6)
    run.wait_for(run.children)
    time.sleep(run.random.uniform(0.0, 3.0))
    for process in run.children():
        process.kill()


@fault(Whole)
def power_cut(run: Local, moment: float) -> None:
    """SIGKILL to all processes at once."""
    run.start()
    run.until(moment)
    run.kill()


@fault(Local)
def out_of_memory(run: Local, moment: float) -> None:
    """No more memory for any process, until the command has ended."""
    run.start()
    run.until(moment)
    for process in run.processes():
        with contextlib.suppress(psutil.Error):
            most = process.memory_info().vms + 2**20
            process.rlimit(psutil.RLIMIT_AS, (most, most))
    run.wait_for(lambda: run.is_over, run.limit)


def _no_tmpfs() -> str:
    return "" if os.geteuid() == 0 and shutil.which("mount") else "mounting a tmpfs needs root"


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """A small disk at a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _begun_on_a_disk(run: Local, moment: float) -> Path:
    """A disk of its own, on which a run has come to a moment."""
    disk = run.stack.enter_context(_disk(run.folder / "disk"))
    run.workdir = disk / "run"
    run.start()
    run.until(moment)
    return disk


@fault(Local, lacks=_no_tmpfs)
def disk_full(run: Local, moment: float) -> None:
    """The disk is full until the command has ended."""
    disk = _begun_on_a_disk(run, moment)
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as stream:
        while True:
            stream.write(bytes(4096))
            stream.flush()
    run.wait_for(lambda: run.is_over, 120)
    ballast.unlink()


@fault(Local, lacks=_no_tmpfs)
def quota(run: Local, moment: float) -> None:
    """No further file may be made until the command has ended."""
    disk = _begun_on_a_disk(run, moment)
    there = os.statvfs(disk)
    for most in (there.f_files - there.f_ffree, 100_000):
        option = f"remount,nr_inodes={most}"
        subprocess.run(["mount", "-o", option, disk], check=True)
        if most != 100_000:
            run.wait_for(lambda: run.is_over, 120)


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("/none"))


def _no_faketime() -> str:
    return "" if FAKETIME.exists() else "a false clock needs libfaketime (apt-get install faketime)"


@fault(Local, lacks=_no_faketime)
def clock_jump(run: Local, moment: float) -> None:
    """The clock jumps, a day ahead or back."""
    clock = run.folder / "clock"
    clock.write_text("+0")
    run.environment |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    run.start()
    run.until(moment)
    clock.write_text("+1d" if run.seed % 2 == 0 else "-1d")


@fault(Local)
def cut_checkpoint(run: Local, moment: float) -> None:
    """Killed in the training, and every checkpoint is cut to its half."""
    run.start()

    def checkpoints() -> list[Path]:
        return [p for p in (run.workdir / "checkpoints").rglob("*") if p.is_file()]

    run.until(0.45)
    run.wait_for(checkpoints)
    run.kill()
    for path in checkpoints():
        os.truncate(path, path.stat().st_size // 2)


@fault(Local)
def crystal_segfaults(run: Local, moment: float) -> None:
    """A crystal ends every process that relaxes it by a segmentation fault."""
    _break_crystal(run, "segfault")
    run.start()


@fault(Local)
def crystal_hangs(run: Local, moment: float) -> None:
    """The relaxation of a crystal never ends; somebody kills the process once."""
    _break_crystal(run, "hang")
    run.start()
    name = json.loads((run.folder / "broken").read_text())["fingerprint"]
    begun = run.folder / "begun"
    run.wait_for(lambda: begun.exists() and name in begun.read_text())
    for process in run.children():
        process.kill()
    (run.folder / "broken").write_text(json.dumps({"fingerprint": "", "how": ""}))


def _break_crystal(run: Run, how: str) -> None:
    broken = {"fingerprint": run.broken[0], "how": how}
    (run.folder / "broken").write_text(json.dumps(broken))
    run.environment["DRILL_BROKEN"] = str(run.folder / "broken")


# VASP, which confirms what a campaign has found.

#: Faults of the stand-in for VASP, each of which strikes one run of it, by what they are.
OF_VASP = {
    "disk": "VASP's disk is full",
    "quota": "VASP's quota is used up",
    "oom": "the kernel ends VASP for want of memory",
    "node_fail": "VASP's node fails",
    "kill": "SIGKILL to VASP",
    "kill_parent": "SIGKILL to what runs VASP",
    "segfault": "VASP ends by a segmentation fault",
    "explodes": "VASP gives a geometry that is none",
    "truncated_vasprun": "VASP's vasprun.xml is cut",
    "empty_contcar": "VASP's CONTCAR is empty",
    "hang": "VASP hangs",
}


def _of_vasp(kind: str) -> Strike:
    def strike(run: Confirmed, moment: float) -> None:
        # Seeds differ in which crystal it strikes.
        names = sorted(run.confirmed)
        key = names[int(moment * len(names))] if names else "*"
        run.faults.write_text(json.dumps({key: {"fault": kind, "times": 1}}))
        run.start()

    strike.__name__ = f"vasp-{kind.replace('_', '-')}"
    strike.__doc__ = f"{OF_VASP[kind][0].upper()}{OF_VASP[kind][1:]}."
    return strike


for _kind in OF_VASP:
    fault(Confirmed)(_of_vasp(_kind))


def pid_of(run: Run) -> int:
    """Number of the process of the command that is waited for."""
    assert run.process is not None
    return run.process.pid
