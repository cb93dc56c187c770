"""`ccdcgan sample --composition` in chemistries it was not trained for: what relaxes to the hull.

    OMP_NUM_THREADS=1 python benchmarks/sample_yield.py [--count 8] [--seed 0] [--workers N]

Of 20 compounds, which are known ground states (structure types and lattice parameters as in
textbooks), in chlorides, oxides, sulfides, nitrides, fluorides, carbides, borides, silicides,
aluminides and perovskites, `--count` crystals each are drawn by the networks that come with the
package, at most `MOST` atoms, and relaxed by the default engine, and so is the known structure.
Each known structure lies on the hull, so that the energy beside it is the distance to the hull;
what is lower is negative. Relaxations are kept in benchmarks/sample_yield/: the same command goes
on. Prints a row for each compound, and last one JSON line: drawn, within 0.10 eV/atom, the share
with its 95% interval (Wilson), how many match the known structure, and in how many compounds.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TypedDict

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pymatgen.core import Lattice, Structure
from scipy.stats import binomtest

from ccdcgan.dft.relaxation.processes import relax_many
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.launchers.networks.sample import sample

FOLDER = Path(__file__).with_suffix("")
MOST, NEAR = 12, 0.10


class Row(TypedDict):
    """A crystal drawn and relaxed: its energy above the known structure's, eV/atom."""

    formula: str
    atoms: int
    above: float | None
    same: bool
    group: int | None
    reason: str | None


def cubic(group: str, a: float, *sites: tuple[str, float, float, float]) -> Structure:
    """A cubic crystal of a space group."""
    return of(group, Lattice.cubic(a), *sites)


def of(group: str, lattice: Lattice, *sites: tuple[str, float, float, float]) -> Structure:
    """A crystal of a space group, its primitive cell."""
    names, coords = [s[0] for s in sites], [list(s[1:]) for s in sites]
    return primitive_cell(Structure.from_spacegroup(group, lattice, names, coords))


def rocksalt(a: float, b: str, c: str) -> Structure:
    """NaCl's type."""
    return cubic("Fm-3m", a, (b, 0, 0, 0), (c, 0.5, 0.5, 0.5))


def fluorite(a: float, b: str, c: str) -> Structure:
    """CaF2's type, `b` on the site of Ca."""
    return cubic("Fm-3m", a, (b, 0, 0, 0), (c, 0.25, 0.25, 0.25))


def caesium(a: float, b: str, c: str) -> Structure:
    """CsCl's type."""
    return cubic("Pm-3m", a, (b, 0, 0, 0), (c, 0.5, 0.5, 0.5))


def rutile(a: float, c: float, u: float, metal: str) -> Structure:
    """TiO2's type."""
    return of("P4_2/mnm", Lattice.tetragonal(a, c), (metal, 0, 0, 0), ("O", u, u, 0))


def wurtzite(a: float, c: float, u: float, metal: str) -> Structure:
    """ZnO's type."""
    sites = ((metal, 1 / 3, 2 / 3, 0), ("N", 1 / 3, 2 / 3, u))
    return of("P6_3mc", Lattice.hexagonal(a, c), *sites)


def perovskite(a: float, b: str, c: str, anion: str) -> Structure:
    """SrTiO3's type."""
    return cubic("Pm-3m", a, (b, 0, 0, 0), (c, 0.5, 0.5, 0.5), (anion, 0.5, 0.5, 0))


KNOWN = [
    rocksalt(5.64, "Na", "Cl"),
    caesium(4.12, "Cs", "Cl"),
    rocksalt(4.21, "Mg", "O"),
    rutile(4.594, 2.959, 0.305, "Ti"),
    rutile(4.737, 3.186, 0.307, "Sn"),
    cubic("F-43m", 5.41, ("Zn", 0, 0, 0), ("S", 0.25, 0.25, 0.25)),
    fluorite(5.71, "S", "Li"),
    of(
        "P6_3/mmc",
        Lattice.hexagonal(3.16, 12.3),
        ("Mo", 1 / 3, 2 / 3, 0.25),
        ("S", 1 / 3, 2 / 3, 0.621),
    ),
    wurtzite(3.19, 5.185, 0.377, "Ga"),
    wurtzite(3.11, 4.98, 0.382, "Al"),
    fluorite(5.463, "Ca", "F"),
    rocksalt(4.02, "Li", "F"),
    rocksalt(4.328, "Ti", "C"),
    cubic("F-43m", 4.36, ("Si", 0, 0, 0), ("C", 0.25, 0.25, 0.25)),
    of("P6/mmm", Lattice.hexagonal(3.086, 3.524), ("Mg", 0, 0, 0), ("B", 1 / 3, 2 / 3, 0.5)),
    fluorite(6.35, "Si", "Mg"),
    caesium(2.887, "Ni", "Al"),
    cubic("Pm-3m", 3.57, ("Al", 0, 0, 0), ("Ni", 0.5, 0.5, 0)),
    perovskite(3.905, "Sr", "Ti", "O"),
    perovskite(3.99, "K", "Mg", "F"),
]


def main() -> None:
    """Draw, relax what is not there yet, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    settings = RelaxationSettings(second_opinion=False, max_steps=300)
    rows = [row for known in KNOWN for row in examined(known, settings, options)]
    near = [r for r in rows if r["above"] is not None and r["above"] <= NEAR]
    low, high = binomtest(len(near), len(rows)).proportion_ci(method="wilson")
    same = [r["formula"] for r in rows if r["same"]]
    print(
        json.dumps(
            {
                "drawn": len(rows),
                "near": len(near),
                "share": round(len(near) / len(rows), 3),
                "low": round(low, 3),
                "high": round(high, 3),
                "known": len(same),
                "of_compounds": len(set(same)),
            }
        )
    )


def examined(
    known: Structure, settings: RelaxationSettings, options: argparse.Namespace
) -> list[Row]:
    """Rows of the crystals drawn of one compound: energy above the known structure, eV/atom."""
    formula = known.composition.reduced_formula
    file = FOLDER / f"{formula}-{options.seed}-{options.count}.json"
    if not file.exists():
        made = sample(formula, count=options.count, seed=options.seed, atoms=MOST)
        drawn = [d.structure for d in made]
        results = dict(relax_many([known, *drawn], settings, options.workers))
        base = results[0]
        assert base.converged and base.energy_per_atom is not None, f"{formula}: {base.reason}"
        rows: list[Row] = []
        for number in range(1, len(drawn) + 1):
            result = results[number]
            energy = result.energy_per_atom if result.converged else None
            rows.append(
                {
                    "formula": formula,
                    "atoms": len(drawn[number - 1]),
                    "above": None if energy is None else round(energy - base.energy_per_atom, 4),
                    "same": energy is not None and is_same(result.structure, base.structure),
                    "group": result.structure.get_space_group_info(0.1)[1] if energy else None,
                    "reason": result.reason,
                }
            )
        file.write_text(json.dumps(rows, indent=1) + "\n")
    found: list[Row] = json.loads(file.read_text())
    above = [
        f"{r['above']:+.3f}{'*' if r['same'] else ''}" for r in found if r["above"] is not None
    ]
    print(f"{formula}: {len(found)} drawn, {' '.join(sorted(above))}", flush=True)
    return found


if __name__ == "__main__":
    main()
