"""Runs of VASP that others have made: read, and compared with what an engine would have asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.engines.frames import Frame, vasp_frames
from ccdcgan.dft.engines.vasp.files import (
    Convergence,
    Grid,
    Run,
    are_settled,
    coarser_grid,
    convergence,
    file_of,
    grid_of,
    run_of,
    titles,
    with_all_digits,
)
from ccdcgan.dft.engines.vasp.inputs import by_element, expected_inputs
from ccdcgan.dft.engines.vasp.limits import beyond_limits, not_self_consistent
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.tags import (
    DECISIVE,
    LIMITED,
    NEUTRAL,
    alike,
    decisive,
    difference,
    is_noncollinear,
)
from ccdcgan.dft.engines.vasp.verdict import refused
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import NOISE, is_magnetic, with_moments

if TYPE_CHECKING:
    from pymatgen.io.vasp import Vasprun

T = TypeVar("T")

#: Tags that VASP takes for true where INCAR has none, beside those that are `NEUTRAL`.
ON_BY_DEFAULT = {"GGA_COMPAT", "LDIAG"}


class UnsuitableError(Exception):
    """A run that is no result of the engine; the text says why."""


@dataclass(frozen=True)
class ExistingRun:
    """A run that has ended, wherever it is kept.

    Attributes
    ----------
    initial
        What it started from; with its moments where some are up and some down.
    incar, grid
        As VASP read them; tags of U by element.
    """

    initial: Structure
    incar: dict[str, Any]
    grid: Grid
    run: Run
    steps: int
    frames: list[Frame] = field(default_factory=list)

    @property
    def is_static(self) -> bool:
        return not self.incar.get("NSW") or self.incar.get("IBRION") == -1


class Library:
    """The POTCARs of an engine, for the elements of a campaign.

    Raises
    ------
    UserError
        One is not there.
    """

    def __init__(self, engine: VaspEngine, elements: Sequence[str]) -> None:
        from pymatgen.io.vasp import Potcar

        # The last stage gives the energy.
        engine = engine.of_stage(-1)
        engine.check_potcars(elements)
        symbols = [engine.potcar(e) for e in elements]
        # As they stand in a file for several elements.
        self.potcar = Potcar.from_str(str(Potcar(symbols, engine.functional)))
        self.titles = titles(self.potcar)
        self.electrons = {p.element: float(p.nelectrons) for p in self.potcar}


def read_folder(folder: Path) -> ExistingRun:
    """The run in a folder, its files packed or not.

    Raises
    ------
    UnsuitableError
        A file is missing or cut.
    """
    from pymatgen.io.vasp import Vasprun
    from pymatgen.io.vasp.inputs import Potcar

    for name in ("vasprun.xml", "POTCAR"):
        if not file_of(folder, name).exists():
            raise UnsuitableError(f"{name} is missing")
    try:
        found = Vasprun(file_of(folder, "vasprun.xml"), parse_dos=False, parse_eigen=False)
        initial, final = found.initial_structure, found.final_structure
        sites = [site.specie.symbol for site in initial]
        outcar = file_of(folder, "OUTCAR").exists()
        run = run_of(found, folder, convergence(folder) if outcar else _convergence(found))
        grid = grid_of(found.kpoints)
        frames = vasp_frames(folder)
    except Exception:  # noqa: BLE001  files that are cut or not VASP's fail in many ways
        raise UnsuitableError("vasprun.xml is cut or cannot be read") from None
    try:
        potcar = Potcar.from_file(file_of(folder, "POTCAR"))
        own = [str(p.keywords["TITEL"]).strip() for p in potcar]
    except Exception:  # noqa: BLE001  the same
        raise UnsuitableError("POTCAR cannot be read") from None
    # The file may be another run's; vasprun.xml cuts long titles.
    used = [str(title).strip() for title in found.potcar_symbols]
    if len(own) != len(used) or not all(map(str.startswith, own, used)):
        raise UnsuitableError(f"POTCAR is not what ran, which was {', '.join(used)}")
    run.pseudopotentials = one_level(partial(titles, potcar))
    if initial.composition != final.composition:
        raise UnsuitableError("it ends with other atoms than it begins with")
    incar = complete_tags(found.incar, found.parameters, found.potcar_symbols)
    initial = with_all_digits(initial, file_of(folder, "POSCAR"))
    return ExistingRun(
        ordered_moments(initial, incar),
        one_level(partial(by_element, incar, sites)),
        grid,
        run,
        len(found.ionic_steps),
        frames,
    )


def one_level(read: Callable[[], dict[str, T]]) -> dict[str, T]:
    """What is read of each element.

    Raises
    ------
    UnsuitableError
        Sites of one element differ in it, as no campaign of ours has them.
    """
    try:
        return read()
    except ValueError as error:
        raise UnsuitableError(f"another level of theory: {error}") from None


def _convergence(run: Vasprun) -> Convergence:
    """Whether a run converged, as far as vasprun.xml says."""
    steps = run.ionic_steps[-1]["electronic_steps"]
    settled = are_settled(steps, float(run.parameters["EDIFF"]))
    return Convergence(settled, bool(run.converged_ionic))


def complete_tags(
    incar: Mapping[str, Any], parameters: Mapping[str, Any], potcars: Sequence[str]
) -> dict[str, Any]:
    """Tags as VASP took them where INCAR leaves them to its defaults."""
    found = {str(tag).upper(): value for tag, value in incar.items()}
    found.setdefault("ENCUT", parameters.get("ENMAX"))
    if is_noncollinear(found):
        found["ISPIN"] = 1
    if str(found.get("GGA", "--")).strip("- ") == "" and all("PBE" in name for name in potcars):
        found["GGA"] = "PE"
    if str(found.get("METAGGA", "--")).strip("- ").upper() in ("", "NONE"):
        found.pop("METAGGA", None)
    return found


def ordered_moments(structure: Structure, incar: Mapping[str, Any]) -> Structure:
    """The structure with the moments of INCAR where some are up and some down.

    Moments of one sign are no order of their own, but a guess that VASP begins with; of none at all
    see `_magnets_without_moments`.
    """
    moments = incar.get("MAGMOM")
    if isinstance(moments, (list, tuple)) and len(moments) == len(structure):
        with contextlib.suppress(TypeError, ValueError):
            numbers = [float(m) for m in moments]
            if min(numbers) < 0 < max(numbers):
                return with_moments(structure, numbers)
    return with_moments(structure, None)


def judge(found: ExistingRun, settings: RelaxationSettings, library: Library) -> None:
    """See whether a run is what the engine of a campaign would have computed.

    Raises
    ------
    UnsuitableError
        It is of another level of theory, or no result by the gates of our own runs.
    """
    engine = settings.engine
    assert isinstance(engine, VaspEngine)
    stage = engine.kinds[-1]
    if found.is_static != (stage == "static"):
        kinds = {True: "a static run", False: "a relaxation"}
        raise UnsuitableError(
            f"another level of theory: {kinds[found.is_static]}, where the campaign's energies are "
            f"those of {kinds[not found.is_static]}"
        )
    if tag := not_self_consistent(found.incar):
        raise UnsuitableError(f"it is not self-consistent: {tag}")
    if magnets := _magnets_without_moments(found, engine):
        raise UnsuitableError(
            f"another start: MAGMOM is 0 for {' and '.join(magnets)}, and VASP gives no moment "
            "where none is; the campaign begins with some"
        )
    if changed := _differences(found, engine, library):
        told = [difference(tag, values) for tag, values in changed.items()]
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        raise UnsuitableError(f"another level of theory: {', '.join(told[:3])}{more}")
    if found.is_static:
        # No relaxation of ours has been before it, whose forces were looked at.
        found.run.ionic = True
    if reason := refused(found.run, engine, "relax", settings):
        raise UnsuitableError(reason)


def _magnets_without_moments(found: ExistingRun, engine: VaspEngine) -> list[str]:
    """Elements that a run has kept nonmagnetic, and that the engine starts with moments.

    Without ISPIN = 2 it is another level of theory, where the engine has that.
    """
    moments = found.incar.get("MAGMOM")
    has_spin = found.incar.get("ISPIN") == 2 or is_noncollinear(found.incar)
    # A charge density that it began with may have had moments all the same.
    if moments is None or not has_spin or is_magnetic(found.run.structure):
        return []
    try:
        rows = np.array(moments, float).reshape(len(found.initial), -1)
    except (TypeError, ValueError):
        return []
    symbols = [site.specie.symbol for site in found.initial]
    magnets = np.array([bool(engine.starting_moments.get(symbol)) for symbol in symbols])
    kept = not (np.abs(rows[magnets]) > NOISE).any()
    return sorted({symbols[i] for i in np.flatnonzero(magnets)}) if kept else []


def _differences(
    found: ExistingRun, engine: VaspEngine, library: Library
) -> dict[str, tuple[Any, Any]]:
    """What decides the energy and differs from what the engine asks for: (asked, ran)."""
    # After several stages, grid and basis are those of the last cell.
    cell = found.run.structure if len(engine.stages) > 1 else found.initial
    incar, kpoints = expected_inputs(engine, cell)
    asked, ran = decisive(incar), decisive(found.incar)
    for tag in sorted({*incar, *found.incar} - DECISIVE.keys() - NEUTRAL - LIMITED):
        default = tag in ON_BY_DEFAULT
        asked[tag], ran[tag] = (_plain(tags.get(tag, default)) for tags in (incar, found.incar))
    changed = {t: (asked[t], ran[t]) for t in asked if not alike(t, asked[t], ran[t])}
    electrons = sum(library.electrons[site.specie.symbol] for site in found.initial)
    changed |= beyond_limits(incar, found.incar, found.initial, electrons)
    if coarser := coarser_grid(grid_of(kpoints), found.grid):
        changed["KPOINTS"] = coarser
    for element, title in found.run.pseudopotentials.items():
        if title != library.titles.get(element):
            changed[f"POTCAR of {element}"] = (library.titles.get(element), title)
    return changed


def _plain(value: Any) -> Any:
    """A value of a tag, None where it is switched off."""
    if isinstance(value, str):
        return value.strip().upper()
    if isinstance(value, (int, float)):
        return float(value) or None
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else value
