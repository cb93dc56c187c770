"""Any set of structures through a campaign's funnel: ``ccdcgan evaluate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, Field
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.kinship import Kinship, Relatives
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.references import read_references
from ccdcgan.launchers.local.definitions import definitions_of
from ccdcgan.launchers.local.finished import Suitable, open_finished, read_suitable
from ccdcgan.launchers.local.references import References, ReferenceSet, references_of
from ccdcgan.models.repair import extremes
from ccdcgan.workflows.documents import EVALUATED, Origin, RelaxationDocument
from ccdcgan.workflows.evaluation import (
    Fate,
    Share,
    Sun,
    Yield,
    fates,
    place,
    share,
    sun_of,
    yield_of,
)
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.trust import untrusted

Against = Literal["database", "all"]

#: What the campaign's known crystals are called.
KNOWN = {"database": "the campaign's starting database", "all": "all that the campaign has relaxed"}


class Judged(BaseModel):
    """What became of one structure of the set."""

    id: str = Field(description="File, and number or key in it.")
    outcome: Literal["unreadable", "not valid", "not relaxed"] | Fate
    reason: str | None = Field(None, description="Why.")
    formula: str | None = None
    key: str | None = Field(None, description="Content key of its relaxation.")
    formation_energy_per_atom: float | None = Field(None, description="eV/atom.")
    e_above_hull: float | None = Field(
        None, description="From the hull of the campaign's phases, eV/atom; negative below it."
    )
    e_above_reference_hull: float | None = Field(
        None, description="From the hull of the reference set, likewise."
    )
    kinship: Kinship | None = Field(
        None, description="How it is related to the reference set; null of what is not valid."
    )
    relative: str | None = Field(None, description="Of which of its crystals that is so.")


class Outside(BaseModel):
    """What others count, against a reference set."""

    references: ReferenceSet
    sun: Sun
    kinship: dict[Kinship, Share] = Field(description="Of the valid.")


class Evaluation(BaseModel):
    """What ``ccdcgan evaluate`` writes.

    All shares of the sampled are counted over the whole set; those of `relaxed` over what was
    relaxed, which is less with a limit.
    """

    structures: str = Field(description="Where they came from.")
    campaign: str = Field(description="Digest of the campaign.")
    level_of_theory: LevelOfTheory
    against: Against = Field(description="What a new crystal must not match.")
    known: int = Field(description="Crystals that do not count as new.")
    decoded: Share
    valid: Share
    invalid: dict[str, int] = Field(description="Why structures were left out, and how many.")
    found: Yield
    outside: Outside = Field(description="Shares by the definitions of others, and relatives.")
    outcomes: list[Judged] = Field(description="Of each structure, in the order of the files.")
    no_structures: dict[str, str] = Field(
        description="Files that hold no structure and do not count, and why."
    )
    warnings: dict[str, str] = Field(description="What to know about structures, by name.")
    definitions: dict[str, str]


def evaluate(
    structures: Path | str | Sequence[Structure],
    folder: Path | str = "ccdcgan-run",
    *,
    sampled: int | None = None,
    limit: int | None = None,
    against: Against = "database",
    references: Path | None = None,
) -> Evaluation:
    """Relax structures with a campaign's engine and judge them by its hull.

    The relaxations are kept in the campaign's folder: what was relaxed is not relaxed again. The
    campaign itself does not change.

    Parameters
    ----------
    structures
        The structures, or a file, a folder or a ZIP file of them.
    folder
        Folder of a campaign that has been run.
    sampled
        How many samples the structures are left of; by default as many as are given.
    limit
        Most structures to relax, the first valid ones.
    against
        New is what matches nothing in the campaign's starting ``database``, or in ``all`` that the
        campaign has relaxed.
    references
        A file, a folder or a ZIP file of crystals that take the place of these for S.U.N. and for
        relatives.

    Raises
    ------
    UserError
        The folder holds no campaign that has been run; nothing can be read; the numbers do not fit.

    Examples
    --------
    >>> import ccdcgan
    >>> found = ccdcgan.evaluate("mine.zip", "my-run")  # doctest: +SKIP
    >>> found.valid.count, found.valid.of  # doctest: +SKIP
    """
    source = Path(structures) if isinstance(structures, str) else structures
    name = source.name if isinstance(source, Path) else "given structures"
    files = None if references is None else read_references(references)
    with open_finished(Path(folder), "evaluate") as finished:
        campaign = finished.campaign
        limits = Limits.of(campaign.loop.screening, extremes(finished.crystals()))
        suited = read_suitable(
            source, campaign.elements, partial(_problem, elements=campaign.elements, limits=limits)
        )
        if sampled is not None and sampled < suited.total:
            raise UserError(
                f"--sampled {sampled} is less than the {suited.total} structures of {name}"
            )
        documents = finished.relax(
            [
                (Origin(kind="generated", id=f"{EVALUATED}{number}"), p.structure)
                for number, p in enumerate(suited.crystals[:limit])
            ]
        )
    known = [p for p in finished.phases if against == "all" or p[0].kind != "generated"]
    crystals = [d.structure for _, d in known if d.converged]
    hull = finished.hull
    aside = untrusted([*finished.documents, *documents])
    compared = references_of(campaign, KNOWN[against], known, aside, files)
    sampled = sampled or suited.total
    outcomes = _outcomes(suited, documents, crystals, hull, aside)
    return Evaluation(
        structures=name,
        campaign=campaign.digest(),
        level_of_theory=hull.level,
        against=against,
        known=len(crystals),
        decoded=share(suited.total - len(suited.unreadable), sampled),
        valid=share(len(suited.crystals), sampled),
        invalid=dict(suited.left_out()),
        found=yield_of(documents, crystals, hull, untrusted=aside),
        outside=_outside(suited, documents, outcomes, compared, aside, sampled),
        outcomes=outcomes,
        no_structures={p.id: p.reason for p in suited.passed},
        warnings={w.id: w.reason for w in suited.warnings},
        definitions=definitions_of(campaign, limits, hull.level, KNOWN[against], compared.about),
    )


def _outside(
    suited: Suitable,
    documents: Sequence[RelaxationDocument],
    outcomes: Sequence[Judged],
    references: References,
    untrusted: Mapping[str, str],
    sampled: int,
) -> Outside:
    """What others count; outcomes learn how they are related to the reference set."""
    relatives = Relatives(references.structures)
    ends: list[Structure] = []
    distances: list[float | None] = []
    copied: list[bool] = []
    for index, (number, crystal) in enumerate(zip(suited.read, suited.crystals, strict=True)):
        outcome = outcomes[number]
        document = documents[index] if index < len(documents) else None
        is_end = document is not None and document.converged
        structure = document.structure if document is not None and is_end else crystal.structure
        relation = relatives.of(structure)
        outcome.kinship = relation.kinship
        if relation.relative is not None:
            outcome.relative = references.ids[relation.relative]
        if document is None or document.energy_per_atom is None:
            continue
        outcome.e_above_reference_hull = place(document, references.hull)[1]
        if document.converged:
            ends.append(structure)
            is_trusted = document.key not in untrusted
            distances.append(outcome.e_above_reference_hull if is_trusted else None)
            copied.append(relation.kinship == "copy")
    counts = Counter(o.kinship for o in outcomes)
    return Outside(
        references=references.about,
        sun=sun_of(
            ends,
            distances,
            references.structures,
            copied,
            valid=len(documents),
            sampled=sampled - (len(suited.crystals) - len(documents)),
        ),
        kinship={k: share(counts[k], len(suited.crystals)) for k in get_args(Kinship)},
    )


def _problem(structure: Structure, elements: Sequence[str], limits: Limits) -> str | None:
    if lacking := set(elements) - {e.symbol for e in structure.composition.elements}:
        return f"without {' and '.join(sorted(lacking))}"
    return limits.problem(structure)


def _outcomes(
    suited: Suitable,
    documents: Sequence[RelaxationDocument],
    known: Sequence[Structure],
    hull: Hull,
    untrusted: Mapping[str, str],
) -> list[Judged]:
    """What became of each structure, in the order of the files."""
    found = {
        number: Judged(id=s.id, outcome="unreadable", reason=s.reason)
        for number, s in suited.unreadable.items()
    }
    found |= {
        number: Judged(id=s.id, outcome="not valid", reason=s.reason)
        for number, s in suited.unsuitable.items()
    }
    judged = fates(documents, SeenStructures(known))
    relaxed = dict(zip(suited.read, zip(documents, judged, strict=True), strict=False))
    for number, crystal in zip(suited.read, suited.crystals, strict=True):
        outcome = Judged(
            id=crystal.id,
            outcome="not relaxed",
            reason="beyond --limit",
            formula=crystal.structure.composition.reduced_formula,
        )
        if number in relaxed:
            document, outcome.outcome = relaxed[number]
            outcome.key = document.key
            outcome.reason = untrusted.get(document.key, document.reason)
            if document.energy_per_atom is not None:
                outcome.formation_energy_per_atom, outcome.e_above_hull = place(document, hull)
        found[number] = outcome
    return [found[number] for number in sorted(found)]
