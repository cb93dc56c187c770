"""The command that removes what nobody needs any more: ``ccdcgan clean``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from ccdcgan.launchers.cli.cluster import open_pad
from ccdcgan.launchers.cli.failures import Config, Folder
from ccdcgan.launchers.cli.results import DEFAULT_FOLDER
from ccdcgan.launchers.cli.terminal import Console, console


def register(app: typer.Typer) -> None:
    """Add the command ``clean``."""
    app.command()(clean)


def clean(
    folder: Folder = None,
    config: Config = None,
    waves: Annotated[
        bool, typer.Option("--waves", help="Also WAVECARs that a campaign keeps (keep_waves).")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
) -> None:
    """Show what is of no use any more, and remove it with --yes: results and restarts need none."""
    from ccdcgan.launchers.results.leftovers import leftovers_of_cluster, leftovers_of_folder

    if folder is not None or config is None:
        found = leftovers_of_folder(folder or DEFAULT_FOLDER, waves)
    else:
        found = leftovers_of_cluster(*open_pad(config, to_change=True), waves)
    found = [kind for kind in found if kind.count]
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("number", "size"):
        table.add_column(name, justify="right")
    table.add_column("what", overflow="fold")
    for kind in found:
        table.add_row(str(kind.count), decimal(kind.size) if kind.paths else "", kind.what)
    if not found:
        console.print("nothing to remove")
        return
    Console().print(table)
    if not yes:
        console.print("nothing was removed; with --yes it is")
        return
    stay = sum(kind.remove() for kind in found)
    console.print(f"removed; {stay} stay, in use or of others" if stay else "removed")
