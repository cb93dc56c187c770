"""The constraint against baselines, on crystals that it never saw.

    python benchmarks/constraint.py STRUCTURES [--references Bi=-3.860,Se=-3.474] [--seeds 0 1 2]

STRUCTURES is what `ccdcgan train` takes: relaxed crystals with energies. Each crystal counts once
(StructureMatcher), so that none is both learnt from and tested on. For each seed a random 10%
is held out. Baselines: the median formation energy of the 15 training crystals of the nearest
composition; ridge regression with a Gaussian kernel on the averaged SOAP power spectrum
(Bartók et al., PRB 87, 184115 (2013), dscribe's defaults of width), hyperparameters by
cross-validation on the training crystals.

Prints one JSON line: for each model the mean over the seeds of ``mae`` (eV/atom) and ``r2`` on
all held-out crystals and ``mae_near_hull``, ``r2_near_hull`` on those within 0.3 eV/atom of the
hull, and the seconds of one training. Set OMP_NUM_THREADS to the cores that it may take.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from dscribe.descriptors import SOAP
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.networks.data import prepared
from ccdcgan.launchers.networks.energies import parse_references
from ccdcgan.models.energy.constraint import error_figures, train_constraint
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.pipeline import Crystals
from ccdcgan.models.presets import PRESETS, ConstraintSettings

FIGURES = ("mae", "r2", "mae_near_hull", "r2_near_hull")


def split(n: int, seed: int, settings: ConstraintSettings) -> np.ndarray:
    """The test crystals of `train_constraint` with this seed, as a mask."""
    held_out = np.random.default_rng(seed).permutation(n)
    return np.isin(np.arange(n), held_out[: max(2, round(settings.test_fraction * n))])


def figures(predicted: np.ndarray, truth: np.ndarray, near: np.ndarray) -> list[float]:
    """MAE and R², all crystals and near the hull."""
    return [*error_figures(predicted, truth), *error_figures(predicted[near], truth[near])]


def by_composition(crystals: Crystals, elements: Sequence[str], test: np.ndarray) -> np.ndarray:
    """Median of the 15 training crystals of the nearest composition."""
    fractions = np.array(
        [[s.composition.get_atomic_fraction(e) for e in elements] for s in crystals.structures]
    )
    energy = crystals.targets[:, 0]
    distance = np.abs(fractions[test][:, None] - fractions[~test][None]).sum(-1)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :15]
    return np.median(energy[~test][nearest], axis=1)


def by_averaged_soap(crystals: Crystals, elements: Sequence[str], test: np.ndarray) -> np.ndarray:
    """Kernel ridge regression on one averaged descriptor a crystal."""
    soap = SOAP(species=list(elements), periodic=True, r_cut=6.0, n_max=8, l_max=6, average="outer")
    rows = np.array([soap.create(s.to_ase_atoms()) for s in crystals.structures])
    search = GridSearchCV(
        make_pipeline(StandardScaler(), KernelRidge(kernel="rbf")),
        {
            "kernelridge__alpha": [1e-4, 1e-3, 1e-2],
            "kernelridge__gamma": [1e-5, 1e-4, 1e-3],
        },
        scoring="neg_mean_absolute_error",
        cv=5,
    )
    return search.fit(rows[~test], crystals.targets[~test, 0]).predict(rows[test])


def measure(crystals: Crystals, elements: Sequence[str], seeds: Sequence[int]) -> dict[str, object]:
    """Train and test all models with all seeds."""
    settings = PRESETS["default"].constraint
    found: dict[str, list[list[float]]] = {"constraint": [], "composition": [], "soap": []}
    seconds = []
    truth = crystals.targets[:, 0]
    near = crystals.e_above_hull <= settings.near_hull
    for seed in seeds:
        start = perf_counter()
        _, errors = train_constraint(
            crystals.structures,
            crystals.targets,
            crystals.names,
            crystals.e_above_hull,
            elements,
            settings,
            seed,
        )
        seconds.append(perf_counter() - start)
        own = errors[FORMATION_ENERGY].model_dump()
        found["constraint"].append([own[name] for name in FIGURES])
        test = split(len(truth), seed, settings)
        for name, baseline in (("composition", by_composition), ("soap", by_averaged_soap)):
            predicted = baseline(crystals, elements, test)
            found[name].append(figures(predicted, truth[test], near[test]))
    means = {
        name: dict(zip(FIGURES, np.mean(rows, axis=0).round(4).tolist(), strict=True))
        for name, rows in found.items()
    }
    spread = np.std(found["constraint"], axis=0).round(4).tolist()
    return {
        "crystals": len(truth),
        "near_hull": int(near.sum()),
        "held_out": int(test.sum()),
        "seeds": list(seeds),
        **means,
        "constraint_between_seeds": dict(zip(FIGURES, spread, strict=True)),
        "seconds": round(float(np.mean(seconds)), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 and one line on stderr."""
    parser = argparse.ArgumentParser(description="The constraint against baselines.")
    parser.add_argument("structures", type=Path, help="relaxed crystals with energies")
    parser.add_argument("--references", help="energies of the elements, such as Bi=-3.86,Se=-3.47")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    try:
        data = prepared(
            options.structures,
            None,
            PRESETS["default"],
            [FORMATION_ENERGY],
            parse_references(options.references),
            lambda line: print(line, file=sys.stderr),
        )
        assert data.crystals is not None
        result = measure(data.crystals, data.elements, options.seeds)
    except (UserError, OSError, ValueError) as error:
        print(f"constraint: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
