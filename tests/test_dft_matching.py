"""Matching: the project's shortcut against brute force with pymatgen's matcher."""

import itertools

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.matching import TOLERANCES, SeenStructures, distinct, is_same
from ccdcgan.dft.structures.validity import is_degenerate


def prototypes() -> dict[str, Structure]:
    """Small crystals, some of which are one and the same in disguise."""
    half = [0.5] * 3
    rocksalt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.9), ["Bi", "Se"], [[0, 0, 0], half]
    )
    cscl = Structure(Lattice.cubic(3.6), ["Bi", "Se"], [[0, 0, 0], half])
    zincblende = Structure.from_spacegroup(
        "F-43m", Lattice.cubic(6.3), ["Bi", "Se"], [[0, 0, 0], [0.25] * 3]
    )
    nias = Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(4.1, 5.6),
        ["Bi", "Se"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.25]],
    )
    fluorite = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(6.6), ["Bi", "Se"], [[0, 0, 0], [0.25] * 3]
    )
    antifluorite = fluorite.copy()
    antifluorite.replace_species({"Bi": "Se", "Se": "Bi"})
    swapped = rocksalt.copy()
    swapped.replace_species({"Bi": "Se", "Se": "Bi"})
    shifted = rocksalt.copy()
    shifted.translate_sites(range(len(shifted)), [0.1, 0.2, 0.3])
    strained = rocksalt.copy()
    strained.apply_strain([0.03, -0.02, 0.01])
    rattled = zincblende.copy()
    rattled.perturb(0.05, seed=1)
    swollen = cscl.copy()
    swollen.scale_lattice(1.5 * cscl.volume)
    turned = Structure(
        Lattice(cscl.lattice.matrix @ [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        cscl.species,
        cscl.frac_coords,
    )
    return {
        "rocksalt": rocksalt,
        "rocksalt primitive": rocksalt.get_primitive_structure(),
        "rocksalt supercell": skewed_supercell(rocksalt),
        "rocksalt species swapped": swapped,
        "rocksalt shifted": shifted,
        "rocksalt strained": strained,
        "CsCl": cscl,
        "CsCl swollen": swollen,
        "CsCl turned": turned,
        "zincblende": zincblende,
        "zincblende rattled": rattled,
        "NiAs": nias,
        "fluorite": fluorite,
        "antifluorite": antifluorite,
    }


def skewed_supercell(structure: Structure) -> Structure:
    """A supercell with a skewed basis, sites in another order."""
    cell = structure.get_primitive_structure() * [[2, 0, 0], [1, 1, 0], [0, 0, 1]]
    return Structure.from_sites(list(reversed(cell.sites)))


CRYSTALS = prototypes()


def brute(a: Structure, b: Structure) -> bool:
    return bool(StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5).fit(a, b))


def test_seen_structures_agree_with_the_matcher() -> None:
    matches = 0
    for (first, a), (second, b) in itertools.combinations_with_replacement(CRYSTALS.items(), 2):
        same = brute(b, a)
        matches += same
        assert (b in SeenStructures([a])) == same, (first, second)
    # Pairs within groups of 6 rocksalt, 3 CsCl and 2 zincblende, with themselves; three loners.
    assert matches == 21 + 6 + 3 + 3


def test_is_same() -> None:
    rocksalt = CRYSTALS["rocksalt"]
    found = {name for name, crystal in CRYSTALS.items() if is_same(rocksalt, crystal)}
    assert found == {name for name in CRYSTALS if name.startswith("rocksalt")}


def test_first_of_each_group() -> None:
    names = list(CRYSTALS)
    crystals = list(CRYSTALS.values())
    found = [names[i] for i in distinct(crystals)]
    assert found == ["rocksalt", "CsCl", "zincblende", "NiAs", "fluorite", "antifluorite"]


def test_distinct_in_any_order() -> None:
    """One index for each group, its first, in ascending order, whatever the order."""
    names = list(CRYSTALS)
    rng = np.random.default_rng(3)
    for _ in range(3):
        order = [names[i] for i in rng.permutation(len(names))]
        indices = distinct([CRYSTALS[name] for name in order])
        assert indices == sorted(indices)
        kinds = [name.split()[0] for name in order]
        assert [kinds[i] for i in indices] == list(dict.fromkeys(kinds))


def test_add_if_new() -> None:
    seen = SeenStructures()
    assert CRYSTALS["rocksalt"] not in seen
    assert seen.add_if_new(CRYSTALS["rocksalt"])
    assert not seen.add_if_new(CRYSTALS["rocksalt supercell"])
    assert seen.add_if_new(CRYSTALS["CsCl"])
    assert CRYSTALS["CsCl swollen"] in seen


def test_find_numbers_the_first_match_in_the_order_of_adding() -> None:
    """Numbers count everything that was added: duplicates, and cells that match nothing."""
    flat = Structure([[4, 0, 0], [0, 4, 0], [4, 4, 0]], ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
    order = ["fluorite", "rocksalt", "flat", "rocksalt shifted", "CsCl", "rocksalt", "zincblende"]
    seen = SeenStructures(CRYSTALS.get(name, flat) for name in order)
    for name, crystal in CRYSTALS.items():
        kind = name.split()[0]
        assert seen.find(crystal) == (order.index(kind) if kind in order else None), name
        assert (crystal in seen) == (kind in order)
    assert seen.find(flat) is None


def test_find_counts_what_was_new() -> None:
    """What `add_if_new` refuses has no number."""
    flat = Structure([[4, 0, 0], [0, 4, 0], [4, 4, 0]], ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
    seen, added = SeenStructures(), []
    for name, crystal in [*CRYSTALS.items(), ("flat", flat)]:
        if seen.add_if_new(crystal):
            added.append(name)
    assert added == ["rocksalt", "CsCl", "zincblende", "NiAs", "fluorite", "antifluorite", "flat"]
    seen.add(flat)
    seen.add(CRYSTALS["rocksalt"])
    assert [seen.find(CRYSTALS[name]) for name in added[:-1]] == list(range(6))
    rutile = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(5.0, 3.3), ["Bi", "Se"], [[0, 0, 0], [0.3, 0.3, 0]]
    )
    assert seen.find(rutile) is None
    assert seen.add_if_new(rutile) and seen.find(rutile) == 9


def test_added_structures_are_not_changed() -> None:
    crystal = CRYSTALS["rocksalt shifted"].copy()
    before = crystal.as_dict()
    SeenStructures([crystal]).add_if_new(crystal)
    assert crystal.as_dict() == before


def test_matcher_has_the_tolerances_of_the_paper() -> None:
    settings = StructureMatcher(**TOLERANCES).as_dict()
    assert (settings["ltol"], settings["stol"], settings["angle_tol"]) == (0.2, 0.3, 5.0)


@pytest.mark.parametrize(
    ("matrix", "coords"),
    [
        (np.full((3, 3), np.nan), [0.5] * 3),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 0]], [0.5] * 3),
        ([[4, 0, 0], [0, 4, 0], [4, 4, 1e-4]], [0.5] * 3),
        (np.zeros((3, 3)), [0.5] * 3),
        (np.eye(3) * 4, [np.nan, 0, 0]),
    ],
    ids=["nan", "flat", "nearly flat", "zero", "nan site"],
)
def test_degenerate_cells_match_nothing(matrix: list[list[float]], coords: list[float]) -> None:
    """A network can emit such cells: they must neither raise nor take for ever."""
    broken = Structure(Lattice(matrix), ["Bi", "Se"], [[0, 0, 0], coords])
    assert is_degenerate(broken)
    assert not is_same(broken, CRYSTALS["CsCl"])
    assert not is_same(CRYSTALS["CsCl"], broken)
    assert broken not in SeenStructures([CRYSTALS["CsCl"], broken])
    assert distinct([CRYSTALS["CsCl"], broken, CRYSTALS["CsCl"]]) == [0, 1]


def test_no_good_cell_is_degenerate() -> None:
    assert not any(is_degenerate(s) for s in CRYSTALS.values())
    slim = Structure(Lattice.tetragonal(4, 40), ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
    assert not is_degenerate(slim)
