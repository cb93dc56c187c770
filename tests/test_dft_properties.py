"""Properties of relaxed crystals beside their energy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.units import GPa
from jobflow import Flow, run_locally
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.relaxation.properties import PropertyError, bulk_modulus, compute
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.documents import Candidate, Origin
from ccdcgan.workflows.relax import RelaxMaker


@pytest.fixture(scope="module")
def relaxer() -> Relaxer:
    return Relaxer(RelaxationSettings(engine=SevenNetEngine(), fmax=0.005))


def rocksalt(relaxer: Relaxer) -> Structure:
    start = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.9), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()
    return relaxer(start).structure


def test_bulk_modulus_is_the_slope_of_the_pressure(relaxer: Relaxer) -> None:
    """B = -V dp/dV of a cubic crystal, by the stress at two volumes: no energies, no fit."""
    structure = rocksalt(relaxer)
    pressures = []
    for strain in (0.99, 1.01):
        atoms = relaxer.atoms(structure)
        atoms.set_cell(atoms.cell * strain ** (1 / 3), scale_atoms=True)
        pressures.append(-np.trace(atoms.get_stress(voigt=False)) / 3)
    expected = (pressures[0] - pressures[1]) / 0.02 / GPa
    assert 20 < expected < 120
    assert bulk_modulus(relaxer, structure) == pytest.approx(expected, rel=0.05)


def test_a_crystal_under_pressure_has_no_bulk_modulus(relaxer: Relaxer) -> None:
    squeezed = rocksalt(relaxer)
    squeezed.scale_lattice(0.7 * squeezed.volume)
    with pytest.raises(PropertyError, match="no minimum"):
        bulk_modulus(relaxer, squeezed)
    found = compute(relaxer, squeezed, ["bulk_modulus"])
    assert isinstance(found["bulk_modulus"], str)


def test_a_goal_has_its_property_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goals = [{"property": "bulk_modulus", "direction": "maximise"}]
    relaxation = {"engine": {"name": "sevennet"}, "fmax": 0.2}
    campaign = parse_campaign(
        {"networks": {"goals": goals}, "relaxation": relaxation, "workers": 1}, "x"
    )
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.9), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()
    bismuth = Structure(Lattice.cubic(3.3), ["Bi"], [[0, 0, 0]])
    candidates = [
        Candidate(
            origin=Origin.model_validate({"kind": kind, "id": kind}), structure=s.as_dict()
        ).model_dump(mode="json")
        for kind, s in (("prototype", salt), ("element", bismuth))
    ]
    store = embedded_store(tmp_path)
    reports: list[str] = []
    monkeypatch.setattr(progress, "_listener", lambda *report: reports.append(report[0]))
    for _ in range(2):
        flow = Flow([RelaxMaker().make(candidates, campaign.model_dump(mode="json"))])
        run_locally(flow, store=store, log=False, root_dir=tmp_path, raise_immediately=True)
        found = {d["origin"]["id"]: d for d in store.additional_stores["results"].query()}
        assert 20 < found["prototype"]["properties"]["bulk_modulus"] < 120
        assert not found["element"]["properties"] and not found["element"]["lacking"]
    assert reports.count("bulk modulus") == 1
