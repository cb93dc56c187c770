"""Substitution: every assignment once, sensible volumes."""

import itertools
from collections.abc import Callable

import pytest
from pymatgen.core import Element, Lattice, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import Prototype
from ccdcgan.dft.structures.substitution import (
    candidates,
    starting_volume,
    substitute,
)
from ccdcgan.dft.systems import parse_system


def rocksalt() -> Structure:
    return Structure(
        [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]], ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]
    )


def fluorite() -> Structure:
    return Structure(
        [[0, 2.7, 2.7], [2.7, 0, 2.7], [2.7, 2.7, 0]],
        ["Ca", "F", "F"],
        [[0, 0, 0], [0.25] * 3, [0.75] * 3],
    )


def perovskite() -> Structure:
    return Structure(
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O", "O", "O"],
        [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
    )


def formulas(found: list[Prototype]) -> dict[str, dict[str, float]]:
    return {p.id: p.structure.composition.as_dict() for p in found}


def test_binary_assignments() -> None:
    found = substitute(Prototype("x", fluorite()), ["Bi", "Se"])
    # Own elements in alphabetical order: Ca, F.
    assert formulas(found) == {"x>BiSe": {"Bi": 1, "Se": 2}, "x>SeBi": {"Se": 1, "Bi": 2}}


def test_ternary_assignments() -> None:
    found = substitute(Prototype("x", perovskite()), ["Bi", "Se", "Te"])
    expected = {
        # Alphabetical: O (3 sites), Sr, Ti.
        f"x>{o}{sr}{ti}": {o: 3, sr: 1, ti: 1}
        for o, sr, ti in itertools.permutations(["Bi", "Se", "Te"])
    }
    assert formulas(found) == expected
    for p in found:
        names = dict(zip(["O", "Sr", "Ti"], _split(p.id[2:]), strict=True))
        for old, new in zip(perovskite(), p.structure, strict=True):
            assert new.specie.symbol == names[old.specie.symbol]
            assert new.frac_coords == pytest.approx(old.frac_coords)


def _split(symbols: str) -> list[str]:
    return [symbols[i : i + 2] for i in range(0, len(symbols), 2)]


def test_binary_prototype_in_a_ternary_system() -> None:
    found = substitute(Prototype("x", fluorite()), ["Bi", "Se", "Te"])
    assert len(found) == 6
    assert len({p.structure.composition.formula for p in found}) == 6


def test_ternary_prototype_in_a_binary_system() -> None:
    assert substitute(Prototype("x", perovskite()), ["Bi", "Se"]) == []


def test_duplicates_dropped() -> None:
    """Rocksalt swapped is rocksalt; fluorite swapped is antifluorite; a supercell is no news."""
    prototypes = [
        Prototype("big", rocksalt() * (2, 1, 1)),
        Prototype("CaF2", fluorite()),
        Prototype("NaCl", rocksalt()),
    ]
    kept, duplicates = candidates(prototypes, ["Bi", "Se"])
    assert [p.id for p in kept] == ["NaCl>BiSe", "CaF2>BiSe", "CaF2>SeBi"]
    assert duplicates == 3


def test_known_structures_are_left_out() -> None:
    known = SeenStructures(
        [p.structure for p in substitute(Prototype("", rocksalt()), ["Bi", "Se"])]
    )
    kept, duplicates = candidates([Prototype("NaCl", rocksalt())], ["Bi", "Se"], known)
    assert (kept, duplicates) == ([], 2)


def test_small_cells_first_and_stable() -> None:
    prototypes = [
        Prototype("b", perovskite()),
        Prototype("c", fluorite()),
        Prototype("a", rocksalt()),
    ]
    kept, _ = candidates(prototypes, ["Bi", "Se", "Te"])
    sizes = [len(p.structure) for p in kept]
    assert sizes == sorted(sizes)
    assert len(kept) == 3 + 6 + 6
    assert [p.id for p in kept if p.id.startswith("c>")] == [
        f"c>{a}{b}" for a, b in itertools.permutations(["Bi", "Se", "Te"], 2)
    ]


@pytest.mark.parametrize(
    ("elements", "solid"),
    # Å³ per atom of the elemental solids, from their lattice constants at room temperature:
    # Bi (A7, a = 4.546, c = 11.862, 6 atoms), Se (A8, 4.366, 4.954, 3 atoms), Te (4.457, 5.929).
    [(["Bi", "Se"], 35.38 + 27.26), (["Bi", "Te"], 35.38 + 34.00)],
)
@pytest.mark.parametrize("make", [rocksalt, lambda: rocksalt() * (1, 2, 1)])
def test_starting_volume_of_a_dense_crystal(
    make: Callable[[], Structure], elements: list[str], solid: float
) -> None:
    structure = make()
    structure.replace_species({"Na": elements[0], "Cl": elements[1]})
    pairs = len(structure) / 2
    assert starting_volume(structure).volume == pytest.approx(pairs * solid, rel=0.05)


@pytest.mark.parametrize("make", [rocksalt, fluorite, perovskite])
def test_starting_volume_properties(make: Callable[[], Structure]) -> None:
    """Between one and two times the solids, no bond below 0.8 radii unless capped, scale-free."""
    for p in substitute(Prototype("x", make()), ["Bi", "Se", "Te"]):
        structure = p.structure
        solid = sum(
            {"Bi": 35.38, "Se": 27.26, "Te": 34.00}[site.specie.symbol] for site in structure
        )
        assert 0.95 * solid < structure.volume < 1.05 * 2 * solid
        distances = structure.distance_matrix
        if structure.volume < 1.9 * solid:
            for i, j in itertools.combinations(range(len(structure)), 2):
                radii = sum(
                    float(Element(structure[k].specie.symbol).atomic_radius) for k in (i, j)
                )
                assert distances[i, j] > 0.8 * radii - 1e-6
        for factor in (0.01, 100.0):
            scaled = structure.copy()
            scaled.scale_lattice(structure.volume * factor)
            again = starting_volume(scaled)
            assert again.volume == pytest.approx(structure.volume, rel=1e-6)
            assert again.lattice.angles == pytest.approx(structure.lattice.angles)
            assert scaled.volume == pytest.approx(structure.volume * factor), "input was changed"


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Bi-Se", ["Bi", "Se"]),
        ("Se-Bi", ["Se", "Bi"]),
        ("Bi–Se", ["Bi", "Se"]),  # an en dash, as pasted from a paper
        (" Bi - Se -Te", ["Bi", "Se", "Te"]),
        (["Bi", "Se"], ["Bi", "Se"]),
    ],
)
def test_parse_system(system: str | list[str], expected: list[str]) -> None:
    assert parse_system(system) == expected


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("Bi-Xx", "unknown element 'Xx'"),
        ("BiSe", "unknown element 'BiSe'"),
        ("bi-se", "unknown element 'bi'"),
        ("Bi", "at least two"),
        ("", "at least two"),
        ([], "at least two"),
        ("Bi-Se-Bi", "twice"),
        ("Bi-Bi", "twice"),
    ],
)
def test_wrong_system(system: str | list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_system(system)
    assert "\n" not in str(caught.value)
