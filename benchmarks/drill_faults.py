"""What the drill does to a campaign: one function a fault, in the words of its first line."""

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
from drill_campaign import LOST_AFTER, Confirmed, Local, OnCluster, Run, Whole
from drill_network import Network, wrapped

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
        os.kill(_pid(run), number)
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


@fault(Local, lacks=_no_tmpfs)
def disk_full(run: Local, moment: float) -> None:
    """The disk is full until the command has ended."""
    disk = run.stack.enter_context(_disk(run.folder / "disk"))
    run.workdir = disk / "run"
    run.start()
    run.until(moment)
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
    disk = run.stack.enter_context(_disk(run.folder / "disk"))
    run.workdir = disk / "run"
    run.start()
    run.until(moment)
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


# On a cluster.


@fault(OnCluster, KILLS)
def kill_worker(run: OnCluster, moment: float) -> None:
    """SIGKILL to a worker of the cluster."""
    _signal_worker(run, moment, signal.SIGKILL)


@fault(OnCluster, KILLS)
def terminate_worker(run: OnCluster, moment: float) -> None:
    """SIGTERM to a worker of the cluster."""
    _signal_worker(run, moment, signal.SIGTERM)


def _signal_worker(run: OnCluster, moment: float, number: signal.Signals) -> None:
    run.start()
    run.until(moment)
    if (worker := run.a_worker()) is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.send_signal(number)
    run.remember()


@fault(OnCluster)
def kill_launcher(run: OnCluster, moment: float) -> None:
    """SIGKILL to the launcher."""
    run.start()
    run.until(moment)
    if not run.is_over:
        os.kill(_pid(run), signal.SIGKILL)


@fault(OnCluster)
def freeze_workers(run: OnCluster, moment: float) -> None:
    """All workers stand still for longer than a run may be silent."""
    run.start()
    run.until(moment)
    run.wait_for(run.workers)
    frozen = [p for p in run.processes() if p.pid != _pid(run)]
    for process in frozen:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    _pass(run, 2 * LOST_AFTER)
    for process in frozen:
        with contextlib.suppress(psutil.Error):
            process.resume()


# The database, and the network to it.


@fault(OnCluster)
def kill_database(run: OnCluster, moment: float) -> None:
    """SIGKILL to the database, which is back after a while."""
    run.start()
    run.until(moment)
    run.remember()
    run.server.kill()
    _pass(run, 1.5 * LOST_AFTER)
    run.server.start()


@fault(OnCluster)
def forgetful_database(run: OnCluster, moment: float) -> None:
    """The database is killed, and back without what it was given in the last seconds."""
    kept = run.folder / "earlier"
    run.start()
    run.until(0.8 * moment)
    run.server.stop()
    shutil.copytree(run.server.data, kept)
    run.server.start()
    run.until(moment)
    run.server.kill()
    shutil.rmtree(run.server.data)
    shutil.copytree(kept, run.server.data)
    run.server.start()


def _network(run: OnCluster) -> Network:
    network = Network(run.server.port)
    run.stack.callback(network.close)
    run.uri = network.uri
    return network


@fault(OnCluster)
def slow_database(run: OnCluster, moment: float) -> None:
    """Each answer of the database takes 0.2 s longer, for a minute."""
    network = _network(run)
    run.start()
    run.until(moment)
    network.delay = 0.2
    _pass(run, 60.0)
    network.delay = 0.0


@fault(OnCluster)
def cut_network(run: OnCluster, moment: float) -> None:
    """All connections to the database break off, three times."""
    network = _network(run)
    run.start()
    run.until(moment)
    for _ in range(3):
        network.cut()
        _pass(run, 1.0)


@fault(OnCluster)
def black_hole(run: OnCluster, moment: float) -> None:
    """The network to the database swallows all for longer than a run may be silent."""
    _swallow(run, moment, workers_only=False)


