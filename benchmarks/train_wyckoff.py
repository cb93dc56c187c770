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
from pymatgen.core import Structure

from ccdcgan.dft.files import write_atomically
from ccdcgan.models.wyckoff.placement import Placement, placement_of
from ccdcgan.models.wyckoff.training import WEIGHTS, WyckoffModel, log_likelihood
from ccdcgan.workflows.wyckoff import EPOCHS, compounds, pretrained


def placements(structures: Sequence[Structure]) -> list[Placement]:
    """Of those that have one."""
    return [p for s in structures if (p := placement_of(s)) is not None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / "models" / "weights" / WEIGHTS
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args(arguments)
    split = Split.of(database(), 0)
    kept = compounds(split.families, split.formulas)
    left_out = [s for s in compounds() if s not in kept]
    model = pretrained(kept, 0)
    write_atomically(options.out, model.to_bytes())
    untrained = WyckoffModel.untrained(0)
    figures = {
        f"log_likelihood_{what}": round(log_likelihood(which, asked), 3)
        for what, which, asked in (
            ("untrained", untrained, placements(kept)),
            ("trained", model, placements(kept)),
            ("untrained_left_out", untrained, placements(left_out)),
            ("trained_left_out", model, placements(left_out)),
        )
    }
    print(json.dumps({"compounds": len(kept), "epochs": EPOCHS, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
