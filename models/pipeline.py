"""The networks joined: from relaxed crystals, stage by stage, to a generator.

Every stage takes crystals and the files of the stages before it and returns files (name to
content) and figures. Jobs keep the files in a store, the command line in a folder.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.models.energy.constraint import Constraint, Starts, train_constraint
from ccdcgan.models.energy.goals import Goal
from ccdcgan.models.gan.generators import build_dense_generator
from ccdcgan.models.gan.guide import objective, train_guide
from ccdcgan.models.gan.training import sample, train_gan
from ccdcgan.models.paper.graphs import PaperCrystalGraphs, train_paper_autoencoders
from ccdcgan.models.presets import Preset
from ccdcgan.models.repair import extremes
from ccdcgan.models.representation.autoencoder import train_sites_autoencoder
from ccdcgan.models.representation.default import anchored, coordinates, problem
from ccdcgan.models.representation.protocol import Representation, Space
from ccdcgan.models.representation.voxels import FloatArray, LatticeGrid
from ccdcgan.models.sampling import (
    CONSTRAINT,
    GENERATOR,
    GUIDE,
    LATTICE,
    SITES,
    SPACE,
    Files,
    can_be_judged,
    crystal_graphs,
    decode,
    load_space,
)
from ccdcgan.models.saved import model_bytes, model_from_bytes
from ccdcgan.models.training import TrainingLog, make_deterministic

Progress = Callable[[int, int], None]


@dataclass
class Crystals:
    """Relaxed crystals to learn from.

    Attributes
    ----------
    structures
        Primitive cells.
    targets : array (n, t)
        Properties.
    names
        Their names.
    e_above_hull : array (n,)
        Distance to the hull, eV/atom.
    starts
        What they were relaxed from, as far as it is known.
    """

    structures: Sequence[Structure]
    targets: FloatArray
    names: Sequence[str]
    e_above_hull: FloatArray
    starts: Starts = field(default_factory=Starts)


def usable(
    structures: Sequence[Structure], elements: Sequence[str], preset: Preset
) -> tuple[list[int], dict[int, str]]:
    """Indices of the structures that can be learnt from, and why the others cannot."""
    reasons = {i: problem(s, elements, preset.max_sites) for i, s in enumerate(structures)}
    return [i for i, r in reasons.items() if r is None], {i: r for i, r in reasons.items() if r}


def train_autoencoders(
    structures: Sequence[Structure],
    elements: Sequence[str],
    preset: Preset,
    seed: int,
    *,
    held_out: Sequence[Structure] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    log: TrainingLog | None = None,
) -> tuple[Files, dict[str, list[float]]]:
    """The autoencoders of a system, trained on its own crystals (paper, Methods).

    Parameters
    ----------
    held_out
        Other crystals, of which the losses are told, too; nothing depends on them.
    checkpoint
        File that holds the state between epochs.

    Returns
    -------
    files, history
        Losses by epoch, of ``sites training`` and the like.

    Raises
    ------
    ValueError
        No structure fits into the grid.
    """
    cells = [anchored(s, 1)[0] for s in structures]
    make_deterministic(seed)
    if preset.networks == "paper":
        lattice_grid = LatticeGrid(preset.paper.lattice_points)
        graphs = PaperCrystalGraphs(elements, preset.grid, None, None, lattice_grid)
        cells = [c for c in cells if graphs.fits(c)]
        if not cells:
            raise ValueError(f"no crystal fits into the cube of {preset.grid.cube} Å")
        test = [anchored(s, 1)[0] for s in held_out]
        sites, lattice, history = train_paper_autoencoders(
            cells,
            elements,
            preset.grid,
            lattice_grid,
            preset.autoencoder_epochs,
            seed,
            filters=preset.paper.filters,
            held_out=[c for c in test if graphs.fits(c)],
            checkpoint=checkpoint,
            progress=progress,
            log=log,
        )
        return {SITES: model_bytes(sites), LATTICE: model_bytes(lattice)}, history
    pictures = [(coordinates(c, e), c.lattice.abc) for c in cells for e in elements]
    model = train_sites_autoencoder(
        [p for p in pictures if len(p[0])],
        preset.grid,
        preset.autoencoder_epochs,
        seed,
        checkpoint=checkpoint,
        progress=progress,
        log=log,
    )
    return {SITES: model_bytes(model)}, {}


def encode_crystals(
    structures: Sequence[Structure], graphs: Representation
) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Crystal graphs of the crystals, of each its `origins`, and which crystal a row belongs to."""
    cells = [[c for c in anchored(s, graphs.origins) if graphs.fits(c)] for s in structures]
    owner = np.repeat(np.arange(len(cells)), [len(c) for c in cells])
    return graphs.encode([cell for group in cells for cell in group]), owner


