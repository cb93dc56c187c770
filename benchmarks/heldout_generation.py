"""Whether a generator draws crystals that it has never seen: held-out prototypes found again.

    OMP_NUM_THREADS=1 python benchmarks/heldout_generation.py [--quick] [--generator wyckoff]
        [--count 10000] [--seeds 0 1 2] [--folder benchmarks/heldout_generation] [--workers N]

Of the Bi-Se crystals made from AFLOW prototypes that `benchmarks/yield` keeps (relaxed by
SevenNet-0), a fifth is held out, by whole formulas and by whole families of prototypes: a tenth of
the formulas, a tenth of the families. The generator learns from the others; of AFLOW's own
compounds, too, those of held-out families and formulas are left out. It is asked for the
compositions of what was held out, in turn, `--count` crystals for each seed, once trained and once
untrained. All are mended alike, and relaxed by the potential that the campaign learns from the
others. No engine is called. A held-out crystal is found if one drawn matches it (StructureMatcher
0.2, 0.3, 5°). The figures of each seed are kept in the folder: the same command goes on.

Generators: `wyckoff` (the Wyckoff generator), `ccdcgan` (the paper's variant in the preset
quickstart; untrained, it is its prior of blended crystals).

With --quick a tenth is drawn, with seed 0 alone; the Wyckoff generator's weights are those that are
shipped, which have not seen what seed 0 holds out, and of the Bi-Se crystals it learns nothing.

Prints a line for each seed, and last one JSON line: drawn, heldout (crystals, over the seeds),
trained and untrained (found of them after the potential), their ratio, and its 95% interval low,
high, by drawing formulas again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from pydantic import BaseModel
from pymatgen.core import Structure

from ccdcgan.dft.files import write_atomically
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.models.energy.goals import Goal
from ccdcgan.models.energy.potential import fit_potential
from ccdcgan.models.gan.generators import build_dense_generator
from ccdcgan.models.pipeline import train_constraints, train_generator
from ccdcgan.models.presets import PRESETS
from ccdcgan.models.repair import resized, separated, shortest_distances, usual_volumes
from ccdcgan.models.sampling import (
    GENERATOR,
    SPACE,
    crystal_graphs,
    draw_crystals,
    load_space,
    shipped_autoencoder,
)
from ccdcgan.models.saved import model_bytes
from ccdcgan.models.wyckoff.drawing import draw_placements, lowest_of
from ccdcgan.models.wyckoff.training import WyckoffModel
from ccdcgan.workflows.documents import Claim, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.prerelaxation import LearntCalculator, prerelaxed
from ccdcgan.workflows.training import crystals_of, frames_of
from ccdcgan.workflows.wyckoff import adapted, compounds, family_of, pretrained

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
kept = import_module("yield")

ELEMENTS = list(kept.ELEMENTS)
CAMPAIGN = kept.campaign_of("ccdcgan", 0, 200, 4000)
GENERATORS = ("wyckoff", "ccdcgan")
Arm = Literal["trained", "untrained"]

#: Of the formulas and of the families, how many are held out.
SHARE = 0.1

#: Distance to the hull within which held-out crystals are counted apart, eV/atom.
NEAR = 0.1

#: Steps by the learnt potential, as in a campaign.
STEPS = 200

#: Of how many drawings of formulas the interval is made.
RESAMPLED = 10_000


class Found(BaseModel):
    """What one arm of a seed has found; lists go with the held-out crystals."""

    drawn: int
    made: int
    formulas: list[str]
    near_hull: list[bool]
    before: list[bool]
    after: list[bool]
    seconds: float


@dataclass
class Split:
    """Relaxations to learn from, and those that are held out."""

    learnt: list[RelaxationDocument]
    heldout: list[Structure]
    near_hull: list[bool]
    formulas: set[str]
    families: set[str]

    @classmethod
    def of(cls, documents: Sequence[RelaxationDocument], seed: int) -> Split:
        """The split of a seed."""
        rng = np.random.default_rng([seed, 24])
        formulas = _tenth([_formula(d.structure) for d in documents], rng)
        families = _tenth([family_of(d.origin.id) for d in documents], rng)
        out = [
            d
            for d in documents
            if _formula(d.structure) in formulas or family_of(d.origin.id) in families
        ]
        keys = {d.key for d in out}
        stay = [d for d in documents if d.key not in keys]
        # What has relaxed into a crystal that stays is no crystal never seen.
        seen, distinct = SeenStructures(d.structure for d in stay), []
        for document in out:
            if len(document.structure.composition) == len(ELEMENTS) and seen.add_if_new(
                document.structure
            ):
                distinct.append(document)
        samples = {s.key: s for s in knowledge_of(documents).samples}
        near = [
            d.key in samples and samples[d.key].properties["e_above_hull"] <= NEAR for d in distinct
        ]
        return cls(stay, [d.structure for d in distinct], near, formulas, families)


def knowledge_of(documents: Sequence[RelaxationDocument]) -> Knowledge:
    """What a campaign knows of these relaxations."""
    every = {d.key: d for d in documents}
    return Knowledge(CAMPAIGN, every, [Claim(key=k, origin=d.origin) for k, d in every.items()])


def _tenth(names: Sequence[str], rng: np.random.Generator) -> set[str]:
    every = sorted(set(names))
    return set(rng.choice(every, max(1, round(SHARE * len(every))), replace=False).tolist())


def _formula(structure: Structure) -> str:
    return str(structure.composition.reduced_formula)


def database() -> list[RelaxationDocument]:
    """Converged Bi-Se crystals made from AFLOW prototypes, elements among them."""
    path = HERE / "yield" / "relaxations.jsonl.gz"
    archive = kept.Archive(path, kept.RELAXATION, kept.ELEMENTS)
    return [
        d for d in archive.documents.values() if d.converged and d.origin.id.startswith("aflow:")
    ]


def asked_for(split: Split, count: int) -> list[dict[str, int]]:
    """Numbers of atoms of the held-out crystals, in turn."""
    cells = sorted({tuple(int(s.composition[e]) for e in ELEMENTS) for s in split.heldout})
    return [dict(zip(ELEMENTS, cells[i % len(cells)], strict=True)) for i in range(count)]


def by_wyckoff(
    split: Split, arm: Arm, count: int, seed: int, quick: bool, tools: Tools
) -> list[Structure]:
    """Crystals of the Wyckoff generator, their cells and coordinates chosen as in a campaign."""
    if arm == "untrained":
        model = WyckoffModel.untrained(seed)
    elif quick:
        model = WyckoffModel.shipped()
    else:
        samples = knowledge_of(split.learnt).samples
        model = adapted(
            pretrained(compounds(split.families, split.formulas), seed),
            [s.structure for s in samples],
            [s.properties["e_above_hull"] for s in samples],
            seed,
        )
    rng = np.random.default_rng([seed, 1])
    placements = draw_placements(asked_for(split, count), model, rng)
    return [
        lowest_of(p, rng, tools.energy, tools.mend, model.geometries)
        for p in placements
        if p is not None
    ]


def by_ccdcgan(
    split: Split, arm: Arm, count: int, seed: int, quick: bool, tools: Tools
) -> list[Structure]:
    """Crystals of the CCDCGAN, or of its prior."""
    preset = PRESETS["quickstart"]
    crystals = crystals_of(knowledge_of(split.learnt).samples, CAMPAIGN.properties)
    files = shipped_autoencoder()
    trained, _ = train_constraints(crystals, ELEMENTS, preset, files, seed)
    files |= trained
    if arm == "trained":
        trained, _ = train_generator(CAMPAIGN.properties, [Goal()], ELEMENTS, preset, files, seed)
        files |= trained
    else:
        space, arrays = load_space(files[SPACE])
        rows = arrays["rows"]
        conditions = crystal_graphs(ELEMENTS, preset, files).conditions(space, rows)
        weights = 1.0 / np.bincount(arrays["owner"])[arrays["owner"]]
        near = np.exp(-np.maximum(arrays["e_above_hull"], 0.0) / (preset.gan.energy_scale or 1.0))
        prior = build_dense_generator(
            space.forward(rows), weights * near[arrays["owner"]], preset.gan, conditions
        )
        files[GENERATOR] = model_bytes(prior)
    wanted = asked_for(split, count)
    atoms = np.array([[one[e] for e in ELEMENTS] for one in wanted], float)
    unique = np.unique(atoms, axis=0)
    drawn = draw_crystals(count, seed, ELEMENTS, preset, files, unique)
    return [tools.mend(s) for s in drawn if s is not None]


class Tools:
    """What a campaign has learnt beside its generator: usual volumes, distances, a potential."""

    def __init__(self, split: Split, seed: int) -> None:
        known = [d.structure for d in split.learnt]
        self._volumes = usual_volumes(known, ELEMENTS, np.ones(len(known)))
        self._shortest = shortest_distances(known, ELEMENTS)
        frames = frames_of({d.key: d for d in split.learnt}, CAMPAIGN)
        self.potential, _ = fit_potential(frames, len(ELEMENTS), seed)
        self.calculator = LearntCalculator(self.potential, ELEMENTS)

    def mend(self, structure: Structure) -> Structure:
        """The structure with volume and shortest distances as those learnt from have them."""
        sized = resized(structure, self._volumes, ELEMENTS)
        return separated(sized, self._shortest, ELEMENTS)

    def energy(self, structure: Structure) -> float:
        """Energy by the learnt potential, eV/atom."""
        return self.calculator.energy_per_atom(structure)


def found_of(drawn: Sequence[Structure], heldout: Sequence[Structure]) -> list[bool]:
    """Which of the held-out crystals one drawn matches."""
    seen = SeenStructures(heldout)
    hit = {seen.find(s) for s in drawn}
    return [number in hit for number in range(len(heldout))]


def measure(
    generator: str, arm: Arm, split: Split, seed: int, options: argparse.Namespace
) -> Found:
    """One arm of one seed."""
    start = perf_counter()
    draw = {"wyckoff": by_wyckoff, "ccdcgan": by_ccdcgan}[generator]
    tools = Tools(split, seed)
    made = draw(split, arm, options.count, seed, options.quick, tools)
    relaxed = prerelaxed(made, tools.potential.to_bytes(), ELEMENTS, STEPS, options.workers)
    return Found(
        drawn=options.count,
        made=len(made),
        formulas=[_formula(s) for s in split.heldout],
        near_hull=split.near_hull,
        before=found_of(made, split.heldout),
        after=found_of(relaxed, split.heldout),
        seconds=round(perf_counter() - start, 1),
    )


def ratio(pairs: Sequence[Mapping[Arm, Found]]) -> dict[str, Any]:
    """Found by the trained and the untrained generator, their ratio and its interval."""
    counts: list[tuple[int, int, int]] = []
    for pair in pairs:
        formulas = np.array(pair["trained"].formulas)
        for formula in np.unique(formulas):
            here = formulas == formula
            trained, untrained = (int(np.array(pair[arm].after)[here].sum()) for arm in ARMS)
            counts.append((trained, untrained, int(here.sum())))
    table = np.array(counts)
    trained, untrained, heldout = table.sum(0).tolist()
    rng = np.random.default_rng(0)
    again = table[rng.integers(len(table), size=(RESAMPLED, len(table)))].sum(1)
    # Half a crystal more in both: without it a ratio to none has no value.
    low, high = np.quantile((again[:, 0] + 0.5) / (again[:, 1] + 0.5), [0.025, 0.975])
    return {
        "heldout": heldout,
        "trained": trained,
        "untrained": untrained,
        "ratio": round(trained / untrained, 3) if untrained else None,
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


ARMS: tuple[Arm, Arm] = ("trained", "untrained")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--generator", choices=GENERATORS, default="wyckoff")
    parser.add_argument("--quick", action="store_true", help="a tenth, with seed 0 alone")
    parser.add_argument("--count", type=int, default=10_000, help="crystals drawn a seed and arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=HERE / "heldout_generation")
    parser.add_argument("--workers", type=int, help="processes of the potential")
    options = parser.parse_args(arguments)
    if options.quick:
        options.count, options.seeds = options.count // 10, [0]
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    documents = database()
    pairs: list[dict[Arm, Found]] = []
    for seed in options.seeds:
        split = Split.of(documents, seed)
        pair: dict[Arm, Found] = {}
        for arm in ARMS:
            kind = "quick" if options.quick else "full"
            path = options.folder / f"{options.generator}-{kind}-{options.count}-{arm}-{seed}.json"
            if path.exists():
                found = Found.model_validate_json(path.read_text(encoding="utf-8"))
            else:
                found = measure(options.generator, arm, split, seed, options)
                write_atomically(path, found.model_dump_json() + "\n")
            pair[arm] = found
            near = np.array(found.near_hull)
            print(
                f"{options.generator} seed {seed} {arm}: {found.made} of {found.drawn} made, found "
                f"{sum(found.before)} before and {sum(found.after)} after the potential of "
                f"{len(found.after)}; of {int(near.sum())} within 0.10 eV/atom of the hull "
                f"{int((near & np.array(found.after)).sum())}; {found.seconds:.0f} s",
                flush=True,
            )
        pairs.append(pair)
    drawn = options.count * len(options.seeds)
    print(json.dumps({"drawn": drawn, **ratio(pairs)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
