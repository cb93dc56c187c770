"""What a potential learns from runs of VASP: the same whichever version has written them."""

from pathlib import Path

import numpy as np
import pytest
import vasp_stand_in
from potcars import write_potcars
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.frames import Frame, vasp_frames
from ccdcgan.dft.engines.vasp.inputs import write_inputs
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.models.energy.potential import Labelled, fit_potential

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.outputs.UnconvergedVASPWarning"),
]

#: So many relaxations.
RUNS = 16


def crystal(seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    cell = Lattice(np.diag(rng.uniform(3.6, 4.4, 3)) + rng.normal(0.0, 0.1, (3, 3)))
    species = [["Bi", "Se"], ["Bi", "Bi", "Se"], ["Bi", "Se", "Se"]][seed % 3]
    corners = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]][: len(species)]
    return Structure(cell, species, np.array(corners) + rng.normal(0.0, 0.03, (len(species), 3)))


def labelled(frame: Frame, structure: Structure, run: int) -> Labelled:
    species_index = np.array([["Bi", "Se"].index(s.specie.symbol) for s in structure])
    cell, positions, forces = (np.array(x) for x in (frame.cell, frame.positions, frame.forces))
    return Labelled(
        cell, species_index, positions, frame.energy, forces, np.array(frame.stress), run
    )


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Frames of relaxations as a version of VASP writes them."""
    import pymatgen.core

    folder = write_potcars(tmp_path / "psp", ["Bi", "Se"])
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", str(folder))
    structures = [crystal(seed).get_sorted_structure() for seed in range(RUNS)]
    folders = [tmp_path / str(run) for run in range(RUNS)]
    tags = {"ISIF": 3, "EDIFFG": -0.03, "NSW": 13}
    for structure, path in zip(structures, folders, strict=True):
        write_inputs(VaspEngine(kpoints_length=5.0), structure, 0, tags, path)

    def run(version: str) -> list[Labelled]:
        monkeypatch.setattr(vasp_stand_in, "VERSION", version)
        found = []
        for number, (structure, path) in enumerate(zip(structures, folders, strict=True)):
            monkeypatch.chdir(path)
            vasp_stand_in.run(vasp_stand_in.read_job(path), None, vasp_stand_in.Record())
            found += [labelled(f, structure, number) for f in vasp_frames(path)]
        return found

    return run


def test_versions_of_vasp_teach_the_same(written, capsys):
    old, new = written("5.4.4"), written("6.4.2")
    assert [f.energy for f in old] == [f.energy for f in new]
    errors, others = (fit_potential(frames, 2, 0)[1] for frames in (old, new))
    assert errors == others
    assert errors.used and errors.spearman is not None and errors.spearman > 0.8
