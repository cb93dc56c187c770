"""Phases as rows of a flat table, of the same columns everywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from ccdcgan.dft.structures.hull import Nearness
from ccdcgan.workflows.documents import NoPlace, Origin

if TYPE_CHECKING:
    import pandas as pd

LABELS: tuple[str, ...] = (*get_args(Nearness), *get_args(NoPlace))
ORIGINS: tuple[str, ...] = get_args(Origin.model_fields["kind"].annotation)


class Column(NamedTuple):
    """A column of the flat table: its place in a phase's document, and what it says."""

    path: str
    type: str
    unit: str | None
    description: str


#: Columns of the flat table. The types are those of OPTIMADE.
COLUMNS: dict[str, Column] = {
    "formula": Column("formula", "string", None, "Reduced formula."),
    "spacegroup": Column("spacegroup", "string", None, "Space group at 0.1 Å, with its number."),
    "magnetic_order": Column("magnetic_order", "string", None, "Of the relaxed moments."),
    "nsites": Column("nsites", "integer", None, "Atoms in the relaxed cell."),
    "energy_per_atom": Column("energy_per_atom", "float", "eV/atom", "At the level of theory."),
    "formation_energy_per_atom": Column(
        "formation_energy_per_atom", "float", "eV/atom", "Against the elements."
    ),
    "e_above_hull": Column("e_above_hull", "float", "eV/atom", "Distance to the campaign's hull."),
    "e_above_hull_uncertainty": Column(
        "e_above_hull_uncertainty", "float", "eV/atom", "Of that distance, between checkpoints."
    ),
    "probability_within": Column(
        "probability_within", "float", None, "Probability to be within 0.025 eV/atom of the hull."
    ),
    "correction_per_atom": Column(
        "correction_per_atom", "float", "eV/atom", "Of the level of theory, in the energy."
    ),
    "second_energy_per_atom": Column(
        "second_opinion.energy_per_atom", "float", "eV/atom", "By another engine, at its geometry."
    ),
    "second_e_above_hull": Column(
        "second_opinion.e_above_hull", "float", "eV/atom", "Distance to the hull by that engine."
    ),
    "second_engine": Column("second_opinion.engine", "string", None, "Which engine that is."),
    "lowest_frequency_thz": Column(
        "stability.lowest_frequency_thz", "float", "THz", "Of phonons; negative: imaginary."
    ),
    "dynamically_stable": Column(
        "stability.dynamically_stable", "boolean", None, "Whether no phonon is imaginary."
    ),
    "born_stable": Column(
        "stability.born_stable", "boolean", None, "Whether every strain costs energy."
    ),
    "bulk_modulus_gpa": Column("stability.bulk_modulus_gpa", "float", "GPa", "Voigt-Reuss-Hill."),
    "shear_modulus_gpa": Column("stability.shear_modulus_gpa", "float", "GPa", "Voigt-Reuss-Hill."),
    "label": Column("label", "string", None, f"One of: {', '.join(LABELS)}."),
    "converged": Column("converged", "boolean", None, "Whether its relaxation converged."),
    "reason": Column("reason", "string", None, "Why it did not converge, or is untrusted."),
    "failure": Column("failure", "string", None, "Of what failed, whose fault: crystal, stopped."),
    "said": Column("said", "string", None, "Of what failed, the last words of the code."),
    "host": Column("host", "string", None, "Machine of its last run."),
    "folder": Column("folder", "string", None, "Its files on that machine, of a DFT code."),
    "distinct": Column("distinct", "boolean", None, "Matches no earlier phase of the campaign."),
    "density": Column("density", "float", "g/cm^3", "Mass density."),
    "volume_per_atom": Column("volume_per_atom", "float", "angstrom^3", "Of the relaxed cell."),
    "origin": Column("origin.kind", "string", None, f"One of: {', '.join(ORIGINS)}."),
    "origin_id": Column(
        "origin.id", "string", None, "Prototype and assignment, sample, or stacking."
    ),
    "source": Column("origin.source", "string", None, "Proposal source of a generated crystal."),
    "round": Column("origin.round", "integer", None, "Round that generated it, from 1."),
    "model": Column("origin.model", "string", None, "Key of the generator."),
    "sample": Column("origin.sample", "integer", None, "Index of the noise vector."),
    "noise_seed": Column("origin.noise_seed", "integer", None, "Seed of the noise vectors."),
    "predicted_formation_energy": Column(
        "origin.predicted_formation_energy", "float", "eV/atom", "Before it was relaxed."
    ),
    "engine": Column("level_of_theory.engine", "string", None, "What computed the energy."),
    "level_of_theory": Column(
        "level_of_theory",
        "dictionary",
        None,
        "Engine, package, hash of weights or settings, energy scale, pseudopotentials. Energies "
        "of different levels are not comparable.",
    ),
    "campaign": Column("campaign", "string", None, "Digest of the campaign."),
    "system": Column("system", "string", None, "Elements of the campaign."),
    "hull": Column("hull", "string", None, "Key of the hull that judged it."),
    "id": Column("id", "string", None, "Content key of its relaxation."),
}

#: Types of the columns in pandas.
DTYPES = {
    "string": "string",
    "dictionary": "string",
    "float": "float64",
    "integer": "Int64",
    "boolean": "boolean",
}


def as_frame(phases: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The flat table, of the same types whatever is in it."""
    import pandas as pd

    table = pd.DataFrame([flat(phase) for phase in phases], columns=list(COLUMNS))
    return table.astype({name: DTYPES[column.type] for name, column in COLUMNS.items()})


def flat(phase: Mapping[str, Any]) -> dict[str, object]:
    """The row of a phase in the flat table; the level of theory as JSON."""
    row = {name: value_of(phase, column) for name, column in COLUMNS.items()}
    return {
        name: json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
        for name, value in row.items()
    }


def value_of(phase: Mapping[str, Any], column: Column) -> Any:
    """What a phase has in a column, None if nothing."""
    value: Any = phase
    for key in column.path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if isinstance(value, float) and not math.isfinite(value) else value
