"""Relaxation of cell and positions, guarded against collapse, one result for every structure."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.optimization.neighbors import find_points_in_spheres

from ccdcgan.dft.engines import CalculatorEngine, LevelOfTheory, PotentialEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.espresso import EspressoEngine
from ccdcgan.dft.frames import FRAME_STEPS, Frame
from ccdcgan.dft.gpaw import GpawEngine
from ccdcgan.dft.vasp import VaspEngine

Engine = Annotated[
    PotentialEngine | VaspEngine | EspressoEngine | GpawEngine, Field(discriminator="name")
]
T = TypeVar("T")

OPTIMIZERS = {"FIRE": FIRE, "BFGS": BFGS, "LBFGS": LBFGS}


class RelaxationSettings(BaseModel):
    """How a structure is relaxed.

    The gates reject what no crystal can be: potentials extrapolate without limit, and a wild
    start can fall to -1000 eV/atom.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Engine = PotentialEngine()
    optimizer: Literal["FIRE", "BFGS", "LBFGS"] = "FIRE"
    fmax: float = Field(
        default=0.03, gt=0, description="Largest force (and stress times volume), eV/Å."
    )
    max_steps: int = Field(default=200, ge=1, description="Ionic steps before giving up.")
    min_distance: float = Field(
        default=1.5,
        gt=0,
        description="Shortest distance between atoms, Å; between small atoms 0.625 of the sum of "
        "their covalent radii.",
    )
    volume_range: tuple[float, float] = Field(
        default=(8.0, 120.0),
        description="Å³ per atom; of small atoms down to twice, of large ones up to eight times "
        "the spheres of their covalent radii.",
    )
    energy_range: tuple[float, float] = Field(default=(-15.0, 10.0), description="eV per atom.")

    def gate(
        self, structure: Structure | Atoms, energy_per_atom: float | None = None
    ) -> str | None:
        """Why a geometry or its energy cannot be trusted, or None."""
        atoms = structure if isinstance(structure, Atoms) else structure.to_ase_atoms()
        cell = np.asarray(atoms.cell)
        if not (np.isfinite(cell).all() and np.isfinite(atoms.positions).all()):
            return "geometry is not finite"
        volume = abs(np.linalg.det(cell)) / len(atoms)
        radii = covalent_radii[atoms.numbers]
        spheres = 4 / 3 * np.pi * (radii**3).mean()
        low, high = self.volume_range
        if not min(low, 2 * spheres) <= volume <= max(high, 8 * spheres):
            return "volume per atom out of range"
        first, second, distances = neighbours(atoms)
        least = np.minimum(self.min_distance, 0.625 * (radii[first] + radii[second]))
        if (distances < least).any():
            return "atoms too close"
        if energy_per_atom is None:
            return None
        low, high = (-np.inf, np.inf) if self.engine.absolute else self.energy_range
        if not (np.isfinite(energy_per_atom) and low <= energy_per_atom <= high):
            return "energy out of range"
        return None


class Relaxation(BaseModel):
    """The result of one relaxation.

    A structure that was rejected or failed has its reason and no energy.
    """

    key: str = Field(description="Content key: input structure, level of theory and settings.")
    level_of_theory: LevelOfTheory = Field(description="What the energy was computed with.")
    structure: dict[str, Any] = Field(description="Relaxed pymatgen structure.")
    energy_per_atom: float | None = Field(
        default=None, description="eV/atom at the level of theory."
    )
    max_force: float | None = Field(default=None, description="Largest force on an atom, eV/Å.")
    max_stress: float | None = Field(default=None, description="Largest stress component, eV/Å³.")
    steps: int = Field(default=0, description="Ionic steps.")
    converged: bool = False
    reason: str | None = Field(default=None, description="Why it did not converge.")
    seconds: float = Field(
        default=0.0, description="Processor time; of a DFT code, time on the clock."
    )
    attempts: int = Field(default=1, description="Runs that it took.")
    corrections: list[str] = Field(
        default_factory=list, description="Errors that custodian corrected on the way."
    )
    frames: list[Frame] = Field(
        default_factory=list, description="Some geometries on the way, and the converged one."
    )


