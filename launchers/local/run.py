"""Campaigns on one machine: a folder with embedded stores, run, resumed and reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from jobflow import run_locally

from ccdcgan.dft.trusted import trust
from ccdcgan.launchers.check.check import require_ready
from ccdcgan.launchers.doing import told
from ccdcgan.launchers.results.outcome import write_results
from ccdcgan.launchers.results.reuse import folders_to_reuse, reuse
from ccdcgan.launchers.workdir import CALCULATIONS, embedded_store, open_workdir, relaxations_of
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Outcome
from ccdcgan.workflows.flow import InverseDesignMaker, RoundMaker
from ccdcgan.workflows.relax import RelaxMaker

#: How often a job of a DFT code takes as many structures as the campaign relaxes at a time.
TURNS = 10


def run_campaign(
    campaign: Campaign,
    folder: Path,
    others: Sequence[Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run a campaign, or what is left of it, and write its results into the folder.

    Parameters
    ----------
    others
        Folders of campaigns whose relaxations are taken by content key.
    say
        Gets a line for each of them.

    Returns
    -------
    Its results as they were written.
    """
    folder = folder.resolve()
    others = folders_to_reuse(others, folder)
    trust(campaign.trusted)
    campaign = campaign.completed()
    require_ready(campaign, folder)
    with open_workdir(folder, campaign) as campaign, told(folder):
        os.environ["CCDCGAN_CALCULATIONS"] = str(folder / CALCULATIONS)
        os.environ["CCDCGAN_CHECKPOINTS"] = str(folder / "checkpoints")
        os.environ["CCDCGAN_LOGS"] = str(folder / "logs")
        store = embedded_store(folder)
        for other in others:
            say(str(reuse(other, campaign, relaxations_of(store), folder / CALCULATIONS)))
        # Jobs run one after the other here: few of them wait for their slowest structure.
        relax = RelaxMaker(turns=TURNS)
        flow = InverseDesignMaker(relax=relax, rounds=RoundMaker(relax=relax)).make(campaign)
        flow.update_metadata({"campaign": campaign.digest()})
        run_locally(flow, store=store, log=False, root_dir=folder, raise_immediately=True)
        stored = store.get_output(flow.jobs[-1].uuid, which="last", load=True)
        outcome = Outcome.model_validate(stored)
        write_results(outcome, folder)
    return outcome
