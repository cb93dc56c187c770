"""Hull: against pymatgen, a linear program and a hull drawn by hand."""

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Composition
from pymatgen.entries.computed_entries import ComputedEntry
from scipy.optimize import linprog

from ccdcgan.dft.engines.base import LevelOfTheory, same_level
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.hull import Hull, Thresholds, nearness

PBE = LevelOfTheory(engine="SevenNet-0", package="sevenn", checkpoint="a" * 16, scale="PBE")
OTHER = LevelOfTheory(engine="CHGNet", package="chgnet", checkpoint="b" * 16, scale="MP2020")

# Energies in eV/atom, for two of the compositions more than one.
BINARY = [
    ("Bi", -4.00),
    ("Bi", -3.90),
    ("Se", -3.50),
    ("BiSe", -3.95),
    ("Bi2Se3", -4.10),
    ("Bi2Se3", -4.05),
    ("BiSe2", -3.80),
    ("Bi4Se3", -4.02),
    ("BiSe3", -3.50),
]


def hull(rows: list[tuple[str, float]], elements: list[str]) -> Hull:
    return Hull(
        [Composition(f) for f, _ in rows], [e for _, e in rows], [PBE] * len(rows), elements
    )


def lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Andrew's monotone chain."""
    chain: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if chain and chain[-1][0] == x:
            continue
        while len(chain) > 1:
            (x1, y1), (x2, y2) = chain[-2:]
            if (y2 - y1) * (x - x1) < (y - y1) * (x2 - x1):
                break
            chain.pop()
        chain.append((x, y))
    return chain


def test_binary_against_a_hull_by_hand() -> None:
    """Worked out on paper: Bi2Se3 (E_f -0.400) is the only compound on the hull."""
    found = hull(BINARY, ["Bi", "Se"])
    expected = {
        # formula, energy: (formation energy, distance to the hull)
        ("Bi", -4.00): (0.0, 0.0),
        ("Bi", -3.90): (0.1, 0.1),
        ("Bi2Se3", -4.10): (-4.10 + (2 * 4.00 + 3 * 3.50) / 5, 0.0),
        ("Bi2Se3", -4.05): (-0.35, 0.05),
        # x(Se) = 1/2 lies at 5/6 of the way from Bi to Bi2Se3.
        ("BiSe", -3.95): (-0.20, -0.20 + 0.40 * 5 / 6),
        # x(Se) = 3/4: (1 - 3/4) / (1 - 3/5) = 5/8 of Bi2Se3.
        ("BiSe3", -3.50): (-3.50 + (4.00 + 3 * 3.50) / 4, 0.125 + 0.40 * 5 / 8),
    }
    for (formula, energy), (formation, distance) in expected.items():
        composition = Composition(formula)
        assert found.formation_energy(composition, energy) == pytest.approx(formation, abs=1e-9)
        assert found.e_above_hull(composition, energy) == pytest.approx(distance, abs=1e-9)


def test_binary_against_monotone_chain() -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        rows = [("Bi", -4.0), ("Se", -3.5)] + [
            (f"Bi{rng.integers(1, 7)}Se{rng.integers(1, 7)}", float(rng.uniform(-4.5, -3.5)))
            for _ in range(15)
        ]
        found = hull(rows, ["Bi", "Se"])
        points = [(Composition(f).get_atomic_fraction("Se"), e) for f, e in rows]
        corners = np.array(lower_hull(points))
        for (formula, energy), (x, _) in zip(rows, points, strict=True):
            below = np.interp(x, corners[:, 0], corners[:, 1])
            assert found.e_above_hull(Composition(formula), energy) == pytest.approx(
                energy - below, abs=1e-8
            )
            straight = (1 - x) * -4.0 + x * -3.5
            assert found.hull_energy(Composition(formula)) == pytest.approx(
                below - straight, abs=1e-8
            )


