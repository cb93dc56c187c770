"""Campaigns, predictions and relaxations for programs: what ``ccdcgan`` offers by import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pymatgen.core import Structure

from ccdcgan.dft.engines.base import CalculatorEngine
from ccdcgan.dft.engines.registry import engine_of
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import elements_of
from ccdcgan.dft.relaxation.processes import relax_many
from ccdcgan.dft.relaxation.settings import DEFAULT_ENGINE, RelaxationSettings
from ccdcgan.launchers.local import predict as search
from ccdcgan.launchers.local.presets import default_campaign
from ccdcgan.launchers.local.run import run_campaign
from ccdcgan.launchers.results.results import Results
from ccdcgan.workflows.campaign import Campaign, load_campaign

Say = Callable[[str], None]


def _quiet(line: str) -> None:
    """Say nothing."""


def run(
    campaign: Campaign | Path | str | None = None,
    folder: Path | str = "ccdcgan-run",
    *,
    reuse: Sequence[Path] = (),
    say: Say = _quiet,
) -> Results:
    """Run a campaign on this machine, or what is left of it.

    Parameters
    ----------
    campaign
        The campaign, or its file; None for Bi-Se in minutes.
    folder
        Where it is kept, and `report.html` is written. The same call goes on there after an
        interruption.
    reuse
        Folders of campaigns whose relaxations are taken where they are the same.
    say
        Gets lines for the user.

    Returns
    -------
    Its phases, to be asked.

    Raises
    ------
    UserError
        Something is missing or does not fit; the message says what to do.

    Examples
    --------
    >>> import ccdcgan
    >>> campaign = ccdcgan.Campaign(system="Bi-Se", seed=1)
    >>> results = ccdcgan.run(campaign, "my-run")  # doctest: +SKIP
    """
    if campaign is None:
        campaign = default_campaign()
    elif not isinstance(campaign, Campaign):
        campaign = load_campaign(Path(campaign))
    folder = Path(folder)
    run_campaign(campaign, folder, reuse, say)
    return Results.in_folder(folder)


def predict(
    formula: str,
    folder: Path | str | None = None,
    *,
    budget: int = 200,
    minutes: float | None = None,
    wishes: search.Wishes | None = None,
    campaign: Campaign | None = None,
    say: Say = _quiet,
) -> search.Prediction:
    """Search for the crystal structure of one composition.

    Parameters
    ----------
    formula
        A compound, as Bi2Se3.
    folder
        Where the search is kept; by default one named after the formula in ``ccdcgan-predict``.
        The same call goes on there, also with a larger budget.
    budget
        No further round begins once so many structures have been relaxed.
    minutes
        Nor after this time; None for no limit.
    wishes
        Size of the cell, space groups, pressure (GPa), seed.
    campaign
        Where engine, relaxation, networks and number of workers come from.
    say
        Gets lines for the user.

    Returns
    -------
    The crystals of this composition, lowest first.

    Raises
    ------
    UserError
        The formula is none, of one element, or does not fit the wishes.

    Examples
    --------
    >>> import ccdcgan
    >>> ccdcgan.predict("Bi2Se3", budget=100).structures[0].spacegroup  # doctest: +SKIP
    'R-3m (166)'
    """
    settings = search.campaign_of(formula, wishes, campaign)
    (reduced,) = settings.search.compositions
    where = Path("ccdcgan-predict") / reduced if folder is None else Path(folder)
    return search.predict(settings, where, budget, minutes, say)


def relax(
    structures: Structure | Sequence[Structure],
    settings: RelaxationSettings | str | None = None,
    *,
    workers: int | None = None,
) -> list[Relaxation]:
    """Relax cell and positions of crystals with the gates and the engine of a campaign.

    Parameters
    ----------
    structures
        One or more.
    settings
        Those of a campaign (`Campaign.relaxation`), or the name of an engine; by default the
        default engine.
    workers
        Processes; by default one a core.

    Returns
    -------
    One for each structure: relaxed structure, energy (eV/atom) and level of theory, or the reason
    why there is none.

    Raises
    ------
    UserError
        The engine cannot be used here.

    Examples
    --------
    >>> import ccdcgan
    >>> from pymatgen.core import Lattice, Structure
    >>> bise = Structure(Lattice.cubic(3.6), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> ccdcgan.relax(bise, "sevennet")[0].converged  # doctest: +SKIP
    True
    """
    crystals = [structures] if isinstance(structures, Structure) else list(structures)
    if not isinstance(settings, RelaxationSettings):
        engine = DEFAULT_ENGINE if settings is None else engine_of(f"name: {settings}")
        settings = RelaxationSettings(engine=engine)
    if not isinstance(settings.engine, CalculatorEngine):
        raise UserError(f"{settings.engine.name} relaxes in campaigns: choose another engine")
    settings.check(sorted({e for s in crystals for e in elements_of(s)}))
    found = dict(relax_many(crystals, settings, workers))
    return [found[number] for number in range(len(crystals))]
