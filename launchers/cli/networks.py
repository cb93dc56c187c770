"""Commands for networks by themselves: trained on a file of crystals, and sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.terminal import Console, console, progress_bars, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (train, sample):
        app.command()(command)


def train(
    stage: Annotated[str, typer.Argument(help="autoencoder, constraint, gan or all.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="phases.json.gz or another export, rows or entries in JSON, extxyz, Parquet."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the networks.")],
    preset: Annotated[
        str | None, typer.Option(help="quickstart, default, paper or a YAML file. [quickstart]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="As in Bi-Se; default: the data's.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**24 - 1)] = 0,
    property_: Annotated[
        list[str] | None,
        typer.Option("--property", help="Learn this number of the data too; may be repeated."),
    ] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME:minimise, :maximise or :near=VALUE, then :WEIGHT; may be repeated. "
            "[formation_energy_per_atom:minimise:1]"
        ),
    ] = None,
    references: Annotated[
        str | None, typer.Option(help="Energies of the elements (eV/atom), as Bi=-3.86,Se=-3.474.")
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="shipped or train. [shipped in 'all', train in 'autoencoder']"),
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(
            help="Number of the data that is the energy, eV of all atoms. [a known name, as energy]"
        ),
    ] = None,
    energy_per_atom: Annotated[
        bool, typer.Option("--energy-per-atom", help="The number of --energy is in eV/atom.")
    ] = False,
) -> None:
    """Train networks on a file of crystals; a killed training goes on where it was."""
    # Looked for before the networks are imported, which takes seconds.
    if not data.exists():
        raise UserError(f"{data} does not exist: give a file of crystals")
    from ccdcgan.launchers.networks.energies import EnergyKey
    from ccdcgan.launchers.networks.train import figures_table, train

    if energy_per_atom and energy is None:
        raise UserError("--energy-per-atom says what the number of --energy is: name that, too")
    key = EnergyKey(energy, energy_per_atom) if energy is not None else None
    with progress_bars(console):
        manifest = train(
            data,
            out,
            stage=stage,
            preset=preset,
            system=system,
            seed=seed,
            properties=property_ or (),
            goals=goal or (),
            references=references,
            autoencoder=autoencoder,
            energy=key,
            say=say,
        )
    Console().print(figures_table(manifest))


def sample(
    models: Annotated[
        Path | None,
        typer.Argument(help="Folder of ccdcgan train; without one, any --composition is drawn."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="File .extxyz, .zip (CIF and CSV) or .json.")],
    count: Annotated[int, typer.Option(min=1, help="Crystals to draw.")] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    composition: Annotated[
        str | None, typer.Option(help="Formulas to draw in all cell sizes, as Bi2Se3,BiSe.")
    ] = None,
    atoms: Annotated[
        int | None, typer.Option(min=1, help="Most atoms in a cell of --composition.")
    ] = None,
    valid: Annotated[
        bool, typer.Option("--valid/--all", help="Only sensible distances and volumes, or all.")
    ] = True,
) -> None:
    """Draw crystals from trained networks, with their predicted properties."""
    from ccdcgan.launchers.networks.sample import SampleSettings, write_sample

    settings = SampleSettings(models, composition, count, seed, atoms, valid)
    with progress_bars(console):
        funnel = write_sample(out, settings)
    typer.echo(", ".join(f"{number} {what}" for what, number in funnel.items()))
