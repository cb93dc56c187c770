"""Crystals as the report's viewer reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors

from ccdcgan.launchers.report.figures import energy, origin_text
from ccdcgan.workflows.documents import Phase


@dataclass(frozen=True)
class Shown:
    """A crystal with the texts beside it (not escaped: the page sets them as text nodes)."""

    formula: str
    spacegroup: str
    label: str
    formation: str
    hull: str
    second: str
    origin: str
    file: str
    facts: list[tuple[str, str]]
    steps: list[str]
    matrix: list[list[float]]
    species: list[str]
    frac: list[float]

    @classmethod
    def of(
        cls, phase: Phase, facts: Sequence[tuple[str, str]] = (), steps: Sequence[str] = ()
    ) -> Shown:
        """A phase, further facts by name, and what to do next."""
        structure = phase.structure
        return cls(
            formula=phase.formula,
            spacegroup=phase.spacegroup,
            label=phase.label,
            formation=f"{energy(phase.formation_energy_per_atom)} eV/atom",
            hull=f"{energy(phase.e_above_hull)} eV/atom",
            second=_second(phase),
            origin=origin_text(phase),
            file=phase.file or "–",
            facts=list(facts),
            steps=list(steps),
            matrix=structure.lattice.matrix.round(5).tolist(),
            species=[next(iter(site.species)).symbol for site in structure],
            frac=structure.frac_coords.round(5).ravel().tolist(),
        )


def _second(phase: Phase) -> str:
    second = phase.second_opinion
    return "–" if second is None else f"{energy(second.e_above_hull)} eV/atom by {second.engine}"


class Ball(NamedTuple):
    """How atoms of an element look."""

    rgb: list[int]
    radius: float


def balls(crystals: Iterable[Shown]) -> dict[str, Ball]:
    """Colour and covalent radius (Å) of each element in the crystals."""
    symbols = sorted({symbol for crystal in crystals for symbol in crystal.species})
    numbers = {symbol: atomic_numbers[symbol] for symbol in symbols}
    return {
        symbol: Ball(
            [round(255 * float(part)) for part in jmol_colors[z]],
            round(float(covalent_radii[z]), 2),
        )
        for symbol, z in numbers.items()
    }
