"""The test before the matcher: no match is lost, and few others are left."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from crystals import ANTIFLUORITE, BISMUTH, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures import shapes
from ccdcgan.dft.structures.matching import TOLERANCES, shape_of
from ccdcgan.dft.structures.shapes import Cell, Shape, may_match
from ccdcgan.models.energy.descriptors import rattled

MATCHER = StructureMatcher(**TOLERANCES, primitive_cell=False)


def reduced(structure: Structure) -> Structure:
    return structure.get_primitive_structure().get_reduced_structure()


def copies(crystal: Structure, count: int) -> list[Structure]:
    """Copies, from equal ones to such as are far off, of other volumes, bases and atoms' orders."""
    edge = (crystal.volume / len(crystal)) ** (1 / 3)
    found = []
    for seed in range(count):
        much = seed / count
        copy = rattled(crystal, seed, 0.2 * edge * much, 0.15 * much)
        copy.scale_lattice(copy.volume * (0.5 + much))
        copy.make_supercell([[1, seed % 3, 0], [0, 1, -(seed % 2)], [0, 0, 1]])
        found.append(Structure.from_sites(sorted(copy, key=lambda site: site.frac_coords[2])))
    return found


def random_crystals(species: list[str], count: int, longest: float) -> list[Structure]:
    """Crystals of any cell; some are thin."""
    rng = np.random.default_rng(len(species))
    found = []
    for _ in range(count):
        angles = rng.uniform(60.0, 115.0, 3)
        lattice = Lattice.from_parameters(*rng.uniform(1.0, longest, 3), *angles)
        lattice = lattice.scale(30.0 * len(species))
        found.append(Structure(lattice, species, rng.random((len(species), 3))))
    return found


def by_species(crystals: list[Structure]) -> list[tuple[list[Structure], list[Cell]]]:
    groups = defaultdict(list)
    for crystal in map(reduced, crystals):
        shape = Shape.of(crystal)
        groups[shape.species].append((crystal, Cell.of(shape)))
    return [([c for c, _ in group], [cell for _, cell in group]) for group in groups.values()]


CRYSTALS = [
    *(
        copy
        for crystal in (ROCKSALT, ZINCBLENDE, CSCL, NIAS, FLUORITE, ANTIFLUORITE, BISMUTH)
        for copy in copies(crystal, 8)
    ),
    *random_crystals(["Bi", "Se"], 8, 3.0),
    *random_crystals(["Bi", "Se", "Se"], 8, 4.0),
    *random_crystals(["Bi"] * 2 + ["Se"] * 2, 8, 1.6),
    *random_crystals(["Bi"] * 4 + ["Se"] * 6, 8, 1.6),
]
GROUPS = by_species(CRYSTALS)


def test_no_match_is_lost() -> None:
    pairs = matches = passed = 0
    for crystals, cells in GROUPS:
        for crystal, cell in zip(crystals, cells, strict=True):
            same = {
                i
                for i, other in enumerate(crystals)
                if MATCHER.fit(crystal, other, skip_structure_reduction=True)
            }
            left = may_match(cell, cells, TOLERANCES).tolist()
            assert left == sorted(set(left)) and same <= set(left)
            pairs, matches, passed = pairs + len(cells), matches + len(same), passed + len(left)
    assert pairs > 1500 and matches > 250
    assert passed - matches < 0.2 * (pairs - matches)


def test_crystals_that_differ_need_no_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = random_crystals(["Bi"] * 5 + ["Se"] * 7, 40, 1.6)
    cells = [Cell.of(Shape.of(reduced(crystal))) for crystal in crystals]
    alone = [may_match(cell, cells, TOLERANCES).tolist() for cell in cells]
    assert alone == [[n] for n in range(len(cells))]
    # Of the largest cells only lattices are compared.
    monkeypatch.setattr(shapes, "LARGEST", 11)
    left = [may_match(cell, cells, TOLERANCES).tolist() for cell in cells]
    assert all(n in some for n, some in enumerate(left))
    assert 40 < sum(map(len, left)) < 1600
    assert not len(may_match(cells[0], [], TOLERANCES))


@pytest.mark.parametrize("most", [1, 5000])
def test_what_is_compared_in_one_go_decides_nothing(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [[may_match(c, cells, TOLERANCES).tolist() for c in cells] for _, cells in GROUPS]
    monkeypatch.setattr(shapes, "MOST", most)
    again = [[may_match(c, cells, TOLERANCES).tolist() for c in cells] for _, cells in GROUPS]
    assert again == found


def test_elements_are_what_a_shape_tells_apart() -> None:
    """Charges, occupancies and orders of atoms are the matcher's affair."""
    shape = shape_of(NIAS)
    assert shape is not None and shape.species == "Bi:2 Se:2"
    charged = NIAS.copy()
    charged.add_oxidation_state_by_element({"Bi": 2, "Se": -2})
    mixed = Structure(CSCL.lattice, [{"Se": 0.5, "Bi": 0.5}, "Se"], CSCL.frac_coords)
    given = shape_of(charged), shape_of(mixed)
    assert [g and g.species for g in given] == ["Bi:2 Se:2", "Bi/Se:1 Se:1"]
    flat = Structure([[4, 0, 0], [0, 4, 0], [4, 4, 0]], ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
    assert shape_of(flat) is None
