"""Crystal graphs: crystals as fixed-length numbers (cell, composition, one code an element)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from ccdcgan.models.voxels import FloatArray, SitesGrid, lattice_from_metric

#: Cell lengths enter as their logarithm relative to this, Å.
REFERENCE_LENGTH = 5.0
#: Numbers of atoms enter divided by this.
REFERENCE_COUNT = 8.0


@dataclass
class CrystalGraphs:
    """Structures to crystal graphs and back, by the sites autoencoder.

    A crystal graph is ``[log lengths (3), cosines of angles (3), atoms of each element (m),
    code of element 1, …, code of element m]``.

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

    def __post_init__(self) -> None:
        self._encoder = self.autoencoder.get_layer("encoder")
        self._decoder = self.autoencoder.get_layer("decoder")
        self.code_length = int(self._encoder.output_shape[-1])

    @property
    def head(self) -> int:
        """Numbers before the codes: cell and composition."""
        return 6 + len(self.elements)

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
        for row, structure in zip(rows, structures, strict=True):
            row[:3] = np.log(np.array(structure.lattice.abc) / REFERENCE_LENGTH)
            row[3:6] = np.cos(np.radians(structure.lattice.angles))
            foreign = {s.symbol for s in structure.composition} - set(self.elements)
            if foreign:
                raise ValueError(
                    f"{structure.formula} holds {', '.join(sorted(foreign))}, "
                    f"outside the system {'-'.join(self.elements)}"
                )
        for k, element in enumerate(self.elements):
            pictures = [coordinates(structure, element) for structure in structures]
            rows[:, 6 + k] = [len(p) / REFERENCE_COUNT for p in pictures]
            start = self.head + k * self.code_length
            rows[:, start : start + self.code_length] = self.codes(pictures)
        return rows

    def codes(self, pictures: Sequence[FloatArray]) -> NDArray[np.float32]:
        """Codes (n, code_length) of single-element pictures, fractional coordinates (k, 3) each."""
        voxels = self.grid.encode(pictures)[..., None]
        return np.asarray(self._encoder.predict(voxels, batch_size=256, verbose=0))

    def positions(self, codes: FloatArray) -> list[NDArray[np.float64]]:
        """Fractional coordinates of the atoms in the pictures of codes (n, code_length)."""
        out: list[NDArray[np.float64]] = []
        for block in (codes[i : i + 256] for i in range(0, len(codes), 256)):
            voxels = np.asarray(self._decoder.predict(block, batch_size=256, verbose=0))[..., 0]
            out.extend(self.grid.decode(voxels))
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
        sites = []
        for k in range(len(self.elements)):
            start = self.head + k * self.code_length
            sites.append(self.positions(graphs[:, start : start + self.code_length]))
        return assemble(lattices, sites, self.elements)


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


@dataclass(frozen=True)
class Whitening:
    """Linear map between crystal graphs and a space where every direction has unit variance.

    The numbers of cell and composition are standardised one by one; of the codes the principal
    components are kept. A GAN needs no capacity there for scales and correlations.
    """

    mean: NDArray[np.float32]
    head_scale: NDArray[np.float32]
    components: NDArray[np.float32]
    deviations: NDArray[np.float32]

    @classmethod
    def fit(cls, graphs: FloatArray, head: int, latent: int) -> Whitening:
        """From crystal graphs (n, length), `latent` numbers in all, or fewer if n is small."""
        graphs = np.asarray(graphs, np.float64)
        mean = graphs.mean(0)
        scale = np.maximum(graphs[:, :head].std(0), 1e-3)
        codes = graphs[:, head:] - mean[head:]
        kept = max(1, min(latent - head, len(graphs) - 1, codes.shape[1]))
        _, singular, vectors = np.linalg.svd(codes, full_matrices=False)
        deviations = singular / np.sqrt(max(1, len(graphs) - 1))
        kept = min(kept, int((deviations > 1e-4 * deviations[0]).sum()))
        # The sign of a singular vector is the library's choice; fix it for repeatability.
        signs = np.sign(vectors[np.arange(kept), np.abs(vectors[:kept]).argmax(1)])
        return cls(
            mean.astype(np.float32),
            scale.astype(np.float32),
            (vectors[:kept] * signs[:, None]).astype(np.float32),
            deviations[:kept].astype(np.float32),
        )

    @property
    def size(self) -> int:
        return len(self.head_scale) + len(self.components)

    def forward(self, graphs: FloatArray) -> NDArray[np.float32]:
        """Crystal graphs (n, length) to whitened vectors (n, size)."""
        head = len(self.head_scale)
        centred = np.asarray(graphs, np.float32) - self.mean
        codes = centred[:, head:] @ self.components.T / self.deviations
        return np.concatenate([centred[:, :head] / self.head_scale, codes], 1)

    def inverse(self, vectors: FloatArray) -> NDArray[np.float32]:
        """Whitened vectors (n, size) to crystal graphs (n, length); codes stay within (-1, 1)."""
        head = len(self.head_scale)
        vectors = np.asarray(vectors, np.float32)
        codes = (vectors[:, head:] * self.deviations) @ self.components + self.mean[head:]
        cell = vectors[:, :head] * self.head_scale + self.mean[:head]
        return np.concatenate([cell, np.clip(codes, -1.0, 1.0)], 1)
