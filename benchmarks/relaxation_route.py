"""Which optimizer finds the same minimum cheapest: prints one JSON line for each route.

Usage: python benchmarks/relaxation_route.py STRUCTURES [--limit N]

Every structure of the file or folder is relaxed as it stands (give unrelaxed ones). The first
route, FIRE, is the reference that the others are compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import OptimizerName, RelaxationSettings
from ccdcgan.dft.structures.sources import Prototype, read_structures


def main() -> int:
    """Relax the structures by every route and print time, steps and agreement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", type=Path)
    parser.add_argument("--limit", type=int, default=20)
    arguments = parser.parse_args()
    try:
        found = [p for p in read_structures(arguments.structures) if isinstance(p, Prototype)]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    structures = [p.structure for p in found[: arguments.limit]]
    reference: list[float | None] = []
    for optimizer in sorted(get_args(OptimizerName), key=lambda name: name != "FIRE"):
        relaxer = Relaxer(RelaxationSettings.model_validate({"optimizer": optimizer}))
        relaxer(structures[0])  # the first call compiles
        results = [relaxer(s) for s in structures]
        energies = [r.energy_per_atom if r.converged else None for r in results]
        reference = reference or energies
        same = [
            abs(e - f) < 0.005
            for e, f in zip(energies, reference, strict=True)
            if e is not None and f is not None
        ]
        line = {
            "route": optimizer,
            "structures": len(results),
            "converged": sum(r.converged for r in results),
            "cpu_seconds": round(sum(r.seconds for r in results), 1),
            "steps": sum(r.steps for r in results),
            "same_minimum_as_FIRE": sum(same),
        }
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
