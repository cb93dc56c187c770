"""VASP: settings, inputs by atomate2, one run under custodian, and what it really computed."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pymatgen.core import Element, Structure

from ccdcgan.dft.engines import dispersion
from ccdcgan.dft.engines.base import EngineSettings, LevelOfTheory
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.vasp_files import DECISIVE, decisive, difference, geometry

Stage = Literal["relax", "static"]

#: The paper's settings (Methods), and files that nobody needs left unwritten. What is not here is
#: atomate2's choice for relaxations, which shall not decide on an energy: U for oxides of some
#: metals but not for their end members.
INCAR: dict[str, Any] = {
    "GGA": "PE",
    "ENCUT": 500.0,
    "PREC": "Accurate",
    "ISPIN": 2,
    "LASPH": True,
    "LDAU": False,
    "LAECHG": False,
    "LVTOT": False,
    "LMIXTAU": None,
    # Where a run stops, the next one goes on from its density and wavefunctions.
    "LCHARG": True,
    "LWAVE": True,
}

#: Tags of the user's own that leave the energy of a converged run as it is.
TECHNICAL = {"ALGO", "AMIN", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "IBRION", "IMIX", "KPAR"}
TECHNICAL |= {"LAECHG", "LCHARG", "LELF", "LORBIT", "LPLANE", "LVTOT", "LWAVE", "MAXMIX", "NCORE"}
TECHNICAL |= {"NELM", "NELMDL", "NELMIN", "NPAR", "NSIM", "POTIM", "SYSTEM", "TIME"}

#: Those, and what only a run that failed is tried again with.
HARMLESS = TECHNICAL | {"ISYM", "SYMPREC"}

#: Programs after which a word of the command is no program of this machine.
CONTAINERS = {"apptainer", "bash", "docker", "env", "podman", "podman-hpc", "sh", "shifter"}
CONTAINERS |= {"singularity"}

#: What a run that failed, custodian's corrections and all, is tried again with: first as asked,
#: then slower and steadier. None of it changes the energy of a converged run.
LADDER: tuple[dict[str, Any], ...] = (
    {},
    {"ALGO": "Normal", "POTIM": 0.3, "NELM": 300},
    {"ALGO": "All", "POTIM": 0.1, "NELM": 300, "ISYM": 0, "NELMIN": 6, "AMIX": 0.1, "BMIX": 0.01},
    {"ALGO": "All", "NELM": 300, "ISYM": 0, "SYMPREC": 1e-8, "IBRION": 1, "POTIM": 0.3},
)


#: Tags that the settings of a campaign decide, and which.
FOLLOWS = {
    "EDIFFG": "relaxation.fmax",
    "NSW": "relaxation.max_steps",
    "KSPACING": "engine.kpoints_length",
    "KGAMMA": "engine.kpoints_length",
}

#: Tags of U by element.
HUBBARD = ("LDAUU", "LDAUJ", "LDAUL")

#: ENCUT of the Materials Project's relaxations, eV.
MP_CUTOFF = 520.0

#: Parameters of D3(BJ) for r2SCAN (Ehlert et al., J. Chem. Phys. 154, 061101 (2021)).
R2SCAN_D3BJ = {"VDW_S8": 0.78981345, "VDW_A1": 0.49484001, "VDW_A2": 5.73083694}


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
        ("relax",), min_length=1, description="Runs in a row, as in [relax, relax, static]."
    )
    max_stress: float = Field(
        5.0, gt=0, description="Largest stress of a converged relaxation, kbar."
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
        _known_tags(incar)
        for tag in HUBBARD:
            values = incar.get(tag)
            if values is not None and not (isinstance(values, dict) and _one_number_each(values)):
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
        _needs_atomate2()
        command = os.path.expandvars(vasp_command())
        try:
            words = shlex.split(command)
        except ValueError:
            raise UserError(f"ATOMATE2_VASP_CMD has an open quote: {command}") from None
        programs = words[:1]
        if not CONTAINERS.intersection(Path(w).name for w in words):
            programs += [w for w in words[1:] if "vasp" in Path(w).name][-1:]
        for program in programs:
            if shutil.which(program) is None:
                raise UserError(
                    f"{program!r} of the VASP command {command!r} is not found: set "
                    "ATOMATE2_VASP_CMD, for example to 'srun vasp_std', or load VASP's module"
                )
        noncollinear = self.incar.get("LSORBIT") or self.incar.get("LNONCOLLINEAR")
        if noncollinear and "ncl" not in command:
            raise UserError(
                f"LSORBIT and LNONCOLLINEAR need vasp_ncl, and the VASP command is {command!r}: "
                "set ATOMATE2_VASP_CMD"
            )
        self._potcars(elements)
        if self.pre_relax is not None:
            self.pre_relax.check(elements)

    def _potcars(self, elements: Sequence[str]) -> None:
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

    def write_inputs(
        self,
        structure: Structure,
        stage: Stage,
        tags: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """Write INCAR (the paper's with other `tags`), KPOINTS, POSCAR and POTCAR of one run."""
        from atomate2.vasp.sets.core import RelaxSetGenerator, StaticSetGenerator
        from pymatgen.io.vasp import Kpoints

        kind = RelaxSetGenerator if stage == "relax" else StaticSetGenerator
        grid = Kpoints.automatic_density_by_lengths(
            structure, [self.kpoints_length] * 3, force_gamma=True
        )
        generator = kind(
            user_incar_settings={**INCAR, **tags, **self._hubbard(tags, structure)},
            user_kpoints_settings=grid,
            user_potcar_functional=self.functional,
            user_potcar_settings={
                e: self.potcar(e) for e in structure.composition.get_el_amt_dict()
            },
            auto_ismear=False,
        )
        # Sorted: a POTCAR for each element, not for each change of element in the list of sites.
        generator.get_input_set(structure.get_sorted_structure()).write_input(folder)

    def _hubbard(self, tags: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Tags of U for one structure; LDAU alone would give all its elements VASP's own U."""
        if not tags.get("LDAU"):
            return {}
        if self.hubbard_u is None:
            given = {tag: tags[tag] for tag in HUBBARD if tags.get(tag)}
            values = given["LDAUU"]
        else:
            from pymatgen.io.vasp.sets import MPRelaxSet

            given = {tag: MPRelaxSet.CONFIG["INCAR"][tag] for tag in HUBBARD}
            anion = max(structure.composition.elements, key=lambda e: e.X).symbol
            values = given["LDAUU"].get(anion, {})
        if any(values.get(e.symbol) for e in structure.composition.elements):
            return given
        return {"LDAU": False, "LDAUTYPE": None, **dict.fromkeys(HUBBARD)}

    def run(self, folder: Path, seconds: float | None) -> None:
        """Run VASP under custodian in a folder with inputs.

        Parameters
        ----------
        folder
            Of this run alone.
        seconds
            Time until it must have stopped; None without a limit.
        """
        from atomate2.vasp.run import DEFAULT_HANDLERS, run_vasp
        from custodian.vasp.handlers import (
            FrozenJobErrorHandler,
            NonConvergingErrorHandler,
            UnconvergedErrorHandler,
            VaspErrorHandler,
            WalltimeHandler,
        )

        # Fresh ones: handlers count the errors of all runs of a process, and act by that.
        handlers: list[Any] = [
            type(h)() for h in DEFAULT_HANDLERS if not isinstance(h, FrozenJobErrorHandler)
        ]
        handlers.append(FrozenJobErrorHandler(timeout=self.frozen_after * 3600))
        eager: Any = (
            FrozenJobErrorHandler,
            NonConvergingErrorHandler,
            UnconvergedErrorHandler,
            VaspErrorHandler,
        )
        for handler in handlers:
            if isinstance(handler, eager):
                handler.correct = _going_on(handler.correct)
        if seconds is not None:
            # Custodian would count from the first run of this process.
            os.environ.pop("CUSTODIAN_WALLTIME_START", None)
            handlers.append(WalltimeHandler(wall_time=seconds, buffer_time=self.buffer))
        command = vasp_command()
        try:
            run_vasp(
                vasp_cmd=command,
                vasp_gamma_cmd=command,
                handlers=handlers,
                custodian_kwargs={
                    "directory": str(folder),
                    "polling_time_step": self.polling,
                    # Looks for the end at each polling, for errors every tenth time.
                    "monitor_freq": 10,
                },
            )
        finally:
            _end_processes(folder)


def _known_tags(incar: Mapping[str, Any]) -> None:
    """Refuse what is nearly a tag of VASP, which would ignore it."""
    if not incar:
        return
    from pymatgen.io.vasp.inputs import Incar

    # Those of machine-learnt force fields change from one version to the next.
    unknown = {tag for tag in incar if not tag.startswith("ML_")} - set(Incar.INCAR_PARAMS)
    for tag in sorted(unknown):
        close = difflib.get_close_matches(tag, Incar.INCAR_PARAMS, n=1, cutoff=0.75)
        if close:
            raise ValueError(f"{tag} is no tag of VASP; did you mean {close[0]}?")


def _one_number_each(values: dict[Any, Any]) -> bool:
    """Whether values are finite numbers by element."""
    return all(
        isinstance(v, (int, float)) and math.isfinite(v) and Element.is_valid_symbol(str(e))
        for e, v in values.items()
    )


def _going_on(correct: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A handler's correction that also goes on from the last geometry.

    After many errors of the electrons custodian begins the relaxation again from its first
    geometry. Where it suspects the geometry it changes POTIM or POSCAR itself: left as it is then.
    """

    def corrected(directory: str = "./") -> dict[str, Any]:
        done = correct(directory=directory)
        actions = done["actions"]
        if actions and "POSCAR" not in str(actions) and "POTIM" not in str(actions):
            contcar = Path(directory) / "CONTCAR"
            if geometry(contcar) is not None:
                shutil.copy(contcar, contcar.with_name("POSCAR"))
                actions.append({"file": "CONTCAR", "action": {"_file_copy": {"dest": "POSCAR"}}})
        return done

    return corrected


def _end_processes(folder: Path) -> None:
    """End what custodian has left running in a folder.

    VASP has a session of its own, where Ctrl-C does not reach it.
    """
    import psutil  # type: ignore[import-untyped]

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder.resolve()):
                process.kill()


def vasp_command() -> str:
    """The command that runs VASP: ATOMATE2_VASP_CMD, or the user's atomate2 settings."""
    from atomate2 import SETTINGS

    return os.environ.get("ATOMATE2_VASP_CMD") or str(SETTINGS.VASP_CMD)


def _needs_atomate2() -> None:
    try:
        import atomate2.vasp.run  # noqa: F401
    except ImportError:
        raise UserError("engine vasp needs: pip install 'ccdcgan[vasp]'") from None


def seconds_left(now: float | None = None) -> float | None:
    """Seconds until the queue ends this job; None where there is no end.

    CCDCGAN_END_TIME, which our queue scripts set, or Slurm's own SLURM_JOB_END_TIME (from 23.02).
    """
    for variable in ("CCDCGAN_END_TIME", "SLURM_JOB_END_TIME"):
        end = os.environ.get(variable, "")
        if end.isdigit():
            return float(end) - (time.time() if now is None else now)
    return None
