"""Settings of VASP in a campaign file, and the level of theory that they ask for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ccdcgan.dft.engines import dispersion
from ccdcgan.dft.engines.base import EngineSettings, LevelOfTheory
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.engines.vasp.command import check_command
from ccdcgan.dft.engines.vasp.tags import (
    DECISIVE,
    FOLLOWS,
    HARMLESS,
    HUBBARD,
    INCAR,
    LADDER,
    MP_CUTOFF,
    R2SCAN_D3BJ,
    TECHNICAL,
    check_tags,
    decisive,
    difference,
    one_number_each,
)
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest

Stage = Literal["relax", "static"]


class VaspEngine(EngineSettings):
    """VASP. The command and the POTCARs are the machine's: ATOMATE2_VASP_CMD, PMG_VASP_PSP_DIR."""

    added: ClassVar[frozenset[str]] = frozenset({"dispersion", "hubbard_u", "keep_waves", "ladder"})
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
    stages: tuple[Stage, ...] = Field(
        ("relax", "relax", "static"),
        min_length=1,
        description="Runs in a row, each with the k-points and the basis of the cell so far.",
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
        steps = tuple({tag.upper(): value for tag, value in step.items()} for step in ladder)
        for tag in sorted({tag for step in steps for tag in step} - HARMLESS):
            raise ValueError(
                f"{tag} would change the energy from one step to the next: only "
                f"{', '.join(sorted(HARMLESS))} belong there"
            )
        return steps

    @field_validator("incar")
    @classmethod
    def _own_tags(cls, incar: dict[str, Any]) -> dict[str, Any]:
        incar = {str(tag).upper(): value for tag, value in incar.items()}
        for tag, instead in FOLLOWS.items():
            if tag in incar:
                raise ValueError(f"{tag} follows from {instead}: set that instead")
        if incar.get("ISIF", 3) != 3:
            raise ValueError(
                "ISIF: a relaxation relaxes cell and positions, by ISIF = 3: leave it out"
            )
        if incar.get("IBRION", 2) not in (1, 2, 3):
            raise ValueError("IBRION: only 1, 2 and 3 relax a crystal")
        check_tags(incar)
        for tag in HUBBARD:
            values = incar.get(tag)
            if values is not None and not (isinstance(values, dict) and one_number_each(values)):
                raise ValueError(
                    f"{tag}: give one number for each element, as in {tag}: {{Fe: 4.0}}, which "
                    "holds in all structures; another for each anion would be two levels of theory"
                )
        if incar.get("LDAU") and not incar.get("LDAUU"):
            raise ValueError(
                "LDAU alone puts oxides with U and metals without on one hull: add LDAUU: {Fe: "
                "4.0}, for all structures, or set engine.hubbard_u: mp2020 in its place"
            )
        return incar

    @model_validator(mode="after")
    def _keeps_to_the_scheme(self) -> VaspEngine:
        if self.hubbard_u is None:
            return self
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
        return self

    @model_validator(mode="after")
    def _has_parameters(self) -> VaspEngine:
        if self.dispersion is not None:
            if "IVDW" in self.incar:
                raise ValueError("engine.dispersion sets IVDW: leave one of the two out")
            if self.functional_name is None:
                raise ValueError(
                    "dispersion d3bj has parameters for PBE, PBEsol and r2SCAN alone: leave "
                    "engine.dispersion out, or set IVDW and its parameters in engine.incar"
                )
        return self

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
        tags = {**INCAR, **self.incar}
        return tags["ISPIN"] == 2 or bool(tags.get("LSORBIT") or tags.get("LNONCOLLINEAR"))

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
        asked = decisive({**INCAR, **self.tags})
        others = {t: v for t, v in self.tags.items() if t not in DECISIVE and t not in TECHNICAL}
        parts = [asked, self.kpoints_length, self.functional, self.potcars, self.stages]
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
        note = "".join(f", {difference(t, v)}" for t, v in changed.items())
        return LevelOfTheory(
            engine="VASP",
            package="vasp",
            checkpoint=digest(text, 16),
            scale="+".join([functional, *beyond]) + ", uncorrected" + note,
            pseudopotentials=dict(pseudopotentials),
            dispersion=self.dispersion
            and dispersion.title(self.dispersion, self.functional_name or ""),
        )

    def route(self) -> dict[str, Any]:
        return self.model_dump(mode="json", include={"pre_relax", "max_stress"}, exclude_none=True)

    def check(self, elements: Sequence[str]) -> None:
        """Find VASP, its launcher and the POTCARs; see `EngineSettings.check`."""
        command = check_command()
        noncollinear = self.incar.get("LSORBIT") or self.incar.get("LNONCOLLINEAR")
        if noncollinear and "ncl" not in command:
            raise UserError(
                f"LSORBIT and LNONCOLLINEAR need vasp_ncl, and the VASP command is {command!r}: "
                "set ATOMATE2_VASP_CMD"
            )
        self.check_potcars(elements)
        if self.pre_relax is not None:
            self.pre_relax.check(elements)

    def check_potcars(self, elements: Sequence[str]) -> None:
        """Raise a `UserError` that says what to set, where a POTCAR is not found."""
        from pymatgen.io.vasp import PotcarSingle

        folder = os.environ.get("PMG_VASP_PSP_DIR")
        if not folder:
            from pymatgen.core import SETTINGS

            folder = SETTINGS.get("PMG_VASP_PSP_DIR")
        if not folder:
            raise UserError(
                "no POTCARs: set PMG_VASP_PSP_DIR to the folder that 'pmg config -p' has made"
            )
        if not Path(folder).is_dir():
            raise UserError(f"PMG_VASP_PSP_DIR is {folder}, which is no folder")
        for element in elements:
            symbol = self.potcar(element)
            if self.potcars.get(element, symbol) != symbol:
                raise UserError(
                    f"hubbard_u: mp2020 belongs to the POTCAR {symbol} of {element}: take "
                    f"{element} out of engine.potcars"
                )
            try:
                PotcarSingle.from_symbol_and_functional(symbol, self.functional)
            except Exception:  # noqa: BLE001  pymatgen raises several kinds
                raise UserError(
                    f"no {self.functional} POTCAR {symbol!r} for {element} in {folder}: add it, or "
                    f"name another with engine.potcars: {{{element}: ...}}"
                ) from None
