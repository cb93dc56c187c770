#!/usr/bin/env python
"""A stand-in for VASP: the same files in and out, a pair potential instead of electrons.

Run in a folder with INCAR, POSCAR, POTCAR and, if wanted, KPOINTS. Its energies mean nothing; its
files are read by pymatgen, custodian, emmet and atomate2 as VASP's are. It is vasp_ncl if its only
argument is `ncl`, else vasp_std.

Environment
-----------
VASP_STAND_IN_LOG
    File that gets one line of JSON for each run: `Record`.
VASP_STAND_IN_FAULTS
    JSON file of faults, `{"Bi2Se3": "zbrent", "*": {"fault": "kill", "times": 2}}`. A key is the
    comment line of the POSCAR, else the name of the folder above the current one, else a formula
    (in any order, reduced or not), else "*".
    `times`: how many runs it hits; null: all of them. By default a fault of `REPAIRABLE` hits
    until one of its tags differs from the first run that it hit, `slow` and `pulay` hit always,
    one with `while` as long as that path is there, and the others once. `unless`: tags with which
    it does not hit. `seconds`: for `slow` the length of each ionic step (1), for `hang` how long
    (600).
    What has been hit is kept beside the file, in `<file>.state`.
VASP_STAND_IN_VERSION
    Whose files it writes: 5.4.4 or one of 6 (6.3.2).
VASP_STAND_IN_WORKER
    Process that `kill_parent` kills. By default the parent, which is the process that runs
    custodian, unless a shell or mpirun stands between.

Other faults: `kill` (SIGKILL of itself), `kill_parent` (SIGKILL of the worker, then it exits, as if
the machine were lost), `segfault`, `empty_contcar` (crash with an empty CONTCAR), `hang`, all in
the second ionic step or in the last one; `explodes` (the same, its last geometry is none);
`truncated_vasprun` (normal end, half a vasprun.xml); and those of `MACHINE`.

What VASP does and this does not: molecular dynamics, phonons, selective dynamics, ISIF other than
0 to 3, k-points in line mode. These are refused like wrong input: one line on standard error, and
exit status 1.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import re
import resource
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

# Nothing of ASE or pymatgen that takes longer to import: many tests start this many times.
import numpy as np
from ase.data import atomic_masses, atomic_numbers, covalent_radii

Array = np.ndarray

KBAR = 1602.1766208  # 1 eV/Å³
ELECTRONIC_STEPS = 5
VERSION = os.environ.get("VASP_STAND_IN_VERSION", "6.3.2")
IS_NCL = sys.argv[1:] == ["ncl"]


class Repairable(NamedTuple):
    """A fault that custodian repairs."""

    message: str
    tags: tuple[str, ...]
    at_start: bool = False


# The messages are those that custodian looks for, the tags those that it then changes. ISTART is
# not among those of brmix: custodian's first attempt is to run again, and shall not be enough.
REPAIRABLE = {
    "zbrent": Repairable(
        "ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR\n"
        "     to POSCAR and continue",
        ("EDIFF", "NELMIN", "IBRION"),
    ),
    "edddav": Repairable(
        "Error EDDDAV: Call to ZHEGV failed. Returncode =   7   1   8", ("ALGO", "NCORE")
    ),
    "brmix": Repairable(
        "BRMIX: very serious problems\n the old and the new charge density differ",
        ("IMIX", "ISYM", "KPOINTS"),
    ),
    "subspacematrix": Repairable(
        "WARNING: Sub-Space-Matrix is not hermitian in DAV   2  -0.35E-01",
        # Of Davidson's algorithm: where LREAL is off, custodian has no cure, and another ALGO is.
        ("LREAL", "PREC", "ALGO"),
    ),
    "eddrmm": Repairable(
        "WARNING in EDDRMM: call to ZHEGV failed, returncode =   6   3   8", ("ALGO", "POTIM")
    ),
    "pricel": Repairable(
        "internal error in subroutine PRICEL (probably precision problem, try to change SYMPREC "
        "in INCAR ?)",
        ("SYMPREC", "ISYM"),
        at_start=True,
    ),
    "posmap": Repairable(
        "POSMAP internal error: symmetry equivalent atom not found, 3 1 2",
        ("SYMPREC", "ISYM"),
        at_start=True,
    ),
    "inv_rot_mat": Repairable(
        "inverse of rotation matrix was not found (increase SYMPREC)       5",
        ("SYMPREC", "ISYM"),
        at_start=True,
    ),
    "rhosyg": Repairable(
        "RHOSYG internal error: stars are not distinct, try to increase SYMPREC to e.g. 1E-4",
        ("SYMPREC", "ISYM"),
        at_start=True,
    ),
    "zheev": Repairable("ERROR EDDIAG: Call to routine ZHEEV failed! 6  -1  8", ("ALGO", "NCORE")),
    # These two are seen in the files, not in a message.
    "unconverged_scf": Repairable("", ("ALGO", "NELM", "AMIX", "BMIX", "AMIN", "ISMEAR")),
    "ionic_steps": Repairable("", ("IBRION",)),
}
CRASHES = ("kill", "kill_parent", "segfault", "empty_contcar", "hang", "truncated_vasprun")
CRASHES += ("explodes",)


class Machine(NamedTuple):
    """A fault of the machine: what VASP, or what starts it, says on standard error."""

    words: str
    status: int = 1
    at_start: bool = False


# The words are those of Intel's Fortran, Slurm, UCX and the system's loader.
MACHINE = {
    "disk": Machine(
        "forrtl: No space left on device\n"
        "forrtl: severe (38): error during write, unit 12, file WAVECAR",
        38,
    ),
    "quota": Machine("forrtl: Disk quota exceeded", 38),
    "oom": Machine(
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=4711.0. Some of your processes "
        "may have been killed by the cgroup out-of-memory handler.",
        137,
    ),
    "memory": Machine("forrtl: severe (41): insufficient virtual memory", 41),
    "mount": Machine("forrtl: Stale file handle", 29),
    "network": Machine(
        "[node7:1234:0] UCX  ERROR Transport retry count exceeded on mlx5_0:1/IB", 255
    ),
    "node_fail": Machine(
        "slurmstepd: error: *** STEP 4711.0 ON node7 CANCELLED DUE TO NODE FAILURE ***", 143
    ),
    "node": Machine(
        "srun: error: Unable to create step for job 4711: Requested node configuration is not "
        "available",
        at_start=True,
    ),
    "modules": Machine(
        "vasp_std: error while loading shared libraries: libmkl_intel_lp64.so.2: cannot open "
        "shared object file: No such file or directory",
        127,
        at_start=True,
    ),
    "licence": Machine("License server machine is down or not responding.", at_start=True),
}


# Of a slow machine; of a basis that is that of the cell in POSCAR, as VASP's is.
LASTING = ("slow", "pulay")


class RefusedError(Exception):
    """Input that cannot be run."""


# --------------------------------------------------------------------------------- input files

INTEGERS = {"IBRION", "ICHARG", "ISIF", "ISMEAR", "ISPIN", "ISTART", "ISYM", "LORBIT", "NBANDS"}
INTEGERS |= {"IMIX", "NCORE", "NELM", "NELMIN", "NPAR", "NSW"}
NUMBERS = {"AMIN", "AMIX", "BMIX", "EDIFF", "EDIFFG", "ENCUT", "KSPACING", "POTIM", "SIGMA"}
NUMBERS |= {"NELECT", "SYMPREC"}
LISTS = {"LDAUJ", "LDAUL", "LDAUU", "MAGMOM"}
WORDS = {"ALGO", "GGA", "METAGGA", "PREC", "SYSTEM"}
LOGICAL = re.compile(r"\.?(T|F)(RUE|ALSE)?\.?", re.IGNORECASE)


@dataclass
class Crystal:
    """A POSCAR."""

    comment: str
    cell: Array
    symbols: list[str]
    counts: list[int]
    fractional: Array

    @property
    def sites(self) -> list[str]:
        return [s for s, n in zip(self.symbols, self.counts, strict=True) for _ in range(n)]

    def poscar(self) -> str:
        rows = [self.comment, "   1.00000000000000     "]
        rows += ["".join(f" {x:22.16f}" for x in vector) for vector in self.cell]
        rows += [" ".join(f"{s:>4}" for s in self.symbols)]
        rows += [" ".join(f"{n:6}" for n in self.counts), "Direct"]
        rows += ["".join(f" {x:19.16f}" for x in xyz) for xyz in self.fractional]
        return "\n".join(rows) + "\n"


class Kpoints(NamedTuple):
    style: str
    divisions: tuple[int, ...]
    points: Array
    shift: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclass
class Job:
    """All that VASP reads."""

    incar: dict[str, Any]
    crystal: Crystal
    kpoints: Kpoints
    titles: list[str]
    valences: list[float]
    enmax: float

    @property
    def nsw(self) -> int:
        return int(self.incar.get("NSW", 0))

    @property
    def is_noncollinear(self) -> bool:
        return bool(self.incar.get("LSORBIT") or self.incar.get("LNONCOLLINEAR"))

    @property
    def nelect(self) -> float:
        return float(np.dot(self.valences, self.crystal.counts))


def read_incar(text: str) -> dict[str, Any]:
    """The tags of an INCAR with their values as numbers, truth values, words, or lists of them."""
    tags: dict[str, Any] = {}
    for line in re.split(r"[\n;]", text):
        line = re.split(r"[#!]", line)[0].strip()
        if not line:
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        name = name.upper()
        if not equals or not re.fullmatch(r"\w+", name) or not value:
            raise RefusedError(f"Error reading item '{line}' from file INCAR.")
        try:
            if name in INTEGERS:
                tags[name] = int(value)
            elif name in NUMBERS:
                tags[name] = float(value)
            else:
                tags[name] = value if name in WORDS else _guess(value)
                if name in LISTS and not isinstance(tags[name], list):
                    tags[name] = [tags[name]]
        except ValueError:
            raise RefusedError(f"Error reading item '{name}' from file INCAR.") from None
    checks = {
        "ENCUT": tags.get("ENCUT", 1) > 0,
        "EDIFF": tags.get("EDIFF", 1) > 0,
        "NSW": tags.get("NSW", 0) >= 0,
        "NELM": tags.get("NELM", 1) > 0,
        "ISPIN": tags.get("ISPIN", 1) in (1, 2),
        "ISIF": tags.get("ISIF", 2) in (0, 1, 2, 3),
        "IBRION": tags.get("NSW", 0) == 0 or tags.get("IBRION", 0) in (1, 2, 3),
    }
    for name, good in checks.items():
        if not good:
            raise RefusedError(f"Error reading item '{name}' from file INCAR: no such value here.")
    return tags


def _guess(value: str) -> Any:
    words: list[Any] = []
    for word in value.split():
        count, times, rest = word.rpartition("*")
        number: Any
        if match := LOGICAL.fullmatch(rest):
            number = match[1].upper() == "T"
        else:
            try:
                number = int(rest) if re.fullmatch(r"[+-]?\d+", rest) else float(rest)
            except ValueError:
                return value
        words += [number] * (int(count) if times else 1)
    return words[0] if len(words) == 1 else words


def read_poscar(text: str) -> Crystal:
    """A POSCAR with the names of its elements."""
    try:
        lines = text.splitlines()
        cell = np.array([line.split()[:3] for line in lines[2:5]], float)
        scale = float(lines[1])
        # A negative number is the volume.
        factor = scale if scale > 0 else (-scale / abs(np.linalg.det(cell))) ** (1 / 3)
        cell *= factor
        symbols, counts = lines[5].split(), [int(n) for n in lines[6].split()]
        mode = lines[7].strip()[:1].upper()
        if mode == "S":
            raise RefusedError("POSCAR: selective dynamics is not done here")
        rows = np.array([line.split()[:3] for line in lines[8 : 8 + sum(counts)]], float)
        assert len(rows) == sum(counts) and all(s in atomic_numbers for s in symbols)
        volume = abs(np.linalg.det(cell))
    except (AssertionError, IndexError, ValueError):
        raise RefusedError("POSCAR cannot be read") from None
    if volume < 1e-3:
        raise RefusedError("POSCAR: the cell has no volume")
    if mode in "CK":
        rows = rows * factor @ np.linalg.inv(cell)
    return Crystal(lines[0].strip(), cell, symbols, counts, rows)


def read_kpoints(text: str | None, cell: Array, spacing: float) -> Kpoints:
    """A KPOINTS, or the mesh of KSPACING without one."""
    if text is None:
        lengths = 2 * math.pi * np.linalg.norm(np.linalg.inv(cell), axis=0)
        style, own = "Gamma", (0.0, 0.0, 0.0)
        divisions = tuple(max(1, math.ceil(k / spacing)) for k in lengths)
    else:
        try:
            lines = text.splitlines()
            count, letter = int(lines[1].split()[0]), lines[2].strip()[:1].upper()
            if letter == "L":
                raise RefusedError("KPOINTS: line mode is not done here")
            if count:
                rows = np.array([line.split()[:3] for line in lines[3 : 3 + count]], float)
                assert rows.shape == (count, 3)
                return Kpoints("Explicit", (), rows)
            style = {"G": "Gamma", "M": "Monkhorst-Pack"}[letter]
            divisions = tuple(int(n) for n in lines[3].split()[:3])
            assert len(divisions) == 3 and min(divisions) > 0
            own = tuple(map(float, lines[4].split()[:3] if lines[4:] else ())) or (0.0, 0.0, 0.0)
            assert len(own) == 3
        except (AssertionError, IndexError, KeyError, ValueError):
            raise RefusedError("KPOINTS cannot be read") from None
    # A few are enough for readers; thousands of them would only make the files large.
    grid = itertools.islice(itertools.product(*map(range, divisions)), 4)
    shift = [(1 - n) / 2 if style != "Gamma" else 0.0 for n in divisions]
    return Kpoints(style, divisions, (np.array(list(grid), float) + shift + own) / divisions, own)


def read_job(folder: Path) -> Job:
    """Read the input files of a folder.

    Raises
    ------
    RefusedError
        A file is missing or wrong, or POTCAR is not for the elements of POSCAR in their order.
    """
    texts = {}
    for name in ("INCAR", "POSCAR", "POTCAR", "KPOINTS"):
        path = folder / name
        if path.is_file():
            texts[name] = path.read_text()
        elif name != "KPOINTS":
            raise RefusedError(f"{name} is missing")
    incar = read_incar(texts["INCAR"])
    if (incar.get("LSORBIT") or incar.get("LNONCOLLINEAR")) and not IS_NCL:
        raise RefusedError(
            "ERROR: non collinear calculations require that VASP is compiled without the flag "
            "-DNGZhalf"
        )
    crystal = read_poscar(texts["POSCAR"])
    potcar = texts["POTCAR"]
    elements = re.findall(r"VRHFIN\s*=\s*([A-Z][a-z]?)\s*:", potcar)
    if elements != crystal.symbols:
        raise RefusedError(f"POTCAR is for {elements}, POSCAR has {crystal.symbols}")
    titles = [title.strip() for title in re.findall(r"TITEL\s*=(.*)", potcar)]
    valences = [float(z) for z in re.findall(r"ZVAL\s*=\s*([\d.]+)", potcar)]
    cutoffs = [float(e) for e in re.findall(r"ENMAX\s*=\s*([\d.]+)", potcar)]
    if not len(titles) == len(valences) == len(cutoffs) == len(elements):
        raise RefusedError("POTCAR cannot be read")
    kpoints = read_kpoints(texts.get("KPOINTS"), crystal.cell, incar.get("KSPACING", 0.5))
    return Job(incar, crystal, kpoints, titles, valences, max(cutoffs))


# ------------------------------------------------------------------------------------- physics


def pair_potential(numbers: Array, cell: Array, positions: Array) -> tuple[float, Array, Array]:
    """Morse pairs, 0.3 eV deep between equal and 0.4 eV between different elements.

    Covalent radii set the lengths; value and slope are zero at twice the length of the minimum.

    Parameters
    ----------
    numbers
        Atomic numbers, shape (n,).
    cell, positions
        Å, in rows.

    Returns
    -------
    energy in eV, forces in eV/Å, stress in eV/Å³ (3 × 3, positive for a cell that is too large)
    """
    radii = covalent_radii[numbers]
    length = 1.2 * (radii[:, None] + radii)
    depth = np.where(numbers[:, None] == numbers, 0.3, 0.4)
    inverse = np.linalg.inv(cell)
    positions = (positions @ inverse % 1.0) @ cell
    reach = 2 * length.max()
    # One more than the cutoff asks for: two atoms of one cell are up to a cell apart.
    images = np.ceil(reach * np.linalg.norm(inverse, axis=0)).astype(int) + 1
    shifts = np.array(list(itertools.product(*(range(-n, n + 1) for n in images))), float)
    vectors = positions - positions[:, None] + (shifts @ cell)[:, None, None]
    distances = np.linalg.norm(vectors, axis=-1)
    s, i, j = np.nonzero((distances < 2 * length) & (distances > 1e-6))
    r, vector, r0, d = distances[s, i, j], vectors[s, i, j], length[i, j], depth[i, j]
    steep = 5 / r0
    x, x_cut = np.exp(-steep * (r - r0)), math.exp(-5)
    slope_cut = 2 * d * steep * (x_cut - x_cut**2)
    energy = d * (x**2 - 2 * x - x_cut**2 + 2 * x_cut) - slope_cut * (r - 2 * r0)
    pull = (2 * d * steep * (x - x**2) - slope_cut)[:, None] * vector / r[:, None]
    forces = np.zeros_like(positions)
    np.add.at(forces, i, pull)
    stress = 0.5 * pull.T @ vector / abs(np.linalg.det(cell))
    return 0.5 * float(energy.sum()), forces, stress


#: Elements that keep a moment of 2 μB where they start with one.
MAGNETIC = {"Cr", "Mn", "Fe", "Co", "Ni"}


def moments(job: Job) -> Array:
    """The moments that the sites end with, in rows: none where they start with none.

    One component without spins of any direction, which is along z, else three.
    """
    sites, free = job.crystal.sites, job.is_noncollinear
    components = 3 if free else 1
    if free and job.incar.get("ISPIN", 1) == 2:
        raise RefusedError("ERROR: ISPIN=2 cannot be used with LNONCOLLINEAR=.TRUE.")
    given = job.incar.get("MAGMOM", [1.0] * components * len(sites))
    if len(given) != components * len(sites):
        raise RefusedError("Error reading item 'MAGMOM' from file INCAR.")
    if job.incar.get("ISPIN", 1) != 2 and not free:
        return np.zeros((len(sites), 1))
    # Of waves without spin VASP makes both spins alike, and they stay so.
    waves = Path("WAVECAR")
    if waves.is_file() and "ISPIN = 1" in waves.read_text() and not free:
        return np.zeros((len(sites), 1))
    start = np.array(given, float).reshape(-1, components)
    size = np.linalg.norm(start, axis=1, keepdims=True)
    magnetic = np.array([[s in MAGNETIC] for s in sites])
    return np.where(magnetic & (size > 0), 2 * start / np.where(size > 0, size, 1.0), 0.0)


def exchange(moments: Array) -> float:
    """Energy of moments, eV: lowest where they cancel each other."""
    sizes = np.linalg.norm(moments, axis=1)
    return float(0.02 * np.linalg.norm(moments.sum(axis=0)) - 0.1 * sizes.sum())


#: Dispersion with IVDW, eV of an atom.
DISPERSION = -0.05


def coupling(numbers: Array) -> float:
    """Energy of spins with their orbits, eV: of heavy atoms."""
    return float(-0.3 * ((numbers / 83) ** 4).sum())


class Minimiser:
    """BFGS on positions and, if the cell is free, on its deformation, as ASE's UnitCellFilter."""

    def __init__(self, cell: Array, positions: Array, free_cell: bool) -> None:
        self.cell0, self.n, self.free_cell = cell, len(positions), free_cell
        self.x = np.vstack([positions, self.n * np.eye(3)])
        self.hessian = 8.0 * np.eye(self.x.size)
        self.last: tuple[Array, Array] | None = None

    def geometry(self) -> tuple[Array, Array]:
        """Cell and positions in Å."""
        deformation = self.x[self.n :] / self.n
        return self.cell0 @ deformation.T, self.x[: self.n] @ deformation.T

    def push(self, forces: Array, stress: Array) -> Array:
        """Forces on atoms, then on the cell, in eV/Å; EDIFFG asks for their norms."""
        volume = abs(np.linalg.det(self.geometry()[0]))
        virial = -volume * stress / self.n if self.free_cell else np.zeros((3, 3))
        return np.vstack([forces, virial])

    def move(self, push: Array, damping: float = 1.0) -> None:
        """One step of at most 0.2 Å for an atom."""
        deformation = self.x[self.n :] / self.n
        atoms, virial = push[: self.n] @ deformation, push[self.n :]
        force = np.vstack([atoms, np.linalg.solve(deformation, virial.T).T]).ravel()
        x = self.x.ravel()
        if self.last is not None and np.abs(x - self.last[0]).max() > 1e-7:
            dx, df = x - self.last[0], force - self.last[1]
            dg = self.hessian @ dx
            self.hessian -= np.outer(df, df) / (dx @ df) + np.outer(dg, dg) / (dx @ dg)
        self.last = x.copy(), force
        curvature, modes = np.linalg.eigh(self.hessian)
        step = (modes @ (force @ modes / np.abs(curvature))).reshape(-1, 3)
        longest = np.linalg.norm(step, axis=1).max()
        self.x = self.x + damping * step * min(1.0, 0.2 / max(longest, 1e-12))


