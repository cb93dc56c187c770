"""The funnel: counted by hand, with intervals by their formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from crystals import ANTIFLUORITE, CSCL, FLUORITE, ROCKSALT, ZINCBLENDE
from pymatgen.core import Composition, Lattice, Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import SeenStructures, displacement
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.evaluation import fates, place, share, yield_of

LEVEL = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE")

#: Energies of the elements, and the hull's deepest point, Bi2Se3 at -0.5 eV/atom.
BI, SE, DEEPEST = -4.0, -3.5, -0.5
HULL = Hull(
    [Composition("Bi"), Composition("Se3"), Composition("Bi4Se6")],
    [BI, SE, 0.4 * BI + 0.6 * SE + DEEPEST],
    [LEVEL] * 3,
    ["Bi", "Se"],
)


def hull_energy(selenium: float) -> float:
    """Formation energy on the hull, two straight lines, at a fraction of selenium."""
    return DEEPEST * (selenium / 0.6 if selenium < 0.6 else (1 - selenium) / 0.4)


#: Body-centred bismuth with one atom of sixteen exchanged.
DILUTE = Structure(Lattice.cubic(4.0), ["Bi", "Bi"], [[0, 0, 0], [0.5] * 3]) * (2, 2, 2)
DILUTE.replace(0, "Se")


def relaxed(
    end: Structure,
    *,
    above: float | None = None,
    formation: float | None = None,
    start: Structure | None = None,
    converged: bool = True,
) -> RelaxationDocument:
    """A relaxation whose energy is given as a distance to the hull or as a formation energy."""
    selenium = end.composition.get_atomic_fraction("Se")
    if above is not None:
        formation = hull_energy(selenium) + above
    energy = None if formation is None else (1 - selenium) * BI + selenium * SE + formation
    return RelaxationDocument(
        key="k",
        level_of_theory=LEVEL,
        structure=end.as_dict(),
        energy_per_atom=energy,
        converged=converged,
        campaign="x",
        origin=Origin(kind="generated", id="x"),
        initial_structure=(start or end).as_dict(),
    )


# --- shares -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "of"), [(0, 7), (7, 7), (1, 3), (13, 240), (1, 1)])
def test_intervals_are_wilsons(count: int, of: int) -> None:
    found = share(count, of)
    z, p = 1.959963984540054, count / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    assert (found.count, found.of, found.fraction) == (count, of, p)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_nothing_of_nothing_is_no_fraction() -> None:
    found = share(0, 0)
    assert (found.count, found.of) == (0, 0)
    assert found.fraction is found.low is found.high is None


# --- yield --------------------------------------------------------------------------------------


def test_place_is_that_of_the_lines_between_the_deepest_and_the_elements() -> None:
    for structure, above in ((ROCKSALT, 0.03), (FLUORITE, -0.02), (DILUTE, 0.2)):
        formation, distance = place(relaxed(structure, above=above), HULL)
        selenium = structure.composition.get_atomic_fraction("Se")
        assert distance == pytest.approx(above, abs=1e-9)
        assert formation == pytest.approx(hull_energy(selenium) + above, abs=1e-9)


def test_yield_is_what_is_counted_by_hand() -> None:
    documents = [
        relaxed(ROCKSALT, above=0.04),  # new, and near the hull
        relaxed(ROCKSALT * (1, 2, 1), above=0.0),  # the same again
        relaxed(CSCL, above=0.01),  # known
        relaxed(CSCL * (2, 1, 1), above=0.01),  # known, and the same again
        relaxed(ZINCBLENDE, above=0.0, converged=False),  # ran out of steps
        relaxed(DILUTE, formation=0.01),  # new and 0.062 above the hull, but above the elements
        relaxed(ANTIFLUORITE, above=-0.05),  # new, and below the hull
        relaxed(FLUORITE, above=0.10),  # new, just at a distance that is counted by
        relaxed(ZINCBLENDE, converged=False),  # rejected: it has no energy
        relaxed(ZINCBLENDE, above=0.14),  # new: what failed before does not count
    ]
    assert 0.05 < 0.01 - hull_energy(1 / 16) < 0.10
    found = yield_of(documents, [CSCL * (1, 1, 2)], HULL)
    assert found.relaxed == 10
    assert (found.converged.count, found.converged.of) == (8, 10)
    assert (found.unique.count, found.unique.of) == (6, 10)
    assert (found.new.count, found.new.of) == (5, 10)
    below = {distance: (s.count, s.of) for distance, s in found.below.items()}
    assert below == {"0.00": (1, 10), "0.05": (2, 10), "0.10": (3, 10), "0.15": (4, 10)}
    half, third = hull_energy(1 / 2), hull_energy(1 / 3)
    formation = [half + 0.04, half, half + 0.01, half + 0.01, 0.01, third - 0.05]
    formation += [hull_energy(2 / 3) + 0.10, half + 0.14]
    assert found.mean_formation_energy == pytest.approx(np.mean(formation), abs=1e-9)
    # Nothing has moved.
    assert (found.stayed.count, found.stayed.of) == (8, 8)
    assert found.displacement == pytest.approx(0.0, abs=1e-6)


def test_distances_are_the_callers_to_choose() -> None:
    documents = [relaxed(ROCKSALT, above=0.04), relaxed(FLUORITE, above=0.2)]
    found = yield_of(documents, [], HULL, distances=(0.03, 0.25))
    assert {d: s.count for d, s in found.below.items()} == {"0.03": 0, "0.25": 2}


def test_yield_of_nothing() -> None:
    found = yield_of([], [CSCL], HULL)
    assert found.relaxed == 0 and found.new.fraction is None
    assert found.displacement is None and found.mean_formation_energy is None
    failed = yield_of([relaxed(CSCL, converged=False)] * 3, [], HULL)
    assert (failed.converged.count, failed.unique.count, failed.stayed.of) == (0, 0, 0)
    assert failed.below["0.15"].fraction == 0.0
    assert failed.displacement is None and failed.mean_formation_energy is None


def test_fates_teach_what_is_known() -> None:
    known = SeenStructures([CSCL])
    documents = [relaxed(s, above=0.0) for s in (CSCL, ROCKSALT, ROCKSALT * (1, 1, 2), FLUORITE)]
    documents.append(relaxed(ZINCBLENDE, above=0.0, converged=False))
    assert fates(documents, known) == ["known", "new", "not unique", "new", "not converged"]
    assert ROCKSALT in known and FLUORITE in known and ZINCBLENDE not in known
    assert "new" not in fates(documents, known)


# --- displacement -------------------------------------------------------------------------------


def shifted(structure: Structure, way: float) -> Structure:
    """The last atom moved by `way` Å."""
    moved = structure.copy()
    direction = np.array([1.0, 0.0, 0.0]) * way
    moved.translate_sites([len(moved) - 1], direction, frac_coords=False, to_unit_cell=False)
    return moved


def test_displacement_is_that_of_atoms_against_each_other() -> None:
    # Of two atoms each moves half the way: the origin of a crystal is anywhere.
    for way in (0.1, 0.4):
        assert displacement(shifted(CSCL, way), CSCL) == pytest.approx(way / 2, abs=1e-6)
    # One of eight atoms moves, and all the other way by an eighth of it.
    cell = CSCL * (2, 2, 1)
    expected = math.sqrt(((7 / 8) ** 2 + 7 * (1 / 8) ** 2) / 8) * 0.4
    assert displacement(shifted(cell, 0.4), cell) == pytest.approx(expected, abs=1e-6)
    # Neither origin nor orientation nor a small change of the volume makes a difference.
    turned = Structure(
        Lattice(1.02 * CSCL.lattice.matrix @ [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        CSCL.species,
        CSCL.frac_coords + 0.3,
    )
    assert displacement(turned, CSCL) == pytest.approx(0.0, abs=1e-6)
    assert displacement(CSCL, ROCKSALT) is None


def test_displacement_of_a_set_is_that_of_what_stayed_itself() -> None:
    documents = [
        relaxed(CSCL, above=0.1, start=shifted(CSCL, 0.2)),
        relaxed(CSCL, above=0.1, start=shifted(CSCL, 0.4)),
        relaxed(CSCL, above=0.1, start=ROCKSALT),  # became another crystal
        relaxed(CSCL, above=0.1, start=shifted(CSCL, 0.5), converged=False),
    ]
    found = yield_of(documents, [], HULL)
    assert (found.stayed.count, found.stayed.of) == (2, 3)
    assert found.displacement == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 2), abs=1e-6)
    assert found.mean_displacement == pytest.approx(0.15, abs=1e-6)
