"""What a report tells beside phases and counts: the latent plane, relatives, displacements."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from test_conclusion import CAMPAIGN, document

from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.describe import describe_best, latent_map, parities, provenance_of
from ccdcgan.workflows.documents import Claim, Origin, Phase
from ccdcgan.workflows.outputs import ConstraintFigures
from ccdcgan.workflows.phases import unplaced


def test_the_latent_plane_is_that_of_the_covariance() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 6)) * [5.0, 3.0, 0.5, 0.2, 0.1, 0.1] @ rng.normal(size=(6, 6))
    found = latent_map([str(i) for i in range(40)], rows)
    assert found is not None
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    points = np.array(found.points)
    for axis in (0, 1):
        expected = (rows - rows.mean(0)) @ vectors[:, -1 - axis]
        assert abs(points[:, axis]) == pytest.approx(abs(expected), abs=1e-3)
        assert found.explained[axis] == pytest.approx(values[-1 - axis] / values.sum(), abs=1e-3)
    assert latent_map(["a", "b"], rows[:2]) is None
    assert latent_map([str(i) for i in range(40)], rows) == found


def cscl(first: str, second: str, shift: float = 0.0) -> Structure:
    """Three atoms of two kinds along a cube's edge, a third of it apart, one of them moved (Å)."""
    cell = Structure(Lattice.cubic(6), [first, first, second], [[0, 0, 0], [0, 0, 0.3], [0.5] * 3])
    cell.translate_sites([1], [0, 0, shift], frac_coords=False)
    return cell


def phase(key: str, structure: Structure, kind: str, start: Structure) -> tuple[Phase, object]:
    found = document(key, structure, -4.0)
    found.initial_structure = start
    found.origin = Origin(kind=kind, id=key, predicted_formation_energy=-0.1)
    made = unplaced(Claim(key=key, origin=found.origin), found)
    made.formation_energy_per_atom = -0.2
    return made, found


def test_the_best_are_told_their_relatives_and_how_far_they_moved() -> None:
    made = [
        phase("known", cscl("Bi", "Se"), "prototype", cscl("Bi", "Se")),
        phase("other", Structure(Lattice.cubic(3), ["Bi"], [[0] * 3]), "element", cscl("Bi", "Se")),
        # The same with the elements exchanged, after a move of one of three atoms by 0.3 Å.
        phase("new", cscl("Se", "Bi"), "generated", cscl("Se", "Bi", 0.3)),
        phase("copy", cscl("Bi", "Se"), "generated", cscl("Bi", "Se")),
        phase(
            "alone",
            Structure(Lattice.cubic(4.2), ["Bi", "Se"], [[0] * 3, [0.5] * 3]),
            "generated",
            Structure(Lattice.cubic(4.2), ["Bi", "Se"], [[0] * 3, [0.5] * 3]),
        ),
    ]
    phases = [p for p, _ in made]
    documents = {d.key: d for _, d in made}
    describe_best(phases[2:], phases, documents)
    new, copy, alone = phases[2:]
    assert new.relative is not None and copy.relative is not None and alone.relative is not None
    assert new.relative.kinship == "substitution" and new.relative.origin == "prototype known"
    assert (copy.relative.kinship, copy.relative.formula) == ("copy", "Bi2Se")
    assert (alone.relative.kinship, alone.relative.origin) == ("neither", None)
    assert alone.relative.among == 2
    # A move of one atom of three, less that of the centre of mass: 0.3 Å √(1/3 − 1/9).
    assert new.displacement == pytest.approx(0.3 * np.sqrt(1 / 3 - 1 / 9), abs=0.01)
    assert copy.displacement == pytest.approx(0, abs=1e-6)
    assert phases[0].relative is None


def test_parities_are_of_what_nobody_had_seen() -> None:
    new, _ = phase("new", cscl("Se", "Bi"), "generated", cscl("Se", "Bi"))
    errors = PotentialErrors(0.1, 0.1, 0.2, 5, parity=((-4.0, -3.9),))
    held_out = {"mae": 0.1, "held_out": 1, "parity": [(-0.3, -0.4)]}
    figures = ConstraintFigures(
        properties={"formation_energy_per_atom": held_out}, potential=errors
    )
    found = {p.title.partition(":")[0]: p.pairs for p in parities([new], figures)}
    assert found == {
        "constraint": [(-0.3, -0.4)],
        "constraint and potential": [(-0.2, -0.1)],
        "potential": [(-4.0, -3.9)],
    }
    figures.properties["formation_energy_per_atom"].parity = []
    assert len(parities([], figures)) == 1


def test_the_settings_make_the_same_campaign_again() -> None:
    from ccdcgan.workflows.campaign import parse_campaign

    found = provenance_of(CAMPAIGN)
    assert parse_campaign(found.campaign, "a report").digest() == found.digest
    assert {"python", "ccdcgan", "numpy", "keras"} <= set(found.versions)
