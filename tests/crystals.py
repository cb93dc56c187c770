"""Crystals of textbook structure types, for tests."""

import numpy as np
from pymatgen.core import Lattice, Structure


def fcc(species: list[str], places: list[float], edge: float = 6.0) -> Structure:
    """Atoms along the diagonal of a face-centred cubic lattice."""
    lattice = Lattice(edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    return Structure(lattice, species, [[x, x, x] for x in places])


ROCKSALT = fcc(["Bi", "Se"], [0, 0.5])
ZINCBLENDE = fcc(["Bi", "Se"], [0, 0.25], 6.4)
CSCL = Structure(Lattice.cubic(3.6), ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
NIAS = Structure(
    Lattice.hexagonal(4.1, 5.6),
    ["Bi", "Bi", "Se", "Se"],
    [[0, 0, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]],
)
FLUORITE = fcc(["Bi", "Se", "Se"], [0, 0.25, 0.75], 6.6)
ANTIFLUORITE = fcc(["Se", "Bi", "Bi"], [0, 0.25, 0.75], 6.6)
# Cucka and Barrett, Acta Cryst. 15, 865 (1962).
BISMUTH = Structure(
    Lattice.hexagonal(4.546, 11.862),
    ["Bi"] * 6,
    [
        [x, y, z + t]
        for x, y, z in ((0, 0, 0), (2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3))
        for t in (0.234, -0.234)
    ],
)

WURTZITE = Structure(
    Lattice.hexagonal(4.5, 7.4),
    ["Bi", "Bi", "Se", "Se"],
    [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]],
)
