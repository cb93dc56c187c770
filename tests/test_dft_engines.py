"""Engines: their contract, dispersion, names, those of other packages, and what a user is told."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import Bohr
from pydantic import ConfigDict, Field, ValidationError
from pymatgen.core import Composition, Element, Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from test_campaign import command

from ccdcgan.dft.engines.base import CalculatorEngine, EngineSettings, LevelOfTheory, same_level
from ccdcgan.dft.engines.consistency import Tolerances, distorted, small_structures
from ccdcgan.dft.engines.contract import main, violations
from ccdcgan.dft.engines.dispersion import with_dispersion
from ccdcgan.dft.engines.espresso import EspressoEngine
from ccdcgan.dft.engines.gpaw import GpawEngine
from ccdcgan.dft.engines.gth_upf import write_upf
from ccdcgan.dft.engines.potentials import (
    MPTRJ_ELEMENTS,
    ChgnetEngine,
    PotentialEngine,
    SevenNetEngine,
)
from ccdcgan.dft.engines.registry import engine_class, engine_of
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.workflows.campaign import parse_campaign

L3I5 = SevenNetEngine(checkpoint="7net-l3i5", dispersion="d3bj")
MF = [SevenNetEngine(checkpoint="7net-mf-0", modal=m, dispersion="d3bj") for m in ("PBE", "R2SCAN")]
LEVEL = LevelOfTheory(engine="Nothing", package="tests", checkpoint="0" * 16, scale="none")
BISE = small_structures(["Bi", "Se"])[1]
CUAU = small_structures(["Cu", "Au"])[1]


def atoms_of(structure: Structure, calculator: Calculator) -> Atoms:
    atoms = structure.to_ase_atoms()
    atoms = Atoms(atoms.numbers, cell=atoms.cell, positions=atoms.positions, pbc=True)
    atoms.calc = calculator
    return atoms


# The contract


@pytest.mark.parametrize(
    "engine",
    [SevenNetEngine(), L3I5, *MF, ChgnetEngine(dispersion="d4")],
    ids=lambda engine: engine.level_of_theory().name,
)
def test_our_engines_keep_the_contract(engine: CalculatorEngine) -> None:
    # A new process for the default alone: each loads torch and the weights.
    assert violations(engine, [BISE], another_process=engine == L3I5) == []


class Wrong(EMT):  # type: ignore[misc]
    """Effective-medium theory that goes wrong in a chosen way."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.calls = itertools.count(1)

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, ["energy"], system_changes)
        n = len(self.atoms)
        given = {name: self.results[name] for name in ("energy", "forces", "stress")}
        energy, forces, stress = given["energy"], given["forces"].copy(), given["stress"].copy()
        call = next(self.calls)
        late = call > 3
        self.results = given | {
            "forces too large": {"forces": 1.2 * forces},
            "one force missing": {"forces": forces * (np.arange(n) > 0)[:, None]},
            "sign of stress": {"stress": -stress},
            "order of stress": {"stress": stress[[0, 1, 2, 5, 4, 3]]},
            "stress in GPa": {"stress": stress * 160.2},
            "nan forces": {"forces": np.full_like(forces, np.nan)},
            "late nan": {"forces": np.where(late, np.nan, forces)},
            "nan energy": {"energy": np.nan},
            "late infinity": {"energy": np.inf if late else energy},
            "nan stress": {"stress": np.full(6, np.nan)},
            "too few forces": {"forces": forces[:-1]},
            "flat forces": {"forces": forces.ravel()},
            "nine stresses": {"stress": np.zeros(9)},
            "two energies": {"energy": np.full(2, energy)},
            "words": {"energy": "low"},
            "explodes": {"energy": -1e6 * call * n, "forces": 1e6 * np.ones((n, 3)) * call},
            "drifts": {"energy": energy + 0.01 * call},
            "place": {"energy": energy + self.atoms.positions[0, 0]},
            "order": {"energy": energy + 0.1 * self.atoms.numbers[0]},
            "cell": {"energy": energy + 1.0},
        }.get(self.fault, {})
        if self.fault == "no stress":
            del self.results["stress"]
        if self.fault == "raises":
            raise RuntimeError("no neighbours\nof any kind")


