"""An engine that computes many crystals at once, in a module of its own for other processes."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.mixing import LinearCombinationCalculator
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory, Measured


class BatchedEmt(CalculatorEngine):
    """Effective-medium theory, with what may go wrong in batches alone."""

    is_potential: ClassVar[bool] = True

    name: str = "batched"
    log: str
    scale: float = 1.0
    bears: int | None = None
    """Atoms at a time that the memory takes."""
    raises: str | None = None
    """Formula of a crystal that no batch goes well with."""
    kills: str | None = None
    """Formula of a crystal that kills the process of a batch."""
    not_finite: str | None = None
    """Formula of a crystal with forces that are no numbers, in batches or alone."""

    def second_opinion(self) -> CalculatorEngine | None:
        return self.model_copy(update={"scale": 1.01}) if self.scale == 1.0 else None

    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LevelOfTheory(engine="EMT", package="ase", checkpoint=f"{self.scale}", scale="EMT")

    def calculator(self, structure: Structure | None = None) -> Calculator:
        return _Scaled(self.scale, self.not_finite)

    def lacking_for_batches(self) -> str | None:
        return None

    def measured_together(self, crystals: Sequence[Atoms]) -> list[Measured]:
        names = [crystal.get_chemical_formula() for crystal in crystals]
        with Path(self.log).open("a") as log:
            log.write(f"{' '.join(names)}\n")
        if self.bears is not None and sum(map(len, crystals)) > self.bears:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if self.raises in names:
            raise ValueError("no neighbours")
        if self.kills in names:
            os.kill(os.getpid(), signal.SIGKILL)
        found = []
        for crystal in crystals:
            given = self.calculator()
            numbers = [given.get_property(n, crystal) for n in ("energy", "forces", "stress")]
            found.append(Measured(*numbers))
        return found


class _Scaled(LinearCombinationCalculator):
    def __init__(self, scale: float, not_finite: str | None) -> None:
        super().__init__([EMT()], [scale])
        self.not_finite = not_finite

    def calculate(self, atoms: Any, properties: Any, system_changes: Any) -> None:
        super().calculate(atoms, properties, system_changes)
        if atoms.get_chemical_formula() == self.not_finite and "forces" in self.results:
            self.results["forces"] = np.full((len(atoms), 3), np.nan)
