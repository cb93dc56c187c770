"""What a run of VASP has left in its folder, read with pymatgen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.frames import KBAR

#: Tags that decide an energy, with VASP's defaults. Smearing, algorithms and symmetry are not
#: among them: custodian must be free to change those.
DECISIVE: dict[str, Any] = {
    "GGA": None,
    "METAGGA": None,
    "ENCUT": None,
    "PREC": "Normal",
    "ISPIN": 1,
    "LASPH": False,
    "ADDGRID": False,
    "LDAU": False,
    "LDAUTYPE": 2,
    "LDAUL": None,
    "LDAUU": None,
    "LDAUJ": None,
    "IVDW": 0,
    "LUSE_VDW": False,
    "LHFCALC": False,
    "AEXX": None,
    "HFSCREEN": None,
    "LSORBIT": False,
}


@dataclass
class Run:
    """What a run of VASP computed, read from its files.

    Attributes
    ----------
    structure
        Last geometry.
    energy_per_atom
        Of the last ionic step, eV/atom.
    max_force, max_stress
        Largest force on an atom (eV/Å) and largest component of the stress (eV/Å³).
    electronic, ionic
        Whether VASP converged the electrons, and the ions to the accuracy asked of it.
    changed
        Tags that decide the energy and differ from what was asked: (asked, ran).
    pseudopotentials
        Title and hash of each element's POTCAR.
    """

    structure: Structure
    energy_per_atom: float
    max_force: float
    max_stress: float
    electronic: bool
    ionic: bool
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    pseudopotentials: dict[str, str] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises
    ------
    Exception
        Of any kind, where the files are missing, cut or empty.
    """
    from pymatgen.io.vasp import Incar, Vasprun
    from pymatgen.io.vasp.inputs import Kpoints, Potcar

    # Custodian keeps the inputs that it was given under these names.
    asked_incar, asked_kpoints = (
        original if (original := folder / f"{name}.orig").exists() else folder / name
        for name in ("INCAR", "KPOINTS")
    )
    run = Vasprun(folder / "vasprun.xml", parse_dos=False, parse_eigen=False)
    last = run.ionic_steps[-1]
    asked = decisive(Incar.from_file(asked_incar))
    ran = decisive(run.incar)
    changed = {t: (asked[t], ran[t]) for t in DECISIVE if not _alike(asked[t], ran[t])}
    grids = [tuple(k.kpts[0]) for k in (Kpoints.from_file(asked_kpoints), run.kpoints)]
    if any(b < a for a, b in zip(*grids, strict=True)):
        changed["KPOINTS"] = (grids[0], grids[1])
    potcar = Potcar.from_file(folder / "POTCAR")
    stress = np.abs(np.array(last["stress"], float)).max() / KBAR
    return Run(
        structure=run.final_structure,
        energy_per_atom=float(run.final_energy) / len(run.final_structure),
        max_force=float(np.linalg.norm(last["forces"], axis=1).max()),
        max_stress=float(stress),
        electronic=bool(run.converged_electronic),
        # pymatgen counts any relaxation that ends early, even one that is told to stop.
        ionic=b"reached required accuracy" in (folder / "OUTCAR").read_bytes(),
        changed=changed,
        pseudopotentials={
            p.element: f"{p.keywords['TITEL']} {hashlib.sha256(p.data.encode()).hexdigest()[:8]}"
            for p in potcar
        },
    )


def decisive(incar: Mapping[str, Any]) -> dict[str, Any]:
    """The decisive tags of an INCAR, written alike whoever wrote them."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return value.strip().upper() or None
        if isinstance(value, (list, tuple)):
            return [float(v) for v in value]
        return float(value) if isinstance(value, (int, float)) else value

    return {tag: plain(incar.get(tag, default)) for tag, default in DECISIVE.items()}


def _alike(asked: Any, ran: Any) -> bool:
    """Whether two values are the same; vasprun.xml cuts long words, as in PREC = accura."""
    if isinstance(asked, str) and isinstance(ran, str):
        return asked.startswith(ran) or ran.startswith(asked)
    return bool(asked == ran)


def difference(tag: str, values: Sequence[Any]) -> str:
    """A changed tag for people."""
    return f"{tag} {values[1]} instead of {values[0]}"


def corrections(folder: Path) -> tuple[list[str], list[str]]:
    """The errors that custodian has corrected in a run, in order, and those that it could not."""
    try:
        record = json.loads((folder / "custodian.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [], []
    corrected: list[str] = []
    left: list[str] = []
    for correction in (c for job in record for c in job.get("corrections", [])):
        (corrected if correction["actions"] else left).extend(map(str, correction["errors"]))
    # Some are told at each look.
    return corrected, list(dict.fromkeys(left))


def failure(folder: Path, error: Exception) -> str:
    """Why a run gave no result, in a line for people."""
    corrected, left = corrections(folder)
    if left:
        return f"custodian could not repair: {', '.join(left)}"
    name = type(error).__name__
    if name.startswith("MaxCorrections"):
        return f"custodian gave up after {', '.join(corrected)}"
    if name == "ValidationError":
        return f"VASP broke off: {last_words(folder) or 'its output is not complete'}"
    # Addresses in memory would make every message another one.
    text = re.sub(r"<([\w.]+) object at 0x\w+>", r"\1", " ".join(str(error).split()))
    return f"{name}: {text[:200]}"


def last_words(folder: Path) -> str:
    """The last line that VASP, or what was to start it, has written to standard error."""
    with contextlib.suppress(OSError):
        lines = (folder / "std_err.txt").read_text(errors="replace").split("\n")
        return next((" ".join(line.split())[:200] for line in reversed(lines) if line.strip()), "")
    return ""


def last_geometry(folder: Path) -> Structure | None:
    """The latest geometry that a run, ended or broken off, has left.

    That is CONTCAR, else XDATCAR, else POSCAR, where custodian may have put an earlier CONTCAR.
    """
    found = (geometry(folder / name) for name in ("CONTCAR", "XDATCAR", "POSCAR"))
    return next((geometry for geometry in found if geometry is not None), None)


def geometry(path: Path) -> Structure | None:
    """The last geometry in a file of VASP; None in one that is missing, empty or cut."""
    from pymatgen.io.vasp import Poscar, Xdatcar

    try:
        if path.name == "XDATCAR":
            return Xdatcar(path).structures[-1]
        return Poscar.from_file(path, check_for_potcar=False).structure
    except Exception:  # noqa: BLE001  a file that was being written can be cut anywhere
        return None


def ionic_steps(folder: Path) -> int:
    """Ionic steps of all that VASP ran in a folder, also before custodian's corrections."""
    # By time of writing: custodian saves a run once for each handler that saw its error.
    found: dict[float, int] = {}
    with contextlib.suppress(OSError):
        path = folder / "OSZICAR"
        found[path.stat().st_mtime] = path.read_bytes().count(b" F= ")
    for saved in folder.glob("error.*.tar.gz"):
        with contextlib.suppress(OSError, EOFError, tarfile.TarError), tarfile.open(saved) as tar:
            for member in tar:
                if member.name.endswith("/OSZICAR") and (file := tar.extractfile(member)):
                    found[member.mtime] = file.read().count(b" F= ")
    return sum(found.values())
