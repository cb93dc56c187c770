"""Jobs: the class of worker that takes each, the stage that it belongs to, its place in a queue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from jobflow import Job, JobConfig, Response, job
from pydantic import BaseModel, validate_call

from ccdcgan.dft.files import digest


def worker_class(name: str) -> JobConfig:
    """Job settings that route a job to a worker class (``dft``, ``gpu`` or ``light``)."""
    # Jobs that a job adds keep their own class: jobflow would hand them their parent's.
    # FireWorks reads the first key, jobflow-remote the second.
    return JobConfig(
        expose_store=True,
        manager_config={"_fworker": name, "worker": name},
        pass_manager_config=False,
    )


#: What a job gives: a document, several, or what replaces it.
Document = BaseModel | Sequence[BaseModel] | Response[Any]


def document_job(
    worker: str, data: str | list[str] | None = None
) -> Callable[[Callable[..., Document]], Callable[..., Job]]:
    """A job whose arguments and output are documents, which travel as plain dictionaries.

    What the function is given is validated by its annotations. jobflow's ``output_schema`` would
    store the names of our classes beside the values, and import what a database names.

    Parameters
    ----------
    worker
        Class of workers that takes it.
    data
        Fields of the output that go into the store of large results.
    """

    def decorate(function: Callable[..., Document]) -> Callable[..., Job]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            found = validate_call(function)(*args, **kwargs)
            if isinstance(found, Response):
                found.output = plain(found.output)
                return found
            return plain(found)

        large = {} if data is None else {"data": data}
        make = job(run, config=worker_class(worker), **large)

        # With `run` as its attribute, by which jobflow finds the method of a Maker.
        @wraps(make)
        def make_of_documents(*args: Any, **kwargs: Any) -> Job:
            return make(*map(plain, args), **{name: plain(v) for name, v in kwargs.items()})

        return make_of_documents

    return decorate


def plain(value: Any) -> Any:
    """Documents, alone or in lists, as plain dictionaries; all else as it is."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value


def in_stage(job: Job, stage: str, inherit: bool = True) -> Job:
    """A job that knows its stage of the campaign, by which people see how far it is.

    Parameters
    ----------
    job, stage
        The job, and what it belongs to.
    inherit
        Whether jobs that it adds belong to the stage as well.
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
