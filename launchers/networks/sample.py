"""Crystals from trained networks into files: ``ccdcgan sample``."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import to_json, write_atomically, zipped
from ccdcgan.dft.structures.compositions import elements_of_formula, multiples
from ccdcgan.dft.structures.validity import fault, overlap
from ccdcgan.launchers.networks.folder import (
    STAGES,
    ModelFolder,
    explained,
)
from ccdcgan.launchers.results.tables import csv_text
from ccdcgan.models.sampling import SPACE, Predictor, draw_crystals, load_space
from ccdcgan.workflows import progress
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.sections import Screening

#: Crystals that the Wyckoff generator draws for each that is kept.
OF = 4


def asked_compositions(text: str, elements: Sequence[str], most: int) -> np.ndarray:
    """Numbers of atoms (k, m): all multiples of formulas such as ``Bi2Se3,BiSe`` up to `most`.

    Raises
    ------
    UserError
        A formula is none, has other elements than the system, or is larger than `most` atoms.
    """
    formulas = [part.strip() for part in text.split(",")]
    try:
        return np.array(multiples(formulas, elements, most))
    except UserError as error:
        raise UserError(f"--composition {error}") from None


def sample(
    composition: str | None = None,
    models: Path | str | None = None,
    *,
    count: int = 100,
    seed: int = 0,
    atoms: int | None = None,
    valid: bool = True,
) -> list[Drawn]:
    """Draw crystals from trained networks, with their predicted properties.

    Parameters
    ----------
    composition
        Formulas to ask for, as ``Bi2Se3,BiSe``; crystals that come out with another are left out.
    models
        Folder of `train`; without one, the Wyckoff generator draws the `composition` asked for.
    count, seed
        How many to draw. Crystal i of a folder's networks depends on the seed and i alone; the
        Wyckoff generator draws `OF` times as many, and the likely lowest are kept.
    atoms
        Most atoms of a cell of these formulas; default those of the preset.
    valid
        Only what passes the default screening of a campaign.

    Returns
    -------
    Those that are left, with what the networks predict of them; none of the Wyckoff generator.

    Raises
    ------
    UserError
        The folder or the composition does not fit.

    Examples
    --------
    >>> import ccdcgan
    >>> drawn = ccdcgan.sample("TiO2", count=10)  # doctest: +SKIP
    >>> [crystal.structure.get_space_group_info() for crystal in drawn]  # doctest: +SKIP
    """
    where = None if models is None else Path(models)
    return _draw(SampleSettings(where, composition, count, seed, atoms, valid))[0]


@dataclass(frozen=True)
class SampleSettings:
    """What is to be drawn, of what: see `sample`."""

    models: Path | None
    composition: str | None
    count: int
    seed: int
    atoms: int | None
    valid: bool


def write_sample(out: Path, settings: SampleSettings) -> dict[str, int]:
    """Draw crystals into a file .extxyz, .zip (CIF files and predictions.csv) or .json.

    Returns
    -------
    The funnel: how many were ``sampled``, ``decoded``, ``valid``, ``written``.

    Raises
    ------
    UserError
        The folder, the composition or the name of the file does not fit.
    """
    if out.suffix.lower() not in _WRITERS:
        raise UserError(f"cannot write {out}: its name must end in {', '.join(_WRITERS)}")
    rows, funnel = _draw(settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, _WRITERS[out.suffix.lower()](rows))
    return {**funnel, "written": len(rows)}


def _draw(settings: SampleSettings) -> tuple[list[Drawn], dict[str, int]]:
    """The crystals of `sample`, and how many there were stage by stage."""
    drawn = (
        _by_wyckoff(settings)
        if settings.models is None
        else _by_networks(settings.models, settings)
    )
    progress.report("sampling", settings.count, settings.count)
    return drawn


def _asked(settings: SampleSettings, elements: Sequence[str], most: int) -> np.ndarray | None:
    """As `asked_compositions`, of at most so many atoms; None where no formula is asked for."""
    if settings.composition is not None:
        most = min(settings.atoms or most, most)
        return asked_compositions(settings.composition, elements, most)
    if settings.atoms is not None:
        raise UserError("--atoms bounds the cells of a --composition: give one")
    return None


def _by_networks(models: Path, settings: SampleSettings) -> tuple[list[Drawn], dict[str, int]]:
    folder, count = ModelFolder.read(models), settings.count
    elements, preset = folder.manifest.system, folder.preset
    asked = _asked(settings, elements, preset.max_sites)
    files = folder.files(list(STAGES))
    progress.report("sampling", 0, count)
    with explained(models, files):
        drawn = draw_crystals(count, settings.seed, elements, preset, files, asked)
        predict = Predictor(elements, preset, files, folder.manifest.properties)
        _, learnt = load_space(files[SPACE])
        limits = Limits.of(Screening(), learnt["extremes"])
    funnel = {"sampled": count, "decoded": sum(s is not None for s in drawn)}
    kept = [(i, s) for i, s in enumerate(drawn) if s is not None]
    if asked is not None:
        cells = {tuple(row) for row in asked.tolist()}
        kept = [(i, s) for i, s in kept if tuple(s.composition[e] for e in elements) in cells]
        funnel["of the composition"] = len(kept)
    passed = [(i, s) for i, s in kept if limits.allow(s)]
    funnel["valid"] = len(passed)
    kept = passed if settings.valid else kept
    with explained(models, files):
        said = predict([s for _, s in kept])
    names = folder.manifest.properties
    rows = [
        Drawn(i, structure, _predicted(names, members))
        for (i, structure), members in zip(kept, said, strict=True)
    ]
    return rows, funnel


def _by_wyckoff(settings: SampleSettings) -> tuple[list[Drawn], dict[str, int]]:
    """As `sample`, by the networks that come with the package: of any elements, untrained here."""
    from ccdcgan.models.wyckoff.choice import best_of
    from ccdcgan.models.wyckoff.drawing import crystal_of, draw_placements
    from ccdcgan.models.wyckoff.training import WyckoffModel

    if settings.composition is None:
        raise UserError(
            "without a folder of networks, --composition says what to draw, as Bi2Se3 or TiO2,SnO2"
        )
    model = WyckoffModel.shipped()
    formulas = [part.strip() for part in settings.composition.split(",")]
    cells = [_cells(formula, settings.atoms, model.elements) for formula in formulas]
    progress.report("sampling", 0, settings.count)
    rng = np.random.default_rng(settings.seed)
    decoded: list[Structure] = []
    passed: list[Structure] = []
    for number, own in enumerate(cells):
        # As many of each formula, the first ones one more.
        count = len(range(number, settings.count, len(cells)))
        asked = [own[i % len(own)] for i in range(OF * count)]
        made = [
            crystal_of(p, rng, known=model.geometries)
            for p in draw_placements(asked, model, rng)
            if p is not None
        ]
        whole = [s for s in made if not (fault(s) or overlap(s.to_ase_atoms()))]
        decoded += [made[i] for i in best_of(made, count)]
        passed += [whole[i] for i in best_of(whole, count)]
    funnel = {"sampled": settings.count, "decoded": len(decoded), "valid": len(passed)}
    kept = passed if settings.valid else decoded
    return [Drawn(i, s, {}) for i, s in enumerate(kept)], funnel


def _cells(formula: str, atoms: int | None, known: Collection[str]) -> list[dict[str, int]]:
    """Numbers of atoms of the cells of a formula that the Wyckoff generator is asked for."""
    from ccdcgan.workflows.wyckoff import MOST_ATOMS

    try:
        elements = elements_of_formula(formula)
    except UserError as error:
        raise UserError(f"--composition {error}") from None
    if foreign := sorted(set(elements) - set(known)):
        raise UserError(
            f"--composition {formula}: the Wyckoff generator has learnt no crystal with "
            f"{', '.join(foreign)}; the source random of a campaign draws any elements"
        )
    rows = asked_compositions(formula, elements, min(atoms or MOST_ATOMS, MOST_ATOMS))
    return [dict(zip(elements, row, strict=True)) for row in rows.tolist()]


def _predicted(names: Sequence[str], members: np.ndarray) -> dict[str, float]:
    """Mean and spread over the ensemble of each property; of crushed cells there is none."""
    numbers = {}
    for k, name in enumerate(names):
        if np.isfinite(members[:, k]).all():
            numbers[f"predicted_{name}"] = float(members[:, k].mean())
            numbers[f"predicted_{name}_std"] = float(members[:, k].std())
    return numbers


@dataclass(frozen=True)
class Drawn:
    """A generated crystal: its number among those drawn, and what is predicted of it."""

    number: int
    structure: Structure
    numbers: dict[str, float]

    @property
    def formula(self) -> str:
        return str(self.structure.composition.reduced_formula)


def _extxyz(rows: Sequence[Drawn]) -> bytes:
    images = []
    for row in rows:
        # An Atoms of ASE's own: pymatgen's subclass brings a calculator that is not wanted.
        atoms = row.structure.to_ase_atoms(msonable=False)
        atoms.info = {"sample": row.number, **row.numbers}
        images.append(atoms)
    stream = io.StringIO()
    if images:
        ase.io.write(stream, images, format="extxyz")
    return stream.getvalue().encode()


def _json(rows: Sequence[Drawn]) -> bytes:
    data = [
        {
            "sample": r.number,
            "formula": r.formula,
            **r.numbers,
            "structure": r.structure.as_dict(),
        }
        for r in rows
    ]
    return to_json(data).encode()


def _zip(rows: Sequence[Drawn]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row.numbers))
    files, table = {}, []
    for row in rows:
        name = f"{row.number:06d}-{row.formula}.cif"
        files[name] = str(CifWriter(row.structure))
        size = len(row.structure)
        own = {"file": name, "sample": row.number, "formula": row.formula, "atoms": size}
        table.append({**own, **row.numbers})
    columns = ["file", "sample", "formula", "atoms", *names]
    return zipped({**files, "predictions.csv": csv_text(columns, table)})


_WRITERS: dict[str, Callable[[Sequence[Drawn]], bytes]] = {
    ".extxyz": _extxyz,
    ".zip": _zip,
    ".json": _json,
}
