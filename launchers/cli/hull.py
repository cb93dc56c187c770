"""Command for the hull of all that many campaigns have relaxed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.results import DEFAULT_FOLDER
from ccdcgan.launchers.cli.terminal import Console, say
from ccdcgan.launchers.wording import counted

if TYPE_CHECKING:
    from ccdcgan.launchers.results.joint_hull import JointHull


def register(app: typer.Typer) -> None:
    """Add the command ``hull``."""
    app.command("hull")(hull)


def hull(
    system: Annotated[str, typer.Argument(help="Elements, as Bi-Se; parts of it count, too.")],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of campaigns; without any, ccdcgan-run."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="my_fireworks.yaml of a cluster: all campaigns of its MongoDB."),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(help="Level of theory, or a part of its name that no other level has."),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Crystals of files whose energies of that level join the hull; for VASP as the "
            "Materials Project runs it, its entries."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most phases, nearest first.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the phases, structures included.")
    ] = None,
) -> None:
    """Place the relaxations of many campaigns on one hull, each crystal once."""
    from ccdcgan.dft.files import require_writable, to_json, write_atomically
    from ccdcgan.dft.structures.references import read_references
    from ccdcgan.dft.systems import parse_system
    from ccdcgan.launchers.results.joint_hull import Collected, joint_hull, shelf_of, shelves_in

    elements = parse_system(system)
    files = None if references is None else read_references(references)
    if json_file is not None:
        require_writable(json_file)
    if config is not None:
        if folders:
            raise UserError("give folders or --config: campaigns here, or those of a database")
        from ccdcgan.launchers.cluster.settings import load_cluster

        shelves = [shelf_of(load_cluster(config))]
    else:
        if not folders and not DEFAULT_FOLDER.exists():
            raise UserError(
                f"there is no {DEFAULT_FOLDER} here: name folders of campaigns, or a cluster with "
                "--config"
            )
        shelves = shelves_in(folders or [DEFAULT_FOLDER])
    found = joint_hull(Collected(shelves, elements), level, files)
    found.phases = found.phases[:limit]
    Console().print(_table(found))
    if found.untrusted:
        say(f"set aside as untrusted: {len(found.untrusted)}")
    if found.references is not None and found.references.refused is not None:
        say(found.references.refused)
    if json_file is not None:
        write_atomically(json_file, to_json(found.model_dump(mode="json"), indent=1) + "\n")


def _table(found: JointHull) -> Table:
    several = len(found.campaigns) > 1
    of = counted(len(found.campaigns), "campaign")
    if found.references is not None:
        of += f" and {found.references.joined} of {found.references.name}"
    table = Table(
        title=f"{'-'.join(found.system)}: {counted(found.relaxations, 'relaxation')} of {of}, "
        f"{found.level_of_theory}",
        caption="eV/atom; E_f against the elements, E_hull above the convex hull",
    )
    names = ["formula", "space group", "atoms", "E_f", "E_hull", "origin", "id"]
    # Of one campaign the table fits into 80 columns.
    if several:
        names.insert(5, "campaign")
    for name in names:
        right = name in {"atoms", "E_f", "E_hull"}
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for phase in found.phases:
        table.add_row(
            phase.formula,
            phase.spacegroup,
            str(len(phase.structure)),
            f"{phase.formation_energy_per_atom:.3f}",
            f"{phase.e_above_hull:.3f}",
            *([", ".join(phase.campaigns)] if several else []),
            phase.origin.source_name,
            phase.id[:8],
        )
    return table
