"""What is relaxed next: expected gain, novelty, and the spread over formulas."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from copy import deepcopy

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest
from crystals import ANTIFLUORITE, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE
from pymatgen.core import Composition, Lattice, Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import SeenStructures, is_same
from ccdcgan.models.energy.goals import FORMATION_ENERGY, Goal
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.choosing import (
    SCALES,
    SHORTLIST,
    STACKINGS,
    Novelty,
    choose,
    expected_gain,
    region,
)
from ccdcgan.workflows.documents import Claim, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge

LEVEL = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE")
ELEMENTS = ("Bi", "Se")


def rattled(structure: Structure, amplitude: float, seed: int = 0) -> Structure:
    """All atoms of a cell displaced in directions that the seed decides, by as much each (Å)."""
    shift = np.random.default_rng(seed).normal(size=(len(structure), 3))
    shift *= amplitude / np.linalg.norm(shift, axis=1, keepdims=True)
    coords = structure.cart_coords + shift
    return Structure(structure.lattice, structure.species, coords, coords_are_cartesian=True)


# --- expected gain ------------------------------------------------------------------------------

#: On the hull, formation energies in eV/atom: Bi2Se3 at -0.5, and so BiSe at -0.41667 and Bi9Se
#: at -0.08333.
HULL = Hull(
    [Composition("Bi2"), Composition("Se3"), Composition("Bi2Se3")],
    [-4.0, -3.5, -0.4 * 4.0 - 0.6 * 3.5 - 0.5],
    [LEVEL] * 3,
    ELEMENTS,
)
BISE, BI9SE = -0.5 / 0.6 * 0.5, -0.5 / 0.6 * 0.1
BI9SE_CELL = Structure(
    Lattice.cubic(7.0), ["Bi"] * 9 + ["Se"], np.random.default_rng(0).random((10, 3))
)
MEMBERS = 40_000


def monte_carlo(drawn: np.ndarray, weights: list[float], sigmas: list[float], limit: float):
    """Mean of max(0, limit - score): the ensemble's draws (m, p), errors drawn beside them."""
    rng = np.random.default_rng(7)
    total = 0.0
    for _ in range(20):
        values = drawn + rng.normal(size=drawn.shape) * sigmas
        total += np.maximum(0.0, limit - values @ weights).mean()
    return total / 20


@pytest.mark.parametrize(
    ("structure", "hull", "mean"),
    [
        (ROCKSALT, BISE, -0.30),
        (ROCKSALT, BISE, -0.20),
        (FLUORITE, -0.5 / 0.4 / 3, -0.6),
        (BI9SE_CELL, BI9SE, -0.05),
        (BI9SE_CELL, BI9SE, 0.08),
    ],
)
def test_the_gain_is_the_mean_improvement_of_normal_predictions(structure, hull, mean) -> None:
    drawn = np.random.default_rng(1).normal(mean, 0.1, (1, MEMBERS, 1))
    goals = [Goal()]
    found = expected_gain(
        drawn, {FORMATION_ENERGY: 0.06}, [structure], HULL, goals, 0.15, np.zeros((3, 1))
    )
    # Bi9Se's hull lies above -0.15: what has no formation energy is the limit there.
    limit = min(0.0, hull + 0.15)
    assert (limit == 0.0) == (structure is BI9SE_CELL)
    assert found[0] == pytest.approx(monte_carlo(drawn[0], [1.0], [0.06], limit), rel=0.02)


