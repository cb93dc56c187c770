"""Settings of VASP in a campaign file, and the level of theory that they ask for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from ccdcgan.dft.engines import dispersion
from ccdcgan.dft.engines.base import EngineSettings, LevelOfTheory
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.engines.vasp.command import check_command
from ccdcgan.dft.engines.vasp.makers import differing, generator_of, inputs_written
from ccdcgan.dft.engines.vasp.potcars import require_potcars
from ccdcgan.dft.engines.vasp.stages import (
    AnyStage,
    MakerInputs,
    MakerStage,
    OwnStage,
    Stage,
    upper,
)
from ccdcgan.dft.engines.vasp.tags import (
    DECISIVE,
    HARMLESS,
    INCAR,
    LADDER,
    MP_CUTOFF,
    R2SCAN_D3BJ,
    SPIN_ORBIT,
    TECHNICAL,
    check_incar,
    decisive,
    difference,
    is_noncollinear,
)
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.moments import Moment


class VaspEngine(EngineSettings):
    """VASP. The command and the POTCARs are the machine's: ATOMATE2_VASP_CMD, PMG_VASP_PSP_DIR."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"dispersion", "hubbard_u", "keep_waves", "ladder", "maker_inputs", "soc"}
    )
    technical: ClassVar[frozenset[str]] = frozenset(
        {"attempts", "walltime", "buffer", "frozen_after", "polling", "keep_waves", "ladder"}
        | {f"incar.{tag}" for tag in TECHNICAL}
    )

    name: Literal["vasp"] = "vasp"
    incar: dict[str, Any] = Field(
        default_factory=dict, description="INCAR tags beside or in place of the paper's."
    )
    kpoints_length: float = Field(
        40.0, gt=0, description="k-points along an axis times the axis's length, Å (paper: 40)."
    )
    functional: Literal["PBE", "PBE_52", "PBE_54", "PBE_64"] = Field(
        "PBE", description="Set of POTCARs, as pymatgen names it."
    )
    potcars: dict[str, str] = Field(
        default_factory=dict, description="POTCAR of an element, if not its plain one: {Bi: Bi_d}."
    )
    stages: tuple[AnyStage, ...] = Field(
        ("relax", "relax", "static"),
        min_length=1,
        description="Runs in a row, each with the k-points and the basis of the cell so far; the "
        "last one gives the energy. One with tags of its own: {kind: static, incar: {...}}; one by "
        "a maker of atomate2: {kind: static, maker: package.module:Class}.",
    )
    maker_inputs: dict[str, MakerInputs] = Field(
        {},
        description="What the makers among the stages write, by number of the stage; filled in "
        "where the campaign is run or submitted.",
    )
    max_stress: float = Field(
        5.0,
        gt=0,
        description="Largest stress of a relaxation, and of the static run after it, kbar.",
    )
    pre_relax: Annotated[SevenNetEngine | ChgnetEngine, Field(discriminator="name")] | None = Field(
        None, description="Potential that relaxes first, e.g. {name: sevennet}."
    )
    attempts: int = Field(8, ge=1, description="Most runs of one structure, all stages together.")
    walltime: float | None = Field(
        None, gt=0, description="Hours after which a run stops and goes on in another."
    )
    buffer: float = Field(
        300.0, ge=0, description="Seconds before its end at which a run is told to stop."
    )
    frozen_after: float = Field(
        6.0, gt=0, description="Hours without output after which VASP counts as hung."
    )
    polling: float = Field(3.0, gt=0, description="Seconds between custodian's looks at a run.")
    dispersion: Literal["d3bj"] | None = Field(
        None, description="Dispersion correction: d3bj (IVDW = 12), or null."
    )
    hubbard_u: Literal["mp2020"] | None = Field(
        None,
        description="mp2020: the Materials Project's U for its oxides and fluorides, its POTCARs "
        "and ENCUT, so that GGA and GGA+U meet on one hull by MP2020's corrections.",
    )
    soc: bool = Field(
        False,
        description="Spin-orbit coupling in the last stage, which is static and run by vasp_ncl.",
    )

    ladder: tuple[dict[str, Any], ...] = Field(
        LADDER,
        min_length=1,
        description="INCAR tags of a first run, and of those after each that failed.",
    )
    keep_waves: bool = Field(
        False, description="Whether WAVECAR and CHGCAR stay when all stages are done."
    )

    @field_validator("ladder")
    @classmethod
    def _harmless(cls, ladder: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        steps = tuple(upper(step) for step in ladder)
        for tag in sorted({tag for step in steps for tag in step} - HARMLESS):
            raise ValueError(
                f"{tag} would change the energy from one step to the next: only "
                f"{', '.join(sorted(HARMLESS))} belong there"
            )
        for step in steps:
            check_incar(step)
        return steps

    @field_validator("incar")
    @classmethod
    def _own_tags(cls, incar: dict[str, Any]) -> dict[str, Any]:
        incar = upper(incar)
        check_incar(incar)
        return incar

    def _check_scheme(self) -> None:
        if self.hubbard_u is None:
            return
        given = sorted(t for t in self.incar if t.startswith("LDAU"))
        if given:
            raise ValueError(f"engine.hubbard_u sets {given[0]}: leave one of the two out")
        if self.functional_name != "PBE" or self.functional != "PBE":
            raise ValueError(
                "hubbard_u: mp2020 was fitted to PBE with the PBE set of POTCARs: leave "
                "engine.hubbard_u out, or GGA, METAGGA and engine.functional"
            )
        cutoff = self.incar.get("ENCUT", MP_CUTOFF)
        if not isinstance(cutoff, (int, float)) or cutoff < MP_CUTOFF:
            raise ValueError(
                f"hubbard_u: mp2020 needs ENCUT of at least {MP_CUTOFF:g} eV: leave ENCUT out"
            )

    def _check_dispersion(self) -> None:
        if self.dispersion is not None:
            if "IVDW" in self.incar:
                raise ValueError("engine.dispersion sets IVDW: leave one of the two out")
            if self.functional_name is None:
                raise ValueError(
                    "dispersion d3bj has parameters for PBE, PBEsol and r2SCAN alone: leave "
                    "engine.dispersion out, or set IVDW and its parameters in engine.incar"
                )

    def _check_coupling(self) -> None:
        if not self.soc:
            return
        if self.kinds[-1] != "static" or isinstance(self.stages[-1], MakerStage):
            raise ValueError(
                "soc: true is for a static stage with tags of ours: end engine.stages with static"
            )
        given = set(self.incar).union(*(s.incar for s in self.stages if isinstance(s, OwnStage)))
        if tag := next(iter(sorted(given & {"LSORBIT", "LNONCOLLINEAR"})), None):
            raise ValueError(f"engine.soc sets {tag}: leave one of the two out")

    @model_validator(mode="after")
    def _can_run(self) -> VaspEngine:
        self._check_scheme()
        self._check_dispersion()
        self._check_coupling()
        for number, stage in enumerate(self.stages, 1):
            if isinstance(stage, MakerStage) and (self.dispersion or self.hubbard_u):
                raise ValueError(
                    f"stage {number}: engine.dispersion and engine.hubbard_u are not for the "
                    "inputs of a maker: leave them out, and set IVDW or U in the maker"
                )
            if isinstance(stage, OwnStage):
                engine = self.of_stage(number - 1)
                try:
                    check_incar(engine.incar)
                    engine._check_scheme()
                    engine._check_dispersion()
                except ValueError as error:
                    raise ValueError(f"stage {number}: {error}") from None
        return self

    @property
    def kinds(self) -> tuple[Stage, ...]:
        """What each stage does."""
        return tuple(s if isinstance(s, str) else s.kind for s in self.stages)

    @property
    def decisive_stages(self) -> list[Any]:
        """Stages without what leaves energies as they are."""
        stages: list[Any] = list(self.kinds)
        for number, stage in enumerate(self.stages):
            if isinstance(stage, OwnStage) and not TECHNICAL.issuperset(stage.incar):
                own = {t: v for t, v in stage.incar.items() if t not in TECHNICAL}
                stages[number] = [stage.kind, own]
            elif isinstance(stage, MakerStage):
                inputs = self.inputs_of_maker(number)
                stages[number] = [stage.kind, {"inputs": inputs and inputs.model_dump(mode="json")}]
        return stages

    def inputs_of_maker(self, index: int) -> MakerInputs | None:
        """What the maker of a stage writes; None where that is not known yet."""
        return self.maker_inputs.get(str(range(len(self.stages))[index] + 1))

    def completed(self, elements: Sequence[str]) -> VaspEngine:
        """See `EngineSettings.completed`: with what the makers among the stages write."""
        found: dict[str, MakerInputs] = {}
        for number, stage in enumerate(self.stages, 1):
            if isinstance(stage, MakerStage):
                found[str(number)] = written = inputs_written(stage, elements)
                begun = self.maker_inputs.get(str(number), written)
                if begun != written:
                    raise UserError(
                        f"maker {stage.maker} writes other inputs than when the campaign began: "
                        f"{differing(begun, written)}: begin another, or take the maker as it was"
                    )
        return self.model_copy(update={"maker_inputs": found}) if found else self

    def of_stage(self, index: int) -> VaspEngine:
        """The engine as one stage has it, with the tags of its own.

        Raises
        ------
        UserError
            It is a maker's, and what that writes is not known yet.
        """
        stage = self.stages[index]
        coupled = SPIN_ORBIT if self._is_coupled(index) else {}
        if isinstance(stage, OwnStage) or coupled:
            own = stage.incar if isinstance(stage, OwnStage) else {}
            return self.model_copy(update={"incar": {**coupled, **self.incar, **own}})
        if isinstance(stage, MakerStage):
            inputs = self.inputs_of_maker(index)
            if inputs is None:
                raise UserError(
                    f"what maker {stage.maker} writes is not known here: only ccdcgan run and "
                    "ccdcgan submit look at it"
                )
            incar = {**inputs.incar, "LDAU": bool(inputs.hubbard)}
            chosen = {"functional": inputs.functional, "potcars": inputs.potcars}
            return self.model_copy(update={"incar": incar, **chosen})
        return self

    def _is_coupled(self, index: int) -> bool:
        """Whether a stage is that with spin-orbit coupling."""
        return self.soc and range(len(self.stages))[index] == len(self.stages) - 1

    def is_on_its_own(self, index: int) -> bool:
        """Whether a stage has tags of its own that decide its energy."""
        stage = self.stages[index]
        if self._is_coupled(index):
            return True
        if isinstance(stage, MakerStage) and index:
            own, before = (self.of_stage(i) for i in (index, index - 1))
            return _basis(own, own.potcars) != _basis(before, own.potcars)
        return isinstance(stage, OwnStage) and not TECHNICAL.issuperset(stage.incar)

    def is_of_the_level(self, index: int) -> bool:
        """Whether a stage's energies are of the level of the last one's."""
        written = self.inputs_of_maker(index), self.inputs_of_maker(-1)
        if written != (None, None):
            return written[0] == written[1]
        own, last = ({**INCAR, **self.of_stage(i).tags} for i in (index, -1))
        tags = {*own, *last} - TECHNICAL
        return all(own.get(tag) == last.get(tag) for tag in tags)

    @property
    def functional_name(self) -> str | None:
        """PBE, PBEsol or r2SCAN; None for another functional."""
        tags = {**INCAR, **self.incar}
        if tags.get("LHFCALC"):
            return None
        if tags.get("METAGGA"):
            return "r2SCAN" if str(tags["METAGGA"]).upper() == "R2SCAN" else None
        return {"PE": "PBE", "PS": "PBEsol"}.get(str(tags["GGA"]).upper())

    @property
    def tags(self) -> dict[str, Any]:
        """INCAR tags that the campaign asks for beside or in place of `INCAR`."""
        tags: dict[str, Any] = {}
        if self.hubbard_u is not None:
            tags |= {"ENCUT": MP_CUTOFF, "LDAU": True, "LDAUTYPE": 2}
        if self.dispersion is not None:
            tags["IVDW"] = 12
            # VASP has parameters of its own for functionals of GGA, the same, and none for METAGGA.
            if self.functional_name == "r2SCAN":
                tags |= R2SCAN_D3BJ
        return {**tags, **self.incar}

    @property
    def mixes_scales(self) -> bool:
        """Whether oxides and fluorides of some metals have U, and all else none."""
        return self.hubbard_u is not None

    @property
    def is_magnetic(self) -> bool:
        # What a maker writes is not known in all places where this is asked.
        unknown = [isinstance(s, MakerStage) and not self.maker_inputs for s in self.stages]
        engines = (self.of_stage(i) for i, is_unknown in enumerate(unknown) if not is_unknown)
        each = [{**INCAR, **engine.incar} for engine in engines]
        return any(tags["ISPIN"] == 2 or is_noncollinear(tags) for tags in each)

    @property
    def may_be_magnetic(self) -> bool:
        unknown = any(isinstance(s, MakerStage) for s in self.stages) and not self.maker_inputs
        return unknown or self.is_magnetic

    @property
    def starting_moments(self) -> Mapping[str, float]:
        """Those of MAGMOM where it is given, else of any magnetic element."""
        given: Mapping[str, Moment] | None = self.incar.get("MAGMOM")
        if given is None:
            return super().starting_moments
        return {element: float(np.linalg.norm(moment)) for element, moment in given.items()}

    def potcar(self, element: str) -> str:
        """Name of an element's POTCAR."""
        if self.hubbard_u is None:
            return self.potcars.get(element, element)
        from pymatgen.io.vasp.sets import MPRelaxSet

        return str(MPRelaxSet.CONFIG["POTCAR"].get(element, element))

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        return self.level({}, {})

    def level(
        self, changed: Mapping[str, Sequence[Any]], pseudopotentials: Mapping[str, str]
    ) -> LevelOfTheory:
        """The level of runs that differ from what was asked by `changed` (see `Run`)."""
        # The last stage gives the energy; those before it decide at which geometry.
        *_, last = (self.of_stage(index) for index in range(len(self.stages)))
        asked = decisive({**INCAR, **last.tags})
        others = {t: v for t, v in last.tags.items() if t not in DECISIVE and t not in TECHNICAL}
        parts = [asked, self.kpoints_length, self.functional, self.potcars, self.decisive_stages]
        if others:
            parts.append(others)
        if changed:
            parts.append({tag: str(values) for tag, values in changed.items()})
        text = json.dumps(parts, sort_keys=True, default=str)
        functional = "PBE" if asked["GGA"] == "PE" else f"GGA={asked['GGA']}"
        if self.hubbard_u is not None:
            functional += " with the Materials Project's U"
        beyond = [t for t in ("METAGGA", "LDAU", "IVDW", "LHFCALC") if asked[t] != DECISIVE[t]]
        if self.hubbard_u is not None:
            beyond.remove("LDAU")
        if self.soc:
            beyond.append("SOC")
        note = "".join(f", {difference(t, v)}" for t, v in changed.items())
        return LevelOfTheory(
            engine="VASP",
            package="vasp",
            checkpoint=digest(text, 16),
            scale="+".join([functional, *beyond]) + ", uncorrected" + note,
            pseudopotentials=dict(pseudopotentials),
            dispersion=self.dispersion
            and dispersion.title(self.dispersion, last.functional_name or ""),
        )

    def route(self) -> dict[str, Any]:
        return self.model_dump(mode="json", include={"pre_relax", "max_stress"}, exclude_none=True)

    def check(self, elements: Sequence[str]) -> None:
        """Find VASP, its launcher and the POTCARs; see `EngineSettings.check`."""
        with_potcars: list[VaspEngine] = []
        for index, stage in enumerate(self.stages):
            engine = self.of_stage(index)
            check_command("ncl" if is_noncollinear(engine.incar) else "std")
            if isinstance(stage, MakerStage):
                generator_of(stage)
                with_potcars.append(engine)
            elif self not in with_potcars:
                with_potcars.append(self)
        if os.environ.get("ATOMATE2_VASP_GAMMA_CMD"):
            check_command("gam")
        for engine in with_potcars:
            engine.check_potcars(elements)
        if self.pre_relax is not None:
            self.pre_relax.check(elements)

    def check_potcars(self, elements: Sequence[str]) -> None:
        """Raise a `UserError` that says what to set, where a POTCAR is not found."""
        symbols = {element: self.potcar(element) for element in elements}
        for element, symbol in symbols.items():
            if self.potcars.get(element, symbol) != symbol:
                raise UserError(
                    f"hubbard_u: mp2020 belongs to the POTCAR {symbol} of {element}: take "
                    f"{element} out of engine.potcars"
                )
        require_potcars(symbols, self.functional)


def _basis(engine: VaspEngine, elements: Iterable[str]) -> tuple[Any, ...]:
    """What decides, beside the cell, in which basis and functional a stage computes."""
    potcars = [engine.potcar(element) for element in elements]
    return decisive({**INCAR, **engine.tags}), engine.functional, potcars
