"""Runs of VASP that are there already, taken as results of a campaign; see `ccdcgan adopt`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, islice
from pathlib import Path

from pydantic import ValidationError

from ccdcgan.dft.engines.vasp.existing import (
    ExistingRun,
    Library,
    UnsuitableError,
    judge,
    read_folder,
)
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.task import potcar_specs, read_task
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.storage.stores import Relaxations

#: Files of which any marks the folder of a run, packed or not.
MARKS = ("vasprun.xml", "OUTCAR")

#: Runs that are held at a time.
BATCH = 100

#: Where a run lies, and how it is read.
Source = tuple[str, Callable[[], ExistingRun]]


@dataclass
class Adopted:
    """What has become of the runs.

    Attributes
    ----------
    taken, there
        Places of runs that are results now, and of those that are the results of structures which
        the campaign knows already, or of which another run has come to a lower energy.
    refused
        Places of the others, with the reasons.
    """

    taken: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.taken) + len(self.there) + len(self.refused)


def adopt(
    sources: Iterable[Source],
    campaign: Campaign,
    library: Library,
    store: Relaxations | None,
    dry_run: bool = False,
    total: int = 0,
) -> Adopted:
    """Take runs as results where they are of the campaign's level of theory and pass its gates.

    Parameters
    ----------
    library
        The POTCARs of the campaign's engine.
    store
        None for a campaign that has none as yet.
    dry_run
        Store nothing.
    total
        Number of runs for the progress, as far as it is known.
    """
    found = Adopted()
    # Place and energy, eV/atom, by content key.
    lowest: dict[str, tuple[str, float]] = {}
    sources = iter(sources)
    # One look into the store for many: the embedded one has no index.
    while batch := list(islice(sources, BATCH)):
        runs: list[tuple[str, str, ExistingRun]] = []
        for place, read in batch:
            try:
                run = read()
                runs.append((_key(run, campaign, library), place, run))
            except UnsuitableError as error:
                found.refused.append((place, str(error)))
            done = found.total + len(runs)
            progress.report("runs", done, max(done, total))
        known = {} if store is None else store.converged(key for key, _, _ in runs)
        for key, place, run in runs:
            energy = run.run.energy_per_atom
            other, lower = lowest.get(key, (None, math.inf))
            if (known.get(key) and other is None) or energy >= lower:
                found.there.append(place)
                continue
            if other is not None:
                found.taken.remove(other)
                found.there.append(other)
            lowest[key] = place, energy
            found.taken.append(place)
            if store is not None and not dry_run:
                store.put(_document(key, place, run, campaign))
    if store is not None:
        store.settle()
    return found


def _key(run: ExistingRun, campaign: Campaign, library: Library) -> str:
    """Content key of what a run has relaxed.

    Raises
    ------
    UnsuitableError
        The campaign cannot use it.
    """
    elements = elements_of(run.initial)
    if others := sorted(set(elements) - set(campaign.elements)):
        raise UnsuitableError(
            f"it holds {' and '.join(others)}, which is not of {'-'.join(campaign.elements)}"
        )
    judge(run, campaign.relaxation, library)
    level = engine_of(campaign).level_of_theory(elements)
    return content_key(run.initial, level, campaign.relaxation)


def _document(key: str, place: str, found: ExistingRun, campaign: Campaign) -> RelaxationDocument:
    run = found.run
    result = Relaxation(
        key=key,
        level_of_theory=engine_of(campaign).level({}, run.pseudopotentials),
        structure=run.structure,
        energy_per_atom=run.energy_per_atom,
        max_force=run.max_force,
        max_stress=run.max_stress,
        steps=found.steps,
        converged=True,
        folder=place,
        frames=found.frames,
    )
    origin = Origin(kind="adopted", id=place)
    candidate = Candidate(origin=origin, structure=found.initial)
    return RelaxationDocument.of(result, candidate, campaign.digest())


def engine_of(campaign: Campaign) -> VaspEngine:
    """The engine of a campaign into which runs are adopted.

    Raises
    ------
    UserError
        It is not VASP.
    """
    engine = campaign.relaxation.engine
    if campaign.relaxation.pressure:
        raise UserError(
            f"the campaign is at {campaign.relaxation.pressure:g} GPa: only runs for campaigns "
            "without pressure can be adopted"
        )
    if not isinstance(engine, VaspEngine):
        raise UserError(
            f"the campaign's engine is {engine.name}: only one whose relaxation.engine is vasp "
            "can adopt runs of VASP"
        )
    return engine


def runs_in(folders: Iterable[Path]) -> list[Source]:
    """Runs in folders and all folders in them, in the order of their names.

    Raises
    ------
    UserError
        A folder does not exist.
    """
    found: dict[str, Callable[[], ExistingRun]] = {}
    for top in folders:
        if not top.is_dir():
            raise UserError(f"{top} is no folder: name one with runs of VASP")
        before = len(found)
        for name, below, files in os.walk(top.resolve()):
            below.sort()
            if any(mark in files or f"{mark}.gz" in files for mark in MARKS):
                found[name] = partial(read_folder, Path(name))
        if len(found) == before:
            found.setdefault(str(top.resolve()), _nothing)
    return list(found.items())


def _nothing() -> ExistingRun:
    raise UnsuitableError("no run of VASP is in it")


def runs_in_database(text: str, elements: Sequence[str], library: Library) -> Iterator[Source]:
    """Runs of these elements in TaskDocs of atomate2, bare or as the outputs of jobs.

    The server's address is in CCDCGAN_TASKS_URI, else in CCDCGAN_MONGODB_URI.

    Parameters
    ----------
    text
        Database and collection, as atomate2.outputs.

    Raises
    ------
    UserError
        That is no collection, or cannot be reached.
    """
    from ccdcgan.launchers.cluster.settings import Documents

    variable = "CCDCGAN_TASKS_URI" if "CCDCGAN_TASKS_URI" in os.environ else "CCDCGAN_MONGODB_URI"
    name, _, collection = text.partition(".")
    try:
        chosen = Documents(uri_from_environment=variable, database=name, collection=collection)
    except ValidationError:
        raise UserError(
            f"--tasks {text!r}: write DATABASE.COLLECTION, as atomate2.outputs; the server's "
            "address belongs into CCDCGAN_TASKS_URI"
        ) from None
    chosen.ping()
    specs = potcar_specs(library)
    sizes = range(1, len(elements) + 1)
    systems = ["-".join(part) for n in sizes for part in combinations(sorted(elements), n)]
    wanted = {"$or": [{f"{p}chemsys": {"$in": systems}} for p in ("", "output.")]}
    fields = ["uuid", "dir_name", "calcs_reversed", "output.dir_name", "output.calcs_reversed"]
    for document in chosen.handle()[chosen.collection].find(wanted, fields):
        output = document.get("output")
        inner = output if isinstance(output, dict) and "calcs_reversed" in output else document
        place = inner.get("dir_name") or document.get("uuid") or document["_id"]
        yield str(place), partial(read_task, inner, library, specs)
