"""Any set of structures through a campaign's funnel: ``ccdcgan evaluate``."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field
from pymatgen.core import Structure
from rich.table import Table

from ccdcgan.dft.engines import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.matching import TOLERANCES
from ccdcgan.dft.relaxation import content_key, relax_many
from ccdcgan.dft.sources import Skipped, primitive_cell, read_structures
from ccdcgan.launchers.folder import CAMPAIGN_FILE, embedded_store, open_workdir
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign, load_campaign
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.evaluation import DISTANCES, Share, Yield, share, yield_of
from ccdcgan.workflows.generation import is_valid
from ccdcgan.workflows.phases import build_hull
from ccdcgan.workflows.stores import PHASES, RESULTS, Relaxations

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
    folder = folder.resolve()
    if not (folder / CAMPAIGN_FILE).exists():
        raise UserError(f"{folder} holds no campaign: give the folder of a ccdcgan run")
    campaign = load_campaign(folder / CAMPAIGN_FILE)
    campaign.relaxation.engine.check(campaign.elements)
    if campaign.relaxation.engine.name == "vasp":
        raise UserError("evaluate relaxes on this machine and cannot run VASP: use a potential")
    with open_workdir(folder, campaign):
        store: Any = embedded_store(folder)
        store.connect()
        phases = list(
            store.additional_stores[PHASES].query({"campaign": campaign.digest()}, ["id", "origin"])
        )
        if not phases:
            raise UserError(f"{folder} has no phases yet: run its campaign first")
        relaxations = Relaxations(store.additional_stores[RESULTS])
        own = list(relaxations.get([p["id"] for p in phases]).values())
        structures, left_out, total = _read(path, campaign)
        if sampled is not None and sampled < total:
            raise UserError(f"--sampled {sampled} is less than the {total} structures in {path}")
        documents = _relaxed(structures[:limit], campaign, relaxations)
    generated = {p["id"] for p in phases if p["origin"]["kind"] == "generated"}
    known = [
        Structure.from_dict(d.structure)
        for d in own
        if d.converged and (against == "all" or d.key not in generated)
    ]
    hull = build_hull(own, campaign)
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
        found=yield_of(documents, known, hull),
        definitions=_definitions(campaign, hull.level, against),
    )


def _read(path: Path, campaign: Campaign) -> tuple[list[Structure], Counter[str], int]:
    """Valid structures, the others by reason, and how many there were."""
    with tempfile.TemporaryDirectory() as temporary:
        if path.suffix.lower() == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(temporary)
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"cannot read {path}: {error}") from None
            # A table may lie beside the crystals.
            path = Path(temporary)
        found = list(read_structures(path))
    valid: list[Structure] = []
    left_out: Counter[str] = Counter()
    for item in found:
        if isinstance(item, Skipped):
            left_out["unreadable"] += 1
            continue
        structure = item.structure
        reason = _problem(structure, campaign)
        if reason:
            left_out[reason] += 1
        else:
            valid.append(primitive_cell(structure))
    if not valid:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise UserError(f"none of the {len(found)} structures can be relaxed: {reasons}")
    return valid, left_out, len(found)


def _problem(structure: Structure, campaign: Campaign) -> str | None:
    if not structure.is_ordered:
        return "disordered"
    if {e.symbol for e in structure.composition.elements} != set(campaign.elements):
        return f"other elements than {'-'.join(campaign.elements)}"
    if not is_valid(structure, campaign.loop.screening):
        return "size, distances or volume out of range"
    return None


def _relaxed(
    structures: Sequence[Structure], campaign: Campaign, relaxations: Relaxations
) -> list[RelaxationDocument]:
    """Relaxations of the structures in their order, each content key once."""
    level = campaign.relaxation.engine.level_of_theory(campaign.elements)
    wanted: dict[str, tuple[int, Structure]] = {}
    for number, structure in enumerate(structures):
        key = content_key(structure, level, campaign.relaxation)
        wanted.setdefault(key, (number, structure))
    done = relaxations.done(wanted)
    todo = [key for key in wanted if key not in done]
    progress.report("relaxations", len(done), len(wanted))
    cells = [wanted[key][1] for key in todo]
    for count, (index, result) in enumerate(
        relax_many(cells, campaign.relaxation, campaign.workers), 1
    ):
        number, structure = wanted[todo[index]]
        relaxations.put(
            RelaxationDocument(
                **result.model_dump(),
                campaign=campaign.digest(),
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
                origin=Origin(kind="generated", id=f"evaluated:{number}"),
                initial_structure=structure.as_dict(),
            )
        )
        progress.report("relaxations", len(done) + count, len(wanted))
    found = relaxations.get(wanted)
    return [found[key] for key in wanted]


def _definitions(campaign: Campaign, level: LevelOfTheory, against: Against) -> dict[str, str]:
    """What the words of an evaluation mean."""
    screening, tolerances = campaign.loop.screening, TOLERANCES
    low, high = screening.volume_range
    pool = "its starting database" if against == "database" else "anything it has relaxed"
    return {
        "decoded": "can be read as a crystal",
        "valid": f"holds all of {'-'.join(campaign.elements)} and nothing else, at most "
        f"{screening.max_sites} atoms, distances of at least {screening.min_distance} Å, "
        f"{low} to {high} Å³ per atom",
        "converged": f"forces and stress below {campaign.relaxation.fmax} eV/Å within "
        f"{campaign.relaxation.max_steps} steps",
        "level of theory": str(level),
        "unique": "converged, and matches none of the set before it (StructureMatcher: ltol "
        f"{tolerances['ltol']}, stol {tolerances['stol']}, angle {tolerances['angle_tol']}°)",
        "new": f"unique, and does not match {pool}",
        "E_hull": "new, of negative formation energy, and at most so far (eV/atom) above the hull "
        "of the campaign's phases; below it counts as 0",
        "displacement": "root mean square of the atoms' displacements on relaxation, Å, cells "
        "scaled to one volume, of those that stay the same crystal",
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
    if found.displacement is not None:
        table.add_row("displacement", f"{found.displacement:.3f} Å")
    if found.mean_formation_energy is not None:
        table.add_row("mean formation energy", f"{found.mean_formation_energy:+.3f} eV/atom")
    return table


def as_json(evaluation: Evaluation) -> str:
    """An evaluation as indented JSON."""
    return json.dumps(evaluation.model_dump(mode="json"), indent=2) + "\n"
