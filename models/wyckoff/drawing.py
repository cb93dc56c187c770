"""Crystals drawn: placements by the scoring networks, then cells and free coordinates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.spacegroups import SYSTEMS
from ccdcgan.dft.systems import atomic_volume
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.wyckoff.network import Asked, group_options, position_options
from ccdcgan.models.wyckoff.placement import Placement
from ccdcgan.models.wyckoff.positions import space_groups
from ccdcgan.models.wyckoff.training import ALL_GROUPS, Scorers, log_odds

#: Cells and free coordinates that are tried for a placement; that with the widest gaps is kept.
TRIES = 24

#: Crystals of which an energy chooses, each of fewer tries: as many matches of known crystals
#: again (docs/generator.md).
CHOICES, OF = 10, 3

#: Standard deviation of the logarithms of the lengths' ratios.
SPREAD = 0.45

#: Images of a cell in which a neighbour may lie: (27, 3).
IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)


def draw_placements(
    asked: Sequence[Mapping[str, int]],
    scorers: Scorers,
    rng: np.random.Generator,
    groups: Collection[int] = ALL_GROUPS,
) -> list[Placement | None]:
    """A placement for each composition asked for; None where the choices lead nowhere."""
    wanted = [Asked(atoms) for atoms in asked]
    options: dict[tuple[tuple[str, int], ...], tuple[FloatArray, FloatArray]] = {}
    chosen: list[int | None] = []
    for one in wanted:
        key = tuple(zip(one.elements, one.counts, strict=True))
        if key not in options:
            rows, numbers = group_options(one, sorted(groups))
            odds = np.exp(log_odds(scorers.groups, [rows])[0]) if len(rows) else np.zeros(0)
            options[key] = numbers, odds
        numbers, odds = options[key]
        chosen.append(int(rng.choice(numbers, p=odds)) if len(numbers) else None)
    placed: list[list[tuple[int, int]]] = [[] for _ in wanted]
    left = [list(one.counts) for one in wanted]
    active = [i for i, number in enumerate(chosen) if number is not None]
    failed = set(range(len(wanted))) - set(active)
    while active:
        asking = []
        for i in active:
            element = next(k for k, n in enumerate(left[i]) if n)
            group = space_groups()[(chosen[i] or 1) - 1]
            rows, indices = position_options(wanted[i], group, element, left[i][element], placed[i])
            if len(indices):
                asking.append((i, element, rows, indices))
            else:
                failed.add(i)
        odds_of = log_odds(scorers.positions, [rows for _, _, rows, _ in asking])
        active = []
        for (i, element, _, indices), odds in zip(asking, odds_of, strict=True):
            position = int(rng.choice(indices, p=np.exp(odds)))
            placed[i].append((element, position))
            group = space_groups()[(chosen[i] or 1) - 1]
            left[i][element] -= group.positions[position].multiplicity
            if any(left[i]):
                active.append(i)
    found: list[Placement | None] = []
    for i, one in enumerate(wanted):
        if i in failed:
            found.append(None)
            continue
        sites = {
            e: tuple(sorted(p for k, p in placed[i] if k == number))
            for number, e in enumerate(one.elements)
        }
        found.append(Placement(chosen[i] or 1, sites))
    return found


def crystal_of(placement: Placement, rng: np.random.Generator, tries: int = TRIES) -> Structure:
    """A crystal of a placement: of some cells and free coordinates, those with the widest gaps."""
    group = space_groups()[placement.group - 1]
    species = [
        e
        for e, taken in placement.sites.items()
        for i in taken
        for _ in range(group.positions[i].multiplicity)
    ]
    radii = covalent_radii[[atomic_numbers[e] for e in species]]
    volume = sum(atomic_volume(e) for e in species) / abs(np.linalg.det(group.primitive))
    cells = np.array([_cell(placement.group, volume, rng) for _ in range(tries)])
    coords = np.concatenate(
        [
            group.positions[i].coordinates(rng.random((tries, 3)))
            for taken in placement.sites.values()
            for i in taken
        ],
        axis=1,
    )
    cells = group.primitive @ cells
    coords = coords @ np.linalg.inv(group.primitive)
    gaps = [_gap(cell, xyz, radii) for cell, xyz in zip(cells, coords, strict=True)]
    best = int(np.argmax(gaps))
    return Structure(Lattice(cells[best]), species, coords[best], to_unit_cell=True)


def lowest_of(
    placement: Placement,
    rng: np.random.Generator,
    energy: Callable[[Structure], float] | None,
    version: Callable[[Structure], Structure] = lambda structure: structure,
) -> Structure:
    """A crystal of a placement: of some, that of the lowest energy; any, without energies.

    Parameters
    ----------
    energy
        Of a crystal, as a learnt potential gives it.
    version
        What is done to a crystal before: it is mended.
    """
    if energy is None or not placement.freedom:
        return version(crystal_of(placement, rng))
    found = [version(crystal_of(placement, rng, OF)) for _ in range(CHOICES)]
    return min(found, key=energy)


def _cell(number: int, volume: float, rng: np.random.Generator) -> FloatArray:
    """Vectors of a conventional cell of a volume (Å³), its shape drawn at random."""
    system = next(name for name, (low, high) in SYSTEMS.items() if low <= number <= high)
    a, b, c = np.exp(SPREAD * rng.standard_normal(3))
    angles = [90.0, 90.0, 90.0]
    if system == "cubic":
        b = c = a
    elif system in {"tetragonal", "trigonal", "hexagonal"}:
        b = a
        # Trigonal and hexagonal layers are often stacked high.
        c *= np.exp(SPREAD * rng.standard_normal())
        angles[2] = 90.0 if system == "tetragonal" else 120.0
    elif system == "monoclinic":
        angles[1] = rng.uniform(90.0, 125.0)
    elif system == "triclinic":
        angles = list(rng.uniform(65.0, 115.0, 3))
    lattice = Lattice.from_parameters(a, b, c, *angles)
    return np.asarray(lattice.scale(volume).matrix)


def _gap(cell: FloatArray, coords: FloatArray, radii: FloatArray) -> float:
    """Shortest distance between atoms in units of their summed radii."""
    offset = coords[:, None] - coords[None]
    offset -= np.round(offset)
    d = np.linalg.norm((offset[:, :, None] + IMAGES) @ cell, axis=-1)
    n = len(coords)
    d[np.arange(n), np.arange(n), 13] = np.inf
    return float((d.min(-1) / (radii[:, None] + radii[None])).min())
