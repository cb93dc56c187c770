"""Engines: what gives energy, forces and stress, and the level of theory that they carry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.units import GPa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Element, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.settings import Settings
from ccdcgan.dft.structures.moments import STARTING_MOMENTS

#: Dispersion corrections by name: D3 with Becke-Johnson damping, two-body terms (Grimme et al., J.
#: Comput. Chem. 32, 1456 (2011)), and D4 (Caldeweyher et al., Phys. Chem. Chem. Phys. 22, 8499
#: (2020)).
Dispersion = Literal["d3bj", "d4"]


class LevelOfTheory(BaseModel):
    """What an energy was computed with. Energies of different levels never meet on one hull."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = Field(description="Name of the engine, e.g. SevenNet-0.")
    package: str = Field(description="Package that ran it.")
    checkpoint: str = Field(
        description="First 16 hex digits of the SHA-256 of a potential's weights, or of the "
        "settings of a DFT code that decide its energies."
    )
    scale: str = Field(description="Energy scale of the engine, e.g. PBE without corrections.")
    pseudopotentials: dict[str, str] = Field(
        default_factory=dict, description="Of a DFT code: title and hash for each element."
    )
    head: str | None = Field(default=None, description="Head of a checkpoint that has several.")
    dispersion: str | None = Field(
        default=None, description="Dispersion correction and the functional of its parameters."
    )
    corrections: str | None = Field(
        default=None, description="Scheme of corrections in the energies that make a hull."
    )
    pressure: float | None = Field(
        default=None, description="GPa; energies are enthalpies E + pV then. None for 0."
    )

    def __str__(self) -> str:
        parts = [self.package, self.checkpoint, self.head, self.scale, self.dispersion]
        parts += [self.corrections, self._enthalpy]
        return f"{self.engine} ({', '.join(p for p in parts if p)})"

    @property
    def name(self) -> str:
        """The engine and what stands beside it, for people."""
        extras = [self.head, self.dispersion, self.corrections]
        name = " + ".join([self.engine, *(e for e in extras if e)])
        return f"{name}, {self._enthalpy}" if self._enthalpy else name

    @property
    def _enthalpy(self) -> str | None:
        return f"enthalpy at {self.pressure:g} GPa" if self.pressure else None

    def pv(self, structure: Structure) -> float:
        """What an enthalpy of this level has beside the energy of a crystal, eV/atom."""
        return (self.pressure or 0.0) * GPa * structure.volume / len(structure)


class Measured(NamedTuple):
    """What an engine says of a crystal: eV, eV/Å and eV/Å³ (Voigt: xx, yy, zz, yz, xz, xy)."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


class EngineSettings(Settings, ABC):
    """What computes energies, and everything about it that a campaign chooses."""

    #: Whether energies count from zero at free electrons and nuclei: any number may be right.
    absolute: ClassVar[bool] = False

    #: Whether it runs in our own process, in milliseconds a call: hundreds of structures a job.
    is_potential: ClassVar[bool] = False

    #: Modules that its processes take seconds to import: they share them.
    modules: ClassVar[tuple[str, ...]] = ()

    #: Fields that leave every energy as it is: where things lie, how long a run may take.
    technical: ClassVar[frozenset[str]] = frozenset()

    #: By which name a campaign file asks for it.
    name: str

    @abstractmethod
    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        """The level of theory that these settings ask for, for these elements or for all."""

    def route(self) -> dict[str, Any]:
        """What else decides to which minimum a structure relaxes; part of the content key."""
        return {}

    def completed(self, elements: Sequence[str]) -> Self:
        """These settings with what has to be looked up before their level of theory is known.

        Where a campaign of these elements is run or submitted.
        """
        return self

    def check(self, elements: Sequence[str]) -> None:
        """Raise a `UserError` that says what to set, if this machine or these elements lack it."""
        self.level_of_theory(elements)

    def lacking_for_batches(self) -> str | None:
        """What to mend before it computes many crystals at once here; None if nothing."""
        return f"engine {self.name} computes one crystal at a time: choose another engine"

    @property
    def is_magnetic(self) -> bool:
        """Whether magnetic moments of a structure's sites are where its electrons start from."""
        return False

    @property
    def may_be_magnetic(self) -> bool:
        """Whether it is, as far as is known before it is `completed`."""
        return self.is_magnetic

    @property
    def starting_moments(self) -> Mapping[str, float]:
        """Moments, μB, that atoms of magnetic elements start with where a structure has none."""
        return STARTING_MOMENTS

    @property
    def optimizer(self) -> Literal["FIRE", "BFGS"]:
        """What relaxes structures unless the campaign names another."""
        return "FIRE"

    @property
    def mixes_scales(self) -> bool:
        """Whether energies are those of MPtrj: GGA+U for some oxides and fluorides, else GGA."""
        return False

    def second_opinion(self) -> CalculatorEngine | None:
        """Another engine on the same energy scale, for single points; None where there is none."""
        return None