class WrongEngine(CalculatorEngine):
    is_potential: ClassVar[bool] = True
    name: str = "wrong"
    fault: str = ""

    @property
    def learnt(self) -> frozenset[int]:
        return frozenset({29, 79})

    def calculator(self, structure: Any = None) -> Calculator:
        return Wrong(self.fault)

    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LEVEL


COUNT = itertools.count()
SHARED = Wrong("drifts")


class Shared(WrongEngine):
    """Of a calculator of the process, whose answers depend on what came before."""

    def calculator(self, structure: Any = None) -> Calculator:
        return SHARED


class Restless(WrongEngine):
    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LEVEL.model_copy(update={"checkpoint": f"{next(COUNT):016x}"})


class Nameless(WrongEngine):
    def level_of_theory(self, elements: Any = None) -> LevelOfTheory:
        return LEVEL.model_copy(update={"checkpoint": "version 2", "scale": " "})


class Silent(WrongEngine):
    dispersion: str = "d3bj"


class Careless(WrongEngine):
    def check(self, elements: Any) -> None:
        pass


class Lax(WrongEngine):
    model_config = ConfigDict(extra="ignore")


class Forgetful(WrongEngine):
    fault: str = Field(default="", exclude=True)


class Circular(WrongEngine):
    def second_opinion(self) -> CalculatorEngine:
        return self


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (WrongEngine(), None),
        (WrongEngine(fault="forces too large"), "AuCu: forces say"),
        (WrongEngine(fault="one force missing"), "AuCu: forces say"),
        (WrongEngine(fault="sign of stress"), "AuCu: stress xx is"),
        (WrongEngine(fault="order of stress"), "AuCu: stress yz is"),
        (WrongEngine(fault="stress in GPa"), "AuCu: stress zz is"),
        (WrongEngine(fault="nan forces"), "AuCu: the engine gave forces that are not finite"),
        (WrongEngine(fault="nan energy"), "AuCu: the engine gave energy that is not finite"),
        (WrongEngine(fault="too few forces"), "forces of shape (1, 3) instead of (2, 3)"),
        (WrongEngine(fault="nine stresses"), "stress of shape (9,) instead of (6,)"),
        (WrongEngine(fault="words"), "AuCu: the engine gave energy that is no number"),
        (WrongEngine(fault="no stress"), "AuCu: "),
        (WrongEngine(fault="raises"), "AuCu: RuntimeError: no neighbours of any kind"),
        (Shared(fault="drifts"), "made anew: AuCu: energy is"),
        (WrongEngine(fault="place"), "AuCu: moved as a whole: energy is"),
        (WrongEngine(fault="order"), "AuCu: atoms in reverse: energy is"),
        (WrongEngine(fault="cell"), "AuCu: two cells: energy is"),
        (Restless(), "level of theory: is another one when asked again"),
        (Nameless(), "instead of 16 hex digits"),
        (Nameless(), "level of theory: has no scale"),
        (Silent(), "level of theory: does not name the dispersion correction"),
        (Careless(), "elements: H is not among those learnt, and check() says nothing"),
        (Lax(), "settings: unknown keys are taken without a word"),
        (Forgetful(fault="cell"), "settings: those written to a file make another engine"),
        (Forgetful(fault="cell"), "made anew: AuCu: energy is 0.5 eV/atom off"),
        (Circular(), "level of theory: is that of the second opinion, too"),
    ],
)
def test_what_breaks_the_contract_is_named(engine: CalculatorEngine, words: str | None) -> None:
    found = violations(engine, [CUAU], another_process=False)
    assert all("\n" not in line for line in found)
    if words is None:
        assert found == []
    else:
        assert any(words in line for line in found), found


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nan energy", "the engine gave energy that is not finite"),
        ("late infinity", "the engine gave energy that is not finite"),
        ("nan forces", "the engine gave forces that are not finite"),
        ("late nan", "the engine gave forces that are not finite"),
        ("nan stress", "the engine gave stress that is not finite"),
        ("too few forces", "the engine gave forces of shape (1, 3) instead of (2, 3)"),
        ("flat forces", "the engine gave forces of shape (6,) instead of (2, 3)"),
        ("nine stresses", "the engine gave stress of shape (9,) instead of (6,)"),
        ("two energies", "the engine gave energy of shape (2,) instead of ()"),
        ("words", "the engine gave energy that is no number"),
        ("explodes", "energy out of range"),
        ("raises", "engine failed: RuntimeError: no neighbours of any kind"),
        ("no stress", "engine failed: PropertyNotImplementedError"),
    ],
)
@pytest.mark.parametrize("optimizer", ["FIRE", "BFGS"])
def test_what_goes_wrong_is_a_failed_structure(fault: str, reason: str, optimizer: Any) -> None:
    settings = RelaxationSettings(engine=WrongEngine(fault=fault), optimizer=optimizer)
    result = Relaxer(settings)(CUAU)
    assert str(result.reason).startswith(reason)
    assert not result.converged and result.energy_per_atom is None
    assert result.max_force is result.max_stress is result.second_opinion is None
    assert result.structure == CUAU
    assert all(np.isfinite(frame.energy) for frame in result.frames)


