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
