"""Real services for the tests, each in a folder and on ports of its own: MongoDB, Slurm."""

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pymongo
import pytest
from pymongo.database import Database as Handle
from pymongo.errors import PyMongoError


class Database(NamedTuple):
    """One database for one test.

    Attributes
    ----------
    uri:
        The server's, without the database.
    name:
        Name of the database.
    handle:
        PyMongo's access to it.
    """

    uri: str
    name: str
    handle: Handle[dict[str, Any]]


def free_port() -> int:
    # Below the ports that clients get: while a server is down, none of them takes its place.
    for port in secrets.SystemRandom().sample(range(20000, 32000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def in_memory(gigabytes: float) -> Path | None:
    """A folder in the machine's memory, where fsync takes no time, if it has so much space."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return None
    there = os.statvfs(folder)
    enough = there.f_bavail * there.f_frsize > gigabytes * 1e9
    # Tests run programs there.
    return folder if enough and not there.f_flag & os.ST_NOEXEC else None


#: Modules that know how long a database may take to answer.
ASKING = ("cluster.database", "cluster.launchpad", "cluster.settings", "check.cluster")


def give_up_soon(patch: pytest.MonkeyPatch, milliseconds: int) -> None:
    """Wait no longer than this for a database that is not there."""
    for module in ASKING:
        patch.setattr(f"ccdcgan.launchers.{module}.SOON", milliseconds)


def kill_processes(which: Callable[[psutil.Process], bool]) -> None:
    for process in psutil.process_iter():
        # One that has just ended, or that nobody may look at.
        with contextlib.suppress(psutil.Error):
            if which(process):
                process.kill()


class Daemon:
    """Program in the background; what it says goes to ``log``."""

    def __init__(self, *command: str | Path, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            # In a session of its own: Ctrl-C is for pytest, which stops the services last.
            self.process = subprocess.Popen(
                [str(c) for c in command],
                cwd=log.parent,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for what tells that the program is ready; a RuntimeError if it ends instead."""

        def ready() -> object:
            if not self.runs:
                raise RuntimeError(f"{self.log}: the end\n{self.log.read_text()[-2000:]}")
            return condition()

        wait_until(ready, f"{self.log}: ready")

    def end(self, how: signal.Signals = signal.SIGTERM, patience: float = 10) -> None:
        self.process.send_signal(how)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class MongoServer:
    """Server that speaks MongoDB's protocol: SecantusDB, unless a ``uri`` names one that runs.

    It keeps its port and its data from one start to the next.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.can_stop = uri is None
        self.port = free_port()
        self.uri = uri or f"mongodb://127.0.0.1:{self.port}/"
        self._folder = folder
        self._daemon: Daemon | None = None

    @property
    def runs(self) -> bool:
        return self._daemon is not None and self._daemon.runs

    @property
    def data(self) -> Path:
        """The folder that it keeps everything in."""
        return self._folder / "data"

    def start(self) -> None:
        """Start, unless it runs, and wait for the first answer."""
        if self.can_stop and not self.runs:
            atexit.register(self.kill)
            self._daemon = Daemon(
                *(sys.executable, "-m", "secantus"),
                *("--host", "127.0.0.1", "--port", str(self.port)),
                *("--storage-path", self.data, "--cache-size", "512M"),
                # Else a kill loses what was acknowledged, which MongoDB's journal keeps.
                *("--standalone", "--sync-on-commit"),
                log=self._folder / "server.log",
            )
            self._daemon.wait_until(self._answers)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, so that nothing is written any more."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        name = f"ccdcgan_test_{secrets.token_hex(4)}"
        with pymongo.MongoClient[dict[str, Any]](self.uri) as client:
            try:
                yield Database(self.uri, name, client[name])
            finally:
                # For a test that failed while the server was down.
                self.start()
                client.drop_database(name)

    def _answers(self) -> bool:
        with pymongo.MongoClient[dict[str, Any]](self.uri, serverSelectionTimeoutMS=500) as client:
            try:
                return bool(client.admin.command("ping"))
            except PyMongoError:
                return False

    def _end(self, how: signal.Signals) -> None:
        if self._daemon:
            self._daemon.end(how)
        atexit.unregister(self.kill)


#: Two cores seem eight, so that as many jobs run side by side.
SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
KillWait=5
MinJobAge=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=short Nodes={host} MaxTime=5
PartitionName=closed Nodes={host} State=INACTIVE
"""


class Slurm:
    """Slurm of one node, for root: partitions ``main``, ``short`` (5 min) and ``closed``.

    Its commands find it where the environment variable SLURM_CONF is ``conf``.
    """

    PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")

    def __init__(self, folder: Path) -> None:
        # Resolved, as processes tell their folder.
        self.folder = folder.resolve()
        self.conf = self.folder / "slurm.conf"
        self._daemons: list[Daemon] = []
        self.conf.write_text(
            SLURM_CONF.format(
                # Slurm knows a node by the first part of its name.
                host=socket.gethostname().split(".")[0],
                folder=self.folder,
                controller_port=free_port(),
                node_port=free_port(),
            )
        )
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))

    @classmethod
    def lacks(cls) -> str:
        """What keeps Slurm from running here, if anything."""
        missing = [program for program in cls.PROGRAMS if not shutil.which(program)]
        if missing:
            return f"needs {', '.join(missing)} (apt-get install slurm-wlm munge)"
        return "" if os.geteuid() == 0 else "Slurm's daemons need root"

    def start(self) -> None:
        """Start, and wait until jobs can run."""
        atexit.register(self.stop)
        socket_file = self.folder / "munge.socket"
        # Munge of its own, whatever else runs here; forced, as it doubts folders below /tmp.
        self._begin(
            *("munged", "--foreground", "--force", "--socket", socket_file),
            *("--key-file", self.folder / "munge.key", "--seed-file", self.folder / "munge.seed"),
            *("--pid-file", self.folder / "munged.pid"),
        ).wait_until(socket_file.exists)
        self._begin("slurmctld", "-D")
        self._begin("slurmd", "-D").wait_until(
            lambda: self.run("sinfo", "-h", "-p", "main", "-o", "%T").stdout.strip() == "idle"
        )

    def stop(self) -> None:
        if self._daemons and all(daemon.runs for daemon in self._daemons):
            with contextlib.suppress(TimeoutError):
                self.clear()
        for daemon in reversed(self._daemons):
            daemon.end()
        self._daemons = []
        kill_processes(lambda process: self._in_job(process) or self._is_step(process))
        # Only now: a second Ctrl-C may have cut this short.
        atexit.unregister(self.stop)

    def clear(self) -> None:
        """End all jobs, at once and with all that they began."""
        self.run("scancel", "--user=root")

        def gone() -> bool:
            kill_processes(self._in_job)
            queue = self.run("squeue", "-h")
            return queue.returncode == 0 and not queue.stdout

        wait_until(gone, "empty queue", 20)

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(c) for c in command],
            env={**os.environ, "SLURM_CONF": str(self.conf)},
            capture_output=True,
            text=True,
            check=False,
        )

    def _begin(self, *command: str | Path) -> Daemon:
        log = self.folder / f"{command[0]}.out"
        daemon = Daemon(*command, log=log, env={"SLURM_CONF": str(self.conf)})
        self._daemons.append(daemon)
        return daemon

    def _in_job(self, process: psutil.Process) -> bool:
        # By the environment, which is kept by those that left their job's session and parent.
        environ = process.environ()
        return environ.get("SLURM_CONF") == str(self.conf) and "SLURM_JOB_ID" in environ

    def _is_step(self, process: psutil.Process) -> bool:
        return bool(process.name() == "slurmstepd" and process.cwd() == str(self.folder))
