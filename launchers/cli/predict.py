"""Command for the crystal structure of given compositions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.terminal import Console, console, progress_bars, say
from ccdcgan.launchers.wording import counted

if TYPE_CHECKING:
    from ccdcgan.launchers.local.predict import Prediction
    from ccdcgan.workflows.campaign import Campaign

#: Crystals that are listed.
LISTED = 8


def register(app: typer.Typer) -> None:
    """Add the command ``predict``."""
    app.command("predict")(predict)


def predict(
    formulas: Annotated[list[str], typer.Argument(help="Compositions, as Bi2Se3 TiC.")],
    workdir: Annotated[
        Path, typer.Option(help="Folder; each formula gets one of its own in it.")
    ] = Path("ccdcgan-predict"),
    budget: Annotated[
        int, typer.Option(min=1, help="Relaxations after which no further round begins.")
    ] = 200,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes after which no round but the first begins.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all crystals, lowest first.")
    ] = None,
    without_prototypes: Annotated[
        bool,
        typer.Option(
            "--without-prototypes",
            help="Leave out all prototypes of the composition, to see whether it is found anew.",
        ),
    ] = False,
    spacegroup: Annotated[
        list[str] | None,
        typer.Option(
            help="Space group to search in, as 166 or Fm-3m; may be repeated. docs/proposals.md."
        ),
    ] = None,
    crystal_system: Annotated[
        list[str] | None,
        typer.Option(help="Crystal system to search in, as cubic; may be repeated."),
    ] = None,
    pressure: Annotated[
        float | None, typer.Option(help="Pressure in GPa: lowest is the enthalpy then.")
    ] = None,
    max_atoms: Annotated[int, typer.Option(min=2, help="Most atoms in the cell.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed gives the same crystals.")] = 0,
    campaign: Annotated[
        Path | None,
        typer.Option(help="Campaign file with engine, relaxation, networks and workers."),
    ] = None,
    to_file: Annotated[
        Path | None,
        typer.Option(
            help="Search nothing, but write the campaign file, with rounds for the budget, that "
            "ccdcgan submit takes."
        ),
    ] = None,
) -> None:
    """Predict the crystal structure of compositions; the same command goes on."""
    from ccdcgan.dft.files import require_writable, to_json, write_atomically
    from ccdcgan.launchers.local import predict as local
    from ccdcgan.workflows.campaign import load_campaign

    base = None if campaign is None else load_campaign(campaign)
    if json_file is not None:
        require_writable(json_file)
    if minutes is not None and not minutes > 0:
        raise UserError(f"--minutes {minutes:g}: give more than 0, or leave it out")
    wishes = local.Wishes(
        max_sites=max_atoms,
        without_prototypes=without_prototypes,
        seed=seed,
        spacegroups=tuple(spacegroup or ()),
        crystal_systems=tuple(crystal_system or ()),
        pressure=pressure,
    )
    if to_file is not None:
        rounds, prototypes = local.rounds_of(budget), local.prototypes_of(budget)
        asked = local.campaigns_of(formulas, wishes, base, rounds, prototypes)
        _write(list(asked.values()), to_file)
        return
    asked = local.campaigns_of(formulas, wishes, base)
    found = []
    for formula, settings in asked.items():
        with progress_bars(console):
            prediction = local.predict(settings, workdir / formula, budget, minutes, say)
        found.append(prediction)
        Console().print(_table(prediction))
        if json_file is not None:
            plain = [one.model_dump(mode="json") for one in found]
            text = to_json(plain if len(asked) > 1 else plain[0], indent=1)
            write_atomically(json_file, text + "\n")


def _write(campaigns: Sequence[Campaign], path: Path) -> None:
    from ccdcgan.launchers.local.predict import write_campaign

    if len(campaigns) > 1:
        raise UserError(f"--to-file {path}: a campaign is for one formula; write one file for each")
    write_campaign(campaigns[0], path)
    say(f"wrote {path}; next: ccdcgan submit {path}, or ccdcgan run {path}")


def _table(prediction: Prediction) -> Table:
    """The lowest crystals of a formula."""
    title = (
        f"{prediction.formula}: {counted(len(prediction.structures), 'crystal')}, "
        f"{counted(prediction.relaxed, 'relaxation')}, {prediction.seconds / 60:.1f} min"
    )
    if prediction.level_of_theory.pressure:
        title += f", enthalpies at {prediction.level_of_theory.pressure:g} GPa"
    table = Table(title=title)
    for name in ("space group", "atoms", "eV/atom", "above lowest", "by"):
        table.add_column(name)
    for one in prediction.structures[:LISTED]:
        table.add_row(
            one.spacegroup,
            str(len(one.structure)),
            f"{one.energy_per_atom:.4f}",
            f"{one.e_above_lowest:.4f}",
            one.source,
        )
    return table
