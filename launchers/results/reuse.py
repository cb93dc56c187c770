"""Relaxations of another campaign's folder, taken by content key: nothing is computed again."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maggma.core import Store
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import InUseError, locked
from ccdcgan.dft.relaxation.key import content_key, elements_of, is_content_key
from ccdcgan.launchers.workdir import (
    CALCULATIONS,
    campaign_of,
    can_open,
    embedded_store,
    relaxations_of,
)
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import RelaxationDocument
from ccdcgan.workflows.storage.stores import Relaxations

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.settings import Cluster

#: Documents that are written at a time.
BATCH = 200

OTHER_LEVEL = "another level of theory"


@dataclass
class Taken:
    """What a campaign has taken from a folder.

    Attributes
    ----------
    total, taken, there
        Relaxations in that folder; those that were taken, and those that were here already.
    left_out
        Numbers of the others, by reason.
    unfinished, running
        Calculations that are not at their end: those that go on here, and those that somebody is at
        there.
    """

    folder: Path
    total: int = 0
    taken: int = 0
    there: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    running: int = 0

    def __str__(self) -> str:
        notes = [f"{self.there} are here already"] if self.there else []
        notes += [f"{number} {reason}" for reason, number in self.left_out.most_common()]
        # One reason for all needs no number.
        if len(self.left_out) == 1 and self.left_out.total() == self.total:
            notes = list(self.left_out)
        if not self.total:
            notes = ["nothing is relaxed there yet"]
        text = f"took {self.taken} of {self.total} from {self.folder}"
        if notes:
            text += f": {', '.join(notes)}"
        if self.unfinished:
            text += f"; {self.unfinished} unfinished go on here"
        return text + (f"; {self.running} are being calculated there" if self.running else "")


def folders_to_reuse(folders: Sequence[Path], workdir: Path | None = None) -> list[Path]:
    """The folders, whole, of campaigns whose relaxations are to be taken.

    Raises
    ------
    UserError
        One holds no campaign, or is the campaign's own.
    """
    for folder in folders:
        campaign_of(folder)
        if workdir is not None and folder.resolve() == workdir.resolve():
            raise UserError(f"--reuse {folder} is the campaign's own folder: leave it out")
    return [folder.resolve() for folder in folders]


def reuse(folder: Path, campaign: Campaign, store: Store, calculations: Path) -> Taken:
    """Take what a folder has relaxed at a campaign's level of theory; the folder stays as it is.

    Failures are results, too: ``ccdcgan retry`` goes on from their last geometries.

    Parameters
    ----------
    folder
        Of a campaign.
    store, calculations
        The campaign's own relaxations, connected, and the folder of its calculations.
    """
    found = Taken(folder)
    with _relaxations_in(folder) as others:
        here = {} if others is None else _take(others, campaign, Relaxations(store), found)
        finished = set() if others is None else set(others.distinct("key", {"converged": True}))
    if _relaxes_alike(campaign_of(folder), campaign):
        for path in _calculations_in(folder):
            if path.name not in finished and here.get(path.name) is not True:
                try:
                    found.unfinished += _copy(path, calculations / path.name)
                except InUseError:
                    found.running += 1
    return found


def _take(others: Store, campaign: Campaign, own: Relaxations, found: Taken) -> dict[str, bool]:
    """Store the relaxations that fit, and count; what is here then, and whether it converged."""
    keys = (d.get("key") for d in others.query({}, ["key"]))
    here = own.converged(key for key in keys if isinstance(key, str))
    batch: list[RelaxationDocument] = []
    for plain in others.query({}):
        found.total += 1
        document, fault = _checked(plain, campaign)
        if document is None:
            found.left_out[fault] += 1
            continue
        if document.key not in here:
            batch.append(document)
        elif document.converged and not here[document.key]:
            own.put(document)
        else:
            found.there += 1
            continue
        here[document.key] = document.converged
        found.taken += 1
        if len(batch) == BATCH:
            own.add(batch)
            batch = []
    if batch:
        own.add(batch)
    own.settle()
    return here


def reuse_on_cluster(
    folders: Sequence[Path], campaign: Campaign, cluster: Cluster
) -> Iterator[Taken]:
    """Take what folders have relaxed into a cluster's database and calculations; see `reuse`."""
    if not folders:
        return
    # FireWorks need not be installed for a campaign in a folder.
    from ccdcgan.launchers.cluster.launchpad import connect, prepare

    folders = folders_to_reuse(folders)
    prepare(connect(cluster), cluster)
    store = relaxations_of(cluster.job_store())
    for folder in folders:
        yield reuse(folder, campaign, store, cluster.root / CALCULATIONS)


