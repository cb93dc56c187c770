"""Phases into files that others read: CIF, extxyz, pymatgen entries, Parquet, OPTIMADE."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import ase.io
from pymatgen.core import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import file_stem, to_json, write_atomically, zipped
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.launchers.results.columns import COLUMNS, as_frame, flat, value_of
from ccdcgan.launchers.results.query import FAILED
from ccdcgan.launchers.results.tables import csv_text

Phases = Sequence[Mapping[str, Any]]

#: Version of OPTIMADE that the JSON lines follow, and the prefix of what it has no field for.
OPTIMADE, PREFIX = "1.2.0", "_ccdcgan_"

#: Columns that OPTIMADE has a field of its own for.
STANDARD = ("formula", "nsites", "id")


def export(phases: Phases, path: Path) -> int:
    """Write phases into a file of the format that its suffix names.

    Every format says of each phase which level of theory its energies are of.

    Parameters
    ----------
    phases
        Documents with structures, as `Results.find` gives them.
    path
        ``.zip``: CIF files and phases.csv; ``.extxyz``; ``.json``: ComputedStructureEntry of
        pymatgen, with raw energies and the level's correction; ``.parquet``: the flat table and
        structures in JSON; ``.jsonl``: OPTIMADE JSON lines.

    Returns
    -------
    How many were written: all that have an energy, or have failed.

    Raises
    ------
    UserError
        There is nothing to write, the suffix is another, or a package is missing.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UserError(f"cannot write {path}: its name must end in {', '.join(_WRITERS)}")
    needs_energy = write is _entries
    placed = [
        phase
        for phase in phases
        if value_of(phase, COLUMNS["energy_per_atom"]) is not None
        or (phase.get("label") == FAILED and not needs_energy)
    ]
    if not placed:
        if needs_energy and phases:
            raise UserError("entries of pymatgen need an energy: choose another format than .json")
        raise UserError("no phase matches what was asked for: nothing is written")
    content = write(placed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return len(placed)


def _name(phase: Mapping[str, Any]) -> str:
    """What tells a phase from all others: two campaigns may have the same relaxation."""
    return str(phase.get("uid") or phase["id"])


def _structure(phase: Mapping[str, Any]) -> Structure:
    try:
        return decode_structure(phase.get("structure"))
    except UserError as error:
        raise UserError(f"phase {_name(phase)} is damaged in its store: {error}") from None


def _zip(phases: Phases) -> bytes:
    files, rows = {}, []
    for number, phase in enumerate(phases, 1):
        name = f"{number:05d}_{file_stem(phase['formula'])}.cif"
        files[name] = _cif(_structure(phase))
        rows.append({"file": name, **flat(phase)})
    return zipped({**files, "phases.csv": csv_text(["file", *COLUMNS], rows)})


def _cif(structure: Structure) -> str:
    try:
        return str(CifWriter(structure, symprec=0.01))
    except Exception:  # noqa: BLE001  spglib finds no symmetry in a degenerate cell
        return str(CifWriter(structure))


def _extxyz(phases: Phases) -> bytes:
    images = []
    for phase in phases:
        row = flat(phase)
        # An Atoms of ASE's own: pymatgen's subclass brings a calculator that is not wanted.
        atoms = _structure(phase).to_ase_atoms(msonable=False)
        atoms.info = {
            name: " ".join(value.split()) if isinstance(value, str) else value
            for name, value in row.items()
            if value is not None
        }
        images.append(atoms)
    stream = io.StringIO()
    ase.io.write(stream, images, format="extxyz")
    return stream.getvalue().encode()


def _entries(phases: Phases) -> bytes:
    entries = []
    for phase in phases:
        structure = _structure(phase)
        own = {"structure", "energy_per_atom", "level_of_theory"}
        correction = phase.get("correction_per_atom") or 0.0
        entry = ComputedStructureEntry(
            structure,
            energy=(phase["energy_per_atom"] - correction) * len(structure),
            correction=correction * len(structure),
            parameters=phase["level_of_theory"],
            data={name: value for name, value in phase.items() if name not in own},
            entry_id=_name(phase),
        )
        entries.append(entry.as_dict())
    return to_json(entries).encode()


def _parquet(phases: Phases) -> bytes:
    frame = as_frame(phases)
    frame["structure"] = [to_json(phase["structure"]) for phase in phases]
    stream = io.BytesIO()
    try:
        frame.to_parquet(stream, engine="pyarrow", index=False)
    except ImportError:
        raise UserError(
            "Parquet needs a package: pip install 'ccdcgan[parquet]', or choose another format"
        ) from None
    return stream.getvalue()


def _optimade(phases: Phases) -> bytes:
    own = {
        PREFIX + name: {"description": c.description, "unit": c.unit, "type": c.type}
        for name, c in COLUMNS.items()
        if name not in STANDARD
    }
    resources = [_resource(phase) for phase in phases]
    provider = {
        "name": "ccdcgan",
        "description": "Phases of ccdcgan campaigns",
        "prefix": PREFIX.strip("_"),
    }
    lines = [
        # The specification has the version here, the reader of optimade-maker in "meta".
        {"x-optimade": {"api_version": OPTIMADE, "meta": {"api_version": OPTIMADE}}},
        {"meta": {"api_version": OPTIMADE, "data_returned": len(phases), "provider": provider}},
        {
            "type": "info",
            "id": "structures",
            "description": "Relaxed crystals and their distances to the convex hull.",
            "properties": own,
            "formats": ["json"],
            "output_fields_by_format": {"json": ["id", "type", *resources[0]["attributes"]]},
        },
        *resources,
    ]
    return b"".join(to_json(line).encode() + b"\n" for line in lines)


def _resource(phase: Mapping[str, Any]) -> Mapping[str, Any]:
    """The OPTIMADE structure of a phase."""
    structure = _structure(phase)
    composition = structure.composition
    counts = {e.symbol: round(n) for e, n in composition.items()}
    elements = sorted(counts)
    divisor = math.gcd(*counts.values())
    reduced = {element: counts[element] // divisor for element in elements}
    sizes = sorted(reduced.values(), reverse=True)
    return {
        "type": "structures",
        "id": _name(phase),
        "attributes": {
            "elements": elements,
            "nelements": len(elements),
            "elements_ratios": [counts[element] / len(structure) for element in elements],
            "chemical_formula_descriptive": composition.reduced_formula,
            "chemical_formula_reduced": _formula(reduced),
            "chemical_formula_hill": _formula({e: counts[e] for e in _hill(elements)}),
            "chemical_formula_anonymous": _formula(dict(zip(_letters(), sizes, strict=False))),
            "dimension_types": [1, 1, 1],
            "nperiodic_dimensions": 3,
            "lattice_vectors": structure.lattice.matrix.tolist(),
            "cartesian_site_positions": structure.cart_coords.tolist(),
            "nsites": len(structure),
            "species": [
                {"name": element, "chemical_symbols": [element], "concentration": [1.0]}
                for element in elements
            ],
            "species_at_sites": [site.specie.symbol for site in structure],
            "structure_features": [],
            "last_modified": None,
            "immutable_id": None,
            **{
                PREFIX + name: value_of(phase, column)
                for name, column in COLUMNS.items()
                if name not in STANDARD
            },
        },
    }


def _formula(counts: Mapping[str, int]) -> str:
    return "".join(f"{element}{'' if n == 1 else n}" for element, n in counts.items())


def _hill(elements: Sequence[str]) -> list[str]:
    """Carbon first, then hydrogen, where there is carbon; the others by the alphabet."""
    first = [e for e in ("C", "H") if e in elements] if "C" in elements else []
    return [*first, *(e for e in elements if e not in first)]


def _letters() -> list[str]:
    return [*ascii_uppercase, *(a + b for a in ascii_uppercase for b in ascii_lowercase)]


_WRITERS: dict[str, Callable[[Phases], bytes]] = {
    ".zip": _zip,
    ".extxyz": _extxyz,
    ".json": _entries,
    ".parquet": _parquet,
    ".jsonl": _optimade,
}
