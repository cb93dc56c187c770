"""Layered phases of Bi-Se: heights of their layers and distances to their hull, by engine.

    python benchmarks/layers.py [--engine '{name: sevennet}'] [--out FILE]

Relaxes bismuth, selenium, the reported phases that can be built (`ccdcgan known`) and Bi2Se3 with
one quintuple layer in the cell (P-3m1) instead of three (R-3m). Measured heights: Bi2Se3, Nakajima,
J. Phys. Chem. Solids 24, 479 (1963); Bi, Cucka and Barrett, Acta Cryst. 15, 865 (1962); Se, Cherin
and Unger, Inorg. Chem. 6, 1589 (1967). For the others the height of the stack that published bond
lengths make, within about 1% of what was measured of BiSe and Bi4Se3. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from engine_option import add_engine, relaxation
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.structures.elements import ground_state
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.launchers.local.homologous import known_crystals

#: Heights of conventional cells, Å, as measured.
MEASURED = {"Bi2Se3 R-3m": 28.64, "Bi": 11.862, "Se": 4.954}


def one_layer() -> Structure:
    """Bi2Se3 with one quintuple layer in the cell."""
    quintuple = next(p.structure for p in known_crystals() if p.id == "0-1")
    lattice = Lattice.hexagonal(4.143, 28.64 / 3)
    height = quintuple.cart_coords[:, 2]
    # Layers of one period follow as A B C A B.
    places = ((0.0, 0.0), (1 / 3, 2 / 3), (2 / 3, 1 / 3))
    order = sorted(range(5), key=lambda i: height[i])
    coords = [[*places[k % 3], height[i] / lattice.c] for k, i in enumerate(order)]
    return Structure(lattice, [quintuple[i].specie for i in order], coords)


def height(structure: Structure) -> float:
    """Height of a cell above its densest layers, Å: volume over the basal plane's area.

    The basal plane is that of the two shortest lattice vectors of the reduced cell.
    """
    cell = structure.get_reduced_structure()
    a, b, _ = sorted(cell.lattice.abc)
    return float(structure.volume / (a * b * 3**0.5 / 2))


def main() -> None:
    """Relax and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_engine(parser)
    parser.add_argument("--out", type=Path, help="JSON file for the rows.")
    options = parser.parse_args()
    settings = relaxation(options.engine, fmax=0.01, max_steps=500, second_opinion=False)
    relaxer = Relaxer(settings)
    crystals = {f"({p.id})": p.structure for p in known_crystals()}
    crystals = {"Bi2Se3 R-3m": crystals.pop("(0-1)"), "Bi2Se3 P-3m1": one_layer(), **crystals}
    for symbol in ("Se", "Bi"):
        own = ground_state(symbol)
        assert own is not None
        crystals[symbol] = own.structure
    results = {name: relaxer(structure) for name, structure in crystals.items()}
    relaxed = {name: r.structure for name, r in results.items()}
    used = [n for n, r in results.items() if r.energy_per_atom is not None]
    hull = Hull(
        [relaxed[n].composition for n in used],
        [results[n].energy_per_atom or 0.0 for n in used],
        [results[n].level_of_theory for n in used],
        ["Bi", "Se"],
    )
    rows = {}
    for name in used:
        result, before, after = results[name], crystals[name], relaxed[name]
        place = hull.place(after, result.energy_per_atom or 0.0)
        # Per conventional cell where it was measured, else of the cell that was relaxed.
        scale = {"Bi2Se3 R-3m": 3, "Bi": 3}.get(name, 1)
        reference = MEASURED.get(name, height(before))
        rows[name] = {
            "formula": after.composition.reduced_formula,
            "atoms": len(after),
            "converged": result.converged,
            "steps": result.steps,
            "height": round(scale * height(after), 3),
            "reference": round(reference, 3),
            "measured": name in MEASURED,
            "off": round(scale * height(after) / reference - 1, 4),
            "e_above_hull": round(place.e_above_hull, 5),
        }
        row = rows[name]
        print(
            f"| {name} | {row['formula']} | {row['height']:.2f} | {row['reference']:.2f} | "
            f"{row['off']:+.1%} | {1e3 * place.e_above_hull:.1f} |",
            flush=True,
        )
    found = {"level": settings.engine.level_of_theory().name, "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({"level": found["level"], "Bi2Se3": rows["Bi2Se3 R-3m"]}))


if __name__ == "__main__":
    main()
