"""Input files of one run of VASP, by atomate2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from ccdcgan.dft.engines.vasp.settings import Stage, VaspEngine
from ccdcgan.dft.engines.vasp.tags import HUBBARD, INCAR
from ccdcgan.dft.structures.moments import along_z, moments_of, with_moments

if TYPE_CHECKING:
    from pymatgen.io.vasp import Kpoints
    from pymatgen.io.vasp.sets import VaspInputSet


def write_inputs(
    engine: VaspEngine,
    structure: Structure,
    stage: Stage,
    tags: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write INCAR (the paper's with other `tags`), KPOINTS, POSCAR and POTCAR of one run."""
    _inputs(engine, structure, stage, tags).write_input(folder)


def expected_inputs(
    engine: VaspEngine, structure: Structure, stage: Stage
) -> tuple[dict[str, Any], Kpoints]:
    """INCAR, as of `by_element`, and KPOINTS of a first run; no POTCAR is needed."""
    inputs = _inputs(engine, structure, stage, engine.tags, potcar_spec=True)
    sites = [site.specie.symbol for site in inputs.poscar.structure]
    return by_element(dict(inputs.incar), sites), inputs.kpoints


def by_element(incar: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    """INCAR with tags of U by element in place of their order; none of them where LDAU is off."""
    plain = {tag: value for tag, value in incar.items() if not tag.startswith("LDAU")}
    if not incar.get("LDAU"):
        return plain
    symbols = [symbol for symbol, _ in groupby(sites)]
    for tag, value in incar.items():
        if tag in HUBBARD and isinstance(value, (list, tuple)):
            plain[tag] = dict(zip(symbols, map(float, value), strict=True))
        elif tag.startswith("LDAU") and tag != "LDAUPRINT":
            plain[tag] = value
    return plain


def _inputs(
    engine: VaspEngine,
    structure: Structure,
    stage: Stage,
    tags: Mapping[str, Any],
    potcar_spec: bool = False,
) -> VaspInputSet:
    """Inputs of one run, with the POTCARs or their names alone."""
    from atomate2.vasp.sets.core import RelaxSetGenerator, StaticSetGenerator
    from pymatgen.io.vasp import Kpoints

    kind = RelaxSetGenerator if stage == "relax" else StaticSetGenerator
    grid = Kpoints.automatic_density_by_lengths(
        structure, [engine.kpoints_length] * 3, force_gamma=True
    )
    # Sorted: a POTCAR for each element, not for each change of element in the list of sites.
    structure = structure.get_sorted_structure()
    incar = {**INCAR, **tags, **_hubbard(engine, tags, structure)}
    if (moments := moments_of(structure)) is not None:
        # Those of elements would go before those of sites.
        incar.pop("MAGMOM", None)
        if incar.get("LSORBIT") or incar.get("LNONCOLLINEAR"):
            moments = [m if isinstance(m, list) else [0.0, 0.0, m] for m in moments]
        else:
            moments = list(along_z(structure) or ())
        structure = with_moments(structure, moments)
    generator = kind(
        user_incar_settings=incar,
        user_kpoints_settings=grid,
        user_potcar_functional=engine.functional,
        user_potcar_settings={e: engine.potcar(e) for e in structure.composition.get_el_amt_dict()},
        auto_ismear=False,
    )
    return generator.get_input_set(structure, potcar_spec=potcar_spec)


def _hubbard(engine: VaspEngine, tags: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
    """Tags of U for one structure; LDAU alone would give all its elements VASP's own U."""
    if not tags.get("LDAU"):
        return {}
    if engine.hubbard_u is None:
        given = {tag: tags[tag] for tag in HUBBARD if tags.get(tag)}
        values = given["LDAUU"]
    else:
        from pymatgen.io.vasp.sets import MPRelaxSet

        given = {tag: MPRelaxSet.CONFIG["INCAR"][tag] for tag in HUBBARD}
        anion = max(structure.composition.elements, key=lambda e: e.X).symbol
        values = given["LDAUU"].get(anion, {})
    if any(values.get(e.symbol) for e in structure.composition.elements):
        return given
    return {"LDAU": False, "LDAUTYPE": None, **dict.fromkeys(HUBBARD)}
