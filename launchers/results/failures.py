"""Structures that failed, and machines that could not compute: who, why and where."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maggma.core import Store

from ccdcgan.dft.engines.vasp.files import geometry
from ccdcgan.dft.engines.vasp.record import RECORD, read_record
from ccdcgan.launchers.workdir import campaign_of, embedded_store, relaxations_of
from ccdcgan.workflows.failures import FailedStructure

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.failed_jobs import Failure
    from ccdcgan.launchers.cluster.launchpad import Pad
    from ccdcgan.launchers.cluster.settings import Cluster

#: What of a relaxation document tells of its failure: all but its frames.
FIELDS = (
    *("key", "campaign", "origin", "initial_structure", "failure", "reason", "said", "attempts"),
    *("steps", "max_force", "folder", "host", "finished_at", "retry", "level_of_theory.engine"),
)


@dataclass(frozen=True)
class Wanted:
    """Which failures are meant.

    Attributes
    ----------
    text
        What class, reason, last words or origin contain, in upper or lower case.
    formula
        Reduced.
    campaigns
        Digests of campaigns, and names of their runs on the LaunchPad; None for all.
    """

    text: str | None = None
    formula: str | None = None
    campaigns: frozenset[str] | None = None

    def __call__(self, failure: FailedStructure) -> bool:
        said = f"{failure.kind} {failure.reason} {failure.said} {failure.origin}".lower()
        formulas = (None, failure.formula)
        return (self.text is None or self.text.lower() in said) and self.formula in formulas


def failures_of_folder(folder: Path, wanted: Wanted) -> list[FailedStructure]:
    """Failures of a campaign's folder.

    Raises
    ------
    UserError
        It holds no campaign.
    """
    campaign_of(folder)
    again = {f.key: f for f in waiting(folder / "calculations")}
    stored = _stored(relaxations_of(embedded_store(folder, read_only=True)), {})
    # One that failed and is tried again may have met a fault of the machine then.
    found = [f for f in stored if f.key not in again]
    return [f for f in (*found, *again.values()) if wanted(f)]


def failures_of_cluster(cluster: Cluster, pad: Pad, wanted: Wanted) -> list[FailedStructure]:
    """Failures of the campaigns of a cluster: of structures, and of jobs."""
    from ccdcgan.launchers.cluster.failed_jobs import asked_for, failures

    query, own = {}, {}
    if wanted.campaigns is not None:
        of_these = {"$in": sorted(wanted.campaigns)}
        query = {"spec.campaign": of_these}
        # What another campaign has asked for first is of that one's name.
        own = {"$or": [{"campaign": of_these}, {"key": {"$in": asked_for(pad, cluster, query)}}]}
    jobs = [_of_job(job, cluster.root / "calculations") for job in failures(pad, query)]
    waiting = {f.key for f in jobs if f.key}
    stored = _stored(relaxations_of(cluster.job_store()), own)
    return [f for f in (*(s for s in stored if s.key not in waiting), *jobs) if wanted(f)]


def _of_job(job: Failure, calculations: Path) -> FailedStructure:
    """A job that failed; what is known of its structure, if it names a calculation."""
    own = FailedStructure(
        kind="machine",
        formula=None,
        origin=f"job {job.fw_id}, {job.stage}",
        reason=job.reason,
        folder=job.folder,
        host=job.host,
        campaign=job.campaign,
        at=job.at,
    )
    named = re.search(r"calculations/([0-9a-f]{32})\b", job.reason)
    structure = named and _calculation(calculations / named[1])
    if not structure:
        return own
    return structure.model_copy(
        update={"origin": own.origin, "campaign": own.campaign, "at": own.at}
    )


def _stored(store: Store, own: Mapping[str, object]) -> Iterator[FailedStructure]:
    for document in store.query({"converged": False, **own}, list(FIELDS)):
        yield FailedStructure.of(document)


def waiting(calculations: Path) -> Iterator[FailedStructure]:
    """Calculations that wait for a machine to be mended."""
    for record in sorted(calculations.glob(f"*/{RECORD}")):
        if found := _calculation(record.parent):
            yield found


def _calculation(folder: Path) -> FailedStructure | None:
    """A calculation whose last run a machine has ended; None where none has."""
    attempts = read_record(folder)
    last = attempts[-1] if attempts else None
    if last is None or last.outcome != "stopped" or last.fault is None:
        return None
    start = geometry(folder / last.folder / "POSCAR")
    return FailedStructure(
        kind="machine",
        formula=None if start is None else start.composition.reduced_formula,
        origin=None,
        reason=last.reason or last.fault,
        said=last.said,
        runs=len(attempts),
        steps=sum(a.steps for a in attempts),
        folder=str(folder / last.folder),
        host=last.host,
        key=folder.name,
        waits=True,
    )