@fault(OnCluster)
def black_hole_of_nodes(run: OnCluster, moment: float) -> None:
    """The same between workers and database alone: the launcher takes their jobs for lost."""
    _swallow(run, moment, workers_only=True)


def _swallow(run: OnCluster, moment: float, *, workers_only: bool) -> None:
    network = _network(run)
    network.workers_only = workers_only
    run.start()
    run.until(moment)
    network.hole = True
    _pass(run, 2 * LOST_AFTER)
    network.hole = False
    # What was swallowed does not come any more.
    network.cut()


@fault(OnCluster)
def cut_spool(run: OnCluster, moment: float) -> None:
    """The database is away; of the results that wait on disk, one is cut and one is empty."""
    run.start()
    run.wait_for(lambda: (run.folder / "begun").exists())
    run.server.stop()
    spool = run.root / "spool"
    run.wait_for(lambda: len(list(spool.glob("*.json"))) >= 2, 120)
    for path, size in zip(sorted(spool.glob("*.json")), (200, 0), strict=False):
        os.truncate(path, size)
    run.server.start()


# The queue.


@fault(OnCluster)
def cancel_job(run: OnCluster, moment: float) -> None:
    """Somebody cancels all queue jobs."""
    run.start()
    run.until(moment)
    run.slurm.run("scancel", "--user=root")


@fault(OnCluster)
def drain_node(run: OnCluster, moment: float) -> None:
    """The node is drained and what runs there is put back into the queue; it comes back."""
    node = run.slurm.run("sinfo", "-h", "-p", "main", "-o", "%n").stdout.strip()
    run.start()
    run.until(moment)
    change = ("scontrol", "update", f"nodename={node}")
    run.slurm.run(*change, "state=down", "reason=drill")
    _pass(run, 10.0)
    run.slurm.run(*change, "state=resume")


@fault(OnCluster)
def queue_stands_still(run: OnCluster, moment: float) -> None:
    """Slurm's daemon stands still for a while."""
    run.start()
    run.until(moment)
    daemon = psutil.Process(int((run.slurm.folder / "slurmctld.pid").read_text()))
    daemon.suspend()
    _pass(run, 30.0)
    daemon.resume()


@fault(OnCluster)
def sbatch_refuses(run: OnCluster, moment: float) -> None:
    """Sbatch refuses three jobs: the user has too many."""
    _at_the_queue(run, 0.0, "sbatch", "refuse", "refuse", "refuse")


@fault(OnCluster)
def sbatch_loses_answer(run: OnCluster, moment: float) -> None:
    """Sbatch takes a job and says that the socket timed out."""
    _at_the_queue(run, 0.0, "sbatch", "lost")


@fault(OnCluster)
def squeue_empty(run: OnCluster, moment: float) -> None:
    """Squeue answers once that there is no job."""
    _at_the_queue(run, moment, "squeue", "empty")


@fault(OnCluster)
def squeue_hangs(run: OnCluster, moment: float) -> None:
    """Squeue hangs for two minutes, then fails."""
    _at_the_queue(run, moment, "squeue", "hang")


def _at_the_queue(run: OnCluster, moment: float, name: str, *instead: str) -> None:
    folder = run.folder / "wrapped"
    run.environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    todo = wrapped(folder, name)
    lines = "".join(f"{line}\n" for line in instead)
    if not moment:
        todo.write_text(lines)
    run.start()
    if moment:
        run.until(moment)
        todo.write_text(lines)


@fault(OnCluster)
def two_users(run: OnCluster, moment: float) -> None:
    """A second launcher, of another user whose squeue does not show the first one's jobs."""
    run.start()
    run.until(moment)
    run.beside(run.first(), LOGNAME="nobody", USER="nobody")


def _pass(run: Run, seconds: float) -> None:
    """Let time go by, as long as the campaign runs."""
    run.wait_for(lambda: False, seconds)


def _pid(run: Run) -> int:
    assert run.process is not None
    return run.process.pid