class CalculatorEngine(EngineSettings):
    """An engine that ASE drives.

    One of another package is a subclass in its entry-point group ``ccdcgan.engines``; see
    `ccdcgan.dft.engines.registry`.
    """

    @property
    def learnt(self) -> frozenset[int] | None:
        """Atomic numbers that it knows; None where that is not limited."""
        return None

    @abstractmethod
    def calculator(self, structure: Structure) -> Calculator:
        """A calculator for relaxing this structure."""

    def measured_together(self, crystals: Sequence[Atoms]) -> list[Measured]:
        """What it says of many crystals at once, without what `completed_by` adds.

        Of an engine that lacks nothing for batches.
        """
        raise NotImplementedError(self.name)

    def completed_by(self, calculator: Calculator) -> Calculator:
        """A calculator of what `measured_together` gives, with what this engine has beside that."""
        return calculator

    def check(self, elements: Sequence[str]) -> None:
        """See `EngineSettings.check`."""
        super().check(elements)
        learnt = self.learnt
        beyond = [] if learnt is None else [e for e in elements if Element(e).Z not in learnt]
        if beyond:
            raise UserError(
                f"{self.name} has not learnt {' and '.join(beyond)}: choose another engine"
            )


def same_level(levels: Sequence[LevelOfTheory | dict[str, Any]]) -> LevelOfTheory:
    """The one level of theory of all entries, with the pseudopotentials of all their elements.

    Raises
    ------
    UserError
        There is more than one, or an element has two pseudopotentials; the message names both.
    """
    parsed = [LevelOfTheory.model_validate(level) for level in levels]
    kinds = {
        level.model_dump_json(exclude={"pseudopotentials"}): level for level in reversed(parsed)
    }
    if len(kinds) != 1:
        names = " and ".join(str(v) for v in list(kinds.values())[:2]) or "none"
        raise UserError(f"a hull is built from one level of theory only, here are: {names}")
    potentials: dict[str, str] = {}
    for level in parsed:
        for element, title in level.pseudopotentials.items():
            if potentials.setdefault(element, title) != title:
                raise UserError(
                    f"a hull is built from one pseudopotential of {element} only, here are: "
                    f"{potentials[element]} and {title}"
                )
    return next(iter(kinds.values())).model_copy(update={"pseudopotentials": potentials})


def wrong(given: Mapping[str, Any], count: int) -> str | None:
    """What is wrong with energy, forces or stress of so many atoms, or None."""
    expected: dict[str, tuple[int, ...]] = {"energy": (), "forces": (count, 3), "stress": (6,)}
    for name, shape in expected.items():
        if given.get(name) is None:
            continue
        try:
            value = np.asarray(given[name], float)
        except (TypeError, ValueError):
            return f"the engine gave {name} that {_be(name)} no number" + "s" * (name == "forces")
        if value.shape not in {shape, (3, 3) if name == "stress" else shape}:
            return f"the engine gave {name} of shape {value.shape} instead of {shape}"
        if not np.isfinite(value).all():
            return f"the engine gave {name} that {_be(name)} not finite"
    return None


def _be(name: str) -> str:
    return "are" if name == "forces" else "is"
