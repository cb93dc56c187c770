"""`ccdcgan predict` on binaries of CSPBench (Wei et al., arXiv 2407.00733; MIT licence).

    python benchmarks/cspbench.py WORK LIST.csv [--crystals FILE] [--budget 120] [--minutes 15]
                                  [--without-prototypes] [--formulas DyCu,GaCo]

LIST.csv has the columns formula, sites, spacegroup, category and material_id of the references.
FILE is a JSON list of crystals with `id` and `structure`: the reference is the one of the
material's id, or the lowest isostructural one (space group, number of atoms and type of formula)
with the elements put in. Both are relaxed by the same engine to the same forces.

What came out is kept in benchmarks/cspbench/results.json: what is there is not run again. Prints a
table: a compound is right where the lowest crystal found is the reference's structure or lies
lower, and its space group counts where it is the reference's.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymatgen.core import Composition, Structure
from scipy.stats import binomtest

from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.matching import LOOSE_TOLERANCES, distinct, is_same
from ccdcgan.dft.structures.sources import Prototype, primitive_cell
from ccdcgan.dft.structures.spacegroups import spacegroup
from ccdcgan.dft.structures.substitution import substitute
from ccdcgan.launchers.local.predict import Prediction, Wishes, campaign_of, predict
from ccdcgan.workflows.campaign import Campaign

RESULTS = Path(__file__).with_suffix("") / "results.json"

#: By less than this (eV/atom) energies are equal.
EQUAL = 0.001
#: Most isostructural crystals that are tried as the reference.
TRIED = 5


def references(row: dict[str, str], crystals: list[dict[str, Any]]) -> Iterator[Structure]:
    """The reference's structure, or isostructural crystals with its elements put in."""
    formula = Composition(row["formula"])
    same_id = [c for c in crystals if c["id"] == row["material_id"]]
    if same_id:
        yield decode_structure(same_id[0]["structure"])
        return
    elements = [e.symbol for e in formula.elements]
    for crystal in crystals:
        if crystal["spacegroup"] != int(row["spacegroup"]) or crystal["nsites"] != int(
            row["sites"]
        ):
            continue
        structure = decode_structure(crystal["structure"])
        if structure.composition.anonymized_formula == formula.anonymized_formula:
            for made in substitute(Prototype(crystal["id"], structure), elements):
                if made.structure.composition.reduced_formula == formula.reduced_formula:
                    yield made.structure


def relaxed_reference(
    row: dict[str, str], crystals: list[dict[str, Any]], campaign: Campaign
) -> dict[str, Any] | None:
    """The lowest of the relaxed references; None where no structure is at hand."""
    starts = [primitive_cell(s) for s in references(row, crystals)]
    relaxer = Relaxer(campaign.relaxation)
    found = [relaxer(starts[i]) for i in distinct(starts)[:TRIED]]
    energies = [(r.energy_per_atom, r.structure) for r in found if r.energy_per_atom is not None]
    if not energies:
        return None
    energy, structure = min(energies, key=lambda pair: pair[0])
    return {
        "energy_per_atom": energy,
        "spacegroup": spacegroup(structure),
        "structure": structure.as_dict(),
    }


def judged(
    row: dict[str, str], found: Prediction, reference: dict[str, Any] | None
) -> dict[str, Any]:
    """The lowest crystal beside the reference."""
    if not found.structures:
        return {"relaxed": found.relaxed, "seconds": round(found.seconds), "right": False}
    lowest = found.structures[0]
    number = lowest.spacegroup.rsplit("(", 1)[1].rstrip(")")
    result: dict[str, Any] = {
        "relaxed": found.relaxed,
        "seconds": round(found.seconds),
        "energy_per_atom": lowest.energy_per_atom,
        "spacegroup": lowest.spacegroup,
        "source": lowest.source,
        "spacegroup_is_the_reference's": number == row["spacegroup"],
        "reference": None,
        "right": None,
    }
    if reference is not None:
        same = is_same(lowest.structure, decode_structure(reference["structure"]), LOOSE_TOLERANCES)
        lower = lowest.energy_per_atom < reference["energy_per_atom"] + EQUAL
        result["reference"] = {
            "energy_per_atom": reference["energy_per_atom"],
            "spacegroup": reference["spacegroup"],
            "same": same,
        }
        result["right"] = bool(lower)
    return result


def main() -> None:
    """Run what is not there yet and print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--crystals", type=Path)
    parser.add_argument("--budget", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--without-prototypes", action="store_true")
    parser.add_argument("--formulas", help="only these")
    options = parser.parse_args()
    with options.list.open() as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    crystals: list[dict[str, Any]] = []
    if options.crystals is not None:
        with gzip.open(options.crystals) as stream:
            crystals = json.load(stream)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kind = "without prototypes" if options.without_prototypes else "with prototypes"
    asked = options.formulas.split(",") if options.formulas else [r["formula"] for r in rows]
    for row in (r for r in rows if r["formula"] in asked):
        name = f"{kind} {row['formula']}"
        if name in known:
            continue
        wishes = Wishes(without_prototypes=options.without_prototypes)
        campaign = campaign_of(row["formula"], wishes)
        folder = options.work / name.replace(" ", "_")
        found = predict(campaign, folder, options.budget, options.minutes, print)
        known[name] = judged(row, found, relaxed_reference(row, crystals, campaign))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    for kind in ("with prototypes", "without prototypes"):
        table(kind, {n.removeprefix(f"{kind} "): r for n, r in known.items() if n.startswith(kind)})


def table(kind: str, found: dict[str, dict[str, Any]]) -> None:
    """Each compound with both energies, and how many are right."""
    if not found:
        return
    print(f"\n{kind}\n\n| | lowest, eV/atom | by | reference | | min |\n|---|---|---|---|---|---|")
    for formula, one in sorted(found.items()):
        reference = one.get("reference")
        beside = (
            "not at hand"
            if reference is None
            else f"{reference['energy_per_atom']:.4f} {reference['spacegroup']}"
        )
        verdict = {True: "right", False: "missed", None: "–"}[one["right"]]
        print(
            f"| {formula} | {one.get('energy_per_atom', 0.0):.4f} {one.get('spacegroup', '–')} | "
            f"{one.get('source', '–')} | {beside} | {verdict} | {one['seconds'] / 60:.0f} |"
        )
    told = [r for r in found.values() if r["right"] is not None]
    groups = [r.get("spacegroup_is_the_reference's", False) for r in found.values()]
    for name, yes, of in (
        ("right", sum(r["right"] for r in told), len(told)),
        ("space group", sum(groups), len(groups)),
    ):
        if of:
            low, high = binomtest(yes, of).proportion_ci(method="wilson")
            print(f"{name}: {yes} of {of} [{100 * low:.0f}, {100 * high:.0f}]%")


if __name__ == "__main__":
    main()
