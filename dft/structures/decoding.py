"""Structures from plain dictionaries, as files and databases hold them: nothing else is believed.

pymatgen's own `Structure.from_dict` hands site properties to monty, which imports and calls what
they name. Here no name in the data is looked up, but symbols of elements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, InstanceOf, PlainSerializer, WithJsonSchema
from pymatgen.core import DummySpecies, Element, Lattice, Species, Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.moments import Moment, along_axis, complete

#: Most atoms of a structure: more are no unit cell, and would fill the memory.
MOST_ATOMS = 5000


class StructureError(UserError, ValueError):
    """What was given is no structure; the text says why."""


def decode_structure(data: object) -> Structure:
    """The structure of a dictionary in the layout of pymatgen's ``Structure.as_dict``.

    Lattice, species with occupancies and oxidation states, fractional coordinates, charge, and
    magnetic moments of one or three numbers are taken; all else is left out.

    Raises
    ------
    StructureError
        Something of that is missing, of a wrong type, or not finite.
    """
    if isinstance(data, Structure):
        return data
    if not isinstance(data, Mapping):
        raise StructureError(f"not a structure but {named_type(data)}")
    for key in ("lattice", "sites"):
        if key not in data:
            raise StructureError(f"a structure without {key!r}")
    lattice = _lattice(data["lattice"])
    sites = data["sites"]
    if not isinstance(sites, Sequence) or isinstance(sites, str) or not len(sites):
        raise StructureError("a structure without sites")
    if len(sites) > MOST_ATOMS:
        raise StructureError(f"{len(sites)} atoms are more than {MOST_ATOMS}")
    species, coords, moments = [], [], []
    for number, site in enumerate(sites):
        try:
            if not isinstance(site, Mapping):
                raise StructureError(f"not a site but {named_type(site)}")
            species.append(_species(site))
            coords.append(_coordinates(site, lattice))
            moments.append(_moment(site.get("properties")))
        except StructureError as error:
            raise StructureError(f"site {number}: {error}") from None
    charge = data.get("charge")
    return Structure(
        lattice,
        species,
        coords,
        charge=None if charge is None else number_of(charge, "charge"),
        site_properties=None if (whole := complete(moments)) is None else {"magmom": whole},
    )


#: Modules that dictionaries of a structure may name.
_MODULES = frozenset(
    f"pymatgen.{name}"
    for name in (
        "core.structure",
        "core.lattice",
        "core.sites",
        "core.periodic_table",
        "electronic_structure.core",
    )
)


def encode_structure(structure: Structure) -> dict[str, Any]:
    """A structure as `decode_structure` takes it: pymatgen's dictionary without names of code."""
    plain: dict[str, Any] = _without_modules(structure.as_dict())
    return plain


def _without_modules(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_modules(v) for k, v in value.items() if not str(k).startswith("@")}
    if isinstance(value, (list, tuple)):
        return [_without_modules(part) for part in value]
    return value


def _stored(data: Any) -> Structure:
    """The structure of a stored document.

    Raises
    ------
    StructureError
        It is none.
    UserError
        It names another module than pymatgen's own, which jobflow's decoder would import.
    """
    left = [] if isinstance(data, Structure) else [data]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            module = value.get("@module", "pymatgen.core.structure")
            if "@callable" in value or module not in _MODULES:
                raise UserError(
                    f"a stored structure names {str(module)[:60]!r}, which is no part of a "
                    "structure: somebody has tampered with it; remove the document"
                )
            left.extend(value.values())
        elif isinstance(value, (list, tuple)):
            left.extend(value)
    return decode_structure(data)


#: A pymatgen structure in a document, stored as a plain dictionary. monty's own pydantic type would
#: import what the data name.
StoredStructure = Annotated[
    InstanceOf[Structure],
    BeforeValidator(_stored),
    PlainSerializer(encode_structure, return_type=dict[str, Any]),
    WithJsonSchema({"type": "object", "title": "pymatgen structure"}),
]


def named_type(value: object) -> str:
    """The type of a value, in words of JSON."""
    names = {
        "dict": "an object",
        "list": "a list",
        "str": "text",
        "NoneType": "nothing",
        "ndarray": "a list",
    }
    names |= {"bool": "a truth value", "int": "a number", "float": "a number"}
    return names.get(type(value).__name__, type(value).__name__)