@pytest.mark.parametrize("direction", ["minimise", "maximise"])
def test_gain_of_several_goals(direction) -> None:
    """Members whose properties vary together, each with an error of its own."""
    sign = 1.0 if direction == "minimise" else -1.0
    goals = [Goal(weight=2.0), Goal("density", direction, 0.2)]
    covariance = [[0.01, 0.02], [0.02, 0.16]]
    rng = np.random.default_rng(2)
    drawn = np.stack(
        [
            rng.multivariate_normal(mean, covariance, MEMBERS)
            for mean in ([-0.25, 6.5], [-0.05, 7.5])
        ]
    )
    errors = {FORMATION_ENERGY: 0.05, "density": 0.3}
    known = np.array([[-0.9, 5.0], [0.3, 7.0], [-0.1, 9.0]])
    structures = [ROCKSALT, BI9SE_CELL]
    found = expected_gain(drawn, errors, structures, HULL, goals, 0.1, known)
    weights, usual = [2.0, sign * 0.2], sign * 0.2 * 7.0
    limits = [2.0 * (BISE + 0.1) + usual, usual]
    for k in range(2):
        expected = monte_carlo(drawn[k], weights, [0.05, 0.3], limits[k])
        assert found[k] == pytest.approx(expected, rel=0.02)


def test_gain_of_a_goal_for_another_property_alone() -> None:
    """Where formation energy is no goal, the hull plays no part."""
    drawn = np.random.default_rng(3).normal([-0.2, 6.0], [0.1, 0.4], (2, MEMBERS, 2))
    errors = {FORMATION_ENERGY: 0.05, "density": 0.3}
    known = np.array([[-0.9, 5.0], [0.3, 6.2], [-0.1, 9.0]])
    goals = [Goal("density", "minimise", 0.2)]
    found = expected_gain(drawn, errors, [ROCKSALT, BI9SE_CELL], HULL, goals, 0.15, known)
    for k in range(2):
        expected = monte_carlo(drawn[k], [0.0, 0.2], [0.0, 0.3], 0.2 * 6.2)
        assert found[k] == pytest.approx(expected, rel=0.02)


def test_what_has_no_prediction_gains_nothing() -> None:
    members = np.full((3, 4, 1), -0.3)
    members[0], members[2, 1] = np.inf, np.nan
    arguments = ({FORMATION_ENERGY: 0.1}, [ROCKSALT] * 3, HULL, [Goal()], 0.15, np.zeros((3, 1)))
    found = expected_gain(members, *arguments)
    assert found[0] == found[2] == 0.0 and found[1] > 0.0
    np.testing.assert_array_equal(expected_gain(np.full((3, 4, 1), np.inf), *arguments), 0.0)


def test_gain_without_doubt_is_the_difference() -> None:
    """Members that agree and err by nothing: the gain is the distance to the limit, or none."""
    members = np.array([[[BISE + 0.05]] * 4, [[BISE + 0.30]] * 4])
    arguments = ({FORMATION_ENERGY: 0.0}, [ROCKSALT] * 2, HULL, [Goal()], 0.15, np.zeros((3, 1)))
    np.testing.assert_allclose(expected_gain(members, *arguments), [0.10, 0.0], atol=1e-6)


# --- novelty ------------------------------------------------------------------------------------


def probability(novelty: Novelty, structure: Structure) -> float:
    distance = novelty.distance(structure, novelty.vectors([structure])[0])
    return float(novelty.probability(np.array([distance]), np.array([False]))[0])


@pytest.fixture
def novelty() -> Novelty:
    """One that knows two crystals of BiSe."""
    found = Novelty(ELEMENTS)
    for known in (ROCKSALT, CSCL):
        found.add(known, found.vectors([known])[0])
    return found


def test_the_known_is_not_new_and_another_formula_is(novelty) -> None:
    turned = Structure(ROCKSALT.lattice, ["Se", "Bi"], [[0.6] * 3, [0.1] * 3])
    for known in (ROCKSALT, CSCL, ROCKSALT * (2, 1, 1), turned):
        assert probability(novelty, known) == pytest.approx(0.0, abs=1e-6)
    assert probability(novelty, FLUORITE) == probability(novelty, ANTIFLUORITE) == 1.0
    assert probability(Novelty(ELEMENTS), ROCKSALT) == 1.0
    # As far from both as they are from each other: another crystal of a formula that is known.
    assert 0.5 < probability(novelty, ZINCBLENDE) <= 1.0


