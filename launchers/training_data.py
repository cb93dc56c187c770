"""Crystals with energies and other numbers, read from the files that users have."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from pymatgen.core import Composition, Element, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.hull import Hull
from ccdcgan.dft.matching import SeenStructures
from ccdcgan.dft.sources import Skipped, primitive_cell, read_structures
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.substitution import parse_system
from ccdcgan.models.goals import FORMATION_ENERGY
from ccdcgan.models.pipeline import Crystals, usable
from ccdcgan.models.presets import Preset
from ccdcgan.workflows import progress

ENERGY, DISTANCE = "energy_per_atom", "e_above_hull"

#: Crystals that are left out and named on stderr; the others are counted.
NAMED = 5

#: What the status of a row may say; anything else means that it did not converge.
GOOD_STATUS = {"converged", "ok", "success", "successful", "completed", "finished", "done"}

Say = Callable[[str], None]


@dataclass
class Row:
    """A crystal of the user's data.

    Attributes
    ----------
    name
        File and position in it.
    structure
        Its primitive cell, once `prepared`.
    numbers
        All numbers by name: energies in eV/atom, others in their own units.
    converged
        False if the row says that its relaxation did not end well.
    level
        Level of theory, where the data tell it.
    """

    name: str
    structure: Structure
    numbers: dict[str, float] = field(default_factory=dict)
    converged: bool = True
    level: str | None = None


def read_rows(path: Path, energies: bool) -> Iterator[Row | Skipped]:
    """Rows of JSON, JSON.gz and extxyz; without `energies`, any structures.

    Raises
    ------
    UserError
        The file cannot be read, or is of a kind that holds no energies.
    """
    suffixes = [s.lower() for s in path.suffixes]
    try:
        if path.is_file() and ".json" in suffixes:
            data = path.read_bytes()
            if suffixes[-1] == ".gz":
                data = gzip.decompress(data)
            yield from _json_rows(json.loads(data), path.name)
            return
        if path.is_file() and suffixes[-1:] in ([".xyz"], [".extxyz"]):
            yield from _extxyz_rows(path)
            return
    except (OSError, EOFError, ValueError, zlib.error) as error:
        text = " ".join(str(error).split())[:150]
        raise UserError(f"{path} cannot be read: {text}") from None
    if energies and path.exists():
        raise UserError(
            f"{path} holds no energies: give phases.json.gz of a ccdcgan run, rows of structures "
            "and numbers in JSON, or extxyz with numbers"
        )
    for item in read_structures(path):
        yield item if isinstance(item, Skipped) else Row(item.id, item.structure)


def _json_rows(data: Any, name: str) -> Iterator[Row | Skipped]:
    for i, row in enumerate(data if isinstance(data, list) else [data]):
        label = f"{name}#{i}"
        inner = row.get("structure", row) if isinstance(row, dict) else None
        try:
            structure = decode_structure(inner)
        except Exception:  # noqa: BLE001  pymatgen raises many kinds on wrong dictionaries
            # What failed in the campaign often has no structure: that is no fault of the file.
            failed = isinstance(row, dict) and not _converged(row)
            yield Skipped(label, "did not converge" if failed else "no pymatgen structure")
            continue
        numbers = _numbers(row)
        if isinstance(row.get("properties"), dict):
            numbers = {**_numbers(row["properties"]), **numbers}
        level = row.get("level_of_theory")
        text = json.dumps(level, sort_keys=True) if level else None
        yield Row(label, structure, numbers, _converged(row), text)


def _extxyz_rows(path: Path) -> Iterator[Row | Skipped]:
    try:
        frames = ase.io.read(path, index=":", format="extxyz")
    except Exception as error:  # noqa: BLE001  ASE's parser raises many kinds
        raise ValueError(f"{type(error).__name__} {error}") from None
    for i, atoms in enumerate(frames):
        label = f"{path.name}#{i}"
        if atoms.cell.rank != 3:
            yield Skipped(label, "no cell")
            continue
        numbers = _numbers(atoms.info)
        # ASE takes the energy out of the comment line.
        results = _numbers(atoms.calc.results if atoms.calc else {})
        if "energy" in results:
            numbers.setdefault(ENERGY, results["energy"] / len(atoms))
        bare = AseAtomsAdaptor.get_structure(atoms)
        yield Row(label, bare, numbers, _converged(atoms.info))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        k: float(v)
        for k, v in values.items()
        if not isinstance(v, bool) and isinstance(v, Real) and math.isfinite(v)
    }


def _converged(row: Mapping[str, Any]) -> bool:
    status = row.get("status")
    good = not isinstance(status, str) or status.lower() in GOOD_STATUS
    return good and bool(row.get("converged", True))


@dataclass
class Data:
    """What the rows of a file come to.

    Attributes
    ----------
    elements
        The system.
    rows
        Distinct crystals that hold every element.
    crystals
        The same with their targets, for the stages that need energies.
    """

    elements: list[str]
    rows: list[Row]
    crystals: Crystals | None = None

    def digest(self) -> str:
        """Hash of the crystals with their targets."""
        cells = [
            [
                r.structure.lattice.matrix.tolist(),
                r.structure.frac_coords.tolist(),
                r.structure.formula,
            ]
            for r in self.rows
        ]
        numbers: list[Any] = []
        if self.crystals is not None:
            numbers = [self.crystals.targets.tolist(), self.crystals.e_above_hull.tolist()]
        return digest(json.dumps([cells, numbers]).encode())[:16]


def prepared(
    path: Path,
    elements: Sequence[str] | None,
    preset: Preset,
    properties: Sequence[str] | None,
    references: Mapping[str, float],
    say: Say,
) -> Data:
    """Primitive cells of a file with their targets.

    Parameters
    ----------
    path
        Data of the user's.
    elements
        The system; None for all elements of the data.
    preset
        Tells how many atoms a cell may have.
    properties
        Names of the targets; None where structures alone are needed.
    references
        Energies of pure elements, eV/atom; of the others the lowest in the data counts.
    say
        Gets a line about what is left out.

    Raises
    ------
    UserError
        Nothing can be read, or energies or properties are missing.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a file of crystals")
    found: list[Row] = []
    bad: list[tuple[str, str]] = []
    failed = total = 0
    for item in read_rows(path, properties is not None):
        total += 1
        if isinstance(item, Skipped):
            failed += item.reason == "did not converge"
            if item.reason != "did not converge":
                bad.append((item.id, item.reason))
        elif item.converged:
            found.append(item)
        else:
            failed += 1
    ordered = [r for r in found if r.structure.is_ordered]
    if not ordered:
        first = f"{bad[0][0]}: {bad[0][1]}" if bad else "no ordered crystal that converged"
        raise UserError(f"{path} holds nothing to learn from: {first}")
    if elements is None:
        symbols = {s.symbol for r in ordered for s in r.structure.composition.elements}
        elements = parse_system(sorted(symbols))
    for number, row in enumerate(ordered):
        row.structure = primitive_cell(row.structure)
        if number % 50 == 49 or number + 1 == len(ordered):
            progress.report("data", number + 1, len(ordered))
    good, reasons = usable([r.structure for r in found], elements, preset)
    bad += [(found[i].name, reason) for i, reason in reasons.items()]
    rows = [found[i] for i in good]
    if properties is not None:
        _complete(rows, elements, references, path)
        bad += [(r.name, "has no energy") for r in rows if FORMATION_ENERGY not in r.numbers]
        rows = [r for r in rows if FORMATION_ENERGY in r.numbers]
    whole = [r for r in rows if len(r.structure.composition) == len(elements)]
    seen = SeenStructures()
    distinct = [r for r in whole if seen.add_if_new(r.structure)]
    for name, reason in bad[:NAMED]:
        say(f"left out: {name} {reason}")
    for number, what in (
        (len(bad) - NAMED, "more left out"),
        (failed, "left out: did not converge"),
        (len(rows) - len(whole), f"not learnt from: without an element of {'-'.join(elements)}"),
        (len(whole) - len(distinct), "left out: the same crystal as an earlier one"),
    ):
        if number > 0:
            say(f"{number} of {total} {what}")
    data = Data(list(elements), distinct)
    if properties is not None:
        data.crystals = _crystals(rows, distinct, elements, properties)
    return data


