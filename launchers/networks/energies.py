"""Energies of users' crystals: which number it is, of which elements, and what cannot be one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pymatgen.core import Element, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.crystal import ENERGY
from ccdcgan.models.energy.goals import FORMATION_ENERGY

DISTANCE = "e_above_hull"

#: Formation energies that can be, eV/atom: the lowest known, of oxides and fluorides, are above -5.
PHYSICAL = (-10.0, 10.0)

#: Distances to the hull that can be, eV/atom: of data against an older hull some are below 0.
DISTANCES = (-1.0, 20.0)

#: How far what follows from a cell may be from what the data say of it, as a share.
DEVIATION = 0.2

#: How far a reference may be above the element's own structure in the data, eV/atom.
ABOVE = 0.05

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


def with_energies(
    rows: Sequence[Row],
    elements: Sequence[str],
    references: Mapping[str, float],
    path: Path,
    bad: list[tuple[str, str]],
    say: Say,
) -> list[Row]:
    """Rows that have a formation energy that can be, eV/atom; those without one are `bad`."""
    if foreign := sorted(set(references) - set(elements)):
        raise UserError(
            f"--references has {' and '.join(foreign)}, which is not in {'-'.join(elements)}"
        )
    faults = {r.name: fault for r in rows if (fault := _fault(r))}
    bad += faults.items()
    rows = [r for r in rows if r.name not in faults]
    wild = _wild_elements(rows)
    rows = [r for r in rows if r.name not in wild]
    _complete(rows, elements, references, path, say)
    bad += [(r.name, "has no energy") for r in rows if FORMATION_ENERGY not in r.numbers]
    energies = {r.name: r.numbers[FORMATION_ENERGY] for r in rows if FORMATION_ENERGY in r.numbers}
    low, high = PHYSICAL
    wild |= {name: energy for name, energy in energies.items() if not low <= energy <= high}
    kept = [r for r in rows if FORMATION_ENERGY in r.numbers and r.name not in wild]
    _tell_energies(kept, wild, path, say)
    return kept


def _fault(row: Row) -> str | None:
    """Which number of a row cannot be, or None."""
    low, high = DISTANCES
    if not low <= row.numbers.get(DISTANCE, 0.0) <= high:
        return f"has {DISTANCE} {row.numbers[DISTANCE]:g}, which no crystal has"
    volume = row.structure.volume / len(row.structure)
    for name, own in (("density", float(row.structure.density)), ("volume_per_atom", volume)):
        if abs(row.numbers.get(name, own) - own) > DEVIATION * own:
            return f"has {name} {row.numbers[name]:g}, its cell has {own:.4g}"
    return None


def _complete(
    rows: Sequence[Row],
    elements: Sequence[str],
    references: Mapping[str, float],
    path: Path,
    say: Say,
) -> None:
    """Give rows their formation energies, eV/atom, where they can be had."""
    levels = sorted({r.level for r in rows if r.level})
    if len(levels) > 1:
        raise UserError(f"{path} mixes levels of theory: {levels[0]} and {levels[1]}")
    silent = sum(r.level is None for r in rows)
    if levels and silent:
        say(f"{silent} of {len(rows)} tell no level of theory: taken for that of the others")
    lowest = _lowest_elements(rows, elements)
    for element, energy in references.items():
        if energy > lowest.get(element, math.inf) + ABOVE:
            say(
                f"--references {element}={energy:g} is above {lowest[element]:g} eV/atom, the "
                f"lowest {element} in the data: formation energies come out too low"
            )
    pure = {**lowest, **references}
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


def parse_references(text: str | None) -> dict[str, float]:
    """Energies of elements, eV/atom, such as ``Bi=-3.86,Se=-3.474``."""
    energies: dict[str, float] = {}
    for part in (text or "").split(","):
        symbol, _, number = (p.strip() for p in part.partition("="))
        if not part.strip():
            continue
        if symbol in energies:
            raise UserError(f"--references has {symbol} twice: give each element once")
        try:
            energies[symbol] = float(number)
        except ValueError:
            number = "nan"
        if not Element.is_valid_symbol(symbol) or not math.isfinite(float(number)):
            raise UserError(f"--references {part!r}: write them as in Bi=-3.86,Se=-3.474 (eV/atom)")
    return energies
