"""Jobs of a moment, where workers can import them, in the shapes that a campaign has."""

from pathlib import Path
from typing import Any

from jobflow import Flow, Job, OnMissing, Response, job

from ccdcgan.workflows.jobs import in_stage, worker_class

LIGHT = worker_class("light")


@job(config=LIGHT)
def total(*numbers: int) -> int:
    return sum(numbers)


@job(config=LIGHT)
def total_once_mended(mended: str, message: str) -> int:
    """Fail with the message until somebody makes the file."""
    if not Path(mended).exists():
        raise RuntimeError(message)
    return 1


@job(config=LIGHT)
def spread(*numbers: int) -> Response[Any]:
    """Be replaced by one job for each number and one for their sum."""
    parts = [total(number) for number in numbers]
    end = total(*(part.output for part in parts))
    return Response(replace=Flow([*parts, end], output=end.output))


def staged(stage: str, *jobs: Job) -> list[Job]:
    return [in_stage(one, stage) for one in jobs]


def toys(*jobs: Job) -> Flow:
    """A flow with the same care for jobflow's own jobs as a campaign's."""
    flow = Flow(list(jobs))
    config = {"manager_config": {"_fworker": "light"}, "on_missing_references": OnMissing.ERROR}
    flow.update_config(config, name_filter="store_inputs")
    return flow


def tree(leaves: int, width: int) -> Flow:
    """Leaves, one job for every few of them, and one for all."""
    first = staged("leaves", *(total(i) for i in range(leaves)))
    outputs = [one.output for one in first]
    parts = [outputs[i : i + width] for i in range(0, leaves, width)]
    second = staged("sums", *(total(*part) for part in parts))
    return toys(*first, *second, *staged("end", total(*(one.output for one in second))))
