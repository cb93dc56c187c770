"""An engine that kills its process, in a module of its own: each process imports it anew."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from crystals import ROCKSALT
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory
from ccdcgan.dft.relaxation.relaxer import Relaxer

LEVEL = LevelOfTheory(engine="E", package="p", checkpoint="0" * 16, scale="PBE")

#: Seconds that none of the tests waits for.
ENDLESS = 600

#: Structures by what becomes of their process.
FATES = {
    "passes": ROCKSALT,
    "segfault": ROCKSALT * (2, 1, 1),
    "endless": ROCKSALT * (3, 1, 1),
    "memory": ROCKSALT * (2, 2, 1),
    "cuda": ROCKSALT * (5, 1, 1),
    "killed": ROCKSALT * (3, 2, 1),
    "exit": ROCKSALT * (7, 1, 1),
    "term": ROCKSALT * (2, 2, 2),
}


class Deadly(Calculator):  # type: ignore[misc]
    """Kills its process for crystals of some numbers of atoms; no forces in all others."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, log: str, always: str | None) -> None:
        super().__init__()
        self.log, self.always = log, always

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        n = len(self.atoms)
        fate = self.always or next(name for name, s in FATES.items() if len(s) == n)
        with Path(self.log).open("a") as log:
            log.write(f"{fate} {os.getpid()}\n")
        if fate == "segfault":
            ctypes.string_at(0)
        if fate == "endless":
            time.sleep(ENDLESS)
        if fate == "memory":
            raise MemoryError
        if fate == "cuda":
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if fate in ("killed", "term"):
            os.kill(os.getpid(), signal.SIGKILL if fate == "killed" else signal.SIGTERM)
            time.sleep(ENDLESS)
        if fate == "exit":
            raise SystemExit(3)
        self.results = {"energy": -3.0 * n, "forces": np.zeros((n, 3)), "stress": np.zeros(6)}


class DeadlyEngine(CalculatorEngine):
    """An engine that not every structure's process survives."""

    name: str = "deadly"
    log: str
    always: str | None = None

    def calculator(self, structure: Structure) -> Calculator:
        return Deadly(self.log, self.always)

    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LEVEL


class ForkedEngine(DeadlyEngine):
    """The same, with something to import that its processes share."""

    modules: ClassVar[tuple[str, ...]] = ("ase.io",)


class BrokenEngine(DeadlyEngine):
    """The same, with something to import that cannot be, in a file of the test."""

    modules: ClassVar[tuple[str, ...]] = ("broken_module",)


def variable(relaxer: Relaxer, structure: Structure) -> str | None:
    """A task: what the process has in a variable of its environment."""
    return os.environ.get("A_VARIABLE")
