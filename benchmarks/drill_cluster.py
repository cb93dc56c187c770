"""The drill's campaigns on a cluster: a real Slurm of one node, and a database."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import psutil
from drill_campaign import Run
from services import MongoServer, Slurm

from ccdcgan.launchers.cluster.settings import load_cluster
from ccdcgan.workflows.storage.stores import RESULTS

SETTINGS = """\
folder: {root}
launchpad: {{database: {name}}}
stores:
  documents: {{database: {name}}}
  blobs: {{database: {name}}}
  results: {{database: {name}}}
heartbeat: {heartbeat}
patience: 300
workers:
  dft: {{idle: 60, queue: {{queue: main, walltime: "01:00:00"}}}}
  gpu: {{idle: 60, queue: {{queue: main, walltime: "01:00:00"}}}}
  light: {{idle: 60, queue: {{queue: main, walltime: "01:00:00"}}}}
"""

S = TypeVar("S", MongoServer, Slurm)

#: Interval of the workers' signs of life, s; four missed ones and a run counts as lost.
HEARTBEAT = 2.0
LOST_AFTER = 4 * HEARTBEAT


@dataclass
class Services:
    """The database and the queue of all runs on a cluster, while the drill runs."""

    folder: Path

    def __post_init__(self) -> None:
        self.stack = ExitStack()

    @cached_property
    def server(self) -> MongoServer:
        return self._started(MongoServer, "mongodb")

    @cached_property
    def slurm(self) -> Slurm:
        return self._started(Slurm, "slurm")

    def _started(self, kind: type[S], name: str) -> S:
        """A service that runs in a folder of its own until the stack is closed."""
        folder = self.folder / name
        folder.mkdir()
        service = kind(folder)
        service.start()
        self.stack.callback(service.stop)
        return service


@dataclass
class OnCluster(Run):
    """On a cluster: ``ccdcgan submit`` and ``ccdcgan launch``."""

    services: Services | None = None
    uri: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.services is not None
        self.server, self.slurm = self.services.server, self.services.slurm
        self.name = f"drill_{self.folder.name.replace('-', '_')}_{os.getpid()}"
        self.root = self.folder / "cluster"
        self.config = self.folder / "my_fireworks.yaml"
        text = SETTINGS.format(root=self.root, name=self.name, heartbeat=HEARTBEAT)
        self.config.write_text(text)
        self.environment["SLURM_CONF"] = str(self.slurm.conf)
        self.stack.callback(self.clear)

    def clear(self) -> None:
        """Empty queue and database."""
        self.slurm.clear()
        self.server.start()
        self.handle.client.drop_database(self.name)

    @property
    def handle(self) -> Any:
        import pymongo

        return pymongo.MongoClient[Any](self.server.uri)[self.name]

    def first(self) -> list[object]:
        return ["launch", "--poll", 1, "--config", self.config]

    def start(self) -> None:
        self.environment.setdefault("CCDCGAN_MONGODB_URI", self.uri or self.server.uri)
        if not (self.folder / "submitted").exists():
            code, said = self.command("submit", self.file, "--config", self.config)
            if code:
                raise RuntimeError(f"cannot submit: {said}")
            (self.folder / "submitted").touch()
        super().start()

    def is_complete(self) -> bool:
        jobs = self.handle.fireworks
        if jobs.count_documents({}) != jobs.count_documents({"state": "COMPLETED"}):
            return False
        shutil.rmtree(self.results_folder(), ignore_errors=True)
        words = ("fetch", self.file, "--workdir", self.results_folder(), "--config", self.config)
        code, said = self.command(*words)
        if code:
            self.said.append(said[-400:])
        return code == 0

    def act(self, said: str) -> None:
        if named := re.findall(r"ccdcgan (retry[a-z -]*)", said):
            words = named[-1].split()
            self.actions.append(f"ccdcgan {' '.join(words)}, then launch")
            self.command(*words, "--config", self.config)
        else:
            self.actions.append("launch again")
        self.start()

    def results_folder(self) -> Path:
        return self.folder / "results"

    def documents(self) -> list[dict[str, Any]]:
        with self._address():
            store = load_cluster(self.config).store_of(RESULTS)
            store.connect()
            return list(store.query({}))

    @contextlib.contextmanager
    def _address(self) -> Iterator[None]:
        before = os.environ.get("CCDCGAN_MONGODB_URI")
        os.environ["CCDCGAN_MONGODB_URI"] = self.server.uri
        try:
            yield
        finally:
            os.environ.pop("CCDCGAN_MONGODB_URI")
            if before is not None:
                os.environ["CCDCGAN_MONGODB_URI"] = before

    def workers(self) -> list[psutil.Process]:
        """Processes that have signed in as workers of a class."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "worker" in words and "python" in words[0]:
                    found.append(process)
        return found

    def a_worker(self) -> psutil.Process | None:
        """One that does most at the moment, once there is one."""
        self.wait_for(self.workers)
        found = self.workers()
        return max(found, key=lambda p: p.cpu_percent(0.2), default=None)
