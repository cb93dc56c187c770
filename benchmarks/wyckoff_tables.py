"""The tables of Wyckoff positions that come with the package, made again from PyXtal's.

    python benchmarks/wyckoff_tables.py [--out models/weights/wyckoff.npz]

PyXtal (Fredericks et al., Comput. Phys. Commun. 261, 107810 (2021); MIT licence) has the positions
of the International Tables for Crystallography, volume A. Of each it takes the first of its points,
and applies the operations of the general position: what is alike but for a vector of the lattice is
one atom of a primitive cell. Fails where their number is not the multiplicity of the tables. Needs
the extra `random`; some seconds.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccdcgan.dft.files import write_atomically
from ccdcgan.models.wyckoff.positions import PRIMITIVE


def maps_of(position: Any, general: Sequence[Any], primitive: np.ndarray) -> list[np.ndarray]:
    """Rotations and translations (3, 4) from free coordinates to the atoms of a primitive cell."""
    inverse, first = np.linalg.inv(primitive), position.ops[0].affine_matrix
    found: dict[tuple[int, ...], np.ndarray] = {}
    for operation in general:
        moved = (operation.affine_matrix @ first)[:3]
        # Translations of the tables are multiples of 1/24, of primitive vectors thirds of these.
        places = np.round((moved[:, 3] @ inverse) % 1.0 * 144) % 144
        key = (*np.round(2 * moved[:, :3]).astype(int).ravel().tolist(), *map(int, places))
        found.setdefault(key, moved)
    return list(found.values())


def tables() -> dict[str, np.ndarray]:
    """Arrays of all positions, the most special first, and of the maps of all their atoms."""
    from pyxtal.symmetry import Group

    rows: dict[str, list[Any]] = {
        name: [] for name in ("group", "letter", "freedom", "symmetry", "multiplicity")
    }
    maps: list[np.ndarray] = []
    for number in range(1, 231):
        group = Group(number)
        primitive = np.array(PRIMITIVE[group.symbol[0]], float)
        general = group.Wyckoff_positions[0].ops
        for position in reversed(group.Wyckoff_positions):
            own = maps_of(position, general, primitive)
            if len(own) * group.cellsize() != position.multiplicity:
                raise SystemExit(f"group {number}, position {position.letter}: {len(own)} atoms")
            position.get_site_symmetry()
            found = (number, position.letter, position.get_dof(), position.site_symm, len(own))
            for column, value in zip(rows.values(), found, strict=True):
                column.append(value)
            maps += own
    every = np.array(maps)
    rotations, translations = 2 * every[:, :, :3], 24 * every[:, :, 3]
    if not all(np.allclose(numbers, np.round(numbers)) for numbers in (rotations, translations)):
        raise SystemExit("rotations are no halves, or translations no parts of 24")
    return {
        "group": np.array(rows["group"], np.uint8),
        "letter": np.array(rows["letter"]),
        "freedom": np.array(rows["freedom"], np.uint8),
        "symmetry": np.array([symbol.replace(".", "") for symbol in rows["symmetry"]]),
        "multiplicity": np.array(rows["multiplicity"], np.uint8),
        "rotations": np.round(rotations).astype(np.int8),
        "translations": np.round(translations).astype(np.int8),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "models" / "weights" / "wyckoff.npz"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    stream = io.BytesIO()
    arrays = tables()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    write_atomically(options.out, stream.getvalue())
    print(f"{len(arrays['group'])} positions, {len(arrays['rotations'])} atoms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
