"""What single jobs ask of the queue: another partition, more memory, time or nodes than others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import shown, validated
from ccdcgan.launchers.cluster.files import write_class
from ccdcgan.launchers.cluster.launchpad import Pad, can_run
from ccdcgan.launchers.cluster.settings import Cluster, Queue, Worker
from ccdcgan.launchers.cluster.walltime import walltime_seconds
from ccdcgan.workflows.campaign import Campaign

#: Values that go into the script of a queue job as they are: no shell takes them for more.
VALUE = re.compile(r"[\w.,:+=@/%-]{1,200}", re.ASCII)


def require_time(campaign: Campaign, worker: Worker) -> None:
    """See whether a run of VASP can begin in the queue's time.

    Raises
    ------
    UserError
        None can: each job would hand on to the next without end.
    """
    seconds = walltime_seconds(worker.queue)
    for relaxation in campaign.relaxations.values():
        engine = relaxation.engine
        if not isinstance(engine, VaspEngine) or seconds is None:
            continue
        if seconds <= 2 * engine.buffer:
            raise UserError(
                f"no run of VASP begins in a queue time of {seconds / 60:g} min, as none does in "
                f"the last {2 * engine.buffer / 60:g} min (twice engine.buffer): raise "
                "workers.dft.queue.walltime, or lower engine.buffer"
            )


def parse_queue(settings: Sequence[str], worker: Worker) -> dict[str, str]:
    """Parameters of a queue given as ``mem=64G``.

    Raises
    ------
    UserError
        One has no value, or the template of the class's queue does not know it.
    """
    found: dict[str, str] = {}
    for text in settings:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise UserError(f"--queue {text!r}: write it as mem=64G")
        found[key] = value
    with_parameters(worker, found)
    return found


def with_parameters(worker: Worker, parameters: Mapping[str, object]) -> Worker:
    """A class with other parameters of its queue.

    Raises
    ------
    UserError
        The template does not know one, or a value is none that a script can have.
    """
    for key, value in parameters.items():
        if not isinstance(value, str) or not VALUE.fullmatch(value):
            raise UserError(f"queue: {key} cannot be {shown(value)}")
        if key in {"type", "template"}:
            raise UserError(f"queue: {key} belongs to the class of workers in my_fireworks.yaml")
    data = {**worker.queue.model_dump(), **parameters}
    queue = validated(Queue, data, "queue")
    return worker.model_copy(update={"queue": queue})


def special_classes(
    pad: Pad, cluster: Cluster, config: Path, name: str, say: Callable[[str], None]
) -> Iterator[tuple[str, Worker]]:
    """Classes whose jobs ask more of the queue than those of another class.

    Their files are written.

    Parameters
    ----------
    name
        Of the class that they ask more than.
    say
        Told of jobs whose wishes cannot be met.

    Yields
    ------
    Each that has jobs to run.
    """
    workers: dict[str, Worker] = {str(n): w for n, w in cluster.workers.items()}
    query = {"spec._queueadapter": {"$exists": True}, **can_run(pad)}
    fields = {"fw_id": 1, "spec._fworker": 1, "spec._queueadapter": 1}
    wishes = {str(j["spec"].get("_fworker")): j for j in pad.fireworks.find(query, fields)}
    for special, job in wishes.items():
        # A name of a folder that comes from a database.
        if not re.fullmatch(rf"{name}-[0-9a-f]{{8}}", special):
            continue
        asked = job["spec"]["_queueadapter"]
        try:
            worker = with_parameters(workers[name], asked if isinstance(asked, dict) else {})
        except UserError as error:
            say(f"job {job['fw_id']} is not launched: {error}")
            continue
        write_class(cluster, config, special, worker)
        yield special, worker