# ---------------------------------------------------------------------------------------- faults


@dataclass
class Fault:
    name: str
    seconds: float


@dataclass
class Record:
    """What the log tells about a run."""

    formula: str = ""  # elements in alphabetical order: BiSe, Bi2Se3
    comment: str = ""  # of POSCAR
    cwd: str = field(default_factory=os.getcwd)
    start: str = ""  # hash of the cell and positions of POSCAR, rounded to 1e-6
    volume: float = 0.0  # Å³, of POSCAR
    steps: int = 0  # ionic steps that are in the files
    energy_first: float | None = None  # eV
    energy_last: float | None = None
    converged: bool = False
    fault: str | None = None
    seconds: float = field(default_factory=time.monotonic)
    threads: str | None = field(default_factory=lambda: os.environ.get("OMP_NUM_THREADS"))

    written: bool = False

    def write(self) -> None:
        if self.written:
            return
        if path := os.environ.get("VASP_STAND_IN_LOG"):
            row = asdict(self) | {"seconds": time.monotonic() - self.seconds}
            del row["written"]
            self.written = True
            # One write in append mode: lines of parallel runs do not mix.
            with Path(path).open("a") as file:
                file.write(json.dumps(row) + "\n")


def reduced(composition: dict[str, int]) -> str:
    """The reduced formula, elements in alphabetical order."""
    divisor = math.gcd(*composition.values()) if composition else 1
    return "".join(
        f"{s}{n // divisor if n > divisor else ''}" for s, n in sorted(composition.items())
    )


