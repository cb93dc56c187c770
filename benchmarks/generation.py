"""What a trained generator draws: how many crystals are decoded, valid and unique.

    python benchmarks/generation.py STRUCTURES [--references Bi=-3.860,Se=-3.474]
        [--preset default] [--count 13000] [--judged 1000] [--seeds 0 1 2]

STRUCTURES is what `ccdcgan train` takes: relaxed crystals with energies. For each seed the
constraint, the guide and the GAN are trained and crystal graphs drawn. Decoded: a cell and every
element. Valid: distances of at least 1.8 Å, 15 to 60 Å³ per atom, at most 20 atoms. Unique: valid
crystals that match (StructureMatcher 0.2, 0.3, 5°) none drawn before them. New: the unique that
match no crystal learnt from. Nothing is relaxed. Matching all with all takes hours: the fractions
of unique and new are those of valid crystals picked at random, each compared with everything drawn
before it, beside Wilson's interval (95%) of the first. The predicted formation energy (eV/atom) is
the constraint's median over the first 500 valid crystals.

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
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from pymatgen.core import Structure
from scipy.stats import binomtest

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.launchers.networks.data import Data, prepared
from ccdcgan.launchers.networks.energies import parse_references
from ccdcgan.models.energy.goals import FORMATION_ENERGY, Goal
from ccdcgan.models.pipeline import train_constraints, train_generator
from ccdcgan.models.presets import Preset
from ccdcgan.models.sampling import Predictor, draw_crystals, shipped_autoencoder
from ccdcgan.workflows.screening import Limits

#: What a valid crystal keeps to: the same for all that are compared.
LIMITS = Limits(max_sites=20, min_distance=1.8, volume_range=(15.0, 60.0))
#: Valid crystals whose formation energy the constraint predicts.
PREDICTED = 500


@dataclass
class Formula:
    """Crystals of one formula: drawn, whether each is judged, and learnt from."""

    drawn: list[Structure] = field(default_factory=list)
    judged: list[bool] = field(default_factory=list)
    learnt: list[Structure] = field(default_factory=list)


def unique_of(formula: Formula) -> tuple[int, int]:
    """Of the judged crystals of a formula: how many are unique, and how many of these are new."""
    seen, learnt = SeenStructures(), SeenStructures(formula.learnt if any(formula.judged) else [])
    unique = new = 0
    for structure, judged in zip(formula.drawn, formula.judged, strict=True):
        if judged and structure not in seen:
            unique += 1
            new += structure not in learnt
        seen.add(structure)
    return unique, new


def counted(
    drawn: Sequence[Structure | None], learnt: Sequence[Structure], judged: int, seed: int
) -> dict[str, object]:
    """How many of the drawn crystals are decoded and valid, and the fractions of unique and new."""
    decoded = [s for s in drawn if s is not None]
    valid = [s for s in decoded if LIMITS.allow(s)]
    judged = min(judged, len(valid))
    picked = set(np.random.default_rng(seed).permutation(len(valid))[:judged])
    formulas: defaultdict[str, Formula] = defaultdict(Formula)
    for i, structure in enumerate(valid):
        formula = formulas[structure.composition.reduced_formula]
        formula.drawn.append(structure)
        formula.judged.append(i in picked)
    found = len(formulas)
    for structure in learnt:
        formulas[structure.composition.reduced_formula].learnt.append(structure)
    # Largest first, so that no worker is left alone with one at the end.
    order = sorted(formulas.values(), key=lambda f: -sum(f.judged) * len(f.drawn))
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        unique, new = (sum(c) for c in zip(*pool.map(unique_of, order), strict=True))
    interval = binomtest(unique, max(1, judged)).proportion_ci(method="wilson")
    return {
        "sampled": len(drawn),
        "decoded": len(decoded),
        "valid": len(valid),
        "valid_fraction": round(len(valid) / len(drawn), 4),
        "judged": judged,
        "unique_of_judged": round(unique / max(1, judged), 4),
        "unique_interval": [round(float(end), 4) for end in interval],
        "new_of_judged": round(new / max(1, judged), 4),
        "formulas": found,
    }


def measure(data: Data, preset: Preset, count: int, judged: int, seed: int) -> dict[str, object]:
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
    trained, _ = train_generator(crystals.names, [Goal()], data.elements, preset, files, seed)
    files |= trained
    middle = perf_counter()
    drawn = draw_crystals(count, seed, data.elements, preset, files)
    end = perf_counter()
    valid = [s for s in drawn if s is not None and LIMITS.allow(s)][:PREDICTED]
    said = Predictor(data.elements, preset, files, crystals.names)(valid)[:, :, 0].mean(1)
    return {
        "seed": seed,
        "preset": preset.name,
        "crystals": len(crystals.structures),
        **counted(drawn, crystals.structures, judged, seed),
        "predicted_formation_energy": round(float(np.median(said)), 4) if len(said) else None,
        "constraint": figures["properties"][FORMATION_ENERGY],
        "training_seconds": round(middle - start, 1),
        "drawing_seconds": round(end - middle, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr."""
    from ccdcgan.launchers.networks.train import chosen_preset

    parser = argparse.ArgumentParser(description="What a trained generator draws.")
    parser.add_argument("structures", type=Path, help="relaxed crystals with energies")
    parser.add_argument("--references", help="energies of the elements, such as Bi=-3.86,Se=-3.47")
    parser.add_argument("--preset", default="default", help="name or YAML file")
    parser.add_argument("--count", type=int, default=13_000)
    parser.add_argument("--judged", type=int, default=1000, help="crystals asked whether unique")
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
            figures = measure(data, preset, options.count, options.judged, seed)
            print(json.dumps(figures), flush=True)
    except (UserError, OSError, ValueError) as error:
        print(f"generation: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
