"""The commands that ask for what campaigns have found: ``ccdcgan query`` and ``export``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
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
    from ccdcgan.launchers.results.results import Results

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
    "±": "e_above_hull_uncertainty",
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
    app.command("query")(Query)
    app.command("export")(Export)


@dataclass(kw_only=True)
class Question:
    """Options that both commands have: where to ask, and the fields of a `PhaseQuery`.

    Typer makes an instance of a command with what was given, and that runs it.
    """

    workdir: Annotated[
        Path | None, typer.Option(help="Folder of a campaign; without one, ccdcgan-run.")
    ] = None
    config: Annotated[
        Path | None, typer.Option(help="my_fireworks.yaml of a cluster: ask its MongoDB.")
    ] = None
    formula: Annotated[
        str | None, typer.Option(help="In any multiple and order, as Bi2Se3 or Se6Bi4.")
    ] = None
    elements: Annotated[str | None, typer.Option(help="Exactly these, as Bi-Se.")] = None
    containing: Annotated[str | None, typer.Option(help="At least these, as Bi-Se.")] = None
    max_e_above_hull: Annotated[
        float | None, typer.Option(help="Largest distance to the hull, eV/atom.")
    ] = None
    label: Annotated[
        str | None,
        typer.Option(
            help="'on the hull', 'within 0.025', 'within 0.10', above, 'not converged', untrusted "
            "or failed; or the paper's stable, metastable, unstable."
        ),
    ] = None
    campaign: Annotated[
        str | None, typer.Option(help="Its digest or the beginning; with --config also its name.")
    ] = None
    origin: Annotated[
        str | None, typer.Option(help="element, reference, prototype, generated or adopted.")
    ] = None
    source: Annotated[
        str | None, typer.Option(help="What proposed it, as variation or generator.")
    ] = None
    engine: Annotated[
        str | None, typer.Option(help="What computed the energies, as SevenNet-0.")
    ] = None
    distinct: Annotated[
        bool, typer.Option("--distinct/--all", help="Without those that match an earlier phase.")
    ] = False
    where: Annotated[
        str | None, typer.Option(help="""MongoDB filter, as '{"nsites": {"$lte": 8}}'.""")
    ] = None
    sort: Annotated[
        str, typer.Option(help="A column of --format csv; with a - before it, largest first.")
    ] = "e_above_hull"
    limit: Annotated[int | None, typer.Option(min=1, help="Most phases.")] = None

    def phases(self, *, structures: bool) -> list[Mapping[str, Any]]:
        """Documents of the phases that are asked for."""
        from ccdcgan.launchers.results.query import PhaseQuery

        asked = {name: getattr(self, name) for name in PhaseQuery.model_fields}
        # --all asks for all, and not for those that match an earlier one.
        question = PhaseQuery.of({**asked, "distinct": self.distinct or None})
        return _results(self.workdir, self.config).find(question, structures=structures)


def _results(workdir: Path | None, config: Path | None) -> Results:
    from ccdcgan.launchers.results.results import Results

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


@dataclass(kw_only=True)
class Query(Question):
    """Show the phases of campaigns, nearest to the hull first."""

    format_: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table"
    structures: Annotated[
        bool, typer.Option("--structures", help="With the structures, in json.")
    ] = False

    def __post_init__(self) -> None:
        if self.format_ not in FORMATS:
            raise UserError(f"unknown format {self.format_!r}: choose one of {', '.join(FORMATS)}")
        if self.structures and self.format_ != "json":
            raise UserError(
                "--structures goes with --format json; ccdcgan export writes other formats"
            )
        phases = self.phases(structures=self.structures)
        if self.format_ == "json":
            _print(to_json(phases, indent=1) + "\n")
        elif self.format_ == "csv":
            from ccdcgan.launchers.results.columns import COLUMNS, flat

            _print(readable_lines(csv_text(COLUMNS, map(flat, phases))))
        elif phases:
            from ccdcgan.launchers.results.query import FAILED

            _print(_table(phases, SHOWN_FAILED if self.label == FAILED else SHOWN))
            _note_levels(phases)
        else:
            typer.echo(f"no phase matches{self._there()}", err=True)

    def _there(self) -> str:
        """What engines and sources there are, where another one is asked for."""
        wanted = {"engine": self.engine, "source": self.source}
        if not any(wanted.values()):
            # All phases are read, which takes long where there are many.
            return ""
        phases = _results(self.workdir, self.config).frame()
        for name, asked in wanted.items():
            there = sorted(set(phases[name].dropna()))
            if asked and asked.lower() not in map(str.lower, there):
                return f": none has the {name} {asked}; there are {', '.join(there) or 'none'}"
        return ""


@dataclass(kw_only=True)
class Export(Question):
    """Write the phases of campaigns into a file."""

    out: Annotated[
        Path,
        typer.Argument(
            help=".zip (CIF and CSV), .extxyz, .json (pymatgen), .parquet or .jsonl (OPTIMADE)."
        ),
    ]

    def __post_init__(self) -> None:
        from ccdcgan.launchers.results.export import export

        phases = self.phases(structures=True)
        written = export(phases, self.out)
        typer.echo(f"{written} phase{'s' if written > 1 else ''} in {self.out}")
        _note_levels(phases)


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
