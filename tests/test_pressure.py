"""Relaxation under pressure: enthalpies on the hull, against equations of state of our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.morse import MorsePotential
from ase.units import GPa
from crystals import fcc
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.io.vasp import Incar
from vasp_stand_in import atomic_numbers, pair_potential

from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory
from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.properties import bulk_modulus
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.hull import Hull
from ccdcgan.launchers.results.adopt import engine_of
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.energy.power_spectrum import PAIR
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.prerelaxation import LearntCalculator
from ccdcgan.workflows.trust import untrusted

LEVEL = LevelOfTheory(engine="Morse", package="ase", checkpoint="1" * 16, scale="own")


class Morse(MorsePotential):  # type: ignore[misc]
    """Of aluminium: L. A. Girifalco and V. G. Weizer, Phys. Rev. 114, 687 (1959)."""

    def __init__(self, higher: float = 0.0) -> None:
        super().__init__(epsilon=0.2703, r0=3.253, rho0=1.1646 * 3.253)
        self.higher = higher

    def calculate(self, *arguments: Any, **named: Any) -> None:
        super().calculate(*arguments, **named)
        self.results["energy"] += self.higher


class MorseEngine(CalculatorEngine):
    """One whose second opinion is itself, 0.1 eV higher a cell."""

    name: Literal["morse"] = "morse"
    higher: bool = False

    def calculator(self, structure: Structure) -> Calculator:
        return Morse(0.1 if self.higher else 0.0)

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        return LEVEL

    def second_opinion(self) -> CalculatorEngine | None:
        return MorseEngine(higher=True)


class Rigid(Calculator):  # type: ignore[misc]
    implemented_properties = ("energy", "forces")


class RigidEngine(MorseEngine):
    def calculator(self, structure: Structure) -> Calculator:
        return Rigid()


def under(pressure: float, engine: CalculatorEngine | None = None) -> RelaxationSettings:
    return RelaxationSettings(engine=engine or MorseEngine(), pressure=pressure, fmax=1e-3)


def aluminium(edge: float) -> Structure:
    return fcc(["Al"], [0], edge)


def energies(edges: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Volumes and energies of fcc aluminium by ASE alone."""
    cells = [aluminium(edge).lattice.matrix for edge in edges]
    found = [Atoms("Al", cell=cell, pbc=True, calculator=Morse()) for cell in cells]
    return (
        np.array([a.get_volume() for a in found]),
        np.array([a.get_potential_energy() for a in found]),
    )


@pytest.mark.parametrize("pressure", [0.0, 20.0, 60.0])
def test_an_enthalpy_is_the_lowest_of_an_equation_of_state(pressure: float) -> None:
    volumes, curve = energies(np.linspace(3.4, 4.3, 61))
    fit = np.polynomial.Polynomial.fit(volumes, curve + pressure * GPa * volumes, 12)
    volume = min(
        (x.real for x in fit.deriv().roots() if abs(x.imag) < 1e-9 and 10 < x.real < 19),
        key=lambda x: fit(x),
    )
    result = Relaxer(under(pressure))(aluminium(4.0))
    assert result.converged
    assert result.structure.volume == pytest.approx(volume, rel=2e-3)
    assert result.energy_per_atom == pytest.approx(fit(volume), abs=1e-4)
    work = pressure * GPa * result.structure.volume
    assert result.internal_energy_per_atom == pytest.approx(result.energy_per_atom - work)
    assert result.second_opinion is not None
    assert result.second_opinion.energy_per_atom == pytest.approx(result.energy_per_atom + 0.1)
    frame = result.frames[-1]
    assert np.allclose(frame.stress[:3], -pressure * GPa, atol=1e-4)
    beyond = np.abs(np.array(frame.stress[:3]) + pressure * GPa).max()
    assert result.max_stress == pytest.approx(beyond, abs=2e-6)
    # Frames are what a potential learns from: energies without pV.
    assert frame.energy == pytest.approx(result.internal_energy_per_atom, abs=1e-4)
    origin = Origin(kind="element", id="Al")
    candidate = Candidate(origin=origin, structure=aluminium(4.0))
    assert RelaxationDocument.of(result, candidate, "x").has_own_frames
    expected = volume * fit.deriv(2)(volume) / GPa
    assert bulk_modulus(Relaxer(under(pressure)), result.structure) == pytest.approx(
        expected, rel=0.02
    )


def test_what_was_without_pressure_keeps_its_key_and_name() -> None:
    crystal, plain, pressed = aluminium(4.0), under(0.0), under(20.0)
    assert content_key(crystal, LEVEL, plain) == content_key(
        crystal, plain.level_of_theory(), plain
    )
    assert content_key(crystal, pressed.level_of_theory(), pressed) != content_key(
        crystal, LEVEL, plain
    )
    campaign = parse_campaign({"relaxation": {"pressure": 0}}, "x")
    assert campaign.digest() == Campaign().digest()
    other = parse_campaign({"relaxation": {"pressure": 5.0}}, "x")
    assert other.digest() != campaign.digest()
    assert list(campaign.differences(other)) == ["relaxation.pressure"]
    level = pressed.level_of_theory()
    assert "enthalpy at 20 GPa" in str(level) and level.name == "Morse, enthalpy at 20 GPa"
    assert "enthalpy" not in str(LEVEL) + LEVEL.name


