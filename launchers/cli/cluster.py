"""The commands for a cluster: from ``submit`` to ``fetch``."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.terminal import Console, Formatter, console, say
from ccdcgan.launchers.wording import counted

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.launchpad import Pad
    from ccdcgan.launchers.cluster.settings import Cluster
    from ccdcgan.launchers.cluster.status import Status

out = Console()

CONFIG = Path("my_fireworks.yaml")

#: Reasons of failures that are told.
MOST_REASONS = 5

Config = Annotated[
    Path,
    typer.Option(
        "--config", envvar="CCDCGAN_CONFIG", help="Database, worker classes and their queues."
    ),
]
CampaignName = Annotated[
    str, typer.Argument(help="Campaign file, its name, or the start of its name on the LaunchPad.")
]

Others = Annotated[bool, typer.Option("--others", help="Also if somebody else has submitted it.")]

Reuse = Annotated[
    list[Path] | None,
    typer.Option(
        "--reuse",
        help="Folder of another campaign, whose relaxations at the same level of theory are taken; "
        "may be repeated.",
    ),
]

cluster_app = typer.Typer(no_args_is_help=True, help="Files for FireWorks' own commands.")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(cluster_app, name="cluster")
    for command in (submit, launch, status, pause, resume, cancel, fetch, worker):
        app.command()(command)


@cluster_app.command("write")
def write(
    folder: Annotated[Path, typer.Argument(help="Folder to write into.")],
    config: Config = CONFIG,
) -> None:
    """Write the files that lpad, rlaunch and qlaunch -c FOLDER/<class> read."""
    from ccdcgan.launchers.cluster.files import write_files
    from ccdcgan.launchers.cluster.settings import load_cluster
    from ccdcgan.launchers.cluster.variables import ENVIRONMENT

    write_files(load_cluster(config), folder)
    console.print(
        f"wrote {folder}; for FireWorks' own commands: source {folder / ENVIRONMENT}, then "
        f"qlaunch -c {folder}/dft singleshot",
        soft_wrap=True,
    )


def submit(
    campaign: Annotated[Path, typer.Argument(help="Campaign file.")],
    config: Config = CONFIG,
    again: Annotated[
        bool, typer.Option("--again", help="Even if it was submitted before.")
    ] = False,
    reuse: Reuse = None,
) -> None:
    """Put a campaign on the LaunchPad, every job with its worker class."""
    from ccdcgan.launchers.cluster.settings import load_cluster
    from ccdcgan.workflows.campaign import load_campaign

    settings, cluster = load_campaign(campaign), load_cluster(config)
    from ccdcgan.launchers.cluster.submit import submit
    from ccdcgan.launchers.cluster.walltime import unclear_walltimes
    from ccdcgan.launchers.results.reuse import reuse_on_cluster

    for taken in reuse_on_cluster(reuse or (), settings, cluster):
        say(str(taken))
    for line in unclear_walltimes(cluster):
        say(line)
    done = submit(settings, campaign.stem, cluster, again)
    console.print(
        f"submitted {campaign.stem} as {done.campaign}, {counted(done.jobs, 'job')} to begin with"
        f"{f', which take what {done.before} has relaxed' if done.before else ''}; "
        "next: ccdcgan launch",
        soft_wrap=True,
    )
    if done.unfinished:
        say(
            f"{done.before} still has {counted(done.unfinished, 'job')}, and what both lack may be "
            f"relaxed twice: if it is to go on as {done.campaign} alone, "
            f"ccdcgan cancel {done.before}"
        )


def launch(
    config: Config = CONFIG,
    jobs: Annotated[
        list[str] | None,
        typer.Option("--jobs", help="CLASS=NUMBER of queue jobs at a time; may be repeated."),
    ] = None,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, for a cron job.")] = False,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify",
            help="Command that is told of the end, of a stop and of the first failure, on its "
            "standard input and by CCDCGAN_EVENT (docs/cluster.md), as 'mail -s ccdcgan me'.",
        ),
    ] = None,
) -> None:
    """Keep queue jobs alive for every class until nothing is left to run."""
    from ccdcgan.launchers.cluster.settings import load_cluster

    cluster = load_cluster(config)
    told = _command(notify)
    numbers: dict[str, int] = {name: worker.jobs for name, worker in cluster.workers.items()}
    if jobs:
        numbers = dict(_class_number(text, numbers) for text in jobs)
    _fireworks_settings(cluster)
    from ccdcgan.launchers.cluster.launch import launch

    # Leases are given back, and word is sent.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sound = launch(cluster, numbers, say, poll, once, told)
    finally:
        signal.signal(signal.SIGTERM, before)
    if not sound:
        sys.exit(1)


def _command(text: str | None) -> list[str]:
    """Program and arguments of ``--notify``."""
    try:
        words = [] if text is None else shlex.split(text)
    except ValueError as error:
        raise UserError(f"--notify {text!r}: {error}") from None
    if text is not None and (not words or shutil.which(words[0]) is None):
        raise UserError(f"--notify {text!r}: there is no such command")
    return words


def _class_number(text: str, known: dict[str, int]) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in known or not number.isdigit():
        raise UserError(f"--jobs {text}: write CLASS=NUMBER, the class one of {', '.join(known)}")
    return name, int(number)


def status(
    campaign: Annotated[
        str | None, typer.Argument(help="As for retry; without one, a list of all.")
    ] = None,
    config: Config = CONFIG,
    watch: Annotated[bool, typer.Option("--watch", help="Until Ctrl-C.")] = False,
) -> None:
    """Show stage by stage what waits, runs, is done, has failed or was lost."""
    cluster, pad = open_pad(config)
    if not watch:
        for part in _picture(cluster, pad, campaign):
            # Paths are to be copied: they stay in one line.
            out.print(part, soft_wrap=isinstance(part, Text))
        return
    with Live(console=out, auto_refresh=False) as live:
        while True:
            live.update(Group(*_picture(cluster, pad, campaign)), refresh=True)
            time.sleep(5)


def pause(campaign: CampaignName, config: Config = CONFIG, others: Others = False) -> None:
    """Let no further job of a campaign start; what runs ends as usual."""
    _change(campaign, config, others, ("WAITING", "READY"), "PAUSED", "paused")


def resume(campaign: CampaignName, config: Config = CONFIG, others: Others = False) -> None:
    """Go on with a campaign that was paused."""
    _change(campaign, config, others, ("PAUSED",), "WAITING", "resumed")


def cancel(campaign: CampaignName, config: Config = CONFIG, others: Others = False) -> None:
    """End a campaign: nothing more of it starts; its results stay."""
    states = ("WAITING", "READY", "PAUSED", "FIZZLED")
    _change(campaign, config, others, states, "DEFUSED", "cancelled")


def fetch(
    campaign: CampaignName,
    workdir: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("ccdcgan-results"),
    config: Config = CONFIG,
) -> None:
    """Write report, CIF files and summary of a campaign that is done."""
    from ccdcgan.launchers.cluster.settings import load_cluster

    cluster = load_cluster(config)
    from ccdcgan.launchers.results.outcome import fetch

    fetch(campaign, cluster, workdir)
    say(f"report: {workdir / 'report.html'}")


def worker(
    folder: Annotated[Path, typer.Argument(help="Folder of a class, as cluster write makes it.")],
    idle: Annotated[float, typer.Option(min=0, help="Seconds to wait for more work.")] = 60.0,
) -> None:
    """Run jobs of one class here, as the queue jobs of launch do."""
    from ccdcgan.launchers.cluster.variables import read_environment

    folder = folder.absolute()
    # FireWorks and jobflow read these when they are imported.
    os.environ.update(read_environment(folder.parent))
    import logging

    # FireWorks and jobflow bring handlers of their own: one for all would say everything twice.
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("ccdcgan")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    from ccdcgan.launchers.cluster.worker import work

    try:
        say(counted(work(folder, idle), "job was run", "jobs were run"))
    finally:
        logger.removeHandler(handler)


def _fireworks_settings(cluster: Cluster) -> None:
    """FireWorks' settings for this process, which it reads when it is imported."""
    from ccdcgan.launchers.cluster.files import FIREWORKS, write_files
    from ccdcgan.launchers.cluster.folder import claim_folder

    cluster.launchpad.ping()
    claim_folder(cluster)
    write_files(cluster, cluster.config)
    os.environ["FW_CONFIG_FILE"] = str(cluster.config / FIREWORKS)


