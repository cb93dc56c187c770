"""How sure distances to the hull are, against the statistics of others."""

from __future__ import annotations

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Lattice, Structure
from scipy.stats import median_abs_deviation
from test_trust import LEVEL, SECOND, cell, phases, relaxed

from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.confirm import confirmations
from ccdcgan.workflows.documents import Claim, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.uncertainty import probability_within, uncertainties

CAMPAIGN = Campaign(system=("Be", "Pd"))
FORMULAS = [(1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (2, 3), (3, 2), (4, 1)]


def documents(second: bool = True) -> dict[str, RelaxationDocument]:
    """Elements and compounds, each at one energy and at that of another checkpoint."""
    rng = np.random.default_rng(5)
    found = [
        relaxed("Be", cell(2.3, "Be"), -3.7, -3.6 if second else None, kind="element"),
        relaxed("Pd", cell(2.7, "Pd"), -5.2, -5.3 if second else None, kind="element"),
    ]
    for number, (n, m) in enumerate(FORMULAS):
        atoms = n + m
        sites = [[0.1 + 0.03 * i, 0.37 * i, i / atoms] for i in range(atoms)]
        lattice = Lattice.orthorhombic(2.6, 2.7 + 0.1 * number, 2.5 * atoms)
        structure = Structure(lattice, ["Be"] * n + ["Pd"] * m, sites)
        mean = (-3.7 * n - 5.2 * m) / atoms - 1.2 * n * m / atoms**2
        energy = mean + rng.uniform(0, 0.08) + (0.3 if number == 7 else 0.0)
        other = energy - 0.1 * (m - n) / atoms + rng.normal(0.0, 0.02)
        found.append(relaxed(f"{n}{m}", structure, energy, other if second else None))
    return {d.key: d for d in found}


def distances(found: dict[str, RelaxationDocument], second: bool) -> dict[str, float]:
    entries = {}
    for key, d in found.items():
        energy = d.second_opinion.energy_per_atom if second and d.second_opinion else None
        each = d.energy_per_atom if energy is None else energy
        assert each is not None
        entries[key] = PDEntry(d.structure.composition, each * len(d.structure))
    diagram = PhaseDiagram(list(entries.values()))
    return {key: diagram.get_e_above_hull(e) or 0.0 for key, e in entries.items()}


def test_uncertainties_are_those_of_two_hulls() -> None:
    found = documents()
    own, other = distances(found, second=False), distances(found, second=True)
    near = [k for k in found if len(k) == 2 and k.isdigit() and own[k] <= 0.1]
    assert 5 <= len(near) < len(FORMULAS) and max(own.values()) > 0.1
    spread = median_abs_deviation([other[k] - own[k] for k in near], scale="normal")
    for key, phase in phases(found, CAMPAIGN).items():
        expected = np.hypot(spread, other[key] - own[key]) / 2**0.5
        assert phase.e_above_hull_uncertainty == pytest.approx(expected, rel=1e-4, abs=1e-9)
        likely = NormalDist(own[key], expected).cdf(0.025)
        assert phase.probability_within == pytest.approx(likely, abs=1e-6)


def test_without_two_checkpoints_there_is_none() -> None:
    for phase in phases(documents(second=False), CAMPAIGN).values():
        assert phase.e_above_hull_uncertainty is phase.probability_within is None
    few = dict(itertools.islice(documents().items(), 6))
    assert all(p.probability_within is None for p in phases(few, CAMPAIGN).values())
    # One that cannot be believed has none, and tells nothing of the others.
    hole = relaxed("hole", cell(3.1, "Be", "Pd", "Pd"), -10.33, 28.24)
    both = phases({**documents(), "hole": hole}, CAMPAIGN)
    assert both["hole"].label == "untrusted" and both["hole"].probability_within is None
    alone = phases(documents(), CAMPAIGN)
    assert {k: p.probability_within for k, p in both.items() if k in alone} == {
        k: p.probability_within for k, p in alone.items()
    }


def test_known_numbers() -> None:
    own = [0.0, 0.01, 0.02, 0.03, 0.04, 0.5]
    other = [0.01, 0.01, 0.03, 0.01, 0.08, None]
    # Differences 10, 0, 10, -20, 40 meV: the median is 10, the deviations 0, 10, 0, 30, 30.
    found = uncertainties(own, other, [True] * 6)
    assert found[1] == pytest.approx(0.014826 / 2**0.5)
    assert found[4] == pytest.approx(np.hypot(0.014826, 0.04) / 2**0.5)
    assert found[5] is None
    assert uncertainties(own, other, [False] + [True] * 5) == [None] * 6
    assert probability_within(0.025, 0.01) == pytest.approx(0.5)
    assert probability_within(0.0, 0.0) == 1 and probability_within(0.03, 0.0) == 0
    assert probability_within(0.0, 0.0125) == pytest.approx(NormalDist().cdf(2))


def test_a_confirmed_crystal_has_that_between_both_levels() -> None:
    own = documents()
    confirming = {
        key: d.model_copy(
            update={
                "level_of_theory": SECOND,
                "energy_per_atom": d.second_opinion and d.second_opinion.energy_per_atom,
                "second_opinion": None,
            }
        )
        for key, d in own.items()
    }
    assert SECOND != LEVEL
    campaign = Campaign.model_validate(
        {"system": "Be-Pd", "confirm": {"relaxation": {"engine": {"name": "vasp"}}}}
    )
    claims = [Claim(key=k, origin=d.origin) for k, d in own.items()]
    before = Knowledge(campaign, own, claims).phases
    crystals = confirmations(before, claims, confirming, campaign)
    here, there = distances(own, second=False), distances(own, second=True)
    near = [k for k in own if k.isdigit() and there[k] <= 0.1]
    spread = median_abs_deviation([here[k] - there[k] for k in near], scale="normal")
    for crystal in crystals:
        expected = np.hypot(spread, here[crystal.id] - there[crystal.id]) / 2**0.5
        assert crystal.after.e_above_hull_uncertainty == pytest.approx(expected, rel=1e-4)
        (phase,) = [p for p in before if p.id == crystal.id]
        assert crystal.before.probability_within == phase.probability_within is not None
