"""Walltimes, as each kind of queue takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ccdcgan.launchers.cluster.settings import Cluster, Queue, Worker

#: Forms of a walltime by kind of queue: days, hours, minutes and seconds.
FORMS: Mapping[str, str] = {
    "SLURM": "m m:s h:m:s d-h d-h:m d-h:m:s",
    "PBS": "s m:s h:m:s d:h:m:s",
    "SGE": "s h:m:s",
    "Cobalt": "m h:m:s",
    "LoadLeveler": "s m:s h:m:s",
    "LoadSharingFacility": "m h:m",
    "MOAB": "s m:s h:m:s d:h:m:s",
}

#: Seconds of the units in them.
UNITS: Mapping[str, int] = {"d": 86400, "h": 3600, "m": 60, "s": 1}

#: Walltimes without an end, in lower case; nought is one of Slurm.
ENDLESS = {"", "0", "unlimited", "infinite", "infinity"}


def walltime_seconds(queue: Queue) -> int | None:
    """Seconds of a queue's ``walltime``; None without an end, or in no form of the queue's."""
    text = _walltime(queue)
    if text.lower() in ENDLESS:
        return None
    # Grid Engine's may leave out noughts.
    text = re.sub(r"(?<!\d)(?=:)|(?<=:)(?!\d)", "0", text)
    shape = re.sub(r"\d+", "#", text)
    for form in FORMS[queue.type].split():
        if re.sub(r"\w", "#", form) == shape:
            units = re.findall(r"\w", form)
            numbers = map(int, re.findall(r"\d+", text))
            return sum(n * UNITS[unit] for n, unit in zip(numbers, units, strict=True))
    return None


def unclear_walltimes(cluster: Cluster) -> Iterator[str]:
    """A line for each class whose workers cannot know when their queue jobs end."""
    workers: dict[str, Worker] = {str(n): w for n, w in cluster.workers.items()}
    for name, worker in workers.items():
        queue, text = worker.queue, _walltime(worker.queue)
        if text.lower() not in ENDLESS and walltime_seconds(queue) is None:
            forms = ", ".join(FORMS[queue.type].split())
            yield (
                f"{name} queue: walltime {text!r} is none of {queue.type}'s ({forms}): "
                "its workers do not know when they end"
            )


def _walltime(queue: Queue) -> str:
    return str(queue.parameters.get("walltime", "")).strip()
