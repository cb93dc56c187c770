"""Element substitution: prototypes onto the target system, with a sensible starting volume."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

from pymatgen.core import Element, Structure

from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.moments import as_species, moments_of, with_moments
from ccdcgan.dft.structures.sources import AflowSource, Filters, Prototype, collect
from ccdcgan.dft.systems import atomic_volume


def substitute(prototype: Prototype, elements: Sequence[str]) -> list[Prototype]:
    """The prototype with its elements replaced in every assignment onto the target elements.

    The id gets the assignment as ``…>BiSe``, target elements in the order of the prototype's own
    (alphabetical) ones.
    """
    own = sorted({site.specie.symbol for site in prototype.structure})
    result = []
    for assignment in itertools.permutations(elements, len(own)):
        mapping = dict(zip(own, assignment, strict=True))
        structure = Structure(
            prototype.structure.lattice,
            [mapping[site.specie.symbol] for site in prototype.structure],
            prototype.structure.frac_coords,
        )
        if list(own) == list(assignment):
            # Of other elements they would be other ones.
            structure = with_moments(structure, moments_of(prototype.structure))
        result.append(
            Prototype(f"{prototype.id}>{''.join(assignment)}", starting_volume(structure))
        )
    return result


def starting_volume(structure: Structure) -> Structure:
    """The structure scaled to the summed volumes of its elements' solids.

    Open structures get more, so that no bond starts below 0.8 of the sum of the atomic radii
    (Slater), but at most twice that volume. On 250 relaxed Bi-Se prototypes the starting volume
    was off by 11% on average (pymatgen's DLSVolumePredictor: 33%).
    """
    solid = sum(atomic_volume(site.specie.symbol) for site in structure)
    scale = 0.0
    centers, points, _, distances = structure.get_neighbor_list(1.6 * _nearest(structure))
    for i, j, d in zip(centers, points, distances, strict=True):
        radii = _radius(structure[int(i)].specie.symbol) + _radius(structure[int(j)].specie.symbol)
        scale = max(scale, 0.8 * radii / float(d))
    scaled = structure.copy()
    scaled.scale_lattice(min(max(solid, structure.volume * scale**3), 2.0 * solid))
    return scaled


@cache
def _radius(symbol: str) -> float:
    element = Element(symbol)
    return float(element.atomic_radius or element.atomic_radius_calculated or 1.5)


def _nearest(structure: Structure) -> float:
    radius = 1.2 * (structure.volume / len(structure)) ** (1 / 3)
    while True:
        distances = structure.get_neighbor_list(radius)[3]
        if len(distances):
            return float(distances.min())
        radius *= 1.5


def candidates(
    prototypes: Sequence[Prototype], elements: Sequence[str], known: SeenStructures | None = None
) -> tuple[list[Prototype], int]:
    """Substituted prototypes, small cells first, without duplicates.

    Returns
    -------
    candidates, number of duplicates left out
    """
    seen = known or SeenStructures()
    magnetic = any(moments_of(p.structure) is not None for p in prototypes)

    def told_apart(structure: Structure) -> Structure:
        return as_species(structure) if magnetic else structure

    kept: list[Prototype] = []
    duplicates = 0
    # A stable sort: among cells of one size the order of the source stays.
    for prototype in sorted(prototypes, key=lambda p: len(p.structure)):
        for candidate in substitute(prototype, elements):
            if seen.add_if_new(told_apart(candidate.structure)):
                kept.append(candidate)
            else:
                duplicates += 1
    return kept, duplicates


def subsystem_members(
    elements: Sequence[str], filters: Filters, most: int | None
) -> list[Prototype]:
    """Candidate structures of each system of fewer elements, two at least, for the hull.

    They are the AFLOW prototypes that have a Strukturbericht designation.

    Parameters
    ----------
    filters
        What the prototypes must pass.
    most
        Most candidates of one system, small cells first; None for all.
    """
    sizes = range(2, len(elements))
    return [p for n in sizes for p in _designated(elements, n, filters, most)]


def _designated(
    elements: Sequence[str], n: int, filters: Filters, most: int | None = None
) -> list[Prototype]:
    """Substituted AFLOW prototypes with a designation, for all systems of n of the elements."""
    prototypes, _, _ = collect([AflowSource(designated=True)], filters, n, 0)
    systems = itertools.combinations(elements, n)
    return [p for system in systems for p in candidates(prototypes, system)[0][:most]]
