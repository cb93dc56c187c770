"""What reading gives: crystals with the numbers that belong to them, and refusals."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from pymatgen.core import DummySpecies, Structure

from ccdcgan.dft.structures.decoding import StructureError, named_type, plain_number
from ccdcgan.dft.structures.moments import moments_of, with_moments
from ccdcgan.dft.structures.validity import fault

#: Name of the energy that counts, eV/atom.
ENERGY = "energy_per_atom"

#: Names of energies in the order in which they are looked for, eV/atom and eV.
PER_ATOM = (ENERGY, "REF_energy_per_atom", "total_energy_per_atom", "final_energy_per_atom")
TOTAL = (
    "energy",
    "REF_energy",
    "total_energy",
    "corrected_total_energy",
    "final_energy",
    "dft_energy",
    "DFT_energy",
    "Energy",
    "free_energy",
)

#: What the status of a row may say; anything else means that it did not converge.
GOOD_STATUS = {"converged", "ok", "success", "successful", "completed", "finished", "done"}

#: Label of a phase of ours whose energy is a potential's mistake.
UNTRUSTED = "untrusted"

#: The reason of a row that has no structure because its calculation failed.
FAILED = "did not converge"

#: Numbers in whose place a text is told of.
_EXPECTED = (*PER_ATOM, *TOTAL, "formation_energy_per_atom", "e_above_hull")

#: Names of whether a relaxation ended well, in small letters.
_CONVERGED = {
    "converged",
    "is_converged",
    "has_converged",
    "converged_ionic",
    "converged_electronic",
}

#: What is said of slabs, wires and molecules.
NOT_PERIODIC = "not periodic in all directions: read as if it were"

#: Objects within a row whose numbers are the row's.
_INNER = ("properties", "data", "key_value_pairs", "attributes", "info")


@dataclass(frozen=True)
class Crystal:
    """A structure of a file, with what the file says about it.

    Attributes
    ----------
    id
        Name of the file; with ``#`` and number (from 0) or key where it holds several.
    structure
        Lattice, species and coordinates.
    numbers
        All finite numbers by name; `ENERGY` (eV/atom) made of the names of `TOTAL` where it is
        missing.
    converged
        False if the file says that its relaxation did not end well, or that its energy is not to
        be trusted.
    level
        Level of theory, where the file tells it.
    warning
        What the user should know.
    parameters
        What an entry of pymatgen tells of its VASP run; None of all else.
    """

    id: str
    structure: Structure
    numbers: dict[str, float] = field(default_factory=dict)
    converged: bool = True
    level: str | None = None
    warning: str | None = None
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Skipped:
    """Something that should be a structure and cannot be read, with the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class Passed:
    """A file that holds no structure, by its name or its content: it does not count."""

    id: str
    reason: str


def crystal_of(
    name: str, structure: Structure, row: Mapping[str, Any], warning: str | None = None
) -> Crystal | Skipped:
    """The crystal of a structure and what stands beside it, or why it is none."""
    if reason := fault(structure):
        return Skipped(name, reason)
    elements = structure.composition.elements
    dummies = [e.symbol for e in elements if isinstance(e, DummySpecies)]
    if dummies:
        return Skipped(name, f"no element {dummies[0][:20]!r}")
    try:
        converged = is_converged(row)
    except StructureError as error:
        return Skipped(name, str(error))
    bare = Structure(structure.lattice.matrix, structure.species_and_occu, structure.frac_coords)
    bare = with_moments(bare, moments_of(structure))
    numbers, parameters = _numbers(row, len(bare)), row.get("parameters")
    open_ends = None if all(structure.lattice.pbc) else NOT_PERIODIC
    warning = "; ".join(w for w in (warning, open_ends, _no_number(row)) if w) or None
    is_run = isinstance(parameters, Mapping) and "run_type" in parameters
    return Crystal(
        name, bare, numbers, converged, _level(row), warning, parameters if is_run else None
    )


def is_converged(row: Mapping[str, Any]) -> bool:
    """Whether a row says nothing else than that its relaxation ended well, with a sane energy.

    Raises
    ------
    StructureError
        It says neither yes nor no.
    """
    status = row.get("status")
    if isinstance(status, str) and status.lower() not in GOOD_STATUS:
        return False
    if any(_plain(name) == "label" and value == UNTRUSTED for name, value in row.items()):
        return False
    for inner in ("data", "info", "key_value_pairs", "attributes"):
        if isinstance(nested := row.get(inner), Mapping) and not is_converged(
            {k: v for k, v in nested.items() if not isinstance(v, Mapping)}
        ):
            return False
    told = [v for k, v in row.items() if _plain(k).lower() in _CONVERGED]
    # A value that says neither is refused, whatever the others say.
    return False not in {_is_true(value) for value in told}


def _is_true(value: object) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "t", "yes", "1", "1.0"):
        return True
    if text in ("false", "f", "no", "0", "0.0", "none", "null", "", "<na>", "nan"):
        return False
    raise StructureError(f"'converged' is neither true nor false but {text[:40]!r}")


def _plain(name: str) -> str:
    """A name without the prefix of an OPTIMADE provider."""
    return re.sub(r"^_[a-z0-9]+_", "", name)


def _numbers(row: Mapping[str, Any], atoms: int) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for inner in _parts(row):
        found = {_plain(str(k)): _number(v) for k, v in inner.items()}
        numbers |= {name: number for name, number in found.items() if number is not None}
    if str(row.get("@class", "")).endswith("Entry") and "energy" in numbers:
        # pymatgen's entries hold the raw energy and what it is corrected by.
        numbers["energy"] += numbers.get("correction", 0.0)
        numbers[ENERGY] = numbers["energy"] / atoms
    for name in PER_ATOM:
        if name in numbers:
            numbers.setdefault(ENERGY, numbers[name])
    for name in TOTAL:
        if name in numbers:
            numbers.setdefault(ENERGY, numbers[name] / atoms)
    return numbers


def _parts(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects in which a row has its numbers, the one that counts most last."""
    return [p for p in (*(row.get(name) for name in _INNER), row) if isinstance(p, Mapping)]


def _number(value: Any) -> float | None:
    """The finite number that a value is, itself or as text, or None."""
    if isinstance(value, str):
        return plain_number(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _no_number(row: Mapping[str, Any]) -> str | None:
    """Which energy is there and is no number, or None."""
    for part in _parts(row):
        for name, value in part.items():
            empty = value is None or str(value).strip().lower() in ("", "none", "null", "nan")
            if _plain(str(name)) in _EXPECTED and not empty and _number(value) is None:
                text = value if isinstance(value, str) else named_type(value)
                return f"its {_plain(name)} is {str(text)[:30]!r}, which is no number"
    return None


def _level(row: Mapping[str, Any]) -> str | None:
    """The level of theory as one text, whichever format it comes in."""
    level = next((v for k, v in row.items() if _plain(k) == "level_of_theory"), None)
    if isinstance(row.get("attributes"), Mapping) and level is None:
        return _level(row["attributes"])
    parameters = row.get("parameters")
    if level is None and isinstance(parameters, Mapping) and "checkpoint" in parameters:
        level = parameters
    if isinstance(level, str):
        try:
            level = json.loads(level)
        except ValueError:
            return level
    return json.dumps(level, sort_keys=True, default=named_type) if level else None
