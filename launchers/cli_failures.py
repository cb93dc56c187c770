"""The commands that show what failed and try it again: ``ccdcgan failures`` and ``retry``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import to_json
from ccdcgan.launchers.cli_cluster import CONFIG, open_pad
from ccdcgan.launchers.cli_results import DEFAULT_FOLDER
from ccdcgan.launchers.terminal import Console

if TYPE_CHECKING:
    from ccdcgan.launchers.failures import Wanted
    from ccdcgan.workflows.failures import FailedStructure

console = Console(stderr=True)

Folder = Annotated[
    Path | None, typer.Argument(help="Folder of a campaign; without one, ccdcgan-run.")
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="CCDCGAN_CONFIG", help="my_fireworks.yaml of a cluster: ask its MongoDB."
    ),
]
CampaignOption = Annotated[
    str | None, typer.Option("--campaign", help="Only of this campaign of the cluster.")
]
Only = Annotated[
    str | None, typer.Option(help="Only those whose reason, last words or origin contain this.")
]
Formula = Annotated[str | None, typer.Option(help="Only this formula, as Bi2Se3.")]


def register(app: typer.Typer) -> None:
    """Add the commands ``failures`` and ``retry``."""
    app.command()(failures)
    app.command()(retry)


def failures(
    folder: Folder = None,
    config: Config = None,
    campaign: CampaignOption = None,
    only: Only = None,
    formula: Formula = None,
    format_: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Show which structures failed, whose fault it was, and what the code said."""
    from ccdcgan.launchers.failures import Wanted
    from ccdcgan.workflows.failures import counts

    if format_ not in ("table", "json"):
        raise UserError(f"unknown format {format_!r}: choose table or json")
    found = _failures(folder, config, campaign, Wanted(only, formula))
    if format_ == "json":
        typer.echo(to_json([f.model_dump(mode="json") for f in found], indent=1))
        return
    if not found:
        typer.echo("nothing failed", err=True)
        return
    out = Console()
    out.print(_table(found))
    for kind, reason, number in counts(found):
        out.print(f"{number} {kind}: {reason}", soft_wrap=True)


def retry(
    folder: Folder = None,
    config: Config = None,
    campaign: CampaignOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Jobs that failed.")] = False,
    lost: Annotated[bool, typer.Option("--lost", help="Jobs whose worker is gone.")] = False,
    structures: Annotated[
        bool, typer.Option("--structures", help="Structures that failed.")
    ] = False,
    only: Only = None,
    formula: Formula = None,
    incar: Annotated[
        list[str] | None,
        typer.Option(help="TAG=VALUE for these structures alone, as ALGO=Normal; may be repeated."),
    ] = None,
    start: Annotated[str, typer.Option("--from", help="last sane geometry, or first.")] = "last",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be tried again.")
    ] = False,
) -> None:
    """Run again what failed or was lost: jobs of a cluster, or structures of any campaign.

    Without --failed, --lost or --structures: failed and lost jobs.
    """
    if folder is None and not structures:
        if formula or incar or dry_run or start != "last":
            raise UserError("--formula, --incar, --from and --dry-run go with --structures")
        _retry_jobs(config or CONFIG, campaign, failed, lost, only)
        return
    from ccdcgan.launchers.failures import Wanted

    if start not in ("last", "first"):
        raise UserError(f"--from {start!r}: choose last or first")
    chosen: Literal["last", "first"] = "first" if start == "first" else "last"
    wanted = Wanted(only, formula)
    found = _failures(folder, config, campaign, wanted)
    stored = [f for f in found if f.kind != "machine"]
    if not found:
        console.print("nothing failed that fits: nothing to try again")
        return
    if dry_run:
        Console().print(_table(found))
        return
    if folder is not None or config is None:
        _retry_in_folder(folder or DEFAULT_FOLDER, stored, incar or [], chosen)
    else:
        _retry_on_cluster(config, campaign, stored, incar or [], chosen)


