"""Phonons and elastic constants of known crystals by the default engine, beside strains by ASE.

    python benchmarks/stability.py [--engine '{name: sevennet}'] [--out FILE]

Bi2Se3, MgO, Si and Al vibrate stably; body-centred titanium is known not to at 0 K. Each is
relaxed as `ccdcgan stability` relaxes it. Beside its elastic tensor stands another one, from
stresses of ASE alone: strains of 0.3% in the cell's own axes, positions relaxed by ASE, no
symmetry imposed; bulk and shear modulus, averages of Voigt, Reuss and Hill, do not depend on the
axes. Seconds are those of one process: run it with OMP_NUM_THREADS=1 on a machine that does
nothing else. Prints a line for each; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from ase.build import bulk
from ase.optimize import BFGS
from ase.units import GPa
from engine_option import add_engine, relaxation
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.dynamics.elasticity import elasticity_of
from ccdcgan.dft.dynamics.phonons import phonons_of
from ccdcgan.dft.dynamics.stability import TOLERANCE, ByCalculator, finer
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.symmetry import FloatArray, symmetrised
from ccdcgan.launchers.local.homologous import known_crystals

STRAIN = 0.003
#: Crystals that are known not to vibrate stably.
UNSTABLE = ("Ti bcc",)


@dataclass
class Row:
    """A crystal: frequencies in THz, moduli in GPa, those of ASE's strains last, and seconds."""

    crystal: str
    atoms: int
    supercell: int
    displacements: int
    lowest_frequency: float
    right: bool
    born_stable: bool
    bulk: float
    bulk_by_ase: float
    shear: float
    shear_by_ase: float
    seconds_relaxation: float
    seconds_phonons: float
    seconds_elasticity: float


def crystals() -> dict[str, Structure]:
    """Primitive cells."""
    cells = {
        "Si": bulk("Si"),
        "MgO": bulk("MgO", "rocksalt", a=4.21),
        "Al": bulk("Al"),
        "Ti bcc": bulk("Ti", "bcc", a=3.25),
    }
    made = {name: AseAtomsAdaptor.get_structure(cell) for name, cell in cells.items()}
    layers = next(c.structure for c in known_crystals() if c.id == "0-1")
    return {**made, "Bi2Se3": primitive_cell(layers)}


def moduli_by_ase(relaxer: Relaxer, structure: Structure) -> tuple[float, float]:
    """Bulk and shear modulus, GPa, from stresses of ASE in strained cells."""

    def stress(strain: FloatArray) -> FloatArray:
        atoms = relaxer.atoms(structure)
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        with BFGS(atoms, logfile=None) as optimizer:
            optimizer.run(fmax=1e-3, steps=500)
        return np.asarray(atoms.get_stress())

    stiffness = np.zeros((6, 6))
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        strain = np.zeros((3, 3))
        strain[i, j] += STRAIN / 2
        strain[j, i] += STRAIN / 2
        # A shear of Voigt's notation is twice the off-diagonal strain.
        voigt = STRAIN if k < 3 else 2 * strain[i, j]
        stiffness[k] = (stress(strain) - stress(-strain)) / (2 * voigt * GPa)
    stiffness = (stiffness + stiffness.T) / 2
    compliance: FloatArray = np.asarray(np.linalg.inv(stiffness), float)

    def parts(m: FloatArray) -> tuple[float, float, float]:
        return m[:3, :3].trace(), m[0, 1] + m[0, 2] + m[1, 2], m[3:, 3:].trace()

    (a, b, c), (x, y, z) = parts(stiffness), parts(compliance)
    voigt_bulk, voigt_shear = (a + 2 * b) / 9, (a - b + 3 * c) / 15
    reuss_bulk, reuss_shear = 1 / (x + 2 * y), 15 / (4 * x - 4 * y + 3 * z)
    return (voigt_bulk + reuss_bulk) / 2, (voigt_shear + reuss_shear) / 2


def examined(name: str, structure: Structure, settings: RelaxationSettings) -> Row:
    """What `ccdcgan stability` computes of a crystal, part by part."""
    relaxer = Relaxer(finer(settings))
    route = ByCalculator(relaxer)
    times = [perf_counter()]
    result = route.relax(structure)
    cell = symmetrised(result.structure, TOLERANCE) or result.structure
    cell = cell.get_reduced_structure("niggli")
    times.append(perf_counter())
    phonons = phonons_of(cell, route.forces)
    times.append(perf_counter())
    elasticity = elasticity_of(cell, route.relaxed_stress)
    times.append(perf_counter())
    by_ase = moduli_by_ase(relaxer, cell)
    return Row(
        name,
        len(cell),
        phonons.atoms,
        phonons.displacements,
        round(phonons.lowest, 3),
        phonons.is_stable == (name not in UNSTABLE),
        elasticity.is_stable,
        *(
            round(float(x), 2)
            for pair in zip(
                (elasticity.bulk_modulus, elasticity.shear_modulus), by_ase, strict=True
            )
            for x in pair
        ),
        *(round(float(x), 1) for x in np.diff(times)),
    )


def main() -> None:
    """Examine each and print a line of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_engine(parser)
    parser.add_argument("--out", type=Path, help="JSON file for the rows.")
    options = parser.parse_args()
    settings = relaxation(options.engine)
    rows = []
    # The first call of an engine loads and compiles it.
    Relaxer(finer(settings))(crystals()["Al"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, structure in crystals().items():
            rows.append(examined(name, structure, settings))
            print(rows[-1], flush=True)
    text = json.dumps([asdict(r) for r in rows])
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
