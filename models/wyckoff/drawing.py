"""Crystals drawn: placements by the scoring networks, then cells and free coordinates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.spacegroups import ALL_GROUPS, SYSTEMS
from ccdcgan.dft.systems import atomic_volume
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.wyckoff.geometry import Geometries
from ccdcgan.models.wyckoff.network import Asked, group_options, position_options
from ccdcgan.models.wyckoff.placement import Placement
from ccdcgan.models.wyckoff.positions import SpaceGroup, space_groups
from ccdcgan.models.wyckoff.training import WyckoffModel, log_odds

#: Cells and free coordinates that are tried for a placement; that with the widest gaps is kept.
TRIES = 24

#: Crystals of which an energy chooses, each of fewer tries (benchmarks/wyckoff.py counts matches).
CHOICES, OF = 10, 3

#: How often a placement is drawn of one composition where it has free coordinates, and passes in
#: which what has been drawn so often, or led nowhere, is drawn again.
COPIES, PASSES = 2, 6

#: Part of the tries that lie near known crystals.
NEAR_KNOWN = 0.75

#: Standard deviation of the logarithms of the lengths' ratios.
SPREAD = 0.45

#: Images of a cell in which a neighbour may lie: (27, 3).
IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)


@dataclass
class _Draft:
    """A placement on its way; without a group where the choices have led nowhere."""

    asked: Asked
    group: SpaceGroup | None
    left: list[int]
    placed: list[tuple[int, int]]

    @property
    def element(self) -> int:
        """Number of the element that is placed next."""
        return next(number for number, atoms in enumerate(self.left) if atoms)

    def placement(self) -> Placement | None:
        if self.group is None:
            return None
        sites = {
            element: tuple(sorted(position for own, position in self.placed if own == number))
            for number, element in enumerate(self.asked.elements)
        }
        return Placement(self.group.number, sites)


def draw_placements(
    asked: Sequence[Mapping[str, int]],
    model: WyckoffModel,
    rng: np.random.Generator,
    groups: Collection[int] = ALL_GROUPS,
) -> list[Placement | None]:
    """A placement for each composition asked for; None where the choices lead nowhere.

    The same one comes again only where hardly any other is left.
    """
    found: list[Placement | None] = [None] * len(asked)
    times, left = Counter[Placement](), list(range(len(asked)))
    for _ in range(PASSES):
        again = []
        drawn = _drawn([asked[i] for i in left], model, rng, groups)
        for i, placement in zip(left, drawn, strict=True):
            found[i] = placement or found[i]
            if placement is None or times[placement] == (COPIES if placement.freedom else 1):
                again.append(i)
            else:
                times[placement] += 1
        left = again
    return found


def _drawn(
    asked: Sequence[Mapping[str, int]],
    model: WyckoffModel,
    rng: np.random.Generator,
    groups: Collection[int],
) -> list[Placement | None]:
    """A placement for each composition asked for, each independent of the others."""
    drafts = _begun(asked, model, rng, sorted(groups))
    active = [draft for draft in drafts if draft.group is not None]
    while active:
        going, options = [], []
        for draft in active:
            assert draft.group is not None
            number = draft.element
            rows, indices = position_options(
                draft.asked, draft.group, number, draft.left[number], draft.placed
            )
            if len(indices):
                going.append((draft, indices))
                options.append(rows)
            else:
                draft.group = None
        active = []
        for (draft, indices), odds in zip(going, log_odds(model.positions, options), strict=True):
            assert draft.group is not None
            position, number = int(rng.choice(indices, p=np.exp(odds))), draft.element
            draft.placed.append((number, position))
            draft.left[number] -= draft.group.positions[position].multiplicity
            if any(draft.left):
                active.append(draft)
    return [draft.placement() for draft in drafts]


def _begun(
    asked: Sequence[Mapping[str, int]],
    model: WyckoffModel,
    rng: np.random.Generator,
    groups: Sequence[int],
) -> list[_Draft]:
    """A draft for each composition, in a space group that can take its atoms."""
    known: dict[tuple[tuple[str, int], ...], tuple[Asked, NDArray[np.int_], FloatArray]] = {}
    drafts = []
    for atoms in asked:
        key = tuple(sorted(atoms.items()))
        if key not in known:
            wanted = Asked(atoms)
            rows, numbers = group_options(wanted, groups)
            odds = log_odds(model.groups, [rows])[0] if len(rows) else np.zeros(0)
            known[key] = wanted, numbers, np.exp(odds)
        wanted, numbers, shares = known[key]
        group = space_groups()[rng.choice(numbers, p=shares) - 1] if len(numbers) else None
        drafts.append(_Draft(wanted, group, list(wanted.counts), []))
    return drafts


def crystal_of(
    placement: Placement,
    rng: np.random.Generator,
    tries: int = TRIES,
    known: Geometries | None = None,
) -> Structure:
    """A crystal of a placement: of some cells and free coordinates, those with the widest gaps.

    Parameters
    ----------
    known
        Geometries near which a part of the tries lie; by default all are drawn at random.
    """
    group = space_groups()[placement.group - 1]
    sites = [(e, i) for e, taken in placement.sites.items() for i in taken]
    species = [e for e, i in sites for _ in range(group.positions[i].multiplicity)]
    radii = covalent_radii[[atomic_numbers[e] for e in species]]
    volume = sum(atomic_volume(e) for e in species) / abs(np.linalg.det(group.primitive))
    shapes = np.array([_shape(rng) for _ in range(tries)])
    free = rng.random((tries, len(sites), 3))
    if known is not None and (near := known.draw(placement, round(NEAR_KNOWN * tries), rng)):
        shapes[: len(near[0])], free[: len(near[0])] = near
    cells = np.array([_cell(placement.group, volume, shape) for shape in shapes])
    coords = np.concatenate(
        [group.positions[i].coordinates(free[:, n]) for n, (_, i) in enumerate(sites)], axis=1
    )
    cells = group.primitive @ cells
    coords = coords @ np.linalg.inv(group.primitive)
    gaps = [gap(cell, xyz, radii) for cell, xyz in zip(cells, coords, strict=True)]
    best = int(np.argmax(gaps))
    return Structure(Lattice(cells[best]), species, coords[best], to_unit_cell=True)


def lowest_of(
    placement: Placement,
    rng: np.random.Generator,
    energy: Callable[[Structure], float] | None,
    version: Callable[[Structure], Structure] = lambda structure: structure,
    known: Geometries | None = None,
) -> Structure:
    """A crystal of a placement: of some, that of the lowest energy; any, without energies.

    Parameters
    ----------
    energy
        Of a crystal, as a learnt potential gives it.
    version
        What is done to a crystal before: it is mended.
    known
        As of `crystal_of`.
    """
    if energy is None or not placement.freedom:
        return version(crystal_of(placement, rng, known=known))
    found = [version(crystal_of(placement, rng, OF, known)) for _ in range(CHOICES)]
    return min(found, key=energy)


def _shape(rng: np.random.Generator) -> FloatArray:
    """Lengths, only whose ratios count, and angles (degrees) of a conventional cell, at random."""
    a, b, c = np.exp(SPREAD * rng.standard_normal(3))
    return np.array([a, b, c, *rng.uniform(65.0, 115.0, 3)])


def _cell(number: int, volume: float, shape: FloatArray) -> FloatArray:
    """Vectors of a conventional cell of a volume (Å³), with the shape as its system has it."""
    system = next(name for name, (low, high) in SYSTEMS.items() if low <= number <= high)
    a, b, c, alpha, beta, gamma = shape
    if system == "cubic":
        a = b = c = 1.0
    elif system in {"tetragonal", "trigonal", "hexagonal"}:
        a = b = (a * b) ** 0.5
    if system == "monoclinic":
        alpha = gamma = 90.0
    elif system != "triclinic":
        alpha = beta = 90.0
        gamma = 120.0 if system in {"trigonal", "hexagonal"} else 90.0
    lattice = Lattice.from_parameters(a, b, c, alpha, beta, gamma)
    return np.asarray(lattice.scale(volume).matrix)


def gap(
    cell: FloatArray, coords: FloatArray, radii: FloatArray, pairs: NDArray[np.bool_] | None = None
) -> float:
    """Shortest distance of atoms in units of their summed radii, of some pairs (n, n) alone."""
    offset = coords[:, None] - coords[None]
    offset -= np.round(offset)
    d = np.linalg.norm((offset[:, :, None] + IMAGES) @ cell, axis=-1)
    n = len(coords)
    d[np.arange(n), np.arange(n), 13] = np.inf
    gaps = d.min(-1) / (radii[:, None] + radii[None])
    return float((gaps if pairs is None else gaps[pairs]).min())