def train_constraints(
    crystals: Crystals,
    elements: Sequence[str],
    preset: Preset,
    files: Mapping[str, bytes],
    seed: int,
    *,
    guided: bool = True,
    progress: Progress | None = None,
    log: TrainingLog | None = None,
) -> tuple[Files, dict[str, Any]]:
    """The networks' space, the constraint, and its guide for the generator.

    With the default preset the constraint judges atoms' environments (`train_constraint`), and
    the guide learns its judgement of relaxed and of generated crystal graphs. With the paper's,
    one network of crystal graphs is both.

    Parameters
    ----------
    crystals
        What is learnt from.
    elements, preset, files
        The system, its preset and the files of the autoencoder stage.
    seed
        The same seed gives the same networks.
    guided
        Whether a guide is needed: only the CCDCGAN has one, and the paper's constraint is one.

    Returns
    -------
    files, figures
        Figures hold ``properties`` (name to errors) and ``history`` (losses of the guide).

    Raises
    ------
    ValueError
        Too few crystals, or none that fits into the grid.
    """
    graphs = crystal_graphs(elements, preset, files)
    space, arrays = _space_of(crystals, graphs, preset)
    rows, owner = arrays["rows"], arrays["owner"]
    out: Files = {SPACE: _save_arrays(**vars(space), **arrays)}
    figures: dict[str, Any] = {"properties": {}, "history": {}}
    targets = np.asarray(crystals.targets, float)[owner]
    data = _GuideData(space.forward(rows), targets, owner, np.ones(len(rows), bool))
    if preset.networks == "dense":
        constraint, errors = train_constraint(
            crystals.structures,
            crystals.targets,
            crystals.names,
            crystals.e_above_hull,
            elements,
            preset.constraint,
            seed,
            _judged(crystals.starts),
        )
        out[CONSTRAINT] = model_bytes(constraint.model)
        figures["properties"] = {name: e.model_dump() for name, e in errors.items()}
        if not guided:
            return out, figures
        data = _with_drawn(data, constraint, *_draw_prior(graphs, space, arrays, preset, seed))
    out[GUIDE], learnt = _train_guide(data, crystals.names, preset, seed, progress, log)
    figures |= learnt
    if preset.networks == "paper":
        figures["properties"] = figures["guide"]
    return out, figures


def _train_guide(
    data: _GuideData,
    names: Sequence[str],
    preset: Preset,
    seed: int,
    progress: Progress | None,
    log: TrainingLog | None,
) -> tuple[bytes, dict[str, Any]]:
    """The guide, with its ``history`` and its errors by property as ``guide``."""
    guide = train_guide(
        data.rows,
        data.targets,
        data.crystals,
        preset.guide,
        seed,
        real=data.real,
        progress=progress,
        log=log,
    )
    errors = {
        name: {"mae": mae, "r2": r2, "held_out": guide.held_out}
        for name, mae, r2 in zip(names, guide.mae, guide.r2, strict=True)
    }
    return model_bytes(guide.network), {"history": guide.history, "guide": errors}


def _space_of(
    crystals: Crystals, graphs: Representation, preset: Preset
) -> tuple[Space, dict[str, NDArray[Any]]]:
    """The networks' space of crystal graphs, and what is kept of the crystals beside it.

    Raises
    ------
    ValueError
        No crystal fits into the grid.
    """
    rows, owner = encode_crystals(crystals.structures, graphs)
    if not len(rows):
        raise ValueError("no crystal fits into the grid of the preset")
    arrays: dict[str, NDArray[Any]] = {
        "rows": rows,
        "owner": owner,
        "e_above_hull": np.asarray(crystals.e_above_hull),
        "extremes": extremes(crystals.structures),
        **graphs.statistics(crystals.structures, _weights(crystals.e_above_hull, preset)),
    }
    return graphs.space(rows, preset.gan.latent), arrays


