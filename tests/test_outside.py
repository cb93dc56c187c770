"""S.U.N., copies and substitutions: as pymatgen's StructureMatcher alone counts them."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import ANTIFLUORITE, CSCL, FLUORITE, NIAS, ROCKSALT, WURTZITE, ZINCBLENDE
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.kinship import Relatives
from ccdcgan.workflows.evaluation import Sun, sun_of


def with_elements(structure: Structure, **elements: str) -> Structure:
    """A structure with other elements."""
    return Structure(
        structure.lattice,
        [elements.get(site.specie.symbol, site.specie.symbol) for site in structure],
        structure.frac_coords,
    )


PEROVSKITE = Structure(
    Lattice.cubic(4.0),
    ["Ca", "Ti", "O", "O", "O"],
    [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)
TYPES = [ROCKSALT, ZINCBLENDE, CSCL, NIAS, WURTZITE, FLUORITE, ANTIFLUORITE, PEROVSKITE]


def changed(structure: Structure, rng: np.random.Generator, much: float) -> Structure:
    """A structure in another cell, strained and rattled by so much, Å."""
    strained = structure.copy()
    strained.apply_strain(rng.uniform(-much, much, 3) / 4)
    strained.perturb(much, seed=int(rng.integers(1000)))
    cells = np.eye(3, dtype=int)
    cells[0, 1] = rng.integers(3)
    cells[2, 2] = rng.integers(1, 3)
    return strained.make_supercell(cells, in_place=False)


def sets() -> tuple[list[Structure], list[Structure]]:
    """Crystals, and known ones of the same elements and of others."""
    rng = np.random.default_rng(7)
    given = [changed(t, rng, float(rng.uniform(0, 0.4))) for t in TYPES for _ in range(4)]
    given.append(with_elements(NIAS, Bi="Se", Se="Bi"))
    given.append(with_elements(PEROVSKITE, Ca="Ti", Ti="Ca"))
    known = [
        *(with_elements(t, Bi="Sb", Se="Te", Ca="K", Ti="F", O="Mg") for t in TYPES[3:]),
        *(changed(t, rng, 0.1) for t in (ROCKSALT, NIAS, FLUORITE, PEROVSKITE)),
        with_elements(CSCL, Bi="Cs", Se="Cl"),
    ]
    return given, known


GIVEN, KNOWN = sets()


def test_relatives_are_those_of_the_matcher() -> None:
    """Each with each, by ``fit`` and ``fit_anonymous``."""
    matcher = StructureMatcher()
    relatives = Relatives(KNOWN)
    kinds = []
    for structure in GIVEN:
        copies = [k for k, other in enumerate(KNOWN) if matcher.fit(structure, other)]
        others = [k for k, other in enumerate(KNOWN) if matcher.fit_anonymous(structure, other)]
        found = relatives.of(structure)
        expected = "copy" if copies else "substitution" if others else "neither"
        assert found.kinship == expected
        # The first of them, whichever order of its elements it takes.
        assert found.relative in (copies[:1] or others or [None])
        kinds.append(found.kinship)
    # All three are there, and what has its own elements exchanged is a substitution.
    assert min(kinds.count(k) for k in ("copy", "substitution", "neither")) >= 3
    assert kinds[-2] == "substitution" and kinds[-1] == "substitution"


def independent(structures: list[Structure], distances: list[float | None]) -> list[int]:
    """Numbers of S.U.N. and MetaSUN of LeMat-GenBench, and of S.U.N. of MatterGen."""
    tight, loose = StructureMatcher(ltol=0.1), StructureMatcher()

    def unique(matcher: StructureMatcher, some: list[int]) -> list[int]:
        return [
            i
            for n, i in enumerate(some)
            if not any(matcher.fit(structures[i], structures[j]) for j in some[:n])
        ]

    def first(matcher: StructureMatcher, some: list[int]) -> list[int]:
        found: list[int] = []
        for i in some:
            if not any(matcher.fit(structures[i], structures[j]) for j in found):
                found.append(i)
        return found

    def new(matcher: StructureMatcher, some: list[int]) -> list[int]:
        return [i for i in some if not any(matcher.fit(structures[i], k) for k in KNOWN)]

    numbers = range(len(structures))
    stable = [i for i in numbers if distances[i] is not None and distances[i] <= 0]
    metastable = [i for i in numbers if distances[i] is not None and 0 < distances[i] <= 0.1]
    near = {*stable, *metastable}
    return [
        len(new(tight, unique(tight, stable))),
        len(new(tight, unique(tight, metastable))),
        len([i for i in new(loose, first(loose, list(numbers))) if i in near]),
    ]


@pytest.mark.parametrize("seed", range(2))
def test_sun_is_what_loops_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(GIVEN))
    structures = [GIVEN[i] for i in order]
    drawn = rng.choice([-0.05, 0.0, 0.02, 0.1, 0.11, 0.4], len(order))
    distances = [None if n % 9 == 4 else float(d) for n, d in enumerate(drawn)]
    relatives = Relatives(KNOWN)
    found = counted(structures, distances, [relatives.of(s).kinship == "copy" for s in structures])
    shares = [found.lemat_sun, found.lemat_metasun, found.mattergen_sun]
    expected = independent(structures, distances)
    assert [s.count for s in shares] == expected and all(expected)
    assert [s.of for s in shares] == [40, 40, 50]


def counted(structures: list[Structure], distances: list[float | None], copied: list[bool]) -> Sun:
    return sun_of(structures, distances, KNOWN, copied, valid=40, sampled=50)


def test_where_the_two_definitions_differ() -> None:
    """Worked out by hand: two of one crystal, the second of which alone is near the hull."""
    other = with_elements(WURTZITE, Bi="Ga", Se="N")
    first, near, stable = (
        counted([other, other], distances, [False, False])
        for distances in ([0.3, 0.05], [0.05, 0.05], [0.05, -0.1])
    )
    assert (first.lemat_sun.count, first.lemat_metasun.count, first.mattergen_sun.count) == (
        *(0, 1),
        # The first of equal crystals is the unique one, and that is unstable.
        0,
    )
    assert (near.lemat_sun.count, near.lemat_metasun.count, near.mattergen_sun.count) == (0, 1, 1)
    # Unique among the stable, and among the metastable.
    assert (stable.lemat_sun.count, stable.lemat_metasun.count) == (1, 1)
    assert stable.mattergen_sun.count == 1


def test_nothing_near_the_hull() -> None:
    none = counted([], [], [])
    assert (none.lemat_sun.count, none.mattergen_sun.count) == (0, 0)
    untrusted = counted([CSCL], [None], [False])
    assert (untrusted.lemat_sun.count, untrusted.mattergen_sun.count) == (0, 0)
