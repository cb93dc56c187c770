"""Input files of one run of VASP, by atomate2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from ccdcgan.dft.engines.vasp.makers import inputs_by_maker
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.stages import MakerStage
from ccdcgan.dft.engines.vasp.tags import HUBBARD, INCAR, TECHNICAL, is_noncollinear, one_each
from ccdcgan.dft.structures.moments import Moment, along_z, moments_of, with_moments
from ccdcgan.dft.systems import electronegativity

if TYPE_CHECKING:
    from pymatgen.io.vasp import Kpoints
    from pymatgen.io.vasp.inputs import VaspInput


def write_inputs(
    engine: VaspEngine, structure: Structure, index: int, tags: Mapping[str, Any], folder: Path
) -> None:
    """Write INCAR, KPOINTS, POSCAR and POTCAR of one run.

    Parameters
    ----------
    index
        Of its stage.
    tags
        Laid over those of the stage.

    Raises
    ------
    UserError
        A maker writes no inputs of the campaign's level of theory.
    """
    _inputs(engine, structure, index, tags).write_input(folder)


def expected_inputs(
    engine: VaspEngine, structure: Structure, index: int = -1
) -> tuple[dict[str, Any], Kpoints]:
    """INCAR, as of `by_element`, and KPOINTS of a first run; no POTCAR is needed."""
    inputs = _inputs(engine, structure, index, {}, potcar_spec=True)
    sites = [site.specie.symbol for site in inputs["POSCAR"].structure]
    return by_element(dict(inputs["INCAR"]), sites), inputs["KPOINTS"]


def by_element(incar: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    """INCAR with tags of U by element in place of their order.

    None of them where LDAU is off, or no element has U or J; without elements that have neither,
    whose LDAUL is nothing's.

    Raises
    ------
    ValueError
        Sites of one element differ in them.
    """
    plain = {tag: value for tag, value in incar.items() if not tag.startswith("LDAU")}
    if not incar.get("LDAU"):
        return plain
    symbols = [symbol for symbol, _ in groupby(sites)]
    columns = {t: incar[t] for t in HUBBARD if isinstance(incar.get(t), (list, tuple))}
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in _rows(columns, symbols)]
    # Of what LDAUU does not name VASP has a U of its own.
    with_u = [row if any(row.get(t, 1.0) for t in ("LDAUU", "LDAUJ")) else None for row in rows]
    found = {e: row for e, row in one_each("U", zip(symbols, with_u, strict=True)).items() if row}
    if columns and not found:
        return plain
    others = {t: v for t, v in incar.items() if t.startswith("LDAU") and t not in columns}
    others.pop("LDAUPRINT", None)
    return plain | others | {t: {e: row[t] for e, row in found.items()} for t in columns}


def _rows(
    columns: Mapping[str, Sequence[Any]], symbols: Sequence[str]
) -> Sequence[tuple[Any, ...]]:
    """Values of each element's place in the columns; ValueError where those are shorter."""
    return list(zip(*columns.values(), strict=True)) if columns else [()] * len(symbols)


def _inputs(
    engine: VaspEngine,
    structure: Structure,
    index: int,
    tags: Mapping[str, Any],
    potcar_spec: bool = False,
) -> VaspInput:
    """Inputs of one run, with the POTCARs or their names alone."""
    from atomate2.vasp.sets.core import RelaxSetGenerator, StaticSetGenerator
    from pymatgen.io.vasp import Kpoints

    # Sorted: a POTCAR for each element, not for each change of element in the list of sites.
    structure = structure.get_sorted_structure()
    stage = engine.stages[index]
    if isinstance(stage, MakerStage):
        return _maker_inputs(engine, structure, index, tags, potcar_spec)
    engine, kind = engine.of_stage(index), engine.kinds[index]
    incar = {**INCAR, **engine.tags, **tags}
    starting = incar.get("MAGMOM", engine.starting_moments)
    incar |= _hubbard(engine, incar, structure)
    if free := is_noncollinear(incar):
        # pymatgen leaves MAGMOM out with ISPIN = 1, which VASP is to have here.
        incar["ISPIN"] = 2
    kinds = {"relax": RelaxSetGenerator, "static": StaticSetGenerator}
    if incar["ISPIN"] == 2:
        # Cobalt and lanthanides would start without what makes them magnets.
        theirs = kinds[kind]().config_dict["INCAR"]["MAGMOM"]
        incar.setdefault("MAGMOM", {**theirs, **engine.starting_moments})
    if (moments := _moments(structure, incar, starting)) is not None:
        # Those of elements would go before those of sites.
        incar.pop("MAGMOM", None)
        structure = with_moments(structure, moments)
    grid = Kpoints.automatic_density_by_lengths(
        structure, [engine.kpoints_length] * 3, force_gamma=True
    )
    generator = kinds[kind](
        user_incar_settings=incar,
        user_kpoints_settings=grid,
        user_potcar_functional=engine.functional,
        user_potcar_settings={e: engine.potcar(e) for e in structure.composition.get_el_amt_dict()},
        auto_ismear=False,
    )
    inputs = generator.get_input_set(structure, potcar_spec=potcar_spec)
    if free:
        inputs["INCAR"].update(_noncollinear(incar))
    return inputs


def _maker_inputs(
    engine: VaspEngine,
    structure: Structure,
    index: int,
    tags: Mapping[str, Any],
    potcar_spec: bool,
) -> VaspInput:
    """Inputs by the maker of a stage; what leaves its energies as they are is the campaign's."""
    from pymatgen.io.vasp import Incar

    stage, expected = engine.stages[index], engine.inputs_of_maker(index)
    assert isinstance(stage, MakerStage) and expected is not None
    inputs = inputs_by_maker(stage, structure, expected, potcar_spec)
    incar = dict(inputs["INCAR"]) | {"LCHARG": INCAR["LCHARG"], "LWAVE": INCAR["LWAVE"]}
    incar |= {tag: value for tag, value in engine.incar.items() if tag in TECHNICAL} | dict(tags)
    if moments_of(structure) is not None:
        incar["MAGMOM"] = _moments(structure, incar, {})
    # The grid is written.
    inputs["INCAR"] = Incar({t: v for t, v in incar.items() if t not in ("KSPACING", "KGAMMA")})
    return inputs


def _noncollinear(incar: Mapping[str, Any]) -> dict[str, Any]:
    """Tags that VASP asks for where spins have any direction."""
    # From 6.5 on it stops with ISPIN = 2. ISYM = 0 takes k and -k for the same.
    return {"ISPIN": 1} | ({"ISYM": -1} if incar.get("ISYM") == 0 else {})


def _moments(
    structure: Structure, incar: Mapping[str, Any], starting: Mapping[str, Moment]
) -> list[Moment] | None:
    """Moments of the sites that a run starts from, along z unless its spins have any direction.

    None where those of elements will do.
    """
    moments = moments_of(structure)
    if not is_noncollinear(incar):
        return None if moments is None else list(along_z(structure) or ())
    if moments is None:
        # VASP reads three numbers for each site then.
        moments = [starting.get(site.specie.symbol, 0.0) for site in structure]
    return [m if isinstance(m, list) else [0.0, 0.0, m] for m in moments]


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
        anion = max((e.symbol for e in structure.composition.elements), key=electronegativity)
        values = given["LDAUU"].get(anion, {})
    if any(values.get(e.symbol) for e in structure.composition.elements):
        return given
    return {"LDAU": False, "LDAUTYPE": None, **dict.fromkeys(HUBBARD)}
