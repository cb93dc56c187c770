"""Packages whose code stored names may call: ours, and those that the user of a process trusts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from ccdcgan.dft.variables import PREFIX, variables

#: Name of a package in a file of settings.
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")]

#: Packages that are trusted everywhere.
PACKAGES = ("ccdcgan", "atomate2", "jobflow")


def trust(packages: Iterable[str]) -> None:
    """Trust these packages in this process, and in those that it starts, and no others.

    Beside `PACKAGES`. What the process has inherited counts no more.
    """
    os.environ[f"{PREFIX}TRUSTED"] = ",".join(packages)


def is_trusted(name: str) -> bool:
    """Whether a module is of a trusted package; nothing is imported."""
    return package_of(name) in {*PACKAGES, *variables().trusted.split(",")}


def package_of(name: object) -> str:
    """The package that a module belongs to."""
    return str(name).partition(".")[0]
