"""What a run of VASP has left in its folder, read with pymatgen."""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from monty.io import zopen
from pymatgen.core import Structure

from ccdcgan.dft.engines.frames import KBAR, energy_of, left_out_pressure
from ccdcgan.dft.engines.vasp.tags import DECISIVE, alike, decisive, one_each
from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.moments import Moment, with_moments

if TYPE_CHECKING:
    from pymatgen.io.vasp import Kpoints, Potcar, Vasprun


class Grid(NamedTuple):
    """A grid of k-points: its style, divisions, and its shift beside that of the style."""

    style: str
    divisions: tuple[int, ...]
    shift: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __str__(self) -> str:
        shifted = f" shifted by {self.shift}" if any(self.shift) else ""
        return f"{self.style} {self.divisions}{shifted}"

    def shifts(self, divisions: tuple[int, ...]) -> tuple[float, ...]:
        """What it is shifted by with so many divisions, in steps of the grid."""
        # Monkhorst and Pack's even ones leave Γ out.
        beside = [0.5 * (self.style[:1] == "M" and n % 2 == 0) for n in divisions]
        both = zip(self.shift, beside, strict=True)
        return tuple(round((a + b) % 1.0, 4) % 1.0 for a, b in both)


#: Words by which VASP's complaints are known.
COMPLAINT = re.compile(
    r"\b(error|fatal|bad news|serious problems|refuse|I am stopping|failed|not hermitian"
    r"|please rerun|giving up|SIGSEGV|segmentation|singular)\b",
    re.IGNORECASE,
)


#: The first electronic step of a loop.
ELECTRONIC_STEP = re.compile(rb"^\s*\w{2,4}\s*:\s+1\b", re.MULTILINE)

#: A table of the moments within the sites, along one axis; the last column is their sum.
MAGNETIZATION = re.compile(
    rb"magnetization \(([xyz])\)\s+# of ion[^\n]*\n\s*-+\n((?:[ \t]*\d+[ \t][^\n]*\n)+)"
)


class Convergence(NamedTuple):
    """Whether VASP says that the electrons of its last geometry, and its ions, are converged."""

    electrons: bool
    ions: bool