def _composition(crystal: Crystal) -> dict[str, int]:
    return Counter(crystal.sites)


def _same_formula(key: str, formula: str) -> bool:
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", key)
    if not parts or "".join(s + n for s, n in parts) != key:
        return False
    composition: Counter[str] = Counter()
    for symbol, count in parts:
        composition[symbol] += int(count or 1)
    return reduced(composition) == formula


@contextmanager
def _state(path: Path) -> Iterator[dict[str, Any]]:
    """The faults' memory, for one process at a time."""
    with path.with_name(path.name + ".state").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state = json.loads(file.read() or "{}")
        yield state
        file.seek(0)
        file.truncate()
        file.write(json.dumps(state))
        file.flush()


def choose_fault(job: Job, formula: str) -> Fault | None:
    """The fault that hits this run, if any, after counting it."""
    if not (name := os.environ.get("VASP_STAND_IN_FAULTS")) or not Path(name).is_file():
        return None
    path = Path(name)
    told = json.loads(path.read_text())
    keys = [key for key in told if key in (job.crystal.comment, Path.cwd().parent.name)]
    keys += [key for key in told if _same_formula(key, formula)] + ["*"]
    if keys[0] not in told:
        return None
    spec = told[keys[0]]
    spec = {"fault": spec} if isinstance(spec, str) else spec
    fault = spec["fault"]
    if fault not in (*REPAIRABLE, *CRASHES, *LASTING, *MACHINE):
        raise RefusedError(f"no fault is called {fault}")
    if any(str(job.incar.get(tag)) == str(value) for tag, value in spec.get("unless", {}).items()):
        return None
    if "while" in spec:
        return Fault(fault, 0.0) if Path(spec["while"]).exists() else None
    with _state(path) as state:
        entry = state.setdefault(f"{keys[0]}|{formula}|{fault}", {"hits": 0, "first": None})
        if fault in REPAIRABLE and "times" not in spec:
            tags = {tag: _tag(job, tag) for tag in REPAIRABLE[fault].tags}
            hit = entry["first"] in (None, tags)
            entry["first"] = entry["first"] or tags
        else:
            times = spec.get("times", None if fault in LASTING else 1)
            hit = times is None or entry["hits"] < times
        entry["hits"] += hit
    default = 600.0 if fault == "hang" else 1.0
    return Fault(fault, float(spec.get("seconds", default))) if hit else None


