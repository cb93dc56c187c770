"""Convex hull: formation energies, distances to the hull, and words for these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pymatgen.core import Composition, Element, Structure

from ccdcgan.dft.engines.base import LevelOfTheory, same_level
from ccdcgan.dft.engines.corrections import MP2020, Corrections
from ccdcgan.dft.errors import UserError

#: Distances to the hull below this, eV/atom, are noise of the arithmetic.
NOISE = 1e-9

#: Distances to the hull that crystals are counted within, eV/atom. What is made lies mostly within
#: the first but zero (Sun et al., Sci. Adv. 2, e1600225 (2016)).
DEPTHS = (0.0, 0.025, 0.05, 0.1)

#: How far from the hull a crystal is, in words: see `nearness`.
Nearness = Literal["on the hull", "within 0.025", "within 0.10", "above"]

#: The largest distance of each, eV/atom; all beyond is above.
NEAR: dict[Nearness, float] = {"on the hull": 0.0, "within 0.025": 0.025, "within 0.10": 0.10}


def nearness(e_above_hull: float) -> Nearness:
    """The word for a distance to the hull, eV/atom: the nearest of `NEAR` that it is within."""
    return next((word for word, most in NEAR.items() if e_above_hull <= most + NOISE), "above")


def depth_name(depth: str) -> str:
    """Heading of what is counted within a distance."""
    return "on the hull" if depth == "0" else f"within {depth}"


class Thresholds(BaseModel):
    """The paper's words: distances to the hull, eV/atom, of stable and metastable phases.

    Only phases of negative formation energy count (paper, Results: 0.100 and 0.150; stable phases
    are metastable too).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stable: float = Field(default=0.100, ge=0, description="eV/atom.")
    metastable: float = Field(default=0.150, ge=0, description="eV/atom.")

    @model_validator(mode="after")
    def _in_order(self) -> Thresholds:
        if self.stable > self.metastable:
            raise ValueError(
                f"stable {self.stable:g} eV/atom is above metastable {self.metastable:g} eV/atom: "
                "stable phases are metastable, too; set both"
            )
        return self

    def label(
        self, formation_energy: float, e_above_hull: float
    ) -> Literal["stable", "metastable", "unstable"]:
        """``stable``, ``metastable`` (and not stable) or ``unstable``."""
        if formation_energy < 0 and e_above_hull < self.stable:
            return "stable"
        if formation_energy < 0 and e_above_hull < self.metastable:
            return "metastable"
        return "unstable"


class Place(NamedTuple):
    """Where a crystal lies, eV/atom.

    Attributes
    ----------
    energy
        At the hull's level of theory, its corrections included.
    formation_energy, e_above_hull
        Against the elements, and from the hull; that is negative below it.
    """

    energy: float
    formation_energy: float
    e_above_hull: float


class Hull:
    """Convex hull of the entries of one level of theory.

    Parameters
    ----------
    compositions, energies_per_atom
        One composition and one energy (eV/atom) for each entry; the lowest entry of each pure
        element is its reference.
    levels
        Level of theory of each entry.
    elements
        Elements of the system.
    corrections
        Of energies as engines give them; those of the entries have them already.

    Raises
    ------
    UserError
        The entries mix levels of theory, an energy is not finite, or an end member is missing (its
        name is in the message).
    """

    def __init__(
        self,
        compositions: Sequence[Composition],
        energies_per_atom: Sequence[float],
        levels: Sequence[LevelOfTheory],
        elements: Sequence[str],
        corrections: Corrections | None = None,
    ) -> None:
        # It takes matplotlib along, which commands that build no hull do not wait for.
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

        self.level = same_level(list(levels))
        self._corrections = corrections
        if corrections is not None:
            self.level = self.level.model_copy(update={"corrections": MP2020})
        entries = [
            PDEntry(c, e * c.num_atoms)
            for c, e in zip(compositions, energies_per_atom, strict=True)
        ]
        for composition, energy in zip(compositions, energies_per_atom, strict=True):
            if not math.isfinite(energy):
                raise UserError(f"the energy of {composition.reduced_formula} is not finite")
        for element in elements:
            if not any(c.is_element and c.elements[0].symbol == element for c in compositions):
                raise UserError(
                    f"the convex hull needs the pure element {element} at the level of theory "
                    f"{self.level}: no structure of it converged"
                )
        self._entry = PDEntry
        self._diagram = PhaseDiagram(entries, elements=[Element(e) for e in elements])

    @classmethod
    def of(
        cls,
        crystals: Iterable[tuple[Structure, float, LevelOfTheory]],
        elements: Sequence[str],
        corrections: Corrections | None = None,
    ) -> Self:
        """The hull of crystals with their energies (eV/atom) as the engine gives them.

        Raises
        ------
        UserError
            See `Hull`.
        """
        compositions, energies, levels = [], [], []
        for structure, energy, level in crystals:
            compositions.append(structure.composition)
            energies.append(energy + (corrections.per_atom(structure) if corrections else 0.0))
            levels.append(level)
        return cls(compositions, energies, levels, elements, corrections)

    def formation_energy(self, composition: Composition, energy_per_atom: float) -> float:
        """Formation energy against the elements, eV/atom."""
        entry = self._entry(composition, energy_per_atom * composition.num_atoms)
        return float(self._diagram.get_form_energy_per_atom(entry))

    def e_above_hull(self, composition: Composition, energy_per_atom: float) -> float:
        """Distance to the hull, eV/atom; negative for an entry below it."""
        entry = self._entry(composition, energy_per_atom * composition.num_atoms)
        value = self._diagram.get_e_above_hull(entry, allow_negative=True)
        return float(value if value is not None else 0.0)

    def place(self, structure: Structure, energy_per_atom: float) -> Place:
        """The place of a crystal whose energy (eV/atom) is as the engine gives it."""
        composition = structure.composition
        if self._corrections is not None:
            energy_per_atom += self._corrections.per_atom(structure)
        return Place(
            energy_per_atom,
            self.formation_energy(composition, energy_per_atom),
            self.e_above_hull(composition, energy_per_atom),
        )

    def hull_energy(self, composition: Composition) -> float:
        """Formation energy of the hull at a composition, eV/atom."""
        energy = float(self._diagram.get_hull_energy_per_atom(composition))
        return self.formation_energy(composition, energy)
