"""How candidates are judged: by the constraint, and by a potential that has relaxed them."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest
from crystals import ANTIFLUORITE, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE, fcc
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.energy.power_spectrum import PAIR
from ccdcgan.models.pipeline import train_constraints
from ccdcgan.models.sampling import Files, shipped_autoencoder
from ccdcgan.workflows import drawing
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.judge import Judge, left_out
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.sections import Screening
from ccdcgan.workflows.sources.base import Proposal
from ccdcgan.workflows.training import crystals_of, preset_of

LEVEL = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE")
CAMPAIGN = Campaign()
ELEMENTS = CAMPAIGN.elements
TYPES = [ROCKSALT, ZINCBLENDE, CSCL, NIAS, FLUORITE, ANTIFLUORITE]
#: Energies of the elements, eV/atom.
BI, SE = -4.0, -3.5


def document(name: str, structure: Structure, formation: float) -> RelaxationDocument:
    selenium = structure.composition.get_atomic_fraction("Se")
    return RelaxationDocument(
        key=name,
        level_of_theory=LEVEL,
        structure=structure.as_dict(),
        energy_per_atom=(1 - selenium) * BI + selenium * SE + formation,
        converged=True,
        campaign="x",
        origin=Origin(kind="prototype", id=name),
        initial_structure=structure.as_dict(),
    )


@pytest.fixture(scope="module")
def documents() -> dict[str, RelaxationDocument]:
    """Elements, and each structure type with four volumes: distinct crystals for the matcher."""
    found = [document(e, Structure(Lattice.cubic(3.2), [e], [[0] * 3]), 0.0) for e in ELEMENTS]
    for kind, structure in enumerate(TYPES):
        for strained in range(4):
            cell = Structure(
                structure.lattice.matrix @ np.diag([1, 1, 1 + 0.3 * strained]),
                structure.species,
                structure.frac_coords,
            )
            energy = -0.1 - 0.05 * kind + 0.08 * strained
            found.append(document(f"{kind}-{strained}", cell, energy))
    return {d.key: d for d in found}


@pytest.fixture(scope="module")
def files(documents) -> Files:
    """Of a constraint that has learnt from the documents."""
    crystals = crystals_of(Knowledge(CAMPAIGN, documents).samples, CAMPAIGN.properties)
    shipped = shipped_autoencoder()
    preset = preset_of(CAMPAIGN)
    trained, _ = train_constraints(crystals, ELEMENTS, preset, shipped, 0, guided=False)
    return shipped | trained


def judge(
    files: Files,
    documents,
    mae: float = 0.02,
    unrelaxed: float = 0.1,
    campaign: Campaign = CAMPAIGN,
) -> Judge:
    errors = {FORMATION_ENERGY: PropertyErrors(mae=mae, unrelaxed=unrelaxed, held_out=9)}
    return Judge(Knowledge(campaign, documents), files, errors)


def offsets(bismuth: float, selenium: float) -> Potential:
    """A potential that knows of elements only."""
    return Potential(
        np.array([bismuth, selenium]), np.zeros((2, 2 * PAIR)), np.zeros((2, 420, 420))
    )


def test_a_potential_that_has_relaxed_them_has_half_the_say(files, documents) -> None:
    judged = judge(files, documents)
    alone, _ = judged(TYPES)
    both, _ = judged(TYPES, offsets(BI - 0.7, SE - 0.2))
    for structure, one, mean in zip(TYPES, alone, both, strict=True):
        selenium = structure.composition.get_atomic_fraction("Se")
        said = -0.7 * (1 - selenium) - 0.2 * selenium
        assert abs(said - one) > 0.05
        assert mean == pytest.approx((one + said) / 2, abs=1e-6)


def test_the_gain_of_what_is_relaxed_knows_the_error_for_relaxed_crystals(files, documents) -> None:
    silent = offsets(BI, SE)
    gains = {
        (mae, unrelaxed, by is None): judge(files, documents, mae, unrelaxed)(TYPES, by)[1]
        for mae in (0.02, 0.2)
        for unrelaxed in (0.1, 0.3)
        for by in (None, silent)
    }
    for one in (0.02, 0.2):
        np.testing.assert_array_equal(gains[one, 0.1, False], gains[one, 0.3, False])
    for one in (0.1, 0.3):
        np.testing.assert_array_equal(gains[0.02, one, True], gains[0.2, one, True])
    assert (gains[0.02, 0.1, False] < gains[0.2, 0.1, False]).any()
    assert (gains[0.02, 0.1, True] < gains[0.02, 0.3, True]).any()


def test_what_is_sought_is_near_the_hull(files, documents) -> None:
    gains = {
        within: judge(
            files,
            documents,
            campaign=parse_campaign({"loop": {"screening": {"within": within}}}, "x"),
        )(TYPES)[1]
        for within in (0.0, 0.025, 0.1)
    }
    np.testing.assert_array_equal(gains[0.025], judge(files, documents)(TYPES)[1])
    for less, more in ((0.0, 0.025), (0.025, 0.1)):
        assert (gains[less] <= gains[more]).all() and (gains[less] < gains[more]).any()


def test_reasons_of_a_round_that_chooses_nothing() -> None:
    energies = np.array([0.5, 0.4, 0.1, np.nan, -0.3])
    found = left_out(energies, np.array([0.0, 0.0, 0.0, 0.0, 0.1]), 0.3)
    assert found == {
        "beyond max_formation_energy, as predicted": 2,
        "without a gain to be expected": 1,
        "not to be judged": 1,
        "known already, or with atoms on each other": 1,
    }
    assert left_out(energies[:1], np.zeros(1), 0.3) == {
        "beyond max_formation_energy, as predicted": 1
    }


def test_limits_that_are_left_open_follow_what_is_known() -> None:
    known = np.array([2.0, 10.0, 20.0])
    mgo = fcc(["Mg", "O"], [0, 0.5], 4.21)
    assert Limits.of(Screening(), known) == Limits(20, 1.6, (6.0, 24.0))
    assert Limits.of(Screening(), known).allow(mgo)
    for crystal in (
        fcc(["Mg", "O"], [0, 0.5], 3.6),
        fcc(["Mg", "O"], [0, 0.5], 5.8),
        fcc(["Mg", "O"], [0, 0.2], 4.21),
        mgo * (3, 2, 2),
    ):
        assert not Limits.of(Screening(), known).allow(crystal)
    chosen = Screening(min_distance=2.2, volume_range=(5.0, 9.0))
    assert Limits.of(chosen, known) == Limits(20, 2.2, (5.0, 9.0))


def test_a_random_sample_is_of_all_that_was_drawn(documents, monkeypatch) -> None:
    """Known crystals and copies among it, the same for the same seed: so that it can be counted."""
    drawn = [
        Proposal(Origin(kind="generated", id=str(i), round=1), structure)
        for i, structure in enumerate([ROCKSALT] * 30 + [CSCL] * 10 + [None] * 5)
    ]
    monkeypatch.setattr(drawing, "proposed", lambda context: drawn)
    screening = {"selection": "sample", "min_distance": 1.0, "volume_range": [5.0, 200.0]}
    sections = {
        "networks": {"variant": "dcgan"},
        "loop": {"relaxations": 20, "screening": screening},
    }

    def chosen(seed: int) -> tuple[list[str], int]:
        campaign = parse_campaign({**sections, "seed": seed}, "x")
        knowledge = Knowledge(campaign, documents)
        monkeypatch.setattr(drawing.Context, "statistics", {"extremes": np.array([2.5, 20, 40])})
        candidates, funnel = drawing.generated(knowledge, {}, {}, "m", 1)
        assert (funnel.sampled, funnel.valid, funnel.screened) == (45, 40, 20)
        return [c.origin.id for c in candidates], sum(int(c.origin.id) < 30 for c in candidates)

    first, rocksalt = chosen(0)
    assert chosen(0)[0] == first and chosen(1)[0] != first
    assert len(set(first)) == 20 and 10 < rocksalt < 20
