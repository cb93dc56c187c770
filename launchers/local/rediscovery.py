"""Known crystals of a system, and whether a campaign has found them again: ``ccdcgan known``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from pymatgen.core import Structure
from rich import box
from rich.table import Table
from rich.text import Text

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import LOOSE_TOLERANCES, TOLERANCES, displacement, is_same
from ccdcgan.dft.structures.sources import Prototype, primitive_cell
from ccdcgan.dft.structures.spacegroups import spacegroup
from ccdcgan.dft.structures.validity import too_close
from ccdcgan.launchers.local.finished import open_finished, read_suitable
from ccdcgan.launchers.local.homologous import known_crystals
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.evaluation import place

#: A phase of the campaign: where it came from, its relaxation, and the crystal itself.
_Crystal = tuple[Origin, RelaxationDocument, Structure]


class Match(BaseModel):
    """A crystal of the campaign that is the same as a reference."""

    id: str = Field(description="Content key of its relaxation.")
    origin: Origin
    displacement: float | None = Field(
        description="Root mean square of the atoms' distances from the reference's, Å, cells "
        "scaled to one volume; null where only cells that are not primitive match."
    )
    energy_difference: float = Field(description="Its energy minus the reference's, meV/atom.")


class Reference(BaseModel):
    """A known crystal, relaxed with the engine of the campaign."""

    id: str = Field(description="m-n of (Bi2)m(Bi2Se3)n, or the file it was read from.")
    key: str = Field(description="Content key of its relaxation.")
    formula: str
    atoms: int = Field(description="In the cell that was relaxed.")
    spacegroup: str = Field(description="Of the relaxed crystal.")
    converged: bool
    reason: str | None = Field(description="Why it did not converge.")
    displacement: float | None = Field(
        description="By relaxation, Å; null where it is another crystal afterwards."
    )
    formation_energy_per_atom: float | None = Field(None, description="eV/atom.")
    e_above_hull: float | None = Field(
        None, description="From the campaign's hull, eV/atom; negative below it."
    )
    database: Match | None = Field(None, description="First match in the starting database.")
    generated: Match | None = Field(None, description="First generated match.")
    samples: int = Field(0, description="Generated crystals that match.")
    similar: Match | None = Field(
        None, description="Where none does: lowest generated crystal within wider tolerances."
    )
    best_energy_difference: float | None = Field(
        None,
        description="Energy of the lowest generated crystal of the composition, be it the same or "
        "another, minus the reference's, meV/atom.",
    )


class Known(BaseModel):
    """What ``ccdcgan known`` writes."""

    campaign: str = Field(description="Digest of the campaign.")
    level_of_theory: LevelOfTheory
    left_out: dict[str, int] = Field(description="Structures that are no reference, by reason.")
    references: list[Reference]
    definitions: dict[str, str]


def known(folder: Path, references: Path | None = None) -> Known:
    """Relax known crystals with a campaign's engine and look for them among its own.

    The relaxations are kept in the campaign's folder: what was relaxed is not relaxed again. The
    campaign itself does not change, nor does its hull.

    Parameters
    ----------
    folder
        Folder of a campaign that has been run.
    references
        A file, a folder or a ZIP file of structures; by default, for Bi-Se, the
        stacks of `known_crystals`.

    Raises
    ------
    UserError
        The folder holds no campaign that has been run; nothing can be read; no references are known
        for the system.
    """
    with open_finished(folder, "known") as finished:
        campaign = finished.campaign
        crystals, left_out = _crystals_to_find(references, campaign.elements)
        documents = finished.relax(
            [(Origin(kind="prototype", id=f"known:{c.id}"), c.structure) for c in crystals]
        )
    hull = finished.hull
    own: defaultdict[str, list[_Crystal]] = defaultdict(list)
    for origin, document in finished.phases:
        if document.converged:
            structure = document.structure
            own[structure.composition.reduced_formula].append((origin, document, structure))
    return Known(
        campaign=campaign.digest(),
        level_of_theory=hull.level,
        left_out=left_out,
        references=[
            _reference(crystal, document, own, hull)
            for crystal, document in zip(crystals, documents, strict=True)
        ],
        definitions=_definitions(references),
    )


def _crystals_to_find(
    references: Path | None, elements: Sequence[str]
) -> tuple[list[Prototype], dict[str, int]]:
    """What to look for, and how many structures of a file are left out, by reason."""
    if references is not None:
        suited = read_suitable(references, elements, too_close)
        crystals = [Prototype(f"file:{c.id}", c.structure) for c in suited.crystals]
        return crystals, dict(suited.left_out())
    if set(elements) == {"Bi", "Se"}:
        return known_crystals(), {}
    raise UserError(
        f"known crystals are built in for Bi-Se, not for {'-'.join(elements)}: "
        "name structure files with --references"
    )


def _definitions(references: Path | None) -> dict[str, str]:
    """What the words of the table mean."""
    return {
        "reference": f"from {references.name}"
        if references is not None
        else "m-n: m bilayers of Bi among n quintuple layers of Bi2Se3; septuple: layers of "
        "seven, Bi3Se4",
        "E_hull": "distance from the hull of the campaign's phases; negative below it",
        "same": f"within the matcher's tolerances: ltol {TOLERANCES['ltol']}, stol "
        f"{TOLERANCES['stol']}, angle {TOLERANCES['angle_tol']}°; both crystals relaxed",
        "similar": "marked with ≈: none is the same, but one, such as another stacking of the "
        f"layers, is within ltol {LOOSE_TOLERANCES['ltol']}, "
        f"stol {LOOSE_TOLERANCES['stol']}, angle {LOOSE_TOLERANCES['angle_tol']}°",
        "database": "whether a crystal of the starting database is the same",
        "found": "round, and sample or source, of the first generated crystal that is the same, or "
        "of the lowest that is similar",
        "Å, meV": "of the generated match: root mean square of the atoms' distances from the "
        "reference's, and energy minus the reference's per atom",
        "best": "energy of the lowest generated crystal of the composition, the same or "
        "another, minus the reference's, meV/atom",
    }


def _reference(
    crystal: Prototype,
    document: RelaxationDocument,
    phases: dict[str, list[_Crystal]],
    hull: Hull,
) -> Reference:
    """A reference with its place on the hull and its matches among the phases of its formula."""
    structure = document.structure
    reference = Reference(
        id=crystal.id,
        key=document.key,
        formula=structure.composition.reduced_formula,
        atoms=len(structure),
        spacegroup=spacegroup(structure),
        converged=document.converged,
        reason=None if document.converged else document.reason or "not converged",
        displacement=displacement(crystal.structure, structure),
    )
    if document.energy_per_atom is not None:
        reference.formation_energy_per_atom, reference.e_above_hull = place(document, hull)
    if not document.converged:
        return reference
    alike = phases.get(reference.formula, [])

    def relative(other: RelaxationDocument) -> float:
        return _difference(other, document, hull)

    database = [c for c in alike if c[0].kind != "generated" and is_same(structure, c[2])]
    generated = [c for c in alike if c[0].kind == "generated"]
    same = [c for c in generated if is_same(structure, c[2])]
    reference.database = _first(database, document, relative)
    reference.generated = _first(same, document, relative)
    reference.samples = len(same)
    if not same:
        # The matcher takes lengths from the first: where cells differ much, the order counts.
        similar = [
            c
            for c in generated
            if is_same(structure, c[2], LOOSE_TOLERANCES)
            or is_same(c[2], structure, LOOSE_TOLERANCES)
        ]
        lowest = sorted(similar, key=lambda c: relative(c[1]))
        reference.similar = _first(lowest, document, relative, LOOSE_TOLERANCES)
    if generated:
        reference.best_energy_difference = min(relative(d) for _, d, _ in generated)
    return reference


def _difference(a: RelaxationDocument, b: RelaxationDocument, hull: Hull) -> float:
    """Energy of one converged relaxation minus that of another, as on the hull, meV/atom."""

    def energy(document: RelaxationDocument) -> float:
        assert document.energy_per_atom is not None
        return hull.place(document.structure, document.energy_per_atom).energy

    return 1e3 * (energy(a) - energy(b))


def _first(
    matches: Sequence[_Crystal],
    reference: RelaxationDocument,
    relative: Callable[[RelaxationDocument], float],
    tolerances: Mapping[str, Any] = TOLERANCES,
) -> Match | None:
    if not matches:
        return None
    origin, document, structure = matches[0]
    return Match(
        id=document.key,
        origin=origin,
        displacement=displacement(
            primitive_cell(structure),
            primitive_cell(reference.structure),
            tolerances,
        ),
        energy_difference=relative(document),
    )


def table_of(found: Known) -> Table:
    """The references and their matches as a table."""
    count = sum(r.generated is not None for r in found.references)
    similar = sum(r.similar is not None for r in found.references)
    failed = "; ".join(f"{r.id}: {r.reason}" for r in found.references if not r.converged)
    table = Table(
        title=f"{count} of {len(found.references)} known crystals found again"
        + (f", {similar} more similar (≈)" if similar else ""),
        caption=Text(failed) if failed else None,
        # Eleven columns shall fit an ordinary terminal.
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("reference", overflow="fold")
    for name in ("formula", "atoms", "group", "E_f", "E_hull", "database", "found"):
        table.add_column(
            name, no_wrap=True, justify="right" if name in {"atoms", "E_f", "E_hull"} else "left"
        )
    for name in ("Å", "meV", "best"):
        table.add_column(name, no_wrap=True, justify="right")
    for r in found.references:
        row: list[str | Text] = [
            Text(r.id),
            r.formula,
            str(r.atoms),
            r.spacegroup.split()[0],
            _number(r.formation_energy_per_atom, "+.3f"),
            _number(r.e_above_hull, "+.3f"),
            "yes" if r.database else "–",
        ]
        match = r.generated or r.similar
        if match is None:
            row += ["–"] * 3
        else:
            mark = "" if r.generated else "≈"
            origin = match.origin
            where = origin.source_name if origin.sample is None else origin.sample
            row.append(f"{mark}{origin.round}: {where}")
            row.append(_number(match.displacement, ".2f"))
            row.append(_number(match.energy_difference, "+.1f"))
        table.add_row(*row, _number(r.best_energy_difference, "+.1f"))
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
