"""The drill's engine: effective-medium theory that takes milliseconds, and breaks when told to.

Environment
-----------
DRILL_LOG
    File that gets a line for each relaxation that begins: seconds since 1970, `fingerprint`.
DRILL_BROKEN
    JSON file, `{"fingerprint": …, "how": …}`: the structure that breaks, and how: `segfault`,
    `hang`, or `memory` for a MemoryError.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pymatgen.core import Structure

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "engine_package"))

from toy_emt import ToyEmtEngine

#: Seconds that a calculation which hangs does so.
HANGS = 600.0


def fingerprint(structure: Structure) -> str:
    """Name of a structure as it is proposed, whatever process or database it has gone through."""
    numbers = np.round([*structure.lattice.matrix.ravel(), *structure.frac_coords.ravel()], 5)
    text = f"{structure.formula} {(numbers + 0.0).tolist()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class DrillEngine(ToyEmtEngine):
    """Effective-medium theory of a few metals, as in the tests."""

    name: Literal["drill"] = "drill"

    def calculator(self, structure: Structure) -> Any:
        """A calculator for relaxing this structure, if that does not end or hold the process."""
        name = fingerprint(structure)
        if log := os.environ.get("DRILL_LOG"):
            with Path(log).open("a") as stream:
                stream.write(f"{time.time()} {name}\n")
        if told := os.environ.get("DRILL_BROKEN"):
            broken = json.loads(Path(told).read_text())
            if broken["fingerprint"] == name:
                _break(broken["how"])
        return super().calculator(structure)


def _break(how: str) -> None:
    if how == "memory":
        raise MemoryError
    if how == "hang":
        time.sleep(HANGS)
    os.kill(os.getpid(), signal.SIGSEGV)
