"""Runs of VASP in the documents that atomate2 keeps of them; nothing in those is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from ccdcgan.dft.engines.frames import KBAR
from ccdcgan.dft.engines.vasp.existing import (
    ExistingRun,
    Library,
    UnsuitableError,
    complete_tags,
    one_level,
    ordered_moments,
)
from ccdcgan.dft.engines.vasp.files import Grid, Run, are_settled
from ccdcgan.dft.engines.vasp.inputs import by_element
from ccdcgan.dft.engines.vasp.tags import one_each
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.decoding import StoredStructure


class PotcarSpec(BaseModel):
    """What atomate2 keeps of a POTCAR."""

    titel: str | None = None
    hash: str | None = None
    summary_stats: dict[str, Any] | None = None

    def is_as(self, other: PotcarSpec) -> bool:
        """Whether both are of the same file."""
        if self.hash and other.hash:
            return (self.titel, self.hash) == (other.titel, other.hash)
        both = self.summary_stats is not None and self.summary_stats == other.summary_stats
        return self.titel == other.titel and both


class _Grid(BaseModel):
    generation_style: str
    kpoints: list[list[float]]
    usershift: list[float] = [0.0, 0.0, 0.0]


class _Inputs(BaseModel):
    incar: dict[str, Any]
    parameters: dict[str, Any] = {}
    kpoints: _Grid
    potcar_spec: list[PotcarSpec]
    structure: StoredStructure


class _Step(BaseModel):
    forces: list[list[float]]
    stress: list[list[float]]
    num_electronic_steps: int
    electronic_steps: list[dict[str, Any]] | None = None


class _Outputs(BaseModel):
    energy: float
    structure: StoredStructure
    ionic_steps: list[_Step]


class _Calculation(BaseModel):
    input: _Inputs
    output: _Outputs
    has_vasp_completed: str | bool


class _Task(BaseModel):
    """What counts of atomate2's document of a run."""

    calcs_reversed: list[_Calculation]


def potcar_specs(library: Library) -> dict[str, PotcarSpec]:
    """What atomate2 keeps of an engine's POTCARs, by element."""
    from emmet.core.vasp.calculation import PotcarSpec as Spec

    return {
        p.element: PotcarSpec.model_validate(Spec.from_potcar_single(p).model_dump())
        for p in library.potcar
    }


def read_task(
    document: Mapping[str, Any], library: Library, specs: Mapping[str, PotcarSpec]
) -> ExistingRun:
    """The last run of a TaskDoc of atomate2, as a database has it; it has no frames.

    Raises
    ------
    UnsuitableError
        Something that counts is not in it.
    """
    try:
        last = _Task.model_validate(document).calcs_reversed[0]
        initial = last.input.structure
        final = last.output.structure
        step = last.output.ionic_steps[-1]
        force = float(np.linalg.norm(np.array(step.forces, float), axis=1).max())
        stress = float(np.abs(np.array(step.stress, float)).max() / KBAR)
        grid = last.input.kpoints
        divisions = tuple(int(n) for n in grid.kpoints[0])
        sites = [site.specie.symbol for site in initial]
        names = [p.titel or "" for p in last.input.potcar_spec]
        incar = complete_tags(last.input.incar, last.input.parameters, names)
        most = int(incar.get("NELM") or last.input.parameters.get("NELM") or 60)
        plain = one_level(partial(by_element, incar, sites))
        ediff = float(incar.get("EDIFF") or last.input.parameters.get("EDIFF") or 1e-4)
        # Documents of earlier versions have but their number.
        settled = not step.electronic_steps or are_settled(step.electronic_steps, ediff)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UnsuitableError(f"the document lacks {place}") from None
    except (IndexError, KeyError, TypeError, ValueError, UserError):
        raise UnsuitableError("the document cannot be read") from None
    complete = last.has_vasp_completed in (True, "successful")
    steps = len(last.output.ionic_steps)
    run = Run(
        structure=final,
        energy_per_atom=last.output.energy / len(final),
        max_force=force,
        max_stress=stress,
        electronic=complete and settled and step.num_electronic_steps < most,
        ionic=complete and steps < int(incar.get("NSW") or 0),
        pseudopotentials=one_level(
            partial(_pseudopotentials, sites, last.input.potcar_spec, library, specs)
        ),
    )
    return ExistingRun(
        ordered_moments(initial, incar),
        plain,
        Grid(grid.generation_style, divisions, tuple(grid.usershift)),
        run,
        steps,
    )


def _pseudopotentials(
    sites: Sequence[str],
    used: Sequence[PotcarSpec],
    library: Library,
    specs: Mapping[str, PotcarSpec],
) -> dict[str, str]:
    """Titles of the POTCARs, by element; said of those that are not the library's.

    Raises
    ------
    ValueError
        An element has several.
    """
    found: list[tuple[str, str]] = []
    for spec in used:
        # Where an element stands in POSCAR twice, pymatgen has more of them than VASP.
        name = " ".join((spec.titel or "").split()[1:2])
        element = name.partition("_")[0]
        own = element in specs and spec.is_as(specs[element])
        found.append((element, library.titles[element] if own else f"{spec.titel}, another file"))
    return dict.fromkeys(sites, "none that the document tells") | one_each("POTCAR", found)
