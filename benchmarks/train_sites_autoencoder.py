r"""Make the shipped weights of the sites autoencoder from random crystals.

    python benchmarks/train_sites_autoencoder.py --output first.keras \
        --noise 0 --steps 4000 --learning-rate 2e-3
    python benchmarks/train_sites_autoencoder.py --output sites.keras \
        --resume first.keras --noise 0.2 --steps 12000 --learning-rate 1.2e-3

The first phase learns codes without noise, with which it starts much faster; the second makes the
decoder forgive noise on them (docs/autoencoder.md has the schedule of the shipped file). The
crystals are PyXtal's (extra `random`), two elements, at most 20 atoms; each of their elements is
one picture. They are kept in `pictures-….npz` beside the
output, so that the second phase finds them. Held out are the AFLOW prototypes, of which training
sees none: every 500 steps the script prints the loss and the fraction of them whose atoms all
come back within 0.04 in fractional coordinates, each on the grid of its cell's shape, and saves
the weights.

Keras runs on PyTorch here unless KERAS_BACKEND says otherwise: TensorFlow takes longer for a
step on a CPU. The file that comes out is read by any backend. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.sources import (
    AflowSource,
    Filters,
    Prototype,
    collect,
    primitive_cell,
    random_crystals,
)
from ccdcgan.models.representation.autoencoder import (
    Picture,
    Pictures,
    build_sites_autoencoder,
    peak_weighted_mse,
)
from ccdcgan.models.representation.default import CrystalGraphs, coordinates
from ccdcgan.models.representation.voxels import SitesGrid

#: Steps between two looks at the held-out crystals.
REPORT = 500
#: Steps over which the learning rate rises.
WARM_UP = 1000
#: An atom has come back if it is off by less in each fractional coordinate.
TOLERANCE = 0.04


@keras.saving.register_keras_serializable("ccdcgan")
class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise over the first steps, times half a cosine over all."""

    def __init__(self, peak: float, steps: int, warm_up: int = WARM_UP) -> None:
        self.peak, self.steps, self.warm_up = peak, steps, warm_up

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        rise = keras.ops.minimum(1.0, (step + 1.0) / self.warm_up)
        done = keras.ops.minimum(1.0, step / self.steps)
        cosine = 0.5 * (1.0 + keras.ops.cos(math.pi * done))
        return self.peak * rise * keras.ops.maximum(cosine, 0.005)

    def get_config(self) -> dict[str, float]:
        return {"peak": self.peak, "steps": self.steps, "warm_up": self.warm_up}


def pictures(crystals: int, max_sites: int, seed: int, folder: Path) -> list[Picture]:
    """Atoms of each element of random crystals, and their cells' lengths; cached in the folder."""
    cache = folder / f"pictures-{crystals}-{max_sites}-{seed}.npz"
    try:
        with np.load(cache, allow_pickle=False) as stored:
            coords = np.split(stored["coords"], np.cumsum(stored["counts"])[:-1])
            return list(zip(coords, stored["lengths"], strict=True))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        print(f"{cache} cannot be read: made anew", file=sys.stderr)
    found: list[Picture] = []
    for item in random_crystals(["Bi", "Se"], crystals, max_sites, seed):
        if isinstance(item, Prototype):
            cell = primitive_cell(item.structure)
            found += [(coordinates(cell, s), cell.lattice.abc) for s in ("Bi", "Se")]
    if not found:
        raise UserError(f"PyXtal made none of {crystals} crystals: allow more sites")
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".npz", delete=False) as stream:
        np.savez(
            stream,
            coords=np.concatenate([coords for coords, _ in found]),
            counts=[len(coords) for coords, _ in found],
            lengths=[lengths for _, lengths in found],
        )
    Path(stream.name).replace(cache)
    return found


