"""Generated crystals mended as far as known crystals say: volumes and distances."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from ccdcgan.models.repair import (
    SHARE,
    extremes,
    resized,
    separated,
    shortest_distances,
    usual_volumes,
)

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


def test_extremes_are_those_of_pymatgen() -> None:
    structures = [pair(2.1), pair(3.0, 5.0), Structure(Lattice.cubic(9.0), ["Bi"], [[0] * 3])]
    np.testing.assert_allclose(extremes(structures), [2.1, 62.5, 729.0], atol=1e-9)
    np.testing.assert_allclose(extremes(structures[2:]), [4.0, 729.0, 729.0], atol=1e-9)


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


def test_volumes_are_those_of_the_middle_half() -> None:
    rng = np.random.default_rng(0)
    per_atom = np.array([36.0, 28.0])
    cells, ratios = [], []
    for _ in range(400):
        counts = rng.integers(1, 4, size=2)
        ratio = rng.normal(0.0, 0.1)
        species = ["Bi"] * int(counts[0]) + ["Se"] * int(counts[1])
        volume = float(counts @ per_atom * np.exp(ratio))
        cells.append(
            Structure(Lattice.cubic(volume ** (1 / 3)), species, rng.random((len(species), 3)))
        )
        ratios.append(ratio)
    found = usual_volumes(cells, ELEMENTS, np.ones(len(cells)))
    np.testing.assert_allclose(found[:2], per_atom, rtol=0.03)
    np.testing.assert_allclose(found[2:], [-0.0674, 0.0674], atol=0.02)  # quartiles of a normal
    squeezed = cells[0].copy()
    squeezed.scale_lattice(cells[0].volume / 3)
    usual = found[:2] @ [cells[0].composition[e] for e in ELEMENTS]
    mended = resized(squeezed, found, ELEMENTS)
    assert np.log(mended.volume / usual) == pytest.approx(found[2])
    np.testing.assert_array_equal(mended.frac_coords, squeezed.frac_coords)
    usual_cell = cells[0].copy()
    usual_cell.scale_lattice(usual)
    assert resized(usual_cell, found, ELEMENTS) is usual_cell
    # The second element counts for nothing where its crystals have no weight.
    pure = [Structure(Lattice.cubic(3.0), [e], [[0, 0, 0]]) for e in ELEMENTS]
    assert usual_volumes(pure, ELEMENTS, np.array([1.0, 1e-12]))[0] == pytest.approx(27.0)
