"""The Wyckoff generator: its tables, what it draws, and what it learns."""

from __future__ import annotations

import os
from collections import Counter

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from itertools import combinations_with_replacement
from pathlib import Path

import ase.io
import numpy as np
import pytest
from command import complaint, status_of
from pymatgen.analysis.structure_matcher import (
    ElementComparator,
    FrameworkComparator,
    StructureMatcher,
)
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.models.wyckoff.choice import best_of
from ccdcgan.models.wyckoff.drawing import crystal_of, draw_placements
from ccdcgan.models.wyckoff.geometry import Geometries, geometry_of
from ccdcgan.models.wyckoff.placement import Placement, placement_of
from ccdcgan.models.wyckoff.positions import reachable, space_groups
from ccdcgan.models.wyckoff.training import WyckoffModel, log_likelihood
from ccdcgan.workflows.wyckoff import adapted, compounds, family_of

FLUORITE = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.46), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]
)

RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
)

#: Groups in which spglib's letters of the most special position may belong to another origin.
UNPLACED = {70, 203}


def general(group: int) -> tuple[Placement, Structure]:
    """Atoms on the general position and on the most special one, with room between them."""
    positions = space_groups()[group - 1].positions
    placement = Placement(group, {"Bi": (len(positions) - 1,), "Se": (0,)})
    crystal = crystal_of(placement, np.random.default_rng(500 + group), tries=1)
    # Tight cells put atoms near to a symmetry.
    crystal.scale_lattice(40.0 * len(crystal))
    return placement, crystal


@pytest.mark.parametrize("group", range(1, 231))
def test_the_general_position_has_the_whole_symmetry_by_spglib(group: int) -> None:
    """Atoms on the general position and on the most special one have no higher symmetry."""
    placement, crystal = general(group)
    found = placement_of(crystal, tolerance=1e-3)
    assert found is not None
    assert found.atoms == placement.atoms == crystal.composition.as_dict()
    assert found.group == group or chiral_twins(found.group, group)


def chiral_twins(a: int, b: int) -> bool:
    """Whether two groups differ by their hand alone, which does not matter to a lattice of ours."""
    return {a, b} in [{76, 78}, {91, 95}, {92, 96}, {144, 145}, {151, 153}, {152, 154}] or (
        {a, b} in [{169, 170}, {171, 172}, {178, 179}, {180, 181}, {212, 213}]
    )


def test_placement_of_a_known_crystal() -> None:
    placement = placement_of(FLUORITE)
    assert placement is not None
    letters = {
        e: [space_groups()[224].positions[i].letter for i in taken]
        for e, taken in placement.sites.items()
    }
    assert (placement.group, letters) == (225, {"Ca": ["a"], "F": ["c"]})
    assert placement.freedom == 0
    made = crystal_of(placement, np.random.default_rng(0))
    made.scale_lattice(primitive_cell(FLUORITE).volume)
    assert is_same(made, FLUORITE)


@pytest.mark.parametrize("group", [1, 2, 14, 62, 166, 194, 225, 227])
@pytest.mark.parametrize("atoms", [1, 2, 3, 4, 6])
def test_positions_that_can_be_completed_are_those_of_all_ways(group: int, atoms: int) -> None:
    positions = space_groups()[group - 1].positions
    taken = frozenset({0} if not positions[0].freedom else ())
    ways = {
        way[0]
        for count in range(1, atoms + 1)
        for way in combinations_with_replacement(range(len(positions)), count)
        if sum(positions[i].multiplicity for i in way) == atoms
        and all(positions[i].freedom or (way.count(i) == 1 and i not in taken) for i in way)
    }
    here = reachable(space_groups()[group - 1], atoms, 0, taken)
    assert set(np.flatnonzero(here)) == ways


