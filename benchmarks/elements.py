"""Which structure each pure element has by an engine, beside the one that it is known to have.

Usage: python benchmarks/elements.py [--relax | --bare] [--elements N,O] [--results FILE]

With --relax all end-member candidates of a default campaign are relaxed with the default settings;
what the results hold already is left out, so that a run that was stopped goes on. With --bare some
own structures are relaxed without dispersion, to be compared with the Materials Project. With
neither, the tables are written from the results: docs/elements.md and dft/structures/elements.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pymatgen.core import Element, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.engines.potentials import MPTRJ_ELEMENTS, SevenNetEngine
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.elements import end_members, ground_state
from ccdcgan.dft.structures.sources import Prototype
from ccdcgan.dft.structures.validity import EXPANDED
from ccdcgan.dft.systems import atomic_volume
from ccdcgan.workflows.trust import LEAST

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
    if label(name) not in LIKELY:
        return 4
    return 2 if symbol in FIRST else 3


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


def relax(
    proposed: Iterable[tuple[str, Prototype]], settings: RelaxationSettings, path: Path
) -> None:
    """Relax all candidates that the results lack."""
    relaxer = Relaxer(settings)
    done = {row["key"] for row in read(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for symbol, candidate in proposed:
        level = settings.engine.level_of_theory([symbol])
        if content_key(candidate.structure, level, settings) in done:
            continue
        found = relaxer(candidate.structure)
        structure = found.structure
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


# --- tables ---


#: What people call the prototypes that end members have.
NAMES = {
    "A_cF4_225_a": "fcc",
    "A_cI2_229_a": "bcc",
    "A_hP2_194_c": "hcp",
    "A_hP2_194_c-wide": "hcp, c/a 1.86",
    "A_hP4_194_ac": "dhcp",
    "A_hR3_166_ac": "9R (α-Sm)",
    "A_hP3_191_ad": "ω-Ti",
    "A_cP8_205_c": "α-N2",
    "A_cP8_205_c-H": "H2 on fcc",
    "A_hR12_166_2h": "α-B12",
    "A_hP4_194_bc": "graphite",
    "A_hP4_186_ab": "graphite, buckled",
    "A_hR2_166_c-2": "graphite, 3R",
    "A_hR2_166_c": "β-O2",
    "A_mC4_12_i": "α-O2",
    "A_mC8_15_f": "α-F2",
    "A_cF8_227_a": "diamond",
    "A_oC8_64_f-2": "black P",
    "A_oF128_70_4h": "α-S8",
    "A_oC8_64_f-Cl": "Cl2",
    "A_oC8_64_f-Br": "Br2",
    "A_oC8_64_f-3": "I2",
    "A_cI58_217_ac2g": "α-Mn",
    "A_oC8_64_f": "α-Ga",
    "A_hR2_166_c-3": "α-As",
    "A_hP3_152_a": "trigonal Se",
    "A_tI2_139_a": "bct",
    "A_tI2_139_a-2": "bct",
    "A_hR1_166_a": "α-Hg",
    "A_hR1_166_a-2": "β-Po",
    "A_cP1_221_a": "simple cubic",
    "A_tI4_141_a": "β-Sn",
    "A_oC4_63_c": "α-U",
    "A_oP8_62_2c": "α-Np",
    "A_mP16_11_8e": "α-Pu",
    "A_tP4_136_f": "γ-N2",
    "A_oF8_70_a": "γ-Pu",
    "A_tP4_129_ac": "β-Np",
    "A_hP1_191_a": "simple hexagonal",
}

#: eV/atom by which an end member may miss its known structure before it is named.
LIMIT = 0.005

#: eV/atom below the second opinion at which a minimum is looked at.
DISAGREEMENT = -0.1

#: The one of hcp, bcc and fcc that each of 38 metals has at room temperature and pressure.
METALS = {
    "hcp": "Be Mg Sc Ti Co Zn Y Zr Tc Ru Cd Hf Re Os",
    "bcc": "Li Na K V Cr Fe Rb Nb Mo Cs Ba Ta W",
    "fcc": "Al Ca Ni Cu Sr Rh Pd Ag Ir Pt Au",
}

#: Raw PBE energies of the Materials Project's reference phases, eV/atom, without dispersion.
MATERIALS_PROJECT = {"H": -3.393, "B": -6.679, "N": -8.336, "O": -4.948, "Cl": -1.849, "S": -4.136}

#: The default engine without its dispersion correction.
BARE = SevenNetEngine(checkpoint="7net-l3i5")

#: What is known about an end member that is not the known structure.
REASONS = {
    "F": "a packing of the molecules in C2/m, found by hand, not a candidate, has −1.933 eV",
    "Pu": "dispersion adds −1.3 eV/atom, and takes its structures out of the range of energies or "
    "draws their atoms too close",
}


def lowest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the lowest energy that can be believed, converged or not."""
    energies = [row for row in rows if row["energy"] is not None and not is_hole(row)]
    least = min(row["energy"] for row in energies)
    return next(row for row in energies if row["energy"] < least + 1e-4)