def test_elements_on_each_others_sites_are_new(novelty) -> None:
    swapped = NIAS.copy()
    swapped.replace_species({"Bi": "Se", "Se": "Bi"})
    assert not is_same(swapped, NIAS)
    novelty.add(NIAS, novelty.vectors([NIAS])[0])
    assert probability(novelty, NIAS) == pytest.approx(0.0, abs=1e-6)
    assert probability(novelty, swapped) > 0.5


def test_novelty_grows_with_the_way_from_the_known(novelty) -> None:
    cell = CSCL * (2, 2, 2)
    found = [probability(novelty, rattled(cell, a)) for a in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)]
    assert found == sorted(found) and found[0] < 1e-6 and found[-1] > 0.5
    novelty.scale *= 2
    wider = [probability(novelty, rattled(cell, a)) for a in (0.05, 0.1, 0.2)]
    assert all(b < a for a, b in zip(found[2:5], wider, strict=True))


def relaxed(name: str, start: Structure, end: Structure, converged: bool = True):
    return RelaxationDocument(
        key=name,
        level_of_theory=LEVEL,
        structure=end.as_dict(),
        energy_per_atom=-4.0,
        converged=converged,
        campaign="x",
        origin=Origin(kind="prototype", id=name),
        initial_structure=start.as_dict(),
    )


def learnt(*documents: RelaxationDocument) -> Novelty:
    found = {d.key: d for d in documents}
    # What is stored has no order: that of the entries counts.
    shuffled = {key: found[key] for key in sorted(found, reverse=True)}
    entries = [Claim(key=k, origin=d.origin) for k, d in found.items()]
    return Knowledge(Campaign(), shuffled, entries).novelty()


#: Starts around rocksalt, from near to far, and crystals of BiSe, all different.
NEAR = [rattled(ROCKSALT * (2, 1, 1), a, seed) for seed, a in enumerate((0.1, 0.15, 0.2, 0.25))]
OTHERS = [CSCL, ZINCBLENDE, NIAS]


def test_starts_that_became_duplicates_make_the_scale_larger() -> None:
    first = relaxed("first", ROCKSALT, ROCKSALT)
    same = [relaxed(f"{i}", s, ROCKSALT) for i, s in enumerate(NEAR)]
    new = [relaxed(f"{i}", s, e) for i, (s, e) in enumerate(zip(NEAR, OTHERS, strict=False))]
    duplicates, crystals = learnt(first, *same), learnt(first, *new)
    assert duplicates.scale == pytest.approx(SCALES[-1])
    assert crystals.scale < duplicates.scale / 5
    for start in NEAR[:3]:
        assert probability(duplicates, start) < 0.2
        # What they became is known now, but not they.
        assert probability(crystals, start) > 0.8


def test_stackings_have_a_scale_of_their_own() -> None:
    stacking = Origin(kind="generated", id="stacking:a+b", round=1)
    first = relaxed("first", ROCKSALT, ROCKSALT)
    same = [relaxed(f"{i}", s, ROCKSALT) for i, s in enumerate(NEAR)]
    # Each becomes another superstructure of CsCl.
    new = []
    for i in range(STACKINGS):
        end = rattled(CSCL * (2, 2, 1), 1.0, i)
        document = relaxed(f"n{i}", rattled(end, 0.1, i), end)
        new.append(document.model_copy(update={"origin": stacking}))
    few, found = learnt(first, *same, *new[:-1]), learnt(first, *same, *new)
    assert few.stacking_scale == few.scale
    assert found.stacking_scale < found.scale
    distance = np.full(2, found.stacking_scale)
    sample, stacked = found.probability(distance, np.array([False, True]))
    assert sample < stacked == pytest.approx(1 - np.exp(-1))


