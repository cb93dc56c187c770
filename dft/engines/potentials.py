"""Universal interatomic potentials with their weights in a Python package."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from ase import Atoms
from ase.calculators.calculator import Calculator
from pydantic import Field, ValidationInfo, field_validator, model_validator

from ccdcgan.dft.engines import dispersion
from ccdcgan.dft.engines.base import CalculatorEngine, Dispersion, LevelOfTheory, Measured
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.settings import beside_the_file

#: Atomic numbers of the elements of MPtrj, from which SevenNet-0 and CHGNet have learnt: up to Pu
#: without Po to Ra (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)).
MPTRJ_ELEMENTS = frozenset(range(1, 95)) - frozenset(range(84, 89))


class PotentialEngine(CalculatorEngine):
    """A potential that runs in our own process, with or without a dispersion correction."""

    is_potential: ClassVar[bool] = True
    added: ClassVar[frozenset[str]] = frozenset({"dispersion"})

    dispersion: Dispersion | None = Field(
        default=None, description="Dispersion correction on top: d3bj, d4, or null."
    )

    @property
    @abstractmethod
    def functional(self) -> str | None:
        """Functional whose energies it gives, for the parameters of a dispersion correction."""

    @property
    @abstractmethod
    def learnt(self) -> frozenset[int]:
        """Atomic numbers that it knows."""

    @abstractmethod
    def bare_level(self) -> LevelOfTheory:
        """Its level of theory without a dispersion correction."""

    @abstractmethod
    def bare_calculator(self) -> Calculator:
        """The process's calculator, without a dispersion correction."""

    def calculator(self, structure: Any = None) -> Calculator:
        """The process's calculator on the CPU, or on the GPU where torch sees one."""
        return self.completed_by(self.bare_calculator())

    def completed_by(self, calculator: Calculator) -> Calculator:
        """A calculator without the dispersion correction, with it."""
        return dispersion.with_dispersion(calculator, self.dispersion, self.functional)

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        level = self.bare_level()
        if self.dispersion is None:
            return level
        title = dispersion.title(self.dispersion, self.functional or "")
        return level.model_copy(update={"dispersion": title})

    def check(self, elements: Sequence[str]) -> None:
        """See `EngineSettings.check`."""
        super().check(elements)
        dispersion.check(self.dispersion, self.functional, elements)


