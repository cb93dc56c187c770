"""Jobs: the class of worker that takes each, the stage that it belongs to, its place in a queue."""

from __future__ import annotations

import json
from collections.abc import Mapping

from jobflow import Job, JobConfig

from ccdcgan.dft.files import digest


def worker_class(name: str) -> JobConfig:
    """Job settings that route a job to a worker class (``dft``, ``gpu`` or ``light``)."""
    # Jobs that a job gives birth to keep their own class: jobflow would hand them their parent's.
    # FireWorks reads the first key, jobflow-remote the second.
    return JobConfig(
        expose_store=True,
        manager_config={"_fworker": name, "worker": name},
        pass_manager_config=False,
    )


def in_stage(job: Job, stage: str, inherit: bool = True) -> Job:
    """A job that knows its stage of the campaign, by which people see how far it is.

    Parameters
    ----------
    job, stage
        The job, and what it belongs to.
    inherit
        Whether jobs that it gives birth to belong to the stage as well.
    """
    job.update_metadata({"stage": stage}, dynamic=inherit)
    return job


def in_queue(job: Job, queue: Mapping[str, str] | None) -> Job:
    """A job that asks more of the queue than others of its class, if it does.

    It has a class of its own: a worker that has less must not take it.
    """
    if queue:
        mark = digest(json.dumps(sorted(queue.items())), 8)
        name = f"{job.config.manager_config['_fworker']}-{mark}"
        job.config.manager_config |= {"_fworker": name, "_queueadapter": dict(queue)}
    return job
