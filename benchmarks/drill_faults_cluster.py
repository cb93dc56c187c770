"""What the drill does to a campaign on a cluster; see `drill_faults`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal

import psutil
from drill_campaign import Run
from drill_cluster import LOST_AFTER, OnCluster
from drill_faults import FAULTS, KILLS, fault, pid_of
from drill_network import Network, wrapped

__all__ = ["FAULTS"]

# The workers and the launcher.


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
        os.kill(pid_of(run), signal.SIGKILL)


@fault(OnCluster)
def freeze_workers(run: OnCluster, moment: float) -> None:
    """All workers stand still for longer than a run may be silent."""
    run.start()
    run.until(moment)
    run.wait_for(run.workers)
    frozen = [p for p in run.processes() if p.pid != pid_of(run)]
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
