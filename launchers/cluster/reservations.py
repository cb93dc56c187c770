"""Jobs that ``qlaunch -r`` has reserved for a queue job of their own, which is gone."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster.failed_jobs import age
from ccdcgan.launchers.cluster.launchpad import Pad, Query
from ccdcgan.launchers.cluster.scheduler import scheduler_of
from ccdcgan.launchers.cluster.settings import Cluster, Worker


def reserved_in_vain(pad: Pad, cluster: Cluster, query: Query) -> Iterator[tuple[int, int]]:
    """Numbers of jobs and of their launches, where nothing will ever begin them.

    A reservation in the queue of another cluster is left alone: its number means nothing here.
    """
    reserved = pad.fireworks.find(
        {**query, "state": "RESERVED", "launches": {"$ne": []}},
        {"fw_id": 1, "launches": 1, "spec._fworker": 1},
    )
    for job in reserved:
        launch = pad.launches.find_one({"launch_id": job["launches"][-1], "state": "RESERVED"})
        history = (launch or {}).get("state_history") or [{}]
        since = history[-1].get("updated_on") or history[-1].get("created_on")
        if launch is None or since is None or age(since) <= cluster.lost_after:
            continue
        number = history[-1].get("reservation_id")
        name = str(job["spec"].get("_fworker")).partition("-")[0]
        workers: dict[str, Worker] = {str(n): w for n, w in cluster.workers.items()}
        # Without a number qlaunch ended before its queue job was there.
        if number is None or (
            _here(launch.get("host")) and name in workers and _gone(workers[name], str(number))
        ):
            yield job["fw_id"], launch["launch_id"]


def _here(host: str | None) -> bool:
    """Whether a host is this one or, by its name, another login node of the same cluster."""
    return re.sub(r"\d+", "", host or "") == re.sub(r"\d+", "", socket.gethostname())


def _gone(worker: Worker, number: str) -> bool:
    """Whether the queue neither lists a job nor knows it as one that waits or runs."""
    scheduler = scheduler_of(worker.queue)
    try:
        return number not in scheduler.jobs() and scheduler.is_over(number) is not False
    except UserError:
        # No queue here, or one that is away.
        return False