# Dispersion


class Nothing(Calculator):  # type: ignore[misc]
    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


class Alone(PotentialEngine):
    """A dispersion correction with nothing beneath."""

    name: str = "alone"

    @property
    def functional(self) -> str:
        return "PBE"

    @property
    def learnt(self) -> frozenset[int]:
        return frozenset(range(1, 87))

    def bare_calculator(self) -> Calculator:
        return Nothing()

    def bare_level(self) -> LevelOfTheory:
        return LEVEL


@pytest.mark.parametrize("dispersion", ["d3bj", "d4"])
def test_dispersion_keeps_the_contract_to_the_last_digits(dispersion: Any) -> None:
    tolerances = Tolerances(energy=1e-7, force=2e-5, stress=1e-5, relative=2e-3)
    engine = Alone(dispersion=dispersion)
    assert violations(engine, [BISE], tolerances, another_process=False) == []
    atoms = atoms_of(BISE, engine.calculator())
    assert atoms.get_potential_energy() / 2 < -0.1


def test_d3_is_that_of_quantum_espresso(tmp_path: Path) -> None:
    """Energies, forces and stress with and without, by another implementation."""
    if not shutil.which("pw.x"):
        pytest.skip("needs pw.x: apt-get install quantum-espresso")
    try:
        write_upf(tmp_path, ["Bi", "Se"])
    except UserError as error:
        pytest.skip(str(error))
    structure = AseAtomsAdaptor.get_structure(distorted(BISE))
    seen = []
    for dispersion in (None, "d3bj"):
        # What the electrons do is the same in both.
        engine = EspressoEngine(
            pseudo_dir=tmp_path, cutoff=120, kpoints_length=6, width=0.2, dispersion=dispersion
        )
        atoms = atoms_of(structure, engine.calculator(structure))
        seen.append((atoms.get_potential_energy() / 2, atoms.get_forces(), atoms.get_stress()))
    energy, forces, stress = (b - a for a, b in zip(*seen, strict=True))
    ours = atoms_of(structure, with_dispersion(Nothing(), "d3bj", "PBE"))
    assert energy < -0.3
    assert ours.get_potential_energy() / 2 == pytest.approx(energy, abs=1e-3)
    np.testing.assert_allclose(ours.get_forces(), forces, atol=1e-5)
    np.testing.assert_allclose(ours.get_stress(), stress, atol=1e-4)
    # What is left is the tail between 60 Bohr and the 95 of Quantum ESPRESSO and of VASP.
    d3 = ours.calc.mixer.calcs[1]
    d3.set(realspace_cutoff={"disp2": 95 * Bohr})
    assert ours.calc.mixer.calcs[1].get_potential_energy(ours) / 2 == pytest.approx(
        energy, abs=1e-5
    )


