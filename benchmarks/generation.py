"""What a trained generator draws: how many crystals are decoded, valid and unique.

    python benchmarks/generation.py STRUCTURES [--references Bi=-3.860,Se=-3.474]
        [--preset default] [--count 13000] [--seeds 0 1 2]

STRUCTURES is what `ccdcgan train` takes: relaxed crystals with energies. For each seed the
constraint, the guide and the GAN are trained and crystal graphs drawn. Decoded: a cell and every
element. Valid: distances of at least 1.8 Å, 15 to 60 Å³ per atom, at most 20 atoms. Unique: those
of the valid that match (StructureMatcher 0.2, 0.3, 5°) none drawn before them. New: the unique
that match no crystal learnt from. Nothing is relaxed.

Prints one JSON line for each seed, with the seconds of training and drawing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.matching import SeenStructures
from ccdcgan.launchers.training_data import Data, parse_references, prepared
from ccdcgan.models.goals import FORMATION_ENERGY, Goal
from ccdcgan.models.pipeline import (
    draw_crystals,
    shipped_autoencoder,
    train_constraints,
    train_generator,
)
from ccdcgan.models.presets import Preset
from ccdcgan.workflows.campaign import Screening
from ccdcgan.workflows.generation import is_valid


def distinct_of(group: tuple[list[Structure], list[Structure]]) -> tuple[int, int]:
    """Of crystals of one formula: how many are unique, and how many of these are new."""
    drawn, known = group
    seen, learnt = SeenStructures(), SeenStructures(known)
    unique = [s for s in drawn if seen.add_if_new(s)]
    return len(unique), sum(s not in learnt for s in unique)


def measure(data: Data, preset: Preset, count: int, seed: int) -> dict[str, object]:
    """Train with one seed, draw, count."""
    crystals = data.crystals
    assert crystals is not None
    start = perf_counter()
    files = shipped_autoencoder()
    guided = preset.gan.variant == "ccdcgan"
    trained, figures = train_constraints(
        crystals, data.elements, preset, files, seed, guided=guided
    )
    files |= trained
    trained, _ = train_generator(
        crystals.e_above_hull, crystals.names, [Goal()], data.elements, preset, files, seed
    )
    files |= trained
    middle = perf_counter()
    decoded = [s for s in draw_crystals(count, seed, data.elements, preset, files) if s is not None]
    end = perf_counter()
    valid = [s for s in decoded if is_valid(s, Screening())]
    groups: defaultdict[str, tuple[list[Structure], list[Structure]]] = defaultdict(
        lambda: ([], [])
    )
    for structure in valid:
        groups[structure.composition.reduced_formula][0].append(structure)
    for structure in crystals.structures:
        groups[structure.composition.reduced_formula][1].append(structure)
    # Largest first, so that no worker is left alone with one at the end.
    order = sorted(groups.values(), key=lambda g: -len(g[0]))
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        counts = list(pool.map(distinct_of, order))
    unique, new = (sum(c) for c in zip(*counts, strict=True))
    return {
        "seed": seed,
        "preset": preset.name,
        "crystals": len(crystals.structures),
        "sampled": count,
        "decoded": len(decoded),
        "valid": len(valid),
        "valid_fraction": round(len(valid) / count, 4),
        "unique": unique,
        "unique_of_valid": round(unique / max(1, len(valid)), 4),
        "new": new,
        "formulas": sum(len(drawn) > 0 for drawn, _ in groups.values()),
        "constraint": figures["properties"][FORMATION_ENERGY],
        "training_seconds": round(middle - start, 1),
        "drawing_seconds": round(end - middle, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr."""
    from ccdcgan.launchers.train import chosen_preset

    parser = argparse.ArgumentParser(description="What a trained generator draws.")
    parser.add_argument("structures", type=Path, help="relaxed crystals with energies")
    parser.add_argument("--references", help="energies of the elements, such as Bi=-3.86,Se=-3.47")
    parser.add_argument("--preset", default="default", help="name or YAML file")
    parser.add_argument("--count", type=int, default=13_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        preset = chosen_preset(options.preset)
        data = prepared(
            options.structures,
            None,
            preset,
            [FORMATION_ENERGY],
            parse_references(options.references),
            lambda line: print(line, file=sys.stderr),
        )
        for seed in options.seeds:
            print(json.dumps(measure(data, preset, options.count, seed)), flush=True)
    except (UserError, OSError, ValueError) as error:
        print(f"generation: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
