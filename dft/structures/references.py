"""References: crystals that are known already, for the hull and for what counts as new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import LevelOfTheory, same_level
from ccdcgan.dft.engines.corrections import MP2020, is_materials_project, mp2020, takes
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.settings import FilePath, Settings
from ccdcgan.dft.structures.crystal import ENERGY, Crystal, Skipped
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.moments import as_species
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.sources import (
    Prototype,
    materials_project,
    primitive_cell,
    read_structures,
)
from ccdcgan.dft.structures.validity import disordered, fault, too_close


class FileReferences(Settings):
    """Crystals in files of the user's: of the system, or of a part of its elements."""

    source: Literal["files"] = "files"
    path: FilePath = Field(description="A structure file or a folder of them.")

    def load(self, elements: Sequence[str]) -> Iterator[Prototype | Skipped]:
        yield from read_structures(self.path)


class MaterialsProjectReferences(Settings):
    """Crystals of the system in the Materials Project, by the key in ``MP_API_KEY``."""

    source: Literal["materials_project"] = "materials_project"
    max_e_above_hull: float = Field(
        default=0.1, ge=0, description="Farthest from the Materials Project's hull, eV/atom."
    )

    def load(self, elements: Sequence[str]) -> Iterator[Prototype | Skipped]:
        systems = [
            "-".join(sorted(part))
            for size in range(1, len(elements) + 1)
            for part in combinations(elements, size)
        ]
        limits = (0.0, self.max_e_above_hull)
        yield from materials_project(chemsys=systems, energy_above_hull=limits)


ReferenceSource = Annotated[
    FileReferences | MaterialsProjectReferences, Field(discriminator="source")
]


def load_references(
    sources: Iterable[ReferenceSource], elements: Sequence[str], *, magnetic: bool = False
) -> tuple[list[Prototype], list[Skipped]]:
    """Primitive cells of all references, each crystal once, and what could not be read.

    Where magnetic moments count, each crystal once for each order of them.

    Raises
    ------
    UserError
        A path is not there, or a crystal has an element that is not of the system.
    """
    kept: list[Prototype] = []
    skipped: list[Skipped] = []
    seen = SeenStructures()
    for source in sources:
        for item in source.load(elements):
            if isinstance(item, Skipped):
                skipped.append(item)
                continue
            if reason := disordered(item.structure):
                skipped.append(Skipped(item.id, reason))
                continue
            cell = primitive_cell(item.structure, magnetic=magnetic)
            others = sorted({e.symbol for e in cell.composition} - set(elements))
            if others:
                raise UserError(
                    f"the reference {item.id} ({cell.composition.reduced_formula}) holds "
                    f"{' and '.join(others)}, which is not of the system {'-'.join(elements)}: "
                    "take it out of references"
                )
            if reason := fault(cell) or too_close(cell):
                skipped.append(Skipped(item.id, reason))
            elif seen.add_if_new(as_species(cell) if magnetic else cell):
                kept.append(Prototype(f"reference:{item.id}", cell))
    return kept, skipped


@dataclass(frozen=True)
class KnownCrystal:
    """A crystal of a reference set, of whatever elements.

    Attributes
    ----------
    id
        File, and number or key in it.
    structure
        Its primitive cell.
    energy_per_atom
        eV/atom; None where the file gives none, or says that it did not converge.
    level
        What that was computed with; None where the file does not name it as we do.
    parameters
        What an entry of pymatgen tells of its VASP run; its energy is without correction then.
    """

    id: str
    structure: Structure
    energy_per_atom: float | None = None
    level: LevelOfTheory | None = None
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ReferenceFiles:
    """Crystals of files, and what cannot be compared with others.

    Attributes
    ----------
    name
        Of the file, the folder or the ZIP file.
    """

    name: str
    crystals: list[KnownCrystal]
    skipped: list[Skipped]


def read_references(path: Path) -> ReferenceFiles:
    """Crystals of a file, a folder or a ZIP file to compare others with.

    Raises
    ------
    UserError
        Nothing can be read, or nothing can be compared.
    """
    kept: list[KnownCrystal] = []
    skipped: list[Skipped] = []
    for item in read(path):
        if isinstance(item, Skipped):
            skipped.append(item)
        elif isinstance(item, Crystal):
            if reason := disordered(item.structure):
                skipped.append(Skipped(item.id, reason))
                continue
            cell = primitive_cell(item.structure)
            if reason := fault(cell) or too_close(cell):
                skipped.append(Skipped(item.id, reason))
                continue
            energy = item.numbers.get(ENERGY) if item.converged else None
            if energy is not None and item.parameters is not None:
                energy -= item.numbers.get("correction", 0.0) / len(item.structure)
            level = _named_level(item.level)
            kept.append(KnownCrystal(item.id, cell, energy, level, item.parameters))
    if not kept:
        raise UserError(
            f"none of the {len(skipped)} structures in {path} can be compared with others: "
            f"{skipped[0].id}: {skipped[0].reason}"
        )
    return ReferenceFiles(path.name, kept, skipped)


def _named_level(text: str | None) -> LevelOfTheory | None:
    try:
        return LevelOfTheory.model_validate_json(text or "")
    except ValidationError:
        return None


def joining(
    crystals: Iterable[KnownCrystal], level: LevelOfTheory, elements: Sequence[str]
) -> tuple[list[KnownCrystal], str | None]:
    """Crystals whose energies may join a hull, and why others' may not.

    Parameters
    ----------
    level
        The hull's level of theory, before corrections.
    elements
        The hull's; crystals of others have no place on it.

    Returns
    -------
    Crystals of that level with their energies before corrections, and a line on the others. Entries
    of the Materials Project's input sets join where `is_materials_project`.
    """
    found: list[KnownCrystal] = []
    refused: Counter[str] = Counter()
    for crystal in crystals:
        energy, symbols = crystal.energy_per_atom, {e.symbol for e in crystal.structure.composition}
        if energy is None or not symbols <= set(elements):
            continue
        if crystal.parameters is not None and is_materials_project(level):
            if takes(crystal.structure, energy, crystal.parameters):
                found.append(replace(crystal, level=level))
            else:
                refused["of another input set than the Materials Project's"] += 1
            continue
        if crystal.level is None:
            run = (crystal.parameters or {}).get("run_type")
            name = "that is not named" if run is None else f"of VASP ({str(run)[:20]})"
            refused[f"of a level of theory {name}"] += 1
            continue
        raw = crystal.level.model_copy(update={"corrections": None})
        try:
            same_level([level, raw])
        except UserError:
            refused[f"of {raw}"] += 1
            continue
        if crystal.level.corrections == MP2020:
            energy -= mp2020().per_atom(crystal.structure)
        found.append(replace(crystal, energy_per_atom=energy, level=raw))
    if not refused:
        return found, None
    reasons = ", ".join(f"{n} {reason}" for reason, n in refused.most_common(3))
    more = f", and {len(refused) - 3} more" if len(refused) > 3 else ""
    return found, (f"energies of references that do not join the hull of {level}: {reasons}{more}")