class SevenNetEngine(PotentialEngine):
    """SevenNet: 7net-0, 7net-l3i5 and 7net-mf-0 come with its package.

    Park et al., J. Chem. Theory Comput. 20, 4857 (2024); Kim et al., J. Am. Chem. Soc. 147, 1042
    (2025).
    """

    added: ClassVar[frozenset[str]] = frozenset(
        {"dispersion", "checkpoint", "modal", "checkpoint_functional"}
    )

    modules: ClassVar[tuple[str, ...]] = ("sevenn.calculator",)
    name: Literal["sevennet"] = "sevennet"
    checkpoint: str = Field(
        default="7net-0",
        min_length=1,
        description="7net-0, 7net-l3i5, 7net-mf-0 (with a modal), or any name or file that the "
        "package sevenn takes.",
    )
    modal: str | None = Field(
        default=None, description="Head of a checkpoint that has several: of 7net-mf-0 PBE, R2SCAN."
    )
    checkpoint_functional: Literal["PBE", "PBEsol", "r2SCAN"] | None = Field(
        default=None, description="What a checkpoint of your own has learnt; for its dispersion."
    )

    @field_validator("checkpoint")
    @classmethod
    def _beside_the_file(cls, value: str, info: ValidationInfo) -> str:
        """Names as the package writes them; a file of the user's is looked for beside the file."""
        if value.lower().replace("sevennet-", "7net-") in {*_CHECKPOINTS, "7net-0_22may2024"}:
            return value.lower().replace("sevennet-", "7net-")
        path = Path(value)
        if "/" in value or path.suffix in {".pth", ".pt"}:
            return str(beside_the_file(path, info))
        return value

    @model_validator(mode="after")
    def _has_a_head(self) -> SevenNetEngine:
        heads = _HEADS.get(self.checkpoint)
        if heads and (self.modal or "") not in heads:
            raise ValueError(f"{self.checkpoint} needs a modal: {' or '.join(heads)}")
        if not heads and self.checkpoint in _CHECKPOINTS and self.modal is not None:
            raise ValueError(f"{self.checkpoint} has one head: leave modal out")
        return self

    @property
    def optimizer(self) -> Literal["FIRE", "BFGS"]:
        """BFGS takes 14 steps where FIRE takes 36; 7net-0 alone keeps what it began with."""
        old = self.checkpoint == "7net-0" and self.dispersion is None
        return "FIRE" if old else "BFGS"

    @property
    def functional(self) -> str | None:
        if self.checkpoint in _CHECKPOINTS:
            return "r2SCAN" if self.modal == "R2SCAN" else "PBE"
        return self.checkpoint_functional

    @property
    def mixes_scales(self) -> bool:
        return self.checkpoint in _CHECKPOINTS and self.modal != "R2SCAN"

    @property
    def learnt(self) -> frozenset[int]:
        if self.checkpoint in _CHECKPOINTS:
            return MPTRJ_ELEMENTS
        return frozenset(_sevennet(self.checkpoint, self.modal).type_map)

    def second_opinion(self) -> CalculatorEngine | None:
        """7net-mf-0, or 7net-0 beside that one; none for energies of another scale than PBE's."""
        if not self.mixes_scales:
            return None
        if self.checkpoint == "7net-mf-0":
            return SevenNetEngine(dispersion=self.dispersion)
        return SevenNetEngine(checkpoint="7net-mf-0", modal="PBE", dispersion=self.dispersion)

    def bare_calculator(self) -> Calculator:
        return _sevennet(self.checkpoint, self.modal)

    def lacking_for_batches(self) -> str | None:
        if find_spec("torch_sim") is None:
            return "torch-sim is missing: pip install 'ccdcgan[batch]' with Python 3.12 or newer"
        return None

    def measured_together(self, crystals: Sequence[Atoms]) -> list[Measured]:
        from ccdcgan.dft.engines.torch_sim_models import measured

        return measured(_sevennet_of_torch_sim(self.checkpoint, self.modal), crystals)

    def bare_level(self) -> LevelOfTheory:
        path = _sevennet_file(self.checkpoint)
        own = path.name if path == Path(self.checkpoint) else self.checkpoint
        scale = "r2SCAN" if self.functional == "r2SCAN" else f"{self.functional}, uncorrected"
        return LevelOfTheory(
            engine=_CHECKPOINTS.get(self.checkpoint, f"SevenNet {own}"),
            package="sevenn",
            checkpoint=_sha256(path),
            scale=scale if self.functional else "as learnt",
            head=self.modal,
        )


#: Checkpoints in the package's wheel that have learnt from MPtrj.
_CHECKPOINTS = {
    "7net-0": "SevenNet-0",
    "7net-l3i5": "SevenNet-l3i5",
    "7net-mf-0": "SevenNet-MF-0",
}

#: Their files, below the folder of weights in the package.
_WEIGHTS = {
    "7net-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "7net-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
    "7net-mf-0": "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
}

_HEADS = {"7net-mf-0": ("PBE", "R2SCAN")}


