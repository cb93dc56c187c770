"""Children of known crystals: what each operator keeps, and how many can be used."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from crystals import BISMUTH, CSCL, FLUORITE, NIAS, ROCKSALT, WURTZITE, ZINCBLENDE
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.moments import moments_of, with_moments
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.symmetry import orbits, symmetry_of
from ccdcgan.dft.structures.validity import coincident, fault, neighbours
from ccdcgan.dft.structures.variation import OPERATORS, vary
from ccdcgan.dft.structures.variation_atoms import (
    heredity,
    insertion,
    nearest,
    permutation,
    rattle,
    removal,
    strain,
    transmutation,
)
from ccdcgan.dft.structures.variation_orbits import (
    orbit_insertion,
    orbit_permutation,
    orbit_removal,
    orbit_transmutation,
    special_position,
    superlattice,
    symmetric_rattle,
    symmetric_strain,
)
from ccdcgan.launchers.local.homologous import stack

SYSTEM = ["Bi", "Se"]
# The structure type of SnSe: Wiedemeier and von Schnering, Z. Kristallogr. 148, 295 (1978).
PNMA = Structure.from_spacegroup(
    "Pnma",
    Lattice.orthorhombic(11.501, 4.153, 4.445),
    ["Bi", "Se"],
    [[0.1180, 0.25, 0.1035], [0.8556, 0.25, 0.4819]],
)
BI2SE3 = primitive_cell(stack(0, 1))
PARENTS = [
    BI2SE3,
    *map(primitive_cell, (ROCKSALT, NIAS, FLUORITE, WURTZITE, PNMA, CSCL, ZINCBLENDE, BISMUTH)),
    primitive_cell(stack(1, 2)),
]
# Without the face-centred ones, for which spglib takes long.
SOME = [BI2SE3, *map(primitive_cell, (NIAS, WURTZITE, PNMA, CSCL, BISMUTH)), PARENTS[-1]]
SYMMETRIC = {
    "symmetric rattle": lambda p, rng: symmetric_rattle(p, rng),
    "symmetric strain": lambda p, rng: symmetric_strain(p, rng),
    "orbit permutation": lambda p, rng: orbit_permutation(p, rng),
    "orbit transmutation": lambda p, rng: orbit_transmutation(p, SYSTEM, rng),
    "orbit insertion": lambda p, rng: orbit_insertion(p, SYSTEM, 20, rng),
    "orbit removal": lambda p, rng: orbit_removal(p, rng),
}


def counts(structure: Structure) -> Counter[str]:
    return Counter(site.specie.symbol for site in structure)


def operations(structure: Structure) -> int:
    """Operations of the space group in this cell, by pymatgen's analyzer."""
    return len(SpacegroupAnalyzer(structure, symprec=0.01).get_symmetry_operations())


def children(make, seeds=range(20), parents=PARENTS):
    """Parents and what is made of them."""
    for seed in seeds:
        parent = parents[seed % len(parents)]
        child = make(parent, np.random.default_rng(seed))
        if child is not None:
            yield parent, child


def test_a_spliced_child_has_atoms_of_both_parents():
    for seed in range(50):
        one, other = PARENTS[seed % 10], PARENTS[(seed + 3) % 10]
        child = heredity(one, other, 20, np.random.default_rng(seed))
        if child is None:
            continue
        longest = max(*one.lattice.abc, *other.lattice.abc)
        assert set(counts(child)) <= set(SYSTEM)
        assert len(child) <= 40 and max(child.lattice.abc) <= 20 * longest
        angles = [*one.lattice.angles, *other.lattice.angles]
        assert min(angles) - 1e-6 <= min(child.lattice.angles)
        assert max(child.lattice.angles) <= max(angles) + 1e-6


def test_slabs_of_a_parent_stay_as_they_were():
    # Rods along z, one of bismuth and one of selenium: what is cut across z keeps its distances.
    lattice = Lattice.tetragonal(3.0, 24.0)
    rods = [Structure(lattice, [s] * 8, [[0, 0, k / 8] for k in range(8)]) for s in SYSTEM]
    slabs = 0
    for seed in range(60):
        child = heredity(*rods, 8, np.random.default_rng(seed))
        if child is None or child.lattice.parameters != pytest.approx(lattice.parameters):
            continue
        slabs += 1
        heights = {
            s: np.sort([x.frac_coords[2] for x in child if x.specie.symbol == s]) for s in SYSTEM
        }
        assert all(np.allclose(np.diff(z), 1 / 8) for z in heights.values())
        assert max(heights["Bi"]) < min(heights["Se"])
    assert slabs > 3


def test_a_spliced_child_is_fitted_to_the_allowed_numbers():
    allowed = [{"Bi": 2, "Se": 3}, {"Bi": 4, "Se": 4}, {"Se": 2, "Bi": 1}]
    made = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        child = heredity(PARENTS[seed % 6], PARENTS[(seed + 1) % 6], 12, rng, allowed)
        if child is not None:
            made += 1
            assert counts(child) in [Counter(a) for a in allowed]
    assert made > 30
    only = heredity(PARENTS[1], PARENTS[1], 2, np.random.default_rng(0), [{"Bi": 9, "Se": 9}])
    assert only is None


