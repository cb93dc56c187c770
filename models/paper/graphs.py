"""Crystal graphs of the paper: lattice and sites voxels through two autoencoders, folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.models.paper.networks import (
    AUTOENCODER,
    EPSILON,
    ROW,
    build_paper_lattice_autoencoder,
    build_paper_sites_autoencoder,
    fold,
    unfold,
)
from ccdcgan.models.representation.default import assemble
from ccdcgan.models.representation.protocol import Conditions, Space
from ccdcgan.models.representation.voxels import (
    FloatArray,
    LatticeGrid,
    SitesGrid,
    lattice_from_metric,
)
from ccdcgan.models.training import (
    TrainingLog,
    load_checkpoint,
    make_deterministic,
    save_checkpoint,
    watchers,
)

#: Batches that the mean picture is taken from.
SEEN = 20


@dataclass
class PaperCrystalGraphs:
    """Structures to the paper's crystal graphs and back.

    A crystal graph has a row of 200 numbers for the lattice (25 and zeros) and one for each
    element.

    Parameters
    ----------
    elements
        Elements of the system.
    grid
        Cartesian sites grid. Crystals that do not fit into its cube have no graph.
    sites, lattice
        The two autoencoders.
    lattice_grid
        Grid of the lattice voxel.
    """

    elements: Sequence[str]
    grid: SitesGrid
    sites: keras.Model
    lattice: keras.Model
    lattice_grid: LatticeGrid

    #: The paper has one crystal graph of a crystal.
    origins = 1

    @property
    def length(self) -> int:
        return ROW * (1 + len(self.elements))

    def fits(self, structure: Structure) -> bool:
        """Whether all atoms lie inside the cube."""
        assert self.grid.cube is not None
        return bool(np.abs(_centred(structure)[1]).max() <= self.grid.cube / 2)

    def encode(self, structures: Sequence[Structure]) -> NDArray[np.float32]:
        """Crystal graphs (n, length) of structures that fit into the cube."""
        rows = np.zeros((len(structures), self.length), np.float32)
        if not structures:
            return rows
        parts = [_centred(s) for s in structures]
        lattices = self.lattice_grid.encode(np.stack([p[0] for p in parts]))
        codes = _predict(self.lattice.get_layer("encoder"), lattices[..., None])
        rows[:, : codes.shape[1]] = codes
        for k, element in enumerate(self.elements, 1):
            pictures = [
                coords[[site.specie.symbol == element for site in structure]]
                for structure, (_, coords) in zip(structures, parts, strict=True)
            ]
            voxels = self.grid.encode(pictures)[..., None]
            rows[:, k * ROW : (k + 1) * ROW] = _predict(self.sites.get_layer("encoder"), voxels)
        return rows

    def decode(self, graphs: FloatArray) -> list[Structure | None]:
        """Structures of crystal graphs (n, length); None where a cell or an element is missing."""
        out: list[Structure | None] = []
        # 64³ voxels are 1 MB a picture: a few at a time.
        for start in range(0, len(graphs), 32):
            out.extend(self._decode(np.asarray(graphs[start : start + 32], np.float32)))
        return out

    def _decode(self, graphs: FloatArray) -> list[Structure | None]:
        decoder = self.lattice.get_layer("decoder")
        voxels = _predict(decoder, graphs[:, : decoder.input_shape[-1]])[..., 0]
        lattices = lattice_from_metric(self.lattice_grid.decode(voxels))
        pictures = []
        for k in range(1, len(self.elements) + 1):
            voxels = _predict(self.sites.get_layer("decoder"), graphs[:, k * ROW : (k + 1) * ROW])
            pictures.append(self.grid.decode(voxels[..., 0]))
        return assemble(lattices, pictures, self.elements, cartesian=True)

    def space(self, graphs: FloatArray, latent: int) -> Folding:
        """Folded images of crystal graphs, of all their numbers."""
        return Folding(1 + len(self.elements))

    def conditions(self, space: Space, graphs: FloatArray) -> Conditions:
        """Nothing: the paper's generator draws from noise alone."""
        return Conditions()

    def statistics(
        self, structures: Sequence[Structure], weights: FloatArray
    ) -> dict[str, NDArray[np.float64]]:
        """Nothing: the paper mends no crystal."""
        return {}

    def repaired(self, structure: Structure, known: Mapping[str, FloatArray]) -> Structure:
        """The structure as it was decoded."""
        return structure


@dataclass(frozen=True)
class Folding:
    """The space in which the paper's networks work: crystal graphs folded to square images."""

    n_rows: int

    def forward(self, graphs: FloatArray) -> NDArray[np.float32]:
        """Crystal graphs (n, rows · 200) to images (n, side, side, 1)."""
        graphs = np.asarray(graphs, np.float32)
        return np.asarray(fold(graphs.reshape(len(graphs), self.n_rows, ROW)), np.float32)

    def inverse(self, images: FloatArray) -> NDArray[np.float32]:
        """Images (n, side, side, 1) to crystal graphs (n, rows · 200)."""
        return np.asarray(unfold(images, self.n_rows), np.float32).reshape(len(images), -1)


