"""Stage 3 as a job: draw crystal graphs, decode and screen them, choose what to relax."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from jobflow import Maker, job
from pymatgen.core import Composition, Structure

from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.stacking import stackings
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.sampling import (
    POTENTIAL,
    SPACE,
    Files,
    Predictor,
    draw_crystals,
    load_space,
)
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.choosing import Novelty, choose, expected_gain
from ccdcgan.workflows.documents import Candidate, Origin
from ccdcgan.workflows.jobs import worker_class
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.learn import crystals_of, load_files, preset_of, with_properties
from ccdcgan.workflows.prerelaxation import LearntCalculator, prerelaxed
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.storage.stores import artifact_key, cached_artifact

logger = logging.getLogger("ccdcgan")

#: So many times the crystals that are wanted, of a formula and in all, are pre-relaxed.
PRERELAXED = 6

#: Stackings of one formula that are judged, in units of those that may be relaxed of it.
STACKED = 3


class Judge:
    """Predicted formation energies (eV/atom) and gains of structures in a campaign.

    Parameters
    ----------
    files
        Of the trained constraint, and of the stages that it needs.
    found
        Errors of the constraint by property, as its job returns them.
    knowledge
        It makes the hull.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        files: Files,
        found: Mapping[str, Mapping[str, float]],
    ) -> None:
        settings = knowledge.campaign
        self.settings, self.found = settings, found
        preset = preset_of(settings)
        self.predict = Predictor(settings.elements, preset, files, settings.properties)
        self.gains = settings.loop.screening.choose == "gain"
        if self.gains:
            self.hull = knowledge.hull
            self.known: FloatArray = np.zeros((0, len(settings.properties)))
        # What is usual is asked of properties other than the formation energy only.
        if self.gains and len(settings.properties) > 1:
            samples = with_properties(knowledge.samples, settings.properties)
            self.known = crystals_of(samples, settings.properties).targets

    def __call__(
        self, crystals: list[Structure], potential: Potential | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Energies (n,) and gains (n,).

        Parameters
        ----------
        potential
            What has relaxed the crystals. Its energies then count as much as the constraint's, and
            the constraint errs as for relaxed crystals.
        """
        settings = self.settings
        members = self.predict(crystals)
        place = settings.properties.index(FORMATION_ENERGY)
        if potential is not None:
            calculator = LearntCalculator(potential, settings.elements)
            said = [
                self.hull.place(c, calculator.energy_per_atom(c)).formation_energy for c in crystals
            ]
            members[:, :, place] += (np.array(said) - members[:, :, place].mean(1))[:, None] / 2
        energies = members.mean(1)[:, place]
        gain = np.ones(len(crystals))
        if self.gains:
            kind = "unrelaxed" if potential is None else "mae"
            gain = expected_gain(
                members,
                # The paper's constraint has no errors of its own for what is not relaxed.
                {p: self.found[p].get(kind, self.found[p]["mae"]) for p in settings.properties},
                crystals,
                self.hull,
                settings.networks.goals,
                settings.thresholds.stable,
                self.known,
            )
        gain[~(energies <= settings.loop.screening.max_formation_energy)] = 0.0
        return energies, gain


def _prerelaxed(
    origins: list[Origin],
    crystals: list[Structure],
    gain: FloatArray,
    known: SeenStructures,
    novelty: Novelty,
    potential: bytes,
    settings: Campaign,
    limits: Limits,
) -> tuple[list[int], list[Structure]]:
    """Indices of the most promising crystals, and what the learnt potential makes of them."""
    loop, screening = settings.loop, settings.loop.screening
    # What is chosen here counts as known for this choice only.
    chosen = choose(
        crystals,
        gain,
        known.copy(),
        PRERELAXED * screening.per_formula,
        PRERELAXED * loop.relaxations,
        novelty.copy(),
        shortlist=4,
        stacked=[o.is_stacking for o in origins],
    )
    relaxed = prerelaxed(
        [crystals[i] for i in chosen],
        potential,
        settings.elements,
        screening.prerelax,
        settings.workers,
    )
    return chosen, [
        new if limits.allow(new) else crystals[i] for i, new in zip(chosen, relaxed, strict=True)
    ]


def left_out(energies: FloatArray, gain: FloatArray, most: float) -> dict[str, int]:
    """Why none of these crystals is chosen: reasons, and of how many crystals they are those.

    Parameters
    ----------
    energies, gain
        As of `Judge`.
    most
        Highest predicted formation energy, eV/atom.
    """
    idle = ~(gain > 0)
    judged = np.isfinite(energies)
    counts = {
        "beyond max_formation_energy, as predicted": idle & judged & (energies > most),
        "without a gain to be expected": idle & judged & (energies <= most),
        "not to be judged": idle & ~judged,
        "known already, or with atoms on each other": ~idle,
    }
    return {reason: int(which.sum()) for reason, which in counts.items() if which.any()}


def new_stackings(
    knowledge: Knowledge, known: SeenStructures, limits: Limits, number: int
) -> list[tuple[Origin, Structure]]:
    """New stackings of known crystals within the stable threshold of their hull."""
    settings = knowledge.campaign
    screening = settings.loop.screening
    parents = [
        (p.id, primitive_cell(decode_structure(p.structure)), p.e_above_hull)
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


def nothing_chosen(number: int, funnel: Mapping[str, Any]) -> str:
    """A line on a round that chose nothing to relax."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in funnel.get("left_out", {}).items())
    return (
        f"round {number} chose nothing to relax: of {funnel['sampled']} samples "
        f"{funnel['decoded']} were decoded, {funnel['valid']} valid; of what was judged: "
        f"{reasons or 'nothing'}"
    )


@dataclass
class GenerateMaker(Maker):
    """Candidates drawn by a trained generator."""

    name: str = "generate"

    @job(config=worker_class("gpu"))
    def make(
        self,
        entries: list[dict[str, Any]],
        autoencoder: dict[str, Any],
        constraint: dict[str, Any],
        gan: dict[str, Any],
        campaign: dict[str, Any],
        number: int,
    ) -> dict[str, Any]:
        """Return ``candidates`` for relaxation and the ``funnel`` that led to them."""
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        key = artifact_key("generated", gan["key"], settings.choice)

        def generate() -> dict[str, Any]:
            files = load_files(autoencoder, constraint, gan)
            errors = constraint["properties"]
            return self._generate(entries, files, errors, gan["key"], settings, number)

        artifact = cached_artifact(key, generate)
        return {**artifact, "seconds": monotonic() - start}

    @staticmethod
    def _generate(
        entries: list[dict[str, Any]],
        files: Files,
        errors: dict[str, dict[str, float]],
        gan_key: str,
        settings: Campaign,
        number: int,
    ) -> dict[str, Any]:
        stage = f"sampling, round {number}"
        loop, screening = settings.loop, settings.loop.screening
        progress.report(stage, 0, loop.samples)
        _, learnt = load_space(files[SPACE])
        limits = Limits.of(screening, learnt["extremes"])
        preset = preset_of(settings)
        noise_seed = settings.seed * 1000 + number
        decoded = draw_crystals(loop.samples, noise_seed, settings.elements, preset, files)
        valid = [
            (
                Origin(
                    kind="generated",
                    id=f"{preset.gan.variant}:{number}-{i}",
                    round=number,
                    model=gan_key,
                    sample=i,
                    noise_seed=noise_seed,
                ),
                crystal,
            )
            for i, crystal in enumerate(decoded)
            if crystal is not None and limits.allow(crystal)
        ]
        knowledge = Knowledge.of_job(entries, settings)
        known = knowledge.seen()
        stacked = []
        if loop.stackings:
            stacked = new_stackings(knowledge, known, limits, number)
        origins = [origin for origin, _ in valid + stacked]
        crystals = [crystal for _, crystal in valid + stacked]
        energies: FloatArray = np.full(len(crystals), np.nan)
        gain: FloatArray = np.ones(len(crystals))
        reasons = left_out(energies, gain, screening.max_formation_energy)
        novelty = None
        if preset.gan.variant != "dcgan":
            judge = Judge(knowledge, files, errors)
            energies, gain = judge(crystals)
            reasons = left_out(energies, gain, screening.max_formation_energy)
            if screening.choose == "gain":
                novelty = knowledge.novelty()
                knowledge.keep()
        was_prerelaxed = None
        if POTENTIAL in files and novelty is not None:
            shortlist, crystals = _prerelaxed(
                origins,
                crystals,
                gain,
                known,
                novelty,
                files[POTENTIAL],
                settings,
                limits,
            )
            origins = [origins[i] for i in shortlist]
            energies, gain = judge(crystals, Potential.from_bytes(files[POTENTIAL]))
            if crystals:
                reasons = left_out(energies, gain, screening.max_formation_energy)
            was_prerelaxed = True
        progress.report(stage, loop.samples, loop.samples)
        chosen = choose(
            crystals,
            gain,
            known,
            screening.per_formula,
            loop.relaxations,
            novelty,
            stacked=[o.is_stacking for o in origins],
        )
        candidates = []
        for n in chosen:
            energy = float(energies[n])
            predicted = {
                "predicted_formation_energy": energy if np.isfinite(energy) else None,
                "prerelaxed": was_prerelaxed,
            }
            origin = origins[n].model_copy(update=predicted)
            cell = primitive_cell(crystals[n])
            candidates.append(Candidate(origin=origin, structure=cell.as_dict()))
        funnel = {
            "sampled": loop.samples,
            "decoded": sum(s is not None for s in decoded),
            "valid": len(valid),
            "stackings": len(stacked) if loop.stackings else None,
            "screened": len(candidates),
            "left_out": {} if candidates else reasons,
        }
        if not candidates:
            logger.warning("%s", nothing_chosen(number, funnel))
        return {"candidates": [c.model_dump(mode="json") for c in candidates], "funnel": funnel}
