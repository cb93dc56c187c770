"""Formation energy of rocksalt BiSe with Quantum ESPRESSO: prints JSON, a line for each crystal.

Usage: python benchmarks/espresso_bise.py PSEUDO_DIR [--cutoff EV] [--length Å] [--command pw.x]

Relaxes Bi (A7, R-3m), Se (A8, P3_121) and BiSe (rocksalt). Three codes put the compound at
-0.09 eV/atom, within 0.03, in a fixed geometry. PSEUDO_DIR: python -m ccdcgan.dft.engines.gth_upf.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.espresso import EspressoEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings

# Experimental cells; for BiSe a guess near PBE's.
BISMUTH = Structure(Lattice.rhombohedral(4.746, 57.23), ["Bi"] * 2, [[0.2339] * 3, [-0.2339] * 3])
SELENIUM = Structure.from_spacegroup(
    "P3_121", Lattice.hexagonal(4.366, 4.954), ["Se"], [[0.2254, 0.0, 1 / 3]]
)
ROCKSALT = Structure(
    [[0, 2.97, 2.97], [2.97, 0, 2.97], [2.97, 2.97, 0]], ["Bi", "Se"], [[0] * 3, [0.5] * 3]
)


def main() -> int:
    """Relax the three crystals and print energies, cells and seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pseudo_dir", type=Path)
    parser.add_argument("--cutoff", type=float, default=700.0)
    parser.add_argument("--length", type=float, default=40.0)
    parser.add_argument("--command", default="pw.x")
    arguments = parser.parse_args()
    engine = EspressoEngine(
        command=arguments.command,
        pseudo_dir=arguments.pseudo_dir,
        cutoff=arguments.cutoff,
        kpoints_length=arguments.length,
    )
    try:
        engine.check(["Bi", "Se"])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    # Every run of the script relaxes from the start.
    folder = tempfile.TemporaryDirectory()
    os.environ["CCDCGAN_CALCULATIONS"] = folder.name
    relaxer = Relaxer(RelaxationSettings(engine=engine, optimizer="BFGS", fmax=0.03, max_steps=40))
    energies: dict[str, float] = {}
    for name, start in (("BiSe", ROCKSALT), ("Bi", BISMUTH), ("Se", SELENIUM)):
        began = time.monotonic()
        result = relaxer(start)
        relaxed = result.structure
        line = {
            "crystal": name,
            "energy_eV_per_atom": result.energy_per_atom,
            "converged": result.converged,
            "reason": result.reason,
            "steps": result.steps,
            "space_group": relaxed.get_space_group_info(symprec=0.01)[0],
            "cell": [round(x, 4) for x in (*relaxed.lattice.abc, *relaxed.lattice.angles)],
            "volume_A3_per_atom": round(relaxed.volume / len(relaxed), 3),
            "max_force": result.max_force,
            "max_stress": result.max_stress,
            "seconds": round(time.monotonic() - began),
        }
        print(json.dumps(line), flush=True)
        if result.energy_per_atom is None:
            return 1
        energies[name] = result.energy_per_atom
    formation = energies["BiSe"] - (energies["Bi"] + energies["Se"]) / 2
    level = engine.level_of_theory(["Bi", "Se"]).model_dump()
    print(json.dumps({"formation_energy_eV_per_atom": round(formation, 4), "level": level}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
