"""A campaign that has been run: what it found, and further relaxations with its settings."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.sources import Prototype, Skipped, primitive_cell, read_structures
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.launchers.folder import CAMPAIGN_FILE, embedded_store, open_workdir
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.database import key_of, relax_missing
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.stores import PHASES, RESULTS, Relaxations


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

    def crystals(self) -> list[Structure]:
        """Its converged crystals that hold every element."""
        found = (decode_structure(d.structure) for d in self.documents if d.converged)
        return [s for s in found if len(s.composition) == len(self.campaign.elements)]

    def relax(self, structures: Sequence[tuple[Origin, Structure]]) -> list[RelaxationDocument]:
        """Relaxations of structures in their order; what is in the store is not relaxed again.

        They are kept there, each once under its content key. The campaign itself does not change.
        """
        candidates = [Candidate(origin=o, structure=s.as_dict()) for o, s in structures]
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


def read_suitable(
    path: Path, problem: Callable[[Structure], str | None]
) -> tuple[list[Prototype], Counter[str]]:
    """Primitive cells of the structures in a file, a folder or a ZIP file of CIF files.

    Parameters
    ----------
    path
        Where they are.
    problem
        Why a primitive cell does not suit, or None.

    Returns
    -------
    structures, numbers of those left out by reason

    Raises
    ------
    UserError
        Nothing can be read, or nothing suits.
    """
    with tempfile.TemporaryDirectory() as temporary:
        source = path
        if path.suffix.lower() == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(temporary)
            # Damaged and encrypted members raise errors of many kinds.
            except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
                raise UserError(f"cannot read {path}: {error}") from None
            # A table may lie beside the crystals.
            source = Path(temporary)
        try:
            found = list(read_structures(source))
        except UserError as error:
            raise UserError(str(error).replace(temporary, str(path))) from None
    suitable: list[Prototype] = []
    left_out: Counter[str] = Counter()
    for item in found:
        if isinstance(item, Skipped):
            left_out["unreadable"] += 1
            continue
        ordered = item.structure.is_ordered
        cell = primitive_cell(item.structure) if ordered else item.structure
        if reason := problem(cell):
            left_out[reason] += 1
        else:
            suitable.append(Prototype(item.id, cell))
    if not suitable:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise UserError(f"none of the {len(found)} structures can be relaxed: {reasons}")
    return suitable, left_out