def test_what_is_drawn_is_what_was_asked_for() -> None:
    asked = [{"Bi": 2, "Se": 3}, {"Ti": 1, "O": 2, "Ba": 1}, {"Al": 4}]
    drawn = draw_placements(asked * 20, WyckoffModel.shipped(), np.random.default_rng(0))
    made = [p for p in drawn if p is not None]
    assert len(made) > 45
    for wanted, placement in zip(asked * 20, drawn, strict=True):
        assert placement is None or placement.atoms == wanted
    again = draw_placements(asked * 20, WyckoffModel.shipped(), np.random.default_rng(0))
    assert again == drawn
    cubic = draw_placements(asked[:1] * 20, WyckoffModel.shipped(), np.random.default_rng(0), [166])
    assert {p.group for p in cubic if p} == {166}
    assert draw_placements(
        [{"Bi": 1, "Se": 2}], WyckoffModel.shipped(), np.random.default_rng(0), [230]
    ) == [None]


def test_a_placement_comes_seldom_again() -> None:
    drawn = draw_placements(
        [{"Ti": 2, "O": 4}] * 200, WyckoffModel.shipped(), np.random.default_rng(0)
    )
    assert None not in drawn
    times = Counter(p for p in drawn if p)
    assert all(n <= (2 if p.freedom else 1) for p, n in times.items())
    # Cubic crystals of one atom each in a primitive cell have few.
    few = draw_placements(
        [{"Cs": 1, "Cl": 1}] * 40, WyckoffModel.shipped(), np.random.default_rng(0), [221]
    )
    assert None not in few and len(set(few)) == 2


def test_a_crystal_drawn_has_its_atoms_apart() -> None:
    rng = np.random.default_rng(0)
    placements = draw_placements([{"Bi": 4, "Se": 6}] * 20, WyckoffModel.shipped(), rng)
    gaps = {tries: [] for tries in (1, 24)}
    for placement in (p for p in placements if p):
        for tries, found in gaps.items():
            distances = crystal_of(placement, rng, tries).distance_matrix
            np.fill_diagonal(distances, np.inf)
            found.append(distances.min())
    assert np.median(gaps[24]) > np.median(gaps[1])


def placements_of(structures: list[Structure]) -> list[Placement]:
    return [p for s in structures if (p := placement_of(s)) is not None]


def test_it_learns_what_it_is_shown_and_what_is_like_it() -> None:
    everything = compounds()
    seen, unseen = everything[:120:2], placements_of(everything[1::2])
    untrained = WyckoffModel.untrained(0)
    before = log_likelihood(untrained, unseen)
    model = adapted(WyckoffModel.untrained(0), seen, [0.0] * len(seen), 0, epochs=30)
    shown = placements_of(seen)
    assert log_likelihood(model, shown) > log_likelihood(untrained, shown) + 0.5
    every = placements_of(everything)
    assert log_likelihood(WyckoffModel.shipped(), every) > log_likelihood(untrained, every) + 1.0
    assert log_likelihood(model, unseen) > before


@pytest.mark.parametrize("group", range(1, 231))
def test_a_crystal_is_its_placement_and_its_geometry(group: int) -> None:
    _, crystal = general(group)
    found = geometry_of(crystal, tolerance=1e-3)
    if group in UNPLACED and found is None:
        return
    assert found is not None and (found.group == group or chiral_twins(found.group, group))
    here = space_groups()[found.group - 1]
    species = ["Se" if n == 0 else "Bi" for n in np.argsort(np.argsort(found.positions))]
    coords, symbols = [], []
    for index, free, symbol in zip(found.positions, found.free, species, strict=True):
        coords.append(here.positions[index].coordinates(free))
        symbols += [symbol] * here.positions[index].multiplicity
    volume = crystal.volume / abs(np.linalg.det(here.primitive))
    lattice = Lattice.from_parameters(*found.shape).scale(volume)
    inverse = np.linalg.inv(here.primitive)
    made = Structure(here.primitive @ lattice.matrix, symbols, np.concatenate(coords) @ inverse)
    # Where both elements are on positions of one kind, the geometry does not say which is which.
    matcher = StructureMatcher(comparator=ElementComparator())
    other = made.copy()
    if len(here.positions) == 1:
        other.replace_species({"Bi": "Se", "Se": "Bi"})
    assert matcher.fit(made, crystal) or matcher.fit(other, crystal)


