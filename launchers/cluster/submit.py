"""Campaigns on the LaunchPad: submitted once, and found by name."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from jobflow.managers.fireworks import flow_to_workflow
from pymongo.errors import DuplicateKeyError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.references import load_references
from ccdcgan.launchers.cluster.folder import claim_folder
from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, Pad, connect, now, prepare
from ccdcgan.launchers.cluster.queue import require_time
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.launchers.cluster.submission import Submission
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.flow import InverseDesignMaker
from ccdcgan.workflows.magnetism import require_magnets
from ccdcgan.workflows.screening import require_fitting_groups

#: Timeout of a submission that was begun and not finished, s: then it is taken over.
UNFINISHED = 60.0

#: States of jobs for which nothing more is done.
OVER = ["COMPLETED", "DEFUSED", "ARCHIVED"]


@dataclass(frozen=True)
class Submitted:
    """What is on the LaunchPad now.

    Attributes
    ----------
    campaign, jobs
        The campaign's name there, and its number of jobs.
    before, unfinished
        An earlier one that did more or less of the same: what it has relaxed is taken as it is. And
        the number of its jobs that are not over yet.
    """

    campaign: str
    jobs: int
    before: str | None = None
    unfinished: int = 0


def submit(campaign: Campaign, name: str, cluster: Cluster, again: bool = False) -> Submitted:
    """Put the flow of a campaign on the LaunchPad.

    Parameters
    ----------
    campaign, name
        The campaign, and what people call it: the stem of its file.
    again
        Submit it even if it is there already; what was computed is not computed again.

    Raises
    ------
    UserError
        It is there already, its engine cannot treat an element, or the database is not ours.
    """
    pad = connect(cluster)
    claim_folder(cluster)
    load_references(campaign.references, campaign.elements)
    require_fitting_groups(campaign)
    require_magnets(campaign)
    campaign = as_begun(pad, campaign, name).completed()
    if campaign.trusted:
        # Whom one user trusts is nobody else's.
        campaign = campaign.model_copy(update={"trusted": ()})
    require_time(campaign, cluster.workers["dft"])
    for store in (cluster.stores.documents, cluster.stores.blobs, cluster.stores.results):
        store.ping()
    for relaxation in campaign.relaxations.values():
        # What is not a matter of the machine: VASP need not be where jobs are submitted.
        if relaxation.engine.is_potential:
            relaxation.engine.check(campaign.elements)
    prepare(pad, cluster)
    claim_folder(cluster)
    run = _claim(pad, campaign, name, again)
    flow = InverseDesignMaker().make(campaign)
    flow.update_metadata({"campaign": run})
    workflow = flow_to_workflow(flow, metadata={"campaign": run})
    # The job whose output is the campaign's outcome; noted first, for a submission that is killed.
    pad.db[CAMPAIGNS].update_one({"_id": run}, {"$set": {"outcome": flow.jobs[-1].uuid}})
    pad.add_wf(workflow)
    pad.db[CAMPAIGNS].update_one({"_id": run}, {"$set": {"submitted": True}})
    before = _before(pad, campaign)
    left = {"spec.campaign": before, "state": {"$nin": OVER}}
    unfinished = 0 if before is None else pad.fireworks.count_documents(left)
    return Submitted(run, len(workflow.id_fw), before, unfinished)


def _before(pad: Pad, campaign: Campaign) -> str | None:
    """Name of the latest campaign that differs from this one in what is done more or less alone."""
    digest = campaign.digest()
    return next((found.id for found in alike(pad, campaign) if found.digest != digest), None)


def alike(pad: Pad, campaign: Campaign) -> list[Submission]:
    """Submitted campaigns that are this one but for what is done more or less, the latest first."""
    system = {"system": "-".join(campaign.elements)}
    documents = pad.db[CAMPAIGNS].find(system).sort("claimed", -1)
    return [
        found
        for found in Submission.readable(documents)
        if found.digest == campaign.digest() or not found.campaign().differences(campaign)
    ]


def as_begun(pad: Pad, campaign: Campaign, name: str) -> Campaign:
    """The campaign as it was submitted by earlier versions, if it was.

    Less or more of it was that campaign, too, if people call it by the same name.
    """
    if pad.db[CAMPAIGNS].find_one({"digest": campaign.digest()}, {"_id": 1}):
        return campaign
    # Before 0.2 the paths of references were part of the digest as they are here.
    whole = campaign.model_copy(update={"written": {}}) if campaign.written else None
    earlier = [before for before in (*campaign.as_begun_before(), whole) if before is not None]
    for before in earlier:
        if pad.db[CAMPAIGNS].find_one({"digest": before.digest()}, {"_id": 1}):
            return before
    return next(
        (
            before
            for before in (campaign, *earlier)
            if any(found.name == name for found in alike(pad, before))
        ),
        campaign,
    )


def _claim(pad: Pad, campaign: Campaign, name: str, again: bool) -> str:
    """The name of this run of the campaign, now ours alone."""
    campaigns = pad.db[CAMPAIGNS]
    number = 1
    while True:
        claim = _submission(campaign, name, number)
        try:
            campaigns.insert_one(claim.stored())
        except DuplicateKeyError:
            stored = campaigns.find_one({"_id": claim.id})
            found = Submission.model_validate(stored) if stored else claim
        else:
            return claim.id
        unfinished = not found.submitted and not pad.workflows.find_one(
            {"metadata.campaign": found.id}, {"_id": 1}
        )
        # One that was broken off before its jobs were there: whoever changes its time has it.
        if unfinished and found.claimed < time.time() - UNFINISHED:
            taken = campaigns.update_one(
                {"_id": found.id, "claimed": found.claimed}, {"$set": {"claimed": time.time()}}
            )
            if taken.modified_count:
                return found.id
        if not again:
            raise UserError(
                f"this campaign was submitted on {found.submitted_at} by {found.submitted_by} as "
                f"{found.id}: see ccdcgan status {found.id}, or submit it once more with --again"
            )
        number += 1


def _submission(campaign: Campaign, name: str, number: int) -> Submission:
    digest = campaign.digest()
    return Submission(
        id=digest if number == 1 else f"{digest}-{number}",
        digest=digest,
        name=name,
        system="-".join(campaign.elements),
        rounds=campaign.loop.rounds,
        settings=campaign.model_dump(mode="json"),
        version=metadata.version("ccdcgan"),
        submitted_by=f"{getpass.getuser()}@{socket.gethostname()}",
        submitted_at=now(),
        claimed=time.time(),
        submitted=False,
    )


def find_campaign(pad: Pad, text: str) -> Submission:
    """A submitted campaign.

    Parameters
    ----------
    text
        Its file, its name on the LaunchPad or the beginning of that, or the stem of its file. Of
        several runs of one campaign the latest is meant, if the others are over.

    Raises
    ------
    UserError
        There is none, or more than one.
    """
    campaigns = pad.db[CAMPAIGNS]
    path = Path(text)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        found = list(
            campaigns.find({"digest": as_begun(pad, load_campaign(path), path.stem).digest()})
        )
        # The latest run of the same campaign.
        found = sorted(found, key=lambda d: str(d["submitted_at"]))[-1:]
    else:
        found = list(campaigns.find({"$or": [{"_id": text}, {"name": text}]}))
        if not found:
            found = [d for d in campaigns.find({}) if str(d["_id"]).startswith(text)]
    meant = list(Submission.whole(found))
    if not meant:
        raise UserError(f"no campaign {text!r} was submitted: ccdcgan status lists them")
    return meant[0] if len(meant) == 1 else _latest(pad, text, meant)


def require_own(submission: Submission) -> None:
    """See that nobody else has submitted a campaign.

    Raises
    ------
    UserError
        Somebody has.
    """
    if _is_of_others(submission.submitted_by):
        raise UserError(
            f"campaign {submission.id} was submitted by {submission.submitted_by}: leave it to "
            "them, or add --others"
        )


def of_others(pad: Pad) -> list[str]:
    """Names of the campaigns that others have submitted."""
    documents = pad.db[CAMPAIGNS].find({}, {"submitted_by": 1})
    return [d["_id"] for d in documents if _is_of_others(str(d.get("submitted_by", "")))]


def _is_of_others(submitted_by: str) -> bool:
    return submitted_by.partition("@")[0] not in {"", getpass.getuser()}


def _latest(pad: Pad, text: str, found: Sequence[Submission]) -> Submission:
    """The latest of several runs of one campaign, submitted once more: no other is meant then."""
    latest, *others = sorted(found, key=lambda run: run.claimed, reverse=True)
    same = {run.id for run in alike(pad, latest.campaign())}
    over = {"spec.campaign": {"$in": [run.id for run in others]}, "state": {"$nin": OVER}}
    if all(run.id in same for run in others) and not pad.fireworks.find_one(over, {"_id": 1}):
        return latest
    names = ", ".join(sorted(run.id for run in found))
    raise UserError(f"{text!r} is the name of several campaigns: choose one of {names}")
