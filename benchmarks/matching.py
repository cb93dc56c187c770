"""That the test before pymatgen's StructureMatcher loses no match, and what it saves. Prints JSON.

    OMP_NUM_THREADS=1 python benchmarks/matching.py [--pairs 100000] [--structures FILE]

Crystals of a file (what ``ccdcgan`` reads; by default AFLOW's prototypes) with Bi and Se, both
ways, in the places of their elements; copies of them that are strained and rattled up to and beyond
what the matcher allows; and random crystals. Pairs of the same species are drawn at random, and of
each crystal with its copies; all go to the matcher. Seconds are of processor time.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from time import process_time

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.matching import TOLERANCES, shape_of
from ccdcgan.dft.structures.shapes import Cell, Shape, may_match
from ccdcgan.dft.structures.sources import AflowSource, Prototype, primitive_cell, read_structures
from ccdcgan.models.energy.descriptors import rattled

#: Most atoms of a cell, and copies of each crystal.
MOST, COPIES = 16, 3


def both_ways(structure: Structure) -> list[Structure]:
    """A crystal of two elements with Bi and Se in their places."""
    symbols = sorted({site.specie.symbol for site in structure})
    return [
        Structure(
            structure.lattice,
            [order[symbols.index(site.specie.symbol)] for site in structure],
            structure.frac_coords,
        )
        for order in (("Bi", "Se"), ("Se", "Bi"))
        if len(symbols) == len(order)
    ]


def crystals(path: Path | None) -> list[list[Structure]]:
    """Crystals, each with its copies."""
    rng = np.random.default_rng(0)
    source = AflowSource().load(2, MOST, 0) if path is None else read_structures(path)
    found = []
    for item in source:
        if not isinstance(item, Prototype) or not item.structure.is_ordered:
            continue
        if len(item.structure) > 4 * MOST:
            continue
        for crystal in both_ways(item.structure):
            cell = primitive_cell(crystal)
            if len(cell) <= MOST:
                edge = (cell.volume / len(cell)) ** (1 / 3)
                found.append([cell])
                for seed, much in enumerate(rng.uniform(0.0, 1.0, COPIES)):
                    found[-1].append(rattled(cell, seed, 0.2 * edge * much, 0.12 * much))
    for _ in range(len(found) // 2):
        species = list(rng.choice(["Bi", "Se"], int(rng.integers(2, 9))))
        lattice = Lattice.from_parameters(*rng.uniform(1.0, 1.6, 3), *rng.uniform(70.0, 110.0, 3))
        lattice = lattice.scale(30.0 * len(species))
        found.append([Structure(lattice, species, rng.random((len(species), 3)))])
    return found


def pairs(groups: list[list[int]], species: list[str], count: int) -> dict[int, list[int]]:
    """Indices of those that each crystal is compared with, about so many in all."""
    rng = np.random.default_rng(1)
    others: defaultdict[int, set[int]] = defaultdict(set)
    for group in groups:
        for a in group:
            others[a].update(b for b in group if b != a and species[b] == species[a])
    alike = defaultdict(list)
    for index, name in enumerate(species):
        alike[name].append(index)
    left = count - sum(map(len, others.values()))
    possible = [(len(same) ** 2, same) for same in alike.values() if len(same) > 1]
    share = left / max(1, sum(n for n, _ in possible))
    for n, same in possible:
        drawn = rng.choice(same, (int(min(share, 1.0) * n), 2))
        for a, b in drawn:
            if a != b:
                others[int(a)].add(int(b))
    return {a: sorted(others[a]) for a in sorted(others)}


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--structures", type=Path)
    options = parser.parse_args()
    reduced: list[Structure] = []
    shapes: list[Shape] = []
    groups: list[list[int]] = []
    for group in crystals(options.structures):
        groups.append([])
        for structure in group:
            if shape := shape_of(structure):
                groups[-1].append(len(reduced))
                reduced.append(structure.get_primitive_structure().get_reduced_structure())
                shapes.append(shape)
    cells = [Cell.of(shape) for shape in shapes]
    matcher = StructureMatcher(**TOLERANCES, primitive_cell=False)
    figures = dict.fromkeys(("pairs", "passed", "matches", "lost"), 0)
    seconds = {"test": 0.0, "matcher": 0.0}
    for a, others in pairs(groups, [shape.species for shape in shapes], options.pairs).items():
        start = process_time()
        passed = {others[i] for i in may_match(cells[a], [cells[b] for b in others], TOLERANCES)}
        middle = process_time()
        matches = {
            b for b in others if matcher.fit(reduced[a], reduced[b], skip_structure_reduction=True)
        }
        seconds["test"] += middle - start
        seconds["matcher"] += process_time() - middle
        for name, some in (("pairs", others), ("passed", passed), ("matches", matches)):
            figures[name] += len(some)
        figures["lost"] += len(matches - passed)
    print(json.dumps({**figures, **{name: round(s, 1) for name, s in seconds.items()}}))


if __name__ == "__main__":
    main()
