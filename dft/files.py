"""Files: written whole or not at all, held by one process at a time, JSON without NaN, hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ccdcgan.dft.errors import UserError

#: What a disk says that knows no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


#: Pattern of names of files that are not whole yet.
TEMPORARY = ".ccdcgan-*.tmp"


class InUseError(UserError):
    """Another process holds the lock."""


def require_writable(path: Path) -> None:
    """Raise a `UserError` where a file is to be written, and is a folder or has none."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")


@contextlib.contextmanager
def writing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file at the end, whole or not at all.

    Several processes may write the same file: the last one's stays. A symbolic link is replaced,
    never followed.

    Parameters
    ----------
    private
        Only the user may read the file; otherwise whoever the umask lets.
    """
    # Beside the target, because a rename is atomic only within one file system.
    temporary = path.parent / TEMPORARY.replace("*", secrets.token_hex(8))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(temporary, flags, 0o600 if private else 0o666)
    except OSError as error:
        # The name that people know; so below.
        error.filename = str(path)
        raise
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        temporary.unlink(missing_ok=True)
        raise
    # Not every disk can do this, and not every folder may be read.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path: Path, data: bytes | str, *, private: bool = False) -> None:
    """Write a file whole or not at all, text in UTF-8; see `writing`."""
    with writing(path, private=private) as stream:
        stream.write(_bytes(data))


@contextlib.contextmanager
def locked(path: Path, in_use: str) -> Iterator[None]:
    """Hold a lock for this process.

    Parameters
    ----------
    path
        A folder, or a file that is made where it is missing.
    in_use
        What to say when another process holds it.

    Raises
    ------
    InUseError
        Another process holds it.
    UserError
        It is a symbolic link, may not be written, or the disk knows no locks.
    """
    kind = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    try:
        handle = os.open(path, kind | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a symbolic link, which no lock is: remove it") from None
        if isinstance(error, PermissionError):
            raise UserError(
                f"{path}: no permission to write: choose another folder, or have its owner let the "
                f"group write (chmod -R g+w {path.parent})"
            ) from None
        raise
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(in_use) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise UserError(
                f"files in {path.parent} cannot be locked ({error.strerror}): mount that disk "
                "with locks (Lustre: -o flock), or choose a folder on another"
            ) from None
        yield
    finally:
        os.close(handle)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is of a file directly in a folder, once all links are followed."""
    try:
        return path.resolve().parent == folder.resolve()
    except (OSError, RuntimeError, ValueError):
        # A loop of links, or no path at all.
        return False


def file_stem(text: object) -> str:
    """A text, such as a formula, as part of the name of a file: nothing in it leads elsewhere."""
    return re.sub(r"[^\w()-]", "_", str(text), flags=re.ASCII)[:80]


def digest(content: bytes | str, length: int = 64) -> str:
    """The first hex digits of the SHA-256 of a content."""
    return hashlib.sha256(_bytes(content)).hexdigest()[:length]


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def to_json(value: Any, **options: Any) -> str:
    """A value as JSON, with null in place of every NaN and infinity, which JSON does not know.

    Parameters
    ----------
    options
        Of `json.dumps`.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(without_nan(value), allow_nan=False, **options)


def without_nan(value: Any) -> Any:
    """The value with None in place of every number that is not finite, however deep."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def all_finite(value: Any) -> bool:
    """Whether every number in a document is finite, however deep."""
    if isinstance(value, Mapping):
        return all(map(all_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def zipped(files: Mapping[str, str]) -> bytes:
    """Texts by their names as a ZIP file: the same texts are the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            # Named alone, a file would have the date of this moment.
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    return stream.getvalue()