def test_each_head_has_the_parameters_of_its_functional() -> None:
    from dftd3.ase import DFTD3

    for head, method in zip(MF, ("pbe", "r2scan"), strict=True):
        bare = head.model_copy(update={"dispersion": None})
        added = [
            atoms_of(BISE, engine.calculator()).get_potential_energy() for engine in (head, bare)
        ]
        expected = atoms_of(BISE, DFTD3(method=method, damping="d3bj")).get_potential_energy()
        assert added[0] - added[1] == pytest.approx(expected, abs=1e-4)
    pbe, r2scan = (e.level_of_theory().dispersion for e in MF)
    assert (pbe, r2scan) == ("D3(BJ) of PBE", "D3(BJ) of r2SCAN")
    chgnet = ChgnetEngine(checkpoint="r2scan", dispersion="d4")
    assert chgnet.level_of_theory().dispersion == "D4 of r2SCAN"


def test_weights_of_the_package_are_found_without_importing_it() -> None:
    from sevenn.util import pretrained_name_to_path

    paths = {name: pretrained_name_to_path(name) for name in ("7net-0", "7net-l3i5", "7net-mf-0")}
    code = (
        "import json, sys; from ccdcgan.dft.engines.potentials import _sevennet_file; "
        "print(json.dumps({name: str(_sevennet_file(name)) for name in sys.argv[1:]})); "
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == paths


def test_a_checkpoint_of_ones_own_says_its_functional(tmp_path: Path) -> None:
    from sevenn.util import pretrained_name_to_path

    shutil.copy(pretrained_name_to_path("7net-0"), tmp_path / "own.pth")
    own = SevenNetEngine(checkpoint=str(tmp_path / "own.pth"), dispersion="d3bj")
    with pytest.raises(
        UserError, match="no parameters for an unknown functional.*checkpoint_functional"
    ):
        own.check(["Bi", "Se"])
    alone = own.model_copy(update={"dispersion": None})
    alone.check(["Bi", "Se"])
    level = alone.level_of_theory()
    assert (level.engine, level.scale) == ("SevenNet own.pth", "as learnt")
    assert level.checkpoint == SevenNetEngine().level_of_theory().checkpoint
    named = own.model_copy(update={"checkpoint_functional": "PBE"})
    named.check(["Bi", "Se"])
    assert named.level_of_theory().dispersion == "D3(BJ) of PBE"
    with pytest.raises(UserError, match="has not learnt Po"):
        named.check(["Po"])


# Levels of theory


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        (SevenNetEngine(), "SevenNet-0 (sevenn, {}, PBE, uncorrected)"),
        (L3I5, "SevenNet-l3i5 (sevenn, {}, PBE, uncorrected, D3(BJ) of PBE)"),
        (MF[0], "SevenNet-MF-0 (sevenn, {}, PBE, PBE, uncorrected, D3(BJ) of PBE)"),
        (MF[1], "SevenNet-MF-0 (sevenn, {}, R2SCAN, r2SCAN, D3(BJ) of r2SCAN)"),
        (ChgnetEngine(), "CHGNet 0.3.0 (chgnet, {}, PBE with MP2020 corrections)"),
        (ChgnetEngine(checkpoint="r2scan"), "CHGNet r2scan (chgnet, {}, r2SCAN)"),
        (VaspEngine(stages=("relax",)), "VASP (vasp, 4982dc33e4571ddf, PBE, uncorrected)"),
        (
            VaspEngine(stages=("relax",), incar={"METAGGA": "R2SCAN"}, kpoints_length=30),
            "VASP (vasp, 92b15d8c42273b2e, PBE+METAGGA, uncorrected)",
        ),
    ],
)
def test_levels_name_what_decides_energies(engine: EngineSettings, text: str) -> None:
    level = engine.level_of_theory()
    assert str(level) == text.format(level.checkpoint)
    assert LevelOfTheory.model_validate_json(level.model_dump_json()) == level


