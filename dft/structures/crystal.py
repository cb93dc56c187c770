"""What reading gives: crystals with the numbers that belong to them, and refusals."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from pymatgen.core import Structure

from ccdcgan.dft.structures.decoding import StructureError, named_type
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
    try:
        converged = is_converged(row)
    except StructureError as error:
        return Skipped(name, str(error))
    bare = Structure(structure.lattice.matrix, structure.species_and_occu, structure.frac_coords)
    bare = with_moments(bare, moments_of(structure))
    numbers, parameters = _numbers(row, len(bare)), row.get("parameters")
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
    value = next((v for k, v in row.items() if _plain(k) == "converged"), True)
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
    for inner in (*(row.get(name) for name in _INNER), row):
        if isinstance(inner, Mapping):
            numbers |= {
                _plain(k): float(v)
                for k, v in inner.items()
                if isinstance(k, str) and _is_number(v)
            }
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


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


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
