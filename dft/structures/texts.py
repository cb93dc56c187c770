"""Structures in text: CIF with any number of blocks, POSCAR, extended XYZ."""

from __future__ import annotations

import io
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from ccdcgan.dft.structures.crystal import Crystal, Passed, Skipped, crystal_of
from ccdcgan.dft.structures.decoding import MOST_ATOMS, StructureError, numbers_of
from ccdcgan.dft.structures.moments import with_moments

#: Most symmetry operations times rows of a CIF file: their time grows with the square.
MOST_IMAGES = 8_000

#: Longest block of a CIF file, characters: those with reflections are longer.
MOST_CIF = 2_000_000


def one_line(error: BaseException | str, secret: str = "") -> str:
    """An error as one line of at most 200 characters; without a secret."""
    text = " ".join(str(error).split())
    if not text:
        text = type(error).__name__ if isinstance(error, BaseException) else "no reason given"
    elif isinstance(error, KeyError):
        text = f"{text} is missing"
    if secret:
        text = text.replace(secret, "***")
    return text[:200]


def as_text(content: bytes) -> str:
    """Text of whatever encoding, with plain ends of lines.

    Raises
    ------
    StructureError
        It is no text.
    """
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            text = content.decode(encoding, "replace")
            break
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
    if "\0" in text:
        raise StructureError("it is binary, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_cif(text: str, name: str) -> Iterator[Crystal | Skipped | Passed]:
    """All blocks that hold atoms."""
    blocks = [b for b in _blocks(text) if re.search(r"^\s*_atom_site[_.]", b, re.M)]
    if not blocks:
        if re.search(r"^\s*(data_|_cell_length)", text, re.M):
            yield Skipped(name, "no atoms: no block has _atom_site lines")
        else:
            yield Skipped(name, "not CIF: no data_ block")
    for i, block in enumerate(blocks):
        label = name if len(blocks) == 1 else f"{name}#{i}"
        try:
            structure, warning = _of_block(block)
        except Exception as error:  # noqa: BLE001  pymatgen's parser raises many kinds
            yield Skipped(label, _cif_reason(error))
        else:
            yield crystal_of(label, structure, {}, warning)


def _blocks(text: str) -> Iterator[str]:
    """The ``data_`` blocks; such a word within a text between semicolons begins none."""
    block: list[str] = []
    quoted = False
    for line in text.split("\n"):
        if line.startswith(";"):
            quoted = not quoted
        if not quoted and re.match(r"\s*data_", line, re.I):
            yield "\n".join(block)
            block = []
        block.append(line)
    yield "\n".join(block)


def _of_block(block: str) -> tuple[Structure, str | None]:
    """The structure of a block, and what is odd about it."""
    from pymatgen.io.cif import CifParser

    lines = block.split("\n")
    if len(block) > MOST_CIF:
        raise StructureError(f"a block of more than {MOST_CIF // 10**6} million characters")
    # pymatgen's search for quotes takes the square of a line.
    if any(len(line) > 5000 or line.count("'") + line.count('"') > 200 for line in lines):
        raise StructureError("a line is longer than any of CIF")
    if not re.match(r"\s*data_", block, re.I):
        block = f"data_\n{block}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = CifParser.from_str(block, check_cif=False)
        data = next(iter(parser._cif.data.values()))
        transform = str(data.data.get("_space_group_magn.transform_BNS_Pp_abc", ""))
        if "**" in transform or len(transform) > 100:
            raise StructureError("the magnetic space group's transformation is no transformation")
        rows = len(data.data.get("_atom_site_label", ()))
        if rows > MOST_ATOMS:
            raise StructureError(f"more than {MOST_ATOMS} atoms")
        operations = next((len(v) for k, v in data.data.items() if _is_operations(k, v)), 0)
        # By the name of the space group; the largest has 192.
        operations = operations or (len(parser.get_symops(data)) if rows > 40 else 192)
        if rows * operations > MOST_IMAGES:
            raise StructureError(
                f"{rows} rows of atoms and {operations} symmetry operations would take minutes: "
                "write it in P1"
            )
        structure = parser.parse_structures(primitive=False, on_error="raise")[0]
    return structure, _stoichiometry(data.data, structure)


def _is_operations(key: str, value: Any) -> bool:
    return isinstance(value, list) and key.lower().endswith(("_as_xyz", "operation_xyz", "n.xyz"))


def _stoichiometry(data: dict[str, Any], structure: Structure) -> str | None:
    """How the formula of a CIF file differs from its sites, or None."""
    from pymatgen.core import Composition

    formula = data.get("_chemical_formula_sum")
    if not isinstance(formula, str) or not re.fullmatch(r"[A-Za-z0-9.,\s()+-]{1,200}", formula):
        return None
    try:
        written = Composition(formula.replace(",", " ")).fractional_composition
    except Exception:  # noqa: BLE001  a formula that pymatgen cannot read is no reason
        return None
    sites = structure.composition.remove_charges().fractional_composition
    if written.almost_equals(sites, rtol=0.02, atol=0.02):
        return None
    own = structure.composition.remove_charges().reduced_formula
    return f"its formula is {' '.join(formula.split())}, its sites are {own}"


def _cif_reason(error: Exception) -> str:
    text = one_line(error)
    text = text.removeprefix("No structure parsed for section 1 in CIF.").strip()
    if "could not convert string to float: '?'" in text:
        return "a coordinate or length of the cell is '?': it was not determined"
    if match := re.fullmatch(r"Occupancy ([0-9.]+) exceeded tolerance\.", text):
        return f"atoms in one place: occupancies sum to {float(match[1]):g}"
    if match := re.fullmatch(r"'(\w+)' is not a valid Element", text):
        return f"no element {match[1]!r}"
    if match := re.fullmatch(r"'(_\w+)'( is missing)?", text):
        return f"{match[1]} is missing"
    if text == "Invalid CIF file with no structures!":
        return "no atom of a known element, or no cell"
    return text or type(error).__name__


def read_poscar(text: str, name: str) -> Iterator[Crystal | Skipped]:
    """The one structure of a POSCAR of VASP 5 or later."""
    from pymatgen.io.vasp import Poscar

    try:
        _check_poscar(text.split("\n"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Poscar.from_str(text, read_velocities=False).structure
    except Exception as error:  # noqa: BLE001  pymatgen's parser raises many kinds
        yield Skipped(name, one_line(error))
    else:
        yield crystal_of(name, structure, {})


def _check_poscar(lines: list[str]) -> None:
    """Refuse what pymatgen would guess at, and what would fill the memory."""
    if len(lines) < 8:
        raise StructureError(f"not POSCAR: {len(lines)} lines")
    numbers = [_numbers(line) for line in lines[1:5]]
    if numbers[0] is None or any(n is None or len(n) != 3 for n in numbers[1:]):
        raise StructureError("not POSCAR: lines 2 to 5 are no scale and lattice")
    last = 5
    while last < min(len(lines), 30) and _counts(lines[last]) is None:
        last += 1
    counts = [n for line in lines[last : last + max(1, last - 5)] for n in _counts(line) or []]
    if sum(counts) > MOST_ATOMS:
        raise StructureError(f"more than {MOST_ATOMS} atoms")
    if last == 5:
        begin = 7 if lines[6].strip()[:1] not in "sS" else 8
        column = begin - 4
        ends = [line.split() for line in lines[begin : begin + sum(counts)]]
        if not all(
            len(e) > column and Element.is_valid_symbol(e[column].capitalize()) for e in ends
        ):
            raise StructureError("no element symbols: VASP 4 format")


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(part) for part in line.split()] or None
    except ValueError:
        return None


def _counts(line: str) -> list[int] | None:
    parts = line.split()
    return (
        [int(p) for p in parts]
        if parts and all(re.fullmatch(r"\d{1,9}", p) for p in parts)
        else None
    )


#: The comment line of an extended XYZ frame.
_COMMENT = re.compile(r"\b(Lattice|Properties)\s*=", re.I)


def read_extxyz(text: str, name: str) -> Iterator[Crystal | Skipped]:
    """All frames, each by itself: a bad one says what is wrong with it."""
    lines = text.split("\n")
    starts = [
        i
        for i in range(len(lines) - 1)
        if re.fullmatch(r"\s*\d+\s*", lines[i]) and _COMMENT.search(lines[i + 1])
    ]
    position = number = 0
    while position < len(lines):
        if not lines[position].strip():
            position += 1
            continue
        later = starts[i] if (i := bisect_right(starts, position)) < len(starts) else len(lines)
        count = _counts(lines[position])
        end = position + 2 + (count[0] if count and len(count) == 1 else 0)
        if position + 2 < end <= later and not _is_row(lines[end : end + 1], lines[end - 1]):
            label = f"{name}#{number}"
            try:
                yield _of_frame(lines[position:end], label)
            except Exception as error:  # noqa: BLE001  ASE's parser raises many kinds
                yield Skipped(label, _frame_reason(error))
        else:
            # What follows belongs to this frame, up to the next line that must begin one.
            end = later
            rows = sum(bool(line.strip()) for line in lines[position + 2 : end])
            reason = "no number of atoms where a frame should begin"
            if count and len(count) == 1:
                reason = f"says {count[0]} atoms, has {rows}"
            yield Skipped(f"{name}#{number}", reason)
        position = end
        number += 1


def _is_row(following: list[str], last: str) -> bool:
    """Whether a frame goes on after its last atom: with a line of as many columns."""
    columns = len(last.split())
    return columns > 1 and any(len(line.split()) == columns for line in following)


def _properties(comment: str) -> str:
    """What a frame's header says of its columns, as in species:S:1:pos:R:3."""
    found = re.search(r"Properties\s*=\s*[\"'{]?([^\s\"'}]+)", comment, re.IGNORECASE)
    return found[1] if found else ""


def _of_frame(lines: list[str], label: str) -> Crystal | Skipped:
    from ase.io.extxyz import read_xyz

    if len(lines) - 2 > MOST_ATOMS:
        return Skipped(label, f"more than {MOST_ATOMS} atoms")
    # ASE makes room for as many columns as the header says.
    said = sum(int(n) for n in re.findall(r"[A-Za-z]:(\d+)", _properties(lines[1])))
    if said > (columns := max(len(line.split()) for line in lines[2:])):
        return Skipped(label, f"its Properties are of {said} columns, its lines have {columns}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms = next(iter(read_xyz(io.StringIO("\n".join(lines) + "\n"), slice(0, 1))))
    cell = atoms.cell.array
    if not np.isfinite(cell).all() or not np.isfinite(atoms.positions).all():
        return Skipped(label, "cell or coordinates not finite")
    if atoms.cell.rank != 3:
        return Skipped(label, "no cell" if not cell.any() else "a cell without volume")
    structure = Structure(
        Lattice(cell), atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True
    )
    results = atoms.calc.results if atoms.calc else {}
    moments = results.get("magmoms", atoms.arrays.get("initial_magmoms"))
    if moments is not None:
        shape = (-1, 3) if np.ndim(moments) == 2 else (-1,)
        structure = with_moments(structure, numbers_of(moments, shape, "magnetic moments").tolist())
    row: dict[str, Any] = {"data": results, **atoms.info}
    warning = None if atoms.pbc.all() else "not periodic in all directions: read as if it were"
    return crystal_of(label, structure, row, warning)


def _frame_reason(error: Exception) -> str:
    if isinstance(error, KeyError) and str(error).strip("'\"").isalpha():
        return f"no element {error!s}"
    if "Singular matrix" in str(error):
        return "a cell without volume"
    return one_line(error)