def open_pad(config: Path, to_change: bool = False) -> tuple[Cluster, Pad]:
    """The cluster of a file, and its LaunchPad."""
    from ccdcgan.launchers.cluster.settings import load_cluster

    cluster = load_cluster(config)
    if to_change:
        # Among them, after how long the lock of a killed worker counts for nothing.
        _fireworks_settings(cluster)
    from ccdcgan.launchers.cluster.launchpad import connect

    return cluster, connect(cluster)


def jobs_to_change(pad: Pad, campaign: str | None, others: bool) -> dict[str, object]:
    """Which jobs: those of a campaign, or all but those of others' campaigns, or all."""
    from ccdcgan.launchers.cluster.submit import of_others

    if campaign is not None:
        return {"spec.campaign": _to_change(pad, campaign, others)}
    return {} if others else {"spec.campaign": {"$nin": of_others(pad)}}


def _to_change(pad: Pad, campaign: str, others: bool) -> str:
    """Name of a campaign that is one's own, or may be somebody else's."""
    from ccdcgan.launchers.cluster.submit import find_campaign, require_own

    found = find_campaign(pad, campaign)
    if not others:
        require_own(found)
    return found.id


def _change(
    campaign: str, config: Path, others: bool, before: tuple[str, ...], after: str, what: str
) -> None:
    _, pad = open_pad(config, to_change=True)
    from ccdcgan.launchers.cluster.recovery import change_states

    run = _to_change(pad, campaign, others)
    say(f"{counted(change_states(pad, run, before, after), 'job')} {what}")


