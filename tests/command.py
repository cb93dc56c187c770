"""The command line in the process of a test."""

from __future__ import annotations

import sys

import pytest

from ccdcgan.launchers.cli import app


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of ``ccdcgan`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["ccdcgan", *map(str, arguments)])
    try:
        app.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def complaint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    """What ``ccdcgan`` says of a mistake: one line, with status 2."""
    assert status_of(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return said[0]
