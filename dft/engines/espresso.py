"""Density-functional theory with Quantum ESPRESSO's pw.x, driven by ASE."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import spglib
from ase.calculators.calculator import Calculator
from ase.units import Ry
from numpy.typing import NDArray
from pydantic import Field
from pymatgen.core import Structure

from ccdcgan.dft.engines import dispersion
from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.settings import FilePath
from ccdcgan.dft.structures.moments import along_z

Namelist = Literal["control", "system", "electrons"]

# What decides energies; the other fields say where things lie on this machine. A field added later
# must not change the hash of older results.
DECISIVE = {
    "cutoff",
    "density_factor",
    "kpoints_length",
    "smearing",
    "width",
    "spin",
    "conv_thr",
    "extra",
    "dispersion",
}


#: How folders begin in which pw.x works.
SCRATCH = "ccdcgan-pwx-"

#: D3 with Becke-Johnson damping and two-body terms alone.
D3BJ = {"vdw_corr": "dft-d3", "dftd3_version": 4, "dftd3_threebody": False}


class EspressoEngine(CalculatorEngine):
    """PBE with pw.x of Quantum ESPRESSO, on pseudopotentials of the user's choice."""

    absolute: ClassVar[bool] = True
    added: ClassVar[frozenset[str]] = frozenset({"dispersion"})
    technical: ClassVar[frozenset[str]] = frozenset({"command", "pseudo_dir"})
    name: Literal["espresso"] = "espresso"
    command: str = Field(
        default="pw.x",
        min_length=1,
        description="How pw.x is started, e.g. mpirun -np 16 pw.x -nk 4.",
    )
    pseudo_dir: FilePath | None = Field(
        default=None,
        description="Folder of the pseudopotentials (UPF files); by default the environment "
        "variable ESPRESSO_PSEUDO.",
    )
    pseudopotentials: dict[str, str] = Field(
        default_factory=dict,
        description="File of an element, where its symbol alone does not tell: {Bi: Bi.upf}.",
    )
    cutoff: float = Field(default=500.0, gt=0, description="Plane-wave cutoff, eV.")
    density_factor: float = Field(
        default=4.0,
        ge=4.0,
        description="Cutoff of the charge density over that of the waves: 4 for norm-conserving "
        "pseudopotentials, 8 to 12 for ultrasoft ones and PAW.",
    )
    kpoints_length: float = Field(
        default=40.0, gt=0, description="k-points along an axis times the axis's length, Å."
    )
    smearing: Literal["gaussian", "methfessel-paxton", "marzari-vanderbilt", "fermi-dirac"] = (
        "gaussian"
    )
    width: float = Field(default=0.05, gt=0, description="Width of the smearing, eV.")
    spin: bool = Field(
        default=False,
        description="Spin-polarised, from the structure's moments, else a ferromagnetic start.",
    )
    conv_thr: float = Field(
        default=1e-8, gt=0, description="Self-consistency of the energy per cell, Ry."
    )
    extra: dict[Namelist, dict[str, Any]] = Field(
        default_factory=dict,
        description="More input of pw.x, or other values, by namelist: "
        "{electrons: {mixing_beta: 0.3}}.",
    )
    dispersion: Literal["d3bj"] | None = Field(
        default=None, description="Dispersion correction: d3bj, or null."
    )

    @property
    def is_magnetic(self) -> bool:
        return self.spin

    def calculator(self, structure: Structure) -> Calculator:
        """pw.x with the k-points of this structure, in a folder that goes with the calculator."""
        # ASE's calculator takes seconds to import, which settings need not wait for.
        from ccdcgan.dft.engines.pwx import PwxCalculator

        files = self._files({site.specie.symbol for site in structure})
        return PwxCalculator(
            self.command,
            self._folder(),
            orientation(structure),
            magnetization=self._magnetization(structure, files) if self.spin else None,
            pseudopotentials={element: path.name for element, path in files.items()},
            kpts=kpoints(structure, self.kpoints_length),
            input_data=self._input(),
        )

    @staticmethod
    def _magnetization(structure: Structure, files: Mapping[str, Path]) -> list[float]:
        """Moment that each site starts with, in pw.x's unit: a fraction of its valence."""
        moments = along_z(structure)
        if moments is None:
            return [0.2] * len(structure)
        valences = {element: read_valence(path) for element, path in files.items()}
        return [
            float(np.clip(m / valences[site.specie.symbol], -1.0, 1.0))
            for site, m in zip(structure, moments, strict=True)
        ]

    def _input(self) -> dict[str, dict[str, Any]]:
        given: dict[str, dict[str, Any]] = {
            "control": {
                "calculation": "scf",
                "tprnfor": True,
                "tstress": True,
                "outdir": "./",
                "disk_io": "none",
            },
            "system": {
                "ecutwfc": self.cutoff / Ry,
                "ecutrho": self.density_factor * self.cutoff / Ry,
                "occupations": "smearing",
                "smearing": self.smearing,
                "degauss": self.width / Ry,
                "nspin": 2 if self.spin else 1,
            },
            "electrons": {"conv_thr": self.conv_thr},
        }
        if self.dispersion is not None:
            given["system"] |= D3BJ
        for namelist, values in self.extra.items():
            given[namelist].update(values)
        return given

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        """The level of theory of these elements.

        By default it is that of all elements with one file in the folder or a file by name.
        """
        settings = self.model_dump(mode="json", include=DECISIVE)
        text = json.dumps({"functional": "PBE", **settings}, sort_keys=True)
        changes = [f"{key}={value}" for key, value in sorted(self.extra.get("system", {}).items())]
        return LevelOfTheory(
            engine="Quantum ESPRESSO",
            package="pw.x",
            checkpoint=digest(text, 16),
            scale=", ".join(["PBE", "uncorrected", *changes]),
            pseudopotentials={
                element: f"{path.name} {digest(path.read_bytes(), 8)}"
                for element, path in sorted(self._files(elements).items())
            },
            dispersion=self.dispersion and dispersion.title(self.dispersion, "PBE"),
        )

    def check(self, elements: Sequence[str]) -> None:
        """Raise a `UserError` for the first thing that pw.x would miss for these elements."""
        words = shlex.split(self.command)
        for word in [*words[:1], *(w for w in words[1:] if Path(w).name == "pw.x")]:
            if not shutil.which(word):
                raise UserError(
                    f"engine espresso: {word} is not found: install Quantum ESPRESSO (Debian: sudo "
                    "apt-get install quantum-espresso) or set command"
                )
        needed: dict[str, float] = {}
        for element, path in self._files(elements).items():
            functional, soft, cutoff = read_upf_header(path)
            if not is_pbe(functional):
                raise UserError(
                    f"the pseudopotential of {element}, {path}, is for {functional or 'an unknown'}"
                    " functional: choose one made with PBE"
                )
            if soft and self.density_factor < 8:
                raise UserError(
                    f"the pseudopotential of {element}, {path.name}, is ultrasoft or PAW: set "
                    "density_factor to 8 or more"
                )
            needed[element] = cutoff
        hardest = max(needed, key=lambda element: needed[element], default="")
        if hardest and needed[hardest] > self.cutoff:
            raise UserError(
                f"the pseudopotential of {hardest} asks for a cutoff of "
                f"{math.ceil(needed[hardest])} eV: set cutoff ({self.cutoff:g} eV now)"
            )

    def _folder(self) -> Path:
        folder = self.pseudo_dir or os.environ.get("ESPRESSO_PSEUDO")
        if not folder:
            raise UserError(
                "engine espresso: set pseudo_dir or ESPRESSO_PSEUDO to a folder of PBE "
                "pseudopotentials (python -m ccdcgan.dft.engines.gth_upf FOLDER writes one)"
            )
        path = Path(folder).expanduser().absolute()
        if not path.is_dir():
            raise UserError(
                f"engine espresso: the folder of pseudopotentials, {path}, is not there: set "
                "pseudo_dir or ESPRESSO_PSEUDO"
            )
        return path

    def _files(self, elements: Sequence[str] | set[str] | None) -> dict[str, Path]:
        """The pseudopotential of each element, of all that there are for None."""
        folder = self._folder()
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            # Bi.upf, Bi.pbe-dn-rrkjus_psl.1.0.0.UPF, bi_pbe_v1.uspp.F.UPF
            match = re.match(r"([a-z]{1,2})([._-].*)?\.upf$", path.name, re.IGNORECASE)
            if match:
                found.setdefault(match[1].capitalize(), []).append(path)
        for element, name in self.pseudopotentials.items():
            found[element] = [folder / name]
            if not (folder / name).is_file():
                raise UserError(
                    f"the pseudopotential of {element}, {folder / name}, is not there: correct "
                    "pseudopotentials"
                )
        if elements is None:
            elements = [element for element, paths in found.items() if len(paths) == 1]
        for element in elements:
            paths = found.get(element, [])
            if not paths:
                raise UserError(
                    f"no pseudopotential of {element} in {folder}: put one there "
                    f"({element}.….upf) or set pseudopotentials"
                )
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise UserError(
                    f"several pseudopotentials of {element} in {folder} ({names}): choose one in "
                    "pseudopotentials"
                )
        return {element: found[element][0] for element in elements}


