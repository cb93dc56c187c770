"""Relaxation: keys, energies against an independent run, gates, and parallel processes."""

import errno
import itertools
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from crystals import fcc
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory
from ccdcgan.dft.engines.espresso import EspressoEngine
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.processes import relax_many, worker_pool
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.validity import neighbours
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.training import frames_of

SETTINGS = RelaxationSettings(engine=SevenNetEngine())
LEVEL = LevelOfTheory(engine="E", package="p", checkpoint="0" * 16, scale="PBE")


def rocksalt(a: float = 5.8) -> Structure:
    h = a / 2
    return Structure([[0, h, h], [h, 0, h], [h, h, 0]], ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])


def selenium() -> Structure:
    return Structure(
        Lattice.hexagonal(4.4, 5.0),
        ["Se"] * 3,
        [[0.22, 0, 1 / 3], [0, 0.22, 2 / 3], [-0.22, -0.22, 0]],
    )


def overlapping() -> Structure:
    return Structure(Lattice.cubic(4.0), ["Bi", "Se"], [[0, 0, 0], [0.1, 0, 0]])


# Content keys


def key(structure: Structure) -> str:
    return content_key(structure, LEVEL, SETTINGS)


def test_key_is_that_of_the_same_input() -> None:
    structure = selenium() * (1, 1, 2)
    structure.replace(0, "Bi")
    reordered = Structure.from_sites(list(reversed(structure.sites)))
    translated = structure.copy()
    for i in range(len(translated)):
        shifted = translated[i].frac_coords + np.array([1.0, -2.0, 3.0])
        translated.replace(i, translated[i].specie, shifted)
    noisy = Structure(
        structure.lattice, structure.species, structure.frac_coords - 1e-9, site_properties={}
    )
    labelled = structure.copy()
    labelled.add_site_property("magmom", [1.0] * len(labelled))
    stored = Structure.from_dict(structure.as_dict())
    for same in (reordered, translated, noisy, labelled, stored):
        assert key(same) == key(structure)


def test_key_of_sites_at_the_origin() -> None:
    """Zero, minus zero and one are the same coordinate."""
    keys = {
        key(Structure(Lattice.cubic(4), ["Bi", "Se"], [[x, 0, 0], [0.5, 0.5, 0.5]]))
        for x in (0.0, -0.0, 1.0, -1e-7, 1 - 1e-7, 2.0)
    }
    assert len(keys) == 1


def test_key_tells_inputs_apart() -> None:
    structure = rocksalt()
    swollen = structure.copy()
    swollen.scale_lattice(1.01 * structure.volume)
    moved = structure.copy()
    moved.translate_sites([1], [0.01, 0, 0])
    swapped = structure.copy()
    swapped.replace_species({"Bi": "Se", "Se": "Bi"})
    moved_and_swapped = moved.copy()
    moved_and_swapped.replace_species({"Bi": "Se", "Se": "Bi"})
    keys = [
        key(s)
        for s in (structure, swollen, moved, moved_and_swapped, structure * (2, 1, 1), swapped)
    ]
    keys += [
        content_key(structure, LEVEL.model_copy(update={field: "x"}), SETTINGS)
        for field in LevelOfTheory.model_fields
    ]
    keys += [
        content_key(structure, LEVEL, SETTINGS.model_copy(update=change))
        for change in (
            {"optimizer": "BFGS"},
            {"fmax": 0.01},
            {"refine": 0.01},
            {"max_steps": 10},
            {"min_distance": 1.4},
            {"volume_range": (8.0, 100.0)},
            {"energy_range": (-10.0, 10.0)},
        )
    ]
    assert len(set(keys)) == len(keys)


# One relaxation with SevenNet-0


@pytest.fixture(scope="module")
def relaxer() -> Relaxer:
    return Relaxer(SETTINGS)


@pytest.fixture(scope="module")
def sevennet() -> Calculator:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(model="7net-0", device="cpu")