class ChgnetEngine(PotentialEngine):
    """CHGNet. Deng et al., Nat. Mach. Intell. 5, 1031 (2023)."""

    added: ClassVar[frozenset[str]] = frozenset({"dispersion", "checkpoint"})

    modules: ClassVar[tuple[str, ...]] = ("chgnet.model.dynamics",)
    name: Literal["chgnet"] = "chgnet"
    checkpoint: Literal["0.3.0", "0.2.0", "r2scan"] = Field(
        default="0.3.0",
        description="0.3.0 and 0.2.0: scale of MP2020's corrections. r2scan: r²SCAN.",
    )

    @property
    def functional(self) -> str | None:
        return "r2SCAN" if self.checkpoint == "r2scan" else "PBE"

    @property
    def learnt(self) -> frozenset[int]:
        return MPTRJ_ELEMENTS

    def second_opinion(self) -> CalculatorEngine | None:
        """The other checkpoint of the corrected scale; none for r²SCAN."""
        if self.checkpoint == "r2scan":
            return None
        other: Literal["0.2.0", "0.3.0"] = "0.2.0" if self.checkpoint == "0.3.0" else "0.3.0"
        return self.model_copy(update={"checkpoint": other})

    def bare_calculator(self) -> Calculator:
        return _chgnet(self.checkpoint)

    def bare_level(self) -> LevelOfTheory:
        try:
            import chgnet
        except ImportError:
            raise UserError("engine chgnet needs the package: pip install chgnet") from None
        folder = Path(chgnet.__file__).parent / "pretrained" / self.checkpoint
        files = sorted(folder.glob("*.pth.tar"))
        if not files:
            raise UserError(
                f"the weights of CHGNet {self.checkpoint} are not in {folder}: reinstall chgnet"
            )
        return LevelOfTheory(
            engine=f"CHGNet {self.checkpoint}",
            package="chgnet",
            checkpoint=_sha256(files[0]),
            scale="r2SCAN" if self.checkpoint == "r2scan" else "PBE with MP2020 corrections",
        )


def device() -> str:
    """Where potentials compute: on the GPU where torch sees one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def _sevennet(checkpoint: str, modal: str | None) -> Calculator:
    _quiet()
    from sevenn.calculator import SevenNetCalculator

    path = _sevennet_file(checkpoint)
    try:
        return SevenNetCalculator(model=str(path), modal=modal, device=device())
    except Exception as error:  # noqa: BLE001  torch and sevenn, each with its own kind
        said = " ".join(str(error).split())[:200]
        raise UserError(f"sevenn cannot use the checkpoint {checkpoint}: {said}") from None


@functools.cache
def _sevennet_of_torch_sim(checkpoint: str, modal: str | None) -> Any:
    _quiet()
    from sevenn.torchsim import Float64Wrapper, SevenNetModel

    path = _sevennet_file(checkpoint)
    return Float64Wrapper(SevenNetModel(str(path), modal=modal, device=device()))


@functools.cache
def _sevennet_file(checkpoint: str) -> Path:
    """The weights of a checkpoint; those of the package's larger ones are downloaded once."""
    path = Path(checkpoint)
    if path.is_file():
        return path
    # The package takes seconds to import, with torch: most jobs need no more than the file's hash.
    package = find_spec("sevenn") if checkpoint in _WEIGHTS else None
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "pretrained_potentials" / _WEIGHTS[checkpoint]
        if path.is_file():
            return path
    from sevenn import util

    try:
        return Path(util.pretrained_name_to_path(checkpoint))
    except ValueError:
        known = ", ".join(util.get_available_pretrained_models())
        raise UserError(
            f"there is no checkpoint {checkpoint!r}: give a file, or one of {known}"
        ) from None
    except Exception as error:  # noqa: BLE001  a download fails in many ways
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the weights of {checkpoint} are not here and cannot be downloaded: {said}"
        ) from None


@functools.cache
def _chgnet(checkpoint: str) -> Calculator:
    _quiet()
    try:
        from chgnet.model.dynamics import CHGNetCalculator
        from chgnet.model.model import CHGNet
    except ImportError:
        raise UserError("engine chgnet needs the package: pip install chgnet") from None
    where = device()
    model = CHGNet.load(
        model_name=checkpoint, use_device=where, check_cuda_mem=False, verbose=False
    )
    return CHGNetCalculator(model, use_device=where)


@functools.cache
def _sha256(path: Path) -> str:
    return digest(path.read_bytes(), 16)


def _quiet() -> None:
    """Keep the potentials' start-up notices off the user's screen."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"(torch|e3nn|sevenn|chgnet|matgl)(\..*)?")
    for noisy in ("sevenn", "e3nn", "torch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
