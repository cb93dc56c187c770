"""Atoms that came out too near each other, moved apart as far as known crystals say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.models.voxels import FloatArray

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
        kinds = _kinds(structure, elements)
        i, j, d = neighbor_list("ijd", structure.to_ase_atoms(), 4.0)
        np.minimum.at(shortest, (kinds[i], kinds[j]), d)
    return np.where(np.isfinite(shortest), shortest, 0.0)


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
    kinds = _kinds(structure, elements)
    least = SHARE * np.asarray(shortest)[np.ix_(kinds, kinds)]
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


def _kinds(structure: Structure, elements: Sequence[str]) -> NDArray[np.int_]:
    """Index of each atom's element."""
    return np.array([elements.index(site.specie.symbol) for site in structure], int)