@contextlib.contextmanager
def _relaxations_in(folder: Path) -> Iterator[Store | None]:
    """The relaxations of a folder, None without any; a copy's where it cannot be opened."""
    with contextlib.ExitStack() as stack:
        if not (folder / "store").is_dir():
            yield None
            return
        if not can_open(folder):
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            shutil.copytree(folder / "store", copy / "store")
            folder = copy
        store = relaxations_of(embedded_store(folder, read_only=True))
        stack.callback(store.close)
        yield store


def _checked(plain: Mapping[str, Any], campaign: Campaign) -> tuple[RelaxationDocument | None, str]:
    """A stored document that the campaign could have written, or why it could not."""
    try:
        document = RelaxationDocument.model_validate(plain)
    except (ValidationError, UserError):
        return None, "damaged"
    elements = elements_of(document.initial_structure)
    if not set(elements) <= set(campaign.system):
        return None, "other elements"
    if document.retry:
        return None, "to be tried again"
    levels = []
    for relaxation in campaign.relaxations.values():
        level = relaxation.level_of_theory(elements)
        levels.append(level)
        if content_key(document.initial_structure, level, relaxation) != document.key:
            continue
        # What custodian had to change is of another level, and has not converged.
        ran = document.level_of_theory.model_copy(
            update={"pseudopotentials": level.pseudopotentials}
        )
        if document.converged and ran != level:
            return None, OTHER_LEVEL
        return document, ""
    own = document.level_of_theory
    alike = any((at.checkpoint, at.pressure) == (own.checkpoint, own.pressure) for at in levels)
    return None, "other settings of the relaxation" if alike else OTHER_LEVEL


def _relaxes_alike(there: Campaign, here: Campaign) -> bool:
    """Whether one campaign can go on with what another has begun."""
    probe = Structure(Lattice.cubic(3.0), [there.elements[0]], [[0, 0, 0]])
    keys, others = (
        {
            content_key(probe, relaxation.level_of_theory(elements_of(probe)), relaxation)
            for relaxation in campaign.relaxations.values()
        }
        for campaign in (there, here)
    )
    return set(there.system) <= set(here.system) and not keys.isdisjoint(others)


def _calculations_in(folder: Path) -> list[Path]:
    found = (folder / CALCULATIONS).glob("*")
    return sorted(p for p in found if is_content_key(p.name) and p.is_dir() and not p.is_symlink())


def _not_copied(folder: str, names: Sequence[str]) -> set[str]:
    """What of a folder is no file or folder, and its lock."""
    modes = {name: (Path(folder) / name).lstat().st_mode for name in names}
    return {n for n, m in modes.items() if not (stat.S_ISREG(m) or stat.S_ISDIR(m))} | {".lock"}


def _copy(source: Path, target: Path) -> bool:
    """Copy a calculation, unless it is here already; whether it was.

    Raises
    ------
    InUseError
        Somebody is at it.
    """
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = source / ".lock"
    with contextlib.ExitStack() as stack:
        if lock.exists() and os.access(lock, os.W_OK):
            stack.enter_context(locked(lock, f"{source} is being calculated"))
        part = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=target.parent)))
        # Another's links lead to where our runs would write.
        shutil.copytree(source, part / target.name, symlinks=True, ignore=_not_copied)
        os.replace(part / target.name, target)
    return True
