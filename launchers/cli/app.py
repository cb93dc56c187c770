"""The command line; the commands for a cluster and for results have modules of their own."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli import (
    adopt,
    clean,
    cluster,
    failures,
    hull,
    migrate,
    networks,
    paper,
    predict,
    results,
    serve,
    stability,
)
from ccdcgan.launchers.cli.cluster import Reuse
from ccdcgan.launchers.cli.errors import explain, hint_of
from ccdcgan.launchers.cli.quiet import QuietTensorFlow
from ccdcgan.launchers.cli.terminal import Console, console, progress_bars, say, tell

if TYPE_CHECKING:
    from ccdcgan.launchers.local.evaluate import Evaluation
    from ccdcgan.launchers.local.rediscovery import Known

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Inverse design of crystals with constrained generative adversarial networks.",
)

#: The campaign by which ``evaluate`` and ``known`` judge.
Judge = Annotated[
    Path, typer.Option(help="Folder of a campaign that was run: its engine and hull judge.")
]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(metadata.version("ccdcgan"))
        raise typer.Exit


@app.command()
def run(
    campaign: Annotated[
        Path | None, typer.Argument(help="Campaign file; without one, Bi-Se in minutes.")
    ] = None,
    workdir: Annotated[Path, typer.Option(help="Folder of the campaign.")] = Path("ccdcgan-run"),
    seed: Annotated[int | None, typer.Option(help="Replaces the campaign's seed.")] = None,
    without: Annotated[
        str | None,
        typer.Option(help="Compositions to leave out of the prototypes, as BiSe3,Bi2Se3."),
    ] = None,
    reuse: Reuse = None,
) -> None:
    """Run a campaign on this machine; the same command goes on after an interruption."""
    from ccdcgan.launchers.local.presets import default_campaign
    from ccdcgan.workflows.campaign import load_campaign, parse_campaign

    settings = load_campaign(campaign) if campaign else default_campaign()
    if seed is not None:
        data = {**settings.model_dump(mode="json", exclude_unset=True), "seed": seed}
        settings = parse_campaign(data, "--seed")
    if without is not None:
        data = settings.model_dump(mode="json", exclude_unset=True)
        data.setdefault("database", {})["without"] = [
            part for part in without.split(",") if part.strip()
        ]
        settings = parse_campaign(data, "--without")
    system = "–".join(settings.elements)
    title = Text.assemble((system, "bold"), f", seed {settings.seed}, in {workdir}")
    console.print(title, soft_wrap=True)

    from ccdcgan.launchers.local.run import run_campaign

    with progress_bars(console):
        outcome = run_campaign(settings, workdir, reuse or (), say)
    from ccdcgan.launchers.cli.outcome import print_outcome

    print_outcome(outcome, workdir)


@app.command()
def check(
    campaign: Annotated[
        Path | None, typer.Argument(help="Campaign file; without one, Bi-Se in minutes.")
    ] = None,
    workdir: Annotated[Path, typer.Option(help="Folder that the campaign would run in.")] = Path(
        "ccdcgan-run"
    ),
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="CCDCGAN_CONFIG",
            help="my_fireworks.yaml of a cluster, to test that, too.",
        ),
    ] = None,
    submit: Annotated[
        bool, typer.Option("--submit", help="A small job through each worker class, too.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the jobs of --submit.")
    ] = 300.0,
) -> None:
    """Say what ``run`` would do, and whether all that it needs is there, down to the queues."""
    from ccdcgan.launchers.local.presets import default_campaign
    from ccdcgan.workflows.campaign import load_campaign

    settings = load_campaign(campaign) if campaign else default_campaign()
    if submit and config is None:
        raise UserError("--submit needs the file of a cluster: name it with --config")
    from ccdcgan.launchers.check.check import findings

    colours = {"ok": "green", "note": "yellow", "missing": "red"}
    problems = 0
    for finding in findings(settings, workdir, config, timeout if submit else None):
        problems += finding.state == "missing"
        tell(finding.state, colours[finding.state], f" {finding.text}")
    if problems:
        sys.exit(2)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("campaign.yaml"),
    preset: Annotated[
        str,
        typer.Option(
            help="quickstart (minutes), workstation (hours), paper (cluster) or paper-small (its "
            "networks, smaller: hours)."
        ),
    ] = "quickstart",
) -> None:
    """Write a commented campaign file to edit."""
    from ccdcgan.dft.files import write_atomically
    from ccdcgan.dft.mistakes import did_you_mean
    from ccdcgan.launchers.local.presets import PRESETS, preset_text

    if preset not in PRESETS:
        hint = did_you_mean(preset, PRESETS)
        raise UserError(f"unknown preset {preset!r}{hint} (choose one of {', '.join(PRESETS)})")
    if path.exists():
        raise UserError(f"{path} exists already: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, preset_text(preset))
    text = f"wrote {path}; run it with: ccdcgan run {path} --workdir {path.stem}-run"
    console.print(text, soft_wrap=True)


networks.register(app)


@app.command()
def evaluate(
    structures: Annotated[
        Path, typer.Argument(help="CIF, POSCAR, extxyz, JSON and others; a folder or ZIP of them.")
    ],
    campaign: Judge = results.DEFAULT_FOLDER,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    sampled: Annotated[
        int | None,
        typer.Option(min=1, help="Samples that the structures are left of. [all in the file]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most structures to relax.")] = None,
    against: Annotated[
        str, typer.Option(help="New is what is not in the campaign's: database or all.")
    ] = "database",
    references: Annotated[
        Path | None,
        typer.Option(
            help="Known crystals in place of the campaign's, for S.U.N., copies and substitutions."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Name each structure that was left out, and why.")
    ] = False,
) -> None:
    """Relax any set of structures and count what is valid, unique, new and near the hull."""
    from ccdcgan.launchers.local.evaluate import evaluate
    from ccdcgan.launchers.local.evaluation_tables import (
        names_of,
        notes_of,
        outside_of,
        reasons_of,
        table_of,
    )

    if against not in ("database", "all"):
        raise UserError(f"--against {against!r}: choose database or all")
    _prepare(out)
    with progress_bars(console):
        found = evaluate(
            structures,
            campaign,
            sampled=sampled,
            limit=limit,
            against="all" if against == "all" else "database",
            references=references,
        )
    _tell(found, table_of(found), out, outside_of(found), reasons_of(found))
    for line in names_of(found) if verbose else []:
        Console().print(line, soft_wrap=True)
    for line in notes_of(found):
        tell("note", "yellow", line)


@app.command()
def known(
    campaign: Judge = results.DEFAULT_FOLDER,
    out: Annotated[Path | None, typer.Option(help="JSON file for what comes out.")] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="CIF, POSCAR, extxyz, JSON and others; a folder or ZIP of them; needed for other "
            "systems than Bi-Se. [stacks of Bi2Se3 and Bi layers]"
        ),
    ] = None,
) -> None:
    """Relax the known crystals of a system and see which of them a campaign has found again."""
    from ccdcgan.launchers.local.rediscovery import known, table_of

    _prepare(out)
    with progress_bars(console):
        found = known(campaign, references)
    _tell(found, table_of(found), out)


# After the commands above, so that help begins with them.
cluster.register(app)
failures.register(app)
results.register(app)
hull.register(app)
paper.register(app)
migrate.register(app)
adopt.register(app)
predict.register(app)
clean.register(app)
stability.register(app)
serve.register(app)


def _prepare(out: Path | None) -> None:
    """Make sure that a file can be written, before there is something to lose."""
    if out is None:
        return
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file")
    if out.suffix.lower() not in ("", ".json"):
        raise UserError(f"--out {out} would hold JSON: let its name end in .json")
    out.parent.mkdir(parents=True, exist_ok=True)


def _tell(found: Evaluation | Known, table: Table, out: Path | None, *more: Table | None) -> None:
    """Print what a command has found, with what its words mean, and write it into a file."""
    from ccdcgan.dft.files import to_json, write_atomically

    if out is not None:
        write_atomically(out, to_json(found.model_dump(mode="json"), indent=2) + "\n")
    output = Console()
    output.print(table)
    for further in more:
        if further is not None:
            output.print(further)
    for name, text in found.definitions.items():
        output.print(f"{name}: {text}", style="dim", soft_wrap=True)


def main() -> None:
    """Entry point: every mistake of a user ends in one line and a non-zero exit."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if not any(isinstance(finder, QuietTensorFlow) for finder in sys.meta_path):
        sys.meta_path.insert(0, QuietTensorFlow())
    # What has no symmetry at a loose tolerance is no news.
    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    warnings.filterwarnings("ignore")
    for noisy in ("jobflow", "tensorflow", "absl"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Tracebacks: what went wrong is in the results.
    for noisy in ("custodian", "VasprunXMLValidator"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        # What typer raised to end it is handed back as a status: 130 for Ctrl-C.
        status = app(standalone_mode=False)
        if status == 130:
            raise KeyboardInterrupt
        if isinstance(status, int) and status:
            sys.exit(status)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(130)
    except typer.Abort:
        sys.exit(130)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        message = explain(error)
        if message is None and type(error).__module__.startswith(("click", "typer")):
            message = getattr(error, "format_message", error.__str__)() + hint_of(error)
            # Without a command the help was shown.
            if not message:
                sys.exit(2)
        if message is None:
            raise
        tell("error:", "red", message)
        sys.exit(2)
