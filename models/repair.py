"""Generated crystals mended by what known ones have in common: volumes and shortest distances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy.optimize import nnls

from ccdcgan.dft.structures.validity import neighbours
from ccdcgan.models.representation.voxels import FloatArray

#: Distances shorter than this share of the shortest that is known between two elements are
#: mended: a generated crystal is not relaxed yet.
SHARE = 0.9

#: Images of a cell, besides the nearest by rounding, in which a neighbour may lie: (27, 1, 1, 3).
IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 1, 1, 3)

#: Rounds of moving atoms apart. Crowded cells never end; most others need fewer than ten.
ROUNDS = 40


def shortest_distances(
    structures: Sequence[Structure], elements: Sequence[str]
) -> NDArray[np.float64]:
    """Shortest distance (Å) between atoms of two elements in known crystals.

    Returns
    -------
    array (m, m)
        Zero for two elements that are neighbours in none.
    """
    shortest = np.full((len(elements), len(elements)), np.inf)
    for structure in structures:
        species_index = _species_index(structure, elements)
        i, j, d = neighbours(structure, 4.0)
        np.minimum.at(shortest, (species_index[i], species_index[j]), d)
    return np.where(np.isfinite(shortest), shortest, 0.0)


def extremes(structures: Iterable[Structure]) -> NDArray[np.float64]:
    """What is extreme in known crystals, at least one.

    Returns
    -------
    array (3,)
        Shortest distance between atoms, Å (4 if none is shorter); smallest and largest volume,
        Å³ per atom.
    """
    shortest, volumes = [4.0], []
    for structure in structures:
        shortest.extend(neighbours(structure, 4.0)[2])
        volumes.append(structure.volume / len(structure))
    return np.array([min(shortest), min(volumes), max(volumes)])


def separated(structure: Structure, shortest: FloatArray, elements: Sequence[str]) -> Structure:
    """The structure with atoms moved apart that are nearer than known crystals allow.

    Parameters
    ----------
    shortest : array (m, m)
        Of `shortest_distances`.

    Returns
    -------
    Structure
        The same one if no atoms are too near; atoms of a cell too small for them stay so.
    """
    species_index = _species_index(structure, elements)
    least = SHARE * np.asarray(shortest)[np.ix_(species_index, species_index)]
    # An atom and its own image lie as far apart as the cell is long, wherever the atom moves.
    np.fill_diagonal(least, 0.0)
    matrix, start = structure.lattice.matrix, structure.frac_coords
    coords = start
    for _ in range(ROUNDS):
        offset = coords[None, :] - coords[:, None]
        vectors = (offset - np.round(offset) + IMAGES) @ matrix
        distances = np.linalg.norm(vectors, axis=-1)
        near = distances < least
        if not near.any():
            break
        # A hair further than half the way for each of the two, so that the rounds come to an end.
        push = np.where(near, 0.5 * (1.02 * least / np.maximum(distances, 1e-3) - 1.0), 0.0)
        moves = -(push[..., None] * vectors).sum((0, 2))
        coords = coords + np.linalg.solve(matrix.T, moves.T).T
    if coords is start:
        return structure
    return Structure(structure.lattice, structure.species, coords, to_unit_cell=True)


def usual_volumes(
    structures: Sequence[Structure], elements: Sequence[str], weights: FloatArray
) -> NDArray[np.float64]:
    """Volumes (Å³) of the elements' atoms in known crystals, and how far crystals differ from them.

    Parameters
    ----------
    weights : array (n,)
        Of the crystals.

    Returns
    -------
    array (m + 2,)
        Volumes whose sum over the atoms comes nearest to that of the crystals; then the quartiles
        of the logarithm of what they have of it.
    """
    counts = np.array(
        [np.bincount(_species_index(s, elements), minlength=len(elements)) for s in structures]
    )
    volumes = np.array([s.volume for s in structures])
    scale = np.sqrt(np.asarray(weights)) / counts.sum(1)
    atoms, _ = nnls(counts * scale[:, None], volumes * scale)
    ratio = np.log(volumes / np.maximum(counts @ atoms, 1e-9))
    order = np.argsort(ratio)
    reached = np.cumsum(np.asarray(weights)[order]) / np.sum(weights)
    quartiles = [ratio[order][np.searchsorted(reached, q)] for q in (0.25, 0.75)]
    return np.array([*atoms, *quartiles])


def resized(structure: Structure, volumes: FloatArray, elements: Sequence[str]) -> Structure:
    """The structure with a volume like that of the middle half of known crystals.

    Parameters
    ----------
    volumes : array (m + 2,)
        Of `usual_volumes`.
    """
    atoms, (low, high) = volumes[:-2], volumes[-2:]
    usual = atoms[_species_index(structure, elements)].sum()
    if usual <= 0 or structure.volume <= 0:
        return structure
    ratio = np.log(structure.volume / usual)
    if low <= ratio <= high:
        return structure
    cell = structure.copy()
    cell.scale_lattice(usual * np.exp(np.clip(ratio, low, high)))
    return cell


def _species_index(structure: Structure, elements: Sequence[str]) -> NDArray[np.int_]:
    """Index of each atom's element."""
    return np.array([elements.index(site.specie.symbol) for site in structure], int)
