"""Structures that failed, and machines that could not compute: listed, and tried again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maggma.core import Store
from maggma.stores import MontyStore

from ccdcgan.dft.engines.vasp.record import RECORD, read_record, retry_calculation
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.tags import HARMLESS
from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.folder import CAMPAIGN_FILE, embedded_store
from ccdcgan.launchers.results import reduced_formula
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.failures import FailedStructure
from ccdcgan.workflows.stores import RESULTS

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster import Cluster
    from ccdcgan.launchers.launchpad import Pad

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
        What reason, last words or origin contain, in upper or lower case.
    formula
        In any multiple and order.
    campaign
        Digest.
    """

    text: str | None = None
    formula: str | None = None
    campaign: str | None = None

    def __call__(self, failure: FailedStructure) -> bool:
        formula = None if self.formula is None else reduced_formula(self.formula)
        said = f"{failure.reason} {failure.said} {failure.origin}".lower()
        return (
            (self.text is None or self.text.lower() in said)
            and formula in (None, failure.formula)
            and (self.campaign is None or failure.campaign in (None, self.campaign))
        )


def failures_of_folder(folder: Path, wanted: Wanted) -> list[FailedStructure]:
    """Failures of a campaign's folder.

    Raises
    ------
    UserError
        It holds no campaign.
    """
    campaign_of(folder)
    store = relaxations_of(embedded_store(folder))
    found = [*_stored(store), *_machines(folder / "calculations")]
    return [f for f in found if wanted(f)]


def failures_of_cluster(cluster: Cluster, pad: Pad, wanted: Wanted) -> list[FailedStructure]:
    """Failures of the campaigns of a cluster: of structures, and of jobs."""
    from ccdcgan.launchers.jobs import failures

    store = relaxations_of(cluster.job_store())
    query = {} if wanted.campaign is None else {"spec.campaign": wanted.campaign}
    jobs = [
        FailedStructure(
            kind="machine",
            formula=None,
            origin=f"job {job.fw_id}, {job.stage}",
            reason=job.reason,
            folder=job.folder,
            host=job.host,
            campaign=job.campaign,
            at=job.at,
        )
        for job in failures(pad, query)
    ]
    return [f for f in (*_stored(store, wanted.campaign), *jobs) if wanted(f)]


def relaxations_of(store: Any) -> Store:
    """The store of relaxations of a JobStore, connected."""
    found: Store = store.additional_stores[RESULTS]
    found.connect()
    return found


def campaign_of(folder: Path) -> Campaign:
    """The campaign of a folder.

    Raises
    ------
    UserError
        It holds none.
    """
    stored = folder / CAMPAIGN_FILE
    if not stored.exists():
        raise UserError(f"{folder} holds no campaign: name the --workdir of a ccdcgan run")
    return load_campaign(stored)


def prepare_retry(
    store: Store,
    calculations: Path,
    failures: Sequence[FailedStructure],
    incar: Mapping[str, Any],
    start: Literal["last", "first"],
) -> None:
    """Let failed structures be relaxed again when their campaign is run the next time.

    Parameters
    ----------
    calculations
        Folder of the calculations.
    incar
        Tags of VASP for these alone.
    start
        Whether they go on from the last sane geometry, or begin at the first one.
    """
    for failure in failures:
        assert failure.key is not None
        # First: a calculation that is running must not be touched, and says so.
        retry_calculation(calculations / failure.key, incar, start)
        store._collection.update_one({"key": failure.key}, {"$set": {"retry": True}})


def parse_incar(settings: Sequence[str], engine: object) -> dict[str, Any]:
    """Tags given as ALGO=Normal.

    Raises
    ------
    UserError
        One is no tag with a value, or would change the energies.
    """
    found: dict[str, Any] = {}
    for text in settings:
        tag, equals, value = (part.strip() for part in text.partition("="))
        tag = tag.upper()
        if not equals or not value or not re.fullmatch(r"[A-Z_]+", tag):
            raise UserError(f"--incar {text!r}: write it as ALGO=Normal")
        if tag not in HARMLESS:
            raise UserError(
                f"--incar {tag} changes the energy, which would be another level of theory than "
                f"the campaign's: without that, {', '.join(sorted(HARMLESS))} can be changed"
            )
        found[tag] = _value(value)
    if found and not isinstance(engine, VaspEngine):
        raise UserError("--incar is for campaigns whose engine is vasp")
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    words = {".true.": True, "true": True, "t": True, ".false.": False, "false": False, "f": False}
    return words.get(text.lower(), text)


def _stored(store: Store, campaign: str | None = None) -> Iterator[FailedStructure]:
    query: dict[str, Any] = {"converged": False}
    if campaign is not None:
        query["campaign"] = campaign
    # The embedded store cannot leave out parts of a document.
    fields = None if isinstance(store, MontyStore) else list(FIELDS)
    for document in store.query(query, fields):
        yield FailedStructure.of(document)


def _machines(calculations: Path) -> Iterator[FailedStructure]:
    """Calculations whose last run a machine has ended: they wait for it to be mended."""
    for record in sorted(calculations.glob(f"*/{RECORD}")):
        attempts = read_record(record.parent)
        last = attempts[-1] if attempts else None
        if last is None or last.outcome != "stopped" or last.fault is None:
            continue
        yield FailedStructure(
            kind="machine",
            formula=None,
            origin=None,
            reason=last.reason or last.fault,
            runs=len(attempts),
            steps=sum(a.steps for a in attempts),
            folder=str(record.parent / last.folder),
            host=last.host,
            key=record.parent.name,
            waits=True,
        )
