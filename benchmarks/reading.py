"""Speed of reading structure files, and what becomes of a folder with bad ones among them.

    python benchmarks/reading.py

Reads 10,000 CIF files, made here of a few seeded crystals, and 1,000 files of which 50, of ten
kinds, are bad; the second ones also go through the sanity checks of ``ccdcgan evaluate``. One
core; the figures are printed, in seconds of processor time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from time import process_time

import ase.io
import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.structures.crystal import Crystal
from ccdcgan.dft.structures.reader import read
from ccdcgan.launchers.local.finished import read_suitable
from ccdcgan.workflows.screening import Limits

#: Distinct crystals, half of them with all symmetry operations written out.
DISTINCT = 40

LIMITS = Limits(max_sites=20, min_distance=1.0, volume_range=(5.0, 200.0))


def crystals(seed: int = 0) -> list[Structure]:
    """Crystals of Bi and Se with 2 to 12 atoms that are not too near to each other."""
    rng = np.random.default_rng(seed)
    found: list[Structure] = []
    while len(found) < DISTINCT:
        count = int(rng.integers(2, 13))
        lattice = Lattice.from_parameters(*rng.uniform(4, 9, 3), *rng.uniform(70, 110, 3))
        if len(found) % 2:
            lattice = Lattice.cubic(float(rng.uniform(5, 7)))
            structure = Structure.from_spacegroup(
                "Fm-3m", lattice, ["Bi", "Se"], [[0, 0, 0], [0.5] * 3]
            )
        else:
            species = ["Bi", "Se", *rng.choice(["Bi", "Se"], count - 2)]
            structure = Structure(lattice, species, rng.random((count, 3)))
        if LIMITS.allow(structure):
            found.append(structure)
    return found


def cif(structure: Structure, symmetric: bool = False) -> str:
    """CIF of a crystal, with its symmetry or in P1."""
    return str(CifWriter(structure, symprec=0.01 if symmetric else None))


def many(folder: Path, count: int) -> None:
    """CIF files of few distinct crystals."""
    texts = [cif(s, i % 2 == 1) for i, s in enumerate(crystals())]
    for number in range(count):
        (folder / f"{number:06d}.cif").write_text(texts[number % len(texts)])


def bad(structure: Structure) -> dict[str, str]:
    """Files that are refused, of ten kinds, by name."""
    text, frame = cif(structure), '1\nLattice="{}" Properties=species:S:1:pos:R:3\nBi {} 0 0\n'
    row = json.loads(json.dumps(structure.as_dict()))
    data = {**row, "sites": [{**row["sites"][0], "abc": [0, 0]}]}
    site = next(line for line in text.splitlines()[::-1] if line.strip())
    return {
        "unknown.cif": text.replace(site, site.replace(site.split()[3], "?", 1)),
        "twice.cif": text.rstrip() + "\n" + site.replace(site.split()[0], "O", 1) + "\n",
        "empty.cif": "",
        "header.cif": "data_x\n",
        "vasp4.vasp": "x\n1\n3 0 0\n0 3 0\n0 0 3\n1\ndirect\n0 0 0\n",
        "singular.extxyz": frame.format("3 0 0 3 0 0 0 0 3", 0),
        "nan.extxyz": frame.format("3 0 0 0 3 0 0 0 3", "nan"),
        "thin.extxyz": frame.format("1e-6 0 0 0 4e7 0 0 0 1.5", 0),
        "broken.json": json.dumps(row)[:-20],
        "sites.json": json.dumps(data),
    }


def mixed(folder: Path, count: int, wrong: int) -> None:
    """Good files in four formats, and bad ones among them."""
    good = crystals(1)
    for number in range(count - wrong):
        structure = good[number % len(good)]
        path = folder / f"{number:06d}"
        kind = number % 4
        if kind == 0:
            path.with_suffix(".cif").write_text(cif(structure))
        elif kind == 1:
            path.with_suffix(".vasp").write_text(structure.to(fmt="poscar"))
        elif kind == 2:
            atoms = structure.to_ase_atoms(msonable=False)
            ase.io.write(path.with_suffix(".extxyz"), atoms, format="extxyz")
        else:
            path.with_suffix(".json").write_text(json.dumps(structure.as_dict()))
    for number in range(wrong):
        name, text = list(bad(good[0]).items())[number % 10]
        (folder / f"{number:06d}-{name}").write_text(text)


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--mixed", type=int, default=1_000)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "many"
        folder.mkdir()
        many(folder, chosen.files)
        start = process_time()
        count = sum(isinstance(item, Crystal) for item in read(folder))
        seconds = process_time() - start
        print(f"{count} CIF files in {seconds:.1f} s: {count / seconds:.0f} per s")
        folder = Path(temporary) / "mixed"
        folder.mkdir()
        wrong = chosen.mixed // 20
        mixed(folder, chosen.mixed, wrong)
        start = process_time()
        suited = read_suitable(folder, ["Bi", "Se"], LIMITS.problem)
        seconds = process_time() - start
        print(
            f"{chosen.mixed} files with {wrong} bad ones: {len(suited.crystals)} crystals, "
            f"{len(suited.unreadable) + len(suited.unsuitable)} refusals in {seconds:.1f} s"
        )
        reasons: Counter[str] = suited.left_out()
        for reason, number in reasons.most_common():
            print(f"  {number:4d} {reason}")


if __name__ == "__main__":
    main()
