"""What ``ccdcgan check`` tests of workers: a job through each class tells what it finds."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any
from uuid import uuid4

import jobflow
from jobflow import job
from jobflow.managers.fireworks import flow_to_workflow
from pydantic import BaseModel, Field
from pymongo.errors import PyMongoError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.variables import variables
from ccdcgan.launchers.check.check import engine_findings, folder_finding, versions
from ccdcgan.launchers.check.cluster import Parts
from ccdcgan.launchers.check.findings import Finding, tried
from ccdcgan.launchers.cluster.database import explain
from ccdcgan.launchers.cluster.failed_jobs import failures
from ccdcgan.launchers.cluster.files import write_files
from ccdcgan.launchers.cluster.launchpad import (
    QUEUE_JOBS,
    Pad,
    prepare,
)
from ccdcgan.launchers.cluster.queue_jobs import job_name, last_words, write_script
from ccdcgan.launchers.cluster.scheduler import Scheduler, scheduler_of
from ccdcgan.launchers.cluster.settings import Cluster, Worker
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.jobs import worker_class
from ccdcgan.workflows.storage.stores import DATA, PHASES, RESULTS

#: Timeout of workers that have done their jobs, s.
LEAVING = 30.0

#: Looks in a row at which a queue job is not in the queue, until it counts as gone.
GONE = 2

#: Interval between two looks at the queue, s.
POLL = 2.0


@dataclass
class _Sent:
    """A job of ours on its way through a queue."""

    name: str
    uuid: str
    fw_id: int
    scheduler: Scheduler
    folder: Path
    job_id: str
    signed: str
    at: float = field(default_factory=time)
    gone: int = 0
    over: bool = False


def worker_findings(
    cluster: Cluster, campaign: Campaign, parts: Parts, timeout: float
) -> Iterator[Finding]:
    """Send a job through each worker class and tell what it finds where it runs.

    Parameters
    ----------
    parts
        What `cluster_findings` has found.
    timeout
        Seconds to wait for all of them.
    """
    pad = parts.pad
    if pad is None or parts.obstacle:
        yield Finding("note", f"workers: not tested: {parts.obstacle}")
        return
    run = f"check-{uuid4().hex[:8]}"
    home = cluster.root / "launches" / run
    sent: list[_Sent] = []
    good = True
    try:
        prepare(pad, cluster)
        # They end with their one job, and leave those of others alone.
        workers = {n: w.model_copy(update={"idle": 0.0}) for n, w in cluster.workers.items()}
        write_files(cluster.model_copy(update={"workers": workers}), home / "config", run)
        for name, worker in workers.items():
            if name not in parts.queues:
                yield Finding("note", f"{name} worker: not tested: its queue does not answer")
                continue
            try:
                sent.append(_send(pad, campaign, name, worker, run, home))
            except UserError as error:
                good = False
                yield Finding("missing", f"{name} worker: {error}")
        if sent:
            numbers = ", ".join(f"{one.job_id} ({one.name})" for one in sent)
            yield Finding(
                "ok", f"queue jobs {numbers} are submitted; waiting up to {timeout:g} s for them"
            )
        for found in _answers(pad, cluster, sent, timeout):
            good &= found.state != "missing"
            yield found
    except BaseException:
        good = False
        raise
    finally:
        _clean_up(pad, cluster, run, sent, home, good)


def _send(pad: Pad, campaign: Campaign, name: str, worker: Worker, run: str, home: Path) -> _Sent:
    made = inspect_worker(name, campaign.model_dump(mode="json"))
    made.config = worker_class(name)
    made.update_metadata({"campaign": run, "stage": "check"})
    workflow = flow_to_workflow(made, metadata={"campaign": run})
    pad.add_wf(workflow)
    signed = f"{run}-{name}"
    script = write_script(job_name(name), signed, worker, name, home / "config", home / name)
    scheduler = scheduler_of(worker.queue)
    job_id = scheduler.submit(script)
    fw_id = min(workflow.id_fw)
    return _Sent(name, made.uuid, fw_id, scheduler, script.parent, job_id, signed)


def _answers(
    pad: Pad, cluster: Cluster, sent: Sequence[_Sent], timeout: float
) -> Iterator[Finding]:
    end = monotonic() + timeout
    waiting = list(sent)
    while waiting:
        late = monotonic() >= end
        # First the queue: what a worker did before it left is in the database then.
        queues = _queue_lines(waiting)
        query = {"fw_id": {"$in": [one.fw_id for one in waiting]}}
        found = pad.fireworks.find(query, {"fw_id": 1, "state": 1})
        states = {firework["fw_id"]: firework["state"] for firework in found}
        for one in list(waiting):
            findings = list(_answer(pad, cluster, one, states.get(one.fw_id), queues))
            if late and not findings:
                said = queues.get(one.job_id, "nothing of it")
                findings.append(
                    Finding(
                        "missing",
                        f"{one.name} worker: no answer within {timeout:g} s; of queue job "
                        f"{one.job_id}, which was not cancelled, the queue says: {said}; "
                        f"{last_words(one.folder)}",
                    )
                )
            if findings:
                yield from findings
                waiting.remove(one)
        if waiting:
            sleep(POLL)


def _queue_lines(sent: Sequence[_Sent]) -> dict[str, str]:
    """What the queues say of jobs; of a queue that does not answer, just that."""
    lines: dict[str, str] = {}
    by_kind = {one.scheduler.kind: one.scheduler for one in sent}
    for kind, scheduler in by_kind.items():
        try:
            lines |= {number: job.said for number, job in scheduler.jobs().items()}
        except UserError as error:
            lines |= {one.job_id: str(error) for one in sent if one.scheduler.kind == kind}
    return lines


def _answer(
    pad: Pad, cluster: Cluster, one: _Sent, state: str | None, queues: dict[str, str]
) -> Iterator[Finding]:
    """What is known of a job that is over; nothing of one that is not."""
    if state == "COMPLETED":
        one.over = True
        yield from _report(cluster, one)
    elif state == "FIZZLED":
        one.over = True
        for failure in failures(pad, {"fw_id": one.fw_id}):
            yield Finding(
                "missing",
                f"{one.name} worker on {failure.host}: its job failed: {failure.reason} "
                f"({failure.folder})",
            )
    elif state == "READY":
        # A queue may need a moment to list a job.
        one.gone = 0 if one.job_id in queues else one.gone + 1
        if one.gone >= GONE:
            yield Finding(
                "missing",
                f"{one.name} worker: queue job {one.job_id} ended before it took its job: "
                f"{last_words(one.folder)}",
            )


def _report(cluster: Cluster, one: _Sent) -> Iterator[Finding]:
    with cluster.store_of("documents") as documents:
        found = documents.query_one({"uuid": one.uuid}, ["output"])
    if found is None:
        yield Finding("missing", f"{one.name} worker: its output is not among the documents")
        return
    report = WorkerReport.model_validate(found["output"])
    where = f"{one.name} worker on {report.host}"
    parts = [
        f"began after {max(0.0, report.began - one.at):.0f} s",
        f"{report.cpus} CPUs",
        f"{report.free_gb:.0f} GB free",
        f"Python {report.python}",
        *(f.text for f in report.findings if f.state == "ok"),
    ]
    yield Finding("ok", f"{where}: {', '.join(parts)}")
    for finding in report.findings:
        if finding.state != "ok":
            yield Finding(finding.state, f"{where}: {finding.text}")
    here = versions()
    others = [
        f"{name} {report.versions.get(name, 'none')} (here {here.get(name, 'none')})"
        for name in sorted({*here, *report.versions})
        if here.get(name) != report.versions.get(name)
    ]
    if others:
        yield Finding("note", f"{where}: other versions than here: {', '.join(others)}")


def _clean_up(
    pad: Pad, cluster: Cluster, run: str, sent: Sequence[_Sent], home: Path, good: bool
) -> None:
    """Remove what the jobs have left, but for what tells why one has failed."""
    with contextlib.suppress(PyMongoError), contextlib.redirect_stdout(io.StringIO()):
        for workflow in pad.workflows.find({"metadata.campaign": run}, {"nodes": 1}):
            pad.delete_wf(workflow["nodes"][0])
        pad.db[QUEUE_JOBS].delete_many({"_id": {"$in": [one.signed for one in sent]}})
        with cluster.store_of("documents") as documents:
            documents.remove_docs({"uuid": {"$in": [one.uuid for one in sent]}})
    end = monotonic() + LEAVING
    while still := [one for one in sent if one.job_id in _queue_lines([one])]:
        if monotonic() > end or not any(one.over for one in still):
            break
        sleep(POLL)
    # Where nothing was sent, the findings have said all.
    if (good or not sent) and not still:
        shutil.rmtree(home, ignore_errors=True)
    elif not still:
        # The address of the database is in there.
        shutil.rmtree(home / "config", ignore_errors=True)


class WorkerReport(BaseModel):
    """What a worker has where it runs."""

    host: str
    began: float = Field(description="When its job began, s since 1970.")
    python: str
    versions: dict[str, str] = Field(description="Of packages, by their names.")
    cpus: int
    free_gb: float
    findings: list[Finding]


@job
def inspect_worker(worker: str, campaign: dict[str, object]) -> dict[str, object]:
    """A `WorkerReport` of where it runs.

    Parameters
    ----------
    worker
        Its class.
    campaign
        What it is to be fit for.
    """
    began = time()
    folder = variables().calculations.parent
    return WorkerReport(
        host=socket.gethostname(),
        began=began,
        python=platform.python_version(),
        versions=versions(),
        cpus=len(os.sched_getaffinity(0)),
        free_gb=shutil.disk_usage(folder).free / 1e9,
        findings=list(_of_worker(worker, Campaign.model_validate(campaign))),
    ).model_dump(mode="json")


def _of_worker(worker: str, campaign: Campaign) -> Iterator[Finding]:
    # Every calculation writes to them.
    for folder in (variables().calculations, variables().spool):
        if folder and (found := tried(partial(folder_finding, folder))).state != "ok":
            yield found
    store: Any = jobflow.CURRENT_JOB.store
    for name, key in ((RESULTS, "key"), (DATA, "key"), (PHASES, "uid")):
        try:
            store.additional_stores[name].query_one({key: "none"}, [key])
        except PyMongoError as error:
            yield Finding("missing", f"store {name}: {explain(error)}")
    if worker == "gpu":
        yield tried(_accelerators)
    if worker == "dft":
        yield from engine_findings(campaign)


def _accelerators() -> Finding:
    """What the networks would be trained on."""
    if os.environ.get("KERAS_BACKEND") == "jax":
        import jax

        names = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    else:
        try:
            import tensorflow as tf
        except ImportError:
            raise UserError("no TensorFlow: pip install 'ccdcgan[gpu]'") from None
        devices = [d for d in tf.config.list_physical_devices() if d.device_type != "CPU"]
        details = tf.config.experimental.get_device_details
        names = [details(d).get("device_name", d.name) for d in devices]
    if not names:
        return Finding("note", "no accelerator: training will take long")
    return Finding("ok", f"accelerators: {', '.join(names)}")