@pytest.mark.parametrize("make", [rocksalt, selenium])
def test_against_an_independent_run(make: Any, relaxer: Relaxer, sevennet: Calculator) -> None:
    structure = make()
    before = structure.as_dict()
    result = relaxer(structure)
    assert structure.as_dict() == before
    assert result.converged
    assert result.reason is None
    assert result.key == content_key(structure, SETTINGS.engine.level_of_theory(), SETTINGS)

    atoms = Atoms(
        [site.specie.symbol for site in structure],
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
        pbc=True,
    )
    atoms.calc = sevennet
    start = atoms.get_potential_energy() / len(atoms)
    assert FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=SETTINGS.fmax, steps=500)
    assert result.energy_per_atom == pytest.approx(
        atoms.get_potential_energy() / len(atoms), abs=1e-3
    )
    assert result.energy_per_atom < start

    # Frames lead from the start to the result.
    first, last = result.frames[0], result.frames[-1]
    assert first.energy / len(atoms) == pytest.approx(start, abs=1e-5)
    np.testing.assert_allclose(first.positions, structure.cart_coords, atol=1e-4)
    assert last.energy / len(atoms) == pytest.approx(result.energy_per_atom, abs=1e-5)
    assert np.linalg.norm(last.forces, axis=1).max() == pytest.approx(result.max_force, abs=1e-3)
    assert np.abs(last.stress).max() == pytest.approx(result.max_stress, abs=1e-5)
    assert len(result.frames) <= 7

    # A fresh evaluation of what was stored gives what was stored.
    stored = result.structure
    again = Atoms(
        [site.specie.symbol for site in stored],
        cell=stored.lattice.matrix,
        positions=stored.cart_coords,
        pbc=True,
    )
    again.calc = sevennet
    assert again.get_potential_energy() / len(again) == pytest.approx(
        result.energy_per_atom, abs=1e-5
    )
    assert result.max_force is not None
    forces = np.linalg.norm(again.get_forces(), axis=1).max()
    assert result.max_force == pytest.approx(forces, abs=1e-3)
    assert result.max_force <= SETTINGS.fmax
    assert result.max_stress == pytest.approx(np.abs(again.get_stress()).max(), abs=1e-4)
    assert ((stored.frac_coords >= 0) & (stored.frac_coords < 1)).all()


def test_unconverged_is_reported(relaxer: Relaxer) -> None:
    result = Relaxer(SETTINGS.model_copy(update={"max_steps": 1}))(rocksalt(6.3))
    assert not result.converged
    assert result.steps == 1
    assert result.reason == "not converged in 1 steps"
    assert result.max_force is not None
    assert result.key != content_key(rocksalt(6.3), SETTINGS.engine.level_of_theory(), SETTINGS)


def assert_rejected(result: Relaxation, reason: str, start: Structure) -> None:
    assert result.reason is not None
    assert reason in result.reason
    assert not result.converged
    assert result.energy_per_atom is None
    assert result.max_force is None
    assert result.structure == start


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (overlapping(), "atoms too close"),
        (rocksalt(2.0), "volume per atom out of range"),
        (rocksalt(20.0), "volume per atom out of range"),
        (Structure(np.full((3, 3), np.nan), ["Bi"], [[0, 0, 0]]), "not finite"),
    ],
)
def test_wild_starts_are_rejected(structure: Structure, reason: str, relaxer: Relaxer) -> None:
    result = relaxer(structure)
    assert result.steps == 0
    assert result.reason is not None
    assert reason in result.reason
    assert result.energy_per_atom is None
    assert not result.converged


def single(element: str, length: float) -> Structure:
    return Structure(Lattice.cubic(length), [element], [[0, 0, 0]])


