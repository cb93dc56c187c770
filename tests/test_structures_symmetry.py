"""Approximate symmetry, against pymatgen's analyzer and crystals that are known."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import BISMUTH, CSCL, FLUORITE, NIAS, ROCKSALT, WURTZITE, ZINCBLENDE
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.structures.matching import displacement, is_same
from ccdcgan.dft.structures.moments import moments_of, with_moments
from ccdcgan.dft.structures.sources import AflowSource, primitive_cell
from ccdcgan.dft.structures.symmetry import TOLERANCES, ladder, orbits, symmetrised
from ccdcgan.launchers.local.homologous import stack

# SnSe: Wiedemeier and von Schnering, Z. Kristallogr. 148, 295 (1978).
PNMA = Structure.from_spacegroup(
    "Pnma",
    Lattice.orthorhombic(11.501, 4.153, 4.445),
    ["Sn", "Se"],
    [[0.1180, 0.25, 0.1035], [0.8556, 0.25, 0.4819]],
)
BI2SE3 = stack(0, 1)
KNOWN = {
    "rocksalt": (ROCKSALT, 225, 2),
    "zincblende": (ZINCBLENDE, 216, 2),
    "CsCl": (CSCL, 221, 2),
    "fluorite": (FLUORITE, 225, 3),
    "NiAs": (NIAS, 194, 4),
    "wurtzite": (WURTZITE, 186, 4),
    "bismuth": (BISMUTH, 166, 2),
    "Bi2Se3": (BI2SE3, 166, 5),
    "SnSe": (PNMA, 62, 8),
}
KNOWN_CRYSTALS = pytest.mark.parametrize(
    ("structure", "number", "atoms"), KNOWN.values(), ids=list(KNOWN)
)


def space_group(structure: Structure, tolerance: float = 1e-3) -> int:
    return int(SpacegroupAnalyzer(structure, symprec=tolerance).get_space_group_number())


def rattled(structure: Structure, seed: int, distance: float = 0.02) -> Structure:
    rng = np.random.default_rng(seed)
    strain = np.eye(3) + rng.normal(0, 0.002, (3, 3))
    return Structure(
        structure.lattice.matrix @ strain,
        structure.species,
        structure.cart_coords @ strain + rng.normal(0, distance, (len(structure), 3)),
        coords_are_cartesian=True,
    )


def turned(structure: Structure, seed: int) -> Structure:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return Structure(structure.lattice.matrix @ turn, structure.species, structure.frac_coords)


def random_cell(seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*rng.uniform(5, 7, 3), *rng.uniform(75, 105, 3))
    while True:
        cell = Structure(lattice, ["Bi", "Bi", "Bi", "Se", "Se"], rng.random((5, 3)))
        if cell.is_valid(2.0):
            return cell


@KNOWN_CRYSTALS
@pytest.mark.parametrize("seed", range(3))
def test_a_rattled_crystal_is_snapped_back(structure, number, atoms, seed):
    off = rattled(structure, seed)
    assert space_group(off, 0.01) < number
    made = symmetrised(off, 0.2)
    assert made is not None and len(made) == atoms
    assert space_group(made) == number
    assert is_same(made, structure)
    assert made.composition.reduced_composition == structure.composition.reduced_composition
    assert made.volume / len(made) == pytest.approx(off.volume / len(off), rel=1e-3)


@KNOWN_CRYSTALS
def test_a_snapped_crystal_stays_what_it_is(structure, number, atoms):
    once = symmetrised(rattled(structure, 7), 0.2)
    again = symmetrised(once, 0.2)
    assert len(again) == len(once) == atoms
    assert again.volume == pytest.approx(once.volume)
    assert displacement(once, again) == pytest.approx(0.0, abs=1e-4)
    assert ladder(once) == [] or space_group(once) == number != space_group(ladder(once)[0])


@KNOWN_CRYSTALS
@pytest.mark.parametrize(
    "cell", [[[2, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 0], [1, 0, 2]]]
)
def test_turns_and_supercells_do_not_matter(structure, number, atoms, cell):
    large = rattled(turned(structure.make_supercell(cell, in_place=False), 1), 2)
    found = [s for s in ladder(large) if space_group(s) == number]
    assert len(found) == 1 and len(found[0]) == atoms
    assert is_same(found[0], structure)


def test_prototypes_have_the_space_groups_of_the_analyzer():
    crystals = [primitive_cell(p.structure) for p in AflowSource(designated=True).load(2, 12, 0)]
    crystals = [s for s in crystals if len(s) <= 12]
    assert len(crystals) > 50
    for structure in crystals:
        made = symmetrised(structure, 0.01)
        assert made is not None
        assert space_group(made) == space_group(structure, 0.01)
        assert len(made) == len(structure)


def test_a_ladder_rises_and_names_each_space_group_once():
    # Rocksalt, stretched along one axis and with its atoms pushed apart along another.
    matrix = ROCKSALT.lattice.matrix @ np.diag([1.0, 1.0, 1.06])
    coords = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.512]]
    off = Structure(matrix, ROCKSALT.species, coords)
    groups = [space_group(s) for s in ladder(off)]
    assert groups[-1] == 225 and len(groups) == len(set(groups)) > 1
    orders = [len(SpacegroupAnalyzer(s).get_point_group_operations()) for s in ladder(off)]
    assert orders == sorted(orders)
    # As the analyzer has them at the same tolerances, where it has none of its own for angles.
    wanted = [
        SpacegroupAnalyzer(off, symprec=tolerance, angle_tolerance=-1).get_space_group_number()
        for tolerance in (0.01, *TOLERANCES)
    ]
    assert groups == list(dict.fromkeys(g for g in wanted if g != wanted[0]))


def test_a_random_cell_has_no_symmetry():
    for seed in range(20):
        cell = random_cell(seed)
        assert symmetrised(cell, 0.1) is None
        assert ladder(cell) == []
        assert orbits(cell) == [[i] for i in range(5)]


def test_a_cell_without_symmetry_that_is_there_twice_is_halved():
    cell = random_cell(0)
    (half,) = ladder(rattled(cell * [1, 2, 1], 3))
    assert is_same(half, cell) and len(half) == len(cell)


def test_the_mean_is_nearer_than_a_refined_representative():
    own, refined = 0.0, 0.0
    for seed in range(10):
        off = rattled(primitive_cell(BI2SE3), seed, 0.05)
        analyzer = SpacegroupAnalyzer(off, symprec=0.5, angle_tolerance=-1)
        snapped, standard = symmetrised(off, 0.5), analyzer.get_primitive_standard_structure()
        assert space_group(snapped) == space_group(standard) == 166
        own += displacement(off, snapped)
        refined += displacement(off, standard)
    assert own < 0.95 * refined


@KNOWN_CRYSTALS
def test_orbits_are_those_of_the_analyzer(structure, number, atoms):
    analyzer = SpacegroupAnalyzer(structure, symprec=0.01)
    wanted = analyzer.get_symmetrized_structure().equivalent_indices
    assert sorted(orbits(structure)) == sorted(map(list, wanted))


def test_moments_stay_and_tell_atoms_apart():
    double = ROCKSALT.make_supercell([[1, 0, 0], [0, 1, 0], [0, 0, 2]], in_place=False)
    up_and_down = [2.0, -2.0, 0.0, 0.0]
    magnetic = with_moments(double, up_and_down)
    assert len(symmetrised(double, 0.1)) == 2
    made = symmetrised(magnetic, 0.1)
    assert len(made) == 4
    assert sorted(moments_of(made)) == sorted(up_and_down)
    # Of another direction only, they are equal for all that symmetry does.
    ferromagnet = symmetrised(with_moments(double, [[0.0, 0.0, 2.0]] * 4), 0.1)
    assert moments_of(ferromagnet) == [[0.0, 0.0, 2.0]] * 2


@pytest.mark.parametrize(
    "structure",
    [
        Structure([[3, 0, 0], [0, 3, 0], [3, 3, 1e-6]], ["Bi"], [[0, 0, 0]]),
        Structure(Lattice.cubic(4.0), ["Bi", "Se"], [[0, 0, 0], [0, 0, 0]]),
        Structure(Lattice.cubic(4.0), ["Bi", "Bi"], [[0, 0, 0], [0, 0, 0.05]]),
        Structure(Lattice.cubic(60.0), ["Bi"] * 201, np.linspace(0, 0.9, 603).reshape(201, 3)),
    ],
    ids=["flat", "coincident", "near", "many"],
)
def test_what_is_no_crystal_is_not_snapped(structure):
    assert symmetrised(structure, 0.5) is None
    assert ladder(structure) == []
