"""Atoms moved apart as far as known crystals say."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from ccdcgan.models.separation import SHARE, separated, shortest_distances

ELEMENTS = ["Bi", "Se"]


def pair(distance: float, length: float = 6.0) -> Structure:
    return Structure(Lattice.cubic(length), ELEMENTS, [[0, 0, 0.98], [0, 0, 0.98 + distance / 6]])


def test_shortest_distances_are_those_of_pymatgen() -> None:
    rng = np.random.default_rng(0)
    cells = [Lattice.from_parameters(4.3 + i, 5, 6, 80, 95, 110) for i in range(4)]
    structures = [Structure(cell, ["Bi", "Se", "Se"], rng.random((3, 3))) for cell in cells]
    expected = np.full((2, 2), np.inf)
    for structure in structures:
        for site in structure:
            for other in structure.get_neighbors(site, 4.0):
                a, b = (ELEMENTS.index(s.specie.symbol) for s in (site, other))
                expected[a, b] = min(expected[a, b], other.nn_distance)
    found = shortest_distances(structures, ELEMENTS)
    np.testing.assert_allclose(found, np.where(np.isfinite(expected), expected, 0.0), atol=1e-9)


def test_near_atoms_move_apart_along_their_line() -> None:
    known = np.full((2, 2), 2.5)
    moved = separated(pair(1.0), known, ELEMENTS)
    assert SHARE * 2.5 <= moved.get_distance(0, 1) <= 1.03 * SHARE * 2.5
    assert moved.lattice == pair(1.0).lattice
    np.testing.assert_allclose(moved.frac_coords[:, :2] % 1.0, 0.0, atol=1e-9)
    # Each goes half the way: the middle stays.
    middle = [s.frac_coords[:, 2] for s in (moved, pair(1.0))]
    turns = [np.exp(2j * np.pi * m).sum() for m in middle]
    assert np.angle(turns[0] / turns[1]) == pytest.approx(0.0, abs=1e-9)


def test_what_is_far_enough_is_left_alone() -> None:
    start = pair(2.4)
    assert separated(start, np.full((2, 2), 2.5), ELEMENTS) is start
    assert separated(pair(0.5), np.zeros((2, 2)), ELEMENTS) == pair(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_crowds_in_skewed_cells_come_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(7.5, 7.5, 7.5, 75, 100, 115)
    crowd = Structure(lattice, ["Bi"] * 4 + ["Se"] * 4, rng.random((8, 3)))
    known = np.array([[2.8, 2.4], [2.4, 2.2]])
    moved = separated(crowd, known, ELEMENTS)
    distances = moved.distance_matrix + 10 * np.eye(8)
    kinds = np.repeat([0, 1], 4)
    assert (distances >= SHARE * known[np.ix_(kinds, kinds)] - 1e-6).all()
    assert moved.species == crowd.species


def test_a_cell_too_small_stays_finite() -> None:
    tiny = Structure(Lattice.cubic(2.0), ELEMENTS, [[0, 0, 0], [0.1, 0, 0]])
    moved = separated(tiny, np.full((2, 2), 2.5), ELEMENTS)
    assert np.isfinite(moved.frac_coords).all()