def _failures(
    folder: Path | None, config: Path | None, campaign: str | None, wanted: Wanted
) -> list[FailedStructure]:
    from dataclasses import replace

    from ccdcgan.launchers.failures import failures_of_cluster, failures_of_folder

    if folder is not None or config is None:
        if campaign is not None:
            raise UserError("--campaign goes with --config: a folder has one campaign")
        return failures_of_folder(folder or DEFAULT_FOLDER, wanted)
    cluster, pad = open_pad(config)
    if campaign is not None:
        from ccdcgan.launchers.submit import find_campaign

        wanted = replace(wanted, campaign=str(find_campaign(pad, campaign)["digest"]))
    return failures_of_cluster(cluster, pad, wanted)


def _retry_in_folder(
    folder: Path, found: list[FailedStructure], incar: list[str], start: Literal["last", "first"]
) -> None:
    from ccdcgan.launchers.failures import (
        campaign_of,
        parse_incar,
        prepare_retry,
        relaxations_of,
    )
    from ccdcgan.launchers.folder import embedded_store, open_workdir
    from ccdcgan.launchers.terminal import progress_bars

    campaign = campaign_of(folder)
    tags = parse_incar(incar, campaign.relaxation.engine)
    # It takes Keras along.
    from ccdcgan.launchers.local import run_campaign

    # Held: what runs there must end first.
    with open_workdir(folder, campaign):
        store = relaxations_of(embedded_store(folder))
        prepare_retry(store, folder.resolve() / "calculations", found, tags, start)
    console.print(f"{len(found)} structures are tried again")
    with progress_bars(console):
        run_campaign(campaign, folder)
    console.print(f"report: {folder / 'report.html'}")


def _retry_on_cluster(
    config: Path,
    campaign: str | None,
    found: list[FailedStructure],
    incar: list[str],
    start: Literal["last", "first"],
) -> None:
    from ccdcgan.launchers.failures import parse_incar, prepare_retry, relaxations_of
    from ccdcgan.launchers.submit import find_campaign, submit
    from ccdcgan.workflows.campaign import parse_campaign

    if campaign is None:
        raise UserError("say whose structures with --campaign: ccdcgan status lists them")
    cluster, pad = open_pad(config, to_change=True)
    document = find_campaign(pad, campaign)
    settings = parse_campaign(document["settings"], str(document["_id"]))
    tags = parse_incar(incar, settings.relaxation.engine)
    busy = pad.fireworks.count_documents(
        {
            "spec.campaign": document["_id"],
            "state": {"$in": ["READY", "WAITING", "RUNNING", "RESERVED"]},
        }
    )
    if busy:
        raise UserError(
            f"{document['_id']} still has {busy} jobs to run: try its structures again when it is "
            "done, or end it with ccdcgan cancel"
        )
    store = relaxations_of(cluster.job_store())
    prepare_retry(store, cluster.root / "calculations", found, tags, start)
    done = submit(settings, str(document["name"]), cluster, again=True)
    console.print(
        f"{len(found)} structures are tried again: submitted as {done.campaign}; "
        "next: ccdcgan launch",
        soft_wrap=True,
    )


def _retry_jobs(
    config: Path, campaign: str | None, failed: bool, lost: bool, only: str | None
) -> None:
    cluster, pad = open_pad(config, to_change=True)
    from ccdcgan.launchers.cli_cluster import query_of
    from ccdcgan.launchers.jobs import mend

    both = not failed and not lost
    # --only speaks of failures.
    failed, lost = failed or both or only is not None, lost or (both and only is None)
    done = mend(pad, cluster, query_of(pad, campaign), lost=lost, failed=failed, only=only)
    for line in list(done.lines()) or ["nothing to run again"]:
        console.print(line, soft_wrap=True)


def _table(found: list[FailedStructure]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("formula", "fault of", "reason", "it said", "runs", "steps", "eV/Å", "where"):
        right = name in {"runs", "steps", "eV/Å"}
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    for f in found:
        force = "" if f.max_force is None else f"{f.max_force:.3f}"
        where = ":".join(part for part in (f.host, f.folder) if part)
        kind = f"{f.kind}, waits" if f.waits else f.kind
        cells = (f.formula or f.origin or f.key, kind, f.reason, f.said, f.runs, f.steps)
        table.add_row(*("" if c is None else str(c) for c in cells), force, where)
    return table
