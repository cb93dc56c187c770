"""The one reader of structures: crystals and refusals from whatever files users have.

What cannot be read, be it a file or one of many structures in a file, is a `Skipped` with its
reason; the rest is read all the same. Nothing that stands in a file is executed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.archives import Member, TooLargeError, members
from ccdcgan.dft.structures.cif import read_cif
from ccdcgan.dft.structures.crystal import Crystal, Passed, Skipped, crystal_of
from ccdcgan.dft.structures.poscar import read_poscar
from ccdcgan.dft.structures.rows import csv_numbers, read_csv, read_json, read_parquet
from ccdcgan.dft.structures.texts import as_text, one_line, read_extxyz

#: What is read, for messages.
FORMATS = "CIF, mCIF, POSCAR, extxyz, JSON, JSON lines, CSV or Parquet, each also .gz or .xz"

_KINDS = {
    ".cif": "cif",
    ".mcif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".contcar": "poscar",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".json": "json",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".csv": "csv",
    ".parquet": "parquet",
}

#: How contents begin that are no text, and what to do with them.
_BINARY = {
    b"PK\x03\x04": "a ZIP file: give it a name that ends in .zip",
    b"SQLite format 3": "a database: write it as extxyz, as by ase convert FILE.db FILE.extxyz",
    b"\x89HDF": "HDF5, which is not read: write it as extxyz or JSON",
    b"%PDF": "a PDF",
}

#: How texts begin that are of other kinds, and what they are.
_FOREIGN = {
    r"\s*<\?xml|\s*<modeling": "XML, as vasprun.xml",
    r" vasp\.\d": "an OUTCAR",
    r"(TITL|CELL) .*\n(CELL|ZERR|LATT) ": "a .res file",
    r"(HEADER|TITLE|CRYST1|ATOM  |HETATM|REMARK)": "a .pdb file",
    r"\s*(#.*\n\s*)*(CRYSTAL|ANIMSTEPS|PRIMVEC)\b": "an .xsf file",
    r"\s*\d+ +[CSFH]\s*\n": "a .gen file",
    r"(?s).{0,2000}&(control|system)\b": "an input of Quantum ESPRESSO",
    r"\s*<(!doctype )?html": "a page of a web site",
    r"version https://git-lfs": "a pointer of Git LFS: fetch the file itself by git lfs pull",
}

#: Endings of texts and programs, however they begin.
_NO_STRUCTURES = {
    *(".txt", ".md", ".rst", ".log", ".out", ".err", ".bak", ".old", ".orig", ".tmp", ".swp"),
    *(".py", ".sh", ".ipynb", ".yaml", ".yml", ".toml", ".ini", ".html", ".xml", ".pdf", ".png"),
}

#: What may run commands when it is loaded.
_PICKLES = {".pkl", ".pickle", ".pt", ".joblib"}


def read(path: Path) -> Iterator[Crystal | Skipped | Passed]:
    """Structures of a file, a folder or a ZIP file, files in the order of their names.

    Raises
    ------
    UserError
        The path does not exist or cannot be opened, or nothing in it can be read.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a structure file or a folder of them")
    found = False
    bad: Skipped | None = None
    passed: Counter[str] = Counter()
    for item in _read(path):
        if isinstance(item, Crystal):
            found = True
        elif isinstance(item, Skipped):
            bad = bad or item
        else:
            passed[f"{item.id}: {item.reason}"] += 1
        yield item
    if not found and bad is not None:
        raise UserError(f"no structure in {path} can be read: {bad.id}: {bad.reason}")
    if not found:
        about = f" ({next(iter(passed))})" if passed else ""
        raise UserError(f"{path} holds no structure file{about}: give {FORMATS}")


def _read(path: Path) -> Iterator[Crystal | Skipped | Passed]:
    alone = path.is_file() and path.suffix.lower() != ".zip"
    tables = {} if alone else _tables(path)
    for member in members(path):
        if not isinstance(member, Member):
            kind = Skipped if member.bad else Passed
            yield kind(member.name, member.reason)
            continue
        name = _kind(member)
        if name is None and not alone:
            yield Passed(member.name, "not named as a structure file")
            continue
        for item in _of_member(member, name):
            row = tables.get(item.id)
            if isinstance(item, Crystal) and row is not None:
                yield crystal_of(item.id, item.structure, row, item.warning)
            else:
                yield item


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    """What tables beside the structure files say about them, by the names of the files."""
    found: dict[str, dict[str, Any]] = {}
    for member in members(path):
        if isinstance(member, Member) and member.suffixes[-1:] == [".csv"]:
            folder = PurePosixPath(member.name).parent
            try:
                rows = csv_numbers(as_text(member.load()))
            except (OSError, ValueError, TooLargeError):
                continue
            found |= {(folder / name).as_posix(): row for name, row in rows.items()}
    return found


def _kind(member: Member) -> str | None:
    """The format that a name tells of."""
    suffix = member.suffixes[-1] if member.suffixes else ""
    if suffix in _KINDS or suffix in _NO_STRUCTURES:
        return _KINDS.get(suffix)
    parts = re.split("[._ -]+", PurePosixPath(member.name).name.lower())
    return "poscar" if {"poscar", "contcar"} & {parts[0], *parts[-2:]} else None


def _of_member(member: Member, kind: str | None) -> Iterator[Crystal | Skipped | Passed]:
    if kind is None and member.suffixes[-1:] and member.suffixes[-1] in _PICKLES:
        yield Skipped(member.name, "a pickle can run commands: save it as JSON or Parquet")
        return
    try:
        content = member.load()
        if not content.strip():
            # Most tables hold no structures.
            yield (Passed if kind == "csv" else Skipped)(member.name, "empty file")
            return
        yield from _of_content(content, member.name, kind)
    except PermissionError:
        yield Skipped(member.name, "no permission to read it")
    except (OSError, ValueError, TooLargeError) as error:
        yield Skipped(member.name, one_line(error))


def _of_content(
    content: bytes, name: str, kind: str | None
) -> Iterator[Crystal | Skipped | Passed]:
    if kind == "parquet" or content.startswith(b"PAR1"):
        yield from read_parquet(content, name)
        return
    for magic, reason in _BINARY.items():
        if content.startswith(magic):
            yield Skipped(name, reason)
            return
    text = as_text(content)
    for item in _of_text(text, name, kind or _sniffed(text)):
        if isinstance(item, Skipped) and item.id == name:
            yield Skipped(name, _foreign(text) or item.reason)
        else:
            yield item


def _of_text(text: str, name: str, kind: str) -> Iterator[Crystal | Skipped | Passed]:
    if kind in ("json", "lines"):
        yield from read_json(text, name, kind == "lines")
    elif kind == "csv":
        yield from read_csv(text, name)
    elif kind == "cif":
        yield from read_cif(text, name)
    elif kind == "extxyz":
        yield from read_extxyz(text, name)
    else:
        yield from read_poscar(text, name)


def _foreign(text: str) -> str | None:
    """What a text is that cannot be read, where its beginning tells it."""
    what = next((what for begin, what in _FOREIGN.items() if re.match(begin, text, re.I)), None)
    return what if what is None or ":" in what else f"{what}, which is not read: give {FORMATS}"


def _sniffed(text: str) -> str:
    """The format of a file whose name does not tell it."""
    first = text.lstrip()[:1]
    if first in ("{", "["):
        return "json"
    if "_cell_length_a" in text or "_atom_site" in text:
        return "cif"
    lines = text.split("\n", 2)
    if lines[0].strip().isdecimal() and len(lines) > 2:
        return "extxyz"
    return "poscar"
