"""Trained networks at work: crystals drawn by a generator and judged by the constraint."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.models.energy.constraint import Constraint
from ccdcgan.models.energy.descriptors import Environments
from ccdcgan.models.gan.training import sample
from ccdcgan.models.paper.graphs import Folding, PaperCrystalGraphs
from ccdcgan.models.presets import Preset
from ccdcgan.models.representation.default import CrystalGraphs, anchored
from ccdcgan.models.representation.protocol import Representation, Space
from ccdcgan.models.representation.voxels import FloatArray, LatticeGrid
from ccdcgan.models.representation.whitening import Whitening
from ccdcgan.models.saved import model_from_bytes

#: Which structures have a prediction, and the predictions (n, members, targets) of those.
Predictions = tuple[list[bool], NDArray[np.float64]]

#: What a stage of training leaves: name to content.
Files = dict[str, bytes]

SITES, LATTICE, SPACE = "sites.keras", "lattice.keras", "space.npz"
CONSTRAINT, GUIDE, GENERATOR = "constraint.keras", "guide.keras", "generator.keras"
POTENTIAL = "potential.npz"


def shipped_autoencoder() -> Files:
    """The sites autoencoder that comes with the package."""
    return {SITES: resources.files("ccdcgan.models").joinpath("weights", SITES).read_bytes()}


def crystal_graphs(
    elements: Sequence[str], preset: Preset, files: Mapping[str, bytes]
) -> Representation:
    """Encoder and decoder of a system from the files of the autoencoder stage."""
    sites = model_from_bytes(files[SITES])
    if preset.networks == "paper":
        lattice = model_from_bytes(files[LATTICE])
        grid = LatticeGrid(preset.paper.lattice_points)
        return PaperCrystalGraphs(elements, preset.grid, sites, lattice, grid)
    return CrystalGraphs(elements, preset.grid, sites)


def load_space(data: bytes) -> tuple[Space, dict[str, NDArray[Any]]]:
    """The networks' space, and the arrays that were stored with it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays = dict(stored)
    if "n_rows" in arrays:
        return Folding(int(arrays.pop("n_rows"))), arrays
    fields = ("mean", "head_scale", "components", "deviations")
    return Whitening(**{f: arrays.pop(f) for f in fields}), arrays


def draw_crystals(
    count: int,
    seed: int,
    elements: Sequence[str],
    preset: Preset,
    files: Mapping[str, bytes],
    composition: FloatArray | None = None,
) -> list[Structure | None]:
    """`count` generated crystals; None where a crystal graph cannot be decoded.

    Parameters
    ----------
    composition
        Numbers of atoms (m,) or (k, m) of each element to ask for; default as in training.
    """
    space, arrays = load_space(files[SPACE])
    graphs = crystal_graphs(elements, preset, files)
    rows = sample(model_from_bytes(files[GENERATOR]), count, seed, composition)
    return decode(rows, graphs, space, arrays)


def decode(
    rows: FloatArray, graphs: Representation, space: Space, known: Mapping[str, FloatArray]
) -> list[Structure | None]:
    """Crystals of vectors (n, size); None where a crystal graph cannot be decoded.

    Parameters
    ----------
    known
        Statistics of known crystals, by which those drawn are repaired.
    """
    crystals = graphs.decode(space.inverse(rows))
    return [None if s is None else graphs.repaired(s, known) for s in crystals]


def can_be_judged(structure: Structure) -> bool:
    """Whether the constraint's descriptors exist: atoms apart, cell neither empty nor crushed."""
    volume = structure.volume / len(structure)
    # The shortest bond there is, that of H2, has 0.74 Å.
    return 2.0 < volume < 400.0 and structure.is_valid(tol=0.7)


@dataclass
class Predictor:
    """Properties of any crystals of a system, by its constraint."""

    elements: Sequence[str]
    preset: Preset
    files: Mapping[str, bytes]
    names: Sequence[str]

    def __post_init__(self) -> None:
        predict = self._by_environments if self.preset.networks == "dense" else self._by_graphs
        self._predict: Callable[[Sequence[Structure]], Predictions] = predict()

    def __call__(self, structures: Sequence[Structure]) -> NDArray[np.float64]:
        """Properties (n, members, targets); infinite for what has no prediction.

        Such are crushed cells, and for the paper's constraint crystals outside its cube.
        """
        fitting, predicted = self._predict(structures)
        out = np.full((len(structures), *predicted.shape[1:]), np.inf)
        out[fitting] = predicted
        return out

    def _by_environments(self) -> Callable[[Sequence[Structure]], Predictions]:
        """Predictions of the default constraint."""
        model = model_from_bytes(self.files[CONSTRAINT])
        constraint = Constraint(model, Environments(self.elements), tuple(self.names))

        def predict(structures: Sequence[Structure]) -> Predictions:
            fitting = [can_be_judged(s) for s in structures]
            return fitting, constraint.predict(list(compress(structures, fitting)))

        return predict

    def _by_graphs(self) -> Callable[[Sequence[Structure]], Predictions]:
        """Predictions of the paper's constraint, which sees crystal graphs."""
        network = model_from_bytes(self.files[GUIDE])
        space, _ = load_space(self.files[SPACE])
        graphs = crystal_graphs(self.elements, self.preset, self.files)

        def predict(structures: Sequence[Structure]) -> Predictions:
            cells = [anchored(s, 1)[0] for s in structures]
            fitting = [graphs.fits(c) for c in cells]
            if not any(fitting):
                return fitting, np.zeros((0, 1, network.output_shape[-1]))
            rows = space.forward(graphs.encode(list(compress(cells, fitting))))
            return fitting, np.asarray(network.predict(rows, verbose=0))[:, None]

        return predict