def neighbours(
    atoms: Atoms,
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    """Pairs of atoms at most 3.5 Å apart, periodic images included, and their distances in Å."""
    # A fortieth of the time of ASE's neighbour list, at each step of a relaxation.
    positions = np.ascontiguousarray(atoms.get_positions(wrap=True), float)
    cell = np.ascontiguousarray(atoms.cell.array, float)
    first, second, images, distances = find_points_in_spheres(
        positions, positions, 3.5, np.ones(3, np.int64), cell
    )
    others = (first != second) | images.any(1)
    return first[others], second[others], distances[others]


def shortest_distance(atoms: Atoms) -> float:
    """Shortest distance in Å between atoms, periodic images included; at most 3.5 Å."""
    distances = neighbours(atoms)[2]
    return float(distances.min()) if len(distances) else 3.5


def elements_of(structure: Structure) -> list[str]:
    """Symbols of the elements of a structure, sorted."""
    return sorted(structure.composition.get_el_amt_dict())


def content_key(structure: Structure, level: LevelOfTheory, settings: RelaxationSettings) -> str:
    """Hash of the input structure, the level of theory and the relaxation settings.

    Whoever relaxes the same input with the same settings finds the result under this key.
    """
    lattice = np.round([*structure.lattice.abc, *structure.lattice.angles], 4) + 0.0
    # Into the cell before rounding, so that a lattice translation leaves the same digits.
    coords = np.mod(np.round(np.mod(structure.frac_coords, 1.0), 4), 1.0) + 0.0
    sites = sorted(
        (site.specie.symbol, *map(float, xyz)) for site, xyz in zip(structure, coords, strict=True)
    )
    parts = [
        lattice.tolist(),
        sites,
        level.model_dump(exclude_defaults=True),
        settings.model_dump(mode="json", exclude={"engine"}),
    ]
    if route := settings.engine.route():
        parts.append(route)
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def calculations_folder() -> Path:
    """Where calculations live: CCDCGAN_CALCULATIONS, a folder that all workers of a class see."""
    return Path(os.environ.get("CCDCGAN_CALCULATIONS", "calculations"))


class Relaxer:
    """Relaxes one structure after another with one calculator.

    A DFT code's geometries are kept step by step, under the content key: a relaxation that was
    killed goes on from its last one.
    """

    def __init__(self, settings: RelaxationSettings) -> None:
        if not isinstance(settings.engine, CalculatorEngine):
            raise TypeError(f"{settings.engine.name} relaxes by itself")
        self.settings = settings
        self.engine = settings.engine

    def __call__(self, structure: Structure) -> Relaxation:
        """Relax cell and positions to `fmax`; never raises for a bad structure."""
        settings = self.settings
        # A DFT code works in processes of its own.
        clock = process_time if isinstance(self.engine, PotentialEngine) else perf_counter
        start = clock()
        level = self.engine.level_of_theory(elements_of(structure))
        result = Relaxation(
            key=content_key(structure, level, settings),
            level_of_theory=level,
            structure=structure.as_dict(),
        )
        result.reason = settings.gate(structure)
        if result.reason:
            return result
        atoms = self.atoms(structure)
        kept = None
        if not isinstance(self.engine, PotentialEngine):
            kept = calculations_folder() / result.key / "last.json"
            _go_on(atoms, kept, settings)
        optimizer = OPTIMIZERS[settings.optimizer](FrechetCellFilter(atoms), logfile=None)
        reason: str | None = None
        converged = False
        try:
            for done in optimizer.irun(fmax=settings.fmax, steps=settings.max_steps):
                converged = bool(done)
                reason = settings.gate(atoms, atoms.get_potential_energy() / len(atoms))
                if reason:
                    break
                if converged or optimizer.nsteps in FRAME_STEPS:
                    result.frames.append(Frame.of(atoms))
                if kept is not None:
                    _keep(atoms, kept)
        except Exception as error:  # noqa: BLE001  a potential may fail in any way on a wild cell
            said = " ".join(str(error).split())[:200]
            reason = f"engine failed: {type(error).__name__}" + (f": {said}" if said else "")
        result.steps = int(optimizer.nsteps)
        result.seconds = clock() - start
        if reason:
            result.reason = reason
            return result
        relaxed = AseAtomsAdaptor.get_structure(atoms)
        result.structure = Structure(
            relaxed.lattice, relaxed.species, relaxed.frac_coords, to_unit_cell=True
        ).as_dict()
        result.energy_per_atom = float(atoms.get_potential_energy() / len(atoms))
        result.max_force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        result.max_stress = float(np.abs(atoms.get_stress()).max())
        result.converged = converged
        result.reason = None if converged else f"not converged in {settings.max_steps} steps"
        return result

    def atoms(self, structure: Structure) -> Atoms:
        """A structure with the engine's calculator."""
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        # Leftover site properties would become arrays that not every calculator accepts.
        atoms = Atoms(atoms.numbers, cell=atoms.cell, positions=atoms.positions, pbc=True)
        atoms.calc = self.engine.calculator(structure)
        return atoms


def _keep(atoms: Atoms, path: Path) -> None:
    """Write a geometry whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([atoms.cell.tolist(), atoms.positions.tolist()]))
    os.replace(temporary, path)


def _go_on(atoms: Atoms, path: Path, settings: RelaxationSettings) -> None:
    """Put atoms where an earlier relaxation of the same structure has left them, if there is one.

    The calculator keeps the k-points of the structure that it was made for.
    """
    try:
        cell, positions = json.loads(path.read_text())
    except FileNotFoundError:
        return
    there = atoms.copy()
    there.set_cell(cell)
    there.set_positions(positions)
    if settings.gate(there) is None:
        atoms.set_cell(cell)
        atoms.set_positions(positions)


_relaxer: Relaxer | None = None


def _start_process(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches the whole process group; the parent decides what happens to the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    start(*arguments)


def _start_worker(settings: RelaxationSettings) -> None:
    global _relaxer
    import torch

    torch.set_num_threads(1)
    _relaxer = Relaxer(settings)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def relax(relaxer: Relaxer, structure: Structure) -> Relaxation:
    """Relax one structure: the task of `relax_many`."""
    return relaxer(structure)


def _do_in_worker(
    task: Callable[[Relaxer, Structure], T], index: int, structure: Structure
) -> tuple[int, T]:
    assert _relaxer is not None
    return index, task(_relaxer, structure)


def relax_many(
    structures: Sequence[Structure], settings: RelaxationSettings, workers: int | None = None
) -> Iterator[tuple[int, Relaxation]]:
    """Relax structures in parallel processes: `in_workers` with `relax`."""
    return in_workers(relax, structures, settings, workers)


def in_workers(
    task: Callable[[Relaxer, Structure], T],
    structures: Sequence[Structure],
    settings: RelaxationSettings,
    workers: int | None = None,
) -> Iterator[tuple[int, T]]:
    """Do a task for structures in parallel processes; results come as they are ready.

    One thread a process makes each result independent of the number of workers.

    Parameters
    ----------
    task
        A function of a module, called with the relaxer of its process and a structure.
    workers
        Processes; by default one a core.

    Yields
    ------
    index of the structure, result
    """
    if not structures:
        return
    # What is missing is an error here, not in the workers.
    settings.engine.check(sorted({e for s in structures for e in elements_of(s)}))
    workers = min(workers or len(os.sched_getaffinity(0)), len(structures))
    waiting: set[Future[tuple[int, T]]] = set()
    with worker_pool(workers, _start_worker, (settings,)) as pool:
        for index, structure in enumerate(structures):
            waiting.add(pool.submit(_do_in_worker, task, index, structure))
            if len(waiting) < 2 * workers:
                continue
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


@contextmanager
def worker_pool(
    workers: int, start: Callable[..., None], arguments: tuple[Any, ...]
) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each, which do not outlive their parent or what stops it.

    Parameters
    ----------
    start, arguments
        Called in each process first.
    """
    # spawn: TensorFlow or torch threads of the parent do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_process, (start, arguments))
    # OpenMP reads this once, when a process starts. More threads than cores cost a factor of 3.
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield pool
        pool.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "a relaxation process was killed, probably for want of memory: set fewer workers in "
            "the campaign file; the same command goes on"
        ) from None
    finally:
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = threads
        # Taken first: the pool forgets its processes when it shuts down.
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