def _complete(
    rows: Sequence[Row], elements: Sequence[str], references: Mapping[str, float], path: Path
) -> None:
    """Give rows their formation energies, eV/atom, where they can be had."""
    levels = sorted({r.level for r in rows if r.level})
    if len(levels) > 1:
        raise UserError(f"{path} mixes levels of theory: {levels[0]} and {levels[1]}")
    pure = dict(references)
    for element in set(elements) - set(pure):
        own = [
            r.numbers[ENERGY]
            for r in rows
            if ENERGY in r.numbers and r.structure.composition.chemical_system == element
        ]
        if own:
            pure[element] = min(own)
    for row in rows:
        if FORMATION_ENERGY in row.numbers or ENERGY not in row.numbers:
            continue
        shares = row.structure.composition.fractional_composition.get_el_amt_dict()
        lacking = sorted(set(shares) - set(pure))
        if lacking:
            given = ",".join(f"{e}=ENERGY" for e in lacking)
            raise UserError(
                f"{path} has energies but none of pure {' and '.join(lacking)}: add structures of "
                f"the elements, or give --references {given} (eV/atom)"
            )
        energy = sum(share * pure[e] for e, share in shares.items())
        row.numbers[FORMATION_ENERGY] = row.numbers[ENERGY] - energy
    if rows and not any(FORMATION_ENERGY in r.numbers for r in rows):
        raise UserError(
            f"{path} has no energies: add {FORMATION_ENERGY}, or {ENERGY} with structures of the "
            "pure elements or --references (eV/atom)"
        )