def is_hole(row: dict[str, Any]) -> bool:
    """Whether a row is a false minimum, of one checkpoint or of both."""
    most = EXPANDED * atomic_volume(row["element"])
    return apart(row) <= -LEAST or (row["converged"] and row["volume"] > most)


def apart(row: dict[str, Any]) -> float:
    """How far an energy lies above its second opinion, eV/atom."""
    if row["energy"] is None or row["second_opinion"] is None:
        return 0.0
    return float(row["energy"] - row["second_opinion"])


def named(row: dict[str, Any]) -> str:
    """A prototype's name for people, and the space group that it has relaxed to."""
    key = label(row["id"])
    return f"{NAMES.get(key, key)} ({row['space_group']})"


def by_element(rows: list[dict[str, Any]], level: str) -> dict[str, list[dict[str, Any]]]:
    """Results of a level by element, in the order of atomic numbers, own structures first."""
    found: dict[str, list[dict[str, Any]]] = {s: [] for s in sorted(symbols(), key=number)}
    for row in rows:
        if row["level"] == level:
            found[row["element"]].append(row)
    settings = RelaxationSettings()
    for symbol, listed in found.items():
        own = ground_state(symbol)
        assert own is not None
        key = content_key(own.structure, settings.engine.level_of_theory([symbol]), settings)
        listed.sort(key=lambda row, key=key: row["key"] != key)  # type: ignore[misc]
        assert listed[0]["key"] == key, f"{symbol} has not been relaxed"
    return found


def number(symbol: str) -> int:
    """Atomic number."""
    return int(Element(symbol).Z)


def missed(rows: list[dict[str, Any]]) -> float | None:
    """How far the end member lies above the known structure, eV/atom; None where that failed."""
    known = rows[0]["energy"]
    return None if known is None else float(lowest(rows)["energy"] - known)