class HeldOut:
    """AFLOW's binary prototypes, each at a random origin."""

    def __init__(self, grid: SitesGrid, max_sites: int) -> None:
        filters = Filters(max_sites=max_sites, max_length=40.0)
        prototypes, _, _ = collect([AflowSource()], filters, 2, 0)
        rng = np.random.default_rng(5)
        self.grid, self.crystals = grid, len(prototypes)
        self.pictures: list[np.ndarray] = []
        self.owner: list[int] = []
        for number, prototype in enumerate(prototypes):
            origin = rng.random(3)
            for element in prototype.structure.composition:
                chosen = coordinates(prototype.structure, element.symbol)
                self.pictures.append(chosen + origin)
                self.owner.append(number)
        lengths = np.array([p.structure.lattice.abc for p in prototypes])
        self.shapes = grid.shapes(lengths)[self.owner]
        self.counts = np.array([len(p) for p in self.pictures])

    def fraction(self, model: keras.Model) -> float:
        """Crystals all of whose atoms come back, their numbers being known."""
        # One element at a time: which one does not matter to codes and positions.
        graphs = CrystalGraphs(("H",), self.grid, model)
        codes = graphs.codes(self.pictures, self.shapes)
        decoded = graphs.positions(codes, self.shapes, self.counts)
        lost = {
            number
            for number, a, b in zip(self.owner, self.pictures, decoded, strict=True)
            if not _same_atoms(a, b)
        }
        return 1.0 - len(lost) / self.crystals


def _same_atoms(a: np.ndarray, b: np.ndarray) -> bool:
    if len(a) != len(b):
        return False
    d = a[:, None] - b[None]
    away = np.abs(d - np.round(d)).max(-1)
    return bool(max(away.min(0).max(), away.min(1).max()) < TOLERANCE)


def save(model: keras.Model, path: Path) -> None:
    """Write the model in one piece, without the state of its optimizer."""
    # A fresh model with the same weights: Keras would store optimizer and loss with this one.
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / "model.keras"
        plain.save(temporary)
        temporary.replace(path)


def train(options: argparse.Namespace) -> None:
    """Train and save."""
    points = options.points
    if options.steps < 1 or options.crystals < 1 or points < 16 or points & (points - 1):
        raise UserError("steps and crystals must be positive, points a power of two from 16 on")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)
    grid = SitesGrid(points, options.sigma)
    model = build_sites_autoencoder(options.filters, options.blocks, options.depth, options.noise)
    if options.resume:
        try:
            before = keras.saving.load_model(options.resume, compile=False, safe_mode=True)
            for part in ("encoder", "decoder"):
                model.get_layer(part).set_weights(before.get_layer(part).get_weights())
        except Exception as error:  # noqa: BLE001  Keras signals a wrong file in many ways
            text = " ".join(str(error).split())[:150]
            raise UserError(f"{options.resume} cannot be resumed from: {text}") from None
    data = pictures(options.crystals, options.max_sites, options.seed, options.output.parent)
    held_out = HeldOut(grid, options.max_sites)
    print(
        f"{len(data)} pictures, {held_out.crystals} held-out crystals, "
        f"{model.count_params()} weights, backend {keras.backend.backend()}",
        flush=True,
    )
    rate = WarmUpCosine(options.learning_rate, options.steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-5, beta_2=0.98)
    model.compile(optimizer, peak_weighted_mse, jit_compile=False)
    batches = Pictures(data, grid, options.batch, options.steps, options.seed)
    start, losses = monotonic(), []
    for step in range(options.steps):
        losses.append(float(model.train_on_batch(*batches[step])))
        model.reset_metrics()
        if (step + 1) % REPORT == 0 or step + 1 == options.steps:
            save(model, options.output)
            print(
                f"step {step + 1}, {monotonic() - start:.0f} s: loss {np.mean(losses):.5f}, "
                f"held-out crystals {held_out.fraction(model):.3f}",
                flush=True,
            )
            losses.clear()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr."""
    parser = argparse.ArgumentParser(description="Train the sites autoencoder.")
    parser.add_argument("--output", type=Path, required=True, help="file of the weights (.keras)")
    parser.add_argument("--resume", type=Path, help="weights to start from")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--noise", type=float, default=0.0, help="on the code, while training")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--depth", type=int, default=4, help="numbers for each 4×4×4 cube")
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--sigma", type=float, default=0.75, help="in grid spacings")
    parser.add_argument("--crystals", type=int, default=4000)
    parser.add_argument("--max-sites", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        train(options)
    except UserError as error:
        print(f"train_sites_autoencoder: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
