"""Structures in CIF: every block with atoms, its numbers and its space group looked at.

pymatgen builds the structure from a text of ours, in which nothing is left to guess.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Composition, Element, Structure

from ccdcgan.dft.structures.crystal import Crystal, Passed, Skipped, crystal_of
from ccdcgan.dft.structures.decoding import MOST_ATOMS, StructureError
from ccdcgan.dft.structures.spacegroups import (
    group_of,
    group_of_operations,
    hall_settings,
    keep_metric,
    operations,
    origin_choice,
    settings_of,
)
from ccdcgan.dft.structures.texts import number_in, one_line

#: Most symmetry operations times rows of a CIF file: their time grows with the square.
MOST_IMAGES = 8_000

#: Longest block of a CIF file, characters: those with reflections are longer.
MOST_CIF = 2_000_000

_CELL = tuple(f"_cell_{name}" for name in ("length_a", "length_b", "length_c"))
_ANGLES = tuple(f"_cell_angle_{name}" for name in ("alpha", "beta", "gamma"))
_PLACES = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
_LABEL, _TYPE, _OCCUPANCY = (f"_atom_site_{n}" for n in ("label", "type_symbol", "occupancy"))
_CARTESIAN = "_atom_site_cartn_x"
_STATES = ("_atom_type_symbol", "_atom_type_oxidation_number")
_FORMULA, _UNITS = "_chemical_formula_sum", "_cell_formula_units_z"
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")

#: Names of the space group, whichever of them a file has.
_GROUPS = (
    *(f"_symmetry_space_group_name_{n}" for n in ("h-m", "h_m", "hall")),
    *(f"_space_group_name_{n}" for n in ("h-m_alt", "h-m", "h-m_full", "hall")),
    "_space_group_it_number",
    "_symmetry_int_tables_number",
)

#: pymatgen's names of what is magnetic.
_MAGNETIC = {
    "_space_group_symop_magn_operation_xyz": "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_centering_xyz": "_space_group_symop_magn_centering.xyz",
    "_space_group_magn_name_bns": "_space_group_magn.name_BNS",
    "_space_group_magn_number_bns": "_space_group_magn.number_BNS",
    "_space_group_magn_transform_bns_pp": "_space_group_magn.transform_BNS_Pp",
    "_space_group_magn_transform_bns_pp_abc": "_space_group_magn.transform_BNS_Pp_abc",
    "_magnetic_space_group_transform_to_standard_pp_abc": (
        "_space_group_magn.transform_BNS_Pp_abc"
    ),
}
_MOMENTS = tuple(f"_atom_site_moment_{n}" for n in ("label", *(f"crystalaxis_{a}" for a in "xyz")))

_READ = {
    *(*_CELL, *_ANGLES, *_PLACES, _LABEL, _TYPE, _OCCUPANCY, _CARTESIAN, *_STATES),
    *(_FORMULA, _UNITS),
    *(*_OPERATIONS, *_GROUPS, *_MAGNETIC, *_MOMENTS),
}

#: Values by name: one of an item, those of a column of a loop.
_Values = Mapping[str, Sequence[str]]


def read_cif(text: str, name: str) -> Iterator[Crystal | Skipped | Passed]:
    """All blocks that hold atoms."""
    blocks = [b for b in _blocks(text) if re.search(r"^[ \t]*_atom_site[_.]", b, re.M | re.I)]
    if not blocks:
        if re.search(r"^[ \t]*(data_|_cell_length)", text, re.M | re.I):
            yield Skipped(name, "no atoms: no block has _atom_site lines")
        else:
            yield Skipped(name, "not CIF: no data_ block")
    for i, block in enumerate(blocks):
        label = name if len(blocks) == 1 else f"{name}#{i}"
        try:
            structure, warning = _of_block(block)
        except Exception as error:  # noqa: BLE001  pymatgen's parser raises many kinds
            yield Skipped(label, _reason(error))
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


def _words(block: str) -> Iterator[tuple[str, bool]]:
    """Words and texts of a block, and whether they are quoted."""
    text: list[str] | None = None
    for line in block.split("\n"):
        if line.startswith(";"):
            if text is None:
                text = [line[1:]]
                continue
            yield " ".join(text).strip(), True
            text, line = None, line[1:]
        if text is not None:
            text.append(line)
            continue
        # The search for quotes takes the square of a line.
        if len(line) > 5000 or line.count("'") + line.count('"') > 200:
            raise StructureError("a line is longer than any of CIF")
        for match in _WORD.finditer(line):
            if kind := match.lastgroup:
                yield match[kind], kind != "plain"


_WORD = re.compile(r"""'(?P<one>.*?)'(?=\s|$)|"(?P<two>.*?)"(?=\s|$)|\#.*|(?P<plain>\S+)""")


