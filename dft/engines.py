"""Engines: what gives energy, forces and stress, and the level of theory that they carry."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from ase.calculators.calculator import Calculator
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Element, Structure

from ccdcgan.dft.errors import UserError

#: Atomic numbers of the elements of MPtrj, from which both potentials have learnt: up to Pu without
#: Po to Ra (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)).
LEARNT = frozenset(range(1, 95)) - frozenset(range(84, 89))


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

    def __str__(self) -> str:
        return f"{self.engine} ({self.package}, {self.checkpoint}, {self.scale})"


class EngineSettings(BaseModel, ABC):
    """What computes energies, and everything about it that a campaign chooses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Whether energies count from zero at free electrons and nuclei: any number may be right.
    absolute: ClassVar[bool] = False

    @abstractmethod
    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        """The level of theory that these settings ask for, for these elements or for all."""

    def route(self) -> dict[str, Any]:
        """What else decides to which minimum a structure relaxes; part of the content key."""
        return {}

    def check(self, elements: Sequence[str]) -> None:
        """Raise a `UserError` that says what to set, if this machine or these elements lack it."""
        self.level_of_theory(elements)


class CalculatorEngine(EngineSettings):
    """An engine that ASE drives."""

    @abstractmethod
    def calculator(self, structure: Structure) -> Calculator:
        """A calculator for relaxing this structure."""


class PotentialEngine(CalculatorEngine):
    """A universal interatomic potential with its weights in a Python package."""

    name: Literal["sevennet", "chgnet"] = Field(
        default="sevennet",
        description="sevennet: SevenNet-0, raw PBE scale. chgnet: CHGNet, MP2020-corrected scale.",
    )

    def check(self, elements: Sequence[str]) -> None:
        super().check(elements)
        beyond = [e for e in elements if Element(e).Z not in LEARNT]
        if beyond:
            raise UserError(
                f"{self.name} has not learnt {' and '.join(beyond)}: choose another engine"
            )

    def calculator(self, structure: Structure | None = None) -> Calculator:
        """The process's calculator on the CPU, or on the GPU where torch sees one."""
        return _potential(self.name)

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        return _level_of_theory(self.name)


@functools.cache
def _potential(name: str) -> Calculator:
    _quiet()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "sevennet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator(model="7net-0", device=device)
    try:
        from chgnet.model.dynamics import CHGNetCalculator
    except ImportError:
        raise UserError("engine chgnet needs the package: pip install chgnet") from None
    return CHGNetCalculator(use_device=device)


@functools.cache
def _level_of_theory(name: str) -> LevelOfTheory:
    if name == "sevennet":
        from sevenn._const import SEVENNET_0_11Jul2024 as weights

        return LevelOfTheory(
            engine="SevenNet-0",
            package="sevenn",
            checkpoint=_sha256(Path(weights)),
            scale="PBE, uncorrected",
        )
    try:
        import chgnet
    except ImportError:
        raise UserError("engine chgnet needs the package: pip install chgnet") from None
    folder = Path(chgnet.__file__).parent / "pretrained" / "0.3.0"
    files = sorted(folder.glob("*.pth.tar"))
    if not files:
        raise UserError(f"the weights of CHGNet 0.3.0 are not in {folder}: reinstall chgnet")
    return LevelOfTheory(
        engine="CHGNet 0.3.0",
        package="chgnet",
        checkpoint=_sha256(files[0]),
        scale="PBE with MP2020 corrections",
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _quiet() -> None:
    """Keep the potentials' start-up notices off the user's screen."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"(torch|e3nn|sevenn|chgnet|matgl)(\..*)?")
    for noisy in ("sevenn", "e3nn", "torch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


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
