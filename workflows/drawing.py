"""Generated candidates of one round: drawn, judged, pre-relaxed by what was learnt, chosen."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.spacegroups import in_groups
from ccdcgan.dft.structures.symmetry import ladder
from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.representation.default import anchored
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.sampling import POTENTIAL, Files, crystal_graphs
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.choosing import Novelty, choose, region
from ccdcgan.workflows.describe import latent_map
from ccdcgan.workflows.documents import Candidate, Funnel, Origin
from ccdcgan.workflows.insight import LatentMap
from ccdcgan.workflows.judge import Judge, left_out
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.prerelaxation import LearntCalculator, prerelaxed
from ccdcgan.workflows.propose import key_of
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.sources.base import Context, Proposal
from ccdcgan.workflows.sources.budget import rewards, shares
from ccdcgan.workflows.sources.registry import source_of
from ccdcgan.workflows.training import preset_of

logger = logging.getLogger("ccdcgan")

#: So many times the crystals that are wanted, of a formula and in all, are pre-relaxed.
PRERELAXED = 6

#: Most known crystals in the map of the latent space, nearest to the hull first.
MAPPED = 1000

#: By less than this (eV/atom) the learnt potential does not tell versions of a crystal apart.
EVEN = 0.005


@dataclass
class Pool:
    """Crystals to choose from, all in one order.

    Attributes
    ----------
    origins, crystals
        Where each came from, and what it is.
    energies : array (n,)
        Predicted formation energies, eV/atom; NaN where nobody has judged.
    gain : array (n,)
        Expected gains, as of `Judge`; one where nobody has judged.
    prerelaxed
        Whether a learnt potential has relaxed them.
    """

    origins: list[Origin]
    crystals: list[Structure]
    energies: FloatArray
    gain: FloatArray
    prerelaxed: bool | None = None

    @classmethod
    def of(cls, proposals: Sequence[Proposal]) -> Pool:
        """Crystals that nobody has judged."""
        crystals = [p.structure for p in proposals if p.structure is not None]
        n = len(crystals)
        return cls([p.origin for p in proposals], crystals, np.full(n, np.nan), np.ones(n))

    @property
    def stacked(self) -> list[bool]:
        return [origin.is_stacking for origin in self.origins]

    def candidate(self, number: int) -> Candidate:
        """One of them, with what is predicted of it."""
        energy = float(self.energies[number])
        predicted = {
            "predicted_formation_energy": energy if np.isfinite(energy) else None,
            "prerelaxed": self.prerelaxed,
        }
        origin = self.origins[number].model_copy(update=predicted)
        return Candidate(origin=origin, structure=primitive_cell(self.crystals[number]))


def generated(
    knowledge: Knowledge,
    files: Files,
    errors: Mapping[str, PropertyErrors],
    model: str,
    number: int,
) -> tuple[list[Candidate], Funnel]:
    """Candidates of one round, and the funnel that led to them.

    Parameters
    ----------
    knowledge
        Of what has been relaxed; it grows by what the novelty of the candidates asks for.
    files, errors
        Of the trained networks, and of the constraint by property.
    model, number
        Key of the generator, and the round.
    """
    settings = knowledge.campaign
    loop, screening = settings.loop, settings.loop.screening
    stage = f"sampling, round {number}"
    progress.report(stage, 0, loop.samples)
    context = Context(knowledge, knowledge.seen(), files, model, number)
    proposals = proposed(context)
    decoded = [p for p in proposals if p.structure is not None]
    versions = [p._replace(structure=context.limits.version(p.structure)) for p in decoded]
    valid = [p for p in versions if p.structure is not None]
    pool, novelty, reasons = judged(Pool.of(valid), context, errors)
    progress.report(stage, loop.samples, loop.samples)
    if screening.selection == "sample":
        order = context.rng("sample").permutation(len(pool.crystals))
        chosen = sorted(int(i) for i in order[: loop.relaxations])
    else:
        chosen = choose(
            pool.crystals,
            pool.gain,
            context.seen,
            screening.per_formula,
            loop.relaxations,
            novelty,
            stacked=pool.stacked,
            regions=_regions(pool, settings),
        )
    funnel = Funnel(
        sampled=len(proposals),
        decoded=len(decoded),
        valid=len(valid),
        proposed=dict.fromkeys(settings.sources, 0) | Counter(p.origin.source_name for p in valid),
        screened=len(chosen),
        left_out={} if chosen else reasons,
    )
    for source, count in funnel.proposed.items():
        if not count:
            logger.warning("round %d: the source %s had nothing to propose", number, source)
    if not chosen:
        logger.warning("%s", funnel.nothing_chosen(number))
    return [pool.candidate(n) for n in chosen], funnel


def mapped(knowledge: Knowledge, files: Files, candidates: Sequence[Candidate]) -> LatentMap | None:
    """Crystal graphs of known crystals, at most `MAPPED`, and of candidates on a plane."""
    campaign = knowledge.campaign
    known = sorted(knowledge.samples, key=lambda s: s.properties["e_above_hull"])[:MAPPED]
    graphs = crystal_graphs(campaign.elements, preset_of(campaign), files)
    named = [(s.key, s.structure) for s in known]
    named += [(key_of(c, campaign.relaxation), c.structure) for c in candidates]
    cells = [(key, anchored(structure, 1)[0]) for key, structure in named]
    fitting = {key: cell for key, cell in cells if graphs.fits(cell)}
    if not fitting:
        return None
    return latent_map(list(fitting), np.asarray(graphs.encode(list(fitting.values()))))


def proposed(context: Context) -> list[Proposal]:
    """Candidates of all sources; what one leaves of its share goes to those after it."""
    campaign = context.campaign
    brought = rewards(context.knowledge.phases, campaign.thresholds.stable)
    share = shares(campaign.sources, brought, context.rng("budget"))
    found: list[Proposal] = []
    for number, name in enumerate(campaign.sources):
        left = max(campaign.loop.samples - len(found), 0)
        count = round(left * share[name] / sum(share[n] for n in campaign.sources[number:]))
        if name == "stackings":
            count = max(count, campaign.loop.stackings)
        found += source_of(name)(context, count)
    return found


def judged(
    pool: Pool, context: Context, errors: Mapping[str, PropertyErrors]
) -> tuple[Pool, Novelty | None, dict[str, int]]:
    """Crystals with what is predicted of them; the best pre-relaxed where there is a potential.

    Returns
    -------
    pool, novelty, reasons
        Novelty where the gain chooses; reasons, as of `left_out`, in case nothing is chosen.
    """
    knowledge, files = context.knowledge, context.files
    screening = knowledge.campaign.loop.screening
    most = screening.max_formation_energy
    reasons = left_out(pool.energies, pool.gain, most)
    if preset_of(knowledge.campaign).gan.variant == "dcgan":
        return pool, None, reasons
    judge = Judge(knowledge, files, errors)
    energies, gain = judge(pool.crystals)
    pool = replace(pool, energies=energies, gain=gain)
    reasons = left_out(energies, gain, most)
    if screening.selection != "expected_gain":
        return pool, None, reasons
    novelty = knowledge.novelty()
    knowledge.keep()
    if POTENTIAL in files:
        pool = _prerelaxed(pool, context, novelty)
        energies, gain = judge(pool.crystals, Potential.from_bytes(files[POTENTIAL]))
        pool = replace(pool, energies=energies, gain=gain)
        if pool.crystals:
            reasons = left_out(energies, gain, most)
    return pool, novelty, reasons


def _regions(pool: Pool, campaign: Campaign) -> list[tuple[int, ...]] | None:
    """Regions of composition to spread over; None where the campaign names its compositions."""
    if campaign.search.compositions:
        return None
    return [region(crystal, campaign.elements) for crystal in pool.crystals]


def _prerelaxed(pool: Pool, context: Context, novelty: Novelty) -> Pool:
    """The most promising crystals as the learnt potential relaxes them."""
    settings, limits = context.campaign, context.limits
    loop, screening = settings.loop, settings.loop.screening
    # What is chosen here counts as known for this choice only.
    chosen = choose(
        pool.crystals,
        pool.gain,
        context.seen.copy(),
        PRERELAXED * screening.per_formula,
        PRERELAXED * loop.relaxations,
        novelty.copy(),
        shortlist=4,
        stacked=pool.stacked,
        regions=_regions(pool, settings),
    )
    potential = context.files[POTENTIAL]
    relax = partial(
        prerelaxed,
        potential=potential,
        elements=settings.elements,
        steps=screening.prerelax,
        workers=settings.workers,
        pressure=settings.relaxation.pressure,
    )
    owners, before = _with_symmetric(chosen, [pool.crystals[i] for i in chosen], limits)
    after = [n if limits.allow(n) else o for o, n in zip(before, relax(before), strict=True)]
    # What has come near a symmetry on its way is also relaxed within it.
    owners, versions = _with_symmetric(owners, after, limits)
    every = [*after, *relax(versions[len(after) :])]
    asked = [i for i, crystal in enumerate(every) if in_groups(crystal, limits.groups)]
    owners, crystals = [owners[i] for i in asked], [every[i] for i in asked]
    calculator = LearntCalculator(
        Potential.from_bytes(potential), settings.elements, settings.relaxation.pressure
    )
    energies = [calculator.energy_per_atom(c) for c in crystals]
    kept = _most_symmetric(owners, energies)
    numbers = [owners[i] for i in kept]
    return Pool(
        [pool.origins[i] for i in numbers],
        [crystals[i] for i in kept],
        pool.energies[numbers],
        pool.gain[numbers],
        True,
    )


def _with_symmetric(
    owners: Sequence[int], crystals: Sequence[Structure], limits: Limits
) -> tuple[list[int], list[Structure]]:
    """Crystals, and after them their versions of higher symmetry, each with its number."""
    higher = [
        (owner, version)
        for owner, crystal in zip(owners, crystals, strict=True)
        for version in ladder(crystal)
        if in_groups(version, limits.groups)
    ]
    return [*owners, *(o for o, _ in higher)], [*crystals, *(s for _, s in higher)]


def _most_symmetric(owners: Sequence[int], energies: Sequence[float]) -> list[int]:
    """Of the versions of each crystal the last that is not above the lowest by more than `EVEN`."""
    lowest: dict[int, float] = {}
    for owner, energy in zip(owners, energies, strict=True):
        lowest[owner] = min(energy, lowest.get(owner, energy))
    kept = {o: i for i, o in enumerate(owners) if energies[i] <= lowest[o] + EVEN}
    return list(kept.values())