def dimer(elements: list[str], distance: float, edge: float = 4.0) -> Structure:
    return Structure(
        Lattice.cubic(edge), elements, [[0, 0, 0], [0, 0, distance]], coords_are_cartesian=True
    )


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (dimer(["O", "O"], 1.21), None),
        (dimer(["O", "O"], 0.8), "atoms too close"),
        (dimer(["H", "H"], 0.74), None),
        (dimer(["S", "C"], 1.2), None),
        (dimer(["S", "C"], 1.1), "atoms too close"),
        # Large atoms: the limits are those of the settings.
        (dimer(["Se", "Se"], 1.49), "atoms too close"),
        (dimer(["Se", "Se"], 1.51), None),
        # Diamond, with 5.7 cubic Å an atom; caesium, with 117 and more.
        (fcc(["C", "C"], [0, 0.25], 3.567), None),
        (fcc(["C", "C"], [0, 0.25], 3.0), "volume per atom out of range"),
        (single("Cs", 5.4), None),
        (single("Se", 5.0), "volume per atom out of range"),
        (single("Se", 4.9), None),
        # Light elements take little room between others.
        (fcc(["O", "Li", "Li"], [0, 0.25, 0.75], 4.5), None),
        (fcc(["Ni", "H"], [0, 0.5], 3.73), None),
        (fcc(["Ti", "H", "H"], [0, 0.25, 0.75], 4.45), None),
    ],
)
def test_gates_follow_the_size_of_the_atoms(structure: Structure, reason: str | None) -> None:
    assert SETTINGS.gate(structure) == reason


@pytest.mark.parametrize(
    ("elements", "distance", "edge", "reason"),
    [
        # BePd2 has a false minimum with such chains; Cr2 the shortest bond of its radii.
        (["Pd", "Pd"], 1.56, 3.8, "atoms too close"),
        (["Pd", "Pd"], 2.0, 3.8, None),
        (["Cr", "Cr"], 1.83, 3.7, None),
        (["U", "O"], 1.76, 4.0, None),
    ],
)
def test_in_the_end_large_atoms_keep_their_distance(
    elements: list[str], distance: float, edge: float, reason: str | None
) -> None:
    """On the way they may come nearer: crystals that are sound in the end do."""
    structure = dimer(elements, distance, edge)
    assert SETTINGS.gate(structure) is None
    assert SETTINGS.final_gate(structure, -5.0) == reason


