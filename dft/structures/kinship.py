"""Relatives of a crystal among those that are known: copies, and substitutions of elements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, groupby, permutations, product
from typing import Literal, NamedTuple

from pymatgen.core import Element, Structure

from ccdcgan.dft.structures.matching import SeenStructures, smallest

#: How a crystal is related to those that are known.
Kinship = Literal["copy", "substitution", "neither"]

#: Elements in place of those of a crystal whose elements do not count.
STAND_INS = [Element.from_Z(z).symbol for z in range(1, 104)]


class Relation(NamedTuple):
    """How a crystal is related to those that are known.

    Attributes
    ----------
    kinship
        A copy matches a known crystal; a substitution matches one once the elements of both are
        exchanged for others, each for one.
    relative
        Number of the first such crystal, from 0; None where there is none.
    """

    kinship: Kinship
    relative: int | None


class Relatives:
    """Known crystals, asked for the relatives of another.

    It finds what the ``fit`` and ``fit_anonymous`` of pymatgen's StructureMatcher find.

    Parameters
    ----------
    known
        Ordered crystals; a relative has its number among them.
    """

    def __init__(self, known: Iterable[Structure]) -> None:
        self._known, self._anonymous = SeenStructures(), SeenStructures()
        self._patterns: set[str] = set()
        for structure in map(smallest, known):
            self._known.add(structure)
            self._anonymous.add(next(anonymous(structure)))
            self._patterns.add(_pattern(structure))

    def of(self, structure: Structure) -> Relation:
        """The nearest relation of a crystal: a copy before a substitution."""
        structure = smallest(structure)
        if (number := self._known.find(structure)) is not None:
            return Relation("copy", number)
        # Of many elements there are many ways to exchange them.
        ways = anonymous(structure) if _pattern(structure) in self._patterns else ()
        for renamed in ways:
            if (number := self._anonymous.find(renamed)) is not None:
                return Relation("substitution", number)
        return Relation("neither", None)


def anonymous(structure: Structure) -> Iterator[Structure]:
    """A crystal with `STAND_INS` for its elements, that of the fewest atoms first.

    Elements of as many atoms take each other's place in turn: of two crystals that differ in their
    elements alone, any of the one is among all of the other.
    """
    counts = structure.composition.get_el_amt_dict()
    ascending = sorted(counts, key=lambda symbol: (counts[symbol], symbol))
    groups = [list(some) for _, some in groupby(ascending, key=lambda symbol: counts[symbol])]
    for orders in product(*(permutations(group) for group in groups)):
        names = dict(zip(chain(*orders), STAND_INS, strict=False))
        species = [names[site.specie.symbol] for site in structure]
        yield Structure(structure.lattice, species, structure.frac_coords)


def _pattern(structure: Structure) -> str:
    """The formula without its elements, as A2B3."""
    return str(structure.composition.reduced_composition.anonymized_formula)