def test_a_stacking_near_to_what_is_known_goes_before_a_sample_as_near(novelty) -> None:
    novelty.stacking_scale = novelty.scale / 10
    near = [rattled(s * (2, 1, 1), 0.1, 1) for s in (ROCKSALT, CSCL)]
    for stacked, expected in ((None, [0, 1]), ([False, True], [1, 0])):
        chosen = choose(
            near,
            np.array([1.0, 0.5]),
            SeenStructures(),
            9,
            2,
            deepcopy(novelty),
            stacked=stacked,
        )
        assert chosen == expected


def test_the_scale_is_the_most_likely_one() -> None:
    documents = [relaxed("0", ROCKSALT, ROCKSALT)]
    duplicates = [*NEAR, rattled(ROCKSALT * (2, 1, 1), 0.3, 9)]
    crystal = rattled(ROCKSALT * (2, 1, 1), 0.25, 9)
    documents += [relaxed(f"d{i}", s, ROCKSALT) for i, s in enumerate(duplicates)]
    documents += [relaxed("new", crystal, CSCL)]
    found = learnt(*documents)
    reference = Novelty(ELEMENTS)
    reference.add(ROCKSALT, reference.vectors([ROCKSALT])[0])
    distances = [reference.distance(s, reference.vectors([s])[0]) for s in [*duplicates, crystal]]
    new = [False] * len(duplicates) + [True]

    def likelihood(scale: float) -> float:
        ratios = [(d / scale) ** 2 for d in distances]
        # The logarithms of the probability to be new, and of that not to be.
        chances = [(np.log(-np.expm1(-r)), -r) for r in ratios]
        return sum(p if n else q for (p, q), n in zip(chances, new, strict=True))

    fine = np.geomspace(SCALES[0], SCALES[-1], 2000)
    best = fine[np.argmax(list(map(likelihood, fine)))]
    step = SCALES[1] / SCALES[0]
    assert best / step < found.scale < best * step
    assert SCALES[1] < found.scale < SCALES[-2]


def test_what_tells_nothing_of_novelty() -> None:
    overlapping = Structure(ROCKSALT.lattice, ["Bi", "Se"], [[0, 0, 0], [0.05] * 3])
    element = Structure(Lattice.cubic(3.3), ["Bi"], [[0, 0, 0]])
    usual = Novelty(ELEMENTS).scale
    found = learnt(
        relaxed("element", element, element),
        relaxed("first", ROCKSALT, ROCKSALT),
        relaxed("overlap", overlapping, ROCKSALT),
        relaxed("failed", NEAR[0], ROCKSALT, converged=False),
        relaxed("other formula", FLUORITE, FLUORITE),
    )
    assert found.scale == usual
    assert probability(found, ROCKSALT) < 1e-6 and probability(found, FLUORITE) < 1e-6
    # What failed is no crystal to be known.
    assert learnt(relaxed("failed", CSCL, CSCL, converged=False)).scale == usual
    assert probability(learnt(relaxed("failed", CSCL, CSCL, converged=False)), CSCL) == 1.0


# --- choice -------------------------------------------------------------------------------------

CANDIDATES = [ROCKSALT, FLUORITE, CSCL, ZINCBLENDE, ANTIFLUORITE, NIAS]


def test_without_novelty_the_largest_gain_comes_first() -> None:
    gain = np.array([0.1, 0.5, 0.3, 0.2, 0.6, 0.4])
    assert choose(CANDIDATES, gain, SeenStructures(), 6, 6) == [4, 1, 5, 2, 3, 0]
    assert choose(CANDIDATES, gain, SeenStructures(), 6, 2) == [4, 1]
    # As they came, where all are worth the same.
    assert choose(CANDIDATES, np.ones(6), SeenStructures(), 6, 6) == list(range(6))
    assert choose([], np.ones(0), SeenStructures(), 6, 6) == []
    assert choose([], np.ones(0), SeenStructures(), 6, 6, Novelty(ELEMENTS)) == []