def _tag(job: Job, tag: str) -> str:
    if tag == "KPOINTS":
        return f"{job.kpoints.style} {job.kpoints.divisions}"
    return str(job.incar.get(tag)).casefold()


def break_down(fault: Machine) -> NoReturn:
    """End the run as a machine does that is broken."""
    print(fault.words, file=sys.stderr)
    sys.exit(fault.status)


def strike(fault: Fault, files: Files, record: Record) -> NoReturn:
    """End the run as the fault has it."""
    if fault.name in MACHINE:
        break_down(MACHINE[fault.name])
    if fault.name in REPAIRABLE:
        files.say(f" {REPAIRABLE[fault.name].message}")
    elif fault.name == "empty_contcar":
        Path("CONTCAR").write_text("")
    elif fault.name == "hang":
        time.sleep(fault.seconds)
    elif fault.name == "explodes":
        exploded = replace(files.job.crystal, cell=4 * files.job.crystal.cell)
        Path("CONTCAR").write_text(exploded.poscar())
        files.say(" LAPACK: Routine ZPOTRF failed!           3")
    elif fault.name == "segfault":
        print("forrtl: severe (174): SIGSEGV, segmentation fault occurred", file=sys.stderr)
    signals = {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV}
    if fault.name in signals:
        record.write()  # nothing is written after the signal
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signals[fault.name])
    if fault.name == "kill_parent":
        record.write()  # its parent's end may be its own
        worker = int(os.environ.get("VASP_STAND_IN_WORKER") or os.getppid())
        if worker > 1:  # 1: the parent is gone already
            os.kill(worker, signal.SIGKILL)
    sys.exit(1)


