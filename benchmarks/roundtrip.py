"""Crystals to voxels and back: how many come back, and how many a second.

    OMP_NUM_THREADS=1 python benchmarks/roundtrip.py STRUCTURES [--network]

STRUCTURES is a file or a folder as for a campaign's `files` source: CIF, POSCAR, extxyz, JSON,
JSON.gz. Ordered structures of any elements are reduced to their primitive cells. The round trip
is that of the default preset: every element's atoms to sites voxels on the periodic grid and back
by peak search, or, with --network, on through the shipped autoencoder: crystal graph to crystal.
A crystal counts if StructureMatcher (ltol 0.2, stol 0.3, angle 5°) matches it with itself.

Prints one JSON line: structures, matched, fraction, encode_per_second, decode_per_second
(crystals a second, without reading, reduction and matching). TensorFlow takes as many threads as
TF_NUM_INTRAOP_THREADS says; the script asks for OMP_NUM_THREADS of them if that is set and the
other is not, so that OMP_NUM_THREADS=1 alone measures one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "OMP_NUM_THREADS" in os.environ:
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", os.environ["OMP_NUM_THREADS"])

import numpy as np
from pymatgen.core import Element, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.matching import is_degenerate, is_same
from ccdcgan.dft.sources import Prototype, primitive_cell, read_structures
from ccdcgan.models.presets import Preset

#: Crystals encoded and decoded at once.
BATCH = 256


def readable(path: Path) -> list[Structure]:
    """Primitive cells of the ordered crystals of a file or a folder."""
    cells = []
    for item in read_structures(path):
        if isinstance(item, Prototype) and item.structure.is_ordered:
            cell = primitive_cell(item.structure)
            known = all(isinstance(site.specie, Element) for site in cell)
            if known and not is_degenerate(cell):
                cells.append(cell)
    if not cells:
        raise UserError(f"{path} holds no ordered crystal")
    return cells


class VoxelRoundTrip:
    """Sites voxels and peak search; the cell is kept."""

    def __init__(self) -> None:
        self.grid = Preset().grid

    def encode(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self.grid.encode(pictures)

    def decode(self, voxels: np.ndarray) -> list[np.ndarray]:
        return self.grid.decode(voxels)


class NetworkRoundTrip:
    """Codes of the shipped autoencoder."""

    def __init__(self) -> None:
        from ccdcgan.models.representation import CrystalGraphs
        from ccdcgan.models.training import model_from_bytes
        from ccdcgan.workflows.learning import shipped_autoencoder

        # One element at a time: which one does not matter to codes and positions.
        model = model_from_bytes(shipped_autoencoder())
        self.graphs = CrystalGraphs(("H",), Preset().grid, model)
        # The first calls compile: for a batch of one size, then for any.
        for count in (1, 2, 3):
            self.decode(self.encode([np.zeros((1, 3))] * count))

    def encode(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self.graphs.codes(pictures)

    def decode(self, codes: np.ndarray) -> list[np.ndarray]:
        return self.graphs.positions(codes)


def measure(
    cells: Sequence[Structure], trip: VoxelRoundTrip | NetworkRoundTrip
) -> dict[str, float]:
    """Send crystals through the round trip and count those that come back."""
    encoding = decoding = 0.0
    matched = 0
    for first in range(0, len(cells), BATCH):
        batch = cells[first : first + BATCH]
        start = perf_counter()
        pictures: list[np.ndarray] = []
        elements: list[list[str]] = []
        for cell in batch:
            symbols = np.array([site.specie.symbol for site in cell])
            elements.append(sorted(set(symbols)))
            pictures += [cell.frac_coords[symbols == symbol] for symbol in elements[-1]]
        encoded = trip.encode(pictures)
        middle = perf_counter()
        atoms = iter(trip.decode(encoded))
        decoded = []
        for cell, present in zip(batch, elements, strict=True):
            parts = [next(atoms) for _ in present]
            species = [s for s, part in zip(present, parts, strict=True) for _ in part]
            decoded.append(Structure(cell.lattice, species, np.concatenate(parts)))
        encoding += middle - start
        decoding += perf_counter() - middle
        for cell, other in zip(batch, decoded, strict=True):
            matched += len(other) > 0 and is_same(cell, other)
    return {
        "structures": len(cells),
        "matched": matched,
        "fraction": round(matched / len(cells), 4),
        "encode_per_second": round(len(cells) / encoding, 1),
        "decode_per_second": round(len(cells) / decoding, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr if the structures cannot be used."""
    parser = argparse.ArgumentParser(description="Round trip of crystals through voxels.")
    parser.add_argument("structures", type=Path, help="structure file, or folder of them")
    parser.add_argument(
        "--network", action="store_true", help="through the shipped autoencoder as well"
    )
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        cells = readable(options.structures)
        trip = NetworkRoundTrip() if options.network else VoxelRoundTrip()
        result = measure(cells, trip)
    except (UserError, OSError, ValueError) as error:
        print(f"roundtrip: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
