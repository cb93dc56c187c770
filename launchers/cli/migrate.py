"""The command between a folder and a database: ``ccdcgan migrate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.cluster import CONFIG, Config
from ccdcgan.launchers.cli.terminal import console, say

if TYPE_CHECKING:
    from ccdcgan.launchers.cluster.settings import Cluster
    from ccdcgan.workflows.campaign import Campaign


class Target(StrEnum):
    """Where a campaign can go."""

    MONGODB = "mongodb"
    FOLDER = "folder"


def register(app: typer.Typer) -> None:
    """Add the command ``migrate``."""
    app.command()(migrate)


def migrate(
    folder: Annotated[Path, typer.Argument(help="Folder of a campaign, as of ccdcgan run.")],
    to: Annotated[Target, typer.Option(help="Where the campaign goes; it stays where it is, too.")],
    config: Config = CONFIG,
    campaign: Annotated[
        str | None,
        typer.Option(
            help="For --to folder, into a new one: the campaign's file, or the name of one that "
            "was submitted."
        ),
    ] = None,
) -> None:
    """Copy a campaign's results from its folder into MongoDB, or from there into a folder."""
    from ccdcgan.launchers.cluster.settings import load_cluster

    cluster = load_cluster(config)
    if to is Target.MONGODB and campaign is not None:
        raise UserError("--campaign is for --to folder: the folder says which campaign it holds")
    from ccdcgan.launchers.cli.terminal import progress_bars
    from ccdcgan.launchers.results.migrate import to_database, to_folder

    with progress_bars(console):
        if to is Target.MONGODB:
            moved = to_database(folder, cluster)
        else:
            moved = to_folder(folder, _campaign(folder, campaign, cluster), cluster)
    say(", ".join(map(str, moved)))
    if to is Target.MONGODB:
        say(f"next, for what is left of it: ccdcgan submit {folder / 'campaign.yaml'}")
    else:
        say(f"next: ccdcgan run {folder / 'campaign.yaml'} --workdir {folder}")


def _campaign(folder: Path, text: str | None, cluster: Cluster) -> Campaign:
    """The campaign that is wanted in the folder."""
    from ccdcgan.launchers.workdir import CAMPAIGN_FILE
    from ccdcgan.workflows.campaign import load_campaign

    if text is None:
        stored = folder / CAMPAIGN_FILE
        if not stored.exists():
            raise UserError(
                f"{folder} holds no campaign yet: say which one with --campaign, by its file or "
                "the name of one that was submitted"
            )
        return load_campaign(stored)
    if Path(text).suffix in {".yaml", ".yml"} or Path(text).is_file():
        return load_campaign(Path(text))
    from ccdcgan.launchers.cluster.launchpad import connect
    from ccdcgan.launchers.cluster.submit import find_campaign

    return find_campaign(connect(cluster), text).campaign()
