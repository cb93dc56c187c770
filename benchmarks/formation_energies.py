"""Formation energies of simple compounds beside published PBE values and experiment.

Published: uncorrected PBE energies of the Materials Project, which pymatgen ships with the fit of
MP2020's corrections (Wang et al., Sci. Rep. 11, 15496 (2021)). Oxides of V, Cr, Mn, Fe, Co, Ni, Mo
and W are computed there with U and are compared with experiment, after MP2020's corrections: values
of the same fit, that of FeO from the NIST-JANAF tables.

    python benchmarks/formation_energies.py [--engine '{name: sevennet}'] [--out FOLDER]

Each relaxation is kept in a file of the folder, so that a run goes on where it was stopped; the
last line is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from engine_option import add_engine, relaxation
from pymatgen.core import Composition, Lattice, Structure

from ccdcgan.dft.engines.corrections import METALS, mp2020
from ccdcgan.dft.relaxation.key import content_key, elements_of
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.elements import ground_state

HOME = Path(__file__).with_suffix("")

#: Experimental formation energy where the fit has none, eV/atom: NIST-JANAF, 4th edition.
EXPERIMENT = {"FeO": -1.41}

CUBIC, HALF = (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)


def rocksalt(a: float, *species: str) -> Structure:
    """NaCl's structure; `a` in Å."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), species, [CUBIC, HALF])


def zincblende(a: float, *species: str) -> Structure:
    """ZnS's cubic structure."""
    return Structure.from_spacegroup("F-43m", Lattice.cubic(a), species, [CUBIC, [0.25] * 3])


def wurtzite(a: float, c: float, *species: str) -> Structure:
    """ZnS's hexagonal structure."""
    coords = [[1 / 3, 2 / 3, 0.0], [1 / 3, 2 / 3, 0.38]]
    return Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(a, c), species, coords)


def fluorite(a: float, *species: str) -> Structure:
    """CaF2's structure, the element of eightfold coordination first."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), species, [CUBIC, [0.25] * 3])


def rutile(a: float, c: float, x: float, *species: str) -> Structure:
    """TiO2's structure, with the anion's x."""
    coords = [CUBIC, [x, x, 0.0]]
    return Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(a, c), species, coords)


#: Experimental lattices, Å, from Wyckoff, Crystal Structures (1963).
PUBLISHED: dict[str, dict[str, Structure]] = {
    "oxides": {
        "MgO": rocksalt(4.21, "Mg", "O"),
        "CaO": rocksalt(4.81, "Ca", "O"),
        "BeO": wurtzite(2.70, 4.38, "Be", "O"),
        "Li2O": fluorite(4.61, "O", "Li"),
        "Al2O3": Structure.from_spacegroup(
            "R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]
        ),
    },
    "nitrides": {
        "GaN": wurtzite(3.19, 5.19, "Ga", "N"),
        "AlN": wurtzite(3.11, 4.98, "Al", "N"),
        "Li3N": Structure.from_spacegroup(
            "P6/mmm",
            Lattice.hexagonal(3.65, 3.88),
            ["N", "Li", "Li"],
            [CUBIC, [0, 0, 0.5], [1 / 3, 2 / 3, 0]],
        ),
    },
    "fluorides": {"LiF": rocksalt(4.03, "Li", "F"), "CaF2": fluorite(5.46, "Ca", "F")},
    "chlorides": {
        "NaCl": rocksalt(5.64, "Na", "Cl"),
        "CsCl": Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [CUBIC, HALF]),
    },
    "bromides": {"KBr": rocksalt(6.60, "K", "Br")},
    "sulfides": {
        "CaS": rocksalt(5.69, "Ca", "S"),
        "MgS": rocksalt(5.20, "Mg", "S"),
        "Na2S": fluorite(6.53, "S", "Na"),
    },
    "selenides, tellurides": {
        "CaSe": rocksalt(5.92, "Ca", "Se"),
        "Li2Te": fluorite(6.51, "Te", "Li"),
    },
    "hydrides": {
        "LiH": rocksalt(4.08, "Li", "H"),
        "MgH2": rutile(4.52, 3.02, 0.304, "Mg", "H"),
    },
    "antimonides": {"AlSb": zincblende(6.14, "Al", "Sb"), "GaSb": zincblende(6.10, "Ga", "Sb")},
    "silicides": {"Mg2Si": fluorite(6.35, "Si", "Mg")},
}

#: Learnt with U by potentials; without their magnetic order.
WITH_U = {
    "NiO": rocksalt(4.18, "Ni", "O"),
    "FeO": rocksalt(4.33, "Fe", "O"),
    "CoO": rocksalt(4.26, "Co", "O"),
    "MnO": rocksalt(4.44, "Mn", "O"),
    "WO3": Structure(
        Lattice.cubic(3.82),
        ["W", "O", "O", "O"],
        [CUBIC, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
    ),
    "MoO2": rutile(4.86, 2.82, 0.28, "Mo", "O"),
}


def fit(name: str) -> Any:
    """Data of the fit of MP2020's corrections that pymatgen ships."""
    folder = resources.files("pymatgen.analysis.compatibility")
    return json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))


