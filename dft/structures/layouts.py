"""Structures in the layouts of ASE and OPTIMADE."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.geometry import cellpar_to_cell
from pymatgen.core import Element, Lattice, Structure

from ccdcgan.dft.structures.decoding import MOST_ATOMS, StructureError, number_of, numbers_of
from ccdcgan.dft.structures.moments import with_moments


def of_optimade(data: Mapping[str, Any]) -> Structure:
    """The structure of OPTIMADE's attributes; a StructureError where they are none."""
    matrix = numbers_of(data.get("lattice_vectors"), (3, 3), "lattice_vectors")
    positions = numbers_of(
        data.get("cartesian_site_positions"), (-1, 3), "cartesian_site_positions"
    )
    names = data.get("species_at_sites")
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != len(positions):
        raise StructureError("species_at_sites is not a list with a name for each site")
    kinds: dict[str, Any] = {}
    for kind in data.get("species") or []:
        if not isinstance(kind, Mapping):
            raise StructureError("species is not a list of objects")
        kinds[str(kind.get("name"))] = kind
    species = [_of_kind(kinds.get(str(name)), str(name)) for name in names]
    return with_pbc(_made(matrix, species, positions), data.get("dimension_types"))


def with_pbc(structure: Structure, pbc: Any) -> Structure:
    """The structure, periodic in the directions that a list of three says; in all without one."""
    if isinstance(pbc, Sequence) and len(pbc) == 3 and all(isinstance(p, (bool, int)) for p in pbc):
        a, b, c = (bool(p) for p in pbc)
        structure.lattice = Lattice(structure.lattice.matrix, pbc=(a, b, c))
    return structure


def _of_kind(kind: Mapping[str, Any] | None, name: str) -> dict[str, float]:
    if kind is None:
        return {_element(name): 1.0}
    symbols, shares = kind.get("chemical_symbols"), kind.get("concentration", [1.0])
    if not isinstance(symbols, list) or not isinstance(shares, list) or len(symbols) != len(shares):
        raise StructureError(f"species {name[:20]!r} has no concentration for each symbol")
    found: dict[str, float] = {}
    for symbol, share in zip(symbols, shares, strict=True):
        amount = number_of(share, "concentration")
        if not 0 <= amount <= 1 + 1e-6:
            raise StructureError(f"concentration {amount:g} is not from 0 to 1")
        if symbol != "vacancy":
            found[_element(symbol)] = found.get(symbol, 0.0) + amount
    if not found:
        raise StructureError(f"species {name[:20]!r} is a vacancy alone")
    return found


def _element(symbol: Any) -> str:
    if not isinstance(symbol, str) or not Element.is_valid_symbol(symbol):
        raise StructureError(f"no element {str(symbol)[:20]!r}")
    return symbol


def _made(matrix: Any, species: Sequence[Any], positions: Any, cartesian: bool = True) -> Structure:
    if not len(positions):
        raise StructureError("a structure without sites")
    if len(positions) > MOST_ATOMS:
        raise StructureError(f"{len(positions)} atoms are more than {MOST_ATOMS}")
    if cartesian and abs(np.linalg.det(matrix)) < 1e-12:
        raise StructureError("no cell" if not np.any(matrix) else "a cell without volume")
    return Structure(Lattice(matrix), species, positions, coords_are_cartesian=cartesian)


def of_ase(row: Mapping[str, Any]) -> Structure:
    """The structure of atoms as ASE writes them; a StructureError where they are none."""
    cell = _array(row.get("cell"))
    if cell is None:
        raise StructureError("no cell")
    if np.shape(cell) == (3,):
        matrix = np.diag(numbers_of(cell, (3,), "cell"))
    elif np.shape(cell) == (6,):
        matrix = cellpar_to_cell(numbers_of(cell, (6,), "cell"))
    else:
        matrix = numbers_of(cell, (3, 3), "cell")
    scaled = "positions" not in row and "scaled_positions" in row
    name = "scaled_positions" if scaled else "positions"
    positions = numbers_of(_array(row.get(name)), (-1, 3), name)
    species: list[str]
    if "numbers" in row:
        numbers = numbers_of(_array(row["numbers"]), (len(positions),), "numbers")
        if not ((numbers == np.round(numbers)) & (numbers >= 1) & (numbers <= 118)).all():
            raise StructureError("numbers of elements are from 1 to 118")
        species = [Element.from_Z(int(z)).symbol for z in numbers]
    else:
        symbols = row.get("symbols", row.get("species"))
        if isinstance(symbols, str):
            symbols = _of_formula(symbols)
        if not isinstance(symbols, list) or len(symbols) != len(positions):
            raise StructureError("symbols is not a list with a symbol for each atom")
        species = [_element(s) for s in symbols]
    structure = with_pbc(_made(matrix, species, positions, not scaled), _array(row.get("pbc")))
    moments = next((m for n in ("magmoms", "initial_magmoms") if (m := _array(row.get(n)))), None)
    if moments is None:
        return structure
    shape = (len(positions), 3) if np.ndim(moments) == 2 else (len(positions),)
    return with_moments(structure, numbers_of(moments, shape, "magnetic moments").tolist())


def _of_formula(formula: str) -> list[str]:
    """The symbols of each atom of a formula as BiSe2, which is in the order of the atoms."""
    parts = re.findall(r"([A-Z][a-z]?)(\d{0,6})", formula)
    if "".join(map("".join, parts)) != formula or sum(int(n or 1) for _, n in parts) > MOST_ATOMS:
        raise StructureError(
            f"symbols {formula[:30]!r} is no formula of at most {MOST_ATOMS} atoms"
        )
    return [symbol for symbol, n in parts for _ in range(int(n or 1))]


def _array(value: Any) -> Any:
    """An array as ASE writes it, or a list as it is."""
    if isinstance(value, Mapping) and "__ndarray__" in value:
        parts = value["__ndarray__"]
        if not isinstance(parts, list) or len(parts) != 3:
            raise StructureError("an array of ASE without shape, type and numbers")
        shape, _, numbers = parts
        if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise StructureError("an array of ASE without shape")
        try:
            return np.array(numbers).reshape(shape).tolist()
        except (ValueError, TypeError, RecursionError):
            raise StructureError("an array of ASE of another shape than it says") from None
    if isinstance(value, Mapping) and "array" in value:
        return _array(value["array"])
    return value
