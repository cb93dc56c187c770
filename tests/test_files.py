"""Files: written whole or not at all, locked, and JSON without NaN."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ccdcgan.dft import files
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import InUseError, locked, to_json, write_atomically, writing


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_with_the_rights_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    before = os.umask(0o027)
    try:
        write_atomically(path, b"old")
        assert (path.read_bytes(), mode(path)) == (b"old", 0o640)
        write_atomically(path, b"new", private=True)
    finally:
        os.umask(before)
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(b"old")

    def write() -> None:
        with writing(path) as stream:
            stream.write(b"half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="input/output"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_told_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "no" / "out.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(path, b"")
    assert caught.value.filename == str(path)


def test_planted_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    # In the place of the file itself, of its lock, and of the temporary file were its name known.
    (folder / "out.json").symlink_to(victim)
    (folder / ".lock").symlink_to(victim)
    write_atomically(folder / "out.json", b"new")
    assert not (folder / "out.json").is_symlink()
    with pytest.raises(UserError, match="symbolic link"), locked(folder / ".lock", ""):
        pass
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)
    (folder / f".ccdcgan-{'0' * 16}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(folder / "other.json", b"new")
    assert victim.read_bytes() == b"precious"


def test_a_lock_does_not_empty_what_it_is_linked_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    os.link(tmp_path / "victim", tmp_path / ".lock")
    with locked(tmp_path / ".lock", ""):
        pass
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    contents = [bytes([i]) * 200_000 for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda c: write_atomically(path, c), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".lock", "."])
def test_one_holds_a_lock(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with locked(path, "held"), pytest.raises(InUseError, match="^held$"), locked(path, "held"):
        pass
    # A lock that was left behind is nobody's.
    with locked(path, "held"):
        pass


def test_a_lock_of_another_user_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user who may not write it: root may."""

    def denied(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", denied)
    told = pytest.raises(UserError, match="no permission to write")
    with told as caught, locked(tmp_path / ".lock", "held"):
        pass
    assert str(tmp_path / ".lock") in str(caught.value) and "\n" not in str(caught.value)
    assert not isinstance(caught.value, InUseError)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_not_in_use(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match="cannot be locked") as caught, locked(tmp_path / "l", ""):
        pass
    assert not isinstance(caught.value, InUseError)
    assert os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_has_no_nan(indent: int | None) -> None:
    data = {"a": [1.5, math.nan, {"b": math.inf}], "c": (-math.inf, "NaN"), "d": None, "e": True}

    def refuse(token: str) -> Callable[..., object]:
        raise AssertionError(token)

    found = json.loads(to_json(data, indent=indent), parse_constant=refuse)
    assert found == {"a": [1.5, None, {"b": None}], "c": [None, "NaN"], "d": None, "e": True}