def _crystals(
    rows: Sequence[Row], chosen: Sequence[Row], elements: Sequence[str], properties: Sequence[str]
) -> Crystals:
    """Targets and distances to the hull of the chosen rows; all rows are on the hull."""
    if any(DISTANCE not in r.numbers for r in chosen):
        compositions = [
            *(Composition(e) for e in elements),
            *(r.structure.composition for r in rows),
        ]
        energies = [*(0.0 for _ in elements), *(r.numbers[FORMATION_ENERGY] for r in rows)]
        # These are formation energies of one file; a hull asks for a name of their level.
        level = LevelOfTheory(engine="data", package="", checkpoint="", scale="")
        hull = Hull(compositions, energies, [level] * len(energies), elements)
        for row in chosen:
            energy = row.numbers[FORMATION_ENERGY]
            distance = hull.e_above_hull(row.structure.composition, energy)
            row.numbers.setdefault(DISTANCE, distance)
    for row in chosen:
        row.numbers.setdefault("volume_per_atom", row.structure.volume / len(row.structure))
        row.numbers.setdefault("density", float(row.structure.density))
    for name in properties:
        lacking = [r.name for r in chosen if name not in r.numbers]
        if lacking:
            known = ", ".join(sorted(set.intersection(*(set(r.numbers) for r in chosen))))
            raise UserError(
                f"{len(lacking)} of {len(chosen)} crystals have no {name!r}, the first is "
                f"{lacking[0]}; all have {known}"
            )
    return Crystals(
        [r.structure for r in chosen],
        np.array([[r.numbers[n] for n in properties] for r in chosen]).reshape(-1, len(properties)),
        list(properties),
        np.array([r.numbers[DISTANCE] for r in chosen]),
    )


def parse_references(text: str | None) -> dict[str, float]:
    """Energies of elements, eV/atom, such as ``Bi=-3.86,Se=-3.474``."""
    energies: dict[str, float] = {}
    for part in (text or "").split(","):
        symbol, _, number = (p.strip() for p in part.partition("="))
        if not part.strip():
            continue
        try:
            energies[symbol] = float(number)
        except ValueError:
            number = "nan"
        if not Element.is_valid_symbol(symbol) or not math.isfinite(float(number)):
            raise UserError(f"--references {part!r}: write them as in Bi=-3.86,Se=-3.474 (eV/atom)")
    return energies