def test_levels_are_what_they_were(tmp_path: Path) -> None:
    assert SevenNetEngine().level_of_theory().model_dump(exclude_defaults=True) == {
        "engine": "SevenNet-0",
        "package": "sevenn",
        "checkpoint": SevenNetEngine().level_of_theory().checkpoint,
        "scale": "PBE, uncorrected",
    }
    for settings, checkpoint in (
        ({}, "2b28f59150baaf1c"),
        ({"cutoff": 700, "spin": True}, "dc00675e012e3f8b"),
    ):
        engine = EspressoEngine.model_validate({"pseudo_dir": tmp_path, **settings})
        assert engine.level_of_theory().checkpoint == checkpoint
        with_d3 = engine.model_copy(update={"dispersion": "d3bj"}).level_of_theory()
        assert with_d3.checkpoint != checkpoint and with_d3.dispersion == "D3(BJ) of PBE"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SevenNetEngine(), SevenNetEngine(dispersion="d3bj")),
        (SevenNetEngine(dispersion="d3bj"), SevenNetEngine(dispersion="d4")),
        (SevenNetEngine(), SevenNetEngine(checkpoint="7net-l3i5")),
        (MF[0], MF[1]),
        (ChgnetEngine(), ChgnetEngine(checkpoint="0.2.0")),
        (VaspEngine(), VaspEngine(dispersion="d3bj")),
    ],
)
def test_levels_never_meet_on_a_hull(one: EngineSettings, other: EngineSettings) -> None:
    levels = [one.level_of_theory(), other.level_of_theory()]
    formulas = [Composition(f) for f in ("Bi", "Se", "BiSe")]
    Hull(formulas, [-4.0, -3.5, -4.0], [levels[0]] * 3, ["Bi", "Se"])
    with pytest.raises(UserError, match="one level of theory only") as caught:
        Hull(formulas, [-4.0, -3.5, -4.0], [levels[0]] * 2 + [levels[1]], ["Bi", "Se"])
    assert str(levels[0]) in str(caught.value) and str(levels[1]) in str(caught.value)
    with pytest.raises(UserError, match="one level of theory only"):
        same_level(levels)


# Settings


def test_defaults() -> None:
    default = RelaxationSettings()
    assert default.engine == L3I5 and default.optimizer == "BFGS"
    named = RelaxationSettings.model_validate({"engine": {"name": "sevennet"}})
    assert named.engine == SevenNetEngine() == SevenNetEngine(checkpoint="SevenNet-0")
    assert named.engine.model_dump(mode="json") == {"name": "sevennet"}
    again = RelaxationSettings.model_validate(default.model_dump(mode="json"))
    assert again == default and type(again.engine) is SevenNetEngine


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [
        ("{name: sevennet}", "FIRE"),
        ("{name: sevennet, checkpoint: 7net-0}", "FIRE"),
        ("{name: sevennet, dispersion: d3bj}", "BFGS"),
        ("{name: sevennet, checkpoint: 7net-l3i5}", "BFGS"),
        ("{name: chgnet}", "FIRE"),
        ("{name: vasp}", "FIRE"),
        ("{name: espresso}", "FIRE"),
        ("{name: gpaw}", "FIRE"),
    ],
)
def test_optimizers(engine: str, optimizer: str) -> None:
    chosen = engine_of(engine)
    assert RelaxationSettings(engine=chosen).optimizer == optimizer
    for other in ("FIRE", "BFGS", "LBFGS"):
        settings = RelaxationSettings.model_validate({"engine": chosen, "optimizer": other})
        assert settings.optimizer == other


def test_second_opinions_are_on_the_same_scale() -> None:
    engines: list[CalculatorEngine] = [SevenNetEngine(), L3I5, *MF, ChgnetEngine()]
    engines.append(ChgnetEngine(checkpoint="r2scan"))
    names = []
    for engine in engines:
        other = engine.second_opinion()
        names.append(other and other.level_of_theory().name)
        if other is not None:
            assert other.level_of_theory().scale == engine.level_of_theory().scale
            assert other.level_of_theory().dispersion == engine.level_of_theory().dispersion
    assert names == [
        "SevenNet-MF-0 + PBE",
        "SevenNet-MF-0 + PBE + D3(BJ) of PBE",
        "SevenNet-0 + D3(BJ) of PBE",
        None,
        "CHGNet 0.2.0",
        None,
    ]


