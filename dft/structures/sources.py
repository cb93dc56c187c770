"""Prototype sources: where the crystals come from whose elements are exchanged."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Element, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.settings import FilePath
from ccdcgan.dft.structures.crystal import Crystal, Skipped
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.dft.structures.moments import moments_of, with_moments
from ccdcgan.dft.structures.reader import read
from ccdcgan.dft.structures.spacegroups import ALL_GROUPS, fits, require_pyxtal
from ccdcgan.dft.structures.texts import one_line
from ccdcgan.dft.structures.validity import coincident, disordered, fault, is_degenerate


@dataclass(frozen=True)
class Prototype:
    """A crystal with its name.

    Attributes
    ----------
    id
        ``source:name``, unique within a source.
    structure
        The crystal as the source gives it, with its own elements.
    """

    id: str
    structure: Structure


#: Elements of structures that have none of their own: substitution replaces them and sets the
#: volume.
PLACEHOLDER_ELEMENTS = ("Bi", "Se", "Te", "Sb", "S", "Pb", "Sn", "In")

#: Most atoms of a cell that is reduced to its primitive one: of more it takes ten seconds.
MOST_REDUCED = 800

#: Most symmetry orbits of a prototype that is decorated: two elements have 31 ways on six.
MOST_ORBITS = 6


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AflowSource(_Source):
    """The AFLOW prototypes that pymatgen ships: offline, 176 binaries among 288.

    Mehl et al., Comput. Mater. Sci. 136, S1 (2017).
    """

    source: Literal["aflow"] = "aflow"
    designated: bool = Field(
        default=False, description="Only those with a Strukturbericht designation."
    )
    decorated: bool = Field(
        default=False,
        description="Also the system's elements spread over the sites of all prototypes.",
    )

    def load(self, n_elements: int, max_sites: int, seed: int) -> Iterator[Prototype | Skipped]:
        # Importing pymatgen's module for it also loads tables that take eight seconds.
        folder = resources.files("pymatgen.analysis") / "prototypes"
        data = (folder / "aflow_prototypes.json.gz").read_bytes()
        names: Counter[str] = Counter()
        for entry in json.loads(gzip.decompress(data)):
            structure = decode_structure(entry["snl"])
            own = len(structure.composition) == n_elements
            if not (own or self.decorated):
                continue
            if self.designated and entry["tags"]["strukturbericht"] == "None":
                continue
            label = entry["tags"]["aflow"]
            names[label] += 1
            suffix = f"-{names[label]}" if names[label] > 1 else ""
            prototype = Prototype(f"aflow:{label}{suffix}", structure)
            if own:
                yield prototype
            if self.decorated:
                yield from decorations(prototype, n_elements, max_sites)


class FilesSource(_Source):
    """A file, a folder or a ZIP file of the user's: CIF, POSCAR, extxyz, JSON and others."""

    source: Literal["files"] = "files"
    path: FilePath = Field(description="A structure file or a folder of them.")

    def load(self, n_elements: int, max_sites: int, seed: int) -> Iterator[Prototype | Skipped]:
        yield from read_structures(self.path)


class RandomSource(_Source):
    """Random symmetric crystals from PyXtal (extra ``random``)."""

    source: Literal["random"] = "random"
    count: int = Field(default=100, ge=1, description="Number of crystals.")

    def load(self, n_elements: int, max_sites: int, seed: int) -> Iterator[Prototype | Skipped]:
        yield from random_crystals(
            list(PLACEHOLDER_ELEMENTS[:n_elements]), self.count, max_sites, seed
        )


class MaterialsProjectSource(_Source):
    """All compounds of the Materials Project with the system's number of elements.

    Needs the extra ``mp`` and an API key in the environment variable ``MP_API_KEY``.
    """

    source: Literal["materials_project"] = "materials_project"

    def load(self, n_elements: int, max_sites: int, seed: int) -> Iterator[Prototype | Skipped]:
        yield from materials_project(num_elements=n_elements, num_sites=(1, max_sites))


