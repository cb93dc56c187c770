"""Contents of files, folders and ZIP files, unpacked in memory and within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.variables import PREFIX, variables

#: What raises the limit.
VARIABLE = f"{PREFIX}MAX_UNPACKED"

#: What unpacks to more than so many times its size was made to fill memories; CIF has about 5.
MOST_RATIO = 200
#: Bytes up to which the ratio does not matter.
SMALL = 10_000_000

#: Most members of an archive.
MOST_MEMBERS = 200_000

#: Why what is not read is none, for messages.
HIDDEN = "hidden, or a copy that a program keeps"
DANGLING = "a link to what is not there"

_UNPACKERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda packed: gzip.GzipFile(fileobj=packed),
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
}

#: How packed contents begin, where a name does not say it.
_MAGIC = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"BZh": ".bz2"}

#: Kinds of archives that are not read.
_FOREIGN = (".tar", ".tgz", ".txz", ".7z", ".rar", ".zst", ".z")


class TooLargeError(UserError):
    """A content beyond the limits; the text names the limit and how to raise it."""


def limit() -> int:
    """Largest content of a file, and of all that an archive unpacks to, bytes."""
    return variables().max_unpacked * 1_000_000


def _too_large(what: str) -> TooLargeError:
    return TooLargeError(
        f"{what} more than {limit() // 1_000_000} MB: if you trust it, set {VARIABLE} to the "
        "megabytes that are allowed"
    )


@dataclass(frozen=True)
class Member:
    """A file, by itself or in a folder or an archive.

    Attributes
    ----------
    name
        Path within what was given.
    load
        Its content, unpacked. Raises ValueError, OSError or TooLargeError.
    """

    name: str
    load: Callable[[], bytes]

    @property
    def suffixes(self) -> list[str]:
        """Suffixes in small letters, without those of packing."""
        found = [s.lower() for s in PurePosixPath(self.name).suffixes]
        return found[:-1] if found and found[-1] in _UNPACKERS else found


@dataclass(frozen=True)
class Unread:
    """What is no structure by its name, or cannot be opened.

    Attributes
    ----------
    bad
        Whether it should have been readable, and counts.
    """

    name: str
    reason: str
    bad: bool = True


def members(path: Path) -> Iterator[Member | Unread]:
    """Files of a path in the order of their names: itself, or those of a folder or ZIP file.

    Raises
    ------
    UserError
        The path cannot be read at all.
    """
    if path.is_dir():
        for file, reason in sorted(_files(path)):
            name = file.relative_to(path).as_posix()
            if _hidden(name):
                yield Unread(name, HIDDEN, bad=False)
            elif reason:
                yield Unread(name, reason, bad=reason == DANGLING)
            else:
                yield from _of_file(file, name)
        return
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder")
    for member in _of_file(path, path.name, alone=True):
        if isinstance(member, Unread) and member.bad and member.name == path.name:
            raise UserError(f"cannot read {path}: {member.reason}")
        yield member


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """What is in a folder and its folders, linked ones too, and why it is no file where it is none.

    A folder to which several links lead is read once.
    """
    entered: set[tuple[int, int]] = set()
    folders = deque([folder])
    while folders:
        here = folders.popleft()
        try:
            status = here.stat()
            inside = sorted(here.iterdir())
        except OSError:
            yield here, "a folder that cannot be opened"
            continue
        if (status.st_dev, status.st_ino) in entered:
            yield here, "a link to a folder that is read already"
            continue
        entered.add((status.st_dev, status.st_ino))
        for path in inside:
            if path.is_dir():
                # By its own name rather than by that of a link.
                (folders.append if path.is_symlink() else folders.appendleft)(path)
            elif path.is_file():
                yield path, ""
            else:
                yield path, DANGLING if path.is_symlink() else "neither a file nor a folder"


def _of_file(file: Path, name: str, alone: bool = False) -> Iterator[Member | Unread]:
    if file.suffix.lower() in _FOREIGN or file.name.lower().endswith(".tar.gz"):
        yield Unread(name, "an archive of a kind that is not read: unpack it, or give a ZIP file")
        return
    if file.suffix.lower() == ".zip":
        prefix = "" if alone else f"{name}/"
        try:
            with zipfile.ZipFile(file) as archive:
                yield from _of_archive(archive, file.stat().st_size, prefix)
        # zipfile raises many kinds on what is damaged.
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            yield Unread(name, str(error) or type(error).__name__)
        except TooLargeError as error:
            yield Unread(name, str(error))
        return

    def load() -> bytes:
        size = file.stat().st_size
        if size > limit():
            raise _too_large("it has")
        with file.open("rb") as stream:
            return _unpacked(stream, size, name)

    yield Member(name, load)


def _of_archive(archive: zipfile.ZipFile, packed: int, prefix: str) -> Iterator[Member | Unread]:
    infos = sorted((i for i in archive.infolist() if not i.is_dir()), key=lambda i: i.filename)
    if len(infos) > MOST_MEMBERS:
        raise TooLargeError(f"it has {len(infos)} members, more than {MOST_MEMBERS}: give parts")
    total = sum(i.file_size for i in infos)
    if total > limit():
        raise _too_large("it unpacks to")
    _check_ratio(total, packed)
    for info in infos:
        name = prefix + info.filename
        if _hidden(info.filename):
            yield Unread(name, HIDDEN, bad=False)
        elif info.filename.lower().endswith((".zip", *_FOREIGN)):
            yield Unread(name, "an archive within an archive: unpack it")
        else:

            def load(info: zipfile.ZipInfo = info, name: str = name) -> bytes:
                try:
                    with archive.open(info) as stream:
                        # What a header says of sizes may be a lie.
                        return _unpacked(io.BytesIO(_bounded(stream)), info.compress_size, name)
                except (
                    RuntimeError,
                    NotImplementedError,
                    EOFError,
                    zlib.error,
                    zipfile.BadZipFile,
                ) as error:
                    raise ValueError(f"cannot be unpacked: {error}") from None

            yield Member(name, load)


def _hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return any(
        part.startswith((".", "~$")) or part.endswith("~") or part == "__MACOSX" for part in parts
    )


def _unpacked(stream: IO[bytes], packed: int, name: str) -> bytes:
    """The content of a stream, without the packing that its name or its beginning tells of."""
    suffix = PurePosixPath(name).suffix.lower()
    head = stream.read(6)
    stream.seek(0)
    kind = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None)
    if kind is None and suffix in _UNPACKERS and head:
        raise ValueError(f"it is not packed as {suffix} says")
    if kind is None:
        return _bounded(stream)
    try:
        with _UNPACKERS[kind](stream) as unpacked:
            return _bounded(unpacked, packed)
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise ValueError(f"cannot be unpacked: {str(error) or 'it is cut'}") from None


def _bounded(stream: IO[bytes], packed: int | None = None) -> bytes:
    content = io.BytesIO()
    while block := stream.read(1 << 20):
        content.write(block)
        if content.tell() > limit():
            raise _too_large("it unpacks to")
        if packed is not None:
            _check_ratio(content.tell(), packed)
    return content.getvalue()


def _check_ratio(size: int, packed: int) -> None:
    if size > SMALL and size > MOST_RATIO * max(packed, 1):
        raise TooLargeError(
            f"it unpacks to more than {MOST_RATIO} times its size: unpack it yourself if you "
            "trust it"
        )