def element_lines(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Lines of the table of end members."""
    lines = [
        "| | end member | eV/atom | known ground state | end member − known, meV/atom | steps "
        "| tried | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for symbol, rows in found.items():
        end, known, miss = lowest(rows), rows[0], missed(rows)
        notes = [REASONS[symbol]] if symbol in REASONS else []
        if miss is not None and abs(miss) > LIMIT and not notes:
            notes.append("the engine prefers it")
        notes += [f"{named(r)}: {r['reason']}" for r in (end, known) if not r["converged"]]
        holes = [
            r
            for r in rows
            if r["energy"] is not None and is_hole(r) and r["energy"] < end["energy"]
        ]
        notes += [
            f"false minimum, set aside: {named(r)} at {r['energy']:.2f}, second opinion "
            f"{r['second_opinion']:.2f}, {r['volume']:.0f} Å³ per atom"
            for r in holes
        ]
        off = "–" if miss is None else f"{1e3 * miss + 0.0:.1f}"
        lines.append(
            f"| {symbol} | {named(end)} | {end['energy']:.4f} | {named(known)} | {off} "
            f"| {end['steps']} | {len(rows)} | {'; '.join(notes)} |"
        )
    return lines


def metal_lines(found: dict[str, list[dict[str, Any]]]) -> tuple[list[str], int]:
    """Lines of the table of metals, and how many are right within 1 meV/atom."""
    lines = ["| | known | hcp | bcc | fcc | |", "|---|---|---|---|---|---|"]
    right = 0
    kinds = {s: kind for kind, listed in METALS.items() for s in listed.split()}
    for symbol in sorted(kinds, key=number):
        energies: dict[str, float] = {}
        for row in found[symbol]:
            kind = simple(row["id"])
            if kind and row["energy"] is not None:
                energies[kind] = min(row["energy"], energies.get(kind, 0.0))
        least = min(energies.values())
        above = {kind: 1e3 * (energy - least) for kind, energy in energies.items()}
        miss = above[kinds[symbol]]
        right += miss <= 1
        cells = " | ".join(
            f"{above[kind]:.1f}" if kind in above else "–" for kind in ("hcp", "bcc", "fcc")
        )
        note = f"missed by {miss:.1f}" if miss > 1 else ""
        lines.append(f"| {symbol} | {kinds[symbol]} | {cells} | {note} |")
    return lines, right


def against_materials_project(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of the table of known structures without dispersion beside raw PBE energies."""
    level = str(BARE.level_of_theory())
    lines = [
        "| | without dispersion | Materials Project, raw PBE | difference |",
        "|---|---|---|---|",
    ]
    for row in rows:
        if row["level"] == level:
            theirs = MATERIALS_PROJECT[row["element"]]
            difference = row["energy"] - theirs
            lines.append(
                f"| {row['element']} | {row['energy']:.3f} | {theirs:.3f} | {difference:+.3f} |"
            )
    return lines


def write(path: Path) -> None:
    """Write the tables from the results."""
    level = RelaxationSettings().engine.level_of_theory()
    rows = read(path)
    found = by_element(rows, str(level))
    metals, right = metal_lines(found)
    everything = [r for listed in found.values() for r in listed if r["energy"] is not None]
    wide = sorted((apart(r), r["element"], named(r)) for r in everything if apart(r) < DISAGREEMENT)
    trusted = [apart(lowest(listed)) for listed in found.values()]
    misses = {symbol: missed(listed) for symbol, listed in found.items()}
    near = [s for s, m in misses.items() if m is not None and abs(m) <= LIMIT]
    under = [f"{s} ({1e3 * m:.0f})" for s, m in misses.items() if m is not None and m < -LIMIT]
    values = {
        "engine": level.name,
        "never": f"{len(near) + len(under)} of {len(found)}",
        "share": f"{len(near)} ({len(near) / len(found):.0%})",
        "under": ", ".join(under),
        "table": "\n".join(element_lines(found)),
        "metals": "\n".join(metals),
        "right": f"{right} of {len(metals) - 2}",
        "relaxations": str(sum(len(listed) for listed in found.values())),
        "complete": ", ".join(s for s, listed in found.items() if len(listed) > 30) or "none",
        "apart": "\n".join(f"| {s} | {n} | {d:.2f} |" for d, s, n in wide) or "| none | | |",
        "trusted": f"{min(trusted):.3f} to {max(trusted):+.3f}",
        "mp": "\n".join(against_materials_project(rows)),
    }
    text = (FOLDER / "elements.md.in").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    (ROOT / "docs" / "elements.md").write_text(text, encoding="utf-8")
    table: dict[str, Any] = {"level": level.model_dump(exclude_defaults=True), "elements": {}}
    for symbol, listed in found.items():
        end = lowest(listed)
        table["elements"][symbol] = {
            "energy": end["energy"],
            "prototype": end["id"],
            "space_group": end["space_group"],
            "known": listed[0]["energy"],
        }
    file = ROOT / "dft" / "structures" / "elements.json"
    file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Relax what is asked for, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--relax", action="store_true")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--elements", default=",".join(symbols()))
    parser.add_argument("--results", type=Path, default=FOLDER / "results.jsonl")
    arguments = parser.parse_args()
    if arguments.relax:
        relax(stages(arguments.elements.split(",")), RelaxationSettings(), arguments.results)
    elif arguments.bare:
        own = [(s, p) for s in MATERIALS_PROJECT if (p := ground_state(s)) is not None]
        relax(own, RelaxationSettings(engine=BARE), arguments.results)
    else:
        write(arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
