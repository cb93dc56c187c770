"""The command that takes runs of VASP as results: ``ccdcgan adopt``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.results import DEFAULT_FOLDER
from ccdcgan.launchers.cli.terminal import Console, console, progress_bars

if TYPE_CHECKING:
    from ccdcgan.workflows.campaign import Campaign
    from ccdcgan.workflows.storage.stores import Relaxations


def register(app: typer.Typer) -> None:
    """Add the command ``adopt``."""
    app.command()(adopt)


def adopt(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR...", help="Folders of finished runs, and all in them."),
    ] = None,
    workdir: Annotated[
        Path | None,
        typer.Option(help="Folder of the campaign that takes them. [ccdcgan-run]"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="my_fireworks.yaml of a cluster, whose database takes them instead."),
    ] = None,
    campaign: Annotated[
        str | None,
        typer.Option(
            help="The campaign's file, or on a cluster its name; a folder that holds one knows it."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="DATABASE.COLLECTION",
            help="TaskDocs of atomate2, on the server whose address is in CCDCGAN_TASKS_URI, else "
            "in CCDCGAN_MONGODB_URI.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which would be taken.")
    ] = False,
) -> None:
    """Take finished runs of VASP as results of a campaign, where their level of theory is its own.

    Each is read with its inputs and judged as our own runs are. What is taken is on the hull when
    the campaign is run again, and is not computed again. Status 1 if nothing fits.
    """
    if not folders and tasks is None:
        raise UserError("name folders with runs of VASP, or --tasks DATABASE.COLLECTION")
    if workdir is not None and config is not None:
        raise UserError("--workdir or --config: a campaign is in a folder or on a cluster")
    from ccdcgan.dft.engines.vasp.existing import Library
    from ccdcgan.dft.trusted import trust
    from ccdcgan.launchers.cluster.settings import load_cluster
    from ccdcgan.launchers.results.adopt import adopt, engine_of, runs_in, runs_in_database

    settings = _campaign(workdir or DEFAULT_FOLDER, config, campaign)
    trust(settings.trusted if config is None else load_cluster(config).trusted)
    settings = settings.completed()
    library = Library(engine_of(settings), settings.elements)
    on_disk = runs_in(folders or ())
    in_database = runs_in_database(tasks, settings.elements, library) if tasks else ()
    place = _store(workdir or DEFAULT_FOLDER, config, settings, dry_run)
    with place as store, progress_bars(console):
        sources = chain(on_disk, in_database)
        found = adopt(sources, settings, library, store, dry_run, len(on_disk))
    done, out = "would adopt" if dry_run else "adopted", Console()
    for name, reason in found.refused:
        out.print(f"left out: {name}: {reason}", soft_wrap=True)
    for name in found.taken:
        out.print(f"{done}: {name}", soft_wrap=True)
    out.print(
        f"{done} {len(found.taken)} of {found.total} runs; {len(found.there)} are results already, "
        f"{len(found.refused)} left out",
        soft_wrap=True,
    )
    if not found.taken and not found.there:
        sys.exit(1)


def _campaign(workdir: Path, config: Path | None, text: str | None) -> Campaign:
    from ccdcgan.launchers.workdir import CAMPAIGN_FILE
    from ccdcgan.workflows.campaign import load_campaign

    if text is not None and (Path(text).suffix in {".yaml", ".yml"} or Path(text).is_file()):
        return load_campaign(Path(text))
    if config is None:
        stored = workdir / CAMPAIGN_FILE
        if not stored.exists():
            raise UserError(f"{workdir} holds no campaign yet: name its file with --campaign")
        return load_campaign(stored)
    if text is None:
        raise UserError("say which campaign of the cluster with --campaign: its file or its name")
    from ccdcgan.launchers.cli.cluster import open_pad
    from ccdcgan.launchers.cluster.submit import find_campaign

    _, pad = open_pad(config)
    return find_campaign(pad, text).campaign()


@contextlib.contextmanager
def _store(
    workdir: Path, config: Path | None, settings: Campaign, dry_run: bool
) -> Iterator[Relaxations | None]:
    """Where the campaign's relaxations are; a folder is made, and held meanwhile.

    None where there is none as yet, and none is to be made.
    """
    from ccdcgan.launchers.workdir import relaxations_of
    from ccdcgan.workflows.storage.stores import Relaxations

    if config is not None:
        from ccdcgan.launchers.cli.cluster import open_pad
        from ccdcgan.launchers.cluster.launchpad import prepare

        cluster, pad = open_pad(config)
        if not dry_run:
            prepare(pad, cluster)
        yield Relaxations(relaxations_of(cluster.job_store()))
        return
    from ccdcgan.launchers.workdir import embedded_store, open_workdir, taken_up

    if dry_run:
        taken_up(workdir, settings)
        there = (workdir / "store").is_dir()
        store = embedded_store(workdir, read_only=True)
        yield Relaxations(relaxations_of(store)) if there else None
        return
    with open_workdir(workdir, settings):
        yield Relaxations(relaxations_of(embedded_store(workdir)))