def kpoints(structure: Structure, length: float) -> tuple[int, int, int]:
    """Divisions of the Γ-centred grid: the length in Å over that of each axis, rounded up."""
    a, b, c = (max(1, math.ceil(length / axis)) for axis in structure.lattice.abc)
    return a, b, c


def orientation(structure: Structure) -> NDArray[np.float64]:
    """Rotation into the axes in which pw.x looks for symmetry: c along z, a along x.

    In others it misses threefold axes and computes six times the k-points.
    """
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=1e-3)
    if dataset is None:
        return np.eye(3)
    # Of a slightly distorted cell the matrix is not quite orthogonal.
    u, _, v = np.linalg.svd(dataset.std_rotation_matrix)
    return np.asarray(u @ v)


def read_valence(path: Path) -> float:
    """Valence electrons of a UPF file."""
    text = path.read_text(errors="replace")[:100_000]
    found = re.search(r'z_valence\s*=\s*"\s*([\d.eEdD+-]+)', text) or re.search(
        r"([\d.eEdD+-]+)\s+Z valence", text
    )
    if found is None:
        raise UserError(f"{path} does not tell its valence electrons")
    return float(re.sub("[dD]", "e", found[1]))


def read_upf_header(path: Path) -> tuple[str, bool, float]:
    """Functional, whether ultrasoft or PAW, and the cutoff in eV that it asks for (0: unsaid)."""
    text = path.read_text(errors="replace")
    functional = re.search(r'functional\s*=\s*"([^"]*)"', text) or re.search(
        r"^(.*)Exchange-Correlation functional", text, re.MULTILINE
    )
    soft = re.search(r'pseudo_type\s*=\s*"(US|PAW)|^\s*(US|PAW)\s+Ultrasoft', text, re.MULTILINE)
    cutoff = re.search(r'wfc_cutoff\s*=\s*"\s*([\d.]+(?:[EeDd][+-]?\d+)?)', text)
    return (
        " ".join(functional[1].split()) if functional else "",
        bool(soft),
        float(re.sub("[Dd]", "e", cutoff[1])) * Ry if cutoff else 0.0,
    )


def is_pbe(functional: str) -> bool:
    """Whether a UPF file's name of its functional means PBE."""
    words = re.split(r"[\s+-]+", functional.strip().upper())
    return words[:4] in (["PBE"], ["SLA", "PW", "PBX", "PBC"], ["SLA", "PW", "PBE", "PBE"])
