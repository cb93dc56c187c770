"""What is known of a relaxation when it has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, Field, model_validator
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.engines.frames import Frame
from ccdcgan.dft.relaxation.failure import FailureClass
from ccdcgan.dft.structures.decoding import StoredStructure


class SecondOpinion(BaseModel):
    """The energy of a relaxed crystal by another engine, at the geometry of the first."""

    level_of_theory: LevelOfTheory = Field(description="What the energy was computed with.")
    energy_per_atom: float = Field(
        description="eV/atom, on the energy scale of the first; an enthalpy where that is one."
    )


class Relaxation(BaseModel):
    """The result of one relaxation.

    A structure that was rejected or failed has its reason and no energy.
    """

    key: str = Field(description="Content key: input structure, level of theory and settings.")
    level_of_theory: LevelOfTheory = Field(description="What the energy was computed with.")
    structure: StoredStructure = Field(description="Relaxed pymatgen structure.")
    energy_per_atom: float | None = Field(
        default=None,
        description="eV/atom at the level of theory, E + pV where that has a pressure.",
    )
    max_force: float | None = Field(default=None, description="Largest force on an atom, eV/Å.")
    max_stress: float | None = Field(
        default=None,
        description="Largest component of the stress, beyond the pressure asked for, eV/Å³.",
    )
    steps: int = Field(default=0, description="Ionic steps.")
    converged: bool = False
    reason: str | None = Field(default=None, description="Why it did not converge.")
    failure: FailureClass | None = Field(
        default=None, description="Whose fault it was that there is no result; None with one."
    )
    said: str | None = Field(
        default=None, description="What the code itself said last, of a relaxation that failed."
    )
    host: str | None = Field(default=None, description="Where its last run was.")
    folder: str | None = Field(default=None, description="Where its files lie, of a DFT code.")
    seconds: float = Field(
        default=0.0, description="Processor time; of a DFT code, time on the clock."
    )
    attempts: int = Field(default=1, description="Runs that it took.")
    corrections: list[str] = Field(
        default_factory=list, description="Errors that custodian corrected on the way."
    )
    frames: list[Frame] = Field(
        default_factory=list,
        description="Some geometries on the way, and the converged one, of the input structure.",
    )
    symmetrised: bool = Field(
        default=False,
        description="Whether the crystal is a version of higher symmetry of what the input "
        "structure relaxed to, relaxed once more.",
    )
    second_opinion: SecondOpinion | None = Field(
        default=None, description="What another checkpoint says of the relaxed crystal."
    )

    @property
    def internal_energy_per_atom(self) -> float | None:
        """The energy without pV, as frames have it, eV/atom."""
        if self.energy_per_atom is None:
            return None
        return self.energy_per_atom - self.level_of_theory.pv(self.structure)

    @model_validator(mode="after")
    def _no_nan(self) -> Self:
        # Engines, and versions before this one, have handed on what is no number.
        numbers = {
            "energy": self.energy_per_atom,
            "force": self.max_force,
            "stress": self.max_stress,
        }
        wrong = [name for name, n in numbers.items() if n is not None and not math.isfinite(n)]
        if not is_finite(self.structure):
            wrong.append("geometry")
        if wrong:
            self.energy_per_atom = self.max_force = self.max_stress = None
            self.converged, self.failure = False, "crystal"
            self.reason = self.reason or f"{wrong[0]} is not finite"
        if wrong or not (
            self.second_opinion and math.isfinite(self.second_opinion.energy_per_atom)
        ):
            self.second_opinion = None
        self.frames = [frame for frame in self.frames if frame.is_finite]
        return self


def is_finite(structure: Structure | Mapping[str, Any]) -> bool:
    """Whether lattice and coordinates of a structure, stored or not, are, as far as it has them."""
    if isinstance(structure, Structure):
        numbers = np.vstack([structure.lattice.matrix, structure.frac_coords])
        return bool(np.isfinite(numbers).all())
    try:
        rows = [*structure["lattice"]["matrix"], *(site["abc"] for site in structure["sites"])]
        return math.isfinite(sum(sum(row) for row in rows))
    except (KeyError, TypeError):
        # Whoever decodes it says what is wrong.
        return True
