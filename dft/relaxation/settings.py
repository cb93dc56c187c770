"""How structures are relaxed, and the gates that they pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from pydantic import Field, ValidationInfo, field_validator
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory
from ccdcgan.dft.engines.potentials import SevenNetEngine, device
from ccdcgan.dft.engines.registry import Engine
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.settings import EnergyRange, Settings, VolumeRange
from ccdcgan.dft.structures.validity import expanded, fault, overlap

#: Optimizers of ASE, by their names there.
OptimizerName = Literal["FIRE", "BFGS", "LBFGS"]

#: What relaxes where a campaign names no engine; docs/engines.md says why.
DEFAULT_ENGINE = SevenNetEngine(checkpoint="7net-l3i5", dispersion="d3bj")

#: Hours that a potential has for one structure, unless the campaign says otherwise.
POTENTIAL_HOURS = 3.0

#: Structures at a time on a GPU, each with a step of some milliseconds on its process's core: a
#: job of 500 has four processes to share a GPU.
AUTO_BATCH = 128

#: The last of the elements whose atoms or ions are small.
NEON = 10

#: Gadolinium and the actinides: elements at -14 eV/atom and below, before dispersion.
DEEP = (64, *range(89, 104))


class RelaxationSettings(Settings):
    """How a structure is relaxed.

    The gates reject what no crystal can be: potentials extrapolate without limit, and a wild
    start can fall to -1000 eV/atom.
    """

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "second_opinion",
            "corrections",
            "magnetic_orders",
            "max_hours",
            "pressure",
            "refine",
            "batch",
        }
    )

    engine: Engine = DEFAULT_ENGINE
    optimizer: OptimizerName = Field(
        default_factory=lambda given: given["engine"].optimizer,
        description="By default BFGS for potentials; FIRE for DFT, and for 7net-0 alone.",
    )
    fmax: float = Field(
        default=0.03, gt=0, le=10, description="Largest force (and stress times volume), eV/Å."
    )
    refine: float | None = Field(
        default=None,
        gt=0,
        description="Largest force, eV/Å, to which versions of higher symmetry of a relaxed "
        "compound are relaxed, the most symmetric first: the first that is not higher by 1 "
        "meV/atom takes its place. null for none, as always with DFT, whose relaxations are dear.",
    )
    max_steps: int = Field(
        default=200,
        ge=1,
        description="Ionic steps before giving up; five times as many for a pure element, whose "
        "lowest structure all formation energies count from.",
    )
    max_hours: float | None = Field(
        default=None,
        gt=0,
        description="Hours that one structure may take before its process is ended; null: three of "
        "a potential, no limit of a DFT code. VASP has walltime instead.",
    )
    batch: Literal["auto", "none"] | Annotated[int, Field(ge=1, strict=True)] = Field(
        default="auto",
        description="Structures that a process relaxes at a time, their energies computed together "
        "by torch-sim. auto: 128 on a GPU where torch-sim and a model of the engine are, else "
        "none, which is one after the other. No result depends on it.",
    )
    min_distance: float = Field(
        default=1.5,
        gt=0,
        le=4,
        description="Shortest distance between atoms on the way, Å; between small atoms, and for "
        "all at the end, 0.625 of the sum of their covalent radii.",
    )
    volume_range: VolumeRange = Field(
        default=(8.0, 120.0),
        description="Å³ per atom; with elements up to neon down to 0.6 of the lower, of small "
        "atoms down to twice the spheres of their covalent radii, of large ones up to eight times. "
        "Of a pure element a potential is believed up to 2.2 times the volume of its solid.",
    )
    energy_range: EnergyRange = Field(
        default=(-15.0, 10.0),
        description="eV per atom; down to 5 less with gadolinium or actinides, whose atoms alone "
        "lie as low.",
    )
    second_opinion: bool = Field(
        default=True,
        description="Ask another checkpoint, where there is one on the same energy scale, for the "
        "energy of each relaxed crystal: where the two disagree wildly, it is set aside.",
    )
    corrections: Literal["auto", "mp2020", "none"] = Field(
        default="auto",
        description="Corrections of the energies that make the hull. auto: MP2020's where the "
        "engine's energies are GGA+U for some of the system's compounds and GGA for others.",
    )

    pressure: float = Field(
        default=0.0,
        ge=0,
        le=500,
        description="Hydrostatic pressure, GPa; energies are enthalpies E + pV then.",
    )
    magnetic_orders: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Most orders of magnetic moments of a crystal with a magnetic element, each a "
        "relaxation of its own: the ferromagnetic one, then antiferromagnets and ferrimagnets in "
        "cells of up to twice its size, the most symmetric first. What comes with moments has its "
        "own order alone.",
    )

    @field_validator("magnetic_orders")
    @classmethod
    def _with_spin(cls, orders: int, info: ValidationInfo) -> int:
        engine = info.data.get("engine")
        if orders == 1 or engine is None or engine.may_be_magnetic:
            return orders
        if engine.is_potential:
            raise ValueError(
                f"engine {engine.name} knows no magnetic moments: leave magnetic_orders out, "
                "or relax by vasp"
            )
        way = "leave out ISPIN: 1" if isinstance(engine, VaspEngine) else "set engine.spin: true"
        raise ValueError(f"engine {engine.name} is without spin here: {way}, or magnetic_orders")

    @field_validator("refine")
    @classmethod
    def _by_potentials(cls, refine: float | None, info: ValidationInfo) -> float | None:
        """A file may have it from a preset, and another engine than that."""
        engine = info.data.get("engine")
        return refine if engine is None or engine.is_potential else None

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        """The level of theory of these elements, or of all, with the pressure."""
        return self.under_pressure(self.engine.level_of_theory(elements))

    def under_pressure(self, level: LevelOfTheory) -> LevelOfTheory:
        """A level of theory with the pressure."""
        return level.model_copy(update={"pressure": self.pressure or None})

    def check(self, elements: Sequence[str]) -> None:
        """See `EngineSettings.check`; what the engine must have for pressure and batches, too."""
        self.engine.check(elements)
        if self.batch not in ("auto", "none") and (lacking := self.engine.lacking_for_batches()):
            raise UserError(f"relaxation.batch is {self.batch}: {lacking}, or leave batch out")
        if not (self.pressure and isinstance(self.engine, CalculatorEngine)):
            return
        crystal = Structure(Lattice.cubic(4.0), [elements[0]], [[0, 0, 0]])
        if "stress" not in self.engine.calculator(crystal).implemented_properties:
            raise UserError(
                f"engine {self.engine.name} computes no stress, which relaxation.pressure needs: "
                "choose another engine, or leave pressure out"
            )

    @property
    def _compressed(self) -> float:
        """Volume under the pressure, relative to that without, of a soft crystal.

        F. D. Murnaghan, Proc. Natl. Acad. Sci. 30, 244 (1944), with a bulk modulus of 50 GPa and a
        derivative of 4: it lowers the gates.
        """
        return float((1.0 + 4.0 * self.pressure / 50.0) ** -0.25)

    def completed(self, elements: Sequence[str]) -> RelaxationSettings:
        """With all that decides their level of theory; see `EngineSettings.completed`."""
        engine = self.engine.completed(elements)
        return self if engine is self.engine else self.model_copy(update={"engine": engine})

    @property
    def at_a_time(self) -> int | None:
        """Structures that a process relaxes at a time here; None for one after the other."""
        if self.batch == "none" or self.engine.lacking_for_batches():
            return None
        if self.batch == "auto":
            return AUTO_BATCH if device() == "cuda" else None
        return self.batch

    @property
    def timeout(self) -> float | None:
        """Seconds that one structure may take; None without a limit."""
        hours = POTENTIAL_HOURS if self.engine.is_potential else None
        hours = hours if self.max_hours is None else self.max_hours
        return None if hours is None else 3600 * hours

    def steps_of(self, structure: Structure) -> int:
        """Most ionic steps of a structure."""
        return self.max_steps * (5 if structure.composition.is_element else 1)

    def gate(
        self, structure: Structure | Atoms, energy_per_atom: float | None = None
    ) -> str | None:
        """Why a geometry or its energy cannot be trusted, or None."""
        atoms = structure if isinstance(structure, Atoms) else structure.to_ase_atoms()
        cell = np.asarray(atoms.cell)
        if not (np.isfinite(cell).all() and np.isfinite(atoms.positions).all()):
            return "geometry is not finite"
        volume = abs(np.linalg.det(cell)) / len(atoms)
        radii = covalent_radii[atoms.numbers]
        spheres = 4 / 3 * np.pi * (radii**3).mean()
        low, high = self.volume_range
        low *= self._compressed
        # They take little room between others: Li2O has 7.6 Å³ with dispersion, NiH 6.5, CrH2 5.7.
        if (atoms.numbers <= NEON).any():
            low *= 0.6
        if not min(low, 2 * spheres * self._compressed) <= volume <= max(high, 8 * spheres):
            return "volume per atom out of range"
        if reason := fault(atoms):
            return reason
        if overlap(atoms, self.min_distance * self._compressed ** (1 / 3)):
            return "atoms too close"
        if energy_per_atom is None:
            return None
        low, high = (-np.inf, np.inf) if self.engine.absolute else self.energy_range
        if (np.isin(atoms.numbers, DEEP)).any():
            low -= 5.0
        if not (np.isfinite(energy_per_atom) and low <= energy_per_atom <= high):
            return "energy out of range"
        return None

    def final_gate(self, structure: Structure | Atoms, energy_per_atom: float) -> str | None:
        """Why a relaxed geometry cannot be trusted, or None.

        On the way atoms may come nearer to each other than in any crystal; in the end they do so in
        false minima only.
        """
        atoms = structure if isinstance(structure, Atoms) else structure.to_ase_atoms()
        if reason := self.gate(atoms, energy_per_atom):
            return reason
        if overlap(atoms):
            return "atoms too close"
        if self.engine.is_potential and expanded(atoms):
            return "volume per atom out of range"
        return None
