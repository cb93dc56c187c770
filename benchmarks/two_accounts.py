"""Two people of one cluster, each with an account, a launcher and a limit of queue jobs.

    sudo python benchmarks/two_accounts.py WORK [--minutes 30] [--limit 3]

Starts a Slurm of one node and a database in WORK, and as each of two accounts, which are made if
they are not there (ccdcgan-ann, ccdcgan-bob), submits a flow of jobs that wait, every four minutes,
and lets `ccdcgan launch` run it with so many queue jobs at a time. Twice a second the queue is
asked how many jobs each account has. WORK and this Python must be within reach of other accounts.

What it saw is kept in benchmarks/two_accounts/results.json and printed: the most queue jobs of each
account, the looks at which it had more than its limit, the jobs done, those done more than once,
and the lines of the launchers, with their numbers left out.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jobflow import Flow, job
from pymongo import MongoClient

from ccdcgan.workflows.jobs import worker_class

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "two_accounts" / "results.json"
ACCOUNTS = ("ccdcgan-ann", "ccdcgan-bob")

#: Jobs of a flow, beside the one at its end; seconds of each; seconds between two flows.
JOBS, SECONDS, EVERY = 24, 20.0, 240.0

#: Seconds that the launchers have to end in, after the last flow.
PATIENCE = 900.0


@job(config=worker_class("light"))
def wait(seconds: float, *after: int) -> int:
    """One job more than those that it comes after, after a while."""
    time.sleep(seconds)
    return 1 + sum(after)


def submit(config: Path, seed: int) -> None:
    """Put a flow on the LaunchPad as if it were that of a campaign."""
    # By the name under which workers import them, not as those of a script.
    from two_accounts import wait

    from ccdcgan.launchers.cluster import submit as cluster
    from ccdcgan.launchers.cluster.settings import load_cluster
    from ccdcgan.workflows.campaign import Campaign
    from ccdcgan.workflows.flow import InverseDesignMaker

    first = [wait(SECONDS) for _ in range(JOBS)]
    flow = Flow([*first, wait(0.0, *(one.output for one in first))])
    with patch.object(InverseDesignMaker, "make", return_value=flow):
        cluster.submit(Campaign(seed=seed), f"flow-{seed}", load_cluster(config))


class Account:
    """One of the two, with a folder of its own."""

    def __init__(self, name: str, work: Path, uri: str, slurm: Path, limit: int) -> None:
        self.name = name
        self.folder = work / name
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            subprocess.run(["useradd", "--create-home", name], check=True)
            found = pwd.getpwnam(name)
        self.folder.mkdir()
        database = {"database": "two_accounts"}
        worker = {"jobs": limit, "idle": 20, "queue": {"queue": "main", "walltime": "00:10:00"}}
        settings = {
            "folder": str(self.folder / "shared"),
            "launchpad": database,
            "stores": dict.fromkeys(("documents", "blobs", "results"), database),
            "heartbeat": 15,
            "trusted": ["two_accounts"],
            "workers": dict.fromkeys(("dft", "gpu", "light"), worker),
        }
        self.config = self.folder / "my_fireworks.yaml"
        self.config.write_text(json.dumps(settings))
        os.chown(self.folder, found.pw_uid, found.pw_gid)
        paths = (str(HERE), os.environ.get("PYTHONPATH", ""))
        self.environment = {
            "HOME": found.pw_dir,
            "LOGNAME": name,
            "USER": name,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "SLURM_CONF": str(slurm),
            "CCDCGAN_MONGODB_URI": uri,
        }
        self.log = self.folder / "launch.log"
        self.launcher: subprocess.Popen[bytes] | None = None
        self.ends: list[int] = []

    def command(self, *words: object) -> list[str]:
        given = [f"{name}={value}" for name, value in self.environment.items()]
        return ["runuser", "-u", self.name, "--", "env", "-i", *given, *map(str, words)]

    def submit(self, seed: int) -> None:
        words = (sys.executable, __file__, "--submit", self.config, seed)
        subprocess.run(self.command(*words), cwd=self.folder, check=True)

    def look_after(self) -> None:
        """Let a launcher run."""
        if self.launcher is None or self.has_ended():
            words = ("ccdcgan", "launch", "--config", self.config, "--poll", "3")
            with self.log.open("ab") as log:
                self.launcher = subprocess.Popen(
                    self.command(*words), cwd=self.folder, stdout=log, stderr=log
                )

    def has_ended(self) -> bool:
        if self.launcher is not None and (code := self.launcher.poll()) is not None:
            self.ends.append(code)
            self.launcher = None
        return self.launcher is None


def drive(work: Path, minutes: float, limit: int) -> dict[str, Any]:
    """Let both work for so long, and see what becomes of it."""
    from services import MongoServer, Slurm

    for name in ("slurm", "mongodb"):
        (work / name).mkdir(parents=True)
    slurm, server = Slurm(work / "slurm"), MongoServer(work / "mongodb")
    slurm.start()
    server.start()
    try:
        accounts = [Account(name, work, server.uri, slurm.conf, limit) for name in ACCOUNTS]
        most: Counter[str] = Counter()
        above: Counter[str] = Counter()
        looks = flows = 0
        start = last = time.monotonic()
        over = False
        while not over:
            now = time.monotonic()
            if now - start < 60 * minutes:
                if not flows or now - last > EVERY:
                    last = now
                    flows += 1
                    for number, account in enumerate(accounts):
                        account.submit(2 * flows + number)
                        account.look_after()
            else:
                over = all(account.has_ended() for account in accounts)
                if now - start > 60 * minutes + PATIENCE:
                    break
            queue = slurm.run("squeue", "-h", "-a", "-t", "PD,R,CF", "-o", "%u")
            counted = Counter(queue.stdout.split())
            looks += queue.returncode == 0
            for name, number in counted.items():
                most[name] = max(most[name], number)
                above[name] += number > limit
            time.sleep(0.5)
        with MongoClient[dict[str, Any]](server.uri) as client:
            handle = client["two_accounts"]
            states = Counter(one["state"] for one in handle.fireworks.find({}, {"state": 1}))
            runs = Counter(one["fw_id"] for one in handle.launches.find({}, {"fw_id": 1}))
    finally:
        slurm.run("scancel", *(f"--user={name}" for name in ACCOUNTS))
        slurm.stop()
        server.stop()
    lines = Counter(
        re.sub(r"/\S+|\d+", "…", line)
        for account in accounts
        for line in account.log.read_text(errors="replace").splitlines()
    )
    return {
        "minutes": minutes,
        "limit": limit,
        "looks": looks,
        "most": dict(sorted(most.items())),
        "above": sum(above.values()),
        "flows": 2 * flows,
        "states": dict(states),
        "run_twice": sum(number > 1 for number in runs.values()),
        "ends": {account.name: account.ends for account in accounts},
        "lines": dict(lines.most_common()),
    }


def main() -> int:
    """Drive both, keep and print what was seen."""
    if sys.argv[1:2] == ["--submit"]:
        submit(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--limit", type=int, default=3)
    asked = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    from services import Slurm

    if lacking := Slurm.lacks():
        print(lacking, file=sys.stderr)
        return 2
    found = drive(asked.work.resolve(), asked.minutes, asked.limit)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(found, indent=1, ensure_ascii=False))
    return 1 if found["above"] or found["run_twice"] else 0


if __name__ == "__main__":
    sys.exit(main())
