"""Effective-medium theory of ASE as an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import ClassVar, Literal

import ase
from ase.calculators.emt import EMT, parameters
from ase.calculators.mixing import LinearCombinationCalculator
from ase.data import atomic_numbers
from pydantic import Field

from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory


class ToyEmtEngine(CalculatorEngine):
    """EMT of a few metals. Jacobsen, Stoltze and Nørskov, Surf. Sci. 366, 394 (1996)."""

    is_potential: ClassVar[bool] = True

    name: Literal["toy-emt"] = "toy-emt"
    stiffness: float = Field(default=1.0, gt=0, description="What all energies are multiplied by.")

    @property
    def learnt(self) -> frozenset[int]:
        """Atomic numbers that it knows."""
        return frozenset(atomic_numbers[symbol] for symbol in parameters)

    def calculator(self, structure: object = None) -> LinearCombinationCalculator:
        """A calculator for relaxing this structure."""
        return LinearCombinationCalculator([EMT()], [self.stiffness])

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        """The level of theory that these settings ask for."""
        text = json.dumps([self.model_dump(mode="json"), ase.__version__])
        return LevelOfTheory(
            engine="EMT",
            package="ase",
            checkpoint=hashlib.sha256(text.encode()).hexdigest()[:16],
            scale="effective-medium theory",
        )
