"""Variables that workers need before FireWorks and jobflow are imported: imports neither."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from ccdcgan.dft.errors import UserError

#: Its name in the folder of `files.write_files`.
ENVIRONMENT = "environment.sh"


def environment_text(values: Mapping[str, str | Path]) -> str:
    """The variables as a file for a shell to source."""
    lines = ["# For lpad, rlaunch, qlaunch and ccdcgan worker: source this first."]
    lines += [f"export {key}={shlex.quote(str(value))}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def read_environment(folder: Path) -> dict[str, str]:
    """The variables of a folder's ``environment.sh``."""
    path = folder / ENVIRONMENT
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): make it with ccdcgan cluster write"
        ) from None
    words = [shlex.split(line) for line in lines if line.startswith("export ")]
    return dict(word[1].split("=", 1) for word in words)
