"""Stage 3 as a job: draw crystal graphs, decode and screen them, choose what to relax."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from jobflow import Maker, job
from pymatgen.core import Structure

from ccdcgan.dft.matching import SeenStructures
from ccdcgan.dft.relaxation import shortest_distance
from ccdcgan.dft.sources import primitive_cell
from ccdcgan.models.gan import sample
from ccdcgan.models.training import model_from_bytes
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign, Screening
from ccdcgan.workflows.database import worker_class
from ccdcgan.workflows.documents import Candidate, Entry, Origin
from ccdcgan.workflows.learning import crystal_graphs, load_space, predict_formation_energy
from ccdcgan.workflows.phases import build_hull
from ccdcgan.workflows.stores import Relaxations, artifact_key, cached_artifact, load_artifact


def is_valid(structure: Structure, screening: Screening) -> bool:
    """Whether a decoded crystal has sensible distances, volume and size."""
    volume = structure.volume / len(structure)
    return (
        len(structure) <= screening.max_sites
        and screening.volume_range[0] <= volume <= screening.volume_range[1]
        and shortest_distance(structure.to_ase_atoms()) >= screening.min_distance
    )


def choose(
    structures: Sequence[Structure],
    score: Sequence[float],
    known: SeenStructures,
    per_formula: int,
    count: int,
) -> list[int]:
    """Indices of the best new structures, lowest score first, few of each formula.

    `known` learns what is chosen, so that nothing is chosen twice.
    """
    chosen: list[int] = []
    formulas: Counter[str] = Counter()
    for i in np.argsort(np.asarray(score), kind="stable"):
        if len(chosen) == count:
            break
        formula = structures[i].composition.reduced_formula
        if formulas[formula] < per_formula and known.add_if_new(structures[i]):
            formulas[formula] += 1
            chosen.append(int(i))
    return chosen


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
        key = artifact_key(
            "generated", gan["key"], settings.loop.model_dump(mode="json"), settings.seed, number
        )

        def generate() -> dict[str, Any]:
            return self._generate(entries, autoencoder, constraint, gan, settings, number)

        artifact = cached_artifact(key, generate)
        return {**artifact, "seconds": monotonic() - start}

    @staticmethod
    def _generate(
        entries: list[dict[str, Any]],
        autoencoder: dict[str, Any],
        constraint: dict[str, Any],
        gan: dict[str, Any],
        settings: Campaign,
        number: int,
    ) -> dict[str, Any]:
        stage = f"sampling, round {number}"
        loop, screening = settings.loop, settings.loop.screening
        progress.report(stage, 0, loop.samples)
        graphs = crystal_graphs(settings, load_artifact(autoencoder["key"]))
        trained = load_artifact(constraint["key"])
        space, _ = load_space(trained["space"])
        generator = model_from_bytes(load_artifact(gan["key"])["generator"])
        noise_seed = settings.seed * 1000 + number
        rows = sample(generator, loop.samples, noise_seed)
        decoded = graphs.decode(space.inverse(rows))
        progress.report(stage, loop.samples, loop.samples)
        crystals = [(i, s) for i, s in enumerate(decoded) if s is not None]
        valid = [(i, s) for i, s in crystals if is_valid(s, screening)]
        structures = [s for _, s in valid]
        energies = np.zeros(len(structures))
        score = np.arange(len(structures), dtype=float)
        documents = Relaxations().get([Entry.model_validate(e).key for e in entries])
        if settings.networks.variant != "dcgan" and structures:
            energies = predict_formation_energy(
                structures, graphs, space, model_from_bytes(trained["model"])
            ).mean(1)
            hull = build_hull(list(documents.values()), settings)
            compositions = [s.composition for s in structures]
            ground = [hull.hull_energy(c) for c in compositions]
            score = energies - np.array(ground)
            score[energies > screening.max_formation_energy] = np.inf
        keep = [n for n in range(len(structures)) if np.isfinite(score[n])]
        known = SeenStructures(
            Structure.from_dict(s)
            for d in documents.values()
            for s in (d.structure, d.initial_structure)
        )
        chosen = choose(
            [structures[n] for n in keep],
            [score[n] for n in keep],
            known,
            screening.per_formula,
            loop.relaxations,
        )
        candidates = []
        for n in (keep[c] for c in chosen):
            origin = Origin(
                kind="generated",
                id=f"{settings.networks.variant}:{number}-{valid[n][0]}",
                round=number,
                model=gan["key"],
                sample=valid[n][0],
                noise_seed=noise_seed,
                predicted_formation_energy=float(energies[n]),
            )
            cell = primitive_cell(structures[n])
            candidates.append(Candidate(origin=origin, structure=cell.as_dict()))
        return {
            "candidates": [c.model_dump(mode="json") for c in candidates],
            "funnel": {
                "sampled": loop.samples,
                "decoded": len(crystals),
                "valid": len(valid),
                "screened": len(candidates),
            },
        }