def test_atoms_are_exchanged_within_the_composition():
    for parent, child in children(permutation):
        assert counts(child) == counts(parent)
        assert np.allclose(child.frac_coords, parent.frac_coords)
        assert child.species != parent.species
    assert permutation(primitive_cell(BISMUTH), np.random.default_rng(0)) is None


def test_strain_keeps_the_volume_and_the_fractional_coordinates():
    for parent, child in children(strain):
        assert child.volume == pytest.approx(parent.volume)
        assert np.allclose(child.frac_coords, parent.frac_coords)
        change = np.linalg.solve(parent.lattice.matrix, child.lattice.matrix)
        assert np.allclose(change, change.T) and not np.allclose(change, np.eye(3), atol=1e-3)


def test_a_rattle_moves_atoms_alone():
    for parent, child in children(rattle):
        assert child.lattice == parent.lattice and child.species == parent.species
        moved = [a.distance(b) for a, b in zip(parent, child, strict=True)]
        assert min(moved) > 0


def test_one_atom_changes_is_added_or_goes():
    for parent, child in children(lambda p, rng: transmutation(p, SYSTEM, rng)):
        assert len(child) == len(parent)
        assert sum(a.specie != b.specie for a, b in zip(parent, child, strict=True)) == 1
    for parent, child in children(lambda p, rng: insertion(p, SYSTEM, rng)):
        assert (counts(child) - counts(parent)).total() == 1 and len(child) == len(parent) + 1
    for parent, child in children(removal):
        assert (counts(parent) - counts(child)).total() == 1 and len(child) == len(parent) - 1
    assert (
        removal(Structure(Lattice.cubic(3.0), ["Bi"], [[0, 0, 0]]), np.random.default_rng(0))
        is None
    )
    assert transmutation(primitive_cell(BISMUTH), ["Bi"], np.random.default_rng(0)) is None


def test_an_atom_is_added_where_there_is_room():
    random, chosen = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        child = insertion(BI2SE3, SYSTEM, rng)
        chosen.append(nearest(child.lattice.matrix, child.frac_coords[-1:], BI2SE3.frac_coords)[0])
        random.append(nearest(child.lattice.matrix, rng.random((1, 3)), BI2SE3.frac_coords)[0])
    assert np.mean(chosen) > 1.2 * np.mean(random)


def test_the_nearest_atom_is_that_of_pymatgen():
    points = np.random.default_rng(0).random((10, 3))
    for parent in PARENTS:
        every = parent.lattice.get_all_distances(points, parent.frac_coords)
        assert np.allclose(nearest(parent.lattice.matrix, points, parent.frac_coords), every.min(1))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_operators_keep_the_space_group(name):
    own = {id(p): (operations(primitive_cell(p)), len(p)) for p in SOME}
    same = made = 0
    for parent, child in children(SYMMETRIC[name], range(100), SOME):
        group, atoms = own[id(parent)]
        assert operations(child) >= group
        same += operations(child) == group
        made += 1
        if name in {"symmetric rattle", "symmetric strain"}:
            assert counts(child) == counts(parent) and len(child) == atoms
            assert child.volume == pytest.approx(parent.volume)
    assert made >= 30
    # Of fewer orbits or elements a crystal is often one of higher symmetry.
    assert same > (0.3 if name == "orbit removal" else 0.5) * made


def test_a_symmetric_rattle_moves_only_along_free_parameters():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        # Bi2Se3: one parameter z of Bi and one of Se; the other Se lies in the origin.
        child = symmetric_rattle(BI2SE3, rng)
        found = symmetry_of(child)
        assert found.number == 166
        assert sorted(map(len, found.orbits)) == [1, 2, 2]
        assert child.lattice.abc == pytest.approx(symmetry_of(BI2SE3).structure.lattice.abc)
    for fixed in (ROCKSALT, ZINCBLENDE, CSCL, NIAS, FLUORITE):
        assert symmetric_rattle(primitive_cell(fixed), np.random.default_rng(0)) is None
    # Wurtzite along its polar axis: what moves is one against the other.
    assert not is_same(
        symmetric_rattle(WURTZITE, np.random.default_rng(3)), WURTZITE, {"stol": 0.01}
    )


def test_a_symmetric_strain_keeps_the_crystal_system():
    for cubic in (ROCKSALT, CSCL, FLUORITE):
        assert symmetric_strain(primitive_cell(cubic), np.random.default_rng(0)) is None
    for seed in range(10):
        child = symmetric_strain(WURTZITE, np.random.default_rng(seed))
        assert symmetry_of(child).number == 186
        a, c = np.unique(np.round(child.lattice.abc, 6))
        assert abs(c / a - 7.4 / 4.5) > 1e-3
        child = symmetric_strain(PNMA, np.random.default_rng(seed))
        assert child.lattice.angles == pytest.approx((90, 90, 90))


