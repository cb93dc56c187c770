"""Frames: some geometries on the way of a relaxation, from which a potential can be learnt."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from monty.io import zopen
from numpy.typing import NDArray
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from pymatgen.io.vasp import Vasprun

FloatArray = NDArray[np.floating]

#: Steps of which a relaxation keeps a frame, besides the converged one: dense where much happens,
#: which is earlier with BFGS.
FRAME_STEPS = {
    "FIRE": frozenset((0, 4, 12, 30, 70, 150)),
    "LBFGS": frozenset((0, 4, 12, 30, 70, 150)),
    "BFGS": frozenset((0, 2, 5, 12, 30, 70)),
}

#: eV/Å³ in kbar.
KBAR = 1602.1766208

#: Lines of OUTCAR with the pressure beyond PSTRESS, and PSTRESS, kbar.
EXTERNAL = re.compile(rb"external pressure =\s*(\S+) kB\s+Pullay stress =\s*(\S+) kB")


class Frame(BaseModel):
    """A geometry on the way of a relaxation, and what the engine says of it."""

    cell: list[list[float]] = Field(description="Å.")
    positions: list[list[float]] = Field(description="Å, in the order of the structure's sites.")
    energy: float = Field(description="Of the cell, eV.")
    forces: list[list[float]] = Field(description="eV/Å.")
    stress: list[float] = Field(description="xx, yy, zz, yz, xz, xy; positive in tension; eV/Å³.")

    @property
    def is_finite(self) -> bool:
        """Whether all its numbers are: a sum is not, of what has one that is not."""
        tables = (self.cell, self.positions, self.forces)
        return math.isfinite(
            self.energy + sum(self.stress) + sum(sum(row) for table in tables for row in table)
        )

    @classmethod
    def of(cls, atoms: Atoms) -> Frame:
        """Atoms with a calculator that has the numbers ready."""
        return cls._rounded(
            atoms.cell.array,
            atoms.positions,
            float(atoms.get_potential_energy()),
            atoms.get_forces(),
            atoms.get_stress(),
        )

    @classmethod
    def _rounded(
        cls,
        cell: FloatArray,
        positions: FloatArray,
        energy: float,
        forces: FloatArray,
        stress: FloatArray,
    ) -> Frame:
        return cls(
            cell=np.round(cell, 5).tolist(),
            positions=np.round(positions, 5).tolist(),
            energy=round(energy, 5),
            forces=np.round(forces, 4).tolist(),
            stress=np.round(stress, 6).tolist(),
        )


def vasp_frames(folder: Path) -> list[Frame]:
    """Frames of a run of VASP; none where its files are gone."""
    from pymatgen.io.vasp import Vasprun

    paths = (folder / name for name in ("vasprun.xml", "vasprun.xml.gz"))
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return []
    run = Vasprun(path, parse_dos=False, parse_eigen=False)
    left_out = left_out_pressure(run, folder) * np.eye(3)
    last = len(run.ionic_steps) - 1
    frames = []
    for number, step in enumerate(run.ionic_steps):
        if number in FRAME_STEPS["FIRE"] or number == last:
            # VASP counts pressure, in kbar.
            stress = -(np.array(step["stress"], float) + left_out) / KBAR
            frames.append(
                Frame._rounded(
                    step["structure"].lattice.matrix,
                    step["structure"].cart_coords,
                    energy_of(run, step),
                    np.array(step["forces"], float),
                    stress[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)],
                )
            )
    return frames


def left_out_pressure(run: Vasprun, folder: Path) -> float:
    """What of PSTRESS is left out of the stresses of a vasprun.xml, kbar.

    OUTCAR says the pressure beyond PSTRESS, which tells whether the file has it beyond that, too.
    """
    if not run.incar.get("PSTRESS"):
        return 0.0
    name = "OUTCAR" if (folder / "OUTCAR").exists() else "OUTCAR.gz"
    with zopen(folder / name, "rb") as stream:
        external, target = map(float, EXTERNAL.findall(stream.read())[-1])
    mean = float(np.trace(np.array(run.ionic_steps[-1]["stress"], float))) / 3
    return target if abs(mean - external) < abs(mean - external - target) else 0.0


def energy_of(run: Vasprun, step: dict[str, Any]) -> float:
    """Energy of an ionic step at zero smearing, with dispersion and without pV, eV.

    VASP adds dispersion and pV after the electronic loop, to the ionic step's own energies alone
    (aiida-vasp's issue 524 and pull request 525; numbers of VASP 6 in pymatgen's issue 2370). Of
    those the free energy counts, less the entropy's part of the last electronic step: VASP 5 writes
    the entropy's part under the name that VASP 6 has for the energy.
    """
    last = (step.get("electronic_steps") or [{}])[-1]
    free = float(step["e_fr_energy"])
    part = float(last.get("e_0_energy", free)) - float(last.get("e_fr_energy", free))
    pressure = float(run.incar.get("PSTRESS") or 0.0) / KBAR
    return free + part - pressure * float(step["structure"].volume)