def test_what_is_drawn_near_a_known_crystal_is_like_it() -> None:
    """Rutile's oxygen has one free coordinate and the cell one ratio: most come back."""
    known = Geometries().with_crystals([RUTILE])
    placement = placement_of(RUTILE)
    assert placement is not None
    tin = Placement(placement.group, {"Sn": placement.sites["Ti"], "O": placement.sites["O"]})
    rng = np.random.default_rng(0)
    matcher = StructureMatcher(comparator=FrameworkComparator())

    def like(geometries: Geometries | None) -> int:
        made = [crystal_of(tin, rng, 1, geometries) for _ in range(20)]
        return sum(matcher.fit(s, RUTILE) for s in made)

    assert like(known) >= 15 > 2 * like(None)
    again = Geometries.from_arrays(known.arrays())
    drawn = [g.draw(tin, 3, np.random.default_rng(1)) for g in (known, again)]
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert known.draw(Placement(225, {"Na": (0,), "Cl": (1,)}), 3, rng) is None


def test_weights_go_into_a_file_and_back() -> None:
    there = WyckoffModel.shipped()
    back = WyckoffModel.from_bytes(there.to_bytes())
    placement = placement_of(FLUORITE)
    assert placement is not None
    assert log_likelihood(back, [placement]) == log_likelihood(there, [placement])
    placements = draw_placements([{"Ti": 2, "O": 4}] * 9, there, np.random.default_rng(0))
    for asked in (p for p in placements if p):
        one, other = (m.geometries.draw(asked, 2, np.random.default_rng(0)) for m in (there, back))
        assert (one is None) == (other is None)
        for a, b in zip(one or (), other or (), strict=True):
            np.testing.assert_array_equal(a, b)
    assert back.elements == there.elements >= {"Bi", "Se", "Ti", "O"}


def test_families_of_prototypes() -> None:
    assert family_of("aflow:AB_cF8_225_a_b~01>BiSe") == "AB_cF8_225_a_b"
    assert family_of("aflow:A_hR1_166_a-2>Bi") == "A_hR1_166_a"
    left = {family_of(f"aflow:{name}") for name in ("AB_cF8_225_a_b",)}
    assert len(compounds(left)) < len(compounds())
    types = {"AB2"}
    assert not any(s.composition.anonymized_formula in types for s in compounds(types=types))


FACES = [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def of_density(structure: Structure, volume: float) -> Structure:
    scaled = structure.copy()
    scaled.scale_lattice(volume * len(structure))
    return scaled


def test_what_is_kept_of_some_crystals() -> None:
    places = {"F-43m": 0.25, "Fm-3m": 0.5}
    salt = [
        Structure.from_spacegroup(group, Lattice.cubic(5), ["Na", "Cl"], [[0] * 3, [x] * 3])
        for group, x in places.items()
    ]
    # Ions of a kind beside each other, in layers of the same lattice.
    layers = Structure(Lattice.tetragonal(1, 2), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.5]])
    crystals = [of_density(s, 22.0) for s in (*salt, layers)]
    assert best_of(crystals, 1) == [1]
    assert best_of(crystals, 2) == [0, 1]
    assert best_of(crystals, 3) == best_of(crystals, 9) == [0, 1, 2]
    # No salt: dense packings first.
    dense = Structure(Lattice.cubic(1), ["Al", "Ni", "Ni", "Ni"], [[0] * 3, *FACES])
    loose = Structure(Lattice.cubic(1), ["Al", "Ni", "Ni", "Ni"], [[0] * 3, *np.array(FACES) * 0.8])
    alloys = [of_density(s, 11.4) for s in (loose, dense)]
    assert best_of(alloys, 1) == [1]
    assert best_of([], 3) == []


def test_sample_without_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "drawn.extxyz"
    drawn = status_of(
        monkeypatch, "sample", "--composition", "BaTiO3,TiO2", "--count", 40, "--out", out
    )
    assert drawn == 0
    images = ase.io.read(out, ":")
    assert 20 < len(images) <= 40
    assert {a.get_chemical_formula("hill", empirical=True) for a in images} == {"BaO3Ti", "O2Ti"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--composition"),
        (["--composition", "Bi2Og3"], "Og"),
        (["--composition", "Qq2"], "no formula"),
        (["--composition", "Al30Ni30Ti"], "61 atoms"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    asked = ("sample", *options, "--out", tmp_path / "drawn.json")
    assert said in complaint(monkeypatch, capsys, *asked)
