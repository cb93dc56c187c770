"""What a check finds, part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ccdcgan.dft.errors import UserError


@dataclass(frozen=True)
class Finding:
    """What was looked at, or what to do if it is not as it should be."""

    state: Literal["ok", "note", "missing"]
    text: str


def tried(look: Callable[[], Finding]) -> Finding:
    """What a look finds; its `UserError` is a finding, too."""
    try:
        return look()
    except UserError as error:
        return Finding("missing", str(error))
