"""What the Wyckoff generator learns from, and how often a right placement becomes its crystal.

    OMP_NUM_THREADS=1 python benchmarks/wyckoff.py [--part learning|geometry] [--seeds 0 1]
        [--out benchmarks/wyckoff.json]

Both parts use what `benchmarks/heldout_generation.py` holds out of Bi-Se crystals.

learning: how many held-out placements are expected among `DRAWS` draws for each of them, given its
composition, Σ 1 - (1 - p)^DRAWS, untrained and after AFLOW's compounds, the campaign's crystals, or
both. Nothing is drawn. Some minutes on one core.

geometry: crystals of the held-out placements themselves, `COPIES` for each, relaxed by the learnt
potential: how many match the held-out crystal, by the number of free coordinates; with cells and
coordinates at random or near those of known crystals (AFLOW's compounds, the campaign's), of which
the widest gaps choose, or the potential's energy.

Prints a JSON line for each part and seed, and keeps them in a file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from heldout_generation import (
    STEPS,
    Split,
    Tools,
    database,
    knowledge_of,
)
from pymatgen.core import Structure

from ccdcgan.dft.files import write_atomically
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.models.wyckoff.drawing import crystal_of, lowest_of
from ccdcgan.models.wyckoff.geometry import Geometries
from ccdcgan.models.wyckoff.placement import Placement, placement_of
from ccdcgan.models.wyckoff.training import WyckoffModel, log_likelihood
from ccdcgan.workflows.prerelaxation import prerelax
from ccdcgan.workflows.wyckoff import adapted, compounds, pretrained

DRAWS, COPIES = 160, 2

#: Bounds of the numbers of free coordinates that are counted together.
FREEDOMS = (0, 1, 3, 6, 12, 100)


def placements(split: Split) -> list[tuple[Structure, Placement]]:
    """Held-out crystals with their placements."""
    found = [(s, placement_of(primitive_cell(s))) for s in split.heldout]
    return [(s, p) for s, p in found if p is not None]


def learning(split: Split, seed: int) -> dict[str, Any]:
    """Held-out placements expected among the draws."""
    samples = knowledge_of(split.learnt).samples
    structures = [s.structure for s in samples]
    above = [s.properties["e_above_hull"] for s in samples]
    others = compounds(split.families, split.formulas)
    models = {
        "untrained": WyckoffModel.untrained(seed),
        "compounds": pretrained(others, seed),
        "campaign": adapted(WyckoffModel.untrained(seed), structures, above, seed),
        "both": adapted(pretrained(others, seed), structures, above, seed),
    }
    asked = [p for _, p in placements(split)]
    expected = {}
    for name, model in models.items():
        odds = np.exp([log_likelihood(model, [p]) for p in asked])
        expected[name] = round(float((1.0 - (1.0 - odds) ** DRAWS).sum()), 1)
    return {"part": "learning", "seed": seed, "heldout": len(asked), "expected": expected}


def geometry(split: Split, seed: int) -> dict[str, Any]:
    """Matches of right placements, by their free coordinates."""
    tools = Tools(split, seed)
    rng = np.random.default_rng(seed)
    compound = Geometries().with_crystals(compounds(split.families, split.formulas))
    both = compound.with_crystals([primitive_cell(d.structure) for d in split.learnt])
    ways: dict[str, Callable[[Placement], Structure]] = {
        "random": lambda p: tools.mend(crystal_of(p, rng)),
        "random, lowest energy": lambda p: lowest_of(p, rng, tools.energy, tools.mend),
        "compounds": lambda p: tools.mend(crystal_of(p, rng, known=compound)),
        "compounds, lowest energy": lambda p: lowest_of(p, rng, tools.energy, tools.mend, compound),
        "compounds and campaign, lowest energy": lambda p: lowest_of(
            p, rng, tools.energy, tools.mend, both
        ),
    }
    rows: dict[str, dict[str, int]] = {}
    for structure, placement in placements(split):
        low = max(bound for bound in FREEDOMS if bound <= placement.freedom)
        row = rows.setdefault(f"from {low}", dict.fromkeys(["drawn", *ways], 0))
        for _ in range(COPIES):
            row["drawn"] += 1
            for name, made in ways.items():
                relaxed = prerelax(made(placement), tools.calculator, STEPS)
                row[name] += is_same(relaxed, structure)
    return {"part": "geometry", "seed": seed, "by_free_coordinates": dict(sorted(rows.items()))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("learning", "geometry"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    kept: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    documents = database()
    for part in (learning, geometry):
        if options.part not in (None, part.__name__):
            continue
        for seed in options.seeds:
            if any((r["part"], r["seed"]) == (part.__name__, seed) for r in kept):
                continue
            found = part(Split.of(documents, seed), seed)
            print(json.dumps(found), flush=True)
            kept.append(found)
            write_atomically(options.out, json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