def test_a_potential_is_not_believed_of_atoms_far_apart() -> None:
    """Both of SevenNet's checkpoints put K2 at 176 cubic Å an atom far below the metal."""
    dilute = dimer(["K", "K"], 4.0, (2 * 175.6) ** (1 / 3))
    bcc = Structure(Lattice.cubic(5.2), ["K", "K"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert SETTINGS.gate(dilute) is None
    assert SETTINGS.final_gate(dilute, -1.47) == "volume per atom out of range"
    assert SETTINGS.final_gate(bcc, -1.18) is None
    # A compound may be loose: of random ones, both checkpoints have KBr at 2.9 times its solids.
    loose = dimer(["K", "Br"], 3.2, (2.8 * (75.5 + 39.4)) ** (1 / 3))
    assert SETTINGS.final_gate(loose, -2.5) is None
    by_dft = SETTINGS.model_copy(update={"engine": EspressoEngine.model_construct()})
    assert by_dft.final_gate(dilute, -1.47) is None


def test_actinides_and_gadolinium_lie_deep() -> None:
    assert SETTINGS.gate(single("Pu", 2.9), -15.4) is None
    assert SETTINGS.gate(single("W", 2.6), -15.4) == "energy out of range"
    assert SETTINGS.gate(single("Pu", 2.9), -21.0) == "energy out of range"


class Broken(Calculator):  # type: ignore[misc]
    """A potential that goes wrong in a chosen way."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        n = len(self.atoms)
        if self.fault == "slow":
            time.sleep(120)
        if self.fault == "raises":
            raise RuntimeError("no neighbours\nof any kind")
        volume = self.atoms.get_volume()
        stress = {"shrinks": 0.3, "swells": -0.3}.get(self.fault, 0.0)
        self.results = {
            "energy": {"deep": -1e3 * n, "nan": np.nan}.get(self.fault, -3.0 * n + stress * volume),
            "forces": np.full((n, 3), np.nan) if self.fault == "nan forces" else np.zeros((n, 3)),
            "stress": np.array([stress] * 3 + [0.0] * 3),
        }


class BrokenEngine(CalculatorEngine):
    """An engine that goes wrong, or whose first energy takes two minutes."""

    is_potential: ClassVar[bool] = True
    name: str = "broken"
    fault: str

    def calculator(self, structure: Structure | None = None) -> Calculator:
        return Broken(self.fault)

    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LEVEL


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "engine failed: RuntimeError"),
        ("deep", "energy out of range"),
        ("nan", "the engine gave energy that is not finite"),
        ("shrinks", "out of range"),
        ("swells", "out of range"),
        ("nan forces", "the engine gave forces that are not finite"),
    ],
)
def test_collapse_on_the_way_is_rejected(fault: str, reason: str) -> None:
    start = rocksalt()
    settings = RelaxationSettings(engine=BrokenEngine(fault=fault))
    assert_rejected(Relaxer(settings)(start), reason, start)


def test_shortest_distance_sees_images() -> None:
    """A single atom is as far from itself as its cell is long."""
    alone = Atoms("Po", cell=[3.0, 4.0, 5.0], pbc=True)
    assert min(neighbours(alone)[2]) == pytest.approx(3.0)
    assert min(neighbours(overlapping().to_ase_atoms())[2]) == pytest.approx(0.4)


# Versions of higher symmetry


class DoubleWell(Calculator):  # type: ignore[misc]
    """A barrier (eV) between places of the second atom, 0.2 Å from the centre of the cell."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, barrier: float) -> None:
        super().__init__()
        self.barrier = barrier

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        first, second = self.atoms.get_scaled_positions()
        off = (second - first + 1.0) % 1.0 - 0.5
        off = off @ self.atoms.cell.array / 0.2
        excess = off @ off - 1.0
        slope = 4 * self.barrier * excess * off / 0.2
        self.results = {
            "energy": self.barrier * excess**2 - 6.0,
            "forces": np.array([slope, -slope]),
            "stress": np.zeros(6),
        }


class DoubleWellEngine(CalculatorEngine):
    is_potential: ClassVar[bool] = True
    name: str = "double well"
    barrier: float

    def calculator(self, structure: Structure | None = None) -> Calculator:
        return DoubleWell(self.barrier)

    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LEVEL


@pytest.mark.parametrize(
    ("barrier", "refine", "group"),
    [(0.1, 0.01, 99), (0.003, 0.01, 99), (0.0015, 0.01, 221), (0.0015, None, 99)],
)
def test_a_barrier_keeps_the_lower_symmetry(barrier: float, refine: float, group: int) -> None:
    """The centre of the cell is higher by half of the barrier an atom: within 1 meV it is taken."""
    off = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.56]])
    settings = RelaxationSettings(engine=DoubleWellEngine(barrier=barrier), fmax=1e-3)
    result = Relaxer(settings.model_copy(update={"refine": refine}))(off)
    assert result.converged and result.symmetrised == (group == 221)
    assert SpacegroupAnalyzer(result.structure, 0.01).get_space_group_number() == group
    height = barrier / 2 if group == 221 else 0.0
    assert result.energy_per_atom == pytest.approx(height - 3.0, abs=1e-5)


def test_a_relaxed_crystal_gets_its_symmetry_back(relaxer: Relaxer) -> None:
    """Against rocksalt itself, relaxed to as fine a force."""
    symmetric = Relaxer(SETTINGS.model_copy(update={"fmax": 0.01}))(rocksalt())
    start = (rocksalt() * (1, 1, 2)).perturb(0.1, seed=1)
    as_it_is = relaxer(start)
    refined = Relaxer(SETTINGS.model_copy(update={"refine": 0.01}))(start)
    groups = [
        SpacegroupAnalyzer(s, symprec=0.01).get_space_group_number()
        for s in (symmetric.structure, as_it_is.structure, refined.structure)
    ]
    assert groups[0] == groups[2] == 225 and groups[1] < 75
    assert refined.symmetrised and not as_it_is.symmetrised
    assert len(refined.structure) == 2
    assert refined.energy_per_atom == pytest.approx(symmetric.energy_per_atom, abs=3e-4)
    assert refined.max_force is not None and refined.max_force <= 0.01
    assert refined.frames == as_it_is.frames and refined.key != as_it_is.key
    # What a potential learns from: as many atoms as the frames have.
    origin = Origin(kind="generated", id="x")
    document = RelaxationDocument.of(refined, Candidate(origin=origin, structure=start), "x")
    frames = frames_of({refined.key: document}, Campaign())
    assert len(frames) == len(refined.frames)
    assert all(len(f) == len(f.positions) == len(f.forces) == 4 for f in frames)
    assert document.has_own_frames