def materials_project(**query: Any) -> Iterator[Prototype | Skipped]:
    """Crystals of the Materials Project that meet a query of its summaries.

    Raises
    ------
    UserError
        There is no key or no client, or the server gives no answer.
    """
    key = os.environ.get("MP_API_KEY")
    if not key:
        raise UserError(
            "the Materials Project source needs an API key: set the environment variable "
            "MP_API_KEY (from https://materialsproject.org/api)"
        )
    try:
        from mp_api.client import MPRester
    except ImportError:
        raise UserError(
            "the Materials Project source needs mp-api: pip install 'ccdcgan[mp]'"
        ) from None
    try:
        with MPRester(key) as mpr:
            documents = mpr.materials.summary.search(
                **query,
                deprecated=False,
                include_gnome=False,
                fields=["material_id", "structure"],
            )
    except Exception as error:  # noqa: BLE001  network, server and key, each with its own kind
        text = one_line(error, secret=key)
        raise UserError(f"the Materials Project gave no answer: {text}") from None
    for document in documents:
        structure = document.structure
        if isinstance(structure, dict):
            structure = decode_structure(structure)
        yield Prototype(f"mp:{document.material_id}", structure)


Source = Annotated[
    AflowSource | FilesSource | RandomSource | MaterialsProjectSource, Field(discriminator="source")
]


