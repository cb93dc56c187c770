"""A campaign that has been run: what it found, and further relaxations with its settings."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.crystal import Crystal, Passed, Skipped
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.sources import Prototype, primitive_cell
from ccdcgan.dft.structures.validity import disordered, fault
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, embedded_store, open_workdir
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.propose import key_of
from ccdcgan.workflows.relax import relax_missing
from ccdcgan.workflows.storage.stores import PHASES, RESULTS, Relaxations


@dataclass(frozen=True)
class Finished:
    """A campaign with its results.

    Attributes
    ----------
    campaign, relaxations
        Its settings, and the store of its relaxations.
    phases
        Where each of its phases came from, and its relaxation: database first, then as the
        samples were drawn.
    """

    campaign: Campaign
    relaxations: Relaxations
    phases: list[tuple[Origin, RelaxationDocument]]

    @property
    def documents(self) -> list[RelaxationDocument]:
        return [document for _, document in self.phases]

    @property
    def hull(self) -> Hull:
        """The convex hull of its phases."""
        return Knowledge(self.campaign, {d.key: d for d in self.documents}).hull

    def crystals(self) -> list[Structure]:
        """Its converged crystals that hold every element."""
        found = (d.structure for d in self.documents if d.converged)
        return [s for s in found if len(s.composition) == len(self.campaign.elements)]

    def relax(self, structures: Sequence[tuple[Origin, Structure]]) -> list[RelaxationDocument]:
        """Relaxations of structures in their order; what is in the store is not relaxed again.

        They are kept there, each once under its content key. The campaign itself does not change.
        """
        candidates = [Candidate(origin=o, structure=s) for o, s in structures]
        keys = [key_of(c, self.campaign.relaxation) for c in candidates]
        wanted: dict[str, Candidate] = {}
        for key, candidate in zip(keys, candidates, strict=True):
            wanted.setdefault(key, candidate)
        relax_missing(self.relaxations, wanted, self.campaign, "relaxations")
        found = self.relaxations.get(wanted)
        return [found[key] for key in keys]


@contextlib.contextmanager
def open_finished(folder: Path, command: str) -> Iterator[Finished]:
    """Hold the folder of a campaign that has been run, for a command that relaxes more.

    Raises
    ------
    UserError
        The folder holds no campaign that has been run, or one whose engine cannot relax here.
    """
    folder = folder.resolve()
    if not (folder / CAMPAIGN_FILE).exists():
        raise UserError(f"{folder} holds no campaign: give the folder of a ccdcgan run")
    campaign = load_campaign(folder / CAMPAIGN_FILE)
    campaign.relaxation.engine.check(campaign.elements)
    if campaign.relaxation.engine.name == "vasp":
        raise UserError(f"{command} relaxes on this machine and cannot run VASP: use a potential")
    with open_workdir(folder, campaign):
        store: Any = embedded_store(folder)
        store.connect()
        found = store.additional_stores[PHASES].query(
            {"campaign": campaign.digest()}, ["id", "origin"]
        )
        origins = {p["id"]: Origin.model_validate(p["origin"]) for p in found}
        if not origins:
            raise UserError(f"{folder} has no phases yet: run its campaign first")
        relaxations = Relaxations(store.additional_stores[RESULTS])
        documents = relaxations.get(origins)
        phases = [(origins[key], documents[key]) for key in origins if key in documents]
        phases.sort(key=lambda p: (p[0].round or 0, p[0].sample or 0))
        yield Finished(campaign, relaxations, phases)


@dataclass(frozen=True)
class Suitable:
    """What files come to.

    Attributes
    ----------
    crystals
        Primitive cells that suit, named as the files.
    read
        Number, from 0, of each of them among all structures of the files, good or bad.
    unreadable, unsuitable
        The others with the reasons, by number.
    passed
        Files that hold no structure: they do not count.
    warnings
        What the user should know about crystals that suit.
    """

    crystals: list[Prototype] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    unreadable: dict[int, Skipped] = field(default_factory=dict)
    unsuitable: dict[int, Skipped] = field(default_factory=dict)
    passed: list[Passed] = field(default_factory=list)
    warnings: list[Skipped] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.crystals) + len(self.unreadable) + len(self.unsuitable)

    def left_out(self) -> Counter[str]:
        """Numbers of those that were left out, by reason."""
        return Counter(
            [f"unreadable: {s.reason}" for s in self.unreadable.values()]
            + [s.reason for s in self.unsuitable.values()]
        )


def read_suitable(
    source: Path | Sequence[Structure],
    elements: Sequence[str],
    problem: Callable[[Structure], str | None],
) -> Suitable:
    """Primitive cells of structures, or of those in a file, a folder or a ZIP file.

    Parameters
    ----------
    source
        The structures, which get their numbers as names, or where they are.
    elements
        All that they may hold.
    problem
        Why a primitive cell does not suit, or None.

    Raises
    ------
    UserError
        Nothing can be read, or nothing suits.
    """
    found = Suitable()
    if isinstance(source, Path):
        items, where = read(source), f" in {source}"
    else:
        items, where = (Crystal(str(i), s) for i, s in enumerate(source)), ""
    for item in items:
        number = found.total
        if isinstance(item, Passed):
            found.passed.append(item)
        elif isinstance(item, Skipped):
            found.unreadable[number] = item
        elif reason := _foreign(item.structure, elements) or disordered(item.structure):
            found.unsuitable[number] = Skipped(item.id, reason)
        else:
            cell = primitive_cell(item.structure)
            if reason := fault(cell) or problem(cell):
                found.unsuitable[number] = Skipped(item.id, reason)
                continue
            found.crystals.append(Prototype(item.id, cell))
            found.read.append(number)
            if item.warning:
                found.warnings.append(Skipped(item.id, item.warning))
    if not found.crystals:
        reasons = ", ".join(f"{n} {reason}" for reason, n in found.left_out().most_common(5))
        raise UserError(f"none of the {found.total} structures{where} can be relaxed: {reasons}")
    return found


def _foreign(structure: Structure, elements: Sequence[str]) -> str | None:
    others = {e.symbol for e in structure.composition.elements} - set(elements)
    return f"other elements than {'-'.join(elements)}" if others else None