@pytest.mark.parametrize("with_novelty", [False, True])
def test_the_choice_spreads_over_formulas(with_novelty) -> None:
    gain = np.array([0.9, 0.1, 0.8, 0.7, 0.2, 0.6])
    novelty = Novelty(ELEMENTS) if with_novelty else None
    if novelty:
        novelty.scale = 1e-3
    one = choose(CANDIDATES, gain, SeenStructures(), 1, 6, novelty)
    assert one == [0, 4, 1]
    two = choose(CANDIDATES, gain, SeenStructures(), 2, 3, Novelty(ELEMENTS) if novelty else None)
    assert two == [0, 2, 4]


@pytest.mark.parametrize("with_novelty", [False, True])
def test_what_matches_is_never_chosen(with_novelty) -> None:
    novelty = Novelty(ELEMENTS) if with_novelty else None
    known = SeenStructures([CSCL * (1, 1, 2)])
    disguised = rattled(ROCKSALT * (2, 1, 1), 0.05)
    found = choose(
        [CSCL, ROCKSALT, disguised, ZINCBLENDE], np.array([9, 1, 2, 1e-3]), known, 9, 4, novelty
    )
    # Of the two that are one crystal the better one; the chosen are known from now on.
    assert found == [2, 3]
    assert ROCKSALT in known and ZINCBLENDE in known


def test_what_gains_nothing_is_not_chosen() -> None:
    gain = np.array([0.0, -0.1, np.nan, 0.2, 0.0, 0.1])
    assert choose(CANDIDATES, gain, SeenStructures(), 9, 6) == [3, 5]
    assert choose(CANDIDATES, gain, SeenStructures(), 9, 6, Novelty(ELEMENTS)) == [3, 5]
    assert choose(CANDIDATES, np.zeros(6), SeenStructures(), 9, 6, Novelty(ELEMENTS)) == []


def test_of_equal_gain_the_new_comes_first(novelty) -> None:
    near = rattled(CSCL * (2, 1, 1), 0.1)
    structures = [near, FLUORITE, ZINCBLENDE]
    chances = [probability(novelty, s) for s in structures]
    assert chances[0] < chances[2] < chances[1] == 1.0
    assert choose(structures, np.ones(3), SeenStructures(), 9, 3, novelty) == [1, 2, 0]
    # Worth is gain times probability: with enough gain the near one leads.
    gain = np.array([1.1 / chances[0], 1.0, 0.5])
    assert choose(structures, gain, SeenStructures(), 9, 2, novelty) == [0, 1]


def test_the_chosen_make_their_neighbours_less_new() -> None:
    """Of equal formulas the second choice is what is far from the first."""
    structures = [ROCKSALT, CSCL, FLUORITE, NIAS]
    novelty = Novelty(ELEMENTS)
    vectors = novelty.vectors(structures)
    near, far = (float(np.linalg.norm(vectors[i] - vectors[0])) for i in (1, 3))
    assert near < 0.75 * far
    novelty.scale = 1.5 * near
    gain = np.array([1.0, 0.9, 0.2, 0.7])
    assert choose(structures, gain, SeenStructures(), 9, 3) == [0, 1, 3]
    assert choose(structures, gain, SeenStructures(), 9, 3, novelty) == [0, 3, 1]


def test_what_has_no_environments_is_not_chosen_by_novelty() -> None:
    overlapping = Structure(ROCKSALT.lattice, ["Bi", "Se"], [[0, 0, 0], [0.05] * 3])
    structures = [overlapping, ROCKSALT]
    assert choose(structures, np.ones(2), SeenStructures(), 9, 2, Novelty(ELEMENTS)) == [1]


