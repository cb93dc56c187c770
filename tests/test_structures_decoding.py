"""The decoder of stored structures: round trips, and nothing else is believed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from crystals import NIAS, ROCKSALT
from pymatgen.core import Lattice, Species, Structure
from pymatgen.electronic_structure.core import Magmom

import ccdcgan.dft
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.decoding import StructureError, decode_structure
from ccdcgan.workflows.documents import Candidate

ROOMS = Path(ccdcgan.dft.__path__[0]).resolve().parent


def stored(structure: Structure) -> dict:
    """A structure as it comes out of a file or a database."""
    return json.loads(json.dumps(structure.as_dict(), default=lambda x: x.as_dict()))


DISORDERED = Structure(
    Lattice.from_parameters(4.1, 5.2, 6.3, 77, 88, 99),
    [{"Bi": 0.25, "Sb": 0.75}, {"Se": 0.5}],
    [[0.1, 0.2, 0.3], [1.4, -0.5, 0.6]],
)
CHARGED = Structure(
    Lattice.cubic(3.6), [Species("Bi", 3), Species("Se", -2.5)], [[0, 0, 0], [0.5] * 3], charge=1
)
SPINS = Structure(
    Lattice.cubic(3), ["Fe", "Fe"], [[0, 0, 0], [0.5] * 3], site_properties={"magmom": [2.5, -2.5]}
)
NONCOLLINEAR = SPINS.copy(site_properties={"magmom": [[0.0, 1.0, 2.0], [0.5, 0.0, -2.0]]})
DUMMY = Structure(Lattice.cubic(3), ["X", "Fe"], [[0, 0, 0], [0.5] * 3])


@pytest.mark.parametrize(
    "structure", [ROCKSALT, NIAS, DISORDERED, CHARGED, SPINS, NONCOLLINEAR, DUMMY]
)
def test_round_trips_are_exact(structure: Structure) -> None:
    read = decode_structure(stored(structure))
    assert read == Structure.from_dict(stored(structure)) == structure
    assert (read.lattice.matrix == structure.lattice.matrix).all()
    assert (read.frac_coords == structure.frac_coords).all()
    assert stored(read) == stored(structure)


def test_random_cells_round_trip() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        n = int(rng.integers(1, 9))
        lattice = Lattice(rng.normal(size=(3, 3)) * 4)
        species = rng.choice(["Bi", "Se", "O", "Cs"], n).tolist()
        structure = Structure(lattice, species, rng.uniform(-1, 2, (n, 3)))
        assert stored(decode_structure(stored(structure))) == stored(structure)


def test_cartesian_coordinates_and_lattice_parameters_will_do() -> None:
    data = stored(NIAS)
    for site in data["sites"]:
        del site["abc"]
    del data["lattice"]["matrix"]
    read = decode_structure({k: data[k] for k in ("lattice", "sites")})
    np.testing.assert_allclose(read.distance_matrix, NIAS.distance_matrix, atol=1e-8)


def test_a_stored_magmom_object_is_its_number() -> None:
    data = stored(SPINS)
    moment = json.loads(json.dumps(Magmom([1.0, 0.0, 2.0]).as_dict(), default=lambda x: x.tolist()))
    data["sites"][0]["properties"] = {"magmom": moment}
    data["sites"][1]["properties"] = {"magmom": [1, 2, 3]}
    assert decode_structure(data).site_properties["magmom"] == [[1.0, 0.0, 2.0], [1, 2, 3]]


def hostile(marker: Path) -> dict:
    """What monty would turn into a call of a function of the standard library."""
    return {
        "@module": "subprocess",
        "@class": "Popen",
        "@version": None,
        "args": f"touch {marker}",
        "shell": True,
    }


PLACES = {
    "magmom": lambda d, bad: d["sites"][0].update(properties={"magmom": bad}),
    "moments": lambda d, bad: d["sites"][0].update(properties={"magmom": [bad, bad, bad]}),
    "within a moment": lambda d, bad: d["sites"][0].update(properties={"magmom": {"moment": bad}}),
    "lattice": lambda d, bad: d.update(lattice=bad),
    "matrix": lambda d, bad: d["lattice"].update(matrix=bad),
    "row": lambda d, bad: d["lattice"]["matrix"].__setitem__(0, bad),
    "sites": lambda d, bad: d.update(sites=bad),
    "site": lambda d, bad: d["sites"].__setitem__(1, bad),
    "species": lambda d, bad: d["sites"][0].update(species=bad),
    "specie": lambda d, bad: d["sites"][0].update(species=[bad]),
    "element": lambda d, bad: d["sites"][0]["species"][0].update(element=bad),
    "state": lambda d, bad: d["sites"][0]["species"][0].update(oxidation_state=bad),
    "spin": lambda d, bad: d["sites"][0]["species"][0].update(oxidation_state=1, spin=bad),
    "occupancy": lambda d, bad: d["sites"][0]["species"][0].update(occu=bad),
    "coordinates": lambda d, bad: d["sites"][0].update(abc=bad),
    "charge": lambda d, bad: d.update(charge=bad),
}
IGNORED = {
    "other property": lambda d, bad: d["sites"][0].update(properties={"selective": bad}),
    "properties": lambda d, bad: d["sites"][0].update(properties=bad),
    "label": lambda d, bad: d["sites"][0].update(label=bad),
    "of the structure": lambda d, bad: d.update(properties={"x": bad}),
    "class": lambda d, bad: d.update({"@module": "os", "@class": "system", "@version": bad}),
    "periodicity": lambda d, bad: d["lattice"].update(pbc=bad),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_number_is_refused_in_each_place(place: str, tmp_path: Path) -> None:
    for bad in (hostile(tmp_path / "marker"), "x", [], float("nan"), 10**400, True, {}, 1e999):
        data = stored(ROCKSALT)
        PLACES[place](data, bad)
        with pytest.raises(StructureError) as refusal:
            decode_structure(data)
        assert isinstance(refusal.value, UserError) and isinstance(refusal.value, ValueError)
        assert len(str(refusal.value).splitlines()) == 1 and len(str(refusal.value)) < 200
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("place", IGNORED)
def test_what_is_not_asked_for_is_ignored(place: str, tmp_path: Path) -> None:
    data = stored(ROCKSALT)
    IGNORED[place](data, hostile(tmp_path / "marker"))
    assert stored(decode_structure(data)) == stored(ROCKSALT)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lattice": {"matrix": [[1, 0], [0, 1]]}}, "the lattice is not of 3 × 3 numbers"),
        ({"sites": []}, "without sites"),
        ({"sites": [{}] * 5001}, "5001 atoms are more than 5000"),
        ({"sites": [{"species": [{"element": "Qq", "occu": 1}], "abc": [0] * 3}]}, "element 'Qq'"),
        ({"sites": [{"species": [{"element": "Bi", "occu": 2}], "abc": [0] * 3}]}, "occupancy 2"),
        ({"sites": [{"species": [{"element": "Bi", "occu": 1}]}]}, "no coordinates"),
    ],
)
def test_reasons(change: dict, words: str) -> None:
    with pytest.raises(StructureError, match=re.escape(words)):
        decode_structure({**stored(ROCKSALT), **change})
    for other in (None, 3, "text", [], [stored(ROCKSALT)]):
        with pytest.raises(StructureError):
            decode_structure(other)


@pytest.mark.parametrize(
    "bad",
    [
        {"properties": {"magmom": {"@module": "os", "@class": "system"}}},
        {"properties": {"x": [[{"@callable": "system", "@module": "os"}]]}},
        {"label": {"@module": "pymatgen.io.vasp.inputs", "@class": "Kpoints"}},
    ],
)
def test_documents_that_name_modules_are_refused(bad: dict) -> None:
    """Jobflow decodes what a job hands on: the document must not get so far."""
    data = stored(ROCKSALT)
    origin = {"kind": "prototype", "id": "x"}
    for given in (ROCKSALT, data):
        candidate = Candidate(origin=origin, structure=given)
        assert candidate.structure == ROCKSALT
        plain = candidate.model_dump_json()
        assert "@" not in plain and Candidate.model_validate_json(plain) == candidate
    data["sites"][0].update(bad)
    with pytest.raises(UserError, match="no part of a structure"):
        Candidate(origin=origin, structure=data)


def test_no_room_decodes_in_another_way() -> None:
    forbidden = re.compile(
        r"Structure\.from_dict|Entry\.from_dict|MontyDecoder|process_decoded|"
        r"Molecule\.from_dict|Lattice\.from_dict|MSONAtoms"
    )
    found = []
    for room in ("dft", "models", "workflows", "launchers"):
        for file in (ROOMS / room).rglob("*.py"):
            # What keeps monty's decoder from importing what it is told to.
            if file.name == "trusted.py":
                continue
            lines = file.read_text(encoding="utf-8").splitlines()
            code = [line for line in lines if forbidden.search(line) and "`" not in line]
            found += [f"{file.name}: {line.strip()}" for line in code]
    assert not found
