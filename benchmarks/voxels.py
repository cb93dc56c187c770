"""Sites voxels without a network: do crystals come back exactly, and how fast is either way.

    python benchmarks/voxels.py STRUCTURES

STRUCTURES is a file or a folder as for a campaign's `files` source: CIF, POSCAR, extxyz, JSON,
JSON.gz. Ordered structures of any elements are reduced to their primitive cells. Every element's
atoms go to sites voxels of the default preset, on a grid whose shape fits the cell, and back by
peak search that knows nothing of the number of atoms. A crystal counts if StructureMatcher (ltol
0.2, stol 0.3, angle 5°) matches it with itself.

Prints one JSON line: roundtrip (structures, matched, fraction, failed: place in STRUCTURES and
formula of at most 20), encode_default_per_second and encode_64_per_second (pictures of 10 atoms on
the default grid and in the paper's cube of 64³ points), direct_sum_64_per_second (the same cube,
every Gaussian at every point), encode_64_speedup, decode_crystals_per_second (two elements of 5
atoms and the cell, to a pymatgen Structure), decode_default_per_second (the peak search alone, in
pictures). Each speed is the best of several repetitions on one core, unless OMP_NUM_THREADS says
otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from pymatgen.core import Structure
from roundtrip import readable

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.models.presets import PAPER_GRID, Preset
from ccdcgan.models.representation.default import assemble, coordinates
from ccdcgan.models.representation.voxels import lattice_from_metric

#: Crystals encoded and decoded at once.
BATCH = 256
#: Failed crystals that are named.
NAMED = 20


def there_and_back(known: Mapping[int, Structure]) -> dict[str, Any]:
    """Send crystals, by number, through sites voxels and name those that do not come back."""
    grid = Preset().grid
    numbers, cells = list(known), list(known.values())
    shapes = grid.shapes(np.array([cell.lattice.abc for cell in cells]))
    failed = []
    for shape in np.unique(shapes, axis=0):
        same = np.flatnonzero((shapes == shape).all(1))
        for first in range(0, len(same), BATCH):
            batch = same[first : first + BATCH]
            elements = [sorted(cells[i].symbol_set) for i in batch]
            pictures = [
                coordinates(cells[i], e)
                for i, present in zip(batch, elements, strict=True)
                for e in present
            ]
            atoms = iter(grid.decode(grid.encode(pictures, shape)))
            for i, present in zip(batch, elements, strict=True):
                found = [[next(atoms)] for _ in present]
                decoded = assemble(cells[i].lattice.matrix[None], found, present)[0]
                if decoded is None or not is_same(cells[i], decoded):
                    failed.append(int(i))
    failed.sort()
    named = [f"{numbers[i]} {cells[i].composition.reduced_formula}" for i in failed[:NAMED]]
    matched = len(cells) - len(failed)
    return {
        "structures": len(cells),
        "matched": matched,
        "fraction": round(matched / len(cells), 4),
        "failed": named,
    }


def per_second(count: int, work: Callable[[], object], repeats: int = 7) -> float:
    """Things done a second, at best."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return round(count / min(times), 1)


def direct_sum(coords: np.ndarray) -> np.ndarray:
    """The paper's eq. (4) as it stands: each atom's Gaussian at each point of the cube."""
    assert PAPER_GRID.cube is not None
    axis = np.linspace(-PAPER_GRID.cube / 2, PAPER_GRID.cube / 2, PAPER_GRID.points)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    sigma = PAPER_GRID.sigma * PAPER_GRID.cube / (PAPER_GRID.points - 1)
    voxels = np.zeros(points.shape[:3])
    for atom in coords:
        voxels += np.exp(((points - atom) ** 2).sum(-1) * (-0.5 / sigma**2))
    return voxels


def picture(rng: np.random.Generator, count: int, least: float) -> np.ndarray:
    """Random fractional coordinates (count, 3), no two nearer than `least`."""
    kept = rng.random((1, 3))
    while len(kept) < count:
        point = rng.random(3)
        d = kept - point
        if np.linalg.norm(d - np.round(d), axis=1).min() >= least:
            kept = np.vstack([kept, point])
    return kept


def speeds() -> dict[str, float]:
    """Pictures and crystals a second."""
    rng = np.random.default_rng(0)
    grid = Preset().grid
    tens = [rng.random((10, 3)) for _ in range(BATCH)]
    cubes = [rng.uniform(-7.0, 7.0, (10, 3)) for _ in range(32)]
    # 3 Å in a cell of 10 Å, as nearest atoms of one element lie in crystals.
    elements = [[picture(rng, 5, 0.3) for _ in range(BATCH)] for _ in range(2)]
    voxels = [grid.encode(pictures) for pictures in elements]
    metrics = np.tile(np.diag([90.0, 100.0, 110.0]), (BATCH, 1, 1))

    def crystals() -> list[Structure | None]:
        atoms = [grid.decode(v) for v in voxels]
        return assemble(lattice_from_metric(metrics), atoms, ["Bi", "Se"])

    encode_64 = per_second(len(cubes), lambda: PAPER_GRID.encode(cubes))
    direct = per_second(1, lambda: direct_sum(cubes[0]), repeats=3)
    return {
        "encode_default_per_second": per_second(BATCH, lambda: grid.encode(tens)),
        "encode_64_per_second": encode_64,
        "direct_sum_64_per_second": direct,
        "encode_64_speedup": round(encode_64 / direct, 1),
        "decode_crystals_per_second": per_second(BATCH, crystals),
        "decode_default_per_second": per_second(BATCH, lambda: grid.decode(voxels[0])),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr if the structures cannot be used."""
    parser = argparse.ArgumentParser(description="Sites voxels: exactness and speed.")
    parser.add_argument("structures", type=Path, help="structure file, or folder of them")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        result = {"roundtrip": there_and_back(readable(options.structures)), **speeds()}
    except (UserError, OSError, ValueError) as error:
        print(f"voxels: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
