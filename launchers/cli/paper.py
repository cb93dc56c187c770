"""Commands for the paper's table and figures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.results import DEFAULT_FOLDER
from ccdcgan.launchers.cli.terminal import Console, say, tell
from ccdcgan.launchers.wording import counted

#: Folders of runs; without any, ccdcgan-run.
Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RUN…", help="Folders of campaigns that have ended; or ccdcgan-run."),
]


def register(app: typer.Typer) -> None:
    """Add the commands ``paper-table`` and ``figures``."""
    app.command("paper-table")(paper_table)
    app.command("figures")(figures)


def paper_table(
    folders: Runs = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the counts.")] = None,
) -> None:
    """Count runs as the paper counts its own, beside the paper's numbers."""
    from ccdcgan.dft.files import require_writable, to_json, write_atomically
    from ccdcgan.launchers.results.paper_table import notes_of, paper_table, tables_of
    from ccdcgan.launchers.results.run_files import RunFiles

    if json_file is not None:
        require_writable(json_file)
    runs = folders or [DEFAULT_FOLDER]
    if len({folder.resolve() for folder in runs}) < len(runs):
        raise UserError("a run is given twice: each is counted once")
    found = paper_table([RunFiles.of(folder) for folder in runs])
    output = Console()
    if not output.is_terminal:
        output.width = 200
    for table in tables_of(found):
        output.print(table)
    for run in found.runs:
        output.print(
            f"{run.run}: {run.level_of_theory}; preset {run.preset}; "
            f"{_share(run.reconstructed)} of held-out crystals reconstructed (paper 96.0%); "
            f"constraint MAE {_number(run.constraint_mae)} eV/atom, R² {_number(run.constraint_r2)}"
            " (paper 0.019, 0.85)",
            soft_wrap=True,
        )
    for line in notes_of(found):
        tell("note", "yellow", line)
    if json_file is not None:
        write_atomically(json_file, to_json(found.model_dump(mode="json"), indent=1) + "\n")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def figures(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a campaign that has ended.")
    ] = DEFAULT_FOLDER,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("figures"),
    format_: Annotated[str, typer.Option("--format", help="For print: pdf, svg or png.")] = "pdf",
    only: Annotated[
        str | None, typer.Option(help="Some of the paper's figures, as 1b,2b,3c. [all]")
    ] = None,
) -> None:
    """Make the paper's figures of a run: for print, as a page to look at, and as CSV."""
    from ccdcgan.dft.mistakes import did_you_mean
    from ccdcgan.launchers.figures.of_run import NAMES
    from ccdcgan.launchers.figures.write import write_figures
    from ccdcgan.launchers.results.run_files import RunFiles

    if format_ not in ("pdf", "svg", "png"):
        raise UserError(f"unknown format {format_!r}: choose pdf, svg or png")
    names = [name.strip() for name in only.split(",")] if only else list(NAMES)
    for name in names:
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            raise UserError(f"unknown figure {name!r}{hint} (there are {', '.join(NAMES)})")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder")
    files, lacking = write_figures(RunFiles.of(folder), out, format_, names)  # type: ignore[arg-type]
    for name, reason in lacking.items():
        tell("skipped", "yellow", f" {name}: {reason}")
    if not files:
        raise UserError("the run has nothing of what these figures show")
    say(f"{counted(len(files), 'file')} in {out}")
