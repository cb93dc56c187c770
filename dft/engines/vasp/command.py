"""The command that runs VASP, which is the machine's."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Literal

from ccdcgan.dft.engines.vasp.tags import NONCOLLINEAR, is_noncollinear
from ccdcgan.dft.errors import UserError

#: Programs after which a word of the command is no program of this machine.
CONTAINERS = {"apptainer", "bash", "docker", "env", "podman", "podman-hpc", "sh", "shifter"}
CONTAINERS |= {"singularity"}


#: Programs of VASP: for all k-points, for Γ alone, for spins in any direction.
Program = Literal["std", "gam", "ncl"]

#: By which name atomate2's settings have the command of each.
SETTING = {"std": "VASP_CMD", "gam": "VASP_GAMMA_CMD", "ncl": "VASP_NCL_CMD"}


def vasp_command(program: Program = "std") -> str:
    """The command that runs VASP: ATOMATE2_VASP_CMD, or the user's atomate2 settings.

    So do ATOMATE2_VASP_GAMMA_CMD and ATOMATE2_VASP_NCL_CMD, where they are set.
    """
    from atomate2 import SETTINGS

    name = SETTING[program]
    if own := os.environ.get(f"ATOMATE2_{name}"):
        return own
    # Defaults of atomate2, without srun or mpirun, are nobody's choice.
    if program == "std" or name in SETTINGS.model_fields_set:
        return str(getattr(SETTINGS, name))
    return vasp_command()


def program_of(folder: Path) -> Program:
    """The program that a folder's inputs are for."""
    from pymatgen.io.vasp import Incar, Kpoints

    if is_noncollinear(Incar.from_file(folder / "INCAR")):
        return "ncl"
    kpoints = Kpoints.from_file(folder / "KPOINTS")
    gamma = kpoints.style is Kpoints.supported_modes.Gamma and set(kpoints.kpts[0]) == {1}
    return "gam" if gamma and vasp_command("gam") != vasp_command() else "std"


def layout_of(folder: Path) -> tuple[Any, ...]:
    """What the waves and densities that a folder's inputs make have to share with those they read.

    Each program has a layout of its own. Of spins that were paired VASP makes no others: from such
    waves a magnet stays without moments.
    """
    from pymatgen.io.vasp import Incar

    incar = Incar.from_file(folder / "INCAR")
    spins = int(incar.get("ISPIN", 1)), *(bool(incar.get(tag)) for tag in NONCOLLINEAR)
    return program_of(folder), *spins


def check_command(program: Program = "std") -> None:
    """Raise a `UserError` that says what is missing here to run a program of VASP."""
    _needs_atomate2()
    variable = f"ATOMATE2_{SETTING[program]}"
    command = os.path.expandvars(vasp_command(program))
    try:
        words = shlex.split(command)
    except ValueError:
        raise UserError(f"{variable} has an open quote: {command}") from None
    if program == "ncl" and vasp_command("ncl") == vasp_command() and "ncl" not in command:
        raise UserError(
            "soc, LSORBIT and LNONCOLLINEAR need vasp_ncl: set ATOMATE2_VASP_NCL_CMD, for example "
            "to 'srun vasp_ncl'"
        )
    programs = words[:1]
    if not CONTAINERS.intersection(Path(w).name for w in words):
        programs += [w for w in words[1:] if "vasp" in Path(w).name][-1:]
    for name in programs:
        if shutil.which(name) is None:
            raise UserError(
                f"{name!r} of the VASP command {command!r} is not found: set {variable}, for "
                f"example to 'srun vasp_{program}', or load VASP's module"
            )


def _needs_atomate2() -> None:
    try:
        import atomate2.vasp.run  # noqa: F401
    except ImportError:
        raise UserError("engine vasp needs: pip install 'ccdcgan[vasp]'") from None
