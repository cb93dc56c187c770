"""Crystal graphs: crystals as fixed-length numbers (cell, composition, one code an element).

The word is the paper's: no graph of atoms and bonds is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.validity import disordered, fault, too_close
from ccdcgan.models.repair import resized, separated, shortest_distances, usual_volumes
from ccdcgan.models.representation.autoencoder import PATCH
from ccdcgan.models.representation.protocol import Composition, Conditions, Space
from ccdcgan.models.representation.voxels import (
    FloatArray,
    SitesGrid,
    grid_shapes,
    lattice_from_metric,
)
from ccdcgan.models.representation.whitening import Whitening

#: Cell lengths enter as their logarithm relative to this, Å.
REFERENCE_LENGTH = 5.0
#: Numbers of atoms enter divided by this.
REFERENCE_COUNT = 8.0
#: Cell (3 lengths, 3 angles) and grid shape (3) come before the numbers of atoms.
CELL = 9
#: Pictures that go through a network at once.
BLOCK = 128


@dataclass
class CrystalGraphs:
    """Structures to crystal graphs and back, by the sites autoencoder.

    A crystal graph is ``[log lengths (3), cosines of angles (3), log2 of the grid's shape (3),
    atoms of each element (m), code of element 1, …, code of element m]``. The grid follows the
    aspect ratio of the cell; its shape is part of the graph, so that a change of the cell's
    lengths does not change the meaning of the codes.

    Parameters
    ----------
    elements
        Elements of the system; their order is that of the codes.
    grid
        Periodic sites grid.
    autoencoder
        Model with submodels ``encoder`` and ``decoder``.
    """

    elements: Sequence[str]
    grid: SitesGrid
    autoencoder: keras.Model

    #: More than one, for the origin of a crystal is a convention.
    origins = 4

    def __post_init__(self) -> None:
        self._encoder = self.autoencoder.get_layer("encoder")
        self._decoder = self.autoencoder.get_layer("decoder")
        self._shapes = grid_shapes(self.grid.points)
        #: Numbers of a code for each 4×4×4 cube, and in all.
        self.depth = int(self._encoder.output_shape[-1])
        self.code_length = self.depth * self.grid.points**3 // PATCH**3

    @property
    def head(self) -> int:
        """Numbers before the codes: cell, grid shape and composition."""
        return CELL + len(self.elements)

    @property
    def composition(self) -> slice:
        """Columns of the numbers of atoms."""
        return slice(CELL, self.head)

    @property
    def length(self) -> int:
        return self.head + len(self.elements) * self.code_length

    def fits(self, structure: Structure) -> bool:
        """Whether a structure has a crystal graph: on a periodic grid every one has."""
        return True

    def encode(self, structures: Sequence[Structure]) -> NDArray[np.float32]:
        """Crystal graphs (n, length) of structures as they are: cell, origin and axes count.

        Raises
        ------
        ValueError
            A structure has an element outside the system; the message names both.
        """
        rows = np.zeros((len(structures), self.length), np.float32)
        if not len(structures):
            return rows
        for structure in structures:
            foreign = foreign_elements(structure, self.elements)
            if foreign:
                raise ValueError(f"{structure.formula} {foreign}")
        lengths = np.array([s.lattice.abc for s in structures])
        shapes = self.grid.shapes(lengths)
        rows[:, :3] = np.log(lengths / REFERENCE_LENGTH)
        rows[:, 3:6] = np.cos(np.radians([s.lattice.angles for s in structures]))
        rows[:, 6:CELL] = np.log2(shapes / self.grid.points)
        for k, element in enumerate(self.elements):
            pictures = [coordinates(structure, element) for structure in structures]
            rows[:, CELL + k] = [len(p) / REFERENCE_COUNT for p in pictures]
            rows[:, self._columns(k)] = self.codes(pictures, shapes)
        return rows

    def _columns(self, k: int) -> slice:
        start = self.head + k * self.code_length
        return slice(start, start + self.code_length)

    def codes(
        self, pictures: Sequence[FloatArray], shapes: NDArray[np.int_]
    ) -> NDArray[np.float32]:
        """Codes (n, code_length) of pictures of one element.

        Parameters
        ----------
        pictures
            Fractional coordinates (k, 3) each.
        shapes : array (n, 3)
            Grid points along each axis.
        """
        out = np.zeros((len(pictures), self.code_length), np.float32)
        for shape, which in _groups(shapes):
            for block in _blocks(which):
                voxels = self.grid.encode([pictures[i] for i in block], shape)[..., None]
                out[block] = predict(self._encoder, voxels).reshape(len(block), -1)
        return out

    def positions(
        self,
        codes: FloatArray,
        shapes: NDArray[np.int_],
        counts: NDArray[np.int_] | None = None,
    ) -> list[NDArray[np.float64]]:
        """Fractional coordinates of the atoms in the pictures of codes (n, code_length).

        Parameters
        ----------
        shapes : array (n, 3)
            Grid points along each axis.
        counts : array (n,)
            Atoms to look for; without it, all that stand out.
        """
        out: list[NDArray[np.float64]] = [np.zeros((0, 3))] * len(codes)
        for shape, which in _groups(shapes):
            cubes = tuple(n // PATCH for n in shape)
            for block in _blocks(which):
                code = np.asarray(codes[block], np.float32).reshape(-1, *cubes, self.depth)
                voxels = predict(self._decoder, code)[..., 0]
                wanted = None if counts is None else counts[block]
                for i, atoms in zip(block, self.grid.decode(voxels, wanted), strict=True):
                    out[i] = atoms
        return out

    def decode(self, graphs: FloatArray) -> list[Structure | None]:
        """Structures of crystal graphs (n, length); None where a cell or an element is missing."""
        graphs = np.asarray(graphs, float)
        lengths = REFERENCE_LENGTH * np.exp(np.clip(graphs[:, :3], -3.0, 3.0))
        cosines = np.clip(graphs[:, 3:6], -1.0, 1.0)
        metric = np.empty((len(graphs), 3, 3))
        for i in range(3):
            metric[:, i, i] = lengths[:, i] ** 2
        for (i, j), c in zip(((1, 2), (0, 2), (0, 1)), cosines.T, strict=True):
            metric[:, i, j] = metric[:, j, i] = lengths[:, i] * lengths[:, j] * c
        lattices = lattice_from_metric(metric)
        shapes = self.shapes(graphs)
        sites = [
            self.positions(graphs[:, self._columns(k)], shapes, self.counts(graphs)[:, k])
            for k in range(len(self.elements))
        ]
        return assemble(lattices, sites, self.elements)

    def shapes(self, graphs: FloatArray) -> NDArray[np.int_]:
        """Grid shapes (n, 3) of crystal graphs: the allowed ones nearest to what they say."""
        said = np.asarray(graphs)[:, 6:CELL]
        allowed = np.log2(self._shapes / self.grid.points)
        return self._shapes[((said[:, None] - allowed[None]) ** 2).sum(-1).argmin(1)]

    def counts(self, graphs: FloatArray) -> NDArray[np.int_]:
        """Numbers of atoms (n, m) of each element in crystal graphs."""
        counts = np.rint(np.asarray(graphs)[:, self.composition] * REFERENCE_COUNT)
        return np.maximum(counts, 0).astype(int)

    def space(self, graphs: FloatArray, latent: int) -> Whitening:
        """The space that known crystal graphs (n, length) are whitened to."""
        return Whitening.fit(graphs, self.head, latent)

    def conditions(self, space: Space, graphs: FloatArray) -> Conditions:
        """Where whitened rows count their atoms, and the groups of equal grid shape."""
        assert isinstance(space, Whitening)
        composition = Composition(
            self.composition.start,
            space.head_scale[self.composition] * REFERENCE_COUNT,
            space.mean[self.composition] * REFERENCE_COUNT,
        )
        _, groups = np.unique(self.shapes(graphs), axis=0, return_inverse=True)
        return Conditions(composition, groups.ravel())

    def statistics(
        self, structures: Sequence[Structure], weights: FloatArray
    ) -> dict[str, NDArray[np.float64]]:
        """Shortest distances of known crystals, and their volumes weighted by `weights` (n,)."""
        return {
            "shortest": shortest_distances(structures, self.elements),
            "volumes": usual_volumes(structures, self.elements, weights),
        }

    def repaired(self, structure: Structure, known: Mapping[str, FloatArray]) -> Structure:
        """A structure of a usual volume, with its atoms moved apart."""
        sized = resized(structure, known["volumes"], self.elements)
        return separated(sized, known["shortest"], self.elements)


def _groups(shapes: NDArray[np.int_]) -> Iterator[tuple[tuple[int, int, int], NDArray[np.int_]]]:
    """Each grid shape with the indices of its pictures."""
    kinds, kind = np.unique(shapes, axis=0, return_inverse=True)
    for number, (a, b, c) in enumerate(kinds):
        yield (int(a), int(b), int(c)), np.flatnonzero(kind.ravel() == number)


def _blocks(which: NDArray[np.int_]) -> list[NDArray[np.int_]]:
    return [which[i : i + BLOCK] for i in range(0, len(which), BLOCK)]


def predict(model: keras.Model, x: FloatArray) -> NDArray[np.float32]:
    """Output for at most `BLOCK` rows, padded to one of two sizes: backends compile for each."""
    size = 8 if len(x) <= 8 else BLOCK
    padded = np.zeros((size, *x.shape[1:]), np.float32)
    padded[: len(x)] = x
    return np.asarray(model.predict_on_batch(padded), np.float32)[: len(x)]


def foreign_elements(structure: Structure, elements: Sequence[str]) -> str | None:
    """What is wrong with the elements of a structure, or None."""
    foreign = {s.symbol for s in structure.composition.elements} - set(elements)
    if foreign:
        return f"holds {', '.join(sorted(foreign))}, outside the system {'-'.join(elements)}"
    return None


def problem(structure: Structure, elements: Sequence[str], max_sites: int) -> str | None:
    """Why a structure cannot be learnt from, or None if it can.

    Parameters
    ----------
    structure
        Any periodic structure.
    elements
        The system; the structure must hold nothing else.
    max_sites
        Most atoms in the cell.
    """
    if disordered(structure):
        return "has partly occupied sites"
    foreign = foreign_elements(structure, elements)
    if foreign:
        return foreign
    if reason := fault(structure):
        return f"cannot be a crystal: {reason}"
    if len(structure) > max_sites:
        return f"has {len(structure)} atoms in the primitive cell; the preset takes {max_sites}"
    if reason := too_close(structure):
        return f"has {reason}"
    return None


def assemble(
    lattices: FloatArray,
    pictures: Sequence[Sequence[FloatArray]],
    elements: Sequence[str],
    cartesian: bool = False,
) -> list[Structure | None]:
    """Structures from lattices (n, 3, 3) in Å and, for each element, n arrays of coordinates.

    None stands for a crystal whose cell is impossible or that lacks an element.
    """
    structures: list[Structure | None] = []
    for lattice, *coords in zip(lattices, *pictures, strict=True):
        if not np.isfinite(lattice).all() or not all(len(c) for c in coords):
            structures.append(None)
            continue
        species = [e for e, c in zip(elements, coords, strict=True) for _ in c]
        structures.append(
            Structure(
                Lattice(lattice),
                species,
                np.concatenate(coords),
                coords_are_cartesian=cartesian,
                to_unit_cell=True,
            )
        )
    return structures


def coordinates(structure: Structure, element: str) -> FloatArray:
    """Fractional coordinates (n_atoms, 3) of the atoms of one element."""
    chosen = [site.specie.symbol == element for site in structure]
    return np.asarray(structure.frac_coords)[chosen]


def anchored(structure: Structure, copies: int = 4) -> list[Structure]:
    """The crystal with an atom at the origin, once for each of up to `copies` atoms.

    The origin of a crystal is a convention. Atoms of the rarest element serve as the origin, so
    that crystals of one type get similar crystal graphs, whoever wrote them down.
    """
    counts = structure.composition.get_el_amt_dict()
    rarest = min(sorted(counts), key=lambda symbol: counts[symbol])
    anchors = [i for i, site in enumerate(structure) if site.specie.symbol == rarest][:copies]
    return [
        Structure(
            structure.lattice,
            structure.species,
            np.mod(structure.frac_coords - structure.frac_coords[i], 1.0),
        )
        for i in anchors
    ]
