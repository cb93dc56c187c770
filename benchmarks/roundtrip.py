"""Crystals to voxels and back: how many come back, and how many a second.

    OMP_NUM_THREADS=1 python benchmarks/roundtrip.py STRUCTURES [--network]

STRUCTURES is a file or a folder as for a campaign's `files` source: CIF, POSCAR, extxyz, JSON,
JSON.gz. Ordered structures of any elements are reduced to their primitive cells. The round trip
is that of the default preset: every element's atoms to sites voxels, on the periodic grid whose
shape follows the cell, and back by peak search, which is not told how many atoms there are. With
--network it goes on through the shipped autoencoder, from crystal graph to crystal; there the
peak search knows the numbers of atoms, which the crystal graph holds. A crystal counts if
StructureMatcher (ltol 0.2, stol 0.3, angle 5°) matches it with itself.

Prints one JSON line: structures, matched, fraction, with --network also fraction_without_counts,
encode_per_second, decode_per_second (crystals a second, without reading, reduction and matching)
and failures, the first 20 crystals that do not come back: [position among what was read, formula].
TensorFlow takes as many threads as TF_NUM_INTRAOP_THREADS says; the script asks for
OMP_NUM_THREADS of them if that is set and the other is not, so that OMP_NUM_THREADS=1 alone
measures one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "OMP_NUM_THREADS" in os.environ:
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", os.environ["OMP_NUM_THREADS"])

import numpy as np
from pymatgen.core import Element, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.sources import Prototype, primitive_cell, read_structures
from ccdcgan.dft.structures.validity import is_degenerate
from ccdcgan.models.presets import Preset

#: Crystals encoded and decoded at once.
BATCH = 256
#: Crystals that are named when they do not come back.
NAMED = 20


def readable(path: Path) -> dict[int, Structure]:
    """Primitive cells of the ordered crystals of a file or a folder, by their position in it."""
    cells = {}
    for number, item in enumerate(read_structures(path)):
        if isinstance(item, Prototype) and item.structure.is_ordered:
            cell = primitive_cell(item.structure)
            known = all(isinstance(site.specie, Element) for site in cell)
            if known and not is_degenerate(cell):
                cells[number] = cell
    if not cells:
        raise UserError(f"{path} holds no ordered crystal")
    return cells


class VoxelRoundTrip:
    """Sites voxels and peak search; the cell is kept."""

    def __init__(self) -> None:
        self.grid = Preset().grid

    def encode(self, pictures: Sequence[np.ndarray], shapes: np.ndarray) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.zeros(0)] * len(pictures)
        for which in _alike(shapes):
            voxels = self.grid.encode([pictures[i] for i in which], shapes[which[0]])
            for i, picture in zip(which, voxels, strict=True):
                out[i] = picture
        return out

    def decode(
        self, voxels: list[np.ndarray], shapes: np.ndarray, counts: np.ndarray | None
    ) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.zeros((0, 3))] * len(voxels)
        for which in _alike(shapes):
            wanted = None if counts is None else counts[which]
            decoded = self.grid.decode(np.stack([voxels[i] for i in which]), wanted)
            for i, atoms in zip(which, decoded, strict=True):
                out[i] = atoms
        return out


def _alike(shapes: np.ndarray) -> list[np.ndarray]:
    """Indices of the pictures of each grid shape."""
    kinds, kind = np.unique(shapes, axis=0, return_inverse=True)
    return [np.flatnonzero(kind.ravel() == number) for number in range(len(kinds))]


class NetworkRoundTrip:
    """Codes of the shipped autoencoder."""

    def __init__(self) -> None:
        from ccdcgan.models.representation.default import CrystalGraphs
        from ccdcgan.models.sampling import SITES, shipped_autoencoder
        from ccdcgan.models.saved import model_from_bytes

        self.grid = Preset().grid
        # One element at a time: which one does not matter to codes and positions.
        model = model_from_bytes(shipped_autoencoder()[SITES])
        self.graphs = CrystalGraphs(("H",), self.grid, model)

    def encode(self, pictures: Sequence[np.ndarray], shapes: np.ndarray) -> np.ndarray:
        return self.graphs.codes(pictures, shapes)

    def decode(
        self, codes: np.ndarray, shapes: np.ndarray, counts: np.ndarray | None
    ) -> list[np.ndarray]:
        return self.graphs.positions(codes, shapes, counts)


def measure(known: Mapping[int, Structure], network: bool) -> dict[str, Any]:
    """Send crystals through the round trip and count those that come back."""
    trip: Any = NetworkRoundTrip() if network else VoxelRoundTrip()
    cells = list(known.values())
    if network:
        # TensorFlow compiles for each shape and size of a batch: once before the clock runs.
        _send(trip, cells, True)
    decoded, encoding, decoding = _send(trip, cells, network)
    same = _matches(cells, decoded)
    result: dict[str, Any] = {
        "structures": len(cells),
        "matched": sum(same),
        "fraction": round(sum(same) / len(cells), 4),
    }
    if network:
        blind = _matches(cells, _send(trip, cells, False)[0])
        result["fraction_without_counts"] = round(sum(blind) / len(cells), 4)
    lost = [i for i, matched in zip(known, same, strict=True) if not matched]
    return result | {
        "encode_per_second": round(len(cells) / encoding, 1),
        "decode_per_second": round(len(cells) / decoding, 1),
        "failures": [[i, known[i].composition.reduced_formula] for i in lost[:NAMED]],
    }


def _matches(cells: Sequence[Structure], decoded: Sequence[Structure]) -> list[bool]:
    return [len(b) > 0 and is_same(a, b) for a, b in zip(cells, decoded, strict=True)]


def _send(
    trip: Any, cells: Sequence[Structure], counted: bool
) -> tuple[list[Structure], float, float]:
    """Crystals after the round trip, and the seconds of encoding and of decoding."""
    encoding = decoding = 0.0
    decoded: list[Structure] = []
    for first in range(0, len(cells), BATCH):
        batch = cells[first : first + BATCH]
        start = perf_counter()
        pictures: list[np.ndarray] = []
        elements: list[list[str]] = []
        for cell in batch:
            symbols = np.array([site.specie.symbol for site in cell])
            elements.append(sorted(set(symbols)))
            pictures += [cell.frac_coords[symbols == symbol] for symbol in elements[-1]]
        lengths = np.array([cell.lattice.abc for cell in batch])
        shapes = np.repeat(trip.grid.shapes(lengths), [len(e) for e in elements], axis=0)
        encoded = trip.encode(pictures, shapes)
        middle = perf_counter()
        counts = np.array([len(p) for p in pictures]) if counted else None
        atoms = iter(trip.decode(encoded, shapes, counts))
        for cell, present in zip(batch, elements, strict=True):
            parts = [next(atoms) for _ in present]
            species = [s for s, part in zip(present, parts, strict=True) for _ in part]
            decoded.append(Structure(cell.lattice, species, np.concatenate(parts)))
        encoding += middle - start
        decoding += perf_counter() - middle
    return decoded, encoding, decoding


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
        result = measure(readable(options.structures), options.network)
    except (UserError, OSError, ValueError) as error:
        print(f"roundtrip: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