def test_7net_0_is_that_of_its_package() -> None:
    from sevenn.calculator import SevenNetCalculator

    plain = atoms_of(BISE, SevenNetCalculator(model="7net-0", device="cpu"))
    ours = atoms_of(BISE, SevenNetEngine().calculator())
    assert ours.get_potential_energy() == pytest.approx(plain.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(ours.get_stress(), plain.get_stress(), atol=1e-6)


def test_elements_that_were_learnt() -> None:
    assert {Element.from_Z(z).symbol for z in (1, 3, 83, 89, 94)} == {"H", "Li", "Bi", "Ac", "Pu"}
    assert {1, 3, 83, 89, 94} <= MPTRJ_ELEMENTS
    for element in ("Po", "At", "Rn", "Fr", "Ra", "Am"):
        with pytest.raises(UserError, match=f"has not learnt {element}"):
            SevenNetEngine().check(["Bi", element])
    SevenNetEngine(dispersion="d3bj").check(["Pu", "H"])
    with pytest.raises(UserError, match="dispersion d4 has no parameters of Th and U"):
        SevenNetEngine(dispersion="d4").check(["Bi", "Th", "U"])


# Campaigns begun before

SEVENNET = {"engine": {"name": "sevennet"}}
#: Digest and content keys of each as they were before engines had checkpoints and dispersion.
FROZEN: list[tuple[dict[str, Any], str, dict[str, str]]] = [
    (
        {"relaxation": SEVENNET},
        "1cdb242eda11bced",
        {"relaxation": "b03da243bd11b96d1f162955a6903b8c"},
    ),
    (
        {
            "system": "Ga-N",
            "seed": 7,
            "relaxation": {**SEVENNET, "optimizer": "BFGS", "fmax": 0.01, "max_steps": 300},
        },
        "b82a0de342878e09",
        {"relaxation": "48cc8f12590764f3c3a30e14c9477993"},
    ),
    (
        {"relaxation": {"engine": {"name": "chgnet"}, "fmax": 0.1}},
        "e44eabf1b7e8e30b",
        {"relaxation": "7ec31e0b2056782cb0291db7a0e6f1cc"},
    ),
    (
        {
            "relaxation": {
                "engine": {
                    "name": "vasp",
                    "pre_relax": {"name": "chgnet"},
                    "incar": {"METAGGA": "R2SCAN", "ALGO": "All"},
                    "stages": ["relax", "static"],
                }
            }
        },
        "402fc67fb40074c2",
        {"relaxation": "90a2cffcfb7ec142efc89226680c167f"},
    ),
    (
        {
            "relaxation": SEVENNET,
            "confirm": {
                "relaxation": {
                    "engine": {
                        "name": "vasp",
                        "pre_relax": {"name": "sevennet"},
                        "incar": {"ALGO": "Fast"},
                        "stages": ["relax"],
                    }
                }
            },
            "database": {"without": ["BiSe"]},
            "loop": {"stackings": 3},
        },
        "1cd4bbe6d1b2cdfa",
        {
            "relaxation": "b03da243bd11b96d1f162955a6903b8c",
            "confirmation": "fd238c31d6abf6570e81a7fdefbd068a",
        },
    ),
    (
        {
            "relaxation": {
                "engine": {
                    "name": "espresso",
                    "cutoff": 700,
                    "extra": {"system": {"input_dft": "pbesol"}},
                }
            }
        },
        "82d4d014c8d626d9",
        {},
    ),
    ({"relaxation": {"engine": {"name": "gpaw", "spin": True}}}, "6e77abee84756ed9", {}),
    (
        {
            "relaxation": SEVENNET,
            "database": {
                "sources": [
                    {"source": "files", "path": "/nowhere/crystals"},
                    {"source": "materials_project"},
                ]
            },
            "networks": {
                "loss": "hinge",
                "goals": [{"property": "bulk_modulus", "direction": "maximise"}],
            },
        },
        "cb74ef36bdf8f0e5",
        {"relaxation": "b03da243bd11b96d1f162955a6903b8c"},
    ),
]


@pytest.mark.parametrize(("settings", "digest", "keys"), FROZEN)
def test_campaigns_keep_their_digests_and_keys(
    settings: dict[str, Any], digest: str, keys: dict[str, str]
) -> None:
    """These never change: folders and databases out there are named by them."""
    campaign = parse_campaign(settings, "x")
    assert campaign.digest() == digest
    structure = Structure(Lattice.cubic(5.8), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for name, key in keys.items():
        relaxation = campaign.relaxations[name]
        assert content_key(structure, relaxation.engine.level_of_theory(), relaxation) == key


# What a user is told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engine: {name: sevenet}", ["no engine 'sevenet'", "did you mean 'sevennet'?"]),
        ("engine: {name: my-engine}", ["no engine 'my-engine'", "ccdcgan.engines"]),
        ("engine: {name: sevennet, checkpoint: 7net-9}", ["no checkpoint '7net-9'", "7net-l3i5"]),
        ("engine: {name: sevennet, checkpoint: ./my.pth}", ["no checkpoint", "my.pth"]),
        ("engine: {name: sevennet, checkpoint: ./bad.pth}", ["cannot use the checkpoint"]),
        ("engine: {name: sevennet, checkpoint: 7net-mf-0}", ["needs a modal: PBE or R2SCAN"]),
        ("engine: {name: sevennet, modal: PBE}", ["7net-0 has one head: leave modal out"]),
        ("engine: {name: sevennet, dispersion: d5}", ["dispersion", "'d3bj' or 'd4'"]),
        ("engine: {name: chgnet, checkpoint: '0.4.0'}", ["checkpoint", "'0.3.0'"]),
        ("engine: {name: sevennet, dispersion: d4}", ["dispersion d4 has no parameters of Th"]),
        ("engine: {dispersion: d4}", ["an engine needs a name"]),
        ("engine: sevennet", ["an engine is written as {name: sevennet}"]),
        ("{}, system: Po-Se", ["sevennet has not learnt Po"]),
        ("engine: {name: chgnet}, system: Fr-Se", ["chgnet has not learnt Fr"]),
        (
            "engine: {name: vasp, dispersion: d3bj, incar: {IVDW: 11}}",
            ["engine.dispersion sets IVDW"],
        ),
    ],
)
@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    text: str,
    words: list[str],
) -> None:
    relaxation, _, system = text.partition(", system: ")
    relaxation = relaxation if relaxation == "{}" else f"{{{relaxation}}}"
    path = tmp_path / "campaign.yaml"
    path.write_text(f"system: {system or 'Th-Se'}\nrelaxation: {relaxation}\n")
    (tmp_path / "bad.pth").write_text("no weights\n")
    folder = tmp_path / "run"
    more = ("--workdir", str(folder)) if verb == "run" else ()
    code, message = command(monkeypatch, capsys, verb, str(path), *more)
    lines = [line for line in message.splitlines() if line.strip()]
    # A run says first what it is of.
    if verb == "run" and len(lines) == 2:
        assert ", seed 0, in " in lines.pop(0)
    # A check looks at all else, too.
    if any(line.startswith("missing") for line in lines):
        lines = [line for line in lines if line.startswith("missing")]
    assert code == 2 and len(lines) == 1, message
    assert all(word in lines[0] for word in words), message
    assert "Traceback" not in message and not folder.exists()


