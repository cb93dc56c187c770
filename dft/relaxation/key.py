"""Content keys: under which the result of a relaxation is found again."""

from __future__ import annotations

import json
import re

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.files import digest
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.moments import moments_of, standard

#: Settings that leave the relaxation itself as it is, end it without a result, or add others.
AFTERWARDS = ("second_opinion", "corrections", "max_hours", "magnetic_orders", "batch")


def is_content_key(value: object) -> bool:
    """Whether a value from elsewhere can be a content key, and so the name of a folder."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def elements_of(structure: Structure) -> list[str]:
    """Symbols of the elements of a structure, sorted."""
    return sorted(structure.composition.get_el_amt_dict())


def content_key(structure: Structure, level: LevelOfTheory, settings: RelaxationSettings) -> str:
    """Hash of the input structure, the level of theory and the relaxation settings.

    Whoever relaxes the same input with the same settings finds the result under this key.
    """
    lattice = np.round([*structure.lattice.abc, *structure.lattice.angles], 4) + 0.0
    # Into the cell before rounding, so that a lattice translation leaves the same digits.
    coords = np.mod(np.round(np.mod(structure.frac_coords, 1.0), 4), 1.0) + 0.0
    sites = sorted(
        (site.specie.symbol, *map(float, xyz)) for site, xyz in zip(structure, coords, strict=True)
    )
    parts = [
        lattice.tolist(),
        sites,
        level.model_dump(exclude_defaults=True),
        settings.model_dump(mode="json", exclude={"engine", *AFTERWARDS}),
    ]
    if route := settings.engine.route():
        parts.append(route)
    moments = moments_of(structure) if settings.engine.is_magnetic else None
    if moments is not None:
        order = sorted(range(len(coords)), key=lambda i: (structure[i].specie.symbol, *coords[i]))
        parts.append({"moments": standard([moments[i] for i in order])})
    text = json.dumps(parts, sort_keys=True)
    return digest(text, 32)