def _values(block: str) -> dict[str, list[str]]:
    """What is read of a block, by names in small letters with _ for a full stop.

    Raises
    ------
    StructureError
        Something stands twice, or is cut.
    """
    found: dict[str, list[str]] = {}
    for names, words, is_loop in _statements(block):
        for i, name in enumerate(names):
            if name not in _READ:
                continue
            if is_loop and len(words) % len(names):
                raise StructureError(
                    f"the loop of {name} has {len(words)} values for {len(names)} columns: a row "
                    "is cut, or a text with spaces has no quotes"
                )
            column = words[i :: len(names)] if is_loop else [" ".join(words)] * bool(words)
            if found.setdefault(name, column) != column and name not in (_FORMULA, _UNITS):
                raise StructureError(f"{name} stands twice")
    return found


def _statements(block: str) -> Iterator[tuple[list[str], list[str], bool]]:
    """Names, their values, and whether they are columns of a loop."""
    names: list[str] = []
    words: list[str] = []
    is_loop = False
    for word, quoted in _words(block):
        lower = word.lower()
        begins = not quoted and (
            lower == "loop_"
            or lower.startswith(("data_", "save_"))
            or lower in ("stop_", "global_")
        )
        if begins or (not quoted and word.startswith("_") and (words or not is_loop)):
            yield names, words, is_loop
            names, words, is_loop = [], [], lower == "loop_"
        if begins:
            continue
        if not quoted and word.startswith("_"):
            names.append(lower.replace(".", "_"))
        else:
            words.append(word.strip("\u2018\u2019\u201c\u201d"))
    yield names, words, is_loop