@dataclass(frozen=True)
class _GuideData:
    """What the guide learns from.

    Attributes
    ----------
    rows : array (n, size), or (n, side, side, 1) for the paper's network
        Crystal graphs in the networks' space.
    targets : array (n, t)
        Properties.
    crystals : array (n,)
        Which crystal a row belongs to.
    real : array (n,)
        Rows of relaxed crystals.
    """

    rows: NDArray[np.floating]
    targets: FloatArray
    crystals: NDArray[np.int_]
    real: NDArray[np.bool_]


def _with_drawn(
    data: _GuideData,
    constraint: Constraint,
    vectors: NDArray[np.float32],
    structures: Sequence[Structure | None],
) -> _GuideData:
    """The same with crystals that an untrained generator draws, judged by the constraint.

    The generator will stray from the relaxed crystals: the guide learns how the constraint judges
    those where it starts.
    """
    drawn = {i: s for i, s in enumerate(structures) if s is not None and can_be_judged(s)}
    predicted = constraint.predict(list(drawn.values())).mean(1)
    low, high = data.targets.min(0), data.targets.max(0)
    return _GuideData(
        np.concatenate([data.rows, vectors[list(drawn)]]),
        np.concatenate([data.targets, np.clip(predicted, low, high)]),
        np.concatenate([data.crystals, data.crystals.max() + 1 + np.arange(len(drawn))]),
        np.concatenate([data.real, np.zeros(len(drawn), bool)]),
    )


def _judged(starts: Starts) -> Starts:
    """Those of the starts that have descriptors."""
    judged = [i for i, s in enumerate(starts.structures) if can_be_judged(s)]
    return Starts([starts.structures[i] for i in judged], starts.crystal[judged])


def _draw_prior(
    graphs: Representation,
    space: Space,
    arrays: Mapping[str, NDArray[Any]],
    preset: Preset,
    seed: int,
) -> tuple[NDArray[np.float32], list[Structure | None]]:
    """Vectors that an untrained generator draws, and their crystals."""
    rows = arrays["rows"]
    conditions, weights = graphs.conditions(space, rows), _evenly(arrays["owner"])
    prior = build_dense_generator(space.forward(rows), weights, preset.gan, conditions)
    vectors = sample(prior, preset.guide.samples, seed)
    return vectors, decode(vectors, graphs, space, arrays)


def _evenly(owner: NDArray[np.int_]) -> NDArray[np.float64]:
    """Weights of rows that make every crystal count once."""
    return 1.0 / np.bincount(owner)[owner]


def _weights(e_above_hull: FloatArray, preset: Preset) -> NDArray[np.float64]:
    """How often crystals are drawn for training: those near the hull more often."""
    if preset.gan.energy_scale is None:
        return np.ones(len(e_above_hull))
    scaled: NDArray[np.float64] = np.exp(-np.maximum(e_above_hull, 0.0) / preset.gan.energy_scale)
    return scaled


def train_generator(
    names: Sequence[str],
    goals: Sequence[Goal],
    elements: Sequence[str],
    preset: Preset,
    files: Mapping[str, bytes],
    seed: int,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    log: TrainingLog | None = None,
) -> tuple[Files, dict[str, Any]]:
    """The generator of the preset's variant, from the files of the stages before.

    Parameters
    ----------
    names
        Properties that the guide predicts.
    goals
        What the generator is guided to.
    """
    space, arrays = load_space(files[SPACE])
    owner, rows = arrays["owner"], arrays["rows"]
    weights = _evenly(owner) * _weights(arrays["e_above_hull"], preset)[owner]
    guide = None
    if preset.gan.variant == "ccdcgan":
        guide = objective(model_from_bytes(files[GUIDE]), names, goals)
    trained = train_gan(
        space.forward(rows),
        weights,
        preset.gan,
        guide,
        seed,
        conditions=crystal_graphs(elements, preset, files).conditions(space, rows),
        checkpoint=checkpoint,
        progress=progress,
        log=log,
    )
    return {GENERATOR: model_bytes(trained.generator)}, {"history": trained.history}


def _save_arrays(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()
