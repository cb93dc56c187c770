"""Crystals with energies and other numbers, read from the files that users have."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Composition, Element, Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.crystal import ENERGY, FAILED, Passed, Skipped
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.substitution import parse_system
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.pipeline import Crystals, usable
from ccdcgan.models.presets import Preset
from ccdcgan.workflows import progress

DISTANCE = "e_above_hull"

#: Crystals that are left out and named on stderr; the others are counted.
NAMED = 5

#: Formation energies that can be, eV/atom: the lowest known, of oxides and fluorides, are above -5.
PHYSICAL = (-10.0, 10.0)

#: How far the energies of one element can lie from their median, eV/atom.
OUTLYING = 25.0

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
    level
        Level of theory, where the data tell it.
    """

    name: str
    structure: Structure
    numbers: dict[str, float] = field(default_factory=dict)
    level: str | None = None


@dataclass(frozen=True)
class EnergyKey:
    """The number that the user names as the energy.

    Attributes
    ----------
    name
        As it stands in the data.
    per_atom
        Whether it is in eV/atom; otherwise it is that of all atoms of the structure, eV.
    """

    name: str
    per_atom: bool = False

    def apply(self, row: Row) -> None:
        """Make it the energy of a row as it was read; what followed from another one is dropped."""
        for name in (ENERGY, FORMATION_ENERGY, DISTANCE):
            if name != self.name:
                row.numbers.pop(name, None)
        if self.name in row.numbers:
            atoms = 1 if self.per_atom else len(row.structure)
            row.numbers[ENERGY] = row.numbers[self.name] / atoms


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
    energy: EnergyKey | None = None,
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
    energy
        Which number is the energy; by default one of a known name.

    Raises
    ------
    UserError
        Nothing can be read, or energies or properties are missing.
    """
    file = _read(path, energy)
    ordered = [r for r in file.rows if r.structure.is_ordered]
    if not ordered:
        first = ": ".join(file.bad[0]) if file.bad else "no ordered crystal that converged"
        raise UserError(f"{path} holds nothing to learn from: {first}")
    if elements is None:
        symbols = {s.symbol for r in ordered for s in r.structure.composition.elements}
        elements = parse_system(sorted(symbols))
    for number, row in enumerate(ordered):
        row.structure = primitive_cell(row.structure)
        if number % 50 == 49 or number + 1 == len(ordered):
            progress.report("data", number + 1, len(ordered))
    good, reasons = usable([r.structure for r in file.rows], elements, preset)
    file.bad += [(file.rows[i].name, reason) for i, reason in reasons.items()]
    rows = [file.rows[i] for i in good]
    if properties is not None:
        rows = _with_energies(rows, elements, references, path, file.bad, say)
    whole = [r for r in rows if len(r.structure.composition) == len(elements)]
    seen = SeenStructures()
    distinct = [r for r in whole if seen.add_if_new(r.structure)]
    apart = {
        f"not learnt from: without an element of {'-'.join(elements)}": len(rows) - len(whole),
        "left out: the same crystal as an earlier one": len(whole) - len(distinct),
    }
    _tell_left_out(file, apart, say)
    data = Data(list(elements), distinct)
    if properties is not None:
        data.crystals = _crystals(rows, distinct, elements, properties)
    return data


@dataclass
class _File:
    """What a file holds.

    Attributes
    ----------
    rows
        What can be read and has converged.
    bad
        Names and reasons of what is left out.
    passed
        Files without a structure.
    failed
        How many did not converge.
    total
        All structures, good or bad.
    """

    rows: list[Row] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    failed: int = 0
    total: int = 0


def _read(path: Path, energy: EnergyKey | None) -> _File:
    found = _File()
    for item in read(path):
        if isinstance(item, Passed):
            found.passed.append(item)
            continue
        found.total += 1
        if isinstance(item, Skipped) and item.reason != FAILED:
            found.bad.append((item.id, item.reason))
        elif isinstance(item, Skipped) or not item.converged:
            found.failed += 1
        else:
            found.rows.append(Row(item.id, item.structure, dict(item.numbers), item.level))
            if energy is not None:
                energy.apply(found.rows[-1])
    return found


def _with_energies(
    rows: Sequence[Row],
    elements: Sequence[str],
    references: Mapping[str, float],
    path: Path,
    bad: list[tuple[str, str]],
    say: Say,
) -> list[Row]:
    """Rows that have a formation energy that can be, eV/atom; those without one are `bad`."""
    wild = _wild_elements(rows)
    rows = [r for r in rows if r.name not in wild]
    _complete(rows, elements, references, path)
    bad += [(r.name, "has no energy") for r in rows if FORMATION_ENERGY not in r.numbers]
    energies = {r.name: r.numbers[FORMATION_ENERGY] for r in rows if FORMATION_ENERGY in r.numbers}
    low, high = PHYSICAL
    wild |= {name: energy for name, energy in energies.items() if not low <= energy <= high}
    kept = [r for r in rows if FORMATION_ENERGY in r.numbers and r.name not in wild]
    _tell_energies(kept, wild, path, say)
    return kept


def _tell_left_out(file: _File, apart: Mapping[str, int], say: Say) -> None:
    """Name the first that are left out and count the others; `apart` counts good ones by reason."""
    for name, reason in file.bad[:NAMED]:
        say(f"left out: {name} {reason}")
    counts = {
        "more left out": len(file.bad) - NAMED,
        "left out: did not converge": file.failed,
        **apart,
    }
    for what, number in counts.items():
        if number > 0:
            say(f"{number} of {file.total} {what}")
    if passed := file.passed:
        say(f"{len(passed)} files hold no structure, as {passed[0].id}: {passed[0].reason}")


def _complete(
    rows: Sequence[Row], elements: Sequence[str], references: Mapping[str, float], path: Path
) -> None:
    """Give rows their formation energies, eV/atom, where they can be had."""
    levels = sorted({r.level for r in rows if r.level})
    if len(levels) > 1:
        raise UserError(f"{path} mixes levels of theory: {levels[0]} and {levels[1]}")
    pure = {**_lowest_elements(rows, elements), **references}
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
        names = sorted(set().union(*(r.numbers for r in rows)))
        there = (
            f"its numbers are {', '.join(names[:12])}: choose one with --energy"
            if names
            else ("it has no numbers beside its structures")
        )
        raise UserError(
            f"{path} holds no energies by a known name; {there}, or add {FORMATION_ENERGY}, or "
            f"{ENERGY} with structures of the pure elements or --references (eV/atom)"
        )


def _lowest_elements(rows: Sequence[Row], elements: Sequence[str]) -> dict[str, float]:
    """The lowest energy of each pure element in the rows, eV/atom."""
    lowest: dict[str, float] = {}
    for row in rows:
        symbol = row.structure.composition.chemical_system
        if ENERGY in row.numbers and symbol in elements:
            lowest[symbol] = min(lowest.get(symbol, math.inf), row.numbers[ENERGY])
    return lowest


def _wild_elements(rows: Sequence[Row]) -> dict[str, float]:
    """Energies of pure elements, by name of the row, that no other structure of theirs is near."""
    own: dict[str, list[Row]] = {}
    for row in rows:
        if ENERGY in row.numbers and len(row.structure.composition) == 1:
            own.setdefault(row.structure.composition.chemical_system, []).append(row)
    found: dict[str, float] = {}
    for same in own.values():
        middle = float(np.median([r.numbers[ENERGY] for r in same]))
        found |= {
            r.name: r.numbers[ENERGY] for r in same if abs(r.numbers[ENERGY] - middle) > OUTLYING
        }
    return found


def _tell_energies(rows: Sequence[Row], wild: Mapping[str, float], path: Path, say: Say) -> None:
    """Say how the formation energies spread, and which are no energies of crystals.

    Raises
    ------
    UserError
        None of them can be.
    """
    low, high = PHYSICAL
    if wild:
        name, value = max(wild.items(), key=lambda item: abs(item[1]))
        text = (
            f"{len(wild)} left out: energies out of the range of crystals ({low:.0f} to "
            f"{high:.0f} eV/atom against the elements), the farthest is {name}: {value:.6g}"
        )
        if not rows:
            raise UserError(f"{path}: all {text}; is it in eV, and of which number of atoms?")
        say(text)
    if rows:
        values = np.array([r.numbers[FORMATION_ENERGY] for r in rows])
        first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
        say(
            f"formation energies: median {middle:.3f}, half of them from {first:.3f} to "
            f"{third:.3f}, all from {values.min():.3f} to {values.max():.3f} eV/atom"
        )


def _crystals(
    rows: Sequence[Row], chosen: Sequence[Row], elements: Sequence[str], properties: Sequence[str]
) -> Crystals:
    """Targets and distances to the hull of the chosen rows; all rows are on the hull."""
    if any(DISTANCE not in r.numbers for r in chosen):
        _place(rows, chosen, elements)
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


def _place(rows: Sequence[Row], chosen: Sequence[Row], elements: Sequence[str]) -> None:
    """Give the chosen rows their distances to the hull of all rows, eV/atom."""
    compositions = [*(Composition(e) for e in elements), *(r.structure.composition for r in rows)]
    energies = [*(0.0 for _ in elements), *(r.numbers[FORMATION_ENERGY] for r in rows)]
    # These are formation energies of one file; a hull asks for a name of their level.
    level = LevelOfTheory(engine="data", package="", checkpoint="", scale="")
    hull = Hull(compositions, energies, [level] * len(energies), elements)
    for row in chosen:
        energy = row.numbers[FORMATION_ENERGY]
        distance = hull.e_above_hull(row.structure.composition, energy)
        row.numbers.setdefault(DISTANCE, distance)


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
