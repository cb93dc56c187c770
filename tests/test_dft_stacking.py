"""Stackings of layered crystals, against published stacks and textbook structure types."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import ANTIFLUORITE, BISMUTH, CSCL, ROCKSALT, ZINCBLENDE
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.matching import distinct, is_same
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.stacking import grown_together, periods, stackings
from ccdcgan.launchers.local.homologous import stack

WURTZITE = Structure(
    Lattice.hexagonal(6.4 / 2**0.5, 6.4 / 2**0.5 * (8 / 3) ** 0.5),
    ["Bi", "Bi", "Se", "Se"],
    [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]],
)


def crystal(bilayers: int, quintuples: int) -> Structure:
    return primitive_cell(stack(bilayers, quintuples) if quintuples else BISMUTH)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ((1, 0), (0, 1), (1, 1)),
        ((1, 1), (1, 0), (2, 1)),
        ((1, 1), (0, 1), (1, 2)),
        ((1, 1), (2, 1), (3, 2)),
        # Among others, for layers can be cut in several places: right is 2 and 3 bilayers apart.
        ((3, 1), (2, 1), (5, 2)),
    ],
)
def test_the_homologous_series_grows(one, other, both):
    parents, wanted = [crystal(*one), crystal(*other)], crystal(*both)
    found = list(dict(stackings(parents, [0.0, 0.0], 20))[0, 1])
    assert any(is_same(s, wanted) for s in found)
    for s in found:
        assert s.composition == wanted.composition
        assert s.volume == pytest.approx(sum(p.volume for p in parents))


def test_a_stacking_comes_once_and_none_is_lost():
    one, other = crystal(0, 1), crystal(1, 1)
    found = list(dict(stackings([one, other], [0.0, 0.0], 20))[0, 1])
    every = [s for a in periods(one) for b in periods(other) for s in grown_together(a, b)]
    assert len(found) < len(every) / 2
    kinds = [found[i] for i in distinct(found)]
    assert all(any(is_same(s, kind) for kind in kinds) for s in every)


def test_layers_above_each_other_find_their_places():
    known = stack(0, 1)
    a, b, c = known.lattice.matrix
    above = Structure(
        [a, b, [0, 0, c[2]]], known.species, known.cart_coords, coords_are_cartesian=True
    )
    assert not is_same(above, known)
    found = list(dict(stackings([above], [0.0], 5))[0,])
    assert any(is_same(s, known) for s in found)


def test_turned_bilayers_of_zincblende_are_wurtzite():
    found = [s for _, made in stackings([primitive_cell(ZINCBLENDE)], [0.0], 4) for s in made]
    assert any(is_same(s, WURTZITE) for s in found)


@pytest.mark.parametrize("structure", [BISMUTH, stack(1, 2), ROCKSALT, CSCL, ANTIFLUORITE])
def test_a_period_is_the_crystal(structure):
    cell = primitive_cell(structure)
    found = periods(cell)
    assert {tuple(np.round(p.up, 3)) for p in found}
    for period in found:
        matrix = np.zeros((3, 3))
        matrix[:2, :2], matrix[2] = period.plane, period.up
        back = Structure(matrix, period.species, period.positions, coords_are_cartesian=True)
        assert is_same(back, cell)
        assert back.volume == pytest.approx(cell.volume)
        assert np.linalg.det(matrix) > 0


def test_planes_that_do_not_fit_are_not_joined():
    square = Structure(Lattice.tetragonal(6.0, 3.0), ["Bi"], [[0, 0, 0]])
    tall = Structure(Lattice.orthorhombic(3.0, 9.0, 14.0), ["Se"], [[0, 0, 0]])
    made = {parts: len(list(found)) for parts, found in stackings([square, tall], [0.0, 0.0], 4)}
    assert made[0, 1] == 0
    assert all(number for parts, number in made.items() if parts != (0, 1))


def test_the_lowest_crystals_come_first_and_sizes_are_kept():
    parents = [crystal(2, 1), crystal(1, 0), crystal(0, 1)]
    groups = dict(stackings(parents, [0.2, 0.0, 0.1], 11))
    # Means over atoms: 0, 0, 0.071 of bismuth and Bi2Se3, 0.1, 0.1, 0.164 and 0.2 eV/atom.
    assert list(groups) == [(1,), (1, 1), (1, 2), (2,), (2, 2), (0, 1), (0,)]
    assert all(len(s) <= 11 for made in groups.values() for s in made)


def test_a_flat_cell_makes_nothing():
    flat = Structure([[3, 0, 0], [0, 3, 0], [3, 3, 1e-6]], ["Bi"], [[0, 0, 0]])
    assert list(stackings([flat], [0.0], 4)) == []
