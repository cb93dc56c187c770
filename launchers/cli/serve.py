"""The command that shows campaigns in a browser while they run: ``ccdcgan serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.errors import explain
from ccdcgan.launchers.cli.results import DEFAULT_FOLDER
from ccdcgan.launchers.cli.terminal import say, tell
from ccdcgan.launchers.wording import counted

if TYPE_CHECKING:
    from ccdcgan.launchers.live.source import Source


def register(app: typer.Typer) -> None:
    """Add the command ``serve``."""
    app.command()(serve)


def serve(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a campaign; without one, ccdcgan-run.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="my_fireworks.yaml of a cluster: show its MongoDB.")
    ] = None,
    campaign: Annotated[
        str | None, typer.Option(help="Only this campaign of the cluster, as for status.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other is open to the network.")
    ] = "127.0.0.1",
) -> None:
    """Show a campaign in the browser, also while it runs; nothing is written. Ctrl-C ends it."""
    if config is not None and folder is not None:
        raise UserError("give a folder or --config: a folder, or the database of a cluster")
    if campaign is not None and config is None:
        raise UserError("--campaign goes with --config: a folder has one campaign")
    from ccdcgan.launchers.live.server import OWN_NAMES, App, bound, is_loopback, serve

    # A port that is in use is told of before anything is read.
    listening = bound(host, port)
    try:
        source, campaign = _source(folder, config, campaign)
        from ccdcgan.launchers.live.live import Live

        live = Live(source, campaign)
        number = live.load()
        address = f"[{host}]" if ":" in host else host
        place = f"http://{address}:{listening.getsockname()[1]}/"
        say(f"{counted(number, 'phase')}; {place} until Ctrl-C")
        own = is_loopback(host)
        if not own:
            tell(
                "note",
                "yellow",
                f"whoever reaches {host} can read all of it, without a password and unencrypted: "
                "better leave out --host, and come by ssh -L",
            )
        serve(App(live, explain, {*OWN_NAMES, address} if own else None), listening)
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
    say("ended")


def _source(
    folder: Path | None, config: Path | None, campaign: str | None
) -> tuple[Source, str | None]:
    if config is None:
        from ccdcgan.launchers.live.folder import Folder

        return Folder(folder or DEFAULT_FOLDER), None
    from ccdcgan.launchers.cluster.settings import load_cluster

    cluster = load_cluster(config)
    from ccdcgan.launchers.cluster.launchpad import connect
    from ccdcgan.launchers.cluster.submit import find_campaign
    from ccdcgan.launchers.live.cluster import Campaigns

    name = None if campaign is None else find_campaign(connect(cluster), campaign).id
    return Campaigns(cluster), name
