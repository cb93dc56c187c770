"""Structures that failed, tried again: their calculations and documents are prepared for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from maggma.core import Store

from ccdcgan.dft.engines.vasp.record import Tag, retry_calculation
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.tags import HARMLESS, check_incar
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import locked
from ccdcgan.dft.relaxation.key import is_content_key
from ccdcgan.dft.trusted import trust
from ccdcgan.launchers.results.failures import Wanted, failures_of_folder
from ccdcgan.launchers.wording import counted
from ccdcgan.launchers.workdir import (
    campaign_of,
    embedded_store,
    open_workdir,
    relaxations_of,
    taken_up,
)
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.failures import FailedStructure

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.launchpad import Pad
    from ccdcgan.launchers.cluster.settings import Cluster
    from ccdcgan.launchers.cluster.submission import Submission

#: States of jobs that run or will without anybody's help.
BUSY = ("READY", "RESERVED", "RUNNING", "PAUSED")


@dataclass(frozen=True)
class Again:
    """How structures are tried again.

    Attributes
    ----------
    incar
        Tags of VASP for these alone.
    start
        Whether they go on from the last sane geometry, or begin at the first one.
    queue
        What their jobs ask of the queue.
    """

    incar: dict[str, Tag] = field(default_factory=dict)
    start: Literal["last", "first"] = "last"
    queue: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Retried:
    """What was done.

    Attributes
    ----------
    structures
        How many are tried again.
    submitted
        Name of the run that was submitted for them, on a cluster.
    jobs
        How many jobs of the run that was there are run again.
    """

    structures: int = 0
    submitted: str | None = None
    jobs: int = 0


def campaign_in(folder: Path, file: Path | None) -> Campaign:
    """The campaign of a folder, or that of a file that the folder can go on with."""
    stored = campaign_of(folder)
    if file is None:
        return stored
    asked = load_campaign(file)
    trust(asked.trusted)
    return taken_up(folder, asked.completed())


def retry_in_folder(folder: Path, campaign: Campaign, wanted: Wanted, again: Again) -> Retried:
    """Prepare the failed structures of a folder; whoever runs its campaign tries them again."""
    # Held: what runs there must end first.
    with open_workdir(folder, campaign):
        found = failures_of_folder(folder, wanted)
        store = relaxations_of(embedded_store(folder))
        prepare_retry(store, folder.resolve() / "calculations", found, again)
    return Retried(len(found))


def retry_on_cluster(
    cluster: Cluster,
    pad: Pad,
    campaign: OnCluster,
    found: Sequence[FailedStructure],
    again: Again,
    only: str | None = None,
) -> Retried:
    """Prepare the failed structures of a campaign, and put on the LaunchPad what computes them.

    Where nothing but jobs has failed, by a fault of a machine, those are run again. Else the
    campaign is submitted once more, in place of what is left of its earlier run: what is there is
    taken as it is.

    Parameters
    ----------
    campaign
        Its settings are those of the new run.
    found
        What failed of it and is to be tried again.
    only
        What was asked for in the reasons: jobs that are run again have it, too.

    Raises
    ------
    UserError
        The campaign still has jobs to run, or a structure is being calculated.
    """
    from ccdcgan.launchers.cluster.recovery import change_states, mend
    from ccdcgan.launchers.cluster.submit import submit

    newest, settings, family = campaign
    jobs = {"spec.campaign": {"$in": sorted(family)}}
    busy = pad.fireworks.count_documents({**jobs, "state": {"$in": BUSY}})
    if busy:
        raise UserError(
            f"{newest.id} still has {counted(busy, 'job')} to run: try its structures again when "
            "it is done, or end it with ccdcgan cancel"
        )
    if again == Again() and all(f.kind == "machine" for f in found):
        failed = mend(pad, cluster, jobs, lost=False, failed=True, only=only).failed
        return Retried(len(failed), jobs=len(failed))
    prepare_retry(relaxations_of(cluster.job_store()), cluster.root / "calculations", found, again)
    for run in sorted(family):
        change_states(pad, run, ("WAITING", "FIZZLED"), "DEFUSED")
    done = submit(settings, newest.name, cluster, again=True)
    return Retried(len(found), done.campaign)


class OnCluster(NamedTuple):
    """A submitted campaign.

    Attributes
    ----------
    newest, settings
        Its newest run, and how it goes on.
    family
        All names of it: digests and runs of whatever differs from it in nothing that makes another
        campaign.
    """

    newest: Submission
    settings: Campaign
    family: frozenset[str]


def campaign_on(pad: Pad, name: str) -> OnCluster:
    """A campaign by its name as of `find_campaign`, or by a file, which gives its own settings."""
    from ccdcgan.launchers.cluster.submit import alike, as_begun, find_campaign

    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        settings = as_begun(pad, load_campaign(path), path.stem)
        runs = alike(pad, settings)
        if not runs:
            raise UserError(f"no campaign {name!r} was submitted: ccdcgan status lists them")
        newest = runs[0]
    else:
        newest = find_campaign(pad, name)
        settings = newest.campaign()
        runs = alike(pad, settings)
    family = frozenset(name for run in runs for name in (run.id, run.digest))
    return OnCluster(newest, settings, family)


def prepare_retry(
    store: Store, calculations: Path, failures: Sequence[FailedStructure], again: Again
) -> None:
    """Let structures be relaxed again when their campaign is run the next time.

    One under what is no content key is left as it is: its folder would lie elsewhere.

    Raises
    ------
    UserError
        One of them is being calculated; then nothing has been touched.
    """
    # What a machine has kept from its result keeps its step of the ladder, unless asked otherwise.
    chosen = [
        f for f in failures if is_content_key(f.key) and (f.kind != "machine" or again != Again())
    ]
    folders = [calculations / str(f.key) for f in chosen]
    for folder in folders:
        if folder.is_dir():
            with locked(folder / ".lock", f"{folder} is being calculated: wait for its end"):
                pass
    for folder in folders:
        retry_calculation(folder, again.incar, again.start, again.queue)
    store._collection.update_many(
        {"key": {"$in": [f.key for f in chosen]}, "converged": False}, {"$set": {"retry": True}}
    )


def parse_incar(settings: Sequence[str], campaign: Campaign) -> dict[str, Tag]:
    """Tags given as ALGO=Normal.

    Raises
    ------
    UserError
        One is no tag with a value, cannot work, or would change the energies.
    """
    found: dict[str, Tag] = {}
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
    try:
        check_incar(found)
    except ValueError as error:
        raise UserError(f"--incar {error}") from None
    engines = [relaxation.engine for relaxation in campaign.relaxations.values()]
    if found and not any(isinstance(engine, VaspEngine) for engine in engines):
        raise UserError("--incar is for campaigns whose engine is vasp")
    return found


def _value(text: str) -> Tag:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    words = {".true.": True, "true": True, "t": True, ".false.": False, "false": False, "f": False}
    return words.get(text.lower(), text)
