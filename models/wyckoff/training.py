"""What the generator learns from known crystals: their placements and their geometries."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import keras
import numpy as np
from keras import ops
from pymatgen.core import Structure

from ccdcgan.dft.structures.spacegroups import ALL_GROUPS
from ccdcgan.models.backend import initialise
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.wyckoff.geometry import Geometries
from ccdcgan.models.wyckoff.network import (
    GROUP_SIZE,
    POSITION_SIZE,
    Asked,
    build_scorer,
    group_options,
    position_options,
)
from ccdcgan.models.wyckoff.placement import Placement, placement_of
from ccdcgan.models.wyckoff.positions import space_groups

#: File of the weights that come with the package.
WEIGHTS = "wyckoff_generator.npz"


@dataclass
class Choice:
    """One choice of a known crystal: options (n, f), which of them it was, and its weight."""

    options: FloatArray
    made: int
    weight: float


@dataclass(frozen=True)
class WyckoffModel:
    """The two scoring networks, and the geometries of known crystals.

    Attributes
    ----------
    groups, positions
        Networks: of space groups, and of Wyckoff positions.
    geometries
        Cells and free coordinates near which those of a placement are drawn.
    elements
        Symbols of the elements of what it has learnt from.
    """

    groups: keras.Model
    positions: keras.Model
    geometries: Geometries = field(default_factory=Geometries)
    elements: frozenset[str] = frozenset()

    @classmethod
    def untrained(cls, seed: int) -> WyckoffModel:
        """Networks under which all options are alike, and no geometries."""
        made = cls(build_scorer(GROUP_SIZE, "groups"), build_scorer(POSITION_SIZE, "positions"))
        for model in (made.groups, made.positions):
            initialise(model.trainable_variables, seed)
        return made

    def to_bytes(self) -> bytes:
        """The model as a file, for `from_bytes`."""
        stream = io.BytesIO()
        arrays = {
            f"{model.name}/{i}": weights
            for model in (self.groups, self.positions)
            for i, weights in enumerate(model.get_weights())
        }
        arrays |= {f"geometries/{name}": a for name, a in self.geometries.arrays().items()}
        np.savez_compressed(stream, elements=sorted(self.elements), **arrays)
        return stream.getvalue()

    @classmethod
    def shipped(cls) -> WyckoffModel:
        """The model that comes with the package: benchmarks/train_wyckoff.py makes it."""
        stored = resources.files("ccdcgan.models").joinpath("weights", WEIGHTS)
        return cls.from_bytes(stored.read_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> WyckoffModel:
        """The model that `to_bytes` has written."""
        made = cls.untrained(0)
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            for model in (made.groups, made.positions):
                model.set_weights([stored[f"{model.name}/{i}"] for i in range(len(model.weights))])
            geometries = {
                name.partition("/")[2]: stored[name]
                for name in stored.files
                if name.startswith("geometries/")
            }
            return replace(
                made,
                geometries=Geometries.from_arrays(geometries),
                elements=frozenset(stored["elements"].tolist()),
            )


def choices_of(placement: Placement, weight: float) -> tuple[Choice, list[Choice]]:
    """The choice of the group, and those of the positions, that lead to a placement."""
    asked = Asked(placement.atoms)
    rows, numbers = group_options(asked, ALL_GROUPS)
    of_group = Choice(rows, int(np.flatnonzero(numbers == placement.group)[0]), weight)
    group = space_groups()[placement.group - 1]
    placed: list[tuple[int, int]] = []
    found = []
    for number, element in enumerate(asked.elements):
        left = asked.counts[number]
        for position in placement.sites[element]:
            rows, indices = position_options(asked, group, number, left, placed)
            found.append(Choice(rows, int(np.flatnonzero(indices == position)[0]), weight))
            placed.append((number, position))
            left -= group.positions[position].multiplicity
    return of_group, found


def fitted(
    model: WyckoffModel,
    structures: Sequence[Structure],
    weights: FloatArray,
    epochs: int,
    seed: int,
    batch: int = 64,
) -> WyckoffModel:
    """The model after more crystals: networks by maximum likelihood, geometries beside the others.

    Parameters
    ----------
    structures
        In primitive cells; those without a placement teach nothing.
    weights : array (n,)
        Of the structures in the likelihood; only their ratios count.
    """
    found = [
        (placement, float(weight))
        for structure, weight in zip(structures, weights, strict=True)
        if (placement := placement_of(structure)) is not None
    ]
    if not found:
        return model
    usual = float(np.mean([weight for _, weight in found]))
    pairs = [choices_of(placement, weight / usual) for placement, weight in found]
    _fit(model.groups, [group for group, _ in pairs], epochs, seed, batch)
    _fit(model.positions, [c for _, choices in pairs for c in choices], epochs, seed, batch)
    learnt = {e for placement, _ in found for e in placement.sites}
    return replace(
        model,
        geometries=model.geometries.with_crystals(structures),
        elements=model.elements | learnt,
    )


def _fit(model: keras.Model, choices: Sequence[Choice], epochs: int, seed: int, batch: int) -> None:
    steps = epochs * -(-len(choices) // batch)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=1e-2), loss=_cross_entropy)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for part in _batches(choices, batch, rng):
            model.train_on_batch(*part)


def _cross_entropy(made: Any, scores: Any) -> Any:
    """Of one-hot choices, -1 where there is no option."""
    allowed = ops.where(made < 0, -1e9, scores)
    return keras.losses.categorical_crossentropy(ops.maximum(made, 0), allowed, from_logits=True)


def _batches(
    choices: Sequence[Choice], batch: int, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, FloatArray, FloatArray]]:
    """Shuffled batches of options, one-hot choices and weights; widths are few, for tracing."""
    order = rng.permutation(len(choices))
    for start in range(0, len(order), batch):
        part = [choices[i] for i in order[start : start + batch]]
        width = max(len(c.options) for c in part)
        width = min(w for w in (4, 8, 16, 32, 64, 128, 256) if w >= width)
        rows = np.zeros((len(part), width, part[0].options.shape[1]), np.float32)
        made = np.full((len(part), width), -1.0, np.float32)
        for i, choice in enumerate(part):
            rows[i, : len(choice.options)] = choice.options
            made[i, : len(choice.options)] = 0.0
            made[i, choice.made] = 1.0
        yield rows, made, np.array([c.weight for c in part], np.float32)


def log_likelihood(model: WyckoffModel, placements: Sequence[Placement]) -> float:
    """Mean logarithm of the probability of a placement, given its composition."""
    total = 0.0
    for placement in placements:
        of_group, of_positions = choices_of(placement, 1.0)
        total += log_odds(model.groups, [of_group.options])[0][of_group.made]
        odds = log_odds(model.positions, [c.options for c in of_positions])
        total += sum(o[c.made] for o, c in zip(odds, of_positions, strict=True))
    return float(total / len(placements))


def log_odds(model: keras.Model, rows: Sequence[FloatArray]) -> list[FloatArray]:
    """Logarithms of the probabilities of the options (n, f) of each choice."""
    if not rows:
        return []
    flat = np.concatenate(rows).astype(np.float32)[None]
    scores = ops.convert_to_numpy(model(flat, training=False))[0].astype(float)
    parts = np.split(scores, np.cumsum([len(one) for one in rows])[:-1])
    return [part - np.logaddexp.reduce(part) for part in parts]
