"""The command that runs VASP, which is the machine's."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from ccdcgan.dft.errors import UserError

#: Programs after which a word of the command is no program of this machine.
CONTAINERS = {"apptainer", "bash", "docker", "env", "podman", "podman-hpc", "sh", "shifter"}
CONTAINERS |= {"singularity"}


def vasp_command() -> str:
    """The command that runs VASP: ATOMATE2_VASP_CMD, or the user's atomate2 settings."""
    from atomate2 import SETTINGS

    return os.environ.get("ATOMATE2_VASP_CMD") or str(SETTINGS.VASP_CMD)


def gamma_command() -> str:
    """The command where only Γ is sampled: ATOMATE2_VASP_GAMMA_CMD, else `vasp_command`."""
    from atomate2 import SETTINGS

    set_by_user = "VASP_GAMMA_CMD" in SETTINGS.model_fields_set
    own = str(SETTINGS.VASP_GAMMA_CMD) if set_by_user else None
    return os.environ.get("ATOMATE2_VASP_GAMMA_CMD") or own or vasp_command()


def check_command() -> str:
    """The command, expanded; a `UserError` says what is missing here."""
    _needs_atomate2()
    command = os.path.expandvars(vasp_command())
    try:
        words = shlex.split(command)
    except ValueError:
        raise UserError(f"ATOMATE2_VASP_CMD has an open quote: {command}") from None
    programs = words[:1]
    if not CONTAINERS.intersection(Path(w).name for w in words):
        programs += [w for w in words[1:] if "vasp" in Path(w).name][-1:]
    for program in programs:
        if shutil.which(program) is None:
            raise UserError(
                f"{program!r} of the VASP command {command!r} is not found: set "
                "ATOMATE2_VASP_CMD, for example to 'srun vasp_std', or load VASP's module"
            )
    return command


def _needs_atomate2() -> None:
    try:
        import atomate2.vasp.run  # noqa: F401
    except ImportError:
        raise UserError("engine vasp needs: pip install 'ccdcgan[vasp]'") from None
