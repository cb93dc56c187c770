"""Any set of structures through a campaign's funnel: ``ccdcgan evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from pymatgen.core import Structure
from rich.table import Table

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.matching import TOLERANCES
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.launchers.finished import open_finished, read_suitable
from ccdcgan.models.separation import extremes
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Origin
from ccdcgan.workflows.evaluation import DISTANCES, Share, Yield, share, yield_of
from ccdcgan.workflows.phases import build_hull
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.trust import untrusted

Against = Literal["database", "all"]


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
        A file or folder of structures, or a ZIP file of CIF files.
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
        problem = partial(_problem, elements=campaign.elements, limits=limits)
        structures, left_out = read_suitable(path, problem)
        total = len(structures) + left_out.total()
        if sampled is not None and sampled < total:
            raise UserError(f"--sampled {sampled} is less than the {total} structures in {path}")
        documents = finished.relax(
            [
                (Origin(kind="generated", id=f"evaluated:{number}"), p.structure)
                for number, p in enumerate(structures[:limit])
            ]
        )
    known = [
        decode_structure(d.structure)
        for origin, d in finished.phases
        if d.converged and (against == "all" or origin.kind != "generated")
    ]
    hull = build_hull(finished.documents, campaign)
    aside = untrusted([*finished.documents, *documents])
    sampled = sampled or total
    return Evaluation(
        structures=path.name,
        campaign=campaign.digest(),
        level_of_theory=hull.level,
        against=against,
        known=len(known),
        decoded=share(total - left_out["unreadable"], sampled),
        valid=share(len(structures), sampled),
        invalid=dict(left_out),
        found=yield_of(documents, known, hull, untrusted=aside),
        definitions=_definitions(campaign, limits, hull.level, against),
    )


def _problem(structure: Structure, elements: Sequence[str], limits: Limits) -> str | None:
    if not structure.is_ordered:
        return "disordered"
    if {e.symbol for e in structure.composition.elements} != set(elements):
        return f"other elements than {'-'.join(elements)}"
    if not limits.allow(structure):
        return "size, distances or volume out of range"
    return None


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