# Parallel processes


def without_time(result: Relaxation) -> dict[str, Any]:
    return result.model_dump(exclude={"seconds"})


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 3})
    structures = [selenium(), overlapping(), rocksalt(6.1), rocksalt(5.5)]
    runs = []
    for workers in (1, 2):
        items = list(relax_many(structures, settings, workers))
        assert sorted(index for index, _ in items) == [0, 1, 2, 3]
        runs.append({index: without_time(result) for index, result in items})
    assert runs[0] == runs[1]
    for i, structure in enumerate(structures):
        level = settings.engine.level_of_theory()
        assert runs[0][i]["key"] == content_key(structure, level, settings)
        assert (runs[0][i]["energy_per_atom"] is None) == (i == 1)


def test_workers_end_with_the_generator() -> None:
    """Who stops listening does not wait for relaxations that are under way."""
    slow = RelaxationSettings(engine=BrokenEngine(fault="slow"))
    results = relax_many([overlapping(), rocksalt(), rocksalt()], slow, workers=1)
    assert next(results)[0] == 0
    workers = multiprocessing.active_children()
    assert workers
    results.close()  # type: ignore[attr-defined]
    end = time.monotonic() + 20
    while any(w.is_alive() for w in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(w.is_alive() for w in workers)


def test_nothing_to_relax() -> None:
    assert list(relax_many([], SETTINGS)) == []


def test_missing_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chgnet", None)
    settings = RelaxationSettings(engine=ChgnetEngine())
    with pytest.raises(UserError, match="pip install chgnet"):
        next(relax_many([rocksalt()], settings))


class SlowDft(CalculatorEngine):
    """Plays a DFT code: a pair potential that is stopped after some energies."""

    name: str = "slow"
    energies: int = 0

    def calculator(self, structure: Structure) -> Calculator:
        left = itertools.count(self.energies, -1)

        class Stopped(LennardJones):  # type: ignore[misc]
            def calculate(self, *arguments: Any, **more: Any) -> None:
                if next(left) == 1:
                    raise KeyboardInterrupt
                super().calculate(*arguments, **more)

        return Stopped(sigma=2.6, epsilon=0.3, rc=9.0)

    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LEVEL


def test_a_killed_dft_relaxation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(energies: int) -> RelaxationSettings:
        return SETTINGS.model_copy(update={"engine": SlowDft(energies=energies)})

    start = rocksalt(5.0)
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "undisturbed"))
    whole = Relaxer(settings(0))(start)
    assert whole.converged and whole.steps > 8
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "killed"))
    with pytest.raises(KeyboardInterrupt):
        Relaxer(settings(7))(start)
    (kept,) = tmp_path.glob("killed/*/last.json")
    cell, positions, before = json.loads(kept.read_text())
    rest = Relaxer(settings(0))(start)
    assert rest.seconds > before > 0, "the time of both"
    # As it was kept before the time was.
    kept.write_text(json.dumps([cell, positions]))
    assert Relaxer(settings(0))(start).energy_per_atom == rest.energy_per_atom
    # As a power cut may leave it: from the start.
    for cut in (b"", b"[[[0, 3", b"null", b"[[[0, 3, 3]], [[0, 0, 0]]]", b'["a", "b"]', b"\xff"):
        kept.write_bytes(cut)
        assert Relaxer(settings(0))(start).steps == whole.steps
    assert rest.converged and rest.steps < whole.steps
    assert rest.energy_per_atom == pytest.approx(whole.energy_per_atom, abs=1e-3)
    assert rest.key == whole.key


def test_pool_whose_process_dies_ends_with_one_line():
    with pytest.raises(UserError, match="was killed"), worker_pool(1, int, ()) as pool:
        list(pool.map(os._exit, [1]))
    # What Python 3.11 sometimes says of it instead, when it is asked for more at that moment.
    with pytest.raises(UserError, match="was killed"), worker_pool(1, int, ()):
        raise OSError(errno.EBADF, "Bad file descriptor")
    with pytest.raises(OSError, match="No space"), worker_pool(1, int, ()):
        raise OSError(errno.ENOSPC, "No space left on device")
