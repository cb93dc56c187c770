"""Phonons and elastic constants of a finished campaign's best crystals: ``ccdcgan stability``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from ccdcgan.dft.dynamics.document import StabilityFigures
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.finite import FiniteOrNone
from ccdcgan.launchers.local.run import run_campaign
from ccdcgan.launchers.results.results import Results
from ccdcgan.launchers.workdir import campaign_of
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.crystals import COPY_ENERGY
from ccdcgan.workflows.documents import Outcome
from ccdcgan.workflows.phases import ranked
from ccdcgan.workflows.sections import StabilitySettings


class ExaminedPhase(StabilityFigures):
    """A crystal with its place on the hull, and what it becomes where it is not stable."""

    id: str = Field(description="Content key of its relaxation.")
    formula: str
    spacegroup: str
    e_above_hull: FiniteOrNone = Field(description="eV/atom.")
    lower: str | None = Field(
        None, description="Content key of the lower crystal that an imaginary mode leads to."
    )
    lower_by: FiniteOrNone = Field(None, description="By how much that is lower, eV/atom.")


def stability(
    folder: Path, count: int, say: Callable[[str], None] = lambda line: None
) -> list[ExaminedPhase]:
    """Examine the best crystals of the campaign in a folder, which goes on with this stage.

    Parameters
    ----------
    count
        New crystals, nearest to the hull first.

    Raises
    ------
    UserError
        The folder holds no campaign, its engine gives no forces here, or it has found nothing near
        the hull.
    """
    campaign = campaign_of(folder)
    nothing = UserError(f"{folder} has no new crystal near the hull: there is nothing to examine")
    # A campaign that has ended is not touched in vain.
    ended = (folder / "summary.json").exists()
    if ended and not ranked(Results.in_folder(folder).phases(), campaign.thresholds):
        raise nothing
    wanted = StabilitySettings(count=count)
    data = campaign.model_dump() | {"stability": wanted}
    outcome = run_campaign(parse_campaign(data, str(folder)), folder, say=say)
    found = examined(outcome)
    if not found:
        raise nothing
    return found


def examined(outcome: Outcome) -> list[ExaminedPhase]:
    """The crystals of an outcome that have been examined, nearest to the hull first."""
    children = {
        p.origin.id.removeprefix("mode of "): p for p in outcome.phases if p.origin.source == "mode"
    }
    found = []
    for phase in sorted(outcome.phases, key=lambda p: p.e_above_hull or 0.0):
        if phase.stability is None:
            continue
        one = ExaminedPhase(
            id=phase.id,
            formula=phase.formula,
            spacegroup=phase.spacegroup,
            e_above_hull=phase.e_above_hull,
            **phase.stability.model_dump(),
        )
        child = children.get(phase.id)
        if child is not None and child.energy_per_atom is not None and child.converged:
            by = (phase.energy_per_atom or 0.0) - child.energy_per_atom
            # Else the mode has led back: the same crystal, lower by the optimiser's noise.
            if by > (0.0 if child.distinct else COPY_ENERGY):
                one.lower, one.lower_by = child.id, by
        found.append(one)
    return found