# Engines of other packages


def installed(folder: Path, name: str, target: str, module: str, text: str) -> None:
    """What pip leaves of a package of one module."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ccdcgan.engines]\n{name} = {target}\n")


@pytest.mark.parametrize(
    ("target", "text", "words"),
    [
        ("{}:Engine", "import no_such_package", "cannot be imported: No module named 'no_such_pac"),
        ("{}:Engine", "def broken(:", "cannot be imported: invalid syntax"),
        ("{}:Engine", "raise SystemExit(3)", "cannot be imported: 3"),
        ("{}:Engine", "", "cannot be imported: module '{}' has no attribute 'Engine'"),
        ("{}:Engine", "class Engine: pass", "is no subclass of CalculatorEngine"),
        ("{}:Engine", "Engine = 3", "is no subclass of CalculatorEngine"),
        (
            "{}:Engine",
            "from ccdcgan.dft.engines.base import CalculatorEngine as Engine",
            "cannot be used: ",
        ),
    ],
)
def test_a_broken_package_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    target: str,
    text: str,
    words: str,
) -> None:
    module = f"broken_{abs(hash(request.node.name))}"
    installed(tmp_path, "broken", target.format(module), module, text)
    monkeypatch.syspath_prepend(tmp_path)
    engine_class.cache_clear()
    campaign = tmp_path / "campaign.yaml"
    campaign.write_text("relaxation: {engine: {name: broken}}\n")
    for arguments in (["check"], ["run", "--workdir", str(tmp_path / "run")]):
        code, message = command(monkeypatch, capsys, *arguments[:1], str(campaign), *arguments[1:])
        assert code == 2 and len(message.strip().splitlines()) == 1, message
        assert "engine 'broken' " + words.format(module) in message, message
    engine_class.cache_clear()
    assert not (tmp_path / "run").exists()
    assert main(["{name: broken}"]) == 2
    assert words.format(module) in capsys.readouterr().err
    engine_class.cache_clear()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where pip has installed the package of ``engine_package``."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(Path(__file__).with_name("engine_package"), folder / "source")
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "--target", str(target), str(folder / "source")]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def python(packages: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Python with that package, or without: exit status and what it prints."""

    def run(*arguments: object, package: bool = True) -> tuple[int, str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        if package:
            environment["PYTHONPATH"] = str(packages)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_package_of_its_own_keeps_the_contract(python: Callable[..., tuple[int, str]]) -> None:
    contract = ("-m", "ccdcgan.dft.engines.contract", "{name: toy-emt, stiffness: 1.5}")
    assert python(*contract, "--elements", "Cu,Au") == (0, "toy-emt keeps the contract\n")
    code, message = python(*contract)
    assert code == 2 and message == "toy-emt has not learnt Bi and Se: choose another engine\n"


RELAX = """
import sys
from pathlib import Path
from pymatgen.core import Structure
from ccdcgan.dft.relaxation.processes import relax_many
from ccdcgan.workflows.campaign import load_campaign
settings = load_campaign(Path(sys.argv[1])).relaxation
structures = [Structure.from_file(name) for name in sys.argv[2:]]
for _, result in sorted(relax_many(structures, settings, workers=2)):
    print(result.model_dump_json())
"""


def test_a_package_of_its_own_relaxes_a_campaign(
    python: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    campaign = tmp_path / "campaign.yaml"
    engine = "{name: toy-emt, stiffness: 1.5}"
    campaign.write_text(f"system: Cu-Au\nrelaxation: {{engine: {engine}, fmax: 0.005}}\n")
    code, message = python("-m", "ccdcgan.launchers.cli", "check", campaign)
    assert code == 0 and message.startswith("ok  relaxation by toy-emt of Cu, Au"), message
    starts = [AseAtomsAdaptor.get_structure(distorted(s)) for s in (CUAU, CUAU * (1, 1, 2))]
    files = [tmp_path / f"{i}.json" for i in range(2)]
    for start, file in zip(starts, files, strict=True):
        start.to_file(str(file))
    code, message = python("-c", RELAX, campaign, *files)
    assert code == 0, message
    results = [json.loads(line) for line in message.splitlines()]
    for start, result in zip(starts, results, strict=True):
        assert result["converged"] and result["level_of_theory"]["engine"] == "EMT"
        atoms = atoms_of(start, EMT())
        assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.003, steps=300)
        assert result["energy_per_atom"] == pytest.approx(
            1.5 * atoms.get_potential_energy() / len(atoms), abs=1e-3
        )
        there = atoms_of(Structure.from_dict(result["structure"]), EMT())
        energy = 1.5 * there.get_potential_energy() / len(there)
        assert result["energy_per_atom"] == pytest.approx(energy, abs=1e-6)

    # Where the package is not installed, or a setting is not one of its own.
    code, message = python("-m", "ccdcgan.launchers.cli", "check", campaign, package=False)
    assert code == 2 and len(message.splitlines()) == 1
    assert "there is no engine 'toy-emt' here" in message
    campaign.write_text(f"relaxation: {{engine: {engine.replace('stiff', 'soft')}}}\n")
    code, message = python("-m", "ccdcgan.launchers.cli", "check", campaign)
    assert code == 2 and len(message.splitlines()) == 1 and "softness" in message


def test_settings_of_an_engine_that_another_would_take() -> None:
    with pytest.raises(ValidationError, match="cutoff"):
        RelaxationSettings.model_validate({"engine": {"name": "sevennet", "cutoff": 500}})
    assert isinstance(engine_of("{name: gpaw, dispersion: d4}"), GpawEngine)