@dataclass
class Run:
    """What a run of VASP computed, read from its files.

    Attributes
    ----------
    structure
        Last geometry, with the magnetic moments of its sites.
    energy_per_atom
        Of the last ionic step, without pV, eV/atom.
    max_force, max_stress
        Largest force on an atom (eV/Å) and largest component of the stress beyond the pressure
        that was asked for (eV/Å³).
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


def read_run(folder: Path, pressure: float = 0.0) -> Run:
    """Read a finished run.

    Parameters
    ----------
    pressure
        That was asked for, GPa.

    Raises
    ------
    Exception
        Of any kind, where the files are missing, cut or empty.
    """
    from pymatgen.io.vasp import Incar, Vasprun
    from pymatgen.io.vasp.inputs import Kpoints, Potcar

    # Custodian keeps the inputs that it was given under these names.
    asked_incar, asked_kpoints = (
        original
        if (original := file_of(folder, f"{name}.orig")).exists()
        else file_of(folder, name)
        for name in ("INCAR", "KPOINTS")
    )
    run = Vasprun(file_of(folder, "vasprun.xml"), parse_dos=False, parse_eigen=False)
    asked = decisive(Incar.from_file(asked_incar))
    ran = decisive(run.incar)
    changed = {t: (asked[t], ran[t]) for t in DECISIVE if not alike(t, asked[t], ran[t])}
    grids = (grid_of(Kpoints.from_file(asked_kpoints)), grid_of(run.kpoints))
    if coarser := coarser_grid(*grids):
        changed["KPOINTS"] = coarser
    found = run_of(run, folder, convergence(folder), pressure)
    found.changed = changed
    found.pseudopotentials = titles(Potcar.from_file(file_of(folder, "POTCAR")))
    return found


def grid_of(kpoints: Kpoints) -> Grid:
    """The grid of a KPOINTS."""
    divisions = tuple(int(n) for n in kpoints.kpts[0])
    return Grid(kpoints.style.name, divisions, tuple(map(float, kpoints.kpts_shift)))


def coarser_grid(asked: Grid, ran: Grid) -> tuple[Any, Any] | None:
    """How a grid falls short of what was asked, None if it does not."""
    if any(b < a for a, b in zip(asked.divisions, ran.divisions, strict=True)):
        return asked.divisions, ran.divisions
    # Custodian takes one style for the other; with odd divisions they are the same points.
    if asked.shifts(ran.divisions) != ran.shifts(ran.divisions):
        return str(asked), str(ran)
    return None


def run_of(run: Vasprun, folder: Path, reached: Convergence, pressure: float = 0.0) -> Run:
    """What the vasprun.xml of a folder holds.

    Parameters
    ----------
    reached
        What VASP says itself: pymatgen counts any loop that ends early, even one that is told to
        stop.
    pressure
        That was asked for, GPa.
    """
    last = run.ionic_steps[-1]
    beyond = np.array(last["stress"], float)
    beyond += (left_out_pressure(run, folder) - 10.0 * pressure) * np.eye(3)
    return Run(
        structure=with_moments(
            run.final_structure, final_moments(folder, len(run.final_structure))
        ),
        energy_per_atom=energy_of(run, last) / len(run.final_structure),
        max_force=float(np.linalg.norm(last["forces"], axis=1).max()),
        max_stress=float(np.abs(beyond).max() / KBAR),
        electronic=bool(run.converged_electronic) and reached.electrons,
        ionic=reached.ions,
    )


def convergence(folder: Path) -> Convergence:
    """What OUTCAR says of its end."""
    with zopen(file_of(folder, "OUTCAR"), "rb") as stream:
        text = stream.read()
    last = text[max(0, text.rfind(b" Iteration ")) :]
    # A loop that STOPCAR ends is as short as one that converges.
    settled = b"aborting loop because EDIFF is reached" in last and b"hard stop" not in last
    return Convergence(settled, b"reached required accuracy" in text)


def are_settled(steps: Sequence[Mapping[str, Any]], ediff: float) -> bool:
    """Whether electronic steps end with a change of the free energy below EDIFF, eV.

    That is half of what VASP asks for, and all that is left where OUTCAR is not there.
    """
    energies = [float(step["e_fr_energy"]) for step in steps[-2:]]
    # With the digits that vasprun.xml has.
    return len(energies) == 2 and abs(energies[1] - energies[0]) <= ediff + 2e-8


def titles(potcar: Potcar) -> dict[str, str]:
    """Title and hash of each element's POTCAR.

    Raises
    ------
    ValueError
        An element has several.
    """
    each = ((p.element, f"{p.keywords['TITEL']} {digest(p.data, 8)}") for p in potcar)
    return one_each("POTCAR", each)


def file_of(folder: Path, name: str) -> Path:
    """A file of a run, packed or not."""
    packed = folder / f"{name}.gz"
    return packed if packed.exists() and not (folder / name).exists() else folder / name


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


def output_of(folder: Path) -> str:
    """What VASP, and what was to start it, have written: the last 100 kB of each stream."""
    parts = []
    for name in ("vasp.out", "std_err.txt"):
        with contextlib.suppress(OSError), (folder / name).open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 100_000))
            parts.append(stream.read().decode(errors="replace"))
    return "\n".join(parts)


def started(folder: Path) -> bool:
    """Whether a run has done an electronic step, or has said itself why it has not."""
    if corrections(folder) != ([], []) or own_words(folder):
        return True
    return has_electronic_step(folder)


def has_electronic_step(folder: Path) -> bool:
    """Whether a run has done an electronic step."""
    with contextlib.suppress(OSError):
        return ELECTRONIC_STEP.search((folder / "OSZICAR").read_bytes()) is not None
    return False


def own_words(folder: Path) -> str | None:
    """VASP's own words for what went wrong, in one line; None where it had none."""
    with contextlib.suppress(OSError):
        lines = (folder / "vasp.out").read_text(errors="replace").splitlines()[-300:]
        plain = [" ".join(line.strip(" |").split()) for line in lines]
        for number in range(len(plain) - 1, -1, -1):
            # The letters of a banner are capitals and signs.
            if COMPLAINT.search(plain[number]) and re.search(r"[a-z]{2}", plain[number]):
                after = plain[number + 1] if number + 1 < len(plain) else ""
                both = (
                    f"{plain[number]} {after}" if re.search(r"[a-z]{3}", after) else plain[number]
                )
                return both[:200].strip()
    return None


