"""The weights of the Wyckoff generator that come with the package, made again.

    OMP_NUM_THREADS=1 python benchmarks/train_wyckoff.py [--out FILE]

From the AFLOW prototypes that pymatgen ships (Mehl et al., Comput. Mater. Sci. 136, S1 (2017)),
each with its own elements: those of two to four elements and at most 24 atoms, but for the families
and formulas that seed 0 of `benchmarks/heldout_generation.py` holds out. A minute on one core.
Prints one JSON line: compounds, epochs, the loss a choice before and after, and on what was left
out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

from heldout_generation import Split, database

from ccdcgan.dft.files import write_atomically
from ccdcgan.models.wyckoff.training import WEIGHTS, Scorers, log_likelihood
from ccdcgan.workflows.wyckoff import EPOCHS, compounds, pretrained


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "models" / "weights" / WEIGHTS
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args(arguments)
    split = Split.of(database(), 0)
    kept = compounds(split.families, split.formulas)
    left_out = [p for p in compounds() if p not in kept]
    scorers = pretrained(kept, 0)
    write_atomically(options.out, scorers.to_bytes())
    untrained = Scorers.untrained(0)
    figures = {
        f"log_likelihood_{what}": round(log_likelihood(model, placements), 3)
        for what, model, placements in (
            ("untrained", untrained, kept),
            ("trained", scorers, kept),
            ("untrained_left_out", untrained, left_out),
            ("trained_left_out", scorers, left_out),
        )
    }
    print(json.dumps({"compounds": len(kept), "epochs": EPOCHS, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
