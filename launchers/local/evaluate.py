"""Any set of structures through a campaign's funnel: ``ccdcgan evaluate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from pymatgen.core import Structure
from rich.table import Table

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import TOLERANCES, SeenStructures
from ccdcgan.launchers.local.finished import Suitable, open_finished, read_suitable
from ccdcgan.models.repair import extremes
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.evaluation import (
    DISTANCES,
    Fate,
    Share,
    Yield,
    fates,
    place,
    share,
    yield_of,
)
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.trust import untrusted

#: Reasons that the table of them shows.
MOST_REASONS = 20

Against = Literal["database", "all"]


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
    outcomes: list[Judged] = Field(description="Of each structure, in the order of the files.")
    no_structures: dict[str, str] = Field(
        description="Files that hold no structure and do not count, and why."
    )
    warnings: dict[str, str] = Field(description="What to know about structures, by name.")
    definitions: dict[str, str]


def evaluate(
    path: Path,
    folder: Path,
    *,
    sampled: int | None = None,
    limit: int | None = None,
    against: Against = "database",
) -> Evaluation:
    """Relax structures with a campaign's engine and judge them by its hull.

    The relaxations are kept in the campaign's folder: what was relaxed is not relaxed again. The
    campaign itself does not change.

    Parameters
    ----------
    path
        A file, a folder or a ZIP file of structures.
    folder
        Folder of a campaign that has been run.
    sampled
        How many samples the structures are left of; by default as many as are in `path`.
    limit
        Most structures to relax, the first valid ones.
    against
        New is what matches nothing in the campaign's starting ``database``, or in ``all`` that the
        campaign has relaxed.

    Raises
    ------
    UserError
        The folder holds no campaign that has been run; nothing can be read; the numbers do not fit.
    """
    with open_finished(folder, "evaluate") as finished:
        campaign = finished.campaign
        limits = Limits.of(campaign.loop.screening, extremes(finished.crystals()))
        suited = read_suitable(
            path, campaign.elements, partial(_problem, elements=campaign.elements, limits=limits)
        )
        if sampled is not None and sampled < suited.total:
            raise UserError(
                f"--sampled {sampled} is less than the {suited.total} structures in {path}"
            )
        documents = finished.relax(
            [
                (Origin(kind="generated", id=f"evaluated:{number}"), p.structure)
                for number, p in enumerate(suited.crystals[:limit])
            ]
        )
    known = [
        d.structure
        for origin, d in finished.phases
        if d.converged and (against == "all" or origin.kind != "generated")
    ]
    hull = finished.hull
    aside = untrusted([*finished.documents, *documents])
    sampled = sampled or suited.total
    return Evaluation(
        structures=path.name,
        campaign=campaign.digest(),
        level_of_theory=hull.level,
        against=against,
        known=len(known),
        decoded=share(suited.total - len(suited.unreadable), sampled),
        valid=share(len(suited.crystals), sampled),
        invalid=dict(suited.left_out()),
        found=yield_of(documents, known, hull, untrusted=aside),
        outcomes=_outcomes(suited, documents, known, hull, aside),
        no_structures={p.id: p.reason for p in suited.passed},
        warnings={w.id: w.reason for w in suited.warnings},
        definitions=_definitions(campaign, limits, hull.level, against),
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


def _definitions(
    campaign: Campaign, limits: Limits, level: LevelOfTheory, against: Against
) -> dict[str, str]:
    """What the words of an evaluation mean."""
    tolerances = TOLERANCES
    low, high = limits.volume_range
    pool = "its starting database" if against == "database" else "all that it has relaxed"
    return {
        "decoded": "can be read as a crystal",
        "valid": f"holds all of {'-'.join(campaign.elements)} and nothing else, at most "
        f"{limits.max_sites} atoms, distances of at least {limits.min_distance:.2f} Å, "
        f"{low:.1f} to {high:.1f} Å³ per atom",
        "converged": f"forces and stress below {campaign.relaxation.fmax} eV/Å within "
        f"{campaign.relaxation.max_steps} steps",
        "level of theory": str(level),
        "unique": "converged, and matches none of the set before it (StructureMatcher: ltol "
        f"{tolerances['ltol']}, stol {tolerances['stol']}, angle {tolerances['angle_tol']}°)",
        "new": f"unique, and matches nothing in {pool}",
        "E_hull": "new, of negative formation energy, and at most so far (eV/atom) above the hull "
        "of the campaign's phases; below it counts as 0",
        "displacement": "root mean square of the atoms' displacements on relaxation, Å, cells "
        "scaled to one volume, over all that stay the same crystal; and the mean of theirs",
        "interval": "Wilson, 95%",
    }


def table_of(evaluation: Evaluation) -> Table:
    """The funnel as a table."""
    found = evaluation.found
    table = Table(title=f"{evaluation.structures}: {found.relaxed} relaxed")
    for name in ("", "count", "of", "share", "95% interval"):
        table.add_column(name, justify="left" if not name else "right")
    rows = {
        "decoded": evaluation.decoded,
        "valid": evaluation.valid,
        "converged": found.converged,
        "unique": found.unique,
        "new": found.new,
        **{f"E_hull ≤ {d:.2f}": found.below[f"{d:.2f}"] for d in DISTANCES},
        "same crystal after relaxation": found.stayed,
    }
    for name, s in rows.items():
        of = "sampled" if name in {"decoded", "valid"} else "relaxed"
        if name.startswith("same"):
            of = "converged"
        row = [name, str(s.count), f"{s.of} {of}"]
        if s.fraction is not None and s.low is not None and s.high is not None:
            row += [f"{s.fraction:.1%}", f"{s.low:.1%} – {s.high:.1%}"]
        table.add_row(*row)
    if found.untrusted:
        table.add_row("set aside as untrusted", str(found.untrusted))
    if found.displacement is not None and found.mean_displacement is not None:
        both = f"{found.displacement:.3f} Å, mean {found.mean_displacement:.3f} Å"
        table.add_row("displacement", both)
    if found.mean_formation_energy is not None:
        table.add_row("mean formation energy", f"{found.mean_formation_energy:+.3f} eV/atom")
    return table


def reasons_of(evaluation: Evaluation) -> Table | None:
    """Why structures did not get further, with counts; None where all did."""
    counted = Counter(
        (o.outcome, o.reason or "")
        for o in evaluation.outcomes
        if o.outcome in ("unreadable", "not valid", "not relaxed", "not converged")
    )
    if not counted:
        return None
    table = Table(title="What was left out")
    for name in ("", "reason", "count", "such as"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for (outcome, reason), count in counted.most_common(MOST_REASONS):
        first = next(
            o.id for o in evaluation.outcomes if (o.outcome, o.reason or "") == (outcome, reason)
        )
        table.add_row(outcome, reason, str(count), first)
    if len(counted) > MOST_REASONS:
        rest = counted.total() - sum(n for _, n in counted.most_common(MOST_REASONS))
        table.add_row("", f"{len(counted) - MOST_REASONS} more reasons", str(rest), "")
    return table


def names_of(evaluation: Evaluation) -> list[str]:
    """A line for each structure that was left out, and for each file without structures."""
    lines = [
        f"{o.outcome}: {o.id}: {o.reason or ''}".removesuffix(": ")
        for o in evaluation.outcomes
        if o.outcome != "new"
    ]
    return [*lines, *(f"no structure: {k}: {v}" for k, v in evaluation.no_structures.items())]


def notes_of(evaluation: Evaluation) -> list[str]:
    """What to know of files and structures, in few lines."""
    notes = [f"{name}: {text}" for name, text in list(evaluation.warnings.items())[:5]]
    if more := len(evaluation.warnings) - 5 if len(evaluation.warnings) > 5 else 0:
        notes.append(f"{more} more structures like these: see --verbose or --out")
    if evaluation.no_structures:
        name, reason = next(iter(evaluation.no_structures.items()))
        count = len(evaluation.no_structures)
        notes.append(
            f"{count} {'file' if count == 1 else 'files'} without structures not counted, as "
            f"{name} ({reason})"
        )
    return notes
