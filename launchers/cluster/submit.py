"""Campaigns on the LaunchPad: submitted once, found by name, their results fetched."""

from __future__ import annotations

import contextlib
import getpass
import socket
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jobflow.managers.fireworks import flow_to_workflow
from maggma.core import Sort
from pydantic import ValidationError
from pymongo.errors import DuplicateKeyError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.references import load_references
from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, Pad, connect, now, ping, prepare
from ccdcgan.launchers.cluster.queue import require_time
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.launchers.local.workdir import open_workdir
from ccdcgan.workflows.campaign import Campaign, load_campaign, parse_campaign
from ccdcgan.workflows.documents import Phase

#: Seconds after which a submission that was begun and not finished is taken over.
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
    before
        An earlier one that did more or less of the same: what it has relaxed is taken as it is.
    """

    campaign: str
    jobs: int
    before: str | None = None


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
    load_references(campaign.references, campaign.elements)
    campaign = as_begun(pad, campaign).completed()
    if campaign.trusted:
        # Whom one user trusts is nobody else's.
        campaign = campaign.model_copy(update={"trusted": ()})
    require_time(campaign, cluster.workers["dft"])
    for store in (cluster.stores.documents, cluster.stores.blobs, cluster.stores.results):
        ping(store)
    for relaxation in campaign.relaxations.values():
        # What is not a matter of the machine: VASP need not be where jobs are submitted.
        if relaxation.engine.is_potential:
            relaxation.engine.check(campaign.elements)
    # Keras takes seconds to import, and only this needs it.
    from ccdcgan.workflows.flow import InverseDesignMaker

    prepare(pad, cluster)
    run = _claim(pad, campaign, name, again)
    flow = InverseDesignMaker().make(campaign)
    flow.update_metadata({"campaign": run})
    workflow = flow_to_workflow(flow, metadata={"campaign": run})
    # The job whose output is the campaign's outcome; noted first, for a submission that is killed.
    pad.db[CAMPAIGNS].update_one({"_id": run}, {"$set": {"outcome": flow.jobs[-1].uuid}})
    pad.add_wf(workflow)
    pad.db[CAMPAIGNS].update_one({"_id": run}, {"$set": {"submitted": True}})
    return Submitted(run, len(workflow.id_fw), _before(pad, campaign))


def _before(pad: Pad, campaign: Campaign) -> str | None:
    """Name of the latest campaign that differs from this one in what is done more or less alone."""
    digest = campaign.digest()
    return next((str(d["_id"]) for d in alike(pad, campaign) if d["digest"] != digest), None)


def alike(pad: Pad, campaign: Campaign) -> list[dict[str, Any]]:
    """Documents of submitted campaigns that are this one but for what is done more or less.

    The latest first.
    """
    found = []
    system = {"system": "-".join(campaign.elements)}
    for document in pad.db[CAMPAIGNS].find(system).sort("claimed", -1):
        # One of another version need not be readable.
        with contextlib.suppress(UserError):
            begun = parse_campaign(document["settings"], "")
            if document["digest"] == campaign.digest() or not begun.differences(campaign):
                found.append(dict(document))
    return found


def as_begun(pad: Pad, campaign: Campaign) -> Campaign:
    """The campaign as it was submitted by earlier versions, if it was."""
    # Before 0.2 the paths of references were part of the digest as they are here.
    whole = campaign.model_copy(update={"written": {}}) if campaign.written else None
    for before in (*campaign.as_begun_before(), whole):
        if before and pad.db[CAMPAIGNS].find_one({"digest": before.digest()}, {"_id": 1}):
            return before
    return campaign


def _claim(pad: Pad, campaign: Campaign, name: str, again: bool) -> str:
    """The name of this run of the campaign, now ours alone."""
    campaigns = pad.db[CAMPAIGNS]
    digest = campaign.digest()
    number = 1
    while True:
        run = digest if number == 1 else f"{digest}-{number}"
        claim: dict[str, Any] = {
            "_id": run,
            "digest": digest,
            "name": name,
            "system": "-".join(campaign.elements),
            "rounds": campaign.loop.rounds,
            "settings": campaign.model_dump(mode="json"),
            "version": metadata.version("ccdcgan"),
            "submitted_by": f"{getpass.getuser()}@{socket.gethostname()}",
            "submitted_at": now(),
            "claimed": time.time(),
            "submitted": False,
        }
        try:
            campaigns.insert_one(claim)
        except DuplicateKeyError:
            found = campaigns.find_one({"_id": run}) or claim
        else:
            return run
        unfinished = not found["submitted"] and not pad.workflows.find_one(
            {"metadata.campaign": run}, {"_id": 1}
        )
        # One that was broken off before its jobs were there: whoever changes its time has it.
        if unfinished and found["claimed"] < time.time() - UNFINISHED:
            taken = campaigns.update_one(
                {"_id": run, "claimed": found["claimed"]}, {"$set": {"claimed": time.time()}}
            )
            if taken.modified_count:
                return run
        if not again:
            raise UserError(
                f"this campaign was submitted on {found['submitted_at']} by "
                f"{found['submitted_by']} as {run}: see ccdcgan status {run}, "
                "or submit it once more with --again"
            )
        number += 1


def find_campaign(pad: Pad, text: str) -> dict[str, Any]:
    """The document of a submitted campaign.

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
        found = list(campaigns.find({"digest": as_begun(pad, load_campaign(path)).digest()}))
        # The latest run of the same campaign.
        found = sorted(found, key=lambda d: str(d["submitted_at"]))[-1:]
    else:
        found = list(campaigns.find({"$or": [{"_id": text}, {"name": text}]}))
        if not found:
            found = [d for d in campaigns.find({}) if str(d["_id"]).startswith(text)]
    if not found:
        raise UserError(f"no campaign {text!r} was submitted: ccdcgan status lists them")
    if len(found) > 1:
        # Submitted once more after an earlier run: that one is meant no more.
        found.sort(key=lambda d: float(d["claimed"]), reverse=True)
        latest, *others = found
        same = {
            d["_id"] for d in alike(pad, parse_campaign(latest["settings"], str(latest["_id"])))
        }
        over = {"spec.campaign": {"$in": [d["_id"] for d in others]}, "state": {"$nin": OVER}}
        if all(d["_id"] in same for d in others) and not pad.fireworks.find_one(over, {"_id": 1}):
            return dict(latest)
        names = ", ".join(sorted(str(d["_id"]) for d in found))
        raise UserError(f"{text!r} is the name of several campaigns: choose one of {names}")
    return dict(found[0])


