"""What to relax next: expected gain, novelty, and a spread over compositions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.stats import norm

from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.models.energy.descriptors import Environments, mean_environments
from ccdcgan.models.energy.goals import FORMATION_ENERGY, Goal, score
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.sampling import can_be_judged

#: Novelty is looked at for so many times the structures that are wanted.
SHORTLIST = 20

#: Parts of the range of each atomic fraction, and the share of what is chosen that compositions of
#: one part may take while others have candidates.
PARTS, SHARE = 5, 0.3

#: Scales of `Novelty` that are tried.
SCALES = np.geomspace(0.005, 0.5, 25)

#: Fewest relaxed stackings to fit a scale to.
STACKINGS = 20


def expected_gain(
    members: FloatArray,
    errors: Mapping[str, float],
    structures: Sequence[Structure],
    hull: Hull,
    goals: Sequence[Goal],
    below: float,
    known: FloatArray,
) -> NDArray[np.float64]:
    """By how much (eV/atom) structures are expected to be better than what is sought, (n,).

    The expected improvement (Jones et al., J. Glob. Optim. 13, 455 (1998)) of the goals' score,
    in which a formation energy counts from the hull of its composition. The improvement is that
    upon a crystal at `below`, or of no formation energy if that is nearer to the hull, whose
    other properties are the median of what is known. Structures without prediction gain nothing.

    Parameters
    ----------
    members : array (n, members, properties)
        Predictions of the constraint's ensemble.
    errors
        Error of the constraint for crystals like these, by property; its keys are the names of the
        properties.
    hull
        Convex hull of what is known.
    goals
        What is sought.
    below
        Distance to the hull from which an improvement counts, eV/atom.
    known : array (k, properties)
        Properties of known crystals.
    """
    gain = np.zeros(len(structures))
    names = list(errors)
    judged = np.flatnonzero(np.isfinite(members).all((1, 2)))
    if not len(judged):
        return gain
    ground = np.array([hull.hull_energy(structures[int(i)].composition) for i in judged])
    scores = score(members[judged], names, goals)
    worth = sum(g.weight for g in goals if g.property == FORMATION_ENERGY)
    others = [g for g in goals if g.property != FORMATION_ENERGY]
    usual = float(np.median(score(known, names, others))) if others else 0.0
    limit = worth * np.minimum(ground + below, 0.0) + usual
    own = sum((g.weight * errors[g.property]) ** 2 for g in goals)
    deviation = np.sqrt(scores.var(1) + own) + 1e-9
    better = limit - scores.mean(1)
    z = better / deviation
    gain[judged] = better * norm.cdf(z) + deviation * norm.pdf(z)
    return gain


class Distance(NamedTuple):
    """How far a start was from all that was known of its formula, and what it became.

    Attributes
    ----------
    value
        As `Novelty.distance`.
    is_new
        Whether it became a crystal that was not known.
    is_stacking
        Whether it was a stacking of known crystals.
    """

    value: float
    is_new: bool
    is_stacking: bool


class Novelty:
    """Probability that a structure relaxes to a crystal that is not known yet.

    It is ``1 - exp(-(d / scale)²)`` with the distance d between the structure's mean atomic
    environments and those of the nearest known crystal of its formula.

    Parameters
    ----------
    elements
        The system.

    Attributes
    ----------
    scale : float
        Fitted to all relaxations.
    stacking_scale : float
        Fitted to those of stackings: these relax to themselves, however near to each other.
    """

    def __init__(self, elements: Sequence[str]) -> None:
        self._environments = Environments(elements)
        self._known: defaultdict[str, list[NDArray[np.float32]]] = defaultdict(list)
        self._waiting: defaultdict[str, list[Callable[[], Structure]]] = defaultdict(list)
        self.scale = self.stacking_scale = float(np.median(SCALES))

    def copy(self) -> Novelty:
        """The same crystals; what either learns from now on, the other does not."""
        other = copy(self)
        other._known = defaultdict(list, {f: list(known) for f, known in self._known.items()})
        other._waiting = defaultdict(list, {f: list(late) for f, late in self._waiting.items()})
        return other

    def fit(self, found: Sequence[Distance]) -> None:
        """Fit the scales to what relaxations have told."""
        if found:
            distances, new, stacked = (np.array(column) for column in zip(*found, strict=True))
            self.scale = self.stacking_scale = _fitted(distances, new)
            if stacked.sum() >= STACKINGS:
                self.stacking_scale = _fitted(distances[stacked], new[stacked])

    def vectors(self, structures: Sequence[Structure]) -> NDArray[np.float32]:
        """Mean environments (n, width) of structures whose atoms do not overlap."""
        return mean_environments(self._environments, structures)

    def distance(self, structure: Structure, vector: NDArray[np.float32]) -> float:
        """Distance to the nearest known crystal of the formula; infinite if there is none."""
        formula = structure.composition.reduced_formula
        known = self._known[formula]
        for late in self._waiting.pop(formula, []):
            # A copy: a row of an array would keep all of it.
            known.append(np.array(self.vectors([late()])[0]))
        return float(np.linalg.norm(np.array(known) - vector, axis=1).min()) if known else np.inf

    def distance_of(self, structure: Structure) -> float | None:
        """The same of any structure; None where it cannot be judged or nothing is known."""
        if not can_be_judged(structure):
            return None
        distance = self.distance(structure, self.vectors([structure])[0])
        return distance if np.isfinite(distance) else None

    def probability(self, distance: FloatArray, stacked: NDArray[np.bool_]) -> FloatArray:
        """Probability that what is so far from all that is known leads to something new, (n,).

        Parameters
        ----------
        distance : array (n,)
        stacked : array (n,)
            Which are stackings.
        """
        scale = np.where(stacked, self.stacking_scale, self.scale)
        return 1.0 - np.exp(-((distance / scale) ** 2))

    def add(self, structure: Structure, vector: NDArray[np.float32]) -> None:
        """Know a structure from now on."""
        self._known[structure.composition.reduced_formula].append(np.array(vector))

    def add_later(self, formula: str, structure: Callable[[], Structure]) -> None:
        """Know a structure of a reduced formula, which is asked for when its formula is."""
        self._waiting[formula].append(structure)


def _fitted(distances: FloatArray, new: NDArray[np.bool_]) -> float:
    """The most likely scale."""
    probability = np.clip(1.0 - np.exp(-((distances[:, None] / SCALES) ** 2)), 1e-3, 1.0 - 1e-3)
    likelihood = np.where(new[:, None], np.log(probability), np.log(1 - probability))
    return float(SCALES[likelihood.sum(0).argmax()])


def region(structure: Structure, elements: Sequence[str]) -> tuple[int, ...]:
    """Where a composition lies: the fifth in which the fraction of each element but the last is."""
    amounts = structure.composition.get_el_amt_dict()
    parts = (int(PARTS * amounts.get(e, 0) // sum(amounts.values())) for e in elements[:-1])
    return tuple(min(part, PARTS - 1) for part in parts)


def choose(
    structures: Sequence[Structure],
    gain: FloatArray,
    known: SeenStructures,
    per_formula: int,
    count: int,
    novelty: Novelty | None = None,
    shortlist: int = SHORTLIST,
    stacked: Sequence[bool] | None = None,
    regions: Sequence[Hashable] | None = None,
) -> list[int]:
    """Indices of the structures to relax, best first, few of each formula and region.

    The best has the largest gain, times its probability to be new beside what is known and what is
    chosen before it. What gains nothing is not chosen.

    Parameters
    ----------
    gain : array (n,)
        What each structure is worth.
    known
        What is not chosen again; it learns what is chosen.
    per_formula, count
        Most structures of one reduced formula, and in all.
    novelty
        Estimates how probably a structure is new; without it only what matches is left out.
    shortlist
        Novelty is looked at for so many times `count` structures, best first; for more where they
        do not suffice.
    stacked
        Which are stackings; by default none.
    regions
        Where each lies. One gets at most its `SHARE` of what is wanted, and more once the others
        on the shortlist have nothing left; by default there is one region.
    """
    where = _numbered([0] * len(structures) if regions is None else regions)
    most = count if regions is None else ceil(SHARE * count)
    taken = np.zeros(len(structures), int)
    is_stacked = np.zeros(len(structures), bool) if stacked is None else np.array(stacked, bool)
    formula = np.array([s.composition.reduced_formula for s in structures], str)
    order = [int(i) for i in np.argsort(-np.asarray(gain), kind="stable") if gain[i] > 0]
    order = _spread(order, where, shortlist * most)
    counts: Counter[str] = Counter()
    chosen: list[int] = []
    # A shortlist of few formulas may not have enough: the next one follows.
    while order and len(chosen) < count:
        left = [i for i in order[: shortlist * count] if counts[str(formula[i])] < per_formula]
        order = order[shortlist * count :]
        here, vectors, distance = _measured(structures, left, novelty)
        is_open = np.ones(len(here), bool)
        while is_open.any() and len(chosen) < count:
            value = np.asarray(gain, float)[here]
            if novelty is not None:
                value = value * novelty.probability(distance, is_stacked[here])
            has_room = is_open & (taken[where[here]] < most)
            n = int(np.where(has_room if has_room.any() else is_open, value, -np.inf).argmax())
            best = int(here[n])
            is_open[n] = False
            if not known.add_if_new(structures[best]):
                continue
            chosen.append(best)
            taken[where[best]] += 1
            counts[str(formula[best])] += 1
            same = is_open & (formula[here] == formula[best])
            if counts[str(formula[best])] >= per_formula:
                is_open &= ~same
            if novelty is not None:
                novelty.add(structures[best], vectors[n])
                # What is left of its formula is less new now.
                apart = np.linalg.norm(vectors[same] - vectors[n], axis=1)
                distance[same] = np.minimum(distance[same], apart)
    return chosen


def _numbered(names: Sequence[Hashable]) -> NDArray[np.int_]:
    """A number for each name, in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], int)


def _spread(order: Sequence[int], where: NDArray[np.int_], most: int) -> list[int]:
    """The order, in which so many of a region come before those of it that follow."""
    before: Counter[int] = Counter()
    layers = []
    for i in order:
        layers.append(before[int(where[i])] // most)
        before[int(where[i])] += 1
    return [order[n] for n in np.argsort(layers, kind="stable")]


def _measured(
    structures: Sequence[Structure], indices: list[int], novelty: Novelty | None
) -> tuple[NDArray[np.int_], NDArray[np.float32], NDArray[np.float64]]:
    """Indices of those that can be judged, their vectors, and distances to all that is known."""
    if novelty is None:
        count = len(indices)
        return np.array(indices, int), np.zeros((count, 0), np.float32), np.full(count, np.inf)
    judged = [i for i in indices if can_be_judged(structures[i])]
    vectors = novelty.vectors([primitive_cell(structures[i]) for i in judged])
    pairs = zip(judged, vectors, strict=True)
    distance = np.array([novelty.distance(structures[i], v) for i, v in pairs])
    return np.array(judged, int), vectors, distance
