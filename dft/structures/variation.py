"""Children of known crystals: an operator drawn at random makes one of one or two parents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.structures import variation_atoms as atoms
from ccdcgan.dft.structures import variation_orbits as orbits
from ccdcgan.dft.structures.validity import coincident, is_degenerate

#: Operators that are tried on the same parents before they are given up.
ATTEMPTS = 10


@dataclass(frozen=True)
class Operator:
    """A way to make a child.

    Attributes
    ----------
    weight
        How often it is drawn, relative to the others.
    parents
        How many it takes.
    make
        The child of parents, elements, most atoms and a generator, or None.
    """

    weight: float
    parents: int
    make: Callable[[Sequence[Structure], Sequence[str], int, np.random.Generator], Structure | None]


#: All operators by name. Those that keep symmetry are drawn more often: to many parents they can
#: do nothing.
OPERATORS: dict[str, Operator] = {
    "heredity": Operator(4, 2, lambda p, e, n, rng: atoms.heredity(p[0], p[1], n, rng)),
    "permutation": Operator(1, 1, lambda p, e, n, rng: atoms.permutation(p[0], rng)),
    "strain": Operator(1, 1, lambda p, e, n, rng: atoms.strain(p[0], rng)),
    "rattle": Operator(1, 1, lambda p, e, n, rng: atoms.rattle(p[0], rng)),
    "transmutation": Operator(1, 1, lambda p, e, n, rng: atoms.transmutation(p[0], e, rng)),
    "insertion": Operator(1, 1, lambda p, e, n, rng: atoms.insertion(p[0], e, rng)),
    "removal": Operator(1, 1, lambda p, e, n, rng: atoms.removal(p[0], rng)),
    "symmetric rattle": Operator(3, 1, lambda p, e, n, rng: orbits.symmetric_rattle(p[0], rng)),
    "symmetric strain": Operator(1, 1, lambda p, e, n, rng: orbits.symmetric_strain(p[0], rng)),
    "orbit permutation": Operator(2, 1, lambda p, e, n, rng: orbits.orbit_permutation(p[0], rng)),
    "orbit transmutation": Operator(
        2, 1, lambda p, e, n, rng: orbits.orbit_transmutation(p[0], e, rng)
    ),
    "orbit insertion": Operator(2, 1, lambda p, e, n, rng: orbits.orbit_insertion(p[0], e, n, rng)),
    "orbit removal": Operator(2, 1, lambda p, e, n, rng: orbits.orbit_removal(p[0], rng)),
    "superlattice": Operator(2, 1, lambda p, e, n, rng: orbits.superlattice(p[0], e, n, rng)),
}


def vary(
    parents: Sequence[Structure],
    weights: Sequence[float],
    elements: Sequence[str],
    max_atoms: int,
    rng: np.random.Generator,
    *,
    whole: bool = True,
) -> tuple[Structure, list[int], str] | None:
    """A child of one or two crystals, the indices of these, and the name of the operator.

    None where no operator makes a crystal of the parents that were drawn. Volume and distances are
    as the operator leaves them.

    Parameters
    ----------
    parents
        Reduced primitive cells.
    weights
        How often each parent is drawn, relative to the others.
    elements
        Symbols of those that a child may have.
    max_atoms
        Most atoms of a child.
    rng
        The same state of the generator makes the same child.
    whole
        Whether a child must have all the elements.
    """
    drawn = _drawn(weights, rng)
    names, shares = list(OPERATORS), np.array([o.weight for o in OPERATORS.values()])
    for _ in range(ATTEMPTS):
        name = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        operator = OPERATORS[name]
        used = drawn[: operator.parents]
        child = operator.make([parents[i] for i in used], elements, max_atoms, rng)
        if child is not None and _is_usable(child, elements, max_atoms, whole):
            return child, used, name
    return None


def _drawn(weights: Sequence[float], rng: np.random.Generator) -> list[int]:
    """Two parents by weight: the only one of any weight twice."""
    shares = np.array(weights, float)
    first = int(rng.choice(len(shares), p=shares / shares.sum()))
    others = shares.copy()
    others[first] = 0.0
    if not others.any():
        return [first, first]
    return [first, int(rng.choice(len(shares), p=others / others.sum()))]


def _is_usable(child: Structure, elements: Sequence[str], max_atoms: int, whole: bool) -> bool:
    """Whether a child has atoms, not too many, of the right elements, and apart."""
    if not 0 < len(child) <= max_atoms:
        return False
    own = set(atoms.symbols_of(child))
    if not own <= set(elements) or (whole and len(own) < len(elements)):
        return False
    return not is_degenerate(child) and coincident(child) is None