def test_a_hull_never_mixes_pressures() -> None:
    levels = [under(p).level_of_theory() for p in (0.0, 20.0)]
    with pytest.raises(UserError, match="one level of theory only.*enthalpy at 20 GPa"):
        Hull([Composition("Al"), Composition("Cu")], [0.0, 0.0], levels, ["Al", "Cu"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"relaxation": {"pressure": -1}}, "relaxation.pressure: .*greater than or equal to 0"),
        ({"relaxation": {"pressure": 1e4}}, "relaxation.pressure: .*less than or equal to 500"),
        ({"relaxation": {"pressure": "5 GPa"}}, "relaxation.pressure: .*Hydrostatic pressure, GPa"),
        (
            {"relaxation": {"pressure": 5}, "confirm": {"relaxation": {}}},
            "confirm.relaxation.pressure is 0 GPa and relaxation.pressure 5 GPa.*set both alike",
        ),
    ],
)
def test_slips(text: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_campaign(text, "x")
    assert "\n" not in str(caught.value)


def test_runs_without_pressure_are_not_adopted() -> None:
    campaign = parse_campaign({"relaxation": {"engine": {"name": "vasp"}, "pressure": 5}}, "x")
    with pytest.raises(UserError, match="the campaign is at 5 GPa: only .* without pressure"):
        engine_of(campaign)


def test_an_engine_without_stress_is_refused() -> None:
    under(0.0, RigidEngine()).check(["Al"])
    under(5.0).check(["Al"])
    with pytest.raises(UserError, match="engine morse computes no stress"):
        under(5.0, RigidEngine()).check(["Al"])


def test_a_potential_adds_what_its_energies_lack() -> None:
    crystal = fcc(["Bi", "Se"], [0, 0.5])
    potential = Potential(np.array([-4.0, -3.0]), np.zeros((2, 2 * PAIR)), np.zeros((2, 420, 420)))
    calculator = LearntCalculator(potential, ["Bi", "Se"], 10.0)
    expected = -3.5 + 10.0 * GPa * crystal.volume / 2
    assert calculator.energy_per_atom(crystal) == pytest.approx(expected)


def test_what_is_deep_is_judged_without_pv() -> None:
    """At 100 GPa a reaction that saves 8 Å³ an atom gains 5 eV/atom by its volume alone."""

    def document(key: str, structure: Structure, energy: float) -> RelaxationDocument:
        level = LEVEL.model_copy(update={"pressure": 100.0})
        return RelaxationDocument(
            key=key,
            level_of_theory=level,
            structure=structure,
            energy_per_atom=energy + level.pv(structure),
            converged=True,
            campaign="x",
            origin=Origin(kind="prototype", id=key),
            initial_structure=structure,
        )

    ends = [document(e, fcc([e], [0], 4.3), 0.0) for e in ("Bi", "Se")]
    dense = fcc(["Bi", "Se"], [0, 0.5], 4.3)
    assert untrusted([*ends, document("good", dense, -1.0)]) == {}
    assert list(untrusted([*ends, document("bad", dense, -4.0)])) == ["bad"]


@pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning")
@pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning")
@pytest.mark.parametrize("version", ["5.4.4", "6.3.2"])
def test_vasp_under_pressure(
    vasp_machine: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Whether or not vasprun.xml has its stresses beyond PSTRESS."""
    monkeypatch.setenv("VASP_STAND_IN_VERSION", version)
    engine = VaspEngine(polling=0.1, buffer=0.0, stages=("relax", "static"), kpoints_length=10.0)
    settings = RelaxationSettings(engine=engine, pressure=3.0, fmax=0.005)
    crystal = Structure(
        Lattice.orthorhombic(3.9, 3.8, 4.1), ["Bi", "Se"], [[0, 0, 0], [0.53, 0.49, 0.5]]
    )
    result, folder = relax_by_vasp(crystal, settings)
    assert result.converged and folder is not None, result.reason
    tags = [Incar.from_file(folder.parent / name / "INCAR") for name in ("01-relax", "02-static")]
    assert tags[0]["PSTRESS"] == 30 and "PSTRESS" not in tags[1]
    relaxed = result.structure
    numbers = np.array([atomic_numbers[site.specie.symbol] for site in relaxed])
    energy, _, stress = pair_potential(numbers, relaxed.lattice.matrix, relaxed.cart_coords)
    assert np.allclose(np.diag(stress), -3.0 * GPa, atol=1e-3)
    volume = relaxed.volume
    assert result.energy_per_atom == pytest.approx((energy + 3.0 * GPa * volume) / 2, abs=1e-3)
    assert result.max_stress == pytest.approx(
        np.abs(stress + 3.0 * GPa * np.eye(3)).max(), abs=1e-4
    )
    assert result.level_of_theory.pressure == 3.0
    for frame in result.frames:
        here = pair_potential(numbers, np.array(frame.cell), np.array(frame.positions))
        assert frame.energy == pytest.approx(here[0], abs=1e-3)
        assert np.allclose(frame.stress[:3], np.diag(here[2]), atol=1e-4)
