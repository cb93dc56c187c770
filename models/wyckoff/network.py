"""The network that scores choices: which space group, and which Wyckoff position comes next.

A crystal of a given composition is a sequence of choices (after Kazeev et al., WyFormer,
arXiv:2503.02407, whose tokens these are): a space group, and then for each element, the least
electronegative first, positions until its atoms are placed. Each choice is one of a few options;
the network gives every option a score from what is asked for, what is placed, and the option
itself, so that groups and positions that it has hardly seen are judged by what they have in common
with others. A softmax over the options that can still be completed is their probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray
from pymatgen.core import Element

from ccdcgan.dft.structures.spacegroups import SYSTEMS
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.wyckoff.positions import PRIMITIVE, SpaceGroup, reachable, space_groups

#: Units of the hidden layers.
WIDTH = 96

#: Point groups of sites with an inversion.
CENTROSYMMETRIC = frozenset(
    {"-1", "2/m", "mmm", "4/m", "4/mmm", "-3", "-3m", "6/m", "6/mmm", "m-3", "m-3m"}
)

SYMMETRIES = sorted({p.symmetry for g in space_groups() for p in g.positions})


@cache
def _element_features(symbol: str) -> FloatArray:
    element = Element(symbol)
    negativity = element.X if element.X == element.X else 1.5
    radius = element.atomic_radius or 1.5
    block = [element.block == b for b in "spdf"]
    return np.array(
        [negativity / 4, float(radius) / 2, element.row / 7, element.group / 18, *block], float
    )


@cache
def _group_features(number: int) -> FloatArray:
    group = space_groups()[number - 1]
    system = [first <= number <= last for first, last in SYSTEMS.values()]
    lattice = [group.symbol[0] == letter for letter in PRIMITIVE]
    sites = [p.symmetry for p in group.positions]
    centred = not CENTROSYMMETRIC.isdisjoint(sites)
    fixed = sum(p.freedom == 0 for p in group.positions)
    symmorphic = group.positions[0].multiplicity == 1
    numbers = [np.log2(group.order) / 6, centred, symmorphic, fixed / 8, len(sites) / 27]
    return np.array([*system, *lattice, *numbers], float)


@cache
def _position_features(number: int) -> FloatArray:
    """Of each position of a group (n, f)."""
    group = space_groups()[number - 1]
    rows = []
    for i, position in enumerate(group.positions):
        m = position.multiplicity
        rows.append(
            [
                *(position.freedom == k for k in range(4)),
                m / 8,
                np.log2(group.order / m) / 6,
                i / 8,
                *(position.symmetry == s for s in SYMMETRIES),
            ]
        )
    return np.array(rows, float)


class Asked:
    """What is asked for: numbers of atoms by element, in the order in which they are placed."""

    def __init__(self, atoms: Mapping[str, int]) -> None:
        present = [e for e, n in atoms.items() if n]
        self.elements = sorted(present, key=lambda e: (_element_features(e)[0], e))
        self.counts = [atoms[e] for e in self.elements]
        total = sum(self.counts)
        each = [
            np.array([*_element_features(e), n / total, n / 8, n % 2, n % 3 == 0], float)
            for e, n in zip(self.elements, self.counts, strict=True)
        ]
        self.each = each
        shares = np.array(self.counts) / total
        mean = np.sum([s * e for s, e in zip(shares, each, strict=True)], axis=0)
        self.whole = np.array([*mean, *np.ptp(each, axis=0), total / 20, len(each) / 4], float)


def group_options(asked: Asked, groups: Sequence[int]) -> tuple[FloatArray, NDArray[np.int_]]:
    """Features (n, f) of the space groups that can take the atoms, and their numbers."""
    fitting = [
        number
        for number in groups
        if all(
            reachable(space_groups()[number - 1], count, 0, frozenset()).any()
            for count in asked.counts
        )
    ]
    options = [_group_features(number) for number in fitting]
    rows = np.array([np.concatenate([asked.whole, option]) for option in options])
    return rows, np.array(fitting, int)


def position_options(
    asked: Asked, group: SpaceGroup, number: int, left: int, placed: Sequence[tuple[int, int]]
) -> tuple[FloatArray, NDArray[np.int_]]:
    """Features (n, f) of the positions that an element's atoms can take next, and their indices.

    Parameters
    ----------
    number, left
        Which of the elements, and how many of its atoms have no place.
    placed
        Elements and positions of what is placed.
    """
    own = [i for e, i in placed if e == number]
    first = own[-1] if own else 0
    taken = frozenset(i for _, i in placed if not group.positions[i].freedom)
    here = reachable(group, left, first, taken)
    indices = np.flatnonzero(here)
    freedom = [group.positions[i].freedom for _, i in placed] or [0]
    state = np.array(
        [
            *asked.whole,
            *asked.each[number],
            left / asked.counts[number],
            left / 8,
            number / 4,
            len(own) / 4,
            float(np.mean(freedom)) / 3,
            sum(freedom) / 10,
            *_group_features(group.number),
        ]
    )
    rows = []
    used = {i for _, i in placed}
    for i in indices:
        m = group.positions[i].multiplicity
        rows.append([m / left, m == left, m > 1, i in used, bool(own) and i == first])
    features = _position_features(group.number)[indices]
    own_features = np.column_stack([np.array(rows, float).reshape(-1, 5), features])
    return np.column_stack([np.tile(state, (len(indices), 1)), own_features]), indices


def build_scorer(size: int, name: str) -> keras.Model:
    """Features (batch, options, size) to scores (batch, options); untrained, all are zero."""
    rows = keras.Input((None, size), name="options")
    x = rows
    for _ in range(2):
        x = layers.Dense(WIDTH)(x)
        x = layers.LeakyReLU(0.2)(x)
    score = layers.Dense(1, kernel_initializer="zeros")(x)
    return keras.Model(rows, layers.Reshape((-1,))(score), name=name)


def _sizes() -> tuple[int, int]:
    """Numbers of features of a group's option and of a position's."""
    asked = Asked({"H": 1})
    rows, _ = group_options(asked, [1])
    sites, _ = position_options(asked, space_groups()[0], 0, 1, [])
    return rows.shape[1], sites.shape[1]


GROUP_SIZE, POSITION_SIZE = _sizes()