def test_ternary_against_pymatgen_and_a_linear_program() -> None:
    elements = ["Bi", "Se", "Te"]
    rng = np.random.default_rng(6)
    rows = [("Bi", -4.0), ("Se", -3.5), ("Te", -3.2)]
    for _ in range(25):
        counts = rng.integers(0, 4, 3)
        if counts.sum():
            formula = "".join(f"{e}{n}" for e, n in zip(elements, counts, strict=True) if n)
            reference = float(np.dot(counts, [-4.0, -3.5, -3.2]) / counts.sum())
            rows.append((formula, reference + float(rng.uniform(-0.4, 0.2)) * (counts > 0).sum()))
    # Elements may not fall below their reference, or the references change.
    rows = [r for i, r in enumerate(rows) if i < 3 or not Composition(r[0]).is_element]
    found = hull(rows, elements)
    compositions = [Composition(f) for f, _ in rows]
    entries = [
        ComputedEntry(c, e * c.num_atoms) for c, (_, e) in zip(compositions, rows, strict=True)
    ]
    diagram = PhaseDiagram(entries)
    fractions = np.array([[c.get_atomic_fraction(e) for e in elements] for c in compositions])
    energies = np.array([e for _, e in rows])
    for entry, composition, x, energy in zip(
        entries, compositions, fractions, energies, strict=True
    ):
        distance = found.e_above_hull(composition, energy)
        mix = linprog(energies, A_eq=fractions.T, b_eq=x).fun
        assert distance == pytest.approx(energy - mix, abs=1e-8)
        assert distance == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-8)
        assert found.formation_energy(composition, energy) == pytest.approx(
            diagram.get_form_energy_per_atom(entry), abs=1e-8
        )


def test_phase_that_is_not_in_the_hull() -> None:
    """A phase below the hull has a negative distance; the size of its formula does not matter."""
    found = hull(BINARY, ["Bi", "Se"])
    for formula in ("BiSe", "Bi4Se4"):
        on_hull = -(4.00 + 3.50) / 2 - 0.40 * 5 / 6
        for shift in (-0.3, 0.0, 0.3):
            assert found.e_above_hull(Composition(formula), on_hull + shift) == pytest.approx(
                shift, abs=1e-9
            )


def test_mixed_levels() -> None:
    with pytest.raises(UserError) as caught:
        Hull([Composition("Bi"), Composition("Se")], [-4.0, -3.5], [PBE, OTHER], ["Bi", "Se"])
    assert "SevenNet-0" in str(caught.value)
    assert "CHGNet" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["engine", "package", "checkpoint", "scale"])
def test_every_part_of_the_level_counts(field: str) -> None:
    other = PBE.model_copy(update={field: "another"})
    with pytest.raises(UserError, match="another"):
        same_level([PBE, other])
    assert same_level([PBE, PBE.model_dump()]) == PBE


def test_no_entries() -> None:
    with pytest.raises(UserError):
        Hull([], [], [], ["Bi", "Se"])


@pytest.mark.parametrize("element", ["Bi", "Se"])
def test_missing_end_member(element: str) -> None:
    rows = [r for r in BINARY if r[0] != element]
    with pytest.raises(UserError, match=f"pure element {element} ") as caught:
        hull(rows, ["Bi", "Se"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("formation", "distance", "label"),
    [
        (-0.4, 0.0, "stable"),
        (-0.4, -0.02, "stable"),
        (-0.4, 0.0999999, "stable"),
        (-0.4, 0.1, "metastable"),
        (-0.4, 0.1499999, "metastable"),
        (-0.4, 0.15, "unstable"),
        (-0.4, 0.3, "unstable"),
        (-1e-9, 0.0, "stable"),
        (0.0, 0.0, "unstable"),
        (0.0, 0.12, "unstable"),
        (0.05, 0.05, "unstable"),
    ],
)
def test_labels(formation: float, distance: float, label: str) -> None:
    assert Thresholds().label(formation, distance) == label


@pytest.mark.parametrize(
    ("distance", "word"),
    [
        (-0.02, "on the hull"),
        (0.0, "on the hull"),
        (1e-6, "within 0.025"),
        (0.025, "within 0.025"),
        (0.0251, "within 0.10"),
        (0.058, "within 0.10"),
        (0.1, "within 0.10"),
        (0.1001, "above"),
    ],
)
def test_words_for_distances(distance: float, word: str) -> None:
    assert nearness(distance) == word


def test_levels_of_the_engines() -> None:
    """The two engines have levels that never meet, each with the hash of its weights."""
    sevennet = SevenNetEngine().level_of_theory()
    assert len(sevennet.checkpoint) == 16
    pytest.importorskip("chgnet")
    chgnet = ChgnetEngine().level_of_theory()
    with pytest.raises(UserError):
        same_level([sevennet, chgnet])
