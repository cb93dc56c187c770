"""Which relaxations cannot be believed: false minima of potentials.

A potential extrapolates without limit. A crystal in such a hole converges, passes all gates and
would be the ground state by electronvolts; another checkpoint puts it elsewhere by as much.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np
from pymatgen.core import Composition, Element

from ccdcgan.dft.systems import electronegativity_range
from ccdcgan.workflows.documents import RelaxationDocument

#: Set aside is what the engine puts lower than the second opinion by more than the median of all
#: relaxations and this (eV/atom), or so many times their spread if that is more, but not more than
#: the last. Random crystals of 20 systems disagree by up to 0.46 (benchmarks/false_minima.py).
LEAST, SPREADS, MOST = 0.5, 5.0, 1.0

#: Lowest formation energy that chemistry has, eV/atom: so much, and half the square of the largest
#: difference of electronegativities (Pauling) more. LaF3, ThO2, HfPt3 and AlPt lie 0.5 and more
#: above it.
DEEPEST = 2.5


def untrusted(documents: Iterable[RelaxationDocument]) -> dict[str, str]:
    """Content keys of relaxations that cannot be believed, with the reason of each."""
    judged = [d for d in documents if d.energy_per_atom is not None]
    found = _disagreeing(judged)
    found |= _too_deep([d for d in judged if d.key not in found])
    return found


def lowest_elements(documents: Iterable[RelaxationDocument]) -> dict[str, RelaxationDocument]:
    """The lowest of each pure element by its symbol, converged or not."""
    found: dict[str, RelaxationDocument] = {}
    for document in documents:
        composition = document.structure.composition
        if document.energy_per_atom is None or not composition.is_element:
            continue
        symbol = composition.elements[0].symbol
        other = found.get(symbol)
        if other is None or document.energy_per_atom < (other.energy_per_atom or 0.0):
            found[symbol] = document
    return found


def hull_members(
    documents: Iterable[RelaxationDocument], untrusted: Container[str]
) -> list[RelaxationDocument]:
    """Those that make a hull: converged, and believed.

    A pure element whose lowest structure ran out of steps has that as its end member all the
    same: a higher one would be wrong by more.

    Parameters
    ----------
    untrusted
        Content keys of what cannot be believed.
    """
    placed = [d for d in documents if d.energy_per_atom is not None and d.key not in untrusted]
    lowest = {d.key for d in lowest_elements(placed).values()}
    return [d for d in placed if d.converged or d.key in lowest]


def _disagreeing(documents: list[RelaxationDocument]) -> dict[str, str]:
    both = [d for d in documents if d.second_opinion is not None]
    if not both:
        return {}
    differences = np.array(
        [
            (d.energy_per_atom or 0.0) - d.second_opinion.energy_per_atom
            for d in both
            if d.second_opinion is not None
        ]
    )
    middle = float(np.median(differences))
    spread = 1.4826 * float(np.median(np.abs(differences - middle)))
    limit = min(max(LEAST, SPREADS * spread), MOST)
    return {
        d.key: f"set aside: {d.level_of_theory.name} says {d.energy_per_atom:.2f} eV/atom, "
        f"{d.second_opinion.level_of_theory.name} {d.second_opinion.energy_per_atom:.2f}"
        for d, difference in zip(both, differences, strict=True)
        if d.second_opinion is not None and difference - middle < -limit
    }


def _too_deep(documents: list[RelaxationDocument]) -> dict[str, str]:
    lowest = lowest_elements(documents)
    # Without pV: that of a reaction may be as large as its energy.
    ends = {Element(symbol): d.internal_energy_per_atom or 0.0 for symbol, d in lowest.items()}
    found = {}
    for document in documents:
        composition = document.structure.composition
        if composition.is_element or not set(composition) <= set(ends):
            continue
        reference = sum(composition.get_atomic_fraction(e) * ends[e] for e in composition)
        energy = (document.internal_energy_per_atom or 0.0) - reference
        if is_too_deep(composition, energy):
            found[document.key] = (
                f"set aside: a formation energy of {energy:.2f} eV/atom is beyond chemistry"
            )
    return found


def is_too_deep(compound: Composition, formation_energy: float) -> bool:
    """Whether a formation energy, eV/atom, is beyond what chemistry has for these elements."""
    return formation_energy < -(DEEPEST + 0.5 * electronegativity_range(compound) ** 2)