# --------------------------------------------------------------------------------- output files


def _xml(name: str, value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    kinds = {bool: ' type="logical"', int: ' type="int"', str: ' type="string"'}
    words = escape(" ".join(("F", "T")[v] if isinstance(v, bool) else str(v) for v in values))
    letter = "v" if isinstance(value, list) else "i"
    return f'<{letter}{kinds.get(type(values[0]), "")} name="{name}">{words}</{letter}>\n'


def _rows(name: str, rows: Array) -> str:
    lines = "".join(f"<v>{' '.join(f'{x:.10f}' for x in row)}</v>\n" for row in np.atleast_2d(rows))
    return f'<varray name="{name}">\n{lines}</varray>\n'


def _structure(name: str, cell: Array, fractional: Array) -> str:
    label = f' name="{name}"' if name else ""
    crystal = f"<crystal>\n{_rows('basis', cell)}{_rows('rec_basis', np.linalg.inv(cell).T)}"
    volume = f'<i name="volume">{abs(np.linalg.det(cell)):.8f}</i>\n</crystal>\n'
    return f"<structure{label}>\n{crystal}{volume}{_rows('positions', fractional)}</structure>\n"


def _array(fields: str, content: str, name: str = "") -> str:
    head = "".join(f"<field>{word}</field>\n" for word in fields.split())
    label = f' name="{name}"' if name else ""
    return f"<array{label}>\n{head}<set>\n{content}</set>\n</array>\n"


def _set(comment: str, rows: Array) -> str:
    lines = "".join(f"<r>{' '.join(f'{x:.4f}' for x in row)}</r>\n" for row in rows)
    return f'<set comment="{comment}">\n{lines}</set>\n'


def _energies(energy: float, of_step: bool = False) -> str:
    """Energies of an electronic step, or of an ionic step, where VASP 5 has -TS in the last one."""
    last = 0.0 if of_step and VERSION.startswith("5") else energy
    values = {"e_fr_energy": energy, "e_wo_entrp": energy, "e_0_energy": last}
    rows = "".join(f'<i name="{name}">{value:.8f}</i>\n' for name, value in values.items())
    return f"<energy>\n{rows}</energy>\n"


class Files:
    """VASP's output files, written while it runs: a killed run leaves what it had."""

    def __init__(self, job: Job) -> None:
        self.job, self.start = job, time.monotonic()
        incar, crystal = job.incar, job.crystal
        self.spin = int(incar.get("ISPIN", 1))
        n = len(crystal.sites)
        self.nelect = float(incar.get("NELECT", job.nelect))
        default = max(int(self.nelect + 2) // 2 + max(n // 2, 3), int(0.6 * self.nelect))
        # A band is of both spins.
        default *= 2 if job.is_noncollinear else 1
        self.nbands = int(incar.get("NBANDS", default))
        self.parameters: dict[str, Any] = {
            "ALGO": "Normal",
            "EDIFF": 1e-4,
            "EDIFFG": 10 * incar.get("EDIFF", 1e-4),
            "ENMAX": incar.get("ENCUT", job.enmax),
            "GGA": "PE",
            "IBRION": 0 if job.nsw else -1,
            "ICHARG": 2,
            "ISIF": 2,
            "ISMEAR": 1,
            "ISPIN": 1,
            "ISYM": 2,
            "LHFCALC": False,
            "LNONCOLLINEAR": job.is_noncollinear,
            "LSORBIT": False,
            "LORBIT": 0,
            "LREAL": False,
            "METAGGA": "--",
            "NELM": 60,
            "NELMIN": 2,
            "NSW": 0,
            "POTIM": 0.5,
            "PREC": "Normal",
            "PSTRESS": 0.0,
            "SIGMA": 0.2,
            "SYMPREC": 1e-5,
            **incar,
            **({"LNONCOLLINEAR": True} if job.is_noncollinear else {}),
            "NBANDS": self.nbands,
            "NELECT": self.nelect,
        }
        self.moments = moments(job)
        has_spin = self.spin == 2 or job.is_noncollinear
        self.net = self.moments.sum(axis=0) if has_spin else np.array([])
        self.energy: float | None = None
        self.oszicar, self.outcar, self.vasprun, self.xdatcar = map(
            _open, ("OSZICAR", "OUTCAR", "vasprun.xml", "XDATCAR")
        )
        for name in ("CONTCAR", "CHGCAR", "WAVECAR"):
            Path(name).write_text("")
        self._head()

    def _head(self) -> None:
        job, crystal = self.job, self.job.crystal
        self.say(" running on    1 total cores\n vasp.6.3.2 (stand-in: its energies mean nothing)")
        self.say(f" POSCAR found :{len(crystal.symbols):3} types and{len(crystal.sites):8} ions")
        p, points = self.parameters, job.kpoints.points
        parts = [" vasp.6.3.2 stand-in\n running on    1 total cores\n"]
        parts += [f" TITEL  = {title}\n" for title in job.titles]
        parts += [f" k-points           NKPTS = {len(points):6}   number of bands    NBANDS="]
        parts += [f" {self.nbands:6}\n   total plane-waves  NPLWV =   1000\n"]
        names = ("PREC", "ISPIN", "ENMAX", "NELM", "EDIFF", "EDIFFG", "NSW", "IBRION", "ISIF")
        parts += [f"   {name} = {p[name]}\n" for name in names]
        flags = ("LNONCOLLINEAR", "LSORBIT")
        parts += [f"   {name:<13} = {'T' if p[name] else 'F':>6}\n" for name in flags]
        parts += ["\n\n", "-" * 104, "\n\n\n"]
        for i, k in enumerate(points, 1):
            xyz = " ".join(f"{x:8.5f}" for x in k)
            parts += [f" k-point {i:3} :   {xyz}  plane waves:     500\n"]
        parts += ["\n maximum and minimum number of plane-waves per node :      500      500\n\n"]
        self._to(self.outcar, "".join(parts))

        weights = np.full((len(points), 1), 1 / len(points))
        explicit = f'<v type="int" name="divisions">{" ".join(map(str, job.kpoints.divisions))}</v>'
        shift = f'<v name="usershift">{" ".join(map(str, job.kpoints.shift))}</v>'
        mesh = f'<generation param="{job.kpoints.style}">\n{explicit}\n{shift}\n</generation>\n'
        atoms, types = "", ""
        for i, (symbol, count) in enumerate(zip(crystal.symbols, crystal.counts, strict=True)):
            atoms += f"<rc><c>{symbol}</c><c>{i + 1}</c></rc>\n" * count
            mass = atomic_masses[atomic_numbers[symbol]]
            columns = (count, symbol, f"{mass:.3f}", job.valences[i], job.titles[i])
            types += f"<rc>{''.join(f'<c>{c}</c>' for c in columns)}</rc>\n"
        parts = ['<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>\n']
        parts += [_xml("program", "vasp"), _xml("version", VERSION), _xml("subversion", "stand-in")]
        parts += ["</generator>\n<incar>\n", *(_xml(*item) for item in job.incar.items())]
        parts += ["</incar>\n<kpoints>\n", mesh if job.kpoints.divisions else ""]
        parts += [_rows("kpointlist", points), _rows("weights", weights), "</kpoints>\n"]
        parts += ["<parameters>\n", *(_xml(*item) for item in p.items()), "</parameters>\n"]
        parts += [f"<atominfo>\n<atoms>{len(crystal.sites)}</atoms>\n"]
        parts += [f"<types>{len(crystal.symbols)}</types>\n"]
        parts += [_array("element atomtype", atoms, "atoms")]
        parts += [_array("atomspertype element mass valence pseudopotential", types, "atomtypes")]
        parts += ["</atominfo>\n", _structure("initialpos", crystal.cell, crystal.fractional)]
        self._to(self.vasprun, "".join(parts))
        rows = "".join(f" {k[0]:.14f} {k[1]:.14f} {k[2]:.14f}  1\n" for k in points)
        Path("IBZKPT").write_text(
            f"Automatically generated mesh\n {len(points)}\nReciprocal\n{rows}"
        )
        self.say(" entering main loop")

    @staticmethod
    def _to(file: TextIO, text: str) -> None:
        file.write(text)
        file.flush()

    def say(self, text: str) -> None:
        """Write to standard output, which is VASP's log."""
        print(text, flush=True)

    def electronic_step(self, ionic: int, number: int, energy: float, before: float) -> None:
        """One step of self-consistency in OSZICAR, OUTCAR and on standard output."""
        text = ""
        if number == 1:
            text = "       N       E                     dE             d eps       ncg     rms"
            text += "          rms(c)\n"
        change = energy - before
        text += f"DAV: {number:3}    {energy:.12E}   {change:.5E}  {change:.5E}    96   "
        text += f"{abs(change):.3E}    {abs(change):.3E}\n"
        self._to(self.oszicar, text)
        self.say(text.rstrip("\n"))
        lines = f"\n--------- Iteration {ionic:6}({number:4})  ----------\n\n"
        lines += "    LOOP:  cpu time    0.0100: real time    0.0100\n"
        moment = "".join(f"{m:15.7f}" for m in self.net)
        lines += f" number of electron {self.nelect:15.7f} magnetization {moment}\n"
        lines += f"  entropy T*S    EENTRO =   {0:16.8f}\n"
        self._to(self.outcar, lines)

    def ionic_step(
        self,
        number: int,
        cell: Array,
        positions: Array,
        results: tuple[float, Array, Array],
        electronic: list[float],
        settled: bool,
        seconds: float,
    ) -> None:
        """A finished ionic step in all files but CONTCAR."""
        energy, forces, stress = results
        fractional = positions @ np.linalg.inv(cell)
        # Those of electronic steps have no pV and no dispersion.
        target = self.parameters["PSTRESS"]
        dispersion = DISPERSION * len(positions) if self.parameters.get("IVDW") else 0.0
        energy += dispersion + target / KBAR * abs(np.linalg.det(cell))
        change = energy - (self.energy if self.energy is not None else 0.0)
        self.energy = energy
        line = f"{number:4} F= {energy:.8E} E0= {energy:.8E}  d E ={change:.6E}"
        line += "  mag= " + "".join(f"{m:10.4f}" for m in self.net) if len(self.net) else ""
        self._to(self.oszicar, line + "\n")
        self.say(line)

        kbar = -KBAR * stress
        order = [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)]
        parts = []
        if settled:
            parts += ["------------------------ aborting loop because EDIFF is reached --------\n"]
        parts += [f"  Edisp (eV): {dispersion:14.5f}\n"] if dispersion else []
        parts += [f" E-fermi :   {0:.4f}     XC(G=0):  -6.0000     alpha+bet : -5.0000\n\n"]
        # One component is in the table of x.
        for axis, column, net in zip("xyz", self.moments.T, self.net, strict=False):
            rows = "".join(
                f"  {i + 1:3}    {'   0.000' * 2}{m:8.3f}{m:8.3f}\n" for i, m in enumerate(column)
            )
            rule = "-" * 44
            parts += [f" magnetization ({axis})\n\n"]
            parts += ["# of ion       s       p       d       tot\n", rule]
            parts += [f"\n{rows}{rule}\ntot    {'   0.000' * 2}{net:8.3f}{net:8.3f}\n\n"]
        parts += ["  FORCE on cell =-STRESS in cart. coord.  units (eV):\n"]
        parts += ["  Direction    XX          YY          ZZ          XY          YZ          ZX\n"]
        parts += ["  in kB    ", "".join(f"{kbar[i]:12.5f}" for i in order)]
        parts += [f"\n  external pressure = {np.trace(kbar) / 3 - target:12.2f} kB"]
        parts += [f"  Pullay stress = {target:11.2f} kB\n\n VOLUME and BASIS-vectors are now :\n"]
        parts += [f"  volume of cell : {abs(np.linalg.det(cell)):12.2f}\n\n"]
        parts += [" POSITION                                       TOTAL-FORCE (eV/Angst)\n"]
        for row in np.hstack([positions, forces]):
            parts += ["".join(f" {x:12.6f}" for x in row), "\n"]
        drift = forces.sum(axis=0)
        parts += ["    total drift:   ", "".join(f" {x + 0.0:12.6f}" for x in drift), "\n\n"]
        parts += [f"  free  energy   TOTEN  = {energy:18.8f} eV\n\n"]
        parts += [f"  energy  without entropy={energy:18.8f}  energy(sigma->0) ={energy:18.8f}\n\n"]
        parts += [f"     LOOP+:  cpu time {seconds:9.4f}: real time {seconds:9.4f}\n"]
        self._to(self.outcar, "".join(parts))

        steps = "".join(f"<scstep>\n{_energies(e)}</scstep>\n" for e in electronic)
        parts = ["<calculation>\n", steps, _structure("", cell, fractional)]
        # The manual does not say whether the stresses here are beyond PSTRESS: both are read.
        beyond = kbar - target * np.eye(3) if VERSION.startswith("5") else kbar
        parts += [_rows("forces", forces), _rows("stress", beyond), _energies(energy, True)]
        # VASP has the eigenvalues in the last ionic step only; readers take the last they find.
        parts += [self._bands() if number == 1 else "", "</calculation>\n"]
        self._to(self.vasprun, "".join(parts))
        crystal = self.job.crystal
        head = "\n".join(
            Crystal("", cell, crystal.symbols, [], fractional).poscar().split("\n")[:6]
        )
        rows = "".join(f" {x:.8f} {y:.8f} {z:.8f}\n" for x, y, z in fractional)
        counts = " ".join(map(str, crystal.counts))
        self._to(
            self.xdatcar,
            f"{crystal.comment}{head}\n{counts}\nDirect configuration= {number:5}\n{rows}",
        )

    def _bands(self) -> str:
        """Flat bands with a gap of 1 eV around the Fermi level at 0, and the density of states."""
        pair = 1 if self.job.is_noncollinear else 2
        filled = math.ceil(self.nelect / pair)
        empty = max(self.nbands - filled, 0)
        levels = np.append(np.linspace(-10, -0.5, filled), np.linspace(0.5, 5, empty))
        occupations = np.clip(self.nelect / pair - np.arange(len(levels)), 0, 1)
        table = np.column_stack([levels, occupations])[: self.nbands]
        spins = range(1, self.spin + 1)
        points = range(1, len(self.job.kpoints.points) + 1)
        rows = "".join(_set(f"kpoint {k}", table) for k in points)
        sets = "".join(f'<set comment="spin {s}">\n{rows}</set>\n' for s in spins)
        eigenvalues = f"<eigenvalues>\n{_array('eene occ', sets)}</eigenvalues>\n"
        grid = np.linspace(-12, 6, 91)
        peaks = np.exp(-(((grid[:, None] - levels) / 0.4) ** 2)) / (0.4 * math.sqrt(math.pi))
        density = peaks.sum(axis=1) * pair / self.spin
        total = np.column_stack([grid, density, np.cumsum(density) * (grid[1] - grid[0])])
        sets = "".join(_set(f"spin {s}", total) for s in spins)
        dos = f'<dos>\n<i name="efermi">0.0</i>\n<total>\n{_array("energy total integrated", sets)}'
        dos += "</total>\n"
        if int(self.parameters["LORBIT"]) >= 10:
            ions = len(self.job.crystal.sites)
            # As much in every orbital: readers divide by what s, p and d have.
            partial = np.column_stack([grid, *[density / ions / 9] * 9])
            # Beside the density its parts along x, y and z.
            channels = range(1, 5) if self.job.is_noncollinear else spins
            sets = "".join(_set(f"spin {s}", partial) for s in channels)
            sets = "".join(f'<set comment="ion {i + 1}">\n{sets}</set>\n' for i in range(ions))
            orbitals = "energy s py pz px dxy dyz dz2 dxz x2-y2"
            dos += f"<partial>\n{_array(orbitals, sets)}</partial>\n"
        return f"{eigenvalues}{dos}</dos>\n"

    def contcar(self, cell: Array, positions: Array) -> None:
        """CONTCAR with the positions to go on from."""
        crystal = self.job.crystal
        fractional = positions @ np.linalg.inv(cell)
        text = Crystal(crystal.comment, cell, crystal.symbols, crystal.counts, fractional).poscar()
        Path("CONTCAR").write_text(text)

    def finish(self, cell: Array, positions: Array, note: str) -> None:
        """The end of all files."""
        incar, crystal = self.job.incar, self.job.crystal
        if note:
            self.say(f" {note}")
        seconds = time.monotonic() - self.start
        text = f" {note}\n\n General timing and accounting informations for this job:\n"
        text += " ========================================================\n\n"
        for name in ("Total CPU time used", "User time", "System time", "Elapsed time"):
            text += f"{name + ' (sec)':>40}: {seconds:12.3f}\n"
        for name in ("Maximum memory used", "Average memory used"):
            text += f"{name + ' (kb)':>40}: {1000:12.0f}.\n"
        self._to(self.outcar, text)
        fractional = positions @ np.linalg.inv(cell)
        self._to(self.vasprun, _structure("finalpos", cell, fractional) + "</modeling>\n")
        if incar.get("LCHARG", True):
            mean = f" {self.nelect:.11E}" * 4
            grid = f"\n    2    2    2\n{mean}\n{mean}\n"
            final = Crystal(crystal.comment, cell, crystal.symbols, crystal.counts, fractional)
            Path("CHGCAR").write_text(final.poscar() + grid)
        if incar.get("LWAVE", True):
            Path("WAVECAR").write_text(f"stand-in for wavefunctions, ISPIN = {self.spin}\n")
        for file in (self.oszicar, self.outcar, self.vasprun, self.xdatcar):
            file.close()


def _open(name: str) -> TextIO:
    return Path(name).open("w")


# ------------------------------------------------------------------------------------------ run


def stopcar() -> str:
    """LSTOP, LABORT or nothing."""
    path = Path("STOPCAR")
    text = path.read_text().upper() if path.is_file() else ""
    match = re.search(r"(LSTOP|LABORT)\s*=\s*\.?T", text)
    return match[1] if match else ""


def run(job: Job, fault: Fault | None, record: Record) -> None:
    """Relax, or compute the energy of, a job in the current folder."""
    hit = fault.name if fault else ""
    if hit in MACHINE and MACHINE[hit].at_start:
        break_down(MACHINE[hit])
    files = Files(job)
    if fault and hit in REPAIRABLE and REPAIRABLE[hit].at_start:
        strike(fault, files, record)
    incar = files.parameters
    numbers = np.array([atomic_numbers[s] for s in job.crystal.sites])
    minimiser = Minimiser(
        job.crystal.cell, job.crystal.fractional @ job.crystal.cell, incar["ISIF"] == 3
    )
    nelm = int(incar["NELM"])
    electronic_steps = min(max(ELECTRONIC_STEPS, int(incar["NELMIN"])), nelm)
    if hit == "unconverged_scf":
        electronic_steps = nelm
    last_energy = math.inf
    for number in itertools.count(1):
        begin = time.monotonic()
        cell, positions = minimiser.geometry()
        energy, forces, stress = pair_potential(numbers, cell, positions)
        if hit == "pulay":
            start = np.linalg.det(job.crystal.cell)
            stress = stress + 0.05 * math.log(np.linalg.det(cell) / start) * np.eye(3)
        energy += exchange(files.moments) + (coupling(numbers) if incar["LSORBIT"] else 0.0)
        results = energy, forces, stress
        push = minimiser.push(forces, stress + incar["PSTRESS"] / KBAR * np.eye(3))
        if incar["EDIFFG"] < 0:
            small = np.linalg.norm(push, axis=1).max() < -incar["EDIFFG"]
        else:
            small = abs(results[0] - last_energy) < incar["EDIFFG"]
        accurate = bool(job.nsw and small and hit != "ionic_steps")
        last = accurate or number >= job.nsw
        last_energy = results[0]

        electronic: list[float] = []
        for k in range(electronic_steps):
            electronic.append(results[0] + 0.1 * len(numbers) * 10.0 ** (-2 * k))
            if k == electronic_steps - 1:
                electronic[-1] = results[0]
            before = electronic[-2] if k else 0.0
            files.electronic_step(number, k + 1, electronic[-1], before)
            if fault and hit == "slow":
                time.sleep(fault.seconds / electronic_steps)
            if stopcar() == "LABORT":
                break
        # A loop that was told to stop has the energy that it came to.
        settled = len(electronic) == electronic_steps < nelm
        results = electronic[-1], forces, stress
        hits_now = hit not in ("", *LASTING, "truncated_vasprun", "unconverged_scf", "ionic_steps")
        if fault and hits_now and (last or number == 2):
            strike(fault, files, record)

        seconds = time.monotonic() - begin
        # Before the files, by which tests know that the step is done.
        record.steps, record.energy_last, record.converged = number, results[0], accurate
        if record.energy_first is None:
            record.energy_first = results[0]
        files.ionic_step(number, cell, positions, results, electronic, settled, seconds)
        stop = stopcar()
        if job.nsw and not accurate:
            # Slow enough that NSW steps go most of the way, and not all of it.
            minimiser.move(push, 1 / job.nsw if hit == "ionic_steps" else 1.0)
        files.contcar(*minimiser.geometry())
        if last or stop:
            break
    note = ""
    if accurate:
        note = "reached required accuracy - stopping structural energy minimisation"
    elif stop:
        note = f"{'hard' if stop == 'LABORT' else 'soft'} stop encountered!  aborting job ..."
        # VASP deletes the file if it may: custodian writes one to stay as read-only.
        if Path("STOPCAR").stat().st_mode & stat.S_IWUSR:
            Path("STOPCAR").unlink()
    files.finish(*minimiser.geometry(), note)
    if hit == "truncated_vasprun":
        path = Path("vasprun.xml")
        os.truncate(path, path.stat().st_size // 2)


def main() -> int:
    """Run in the current folder; the exit status."""
    # An exit by exception, so that the log has the run that custodian terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    record = Record()
    try:
        job = read_job(Path.cwd())
        crystal = job.crystal
        record.formula = reduced(_composition(crystal))
        record.comment = crystal.comment
        record.volume = float(abs(np.linalg.det(crystal.cell)))
        text = np.array2string(
            np.round(np.vstack([crystal.cell, crystal.fractional % 1.0]), 6) + 0.0, threshold=10**6
        )
        record.start = sha256(text.encode()).hexdigest()[:16]
        fault = choose_fault(job, record.formula)
        record.fault = fault.name if fault else None
        run(job, fault, record)
    except RefusedError as error:
        # Both: custodian looks for VASP's words in standard output.
        print(f" {error}")
        print(f"vasp_stand_in: {error}", file=sys.stderr)
        record.fault = "refused"
        return 1
    finally:
        record.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
