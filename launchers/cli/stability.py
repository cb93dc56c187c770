"""Command for phonons and elastic constants of what a campaign has found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ccdcgan.launchers.cli.results import DEFAULT_FOLDER
from ccdcgan.launchers.cli.terminal import Console, console, progress_bars, say

if TYPE_CHECKING:
    from ccdcgan.launchers.local.stability import ExaminedPhase


def register(app: typer.Typer) -> None:
    """Add the command ``stability``."""
    app.command("stability")(stability)


def stability(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a campaign; without one, ccdcgan-run.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="New crystals to examine, nearest to the hull first.")
    ] = 10,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the figures of all of them.")
    ] = None,
) -> None:
    """Compute phonons and elastic constants of the best new crystals of a campaign."""
    from ccdcgan.dft.files import require_writable, to_json, write_atomically
    from ccdcgan.launchers.local import stability as local

    if json_file is not None:
        require_writable(json_file)
    with progress_bars(console):
        found = local.stability(folder or DEFAULT_FOLDER, count, say)
    Console().print(_table(found))
    if json_file is not None:
        plain = [one.model_dump(mode="json") for one in found]
        write_atomically(json_file, to_json(plain, indent=1) + "\n")


def _table(found: list[ExaminedPhase]) -> Table:
    from ccdcgan.dft.dynamics.document import VERDICTS

    table = Table(title="Stability by the campaign's engine")
    for name in (
        "formula",
        "space group",
        "E_hull\neV/atom",
        "lowest\nTHz",
        "vibrates\nstably",
        "Born\nstable",
        "K\nGPa",
        "G\nGPa",
        "note",
    ):
        table.add_column(name)
    for one in found:
        note = one.problem or ""
        if one.lower_by is not None:
            note = f"its mode leads {1e3 * one.lower_by:.0f} meV/atom lower: {str(one.lower)[:8]}"
        table.add_row(
            one.formula,
            one.spacegroup,
            _number(one.e_above_hull, 3),
            _number(one.lowest_frequency_thz, 2),
            VERDICTS[one.dynamically_stable],
            VERDICTS[one.born_stable],
            _number(one.bulk_modulus_gpa, 0),
            _number(one.shear_modulus_gpa, 0),
            note,
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
