"""Generated candidates of one round: drawn, judged, pre-relaxed by what was learnt, chosen."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pymatgen.core import Composition, Structure

from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.stacking import stackings
from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.sampling import POTENTIAL, SPACE, Files, draw_crystals, load_space
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.choosing import Novelty, choose
from ccdcgan.workflows.documents import Candidate, Funnel, Origin
from ccdcgan.workflows.judge import Judge, left_out
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.prerelaxation import prerelaxed
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.training import preset_of

logger = logging.getLogger("ccdcgan")

#: So many times the crystals that are wanted, of a formula and in all, are pre-relaxed.
PRERELAXED = 6


#: Stackings of one formula that are judged, in units of those that may be relaxed of it.
STACKED = 3


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
    def of(cls, pairs: Sequence[tuple[Origin, Structure]]) -> Pool:
        """Crystals that nobody has judged."""
        origins, crystals = [o for o, _ in pairs], [c for _, c in pairs]
        return cls(origins, crystals, np.full(len(pairs), np.nan), np.ones(len(pairs)))

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
    limits = Limits.of(screening, load_space(files[SPACE])[1]["extremes"])
    drawn = draw(settings, files, model, number)
    valid = [(origin, c) for origin, c in drawn if c is not None and limits.allow(c)]
    known = knowledge.seen()
    stacked = new_stackings(knowledge, known, limits, number) if loop.stackings else []
    pool, novelty, reasons = judged(
        Pool.of(valid + stacked), knowledge, known, files, errors, limits
    )
    progress.report(stage, loop.samples, loop.samples)
    chosen = choose(
        pool.crystals,
        pool.gain,
        known,
        screening.per_formula,
        loop.relaxations,
        novelty,
        stacked=pool.stacked,
    )
    funnel = Funnel(
        sampled=loop.samples,
        decoded=sum(c is not None for _, c in drawn),
        valid=len(valid),
        stackings=len(stacked) if loop.stackings else None,
        screened=len(chosen),
        left_out={} if chosen else reasons,
    )
    if not chosen:
        logger.warning("%s", funnel.nothing_chosen(number))
    return [pool.candidate(n) for n in chosen], funnel


def draw(
    campaign: Campaign, files: Files, model: str, number: int
) -> list[tuple[Origin, Structure | None]]:
    """Samples of a generator; None where a crystal graph could not be decoded."""
    preset, noise_seed = preset_of(campaign), campaign.seed * 1000 + number
    decoded = draw_crystals(campaign.loop.samples, noise_seed, campaign.elements, preset, files)
    return [
        (
            Origin(
                kind="generated",
                id=f"{preset.gan.variant}:{number}-{i}",
                round=number,
                model=model,
                sample=i,
                noise_seed=noise_seed,
            ),
            crystal,
        )
        for i, crystal in enumerate(decoded)
    ]


def judged(
    pool: Pool,
    knowledge: Knowledge,
    known: SeenStructures,
    files: Files,
    errors: Mapping[str, PropertyErrors],
    limits: Limits,
) -> tuple[Pool, Novelty | None, dict[str, int]]:
    """Crystals with what is predicted of them; the best pre-relaxed where there is a potential.

    Returns
    -------
    pool, novelty, reasons
        Novelty where the gain chooses; reasons, as of `left_out`, in case nothing is chosen.
    """
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
        pool = _prerelaxed(pool, known, novelty, files[POTENTIAL], knowledge.campaign, limits)
        energies, gain = judge(pool.crystals, Potential.from_bytes(files[POTENTIAL]))
        pool = replace(pool, energies=energies, gain=gain)
        if pool.crystals:
            reasons = left_out(energies, gain, most)
    return pool, novelty, reasons


def _prerelaxed(
    pool: Pool,
    known: SeenStructures,
    novelty: Novelty,
    potential: bytes,
    settings: Campaign,
    limits: Limits,
) -> Pool:
    """The most promising crystals as the learnt potential relaxes them."""
    loop, screening = settings.loop, settings.loop.screening
    # What is chosen here counts as known for this choice only.
    chosen = choose(
        pool.crystals,
        pool.gain,
        known.copy(),
        PRERELAXED * screening.per_formula,
        PRERELAXED * loop.relaxations,
        novelty.copy(),
        shortlist=4,
        stacked=pool.stacked,
    )
    before = [pool.crystals[i] for i in chosen]
    relaxed = prerelaxed(before, potential, settings.elements, screening.prerelax, settings.workers)
    crystals = [new if limits.allow(new) else old for old, new in zip(before, relaxed, strict=True)]
    origins = [pool.origins[i] for i in chosen]
    return Pool(origins, crystals, pool.energies[chosen], pool.gain[chosen], True)


def new_stackings(
    knowledge: Knowledge, known: SeenStructures, limits: Limits, number: int
) -> list[tuple[Origin, Structure]]:
    """New stackings of known crystals within the stable threshold of their hull."""
    settings = knowledge.campaign
    screening = settings.loop.screening
    parents = [
        (p.id, primitive_cell(p.structure), p.e_above_hull)
        for p in knowledge.phases
        if p.distinct
        and p.e_above_hull is not None
        and p.e_above_hull <= settings.thresholds.stable
    ]
    if not parents:
        return []
    keys, crystals, distances = zip(*parents, strict=True)
    seen, counts = known.copy(), Counter[str]()
    found: list[tuple[Origin, Structure]] = []
    for parts, made in stackings(crystals, distances, limits.max_sites):
        composition = sum((crystals[i].composition for i in parts), Composition())
        formula = composition.reduced_formula
        if len(composition) < len(settings.elements):
            continue
        name = "+".join(keys[i][:8] for i in parts)
        origin = Origin(kind="generated", id=f"stacking:{name}", round=number)
        for crystal in made:
            if len(found) == settings.loop.stackings:
                return found
            if counts[formula] == STACKED * screening.per_formula:
                break
            if limits.allow(crystal) and seen.add_if_new(crystal):
                counts[formula] += 1
                found.append((origin, crystal))
    return found
