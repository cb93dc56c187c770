"""Inputs by an atomate2 maker of the user's own, and what of them decides energies.

Of a maker only its input-set generator is used: runs, restarts and gates are those of any stage.
It is imported only where its package is trusted.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.vasp.doubts import refuse_values
from ccdcgan.dft.engines.vasp.stages import MakerInputs, MakerStage
from ccdcgan.dft.engines.vasp.tags import (
    HUBBARD,
    LIMITED,
    NEUTRAL,
    TECHNICAL,
    decisive,
    difference,
    plain,
)
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import did_you_mean
from ccdcgan.dft.trusted import is_trusted, package_of

if TYPE_CHECKING:
    from pymatgen.io.vasp import Kpoints
    from pymatgen.io.vasp.inputs import VaspInput

#: Tags that follow the structure, and those by which a campaign says what a stage does.
OF_THE_STRUCTURE = {"LDAU", "LDAUPRINT", "LDAUTYPE", "LMAXMIX", "MAGMOM", "NBANDS", *HUBBARD}
OF_THE_STAGE = {"EDIFFG", "ICHARG", "ISIF", "ISTART", "NSW"}

#: Volume of an atom in a reference structure, Å³.
VOLUME = 20.0


def generator_of(stage: MakerStage) -> Any:
    """A new input-set generator of a stage's maker, whose package is imported.

    Raises
    ------
    UserError
        Its package is not trusted here, or it cannot be made; the text says what to do.
    """
    module, _, name = stage.maker.partition(":")
    _require_trust(stage, module)
    try:
        found = import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a package of somebody else's
        raise UserError(
            f"maker {stage.maker} cannot be imported: {_said(error)}: install its package where "
            "the campaign is run, submitted and computed"
        ) from None
    made = getattr(found, name, None)
    if made is None:
        classes = [n for n, o in vars(found).items() if inspect.isclass(o)]
        raise UserError(f"maker {stage.maker}: {module} has no {name}{did_you_mean(name, classes)}")
    from atomate2.vasp.jobs.base import BaseVaspMaker

    if not (inspect.isclass(made) and issubclass(made, BaseVaspMaker)):
        raise UserError(
            f"maker {stage.maker} is no maker of one VASP run: it needs to be a subclass of "
            "atomate2's BaseVaspMaker"
        )
    # A trusted package may hold what it has imported from others.
    _require_trust(stage, made.__module__)
    try:
        inspect.signature(made).bind(**stage.parameters)
    except TypeError as error:
        raise UserError(f"parameters of maker {stage.maker}: {error}") from None
    try:
        generator = made(**stage.parameters).input_set_generator
    except Exception as error:  # noqa: BLE001  code of somebody else's
        raise UserError(f"maker {stage.maker} cannot be made: {_said(error)}") from None
    if not hasattr(generator, "get_input_set"):
        raise UserError(f"maker {stage.maker} has no input_set_generator that makes input sets")
    return generator


def _require_trust(stage: MakerStage, module: str) -> None:
    if not is_trusted(module):
        package = package_of(module)
        raise UserError(
            f"maker {stage.maker} is of the package {package}, which is not trusted here: if it "
            f"is yours, add {package} to `trusted` in the campaign file, or on a cluster in "
            "my_fireworks.yaml"
        )


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def inputs_by_maker(
    stage: MakerStage, structure: Structure, expected: MakerInputs, potcar_spec: bool = False
) -> VaspInput:
    """What a maker writes for a structure, with a grid of k-points in place of KSPACING.

    Parameters
    ----------
    structure
        With its sites sorted by element.
    expected
        What decides the energies of the campaign.
    potcar_spec
        With the names of the POTCARs in place of themselves.

    Raises
    ------
    UserError
        The maker makes none, or of another level of theory than expected.
    """
    inputs, here = _made(stage, structure, potcar_spec)
    if changed := differing(expected, here, of_a_structure=True):
        raise UserError(
            f"maker {stage.maker} writes for {structure.composition.reduced_formula} what is "
            f"another level of theory than the campaign's: {changed}"
        )
    return inputs


def inputs_written(stage: MakerStage, elements: Sequence[str]) -> MakerInputs:
    """What of a maker's inputs decides energies in a system, from those of reference structures.

    Raises
    ------
    UserError
        It cannot be used for a stage of its kind, or has not one level of theory in the system.
    """
    found: MakerInputs | None = None
    for structure in _references(elements):
        inputs, here = _made(stage, structure, potcar_spec=True)
        _refuse(stage, inputs["INCAR"])
        if found is not None:
            if changed := differing(found, here, of_a_structure=True):
                raise UserError(
                    f"maker {stage.maker} has not one level of theory for all structures of "
                    f"{'-'.join(elements)}: {changed}"
                )
            joined = {
                "hubbard": {**found.hubbard, **here.hubbard},
                "potcars": {**found.potcars, **here.potcars},
                "kpoints": found.kpoints + here.kpoints,
            }
            here = here.model_copy(update=joined)
        found = here
    assert found is not None
    return found


def _references(elements: Sequence[str]) -> Iterator[Structure]:
    """Each element, then all of them in one cell."""
    alone = [[element] for element in elements]
    for sites in [*alone, list(elements)] if len(elements) > 1 else alone:
        cell = Lattice.cubic((VOLUME * len(sites)) ** (1 / 3))
        places = [[i / len(sites)] * 3 for i in range(len(sites))]
        yield Structure(cell, sites, places).get_sorted_structure()


def _made(
    stage: MakerStage, structure: Structure, potcar_spec: bool
) -> tuple[VaspInput, MakerInputs]:
    """The inputs of one structure, and what of them decides its energy."""
    generator, formula = generator_of(stage), structure.composition.reduced_formula
    try:
        inputs = generator.get_input_set(structure=structure, potcar_spec=potcar_spec)
        kept = _is_same(inputs["POSCAR"].structure, structure)
        inputs["KPOINTS"] = _grid(inputs["KPOINTS"], inputs["INCAR"], structure)
        decided = _decided(generator, inputs, structure)
    except Exception as error:  # noqa: BLE001  code of somebody else's
        raise UserError(
            f"maker {stage.maker} makes no inputs for {formula}: {_said(error)}"
        ) from None
    if not kept:
        raise UserError(f"maker {stage.maker} changes the structure of {formula}")
    return inputs, decided


def _is_same(written: Structure, structure: Structure) -> bool:
    return (
        [site.specie.symbol for site in written] == [site.specie.symbol for site in structure]
        and np.allclose(written.lattice.matrix, structure.lattice.matrix)
        and np.allclose((written.frac_coords - structure.frac_coords + 0.5) % 1, 0.5)
    )


def _grid(kpoints: Kpoints | None, incar: Mapping[str, Any], structure: Structure) -> Kpoints:
    """The grid that VASP would use."""
    from pymatgen.io.vasp import Kpoints

    modes = Kpoints.supported_modes
    if kpoints is not None and kpoints.style in (modes.Gamma, modes.Monkhorst):
        return kpoints
    # As in VASP's manual, of KSPACING and of the automatic mode of KPOINTS.
    lengths = np.array(structure.lattice.reciprocal_lattice.abc)
    if kpoints is None:
        divisions = np.ceil(lengths / float(incar.get("KSPACING", 0.5)))
        gamma = incar.get("KGAMMA", True)
    elif kpoints.style is modes.Automatic:
        divisions = np.floor(float(kpoints.kpts[0][0]) * lengths / (2 * np.pi) + 0.5)
        gamma = True
    else:
        raise ValueError(f"its k-points are a list ({kpoints.style.name}), and no grid")
    make = Kpoints.gamma_automatic if gamma else Kpoints.monkhorst_automatic
    return make(kpts=tuple(int(max(1, n)) for n in divisions))


def _decided(generator: Any, inputs: VaspInput, structure: Structure) -> MakerInputs:
    """What of the inputs of one structure decides its energy."""
    incar = dict(inputs["INCAR"])
    functional = str(generator.user_potcar_functional)
    if not incar.get("GGA") and functional.startswith("PBE"):
        # VASP takes the functional of the POTCAR.
        incar["GGA"] = "PE"
    tags = {tag: plain(value) for tag, value in incar.items()} | decisive(incar)
    left_out = TECHNICAL | OF_THE_STRUCTURE | OF_THE_STAGE
    symbols = [symbol for symbol, _ in groupby(site.specie.symbol for site in structure)]
    kpoints = inputs["KPOINTS"]
    return MakerInputs(
        incar={tag: value for tag, value in sorted(tags.items()) if tag not in left_out},
        hubbard=_hubbard(incar, symbols),
        kpoints=[[kpoints.style.name, [int(n) for n in kpoints.kpts[0]]]],
        functional=functional,
        potcars=dict(zip(symbols, generator.potcar_symbols, strict=True)),
    )


def _hubbard(incar: Mapping[str, Any], symbols: Sequence[str]) -> dict[str, list[float]]:
    """LDAUL, LDAUU, LDAUJ and LDAUTYPE of elements that have U or J."""
    if not incar.get("LDAU"):
        return {}
    zeros = [0.0] * len(symbols)
    columns = (incar.get(tag, zeros) for tag in ("LDAUL", "LDAUU", "LDAUJ"))
    kind = float(incar.get("LDAUTYPE", 2))
    rows = zip(symbols, *columns, strict=True)
    return {e: [*map(float, (low, u, j)), kind] for e, low, u, j in rows if u or j}


def summary(inputs: MakerInputs) -> str:
    """What a maker writes, in a line for people."""
    defaults = decisive({})
    told = [f"{t} {v}" for t, v in inputs.incar.items() if defaults.get(t, v) != v]
    told += [f"U of {element} {values[1]:g} eV" for element, values in inputs.hubbard.items()]
    return ", ".join([*told, f"{inputs.functional} POTCARs {' '.join(inputs.potcars.values())}"])


def differing(expected: MakerInputs, here: MakerInputs, of_a_structure: bool = False) -> str:
    """What differs, for people; empty if nothing does.

    Parameters
    ----------
    of_a_structure
        Leave out what may follow the structure: the grid, and tags that are `NEUTRAL` or `LIMITED`.
    """
    free = NEUTRAL | LIMITED if of_a_structure else set()
    tags = (expected.incar.keys() | here.incar.keys()) - free
    apart: dict[str, tuple[Any, Any]] = {
        tag: (expected.incar.get(tag), here.incar.get(tag)) for tag in sorted(tags)
    }
    if not of_a_structure:
        apart["k-points"] = (expected.kpoints, here.kpoints)
    apart["POTCARs"] = (expected.functional, here.functional)
    for element in here.potcars.keys() & expected.potcars.keys():
        apart[f"POTCAR of {element}"] = (expected.potcars[element], here.potcars[element])
        apart[f"U of {element}"] = (expected.hubbard.get(element), here.hubbard.get(element))
    return ", ".join(difference(t, v) for t, v in apart.items() if v[0] != v[1])


def _refuse(stage: MakerStage, incar: Mapping[str, Any]) -> None:
    """Refuse an INCAR that no result of this stage can come from."""
    mover = incar.get("IBRION")
    does = "relax" if mover in (1, 2, 3) else f"IBRION = {mover}"
    if not incar.get("NSW") or mover == -1:
        does = "static"
    if does != stage.kind:
        raise UserError(
            f"maker {stage.maker} is of another kind than its stage: {does}, and not {stage.kind}"
        )
    if incar.get("ENCUT") is None:
        raise UserError(
            f"maker {stage.maker} writes no ENCUT, and VASP would take another for each "
            "composition: set it in the maker"
        )
    try:
        refuse_values({t: v for t, v in incar.items() if t not in OF_THE_STRUCTURE})
    except ValueError as error:
        raise UserError(f"maker {stage.maker}: {error}") from None