def train_paper_autoencoders(
    structures: Sequence[Structure],
    elements: Sequence[str],
    grid: SitesGrid,
    lattice_grid: LatticeGrid,
    epochs: int,
    seed: int,
    *,
    filters: int = 64,
    held_out: Sequence[Structure] = (),
    checkpoint: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    log: TrainingLog | None = None,
) -> tuple[keras.Model, keras.Model, dict[str, list[float]]]:
    """Train the sites and the lattice autoencoder on structures that fit into the cube.

    One sites autoencoder serves all elements (paper, Methods). The loss is eq. (5). A training that
    was killed goes on from its checkpoint to the same networks.

    Parameters
    ----------
    filters
        Channels of the convolutions.
    held_out
        Structures that fit, of which the losses are told, too; nothing depends on them.
    checkpoint
        File that holds the state between epochs.

    Returns
    -------
    sites autoencoder, lattice autoencoder, history
        Losses by epoch: ``lattice training``, ``sites training``, and ``… test`` of the held out.
    """
    make_deterministic(seed)
    # What is held out stays in its order.
    data = ((structures, seed), (held_out, None))
    cells = [_Encoded(lattices_of(s), lattice_grid, order) for s, order in data]
    atoms = [_Encoded(pictures_of(s, elements), grid, order) for s, order in data]
    lattice = build_paper_lattice_autoencoder(lattice_grid.points, filters)
    sites = build_paper_sites_autoencoder(grid.points, filters)
    parts = {"lattice": (lattice, *cells), "sites": (sites, *atoms)}
    variables: list[Any] = []
    for model, training, _ in parts.values():
        mean, norm = training.statistics()
        start_at(model, mean)
        model.compile(AUTOENCODER.build(EPSILON * norm), squared_error)
        model.optimizer.build(model.trainable_variables)
        variables += [*model.variables, *model.optimizer.variables]
    history: dict[str, list[float]] = {}
    done = 0
    if checkpoint and (state := load_checkpoint(checkpoint, variables)) is not None:
        done = int(state["done"])
        history = {name: state[name].tolist() for name in state if name != "done"}
    if log:
        log.resume(done)
    for number, (name, (model, training, test)) in enumerate(parts.items()):

        def ended(
            epoch: int, logs: Mapping[str, float], before: int = number * epochs, name: str = name
        ) -> None:
            for key, kind in (("loss", "training"), ("val_loss", "test")):
                if key in logs:
                    history.setdefault(f"{name} {kind}", []).append(float(logs[key]))
            if checkpoint:
                save_checkpoint(checkpoint, variables, done=before + epoch + 1, **history)

        training.epoch = min(max(done - number * epochs, 0), epochs)
        model.fit(
            training,
            initial_epoch=training.epoch,
            epochs=epochs,
            # The batches come in an order that the epoch alone decides.
            shuffle=False,
            validation_data=test if len(test) else None,
            callbacks=[
                *watchers(2 * epochs, progress, log, done=number * epochs),
                keras.callbacks.LambdaCallback(on_epoch_end=ended),
            ],
            verbose=0,
        )
    return sites, lattice, history


def pictures_of(
    structures: Sequence[Structure], elements: Sequence[str]
) -> list[NDArray[np.float64]]:
    """Atoms of each element of each structure, Å from the middle of the cube (n_atoms, 3)."""
    return [
        coords[[site.specie.symbol == element for site in structure]]
        for structure in structures
        for coords in [_centred(structure)[1]]
        for element in elements
    ]


def lattices_of(structures: Sequence[Structure]) -> list[NDArray[np.float64]]:
    """Lattices (3, 3), Å."""
    return [_centred(structure)[0] for structure in structures]


def start_at(autoencoder: keras.Model, mean: float) -> None:
    """Let new weights predict the mean of the voxels everywhere, by the bias of the last layer.

    At a bias of zero every voxel is one half, and most are far less. All steps then press the same
    way, from whatever picture, until sigmoids and codes have no gradient left (docs/paper.md).
    """
    mean = min(max(mean, 1e-6), 1.0 - 1e-6)
    last = autoencoder.get_layer("decoder").layers[-1]
    last.bias.assign(np.full(last.bias.shape, np.log(mean / (1.0 - mean)), np.float32))


def squared_error(voxels: Any, made: Any) -> Any:
    """Squared error summed over each picture (batch,), of eq. (5).

    Keras adds the penalty. Beside the mean over the voxels the penalty of new weights would weigh
    more than the whole picture.
    """
    return ops.sum(ops.square(voxels - made), axis=tuple(range(1, len(made.shape))))


class _Encoded(keras.utils.PyDataset):
    """Voxels made when they are needed; with a seed in another order each epoch."""

    def __init__(
        self,
        items: Sequence[FloatArray] | FloatArray,
        grid: SitesGrid | LatticeGrid,
        seed: int | None,
    ) -> None:
        super().__init__()
        self.items, self.grid, self.seed, self.epoch = items, grid, seed, 0

    def __len__(self) -> int:
        return -(-len(self.items) // AUTOENCODER.batch)

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def statistics(self) -> tuple[float, float]:
        """Mean of the voxels, and mean squared norm of a picture, of the first batches."""
        voxels = np.concatenate([self[i][0] for i in range(min(len(self), SEEN))])
        return float(voxels.mean()), float(np.square(voxels).sum((1, 2, 3, 4)).mean())

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        order = np.arange(len(self.items))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        chosen = order[index * AUTOENCODER.batch : (index + 1) * AUTOENCODER.batch]
        batch: Any = [self.items[i] for i in chosen]
        voxels = self.grid.encode(batch)[..., None]
        return voxels, voxels


def _centred(structure: Structure) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower-triangular lattice, and Cartesian coordinates about the atoms' centroid, both in Å.

    The orientation is the one that a lattice decoded from its metric tensor gets.
    """
    metric = structure.lattice.matrix @ structure.lattice.matrix.T
    lattice = lattice_from_metric(metric[None])[0]
    coords = np.mod(structure.frac_coords, 1.0) @ lattice
    return lattice, coords - coords.mean(0)


def _predict(model: keras.Model, x: FloatArray) -> NDArray[np.float32]:
    if not len(x):
        return np.zeros((0, *model.output_shape[1:]), np.float32)
    return np.asarray(model.predict(x, batch_size=16, verbose=0))