def test_whole_orbits_change():
    for parent, child in children(SYMMETRIC["orbit transmutation"]):
        assert len(child) == len(parent)
        changed = (counts(parent) - counts(child)).total()
        assert changed in {len(orbit) for orbit in orbits(parent)}
    for parent, child in children(SYMMETRIC["orbit removal"]):
        assert len(parent) - len(child) in {len(orbit) for orbit in orbits(parent)}
        assert not counts(child) - counts(parent)
    for parent, child in children(SYMMETRIC["orbit permutation"]):
        assert len(child) == len(parent)
    for parent, child in children(SYMMETRIC["orbit insertion"]):
        assert len(parent) < len(child) <= min(20, 2 * len(parent))
        assert not counts(parent) - counts(child)
        edge = (parent.volume / len(parent)) ** (1 / 3)
        assert neighbours(child, 8.0)[2].min() > 0.39 * edge


def test_a_special_position_has_its_images_apart():
    found = symmetry_of(primitive_cell(ROCKSALT))
    matrix = found.structure.lattice.matrix
    rng = np.random.default_rng(0)
    sizes = Counter()
    for _ in range(200):
        orbit = special_position(found, matrix, rng.random(3), 0.7)
        if orbit is None:
            continue
        sizes[len(orbit)] += 1
        cell = Structure(found.structure.lattice, ["Bi"] * len(orbit), orbit)
        assert len(orbit) == 1 or neighbours(cell, 8.0)[2].min() >= 0.7 - 1e-6
    # Multiplicities of Fm-3m, of the primitive cell.
    assert set(sizes) <= {1, 2, 6, 8, 12, 24, 48} and len(sizes) > 3


def test_a_superlattice_is_another_crystal_of_more_atoms():
    made = Counter()
    for parent, child in children(lambda p, rng: superlattice(p, SYSTEM, 20, rng), range(40)):
        times = len(child) // len(parent)
        assert times in {2, 3} and len(child) == times * len(parent) <= 20
        assert child.volume == pytest.approx(times * parent.volume)
        assert not is_same(child, parent)
        made[times] += 1
    assert min(made[2], made[3]) > 5
    assert superlattice(BI2SE3, SYSTEM, 9, np.random.default_rng(0)) is None


def test_nine_children_in_ten_can_be_used():
    rng = np.random.default_rng(1)
    weights = np.linspace(1.0, 2.0, len(PARENTS))
    drawn, names = Counter(), Counter()
    for _ in range(300):
        made = vary(PARENTS, weights, SYSTEM, 20, rng)
        if made is None:
            continue
        child, parents, name = made
        assert set(counts(child)) == set(SYSTEM)
        assert 0 < len(child) <= 20
        assert fault(child) is None and coincident(child) is None
        assert len(parents) == len(set(parents)) == OPERATORS[name].parents
        drawn.update(parents)
        names[name] += 1
    assert names.total() >= 270
    assert len(names) >= len(OPERATORS) - 2
    assert set(drawn) == set(range(len(PARENTS)))


def test_the_same_seed_makes_the_same_children():
    def made(seed):
        rng = np.random.default_rng(seed)
        found = [vary(PARENTS, [1.0] * len(PARENTS), SYSTEM, 20, rng) for _ in range(40)]
        return [(c.as_dict(), parents, name) for c, parents, name in filter(None, found)]

    assert made(5) == made(5) != made(6)


def test_elements_and_sizes_that_are_not_allowed_do_not_occur():
    rng = np.random.default_rng(2)
    elements = Counter()
    for _ in range(40):
        made = vary([ROCKSALT, primitive_cell(BISMUTH)], [1, 1], SYSTEM, 4, rng, whole=False)
        if made is not None:
            assert len(made[0]) <= 4
            elements[tuple(sorted(counts(made[0])))] += 1
    assert set(elements) == {("Bi",), ("Se",), ("Bi", "Se")}
    foreign = Structure(ROCKSALT.lattice, ["Sb", "Se"], ROCKSALT.frac_coords)
    for _ in range(20):
        made = vary([foreign], [1], SYSTEM, 8, rng)
        assert made is None or (set(counts(made[0])) == set(SYSTEM) and set(made[1]) == {0})


def test_a_parent_of_no_weight_is_never_drawn():
    rng = np.random.default_rng(3)
    for _ in range(60):
        made = vary(PARENTS[:3], [1.0, 0.0, 2.0], SYSTEM, 20, rng)
        assert made is None or 1 not in made[1]


def test_children_have_no_moments():
    magnetic = with_moments(BI2SE3, [1.0] * len(BI2SE3))
    rng = np.random.default_rng(4)
    for operator in OPERATORS.values():
        child = operator.make([magnetic, magnetic], SYSTEM, 20, rng)
        assert child is not None and moments_of(child) is None


def test_what_is_no_crystal_has_no_symmetric_children():
    flat = Structure([[3, 0, 0], [0, 3, 0], [3, 3, 1e-6]], ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
    rng = np.random.default_rng(0)
    assert all(make(flat, rng) is None for make in SYMMETRIC.values())
    assert superlattice(flat, SYSTEM, 20, rng) is None
