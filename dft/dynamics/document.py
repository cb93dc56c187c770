"""What phonons and elastic constants tell of a crystal."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.finite import FiniteOrNone
from ccdcgan.dft.structures.decoding import StoredStructure

#: Whether a crystal is stable, in a word.
VERDICTS = {True: "yes", False: "no", None: "–"}


class StabilityFigures(BaseModel):
    """Stability of a crystal in numbers; null is what could not be computed."""

    lowest_frequency_thz: FiniteOrNone = Field(
        None, description="On a mesh of q-points; imaginary frequencies are negative."
    )
    dynamically_stable: bool | None = Field(
        None, description="Whether no frequency lies below -0.1 THz."
    )
    born_stable: bool | None = Field(None, description="Whether every strain costs energy.")
    bulk_modulus_gpa: FiniteOrNone = Field(
        None, description="Average of Voigt, Reuss and Hill; null where Born's criteria fail."
    )
    shear_modulus_gpa: FiniteOrNone = Field(None, description="Likewise.")
    problem: str | None = Field(None, description="Why something is missing.")


class Spectrum(BaseModel):
    """Phonons of a crystal: dispersion along the usual path, and density of states."""

    distances: list[float] = Field(description="Of the points along the path, 1/Å without 2π.")
    bands: list[list[float]] = Field(
        description="Frequencies of each band at the points, THz; imaginary ones are negative."
    )
    ticks: list[tuple[float, str]] = Field(description="Points of high symmetry, by distance.")
    frequencies: list[float] = Field(description="Of the density of states, THz.")
    density: list[float] = Field(description="States of the primitive cell per THz.")


class Stability(StabilityFigures):
    """Stability of a crystal, and how it was found."""

    level_of_theory: LevelOfTheory
    structure: StoredStructure = Field(description="As relaxed to the finer force.")
    energy_per_atom: FiniteOrNone = Field(None, description="eV/atom.")
    wave_vector: list[float] | None = Field(
        None, description="Of the lowest frequency, in fractions of the reciprocal vectors."
    )
    supercell: list[int] | None = Field(None, description="Multiples of the cell.")
    elastic_tensor_gpa: list[list[float]] | None = Field(
        None, description="In Voigt's notation and IEEE's axes."
    )
    spectrum: Spectrum | None = Field(None, description="Null of earlier versions.")
    followed: StoredStructure | None = Field(
        None, description="Displaced along the lowest mode, where that is imaginary."
    )

    @property
    def figures(self) -> StabilityFigures:
        """The numbers alone."""
        return StabilityFigures(**self.model_dump(include=set(StabilityFigures.model_fields)))
