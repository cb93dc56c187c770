"""Crystals with energies and other numbers, read from the files that users have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Composition

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.crystal import FAILED, Crystal, Passed, Skipped
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.systems import parse_system
from ccdcgan.launchers.networks.energies import DISTANCE, EnergyKey, Row, Say, with_energies
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.pipeline import Crystals, usable
from ccdcgan.models.presets import Preset
from ccdcgan.workflows import progress

#: Crystals that are left out and named on stderr; the others are counted.
NAMED = 5


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
    for name, warning in file.odd[:NAMED]:
        say(f"{name}: {warning}")
    if (more := len(file.odd) - NAMED) > 0:
        say(f"{more} more are odd in this way or another")
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
        rows = with_energies(rows, elements, references, path, file.bad, say)
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
    odd
        Names of rows, and what the user should know of them.
    passed
        Files without a structure.
    failed
        How many did not converge, or are untrusted.
    total
        All structures, good or bad.
    """

    rows: list[Row] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    odd: list[tuple[str, str]] = field(default_factory=list)
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
            if item.warning:
                found.odd.append((item.id, item.warning))
            level = item.level or _run_of(item)
            found.rows.append(Row(item.id, item.structure, dict(item.numbers), level))
            if energy is not None:
                energy.apply(found.rows[-1])
    return found


def _run_of(crystal: Crystal) -> str | None:
    """What an entry of pymatgen says of its run of VASP, where that decides about energies.

    The Materials Project's GGA and GGA+U are one scale by its corrections.
    """
    run = (crystal.parameters or {}).get("run_type")
    return None if run is None else "VASP's " + re.sub("[+_ ]U$", "", str(run)[:20])


def _tell_left_out(file: _File, apart: Mapping[str, int], say: Say) -> None:
    """Name the first that are left out and count the others; `apart` counts good ones by reason."""
    for name, reason in file.bad[:NAMED]:
        say(f"left out: {name} {reason}")
    counts = {
        "more left out": len(file.bad) - NAMED,
        "left out: did not converge, or untrusted": file.failed,
        **apart,
    }
    for what, number in counts.items():
        if number > 0:
            say(f"{number} of {file.total} {what}")
    if passed := file.passed:
        say(f"{len(passed)} files hold no structure, as {passed[0].id}: {passed[0].reason}")


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
