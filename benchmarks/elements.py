"""Which structure each pure element has by an engine, beside the one that it is known to have.

Usage: python benchmarks/elements.py [--relax] [--elements N,O] [--results FILE]

With --relax all end-member candidates of a default campaign are relaxed with the default settings;
what the results hold already is left out, so that a run that was stopped goes on. Without it, the
table is written from the results: docs/elements.md and dft/structures/elements.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pymatgen.core import Element, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.engines.potentials import MPTRJ_ELEMENTS
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.sources import Prototype
from ccdcgan.dft.structures.elements import end_members

FOLDER = Path(__file__).parent / "elements"
ROOT = Path(__file__).parent.parent

#: Most atoms of the library's prototypes, as in a default campaign.
SITES = 4

#: Molecules and cages first: where an end member is far off, it is one of these.
FIRST = ["H", "N", "O", "F", "Cl", "Br", "I", "P", "S", "Se", "B", "C", "Si", "Mn", "Ga", "Hg"]


def symbols() -> list[str]:
    """All elements of the default engine, the difficult ones first."""
    known = [Element.from_Z(z).symbol for z in sorted(MPTRJ_ELEMENTS)]
    return FIRST + [s for s in known if s not in FIRST]


#: Types of metals and semimetals, which come before what is less likely.
LIKELY = {
    "A_hP4_194_ac", "A_hR3_166_ac", "A_hP3_191_ad", "A_tI2_139_a", "A_cF8_227_a", "A_tI4_141_a",
    "A_hR2_166_c-3", "A_oC4_63_c", "A_oC8_64_f", "A_hR1_166_a", "A_mC4_12_i", "A_cP1_221_a",
}  # fmt: skip


def stages(elements: list[str]) -> Iterator[tuple[str, Prototype]]:
    """What is relaxed, in this order: own structures, those of metals, all others."""
    candidates = {symbol: end_members([symbol], SITES) for symbol in elements}
    for number in range(5):
        for symbol, found in candidates.items():
            for candidate in found:
                if _stage(symbol, candidate.id) == number:
                    yield symbol, candidate


def _stage(symbol: str, name: str) -> int:
    if name.startswith("own:"):
        return 0
    if simple(name):
        return 1
    if symbol in FIRST:
        return 2
    return 3 if label(name) in LIKELY else 4


def label(name: str) -> str:
    """The prototype's own part of an id."""
    return name.partition(":")[2].partition(">")[0]


def simple(name: str) -> str | None:
    """Which of hcp, bcc and fcc a candidate is, or None."""
    kinds = {"A_hP2_194_c": "hcp", "A_cI2_229_a": "bcc", "A_cF4_225_a": "fcc"}
    return kinds.get(label(name).removesuffix("-wide"))


def read(path: Path) -> list[dict[str, Any]]:
    """Results so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def relax(elements: list[str], path: Path) -> None:
    """Relax all candidates that the results lack."""
    settings = RelaxationSettings()
    relaxer = Relaxer(settings)
    done = {row["key"] for row in read(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for symbol, candidate in stages(elements):
        level = settings.engine.level_of_theory([symbol])
        if content_key(candidate.structure, level, settings) in done:
            continue
        found = relaxer(candidate.structure)
        structure = Structure.from_dict(found.structure)
        second = found.second_opinion
        row = {
            "element": symbol,
            "id": candidate.id,
            "sites": len(structure),
            "energy": rounded(found.energy_per_atom),
            "second_opinion": rounded(second.energy_per_atom if second else None),
            "space_group": space_group(structure),
            "volume": round(structure.volume / len(structure), 3),
            "steps": found.steps,
            "converged": found.converged,
            "reason": found.reason,
            "seconds": round(found.seconds, 2),
            "key": found.key,
            "level": str(found.level_of_theory),
        }
        assert elements_of(structure) == [symbol]
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(symbol, candidate.id, row["energy"], found.steps, found.reason or "", flush=True)


def rounded(energy: float | None) -> float | None:
    """An energy to 0.01 meV."""
    return None if energy is None else round(energy, 5)


def space_group(structure: Structure) -> str:
    """Symbol within 0.1 Å."""
    try:
        return str(SpacegroupAnalyzer(structure, symprec=0.1).get_space_group_symbol())
    except Exception:  # noqa: BLE001  spglib gives up on cells that have fallen to pieces
        return "?"


def main() -> int:
    """Relax what is asked for, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--relax", action="store_true")
    parser.add_argument("--elements", default=",".join(symbols()))
    parser.add_argument("--results", type=Path, default=FOLDER / "results.jsonl")
    arguments = parser.parse_args()
    if arguments.relax:
        relax(arguments.elements.split(","), arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
