"""What ``ccdcgan run`` would do: what its sources bring, where results go, how long it may take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from functools import partial
from importlib.util import find_spec
from math import comb, factorial
from pathlib import Path

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.elements import library
from ccdcgan.dft.structures.sources import (
    MaterialsProjectSource,
    Prototype,
    RandomSource,
    Source,
    collect,
    materials_project,
)
from ccdcgan.dft.structures.spacegroups import require_pyxtal
from ccdcgan.launchers.check.findings import Finding, tried
from ccdcgan.launchers.wording import counted
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, taken_up
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.magnetism import require_magnets
from ccdcgan.workflows.propose import substituted
from ccdcgan.workflows.screening import require_fitting_groups
from ccdcgan.workflows.sections import SMALLEST_DATABASE
from ccdcgan.workflows.sources.registry import OWN, source_of

#: Seconds of one core for a relaxation, by each atom of the cell: measured with 7net-l3i5 and
#: D3(BJ) on prototypes of Bi-Se.
SECONDS_PER_ATOM = 0.3

#: Seconds of training and sampling a round with the preset quickstart on two cores.
TRAINING = 300.0

#: Crystals of which no more are compared with each other, which takes 15 ms each.
COMPARED = 300

#: Candidates of a smaller system, by which the guess counts.
OF_A_SMALLER_SYSTEM = 60


def source_findings(campaign: Campaign) -> Generator[Finding, None, int]:
    """Open each source, and count what would be relaxed.

    Returns
    -------
    Number of candidates of the system, at most; 0 where that cannot be told.
    """
    found: list[Prototype] = []
    notes: list[str] = []
    more, unknown, usable = 0, False, True
    for source in campaign.database.sources:
        finding = tried(partial(_source, source, campaign, found))
        usable &= finding.state != "missing"
        notes += [finding.text] if finding.state == "note" else []
        if isinstance(source, RandomSource):
            more += source.count * factorial(len(campaign.elements))
        unknown |= isinstance(source, MaterialsProjectSource)
        yield finding
    yield tried(partial(_proposals, campaign))
    yield from _magnets(campaign)
    if not usable:
        return 0
    try:
        most, text = _candidates(campaign, found, more, unknown)
    except UserError as error:
        yield Finding("missing", "; ".join([*notes, str(error)]))
        return 0
    # References are learnt from, too.
    if most < SMALLEST_DATABASE and not (unknown or campaign.references):
        yield Finding(
            "missing",
            f"{text}: training needs at least {SMALLEST_DATABASE} relaxed crystals of all "
            "elements: add prototype sources, widen database.filters or raise max_candidates",
        )
        return most
    yield Finding("ok", text)
    return most


def _source(source: Source, campaign: Campaign, found: list[Prototype]) -> Finding:
    """What one source brings; its prototypes join those that are found."""
    name = source.source
    if isinstance(source, RandomSource):
        require_pyxtal()
        crystals = counted(source.count, "crystal")
        return Finding("ok", f"source {name}: {crystals}, made when it runs")
    if isinstance(source, MaterialsProjectSource):
        # One crystal, to see whether the key is taken.
        list(materials_project(material_ids=["mp-149"]))
        return Finding("ok", f"source {name}: it answers; its crystals are loaded when it runs")
    chosen = campaign.database
    kept, rejected, skipped = collect(
        [source],
        chosen.filters,
        len(campaign.elements),
        campaign.seed,
        magnetic=campaign.relaxation.engine.is_magnetic,
    )
    found += kept
    left_out = Counter(rejected)
    if skipped:
        left_out["cannot be read"] = len(skipped)
    text = f"source {name}: {counted(len(kept), 'prototype')}"
    if left_out:
        text += f"; left out: {', '.join(f'{n} {reason}' for reason, n in left_out.items())}"
    if skipped:
        text += f", the first is {skipped[0].id}: {skipped[0].reason}"
    return Finding("note" if skipped or not kept else "ok", text)


def _proposals(campaign: Campaign) -> Finding:
    """Whether each source of candidates can be used here."""
    require_fitting_groups(campaign)
    for name in campaign.sources:
        if name == "random":
            require_pyxtal()
        elif name not in OWN:
            try:
                source_of(name)
            except ValueError as error:
                raise UserError(str(error)) from None
    return Finding("ok", f"proposals by {', '.join(campaign.sources)}")


def _magnets(campaign: Campaign) -> Iterator[Finding]:
    """Whether magnetic moments are of the system, and what is without them."""
    try:
        require_magnets(campaign)
    except UserError as error:
        yield Finding("missing", str(error))
    for name, relaxation in campaign.relaxations.items():
        engine, orders = relaxation.engine, relaxation.magnetic_orders
        magnets = [e for e in campaign.elements if engine.starting_moments.get(e)]
        if orders > 1 and magnets:
            yield Finding(
                "ok", f"{name}: {', '.join(magnets)} in up to {orders} magnetic orders of a crystal"
            )
        elif magnets and not (engine.is_potential or engine.may_be_magnetic):
            yield Finding(
                "note",
                f"{name}: {', '.join(magnets)} without spin: energies of magnets are too high",
            )


def _candidates(
    campaign: Campaign, found: list[Prototype], more: int, unknown: bool
) -> tuple[int, str]:
    """Candidates of the system, at most, and how to say it."""
    system, limit = "-".join(campaign.elements), campaign.database.max_candidates
    most = len(found) * factorial(len(campaign.elements)) + more
    if most <= COMPARED and not more and not unknown:
        number = len(substituted(campaign, found, Counter()))
        return number, f"candidates: {number} of {system}"
    if limit is not None:
        most = limit if unknown else min(most, limit)
    if not most and not unknown:
        # It says why.
        substituted(campaign, found, Counter())
    if unknown and limit is None:
        return most, f"candidates: {most} of {system}, and those of the Materials Project"
    return most, f"candidates: up to {most} of {system}"


def run_findings(campaign: Campaign, folder: Path, most: int) -> Iterator[Finding]:
    """Networks, the folder, and a guess of the time for so many candidates of the system."""
    if find_spec("tensorflow") is None:
        yield Finding("missing", "the networks need TensorFlow: pip install tensorflow")
    yield tried(partial(_place, campaign, folder))
    if most:
        yield _guess(campaign, most)


def _place(campaign: Campaign, folder: Path) -> Finding:
    there = taken_up(folder, campaign)
    above = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    if not above.is_dir():
        raise UserError(f"{above} is a file: choose another --workdir")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{above}: no permission to write: choose another --workdir")
    text = f"results go to {folder}"
    if not (stored := folder / CAMPAIGN_FILE).exists():
        return Finding("ok", f"{text}, which is new")
    changed = load_campaign(stored).changes(there)
    told = ", ".join(changed)
    return Finding("ok", f"{text}, which goes on" + (f" with another {told}" if told else ""))


def _guess(campaign: Campaign, most: int) -> Finding:
    n, chosen, loop = len(campaign.elements), campaign.database, campaign.loop
    smaller = sum(comb(n, k) for k in range(2, n))
    ends = n if chosen.elements == "own" else n * len(library(max(chosen.element_sites, 3)))
    each = min(chosen.max_candidates or OF_A_SMALLER_SYSTEM, OF_A_SMALLER_SYSTEM)
    first = most + ends + smaller * each
    later = loop.rounds * loop.relaxations
    rounds = counted(loop.rounds, "round")
    text = f"about {first} relaxations, and up to {later} in {rounds}"
    if (orders := campaign.relaxation.magnetic_orders) > 1:
        text += f", each in up to {orders} magnetic orders"
    if not campaign.relaxation.engine.is_potential:
        return Finding("note", f"{text}; their time by {campaign.relaxation.engine.name} is open")
    workers = campaign.workers or len(os.sched_getaffinity(0))
    atoms = 0.6 * min(chosen.filters.max_sites, 20)
    seconds = (first + later) * SECONDS_PER_ATOM * atoms / workers
    if campaign.networks.preset == "quickstart":
        seconds += loop.rounds * TRAINING
        text += ", with training"
    else:
        text += ", without training"
    return Finding("note", f"{text}: a guess of {_duration(seconds)} with {workers} at a time")


def _duration(seconds: float) -> str:
    """A time as rough as the guess."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{round(seconds / 3600)} hours"