class Filters(BaseModel):
    """Which prototypes take part (paper: at most 20 atoms, lattice vectors below 10 Å)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_sites: int = Field(default=20, ge=1, description="Most atoms in the primitive cell.")
    max_length: float = Field(default=10.0, gt=0, description="Longest lattice vector in Å.")

    def reason(self, structure: Structure, n_elements: int) -> str | None:
        """Why a primitive cell is rejected, or None."""
        if reason := disordered(structure):
            return reason
        if len(structure.composition) != n_elements:
            return "number of elements"
        if not all(isinstance(site.specie, Element) for site in structure):
            return "dummy species"
        if len(structure) > self.max_sites:
            return "too many sites"
        if max(structure.lattice.abc) > self.max_length:
            return "lattice vector too long"
        return None


def collect(
    sources: Iterable[Source],
    filters: Filters,
    n_elements: int,
    seed: int,
    *,
    magnetic: bool = False,
) -> tuple[list[Prototype], Counter[str], list[Skipped]]:
    """Primitive, Niggli-reduced prototypes of all sources that pass the filters.

    Parameters
    ----------
    magnetic
        Whether magnetic moments count: a cell of both directions is not halved then.

    Returns
    -------
    prototypes, rejections counted by reason, and what could not be read or is no crystal.
    """
    kept: list[Prototype] = []
    rejected: Counter[str] = Counter()
    skipped: list[Skipped] = []
    for source in sources:
        for item in source.load(n_elements, filters.max_sites, seed):
            if isinstance(item, Skipped):
                skipped.append(item)
                continue
            if reason := disordered(item.structure):
                rejected[reason] += 1
                continue
            structure = primitive_cell(item.structure, magnetic=magnetic)
            if reason := fault(structure) or coincident(structure):
                skipped.append(Skipped(item.id, reason))
            elif reason := filters.reason(structure, n_elements):
                rejected[reason] += 1
            else:
                kept.append(Prototype(item.id, structure))
    return kept, rejected, skipped


def primitive_cell(structure: Structure, *, magnetic: bool = False) -> Structure:
    """The Niggli-reduced primitive cell, without oxidation states and site properties.

    Magnetic moments stay, and decide what is primitive, where they are asked for.
    A cell of more than `MOST_REDUCED` atoms, or with a fault, stays as it is.
    """
    plain = Structure(
        structure.lattice,
        [getattr(site.specie, "element", site.specie) for site in structure],
        structure.frac_coords,
    )
    if magnetic and (moments := moments_of(structure)) is not None:
        plain = with_moments(plain, np.round(moments, 2).tolist())
    if len(plain) > MOST_REDUCED or is_degenerate(plain):
        return plain
    try:
        primitive = plain.get_primitive_structure(tolerance=0.1, use_site_props=magnetic)
        return primitive.get_reduced_structure()
    except Exception:  # noqa: BLE001  pymatgen raises many kinds on degenerate cells
        return plain


def decorations(
    prototype: Prototype, n_elements: int, max_sites: int
) -> Iterator[Prototype | Skipped]:
    """The prototype with as many elements spread over its symmetry orbits in all ways.

    Ways that differ by an exchange of elements count once, as substitution makes both. Cells of
    more than `max_sites` atoms and of more than `MOST_ORBITS` orbits are left out.
    """
    # With SciPy it takes a second to import, which a campaign file need not wait for.
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    structure = primitive_cell(prototype.structure)
    if len(structure) > max_sites or is_degenerate(structure):
        return
    try:
        symmetry = SpacegroupAnalyzer(structure, symprec=0.01).get_symmetry_dataset()
    except Exception as error:  # noqa: BLE001  spglib and pymatgen, each with its own kind
        yield Skipped(f"{prototype.id}~", one_line(error))
        return
    _, orbit = np.unique(symmetry.equivalent_atoms, return_inverse=True)
    count = int(orbit.max()) + 1
    if count > MOST_ORBITS:
        return
    for way in itertools.product(range(n_elements), repeat=count):
        # Elements in the order in which they first occur: one of each exchange.
        if list(dict.fromkeys(way)) == list(range(n_elements)):
            species = [PLACEHOLDER_ELEMENTS[way[i]] for i in orbit]
            name = "".join(map(str, way))
            yield Prototype(
                f"{prototype.id}~{name}",
                Structure(structure.lattice, species, structure.frac_coords),
            )


def random_crystals(
    elements: list[str],
    count: int,
    max_sites: int,
    seed: int,
    compositions: Sequence[Sequence[int]] = (),
    groups: Sequence[int] = ALL_GROUPS,
    attempts: int = 200,
) -> Iterator[Prototype | Skipped]:
    """Random crystals, space group and composition drawn uniformly among compatible pairs.

    Parameters
    ----------
    elements
        One symbol for each kind of atom; each occurs at least once.
    count
        Number of crystals.
    max_sites
        Most atoms in the primitive cell.
    seed
        The same seed gives the same crystals.
    compositions
        Numbers of atoms of each kind to draw from; none for all.
    groups
        Numbers of the space groups to draw from.
    attempts
        Draws for one crystal before it is given up.
    """
    require_pyxtal()
    from pyxtal import pyxtal

    k = len(elements)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        for _ in range(attempts):
            if compositions:
                counts = list(compositions[int(rng.integers(len(compositions)))])
            else:
                total = int(rng.integers(k, max_sites + 1))
                cuts = np.sort(rng.choice(np.arange(1, total), k - 1, replace=False))
                counts = [int(c) for c in np.diff([0, *cuts, total])]
            spacegroup = groups[int(rng.integers(len(groups)))]
            if not fits(spacegroup, counts):
                continue
            crystal = pyxtal()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    crystal.from_random(
                        3,
                        spacegroup,
                        elements,
                        counts,
                        conventional=False,
                        random_state=int(rng.integers(2**31)),
                    )
            except Exception:  # noqa: BLE001  PyXtal signals impossible draws in many ways
                continue
            if crystal.valid:
                yield Prototype(f"random:{spacegroup}-{seed}-{number}", crystal.to_pymatgen())
                break
        else:
            yield Skipped(f"random:{seed}-{number}", f"no crystal in {attempts} draws")


def read_structures(path: Path) -> Iterator[Prototype | Skipped]:
    """Structures of a file or of all structure files in a folder or a ZIP file.

    Raises
    ------
    UserError
        The path does not exist, or nothing in it can be read.
    """
    for item in read(path):
        if isinstance(item, Crystal):
            yield Prototype(f"file:{item.id}", item.structure)
        elif isinstance(item, Skipped):
            yield Skipped(f"file:{item.id}", item.reason)
