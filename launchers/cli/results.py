"""The commands that ask for what campaigns have found: ``ccdcgan query`` and ``export``."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import to_json
from ccdcgan.launchers.cli.terminal import Console, readable, readable_lines
from ccdcgan.launchers.results.tables import csv_text

if TYPE_CHECKING:
    from ccdcgan.launchers.results.query import Filters, Results

#: Folder of a campaign that was given no other.
DEFAULT_FOLDER = Path("ccdcgan-run")

FORMATS = ("table", "json", "csv")

#: Columns on the screen, and what they are in the flat table.
SHOWN = {
    "formula": "formula",
    "space group": "spacegroup",
    "atoms": "nsites",
    "E_f": "formation_energy_per_atom",
    "E_hull": "e_above_hull",
    "label": "label",
    "origin": "origin",
    "engine": "engine",
    "campaign": "campaign",
    "id": "id",
}

#: Columns on the screen of what failed.
SHOWN_FAILED = {
    "formula": "formula",
    "origin": "origin",
    "its id": "origin_id",
    "fault of": "failure",
    "reason": "reason",
    "it said": "said",
    "host": "host",
    "folder": "folder",
}


def register(app: typer.Typer) -> None:
    """Add the commands ``query`` and ``export``."""
    app.command()(_asking(query))
    app.command()(_asking(export))


@dataclass(frozen=True)
class Question:
    """What the options that both commands have ask for, and where."""

    results: Results
    filters: Filters
    sort: str
    limit: int | None

    def phases(self, *, structures: bool) -> list[Mapping[str, Any]]:
        return self.results.find(
            sort=self.sort, limit=self.limit, structures=structures, **self.filters
        )


def question(
    workdir: Annotated[
        Path | None, typer.Option(help="Folder of a campaign; without one, ccdcgan-run.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="my_fireworks.yaml of a cluster: ask its MongoDB.")
    ] = None,
    formula: Annotated[
        str | None, typer.Option(help="In any multiple and order, as Bi2Se3 or Se6Bi4.")
    ] = None,
    elements: Annotated[str | None, typer.Option(help="Exactly these, as Bi-Se.")] = None,
    containing: Annotated[str | None, typer.Option(help="At least these, as Bi-Se.")] = None,
    max_e_above_hull: Annotated[
        float | None, typer.Option(help="Largest distance to the hull, eV/atom.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="stable, metastable, unstable, 'not converged', untrusted or failed."),
    ] = None,
    campaign: Annotated[
        str | None, typer.Option(help="Digest of a campaign, or its beginning.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="element, reference, prototype, generated or adopted.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="What computed the energies, as SevenNet-0.")
    ] = None,
    distinct: Annotated[
        bool, typer.Option("--distinct/--all", help="Without those that match an earlier phase.")
    ] = False,
    where: Annotated[
        str | None, typer.Option(help="""MongoDB filter, as '{"nsites": {"$lte": 8}}'.""")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="A column of --format csv; with a - before it, largest first.")
    ] = "e_above_hull",
    limit: Annotated[int | None, typer.Option(min=1, help="Most phases.")] = None,
) -> Question:
    """The question of a command line."""
    from ccdcgan.launchers.results.query import parse_where

    filters: Filters = {
        "formula": formula,
        "elements": elements,
        "containing": containing,
        "max_e_above_hull": max_e_above_hull,
        "label": label,
        "campaign": campaign,
        "origin": origin,
        "engine": engine,
        "distinct": distinct or None,
        "where": None if where is None else parse_where(where),
    }
    return Question(_results(workdir, config), filters, sort, limit)


def _results(workdir: Path | None, config: Path | None) -> Results:
    from ccdcgan.launchers.results.query import Results

    if config is not None:
        if workdir is not None:
            raise UserError("give --workdir or --config: a folder, or the database of a cluster")
        from ccdcgan.launchers.cluster.settings import load_cluster

        return Results.on_cluster(load_cluster(config))
    if workdir is None and not DEFAULT_FOLDER.exists():
        raise UserError(
            f"there is no {DEFAULT_FOLDER} here: say where to ask, with --workdir or --config"
        )
    return Results.in_folder(workdir or DEFAULT_FOLDER)


def query(
    asked: Question,
    format_: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    structures: Annotated[
        bool, typer.Option("--structures", help="With the structures, in json.")
    ] = False,
) -> None:
    """Show the phases of campaigns, nearest to the hull first."""
    if format_ not in FORMATS:
        raise UserError(f"unknown format {format_!r}: choose one of {', '.join(FORMATS)}")
    if structures and format_ != "json":
        raise UserError("--structures goes with --format json; ccdcgan export writes other formats")
    phases = asked.phases(structures=structures)
    if format_ == "json":
        _print(to_json(phases, indent=1) + "\n")
    elif format_ == "csv":
        from ccdcgan.launchers.results.columns import COLUMNS, flat

        _print(readable_lines(csv_text(COLUMNS, map(flat, phases))))
    elif phases:
        from ccdcgan.launchers.results.query import FAILED

        _print(_table(phases, SHOWN_FAILED if asked.filters["label"] == FAILED else SHOWN))
        _note_levels(phases)
    else:
        typer.echo("no phase matches", err=True)


def export(
    out: Annotated[
        Path,
        typer.Argument(
            help=".zip (CIF and CSV), .extxyz, .json (pymatgen), .parquet or .jsonl (OPTIMADE)."
        ),
    ],
    asked: Question,
) -> None:
    """Write the phases of campaigns into a file."""
    from ccdcgan.launchers.results.export import export

    phases = asked.phases(structures=True)
    written = export(phases, out)
    typer.echo(f"{written} phase{'s' if written > 1 else ''} in {out}")
    _note_levels(phases)


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `question` in place of its argument ``asked``."""
    own = inspect.signature(command, eval_str=True).parameters
    shared = inspect.signature(question, eval_str=True).parameters

    def run(**given: Any) -> None:
        asked = question(**{name: given.pop(name) for name in shared})
        command(asked=asked, **given)

    # Typer reads a command's options off its signature.
    options = {name: p for name, p in (own | shared).items() if name != "asked"}
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options.values()]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {name: p.annotation for name, p in options.items()}
    run.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    return run


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What reads the other end has enough, as head does; Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _table(phases: Sequence[Mapping[str, Any]], shown: Mapping[str, str]) -> str:
    from ccdcgan.launchers.results.columns import flat

    units = "eV/atom; E_f against the elements, E_hull above the convex hull"
    table = Table(caption=units if "E_f" in shown else None)
    for name in shown:
        right = name in {"atoms", "E_f", "E_hull"}
        # What failed is told in sentences, and its folder whole.
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=shown is SHOWN,
            overflow="ellipsis" if shown is SHOWN else "fold",
        )
    for phase in phases:
        row = flat(phase)
        for digest in ("campaign", "id"):
            row[digest] = str(row[digest] or "")[:8]
        table.add_row(*(_cell(row[column]) for column in shown.values()))
    console = Console()
    if not console.is_terminal:
        console.width = 160
    with console.capture() as printed:
        console.print(table)
    return printed.get()


def _cell(value: Any) -> Text:
    """Text in one line; numbers rounded."""
    text = "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    # Before the table measures it.
    return Text(readable(text))


def _note_levels(phases: Sequence[Mapping[str, Any]]) -> None:
    from ccdcgan.dft.engines.base import same_level

    levels = [p["level_of_theory"] for p in phases if p.get("energy_per_atom") is not None]
    if not levels:
        return
    try:
        same_level(levels)
    except UserError:
        typer.echo("energies of more than one level of theory: do not compare them", err=True)
