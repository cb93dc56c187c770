"""A campaign on an archive of relaxations in place of prototypes of its own.

    python benchmarks/paper_run.py CAMPAIGN --archive FILE --workdir FOLDER [--most N] [--seed N]

CAMPAIGN is a campaign file, as launchers/presets/paper-small.yaml, whose `relaxation` is the
archive's: of `paper_database.py`, or benchmarks/yield/relaxations.jsonl.gz. Its database are the
end members of the archive and `--most` of its prototypes, picked at random; what a network has
drawn is left out. Goes on where it was broken off, and leaves what `ccdcgan run` leaves: see
`ccdcgan paper-table FOLDER` and `ccdcgan figures FOLDER`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from jobflow import Flow, run_locally
from relaxation_archive import Archive

from ccdcgan.launchers.results.outcome import write_results
from ccdcgan.launchers.workdir import CALCULATIONS, embedded_store, open_workdir
from ccdcgan.workflows.campaign import Campaign, load_campaign, parse_campaign
from ccdcgan.workflows.conclude import conclude
from ccdcgan.workflows.documents import Claim, Outcome, RelaxationDocument
from ccdcgan.workflows.flow import RoundMaker
from ccdcgan.workflows.learn import AutoencoderMaker
from ccdcgan.workflows.outputs import ProposedOutput, RelaxedOutput
from ccdcgan.workflows.relax import RelaxMaker
from ccdcgan.workflows.storage.stores import RESULTS, Relaxations


def picked(archive: Archive, most: int | None, campaign: Campaign) -> list[RelaxationDocument]:
    """End members, and so many prototypes, of none of the compositions that are left out."""
    documents = sorted(archive.documents.values(), key=lambda d: d.key)
    elements = [d for d in documents if d.origin.kind == "element"]
    without = set(campaign.database.without)
    own = [
        d
        for d in documents
        if d.origin.kind == "prototype"
        and len(d.structure.composition) == len(campaign.elements)
        and d.initial_structure.composition.reduced_formula not in without
    ]
    order = np.random.default_rng(campaign.seed).permutation(len(own))
    return elements + [own[i] for i in order[:most]]


def run(campaign: Campaign, documents: list[RelaxationDocument], folder: Path) -> None:
    """All stages of a campaign but the first, whose results these are, in its folder."""
    with open_workdir(folder, campaign) as campaign:
        os.environ["CCDCGAN_CALCULATIONS"] = str(folder / CALCULATIONS)
        os.environ["CCDCGAN_CHECKPOINTS"] = str(folder / "checkpoints")
        os.environ["CCDCGAN_LOGS"] = str(folder / "logs")
        store: Any = embedded_store(folder)
        store.connect()
        relaxations = Relaxations(store.additional_stores[RESULTS])
        done = relaxations.done([d.key for d in documents])
        relaxations.add([d for d in documents if d.key not in done])
        entries = [Claim(key=d.key, origin=d.origin) for d in documents]
        autoencoder = AutoencoderMaker().make(entries, campaign)
        relax = RelaxMaker()
        rounds = RoundMaker(relax=relax).make(entries, autoencoder.output, campaign, 1, [])
        end = conclude(
            RelaxedOutput(entries=entries, seconds=sum(d.seconds or 0.0 for d in documents)),
            ProposedOutput(candidates=[], rejected={}, skipped=[], seconds=0.0),
            autoencoder.output,
            rounds.output,
            campaign,
        )
        flow = Flow([autoencoder, rounds, end], output=end.output)
        flow.update_metadata({"campaign": campaign.digest()})
        run_locally(flow, store=store, log=False, root_dir=folder, raise_immediately=True)
        stored = store.get_output(end.uuid, which="last", load=True)
        write_results(Outcome.model_validate(stored), folder)


def main() -> None:
    """Run a campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--most", type=int)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    campaign = load_campaign(options.campaign)
    if options.seed is not None:
        data = campaign.model_dump(mode="json", exclude_unset=True)
        campaign = parse_campaign({**data, "seed": options.seed}, "--seed")
    archive = Archive(options.archive, campaign.relaxation, campaign.elements)
    run(campaign, picked(archive, options.most, campaign), options.workdir.resolve())


if __name__ == "__main__":
    main()