def number_of(value: object, name: str) -> float:
    """A finite number.

    Raises
    ------
    StructureError
        It is another thing.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise StructureError(f"{name} is {named_type(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise StructureError(f"{name} is not finite")
    return number


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def plain_number(text: str) -> float | None:
    """The finite number that a text is, or None; a minus sign of typography is one, too."""
    text = text.strip().replace("\u2212", "-")
    number = float(text) if len(text) < 40 and _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def numbers_of(value: object, shape: tuple[int, ...], name: str) -> NDArray[np.float64]:
    """An array of finite numbers; -1 in the shape stands for any length.

    Raises
    ------
    StructureError
        It is another thing.
    """
    try:
        array = np.array(value)
    except (ValueError, TypeError, RecursionError):
        raise StructureError(f"{name} is not an array of numbers") from None
    if array.dtype.kind not in "fiu":
        raise StructureError(f"{name} is not an array of numbers")
    if array.ndim != len(shape) or any(
        n not in (-1, m) for n, m in zip(shape, array.shape, strict=True)
    ):
        wanted = " × ".join("n" if n == -1 else str(n) for n in shape)
        raise StructureError(f"{name} is not of {wanted} numbers")
    if not np.isfinite(array).all():
        raise StructureError(f"{name} is not finite")
    return array.astype(np.float64)


def _lattice(data: object) -> Lattice:
    if not isinstance(data, Mapping):
        raise StructureError("the lattice is no lattice")
    if "matrix" in data:
        return Lattice(numbers_of(data["matrix"], (3, 3), "the lattice"))
    lengths = [number_of(data.get(k), f"lattice {k}") for k in ("a", "b", "c")]
    angles = [number_of(data.get(k), f"lattice {k}") for k in ("alpha", "beta", "gamma")]
    if min(lengths) <= 0 or not all(0 < angle < 180 for angle in angles):
        raise StructureError("lengths or angles of the lattice are out of range")
    return Lattice.from_parameters(*lengths, *angles)


def _coordinates(site: Mapping[str, Any], lattice: Lattice) -> NDArray[np.float64]:
    if "abc" in site:
        return numbers_of(site["abc"], (3,), "abc")
    if "xyz" in site:
        xyz = numbers_of(site["xyz"], (3,), "xyz")
        try:
            fractional: NDArray[np.float64] = np.linalg.solve(lattice.matrix.T, xyz)
        except np.linalg.LinAlgError:
            raise StructureError("the lattice has no volume") from None
        return fractional
    raise StructureError("no coordinates (abc or xyz)")


def _species(site: Mapping[str, Any]) -> dict[Element | Species | DummySpecies, float]:
    listed = site.get("species")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise StructureError("no species")
    species: dict[Element | Species | DummySpecies, float] = {}
    for item in listed:
        if not isinstance(item, Mapping):
            raise StructureError(f"not a species but {named_type(item)}")
        occupancy = number_of(item.get("occu", 1), "occupancy")
        if not 0 <= occupancy <= 1 + 1e-6:
            raise StructureError(f"occupancy {occupancy:g} is not from 0 to 1")
        kind = _specie(item)
        species[kind] = species.get(kind, 0.0) + item.get("occu", 1)
    if sum(species.values()) > 1 + 1e-6:
        raise StructureError(f"occupancies sum to {sum(species.values()):g}")
    return species


def _specie(item: Mapping[str, Any]) -> Element | Species | DummySpecies:
    symbol, state, spin = item.get("element"), item.get("oxidation_state"), item.get("spin")
    if not isinstance(symbol, str) or len(symbol) > 20:
        raise StructureError("a species without element")
    if state is not None:
        number_of(state, "oxidation state")
    if spin is not None:
        number_of(spin, "spin")
    try:
        if "oxidation_state" not in item:
            return Element(symbol)
        if Element.is_valid_symbol(symbol):
            return Species(symbol, state, spin=spin)
        return DummySpecies(symbol, state, spin=spin)
    except ValueError:
        raise StructureError(f"no element {symbol[:20]!r}") from None


def _moment(properties: object) -> Moment | None:
    """The magnetic moment among a site's properties: one or three finite numbers, or None."""
    moment = properties.get("magmom") if isinstance(properties, Mapping) else None
    if moment is None:
        return None
    axis = [0.0, 0.0, 1.0]
    if isinstance(moment, Mapping):
        # pymatgen's Magmom, as it is stored.
        axis = numbers_of(_array(moment.get("saxis", axis)), (3,), "axis of a moment").tolist()
        moment = _array(moment.get("moment"))
    if isinstance(moment, Sequence) and not isinstance(moment, str):
        vector: list[float] = numbers_of(moment, (3,), "magnetic moment").tolist()
        return along_axis(vector, axis)
    return along_axis(number_of(moment, "magnetic moment"), axis)


def _array(value: object) -> object:
    """The numbers of an array of NumPy as monty stores it, or the value as it is."""
    return value["data"] if isinstance(value, Mapping) and "data" in value else value