def test_a_shortlist_of_one_formula_is_not_the_end() -> None:
    """The best of all are of one formula, of which only one is wanted."""
    same = [rattled(ROCKSALT, 0.3, seed) for seed in range(2 * SHORTLIST + 5)]
    other = rattled(FLUORITE, 0.1, 1)
    gain = np.array([*np.linspace(2.0, 1.0, len(same)), 0.1])
    for novelty in (None, Novelty(ELEMENTS)):
        chosen = choose([*same, other], gain, SeenStructures(), 1, 2, novelty)
        assert len(chosen) == 2 and chosen[1] == len(same)


@pytest.mark.parametrize(
    ("formula", "fifth"),
    [("BiSe5", 0), ("BiSe4", 1), ("Bi2Se3", 2), ("BiSe", 2), ("Bi3Se2", 3), ("Bi4Se", 4)],
)
def test_the_fifth_of_a_composition(formula: str, fifth: int) -> None:
    """Fractions of bismuth of 1/6, 1/5, 2/5, 1/2, 3/5 and 4/5; the lower limit is part of it."""
    species = Composition(formula).get_el_amt_dict()
    symbols = [s for s, n in species.items() for _ in range(int(n))]
    crystal = Structure(
        Lattice.cubic(9.0), symbols, np.random.default_rng(0).random((len(symbols), 3))
    )
    assert region(crystal, ["Bi", "Se"]) == (fifth,)
    assert region(crystal * (2, 1, 1), ["Bi", "Se"]) == (fifth,)
    assert region(crystal, ["Bi", "Te", "Se"]) == (fifth, 0)


@pytest.mark.parametrize("with_novelty", [False, True])
def test_no_region_takes_all_while_others_have_something(with_novelty: bool) -> None:
    """Of ten, three of each; what the small regions leave goes to the best of the others."""
    rng = np.random.default_rng(0)
    where = ["rich"] * 40 + ["middle"] * 12 + ["poor"] * 2 + ["worthless"] * 5
    crystals = [
        Structure(Lattice.cubic(5.5), ["Bi", "Bi", "Se", "Se"], places)
        for places in rng.random((len(where), 4, 3))
    ]
    levels = {"rich": 3.0, "middle": 2.0, "poor": 1.0, "worthless": 0.0}
    gain = np.array([levels[w] for w in where]) * (1 - 1e-4 * np.arange(len(where)))

    def chosen(names: list[str] | None, shortlist: int = SHORTLIST) -> Counter[str]:
        novelty = Novelty(ELEMENTS) if with_novelty else None
        if novelty:
            novelty.scale = 1e-3
        found = choose(crystals, gain, SeenStructures(), 99, 10, novelty, shortlist, regions=names)
        return Counter(where[i] for i in found)

    assert chosen(None) == {"rich": 10}
    assert chosen(["one"] * len(where)) == {"rich": 10}
    # Also where the best of all, more than the shortlist, are of one region.
    assert chosen(where) == chosen(where, 2) == {"rich": 5, "middle": 3, "poor": 2}


def test_choosing_many_keeps_one_copy_of_their_vectors() -> None:
    places = np.random.default_rng(0).random((30, 4, 3))
    structures = [Structure(Lattice.cubic(5.5), ["Bi", "Bi", "Se", "Se"], c) for c in places]
    novelty = Novelty(ELEMENTS)
    size = len(places) * novelty.vectors(structures[:1]).nbytes
    tracemalloc.start()
    try:
        chosen = choose(structures, np.ones(30), SeenStructures(), 30, 30, novelty)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # They were as many copies, of 1,200 crystals 25 GB.
    assert len(chosen) > 12 and kept < 4 * size


def test_nothing_is_chosen_of_what_cannot_be_judged() -> None:
    overlapping = Structure(Lattice.cubic(3.0), ["Bi", "Se"], [[0, 0, 0], [0, 0, 0.01]])
    assert choose([overlapping], np.ones(1), SeenStructures(), 2, 2, Novelty(ELEMENTS)) == []