def _of_block(block: str) -> tuple[Structure, str | None]:
    """The structure of a block, and what is odd about it."""
    from pymatgen.io.cif import CifParser

    if len(block) > MOST_CIF:
        raise StructureError(f"a block of more than {MOST_CIF // 10**6} million characters")
    values = _values(block)
    matrix = _matrix(values)
    sites = _sites(values)
    magnetic, moments = _magnetic_group(values, block), _moments(values)
    listed, warning = ([], None) if magnetic else _operations(values, matrix, sites)
    if moments and not magnetic and len(listed) == 1:
        magnetic = _loop(["_space_group_symop_magn_operation.xyz"], [["x,y,z,+1"]])
    elif moments and not magnetic:
        warning = "its moments are left out: it has no magnetic space group"
    # By the name of the magnetic space group; the largest has 192.
    count = len(listed) or len(values.get("_space_group_symop_magn_operation_xyz", ())) or 192
    count *= max(1, len(values.get("_space_group_symop_magn_centering_xyz", ())))
    if len(sites) * count > MOST_IMAGES:
        raise StructureError(
            f"{len(sites)} rows of atoms and {count} symmetry operations would take minutes: "
            "write it in P1"
        )
    cell = [f"{name} {values[name][0]}" for name in (*_CELL, *_ANGLES)]
    lines = ["data_x", *cell, *magnetic, *(moments if magnetic else ())]
    lines += _loop(_OPERATIONS[:1], [[o] for o in listed])
    lines += _loop((_LABEL, _TYPE, *_PLACES, _OCCUPANCY), sites)
    states = [values.get(name, ()) for name in _STATES]
    kinds = [(s, n) for s, n in zip(*states, strict=False) if re.match(r"[A-Z][a-z]?\d*[+-]?$", s)]
    lines += _loop(_STATES, kinds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = CifParser.from_str("\n".join(lines), check_cif=False)
        structure = parser.parse_structures(primitive=False, on_error="raise")[0]
    if not keep_metric([o.rotation_matrix for o in parser.symmetry_operations], matrix):
        raise StructureError("its cell does not have the symmetry of its operations")
    return structure, _stoichiometry(values, structure) or warning


def _loop(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return ["loop_", *names, *(" ".join(f'"{value}"' for value in row) for row in rows)]


def _item(values: _Values, name: str) -> str | None:
    """The value of an item; None where it is not given, or unknown."""
    value = next(iter(values.get(name, ())), "?").strip()
    return None if value in ("?", ".", "") else value


def _matrix(values: _Values) -> NDArray[np.float64]:
    """Lattice vectors as rows, Å.

    Raises
    ------
    StructureError
        There are no such lengths and angles.
    """
    from pymatgen.core import Lattice

    numbers = []
    for name in (*_CELL, *_ANGLES):
        column = values.get(name, ())
        if len(column) != 1:
            raise StructureError(f"{name} {'stands twice' if column else 'is missing'}")
        numbers.append(number_in(column[0], name))
    if min(numbers[:3]) <= 0:
        raise StructureError("a length of the cell is not above 0")
    cosines = np.cos(np.radians(numbers[3:]))
    inside = 1 - (cosines**2).sum() + 2 * cosines.prod()
    if not all(0 < angle < 180 for angle in numbers[3:]) or inside < 1e-8:
        raise StructureError("no cell has such angles")
    matrix: NDArray[np.float64] = Lattice.from_parameters(*numbers).matrix
    return matrix


def _sites(values: _Values) -> list[list[str]]:
    """Label, element, coordinates and occupancy of each row of atoms."""
    columns = [values.get(name, ()) for name in _PLACES]
    for name, column in zip(_PLACES, columns, strict=True):
        if not column:
            if name in values:
                raise StructureError("no atoms")
            instead = "" if not values.get(_CARTESIAN) else ": only Cartesian coordinates are there"
            raise StructureError(f"{name} is missing{instead}")
    count = len(columns[0])
    if count > MOST_ATOMS:
        raise StructureError(f"more than {MOST_ATOMS} atoms")
    labels = values.get(_LABEL, ())
    types = values.get(_TYPE, ["?"] * count)
    shares = values.get(_OCCUPANCY, ["1"] * count)
    labels = labels or types
    if {len(column) for column in (*columns, labels, types, shares)} != {count}:
        raise StructureError("the columns of its atoms are not equally long")
    formula = set(re.findall(r"[A-Z][a-z]?", _item(values, _FORMULA) or ""))
    sites = []
    for i, (*place, label, kind, share) in enumerate(
        zip(*columns, labels, types, shares, strict=True)
    ):
        numbers = [number_in(p, n) for p, n in zip(place, _PLACES, strict=True)]
        # Where it does not apply, a site is full.
        occupancy = 1.0 if share == "." else number_in(share, _OCCUPANCY)
        if not 0 <= occupancy <= 1 + 1e-3:
            raise StructureError(f"occupancy {occupancy:g} is not from 0 to 1")
        symbol = _of_label(label, formula) if kind in ("?", ".") else kind
        for element, part in _parts(symbol):
            sites.append([f"a{i}", element, *map(repr, numbers), repr(occupancy * part)])
    return sites


def _parts(kind: str) -> list[tuple[str, float]]:
    """Elements with their charges, and their shares of a site.

    The Pauling File writes 0.8Nb + 0.2Zr in the place of a symbol.
    """
    parts = [(part, re.match(r"\s*(\d*\.?\d+)\s*(.*)", part)) for part in kind.split(" + ")]
    if len(parts) == 1:
        return [(_symbol(kind), 1.0)]
    return [(_symbol(m[2]), float(m[1])) if m else (_symbol(part), 1.0) for part, m in parts]


def _symbol(kind: str) -> str:
    """The element of a type of atoms as in Na, NA1+ or 2H, with its charge."""
    match = re.match(r"\d*([A-Za-z]+)([\d.+-]*)", kind)
    if match is None or not Element.is_valid_symbol(match[1].capitalize()):
        raise StructureError(f"no element {kind[:20]!r}")
    return match[1].capitalize() + match[2]


def _of_label(label: str, formula: Collection[str]) -> str:
    """The element that a label as Na1 begins with, where no column says which it is.

    CA1 is calcium or carbon, as the formula has it.
    """
    match = re.match(r"[A-Za-z]+", label)
    letters = match[0] if match else ""
    begins = [e for e in (letters[:2].capitalize(), letters[:1].upper()) if _is_element(e)]
    # The oxygen and hydrogen of water are often Ow and Hw.
    whole = letters[:1] if letters.lower() in ("ow", "hw") else letters
    known = [e for e in begins if e in formula] or [e for e in begins if e == whole.capitalize()]
    if not known:
        raise StructureError(f"no element in the label {label[:20]!r}: give {_TYPE}")
    return known[0]


def _is_element(symbol: str) -> bool:
    return bool(symbol) and Element.is_valid_symbol(symbol)


def _operations(
    values: _Values, matrix: NDArray[np.float64], sites: Sequence[Sequence[str]]
) -> tuple[list[str], str | None]:
    """Symmetry operations, listed or by the space group's name, and what is odd about them.

    Raises
    ------
    StructureError
        They are not known, contradict each other, or are not those of the cell.
    """
    listed = [o for name in _OPERATIONS for o in values.get(name, ()) if o not in ("?", ".")]
    given = {name: item for name in _GROUPS if (item := _item(values, name))}
    found = {
        name: hall_settings(item) if name.endswith("_hall") else settings_of(item)
        for name, item in given.items()
    }
    shown = " and ".join(repr(item[:30]) for item in dict.fromkeys(given.values()))
    if listed:
        number = _number_of(listed)
        others = [s for s in found.values() if s and number != group_of(s[0])]
        # Some list a subgroup, or none, beside all atoms that the rest would make.
        count = _images(sites, listed) if others else 0
        for named in others:
            fit = [hall for hall in named if keep_metric(operations(hall)[1], matrix)]
            if all(_images(sites, operations(hall)[0]) != count for hall in fit):
                raise StructureError(
                    f"its {len(listed)} symmetry operations are not those of its space group "
                    f"{shown}"
                )
        return listed, None
    if not given:
        if any(name in values for name in _GROUPS):
            raise StructureError("its space group is '?': give the symmetry operations")
        return ["x,y,z"], None
    symbols = [s for name, s in found.items() if not name.endswith("_number")]
    if not any(symbols or found.values()):
        raise StructureError(f"its space group {shown} is not known: give the symmetry operations")
    known = [s for s in found.values() if s]
    common = [hall for hall in known[0] if all(hall in s for s in known)]
    if not common:
        raise StructureError(f"its space groups contradict each other: {shown}")
    fit = [hall for hall in common if keep_metric(operations(hall)[1], matrix)]
    if not fit:
        raise StructureError(f"its cell does not have the symmetry of its space group {shown}")
    choices = {origin_choice(hall) for hall in fit}
    warning = None
    if len(choices - {None}) > 1:
        warning = (
            f"its space group {shown} has two origins: read with choice {origin_choice(fit[0])}"
        )
    return list(operations(fit[0])[0]), warning


def _images(sites: Sequence[Sequence[str]], listed: Sequence[str]) -> int:
    """Number of places that operations make of the rows of atoms."""
    from pymatgen.core.operations import SymmOp

    if len(sites) * len(listed) > MOST_IMAGES:
        return 0
    places = np.array([[float(x) for x in site[2:5]] for site in sites])
    images = np.concatenate([SymmOp.from_xyz_str(o).operate_multi(places) for o in listed])
    # Of such a grid are all fractions that special positions have.
    return len(np.unique(np.round(images * 1008).astype(int) % 1008, axis=0))


def _number_of(listed: Sequence[str]) -> int:
    """Number of the space group of listed operations.

    Raises
    ------
    StructureError
        They are no group.
    """
    from pymatgen.core.operations import SymmOp

    found = []
    for text in listed:
        if not re.fullmatch(r"[^,]+,[^,]+,[^,]+", text) or re.search(r"[^xyzXYZ\d\s,+*/.-]", text):
            raise StructureError(f"no symmetry operation: {text[:40]!r}")
        try:
            found.append(SymmOp.from_xyz_str(text))
        except (ValueError, ZeroDivisionError):
            raise StructureError(f"no symmetry operation: {text[:40]!r}") from None
    number = group_of_operations(
        np.array([o.rotation_matrix for o in found]),
        np.array([o.translation_vector for o in found]),
    )
    if number is None:
        raise StructureError("its symmetry operations are no group: some are lacking or wrong")
    return number


def _magnetic_group(values: _Values, block: str) -> list[str]:
    """Lines with the magnetic space group; none where it has none."""
    whole = {new: values[old] for old, new in _MAGNETIC.items() if values.get(old)}
    if not any(new.endswith(("operation.xyz", "BNS")) for new in whole):
        return []
    if re.search(r"^[ \t]*_cell_(modulation_dimension|wave_vector)", block, re.M | re.I):
        raise StructureError("a modulated structure, which is no crystal of one cell")
    transform = " ".join(whole.get("_space_group_magn.transform_BNS_Pp_abc", ()))
    if "**" in transform or len(transform) > 100:
        raise StructureError("the magnetic space group's transformation is no transformation")
    lines = []
    for name, column in whole.items():
        column = [value.replace('"', "") for value in column]
        if name.endswith(".xyz"):
            lines += _loop([name], [[value] for value in column])
        else:
            lines.append(f'{name} "{column[0]}"')
    return lines


def _moments(values: _Values) -> list[str]:
    """Lines with the moments."""
    names = {label: f"a{i}" for i, label in enumerate(values.get(_LABEL, ()))}
    moments = list(zip(*(values.get(name, ()) for name in _MOMENTS), strict=False))
    return _loop(_MOMENTS, [[names.get(m[0], "none"), *m[1:]] for m in moments])


def _stoichiometry(values: _Values, structure: Structure) -> str | None:
    """How the formula of a CIF file differs from its sites, or None."""
    formula = _item(values, _FORMULA)
    if formula is None or not re.fullmatch(r"[A-Za-z0-9.,\s()+-]{1,200}", formula):
        return None
    try:
        written = Composition(formula.replace(",", " "))
    except Exception:  # noqa: BLE001  a formula that pymatgen cannot read is no reason
        return None
    sites = structure.composition.remove_charges()
    text = " ".join(formula.split())
    if not written.fractional_composition.almost_equals(
        sites.fractional_composition, rtol=0.02, atol=0.02
    ):
        return f"its formula is {text}, its sites are {sites.reduced_formula}"
    units = _item(values, _UNITS)
    count = number_in(units, _UNITS) * written.num_atoms if units else sites.num_atoms
    # Some write the formula of the whole cell beside its number of units.
    counts = [count, written.num_atoms]
    if written.num_atoms == written.reduced_composition.num_atoms:
        counts.pop()
    if any(math.isclose(n, sites.num_atoms, rel_tol=0.02) for n in counts):
        return None
    return f"its {units} formula units {text} are {count:g} atoms, its sites {sites.num_atoms:g}"


def _reason(error: Exception) -> str:
    text = one_line(error)
    text = text.removeprefix("No structure parsed for section 1 in CIF.").strip()
    if match := re.fullmatch(r"Occupancy ([0-9.]+) exceeded tolerance\.", text):
        return f"atoms in one place: occupancies sum to {float(match[1]):g}"
    if text == "Invalid CIF file with no structures!":
        return "no atoms"
    return text