def fetch(name: str, cluster: Cluster, folder: Path) -> dict[str, Any]:
    """Write the result files of a campaign that is done, as ``ccdcgan run`` does.

    Returns
    -------
    The campaign's outcome.

    Raises
    ------
    UserError
        The campaign is unknown or not done, or the folder holds something else.
    """
    # It takes Keras along.
    from ccdcgan.launchers.local.run import write_results

    found = find_campaign(connect(cluster), name)
    for database in (cluster.stores.documents, cluster.stores.blobs):
        ping(database)
    store = cluster.job_store()
    store.connect()
    # Not jobflow's get_output, which imports what the data name.
    output = store.query_one(
        {"uuid": found.get("outcome")}, ["output"], sort={"index": Sort.Descending}, load=True
    )
    if output is None:
        raise UserError(f"campaign {found['_id']} is not done: see ccdcgan status {found['_id']}")
    outcome: dict[str, Any] = output["output"]
    try:
        for phase in outcome["phases"]:
            Phase.model_validate(phase)
    except (KeyError, TypeError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else repr(error)
        raise UserError(
            f"the results of campaign {found['_id']} in the database are damaged ({what}): "
            "submit it once more with --again"
        ) from None
    campaign = parse_campaign(found["settings"], str(found["_id"]))
    # A database says nothing of whom to trust.
    with open_workdir(folder, campaign.model_copy(update={"trusted": ()})):
        write_results(outcome, folder)
    return outcome