def geometries(folder: Path, is_done: bool = False) -> Iterator[Structure]:
    """Geometries that a run, ended or broken off, has left, the latest first.

    Those of CONTCAR, XDATCAR and vasprun.xml, and POSCAR, where custodian may have put an earlier
    CONTCAR.

    Parameters
    ----------
    is_done
        Whether the last one was judged: that is what vasprun.xml has.
    """
    from pymatgen.io.vasp import Vasprun, Xdatcar

    if is_done:
        with contextlib.suppress(Exception):
            path = file_of(folder, "vasprun.xml")
            judged = Vasprun(path, parse_dos=False, parse_eigen=False).final_structure
            yield with_all_digits(judged, file_of(folder, "CONTCAR"))
    if (last := geometry(file_of(folder, "CONTCAR"))) is not None:
        yield last
    try:
        steps = Xdatcar(file_of(folder, "XDATCAR")).structures
    except Exception:  # noqa: BLE001  a file that was being written can be cut anywhere
        steps = []
    if not steps:
        try:
            run = Vasprun(file_of(folder, "vasprun.xml"), parse_dos=False, parse_eigen=False)
            steps = run.structures
        except Exception:  # noqa: BLE001  the same
            steps = []
    yield from reversed(steps)
    if (first := geometry(file_of(folder, "POSCAR"))) is not None:
        yield first


def seconds_of(folder: Path, since: Path) -> float:
    """Time from the writing of a file to the last that a run has written."""
    with contextlib.suppress(OSError):
        last = max(file.stat().st_mtime for file in folder.iterdir())
        return max(0.0, last - since.stat().st_mtime)
    return 0.0


def geometry(path: Path) -> Structure | None:
    """The geometry in a file of VASP; None in one that is missing, empty or cut."""
    from pymatgen.io.vasp import Poscar

    try:
        with zopen(path, "rt", encoding="utf-8") as stream:
            text = str(stream.read())
        # One that ends within its last number would be another geometry.
        return Poscar.from_str(text).structure if text.endswith("\n") else None
    except Exception:  # noqa: BLE001  a file that was being written can be cut anywhere
        return None


def with_all_digits(written: Structure, path: Path) -> Structure:
    """The geometry in a file, which has more digits than vasprun.xml, if it is still that one."""
    found = geometry(path)
    if found is None or [s.specie for s in found] != [s.specie for s in written]:
        return written
    moved = (found.frac_coords - written.frac_coords + 0.5) % 1 - 0.5
    strained = found.lattice.matrix - written.lattice.matrix
    return found if max(np.abs(moved).max(), np.abs(strained).max()) < 1e-6 else written


def final_moments(folder: Path, sites: int) -> list[Moment] | None:
    """Magnetic moments of so many sites at the end of a run; None where it has written none."""
    try:
        with zopen(file_of(folder, "OUTCAR"), "rb") as stream:
            text = stream.read()
    except (OSError, EOFError):
        return None
    axes: dict[bytes, list[float]] = {}
    for axis, table in MAGNETIZATION.findall(text):
        try:
            column = [float(row.split()[-1]) for row in table.splitlines()]
        except ValueError:
            continue
        # A table that was being written is shorter.
        if len(column) == sites and np.isfinite(column).all():
            axes[axis] = column
    if b"x" in axes and b"y" in axes and b"z" in axes:
        return [list(m) for m in zip(axes[b"x"], axes[b"y"], axes[b"z"], strict=True)]
    return list(axes[b"x"]) if b"x" in axes else None


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
