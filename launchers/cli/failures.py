"""The commands that show what failed and try it again: ``ccdcgan failures`` and ``retry``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import to_json
from ccdcgan.launchers.cli.cluster import CONFIG, Others, jobs_to_change, open_pad
from ccdcgan.launchers.cli.results import DEFAULT_FOLDER
from ccdcgan.launchers.cli.terminal import Console, console
from ccdcgan.launchers.wording import counted

if TYPE_CHECKING:
    from ccdcgan.launchers.results.failures import Wanted
    from ccdcgan.workflows.failures import FailedStructure


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
CampaignToRetry = Annotated[
    str | None,
    typer.Option(
        "--campaign",
        help="Of this campaign of the cluster; a campaign file gives its attempts, walltime and "
        "other technical settings, also to a folder.",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(help="Only those whose class, reason, last words or origin contain this."),
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
    from ccdcgan.launchers.results.failures import Wanted
    from ccdcgan.workflows.failures import counts

    if format_ not in ("table", "json"):
        raise UserError(f"unknown format {format_!r}: choose table or json")
    found = _failures(folder, config, campaign, Wanted(only, _reduced(formula)))
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
    campaign: CampaignToRetry = None,
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
    queue: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE of my_fireworks.yaml's queue for these structures alone, as mem=64G, "
            "walltime=48:00:00 or queue=large; may be repeated."
        ),
    ] = None,
    start: Annotated[str, typer.Option("--from", help="last sane geometry, or first.")] = "last",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be tried again.")
    ] = False,
    others: Others = False,
) -> None:
    """Run again what failed or was lost: jobs of a cluster, or structures of any campaign.

    Without --failed, --lost or --structures: failed and lost jobs. What others have submitted is
    left to them.
    """
    if folder is None and not structures:
        if formula or incar or queue or dry_run or start != "last":
            raise UserError("--formula, --incar, --queue, --from, --dry-run go with --structures")
        _retry_jobs(config or CONFIG, campaign, failed, lost, only, others)
        return
    from ccdcgan.launchers.results.failures import Wanted

    if start not in ("last", "first"):
        raise UserError(f"--from {start!r}: choose last or first")
    chosen: Literal["last", "first"] = "first" if start == "first" else "last"
    wanted = Wanted(only, _reduced(formula))
    tags, asked = incar or [], queue or []
    if folder is None and config is not None:
        _retry_on_cluster(config, campaign, wanted, tags, chosen, asked, dry_run, others)
    elif asked:
        raise UserError("--queue goes with --config: a folder's campaign runs without a queue")
    else:
        _retry_in_folder(folder or DEFAULT_FOLDER, campaign, wanted, tags, chosen, dry_run)


def _reduced(formula: str | None) -> str | None:
    from ccdcgan.launchers.results.query import reduced_formula

    return None if formula is None else reduced_formula(formula)


def _failures(
    folder: Path | None, config: Path | None, campaign: str | None, wanted: Wanted
) -> list[FailedStructure]:
    from dataclasses import replace

    from ccdcgan.launchers.results.failures import failures_of_cluster, failures_of_folder

    if folder is not None or config is None:
        if campaign is not None:
            raise UserError("--campaign goes with --config: a folder has one campaign")
        return failures_of_folder(folder or DEFAULT_FOLDER, wanted)
    cluster, pad = open_pad(config)
    if campaign is not None:
        from ccdcgan.launchers.results.retry import campaign_on

        wanted = replace(wanted, campaigns=campaign_on(pad, campaign).family)
    return failures_of_cluster(cluster, pad, wanted)


def _retry_in_folder(
    folder: Path,
    file: str | None,
    wanted: Wanted,
    incar: list[str],
    start: Literal["last", "first"],
    dry_run: bool,
) -> None:
    from ccdcgan.launchers.cli.terminal import progress_bars
    from ccdcgan.launchers.results.failures import failures_of_folder
    from ccdcgan.launchers.results.retry import Again, campaign_in, parse_incar, retry_in_folder

    campaign = campaign_in(folder, None if file is None else Path(file))
    again = Again(parse_incar(incar, campaign), start)
    if not _is_to_do(failures_of_folder(folder, wanted), dry_run):
        return
    # It takes Keras along.
    from ccdcgan.launchers.local.run import run_campaign

    done = retry_in_folder(folder, campaign, wanted, again)
    console.print(_tried_again(done.structures, "structure"))
    with progress_bars(console):
        run_campaign(campaign, folder)
    console.print(f"report: {folder / 'report.html'}")


def _retry_on_cluster(
    config: Path,
    campaign: str | None,
    wanted: Wanted,
    incar: list[str],
    start: Literal["last", "first"],
    queue: list[str],
    dry_run: bool,
    others: bool,
) -> None:
    from dataclasses import replace

    from ccdcgan.launchers.cluster.queue import parse_queue, require_time, with_parameters
    from ccdcgan.launchers.cluster.submit import require_own
    from ccdcgan.launchers.results.failures import failures_of_cluster
    from ccdcgan.launchers.results.retry import Again, campaign_on, parse_incar, retry_on_cluster

    if campaign is None:
        raise UserError("say whose structures with --campaign: ccdcgan status lists them")
    cluster, pad = open_pad(config, to_change=True)
    submitted = campaign_on(pad, campaign)
    if not (others or dry_run):
        require_own(submitted.newest)
    asked = parse_queue(queue, cluster.workers["dft"])
    require_time(submitted.settings, with_parameters(cluster.workers["dft"], asked))
    again = Again(parse_incar(incar, submitted.settings), start, asked)
    wanted = replace(wanted, campaigns=submitted.family)
    found = failures_of_cluster(cluster, pad, wanted)
    if not _is_to_do(found, dry_run):
        return
    done = retry_on_cluster(cluster, pad, submitted, found, again, wanted.text)
    how = f": submitted as {done.submitted}" if done.submitted else ""
    tried = _tried_again(done.structures, "job" if done.jobs else "structure")
    console.print(f"{tried}{how}; next: ccdcgan launch", soft_wrap=True)


def _tried_again(number: int, what: str) -> str:
    return counted(number, f"{what} is tried again", f"{what}s are tried again")


def _is_to_do(found: list[FailedStructure], dry_run: bool) -> bool:
    """Whether there is something to try again and it is to be done; what would be is shown."""
    if not found:
        console.print("nothing failed that fits: nothing to try again")
    elif dry_run:
        Console().print(_table(found))
    return bool(found) and not dry_run


def _retry_jobs(
    config: Path, campaign: str | None, failed: bool, lost: bool, only: str | None, others: bool
) -> None:
    cluster, pad = open_pad(config, to_change=True)
    from ccdcgan.launchers.cluster.recovery import mend

    both = not failed and not lost
    # --only speaks of failures.
    failed, lost = failed or both or only is not None, lost or (both and only is None)
    jobs = jobs_to_change(pad, campaign, others)
    done = mend(pad, cluster, jobs, lost=lost, failed=failed, only=only)
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
