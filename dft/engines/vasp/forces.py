"""Forces and stresses by VASP, of crystals whose phonons and elastic constants are asked for.

Each relaxation and each geometry is a calculation with a content key of its own: after a kill, what
is done is read again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.engines.frames import KBAR
from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.stages import Stage
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.symmetry import FloatArray

#: Tags of runs whose forces are subtracted from each other: tight, and with a smearing that gives
#: forces of metals, too, unless the campaign has one of its own.
SMEARED = {"ISMEAR": 0, "SIGMA": 0.05}
TIGHT = {"EDIFF": 1e-8}

#: In place of a limit of stress, kbar, where the cell is not free.
ANY_STRESS = 1e6


class NoForcesError(Exception):
    """A geometry has no forces or stress; the text says why."""


class ByVasp:
    """Relaxations, forces and stresses at the level of an engine's last relaxation.

    Parameters
    ----------
    settings
        With the force to relax to.
    """

    def __init__(self, settings: RelaxationSettings) -> None:
        engine = settings.engine
        assert isinstance(engine, VaspEngine)
        last = max(i for i, kind in enumerate(engine.kinds) if kind == "relax")
        incar = {**SMEARED, **engine.of_stage(last).incar, **TIGHT}
        self._engine = engine.model_copy(update={"incar": incar, "pre_relax": None, "soc": False})
        self._settings = settings
        # A second run has the basis of the cell that the first one ends with.
        self.settings = self._with("relax", "relax")

    def _with(self, *stages: Stage, **changes: Any) -> RelaxationSettings:
        engine = self._engine.model_copy(update={"stages": stages, **changes})
        return self._settings.model_copy(update={"engine": engine})

    def relax(self, structure: Structure) -> Relaxation:
        """The crystal relaxed in cell and positions."""
        return relax_by_vasp(structure, self.settings)[0]

    def relaxed_stress(self, structure: Structure) -> FloatArray:
        """Stress (6,), in ASE's order, eV/Å³, with positions relaxed in a cell that is kept."""
        kept = {"ISIF": 2}
        settings = self._with(
            "relax",
            incar={**self._engine.incar, **kept},
            ladder=tuple({**step, **kept} for step in self._engine.ladder),
            max_stress=ANY_STRESS,
        )
        _, stress = _last_step(structure, settings)
        return stress

    def forces(self, atoms: Atoms) -> FloatArray:
        """Forces (n, 3) on atoms where they are, eV/Å."""
        structure = AseAtomsAdaptor.get_structure(atoms)
        forces, _ = _last_step(structure, self._with("static", max_stress=ANY_STRESS))
        return forces


def _last_step(structure: Structure, settings: RelaxationSettings) -> tuple[FloatArray, FloatArray]:
    """Forces in the order of the sites, and stress, at the end of a calculation.

    Raises
    ------
    NoForcesError
        It has not converged.
    """
    result, folder = relax_by_vasp(structure, settings)
    if folder is None or not result.converged:
        raise NoForcesError(f"a cell of {len(structure)} atoms: {result.reason}")
    return _read(folder, structure)


def _read(folder: Path, structure: Structure) -> tuple[FloatArray, FloatArray]:
    from pymatgen.io.vasp import Vasprun

    # All digits: those of frames are fewer.
    step = Vasprun(folder / "vasprun.xml", parse_dos=False, parse_eigen=False).ionic_steps[-1]
    numbered = Structure(
        structure.lattice,
        structure.species,
        structure.frac_coords,
        site_properties={"number": list(range(len(structure)))},
    )
    forces = np.empty((len(structure), 3))
    forces[numbered.get_sorted_structure().site_properties["number"]] = step["forces"]
    # VASP counts pressure, in kbar.
    stress = -np.array(step["stress"], float)[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)] / KBAR
    return forces, stress