def _picture(cluster: Cluster, pad: Pad, campaign: str | None) -> list[RenderableType]:
    from ccdcgan.launchers.cluster.status import COLUMNS, overview, status_of
    from ccdcgan.launchers.cluster.submit import find_campaign

    if campaign is not None:
        return _campaign_picture(status_of(pad, cluster, find_campaign(pad, campaign)))
    rows = overview(pad)
    columns = [c for c in COLUMNS if any(row.states.get(c) for row in rows)]
    # Narrow, for a terminal of 80 columns.
    table = Table(box=None, padding=(0, 1, 0, 0))
    # What people copy stays in one line, and nothing is cut short.
    table.add_column("campaign", no_wrap=True)
    for column in ("name", "system", "submitted"):
        table.add_column(column, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        # The day will do: the newest comes first.
        run = row.submission
        cells = [run.id, run.name, run.system, run.submitted_at[:10]]
        table.add_row(*map(Text, cells), *(str(row.states.get(c) or "") for c in columns))
    return [table]


def _campaign_picture(found: Status) -> list[RenderableType]:
    from ccdcgan.launchers.cluster.status import COLUMNS

    campaign = found.campaign
    columns = [c for c in COLUMNS if found.totals[c] or c in {"waiting", "running", "done"}]
    rounds = counted(campaign.rounds, "round")
    title = f"{campaign.name} ({campaign.id}), {campaign.system}, {rounds}"
    table = Table(title=Text(title))
    table.add_column("stage")
    for column in columns:
        table.add_column(column, justify="right")
    for stage, counts in found.stages.items():
        table.add_row(Text(stage), *(str(counts.get(c) or "") for c in columns))
    lines: list[RenderableType] = [table]
    for doing in found.doing:
        left = "" if doing.seconds_left is None else f", {_time(doing.seconds_left)} left"
        lines.append(Text(f"{doing.what}: {doing.done} of {doing.total}{left}"))
    relaxed = counted(found.relaxed, "structure")
    lines.append(Text(f"{relaxed} relaxed, {found.relaxed_an_hour:.0f} in the last hour"))
    lines += map(Text, found.failed.lines(MOST_REASONS))
    for failure in found.failures:
        where = f" ({failure.host}:{failure.folder})" if failure.folder else ""
        lines.append(Text(f"failed: {failure.stage}: {failure.reason}{where}"))
    return lines


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
