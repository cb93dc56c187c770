"""Time of comparing crystals with a reference set, and whether plain loops count the same.

    OMP_NUM_THREADS=1 python benchmarks/outside.py [--given 500] [--known 2000] [--check FILE]

Given are crystals of Bi and Se: AFLOW's prototypes, decorated, strained and rattled, and a quarter
random ones of PyXtal (extra ``random``). Known are AFLOW's prototypes of Bi and Se and of other
elements, less strained, and each some times in other cells. Their distances to the hull are random
numbers. Counted are copies, substitutions, and S.U.N. as ``ccdcgan evaluate`` does; seconds are of
processor time, with what evaluating matches for its own funnel. Prints JSON.

`--check` compares with loops of pymatgen's StructureMatcher over all pairs whose formulas allow a
match, which takes half an hour: what is done is in FILE, a line for each crystal, and the same
command goes on. benchmarks/outside/loops.jsonl is such a file of 500 and 2,000.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from ccdcgan.dft.structures.kinship import Relatives
from ccdcgan.dft.structures.matching import distinct, smallest
from ccdcgan.dft.structures.sources import AflowSource, Prototype, primitive_cell, random_crystals
from ccdcgan.models.energy.descriptors import rattled
from ccdcgan.workflows.evaluation import LEMAT_TOLERANCES, sun_of

#: Most atoms of a cell.
MOST = 16

#: Elements of the known.
PAIRS = [("Bi", "Se"), ("Sb", "Te"), ("Na", "Cl"), ("Ca", "F"), ("Ga", "N"), ("Ti", "O")]


@cache
def prototypes() -> list[Structure]:
    """Cells of two kinds of atoms, Bi and Se."""
    found = []
    for item in AflowSource(decorated=True).load(2, MOST, 0):
        if isinstance(item, Prototype) and item.structure.is_ordered and len(item.structure) <= 64:
            cell = primitive_cell(item.structure)
            if len(cell) <= MOST and len(cell.composition) == 2:
                found.append(with_elements(cell, ("Bi", "Se")))
    return found


def with_elements(structure: Structure, elements: Sequence[str]) -> Structure:
    """A structure of two elements with others in their places."""
    symbols = sorted(e.symbol for e in structure.composition.elements)
    names = dict(zip(symbols, elements, strict=True))
    return Structure(
        structure.lattice, [names[s.specie.symbol] for s in structure], structure.frac_coords
    )


def changed(cells: Sequence[Structure], most: float, seed: int) -> Iterator[Structure]:
    """Cells drawn at random, strained and rattled up to this part of an atom's room."""
    rng = np.random.default_rng(seed)
    while True:
        cell = cells[int(rng.integers(len(cells)))]
        much = rng.uniform(0.0, most)
        edge = (cell.volume / len(cell)) ** (1 / 3)
        yield rattled(cell, int(rng.integers(2**31)), 0.2 * edge * much, 0.12 * much)


def given_crystals(count: int) -> list[Structure]:
    """Crystals to be judged."""
    drawn = random_crystals(["Bi", "Se"], count // 4, MOST, 0)
    found = [item.structure for item in drawn if isinstance(item, Prototype)]
    more = changed(prototypes(), 0.6, 1)
    return [*found, *(next(more) for _ in range(count - len(found)))]


def known_crystals(count: int) -> list[Structure]:
    """Crystals of the reference set."""
    rng = np.random.default_rng(2)
    more = changed(prototypes(), 0.5, 3)
    found = []
    for _ in range(count):
        pair = PAIRS[int(rng.integers(len(PAIRS)))]
        found.append(with_elements(next(more), pair if rng.random() < 0.5 else pair[::-1]))
    return found


def counted(given: Sequence[Structure], known: Sequence[Structure]) -> dict[str, object]:
    """What `ccdcgan evaluate` counts, and the seconds that it takes."""
    start = process_time()
    relatives = Relatives(known)
    kinships = [relatives.of(s).kinship for s in given]
    middle = process_time()
    copied = [k == "copy" for k in kinships]
    distances = drawn_distances(len(given))
    sun = sun_of(given, distances, known, copied, valid=len(given), sampled=len(given))
    after = process_time()
    unique = len(distinct([smallest(s) for s in given]))
    counts = {"copies": kinships.count("copy"), "substitutions": kinships.count("substitution")}
    counts |= {name: share["count"] for name, share in sun.model_dump().items()}
    counts["unique"] = unique
    seconds = {"relatives": middle - start, "sun": after - middle, "own": process_time() - after}
    return {**counts, "seconds": {name: round(s, 1) for name, s in seconds.items()}}


def drawn_distances(count: int) -> list[float | None]:
    """Distances to the hull, eV/atom."""
    return [float(d) for d in np.random.default_rng(4).uniform(-0.05, 0.3, count)]


def looped(given: Sequence[Structure], known: Sequence[Structure], path: Path) -> dict[str, int]:
    """The same by plain loops, one line of the file for each crystal."""
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    tight, loose = StructureMatcher(**LEMAT_TOLERANCES), StructureMatcher()
    formulas = [s.composition.reduced_formula for s in known]
    patterns = [s.composition.reduced_composition.anonymized_formula for s in known]
    own = [s.composition.reduced_formula for s in given]
    for i in range(len(done), len(given)):
        structure = given[i]
        pattern = structure.composition.reduced_composition.anonymized_formula
        same = [k for k, formula in zip(known, formulas, strict=True) if formula == own[i]]
        like = [k for k, other in zip(known, patterns, strict=True) if other == pattern]
        before = [j for j in range(i) if own[j] == own[i]]
        line = {
            "copy": any(loose.fit(structure, k) for k in same),
            "copy_tight": any(tight.fit(structure, k) for k in same),
            "before": [j for j in before if loose.fit(structure, given[j])],
            "before_tight": [j for j in before if tight.fit(structure, given[j])],
        }
        line["substitution"] = not line["copy"] and any(
            loose.fit_anonymous(structure, k) for k in like
        )
        done.append(line)
        with path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
    distances = [d or 0.0 for d in drawn_distances(len(given))]
    counts: Counter[str] = Counter()
    unique: set[int] = set()
    for i, (line, distance) in enumerate(zip(done, distances, strict=True)):
        bounds = (-np.inf, 0.0) if distance <= 0 else (0.0, 0.1)
        is_near = bounds[0] < distance <= bounds[1]
        met = [j for j in line["before_tight"] if bounds[0] < distances[j] <= bounds[1]]
        if not unique & set(line["before"]):
            unique.add(i)
        name = "lemat_sun" if distance <= 0 else "lemat_metasun"
        counts[name] += is_near and not met and not line["copy_tight"]
        counts["mattergen_sun"] += distance <= 0.1 and i in unique and not line["copy"]
        counts["copies"] += line["copy"]
        counts["substitutions"] += line["substitution"]
    counts["unique"] = len(unique)
    return dict(counts)


def main() -> None:
    """Count, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--given", type=int, default=500)
    parser.add_argument("--known", type=int, default=2000)
    parser.add_argument("--check", type=Path)
    options = parser.parse_args()
    given, known = given_crystals(options.given), known_crystals(options.known)
    found = counted(given, known)
    if options.check is not None:
        loops = looped(given, known, options.check)
        found |= {"loops": loops, "equal": all(found[name] == n for name, n in loops.items())}
    print(json.dumps({"given": len(given), "known": len(known), **found}))


if __name__ == "__main__":
    main()