def published() -> dict[str, float]:
    """Uncorrected PBE formation energies by formula, eV/atom."""
    entries = list(fit("calc_compounds").values())
    per_atom = {
        Composition(e["composition"]).reduced_formula: e["energy"]
        / Composition(e["composition"]).num_atoms
        for e in entries
    }
    elements = {
        Composition(e["composition"]).elements[0].symbol: e["energy"]
        / Composition(e["composition"]).num_atoms
        for e in entries
        if Composition(e["composition"]).is_element
    }
    return {
        formula: energy
        - sum(
            f * elements[e.symbol] for e, f in Composition(formula).fractional_composition.items()
        )
        for formula, energy in per_atom.items()
    }


def measured() -> dict[str, float]:
    """Experimental formation energies by formula, eV/atom."""
    found = {
        Composition(e["formula"]).reduced_formula: e["exp energy"]
        / Composition(e["formula"]).num_atoms
        for e in fit("exp_compounds")
    }
    return {**found, **EXPERIMENT}


class Energies:
    """Energies of relaxed crystals, each kept in a folder.

    Parameters
    ----------
    folder
        Where results lie.
    """

    def __init__(self, folder: Path, settings: RelaxationSettings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "relaxations.json"
        self.known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.settings, self.relaxer = settings, Relaxer(settings)

    def of(self, name: str, structure: Structure) -> float:
        """Energy per atom, eV."""
        level = self.settings.engine.level_of_theory(elements_of(structure))
        key = content_key(structure, level, self.settings)
        if self.known.get(key, {}).get("energy_per_atom") is None:
            result = self.relaxer(structure)
            self.known[key] = {
                "name": name,
                "energy_per_atom": result.energy_per_atom,
                "converged": result.converged,
                "reason": result.reason,
                "steps": result.steps,
                "seconds": round(result.seconds, 2),
                "level": level.name,
            }
            self.path.write_text(json.dumps(self.known, indent=1) + "\n")
        found = self.known[key]
        if not found["converged"]:
            print(f"# {name} did not converge")
        if found["energy_per_atom"] is None:
            raise SystemExit(f"{name} has no energy: {found['reason']}")
        return float(found["energy_per_atom"])


def formation_energy(energies: Energies, formula: str, structure: Structure) -> float:
    """Formation energy of the engine, uncorrected, eV/atom."""
    cell = structure.get_primitive_structure()
    found = energies.of(formula, cell)
    for element, fraction in cell.composition.fractional_composition.items():
        end = ground_state(element.symbol)
        assert end is not None
        found -= fraction * energies.of(element.symbol, end.structure)
    return found


def main() -> None:
    """Relax what is not there yet, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_engine(parser)
    parser.add_argument("--out", type=Path, default=HOME)
    options = parser.parse_args()
    settings = relaxation(options.engine, second_opinion=False)
    energies = Energies(options.out, settings)
    level = settings.engine.level_of_theory().name
    rows = []
    reference, experiment = published(), measured()
    for chemistry, compounds in PUBLISHED.items():
        for formula, structure in compounds.items():
            own = formation_energy(energies, formula, structure)
            rows.append((chemistry, formula, own, reference[formula]))
            both = f"{reference[formula]:+.3f} | {experiment[formula]:+.3f}"
            print(f"| {chemistry} | {formula} | {own:+.3f} | {both} |", flush=True)
    errors = np.array([own - other for *_, own, other in rows])
    real = np.array([own - experiment[formula] for _, formula, own, _ in rows])
    corrected = []
    for formula, structure in WITH_U.items():
        own = formation_energy(energies, formula, structure)
        if METALS & set(elements_of(structure)):
            own += mp2020().per_atom(structure)
        corrected.append((formula, own, experiment[formula]))
        print(f"| with U | {formula} | {own:+.3f} | {experiment[formula]:+.3f} |", flush=True)
    beyond = np.array([own - other for _, own, other in corrected])
    print(
        json.dumps(
            {
                "level": level,
                "compounds": len(rows),
                "median_error": float(np.median(np.abs(errors))),
                "mean_error": float(errors.mean()),
                "worst": rows[int(np.abs(errors).argmax())][1],
                "worst_error": float(errors[np.abs(errors).argmax()]),
                "GaN": float(next(o - r for _, f, o, r in rows if f == "GaN")),
                "median_error_to_experiment": float(np.median(np.abs(real))),
                "mean_error_to_experiment": float(real.mean()),
                "with_u_worst_error": float(np.abs(beyond).max()),
            }
        )
    )


if __name__ == "__main__":
    main()
