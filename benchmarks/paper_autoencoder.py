"""Why the paper's autoencoders do not learn as described, and what makes them learn.

    python benchmarks/paper_autoencoder.py [--voxels sites] [--points 16]
        [--crystals 24] [--pictures 6400] [--seed 0]
        [--relaxations benchmarks/yield/relaxations.jsonl.gz] [--out FILE]

Trains the autoencoder of the sites voxels (Supplementary Table 1) or of the lattice voxels (2) of a
few relaxed Bi-Se crystals, with eq. (5)'s loss and the paper's Adam, once for each of `TRIALS`,
which differ in what the paper leaves open or in which paper and released code differ, until each
has seen as many pictures. Prints, and with --out writes as JSON: the loss (squared error of a
picture, mean over the pictures) beside that of an empty picture, the largest value that is
predicted, by how much the codes of different pictures differ (mean standard deviation of a number
of the code, each in (-1, 1)), the share of pictures that come back (all atoms within 0.5 Å; lengths
of a cell within 5%), and seconds. Held out are as many crystals again (``test_…``).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from ccdcgan.models.paper.graphs import (
    PaperCrystalGraphs,
    lattices_of,
    pictures_of,
    squared_error,
    start_at,
)
from ccdcgan.models.paper.networks import (
    AUTOENCODER,
    EPSILON,
    build_paper_lattice_autoencoder,
    build_paper_sites_autoencoder,
)
from ccdcgan.models.presets import PAPER_GRID
from ccdcgan.models.representation.default import anchored
from ccdcgan.models.representation.voxels import (
    FloatArray,
    LatticeGrid,
    SitesGrid,
    lattice_from_metric,
)
from ccdcgan.models.training import make_deterministic

ELEMENTS = ("Bi", "Se")

#: An atom has come back if one is so near, Å.
NEAR = 0.5


@dataclass(frozen=True)
class Trial:
    """One way to train.

    Attributes
    ----------
    learning_rate
        Of Adam; the paper's β₁ 0.9, β₂ 0.99.
    background
        Whether the last layer begins with the mean of the pictures in place of one half.
    epsilon
        Of Adam, times the mean squared norm of a picture; 0 for Keras's 1e-7.
    batch
        Pictures of a step.
    """

    learning_rate: float
    background: bool
    epsilon: float = 0.0
    batch: int = 1


TRIALS = {
    "as described": Trial(0.003, False),
    "background": Trial(0.003, True),
    "16 a step": Trial(0.003, False, batch=16),
    "background, 16 a step": Trial(0.003, True, batch=16),
    "background, rate of the code": Trial(0.0003, True),
    "background, 16 a step, rate of the code": Trial(0.0003, True, batch=16),
    "background, epsilon": Trial(0.003, True, EPSILON),
    "background, 16 a step, epsilon": Trial(0.003, True, EPSILON, 16),
}


def crystals(path: Path, count: int, seed: int) -> list[Structure]:
    """So many relaxed prototypes of both elements that fit into the cube, at random."""
    with gzip.open(path, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    finals = [
        r["final"] for r in rows if r["converged"] and set(r["final"]["species"]) == set(ELEMENTS)
    ]
    graphs = PaperCrystalGraphs(ELEMENTS, PAPER_GRID, None, None, LatticeGrid())
    found: list[Structure] = []
    for i in np.random.default_rng(seed).permutation(len(finals)):
        final = finals[i]
        cell = Structure(Lattice(final["lattice"]), final["species"], final["coords"])
        crystal = anchored(cell, 1)[0]
        if graphs.fits(crystal):
            found.append(crystal)
        if len(found) == count:
            break
    return found


@dataclass(frozen=True)
class Task:
    """Pictures of one kind, of crystals to learn and of others (``test_``), and their network."""

    pictures: dict[str, list[NDArray[np.float64]]]
    grid: SitesGrid | LatticeGrid

    @classmethod
    def of(cls, voxels: str, points: int, found: Sequence[Structure]) -> Task:
        """That of the sites or of the lattice voxels."""
        half = len(found) // 2
        parts = {"": found[:half], "test_": found[half:]}
        if voxels == "sites":
            grid = SitesGrid(points=points, sigma=PAPER_GRID.sigma, cube=PAPER_GRID.cube)
            return cls({k: pictures_of(v, ELEMENTS) for k, v in parts.items()}, grid)
        return cls({k: lattices_of(v) for k, v in parts.items()}, LatticeGrid(points))

    def voxels(self, kind: str) -> NDArray[np.float32]:
        """Pictures as the network sees them."""
        pictures: Any = self.pictures[kind]
        return self.grid.encode(pictures)[..., None]

    def network(self) -> keras.Model:
        """New weights."""
        sites = isinstance(self.grid, SitesGrid)
        build = build_paper_sites_autoencoder if sites else build_paper_lattice_autoencoder
        return build(self.grid.points)

    def back(self, kind: str, made: FloatArray) -> float:
        """Share of the pictures that are the same again."""
        if isinstance(self.grid, SitesGrid):
            pairs = zip(self.pictures[kind], self.grid.decode(made), strict=True)
            good = [_same_atoms(wanted, atoms) for wanted, atoms in pairs]
        else:
            lattices = lattice_from_metric(self.grid.decode(made))
            ratios = np.linalg.norm(lattices, axis=2) / np.linalg.norm(self.pictures[kind], axis=2)
            good = [bool((abs(r - 1.0) < 0.05).all()) for r in ratios]
        return sum(good) / len(good)


def _same_atoms(wanted: FloatArray, atoms: FloatArray) -> bool:
    if len(wanted) != len(atoms):
        return False
    apart = np.linalg.norm(wanted[:, None] - atoms[None], axis=-1)
    return bool(apart.min(0).max() < NEAR and apart.min(1).max() < NEAR)


def learn(trial: Trial, task: Task, seen: int, seed: int) -> dict[str, float]:
    """The figures of a training."""
    make_deterministic(seed)
    voxels = {kind: task.voxels(kind) for kind in task.pictures}
    training, model = voxels[""], task.network()
    if trial.background:
        start_at(model, float(training.mean()))
    epsilon = trial.epsilon * float(np.square(training).sum((1, 2, 3, 4)).mean())
    adam = replace(AUTOENCODER, learning_rate=trial.learning_rate).build(epsilon or 1e-7)
    model.compile(adam, squared_error, jit_compile=False)
    rng, start, order = np.random.default_rng(seed), monotonic(), np.zeros(0, int)
    for _ in range(seen // trial.batch):
        while len(order) < trial.batch:
            order = np.concatenate([order, rng.permutation(len(training))])
        chosen, order = order[: trial.batch], order[trial.batch :]
        model.train_on_batch(training[chosen], training[chosen])
    figures = {"seconds": round(monotonic() - start, 1)}
    for kind, pictures in voxels.items():
        made = np.asarray(model.predict(pictures, batch_size=16, verbose=0))
        codes = np.asarray(model.get_layer("encoder").predict(pictures, verbose=0))
        figures |= {
            f"{kind}loss": round(float(np.square(made - pictures).sum((1, 2, 3, 4)).mean()), 3),
            f"{kind}empty": round(float(np.square(pictures).sum((1, 2, 3, 4)).mean()), 3),
            f"{kind}largest": round(float(made.max()), 3),
            f"{kind}spread": round(float(codes.std(0).mean()), 3),
            f"{kind}back": round(task.back(kind, made[..., 0]), 3),
        }
    return figures


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parent / "yield" / "relaxations.jsonl.gz"
    parser.add_argument("--relaxations", type=Path, default=default)
    parser.add_argument("--voxels", choices=("sites", "lattice"), default="sites")
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--crystals", type=int, default=24)
    parser.add_argument("--pictures", type=int, default=6400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="NAME")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = crystals(arguments.relaxations, 2 * arguments.crystals, arguments.seed)
    task = Task.of(arguments.voxels, arguments.points, found)
    results = {}
    for name in arguments.trials:
        figures = learn(TRIALS[name], task, arguments.pictures, arguments.seed)
        results[name] = {**asdict(TRIALS[name]), **figures}
        print(name, json.dumps(figures), flush=True)
    if arguments.out:
        asked = ("voxels", "points", "crystals", "pictures", "seed")
        plain = {k: v for k, v in vars(arguments).items() if k in asked}
        arguments.out.write_text(json.dumps({**plain, "trials": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
