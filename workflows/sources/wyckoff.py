"""Candidates by the Wyckoff generator: symmetric crystals, built as known ones are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pymatgen.core import Composition, Structure

from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.spacegroups import ALL_GROUPS
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.gan.generators import draw_compositions
from ccdcgan.models.sampling import POTENTIAL
from ccdcgan.models.wyckoff.drawing import draw_placements, lowest_of
from ccdcgan.models.wyckoff.training import WyckoffModel
from ccdcgan.workflows.prerelaxation import LearntCalculator
from ccdcgan.workflows.sources.base import Context, Proposal
from ccdcgan.workflows.training import preset_of
from ccdcgan.workflows.wyckoff import adapted, compounds, pretrained

#: Draws for one candidate: in some placements the atoms have no room.
DRAWS = 2


def wyckoff(context: Context, count: int) -> list[Proposal]:
    """Space group and Wyckoff positions by the shipped networks, after the campaign's crystals."""
    rng, limits = context.rng("wyckoff"), context.limits
    groups = sorted(context.campaign.search.groups) or ALL_GROUPS
    asked = _compositions(context, DRAWS * count, rng)
    energy = _energy(context)

    def version(structure: Structure) -> Structure:
        return context.repaired(primitive_cell(structure))

    model = _model(context)
    found: list[Proposal] = []
    for number, placement in enumerate(draw_placements(asked, model, rng, groups)):
        if len(found) == count:
            break
        if placement is None:
            continue
        crystal = limits.version(lowest_of(placement, rng, energy, version, model.geometries))
        if crystal is not None:
            name = f"{placement.group}-{number}"
            found.append(Proposal(context.origin("wyckoff", name), crystal))
    return found


def _energy(context: Context) -> Callable[[Structure], float] | None:
    """Energies (eV/atom) by the potential that the campaign has learnt, if there is one."""
    if POTENTIAL not in context.files:
        return None
    potential = Potential.from_bytes(context.files[POTENTIAL])
    campaign = context.campaign
    calculator = LearntCalculator(potential, campaign.elements, campaign.relaxation.pressure)
    return calculator.energy_per_atom


def _model(context: Context) -> WyckoffModel:
    """The shipped model, or one that never saw what is left out, after the known crystals."""
    campaign, samples = context.campaign, context.knowledge.samples
    seed = campaign.seed_of("wyckoff", context.number)
    without = {Composition(f).anonymized_formula for f in campaign.database.without}
    model = pretrained(compounds(types=without), seed) if without else WyckoffModel.shipped()
    structures = [s.structure for s in samples]
    return adapted(model, structures, [s.properties["e_above_hull"] for s in samples], seed)


def _compositions(context: Context, count: int, rng: np.random.Generator) -> list[dict[str, int]]:
    """Those that are searched for, else as the default generator draws them."""
    campaign = context.campaign
    elements, most = campaign.elements, context.limits.max_sites
    if asked := campaign.searched():
        rows = np.array(asked)[rng.integers(len(asked), size=count)]
    else:
        settings = preset_of(campaign).gan
        known = [p for p in context.parents if context.is_whole(p.cell)]
        atoms = np.array([[p.cell.composition[e] for e in elements] for p in known])
        above = np.array([p.phase.e_above_hull or 0.0 for p in known])
        weights = np.exp(-np.maximum(above, 0.0) / (settings.energy_scale or np.inf))
        u = rng.random((count, 1 + 2 * len(elements)))
        drawn = draw_compositions(atoms, weights, u, settings.composition_jitter)
        rows = drawn[drawn.sum(1) <= most]
    return [dict(zip(elements, map(int, row), strict=True)) for row in rows]
