"""``ccdcgan hull``: the relaxations of many campaigns on one hull, against pymatgen's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from crystals import ANTIFLUORITE, BISMUTH, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE, fcc
from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from test_campaign import command
from test_trust import HOLE, palladium

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.engines.corrections import is_mixed
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.files import locked
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.documents import Origin, RelaxationDocument
from ccdcgan.workflows.storage.stores import PHASES, RESULTS

LEVEL = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE")
PRESSED = LEVEL.model_copy(update={"pressure": 20.0})
OTHER = LEVEL.model_copy(update={"engine": "Other", "checkpoint": "2" * 16})

SELENIUM = Structure(Lattice.hexagonal(4.37, 4.95), ["Se"], [[0, 0, 0]])
SULFUR = Structure(Lattice.cubic(3.1), ["S"], [[0, 0, 0]])


def relaxed(
    key: str,
    structure: Structure,
    energy: float,
    level: LevelOfTheory = LEVEL,
    converged: bool = True,
    campaign: str = "c" * 16,
) -> RelaxationDocument:
    return RelaxationDocument(
        key=key,
        level_of_theory=level,
        structure=structure,
        energy_per_atom=energy,
        converged=converged,
        campaign=campaign,
        origin=Origin(kind="prototype", id=f"of {key}"),
        initial_structure=structure,
    )


def folder(path: Path, documents: Sequence[RelaxationDocument], system: str = "Bi-Se") -> Path:
    """The folder of a campaign that has relaxed these, and has no phases as yet."""
    path.mkdir(parents=True)
    (path / "campaign.yaml").write_text(f"system: {system}\n")
    store = embedded_store(path).additional_stores[RESULTS]
    store.connect()
    store._collection.insert_many([d.model_dump(mode="json") for d in documents])
    store.close()
    return path


#: Relaxations of Bi and Se; rocksalt is in both campaigns, in another cell and a little higher.
FIRST = [
    relaxed("bi", BISMUTH, -4.0),
    relaxed("se", SELENIUM, -3.5),
    relaxed("rs", ROCKSALT, -4.05),
    relaxed("fl", FLUORITE, -3.80),
    relaxed("zb", ZINCBLENDE, -3.90),
    relaxed("hot", CSCL, -3.70, converged=False),
]
SECOND = [
    relaxed("se", SELENIUM, -3.5),
    relaxed("rs2", ROCKSALT * (1, 1, 2), -4.049),
    relaxed("af", ANTIFLUORITE, -4.0),
    relaxed("s", SULFUR, -4.1),
    relaxed("bis", fcc(["Bi", "S"], [0, 0.5], 5.7), -4.4),
    relaxed(
        "mix", Structure(CSCL.lattice, ["Bi", "Se", "S"], [[0, 0, 0], [0.5] * 3, [0, 0, 0.5]]), -4.0
    ),
]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [folder(tmp_path / "first", FIRST), folder(tmp_path / "second", SECOND, "Bi-Se-S")]


def asked(monkeypatch, capsys, tmp_path: Path, *arguments: object) -> dict[str, Any]:
    out = tmp_path / "hull.json"
    code, message = command(monkeypatch, capsys, "hull", *map(str, arguments), "--json", str(out))
    assert code == 0, message
    return json.loads(out.read_text())


def refused(monkeypatch, capsys, *arguments: object) -> str:
    code, message = command(monkeypatch, capsys, "hull", *map(str, arguments))
    assert code == 2, message
    assert len(message.strip().splitlines()) == 1 and "Traceback" not in message, message
    return message


def diagram(documents: Sequence[RelaxationDocument]) -> PhaseDiagram:
    return PhaseDiagram([entry(d) for d in documents])


def entry(document: RelaxationDocument) -> PDEntry:
    composition = document.structure.composition
    return PDEntry(composition, (document.energy_per_atom or 0.0) * composition.num_atoms)


def test_hull_is_that_of_pymatgen(monkeypatch, capsys, tmp_path, folders) -> None:
    """Of three elements, with all binaries, each crystal once, nearest to the hull first."""
    found = asked(monkeypatch, capsys, tmp_path, "S-Bi-Se", *folders)
    everything = {d.key: d for d in [*FIRST, *SECOND]}
    converged = [d for d in everything.values() if d.converged]
    pymatgen = diagram(converged)
    expected = {
        d.key: (
            pymatgen.get_form_energy_per_atom(entry(d)),
            pymatgen.get_e_above_hull(entry(d)),
        )
        for d in converged
        if d.key != "rs2"
    }
    got = {p["id"]: (p["formation_energy_per_atom"], p["e_above_hull"]) for p in found["phases"]}
    assert set(got) == set(expected)
    for key, energies in expected.items():
        assert got[key] == pytest.approx(energies, abs=1e-9), key
    distances = [p["e_above_hull"] for p in found["phases"]]
    assert distances == sorted(distances)
    assert (found["relaxations"], found["not_converged"]) == (len(everything), 1)
    by_id = {p["id"]: p for p in found["phases"]}
    assert by_id["rs"]["campaigns"] == ["first", "second"] and by_id["rs"]["relaxations"] == 2
    assert by_id["se"]["campaigns"] == ["first", "second"] and by_id["se"]["relaxations"] == 1
    assert by_id["bis"]["campaigns"] == ["second"]
    assert by_id["rs"]["spacegroup"] == "Fm-3m (225)"
    assert by_id["rs"]["origin"]["id"] == "of rs"
    assert Structure.from_dict(by_id["af"]["structure"]) == ANTIFLUORITE


def test_a_binary_leaves_the_third_element_out(monkeypatch, capsys, tmp_path, folders) -> None:
    found = asked(monkeypatch, capsys, tmp_path, "Bi-Se", *folders)
    assert {p["id"] for p in found["phases"]} == {"bi", "se", "rs", "fl", "zb", "af"}
    two = asked(monkeypatch, capsys, tmp_path, "Bi-Se", *folders, "--limit", "2")
    assert two["phases"] == found["phases"][:2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    code, text = command(monkeypatch, capsys, "hull", "Bi-Se", "first", "second", "first")
    assert code == 0
    rows = [[c.strip() for c in line.strip("│").split("│")] for line in text.splitlines()]
    shown = [row for row in rows if len(row) == 8]
    assert [row[0] for row in shown] == [p["formula"] for p in found["phases"]]
    assert [row[4] for row in shown] == [f"{p['e_above_hull']:.3f}" for p in found["phases"]]
    assert {row[5] for row in shown} == {"first", "second", "first, second"}


def test_levels_never_mix(monkeypatch, capsys, tmp_path) -> None:
    """An enthalpy, and another engine, are other levels; one must be chosen where there are."""
    pressed = [
        relaxed(f"p{d.key}", d.structure, -1.0 - i, PRESSED) for i, d in enumerate(FIRST[:3])
    ]
    others = [relaxed(f"o{d.key}", d.structure, -9.0 - i, OTHER) for i, d in enumerate(FIRST[:2])]
    path = folder(tmp_path / "run", [*FIRST, *pressed, *others])
    message = refused(monkeypatch, capsys, "Bi-Se", path)
    assert f"6 of {LEVEL}; 3 of {PRESSED}; 2 of {OTHER}" in message and "--level" in message
    message = refused(monkeypatch, capsys, "Bi-Se", path, "--level", "own")
    assert "--level 'own' names 2" in message
    assert "names none" in refused(monkeypatch, capsys, "Bi-Se", path, "--level", "VASP")
    for level, keys in (
        ("20 GPa", {"pbi", "pse", "prs"}),
        (str(LEVEL), {"bi", "se", "rs", "fl", "zb"}),
        ("OTHER", {"obi", "ose"}),
    ):
        found = asked(monkeypatch, capsys, tmp_path, "Bi-Se", path, "--level", level)
        assert {p["id"] for p in found["phases"]} == keys
    assert found["level_of_theory"]["engine"] == "Other"


def test_what_cannot_be_believed_is_off_the_hull(monkeypatch, capsys, tmp_path) -> None:
    documents = [*palladium(HOLE).values()]
    path = folder(tmp_path / "run", documents, "Be-Pd")
    found = asked(monkeypatch, capsys, tmp_path, "Be-Pd", path)
    assert list(found["untrusted"]) == ["hole"]
    pymatgen = diagram([d for d in documents if d.key != "hole"])
    got = {p["id"]: p["e_above_hull"] for p in found["phases"]}
    assert set(got) == {"Be", "Pd", "BePd2", "BePd"}
    for document in documents:
        if document.key != "hole":
            above = pymatgen.get_e_above_hull(entry(document))
            assert got[document.key] == pytest.approx(above, abs=1e-9)
    assert (
        "set aside as untrusted: 1" in command(monkeypatch, capsys, "hull", "Be-Pd", str(path))[1]
    )


def test_an_end_member_that_ran_out_of_steps(monkeypatch, capsys, tmp_path) -> None:
    """It is lower than the others, and the hull's end; so it is listed, as what it is."""
    low = relaxed("low", fcc(["Se"], [0], 4.9), -3.6, converged=False)
    found = asked(monkeypatch, capsys, tmp_path, "Bi-Se", folder(tmp_path / "run", [*FIRST, low]))
    by_id = {p["id"]: p for p in found["phases"]}
    assert by_id["low"]["label"] == "not converged" and by_id["low"]["e_above_hull"] == 0
    assert by_id["se"]["e_above_hull"] == pytest.approx(0.1)


def test_mixed_scales_are_corrected(monkeypatch, capsys, tmp_path) -> None:
    """GGA+U of FeO beside GGA of its elements: as MP2020 of pymatgen corrects both."""
    level = SevenNetEngine(checkpoint="7net-0").level_of_theory()
    oxygen = Structure(Lattice.cubic(5.0), ["O", "O"], [[0, 0, 0], [0.12, 0.12, 0.1]])
    documents = [
        relaxed("fe", Structure(Lattice.cubic(2.8), ["Fe"], [[0] * 3]), -8.3, level),
        relaxed("o", oxygen, -4.9, level),
        relaxed("feo", fcc(["Fe", "O"], [0, 0.5], 4.3), -6.6, level),
        relaxed("feo2", fcc(["Fe", "O"], [0, 0.25], 4.6), -6.4, level),
    ]
    path = folder(tmp_path / "run", documents, "Fe-O")
    found = asked(monkeypatch, capsys, tmp_path, "Fe-O", path)
    assert found["level_of_theory"]["corrections"] == "MP2020 corrections"
    corrected = ComputedStructureEntry(
        documents[2].structure,
        2 * -6.6,
        parameters={"run_type": "GGA+U", "hubbards": {"Fe": 5.3, "O": 0}, "software": "vasp"},
        data={"oxide_type": "oxide"},
    )
    MaterialsProject2020Compatibility(check_potcar=False).process_entry(corrected)
    got = {p["id"]: p for p in found["phases"]}
    assert got["feo"]["energy_per_atom"] == pytest.approx(corrected.energy_per_atom, abs=1e-6)
    assert got["feo"]["energy_per_atom"] < -7
    formation = corrected.energy_per_atom - (-8.3 - 4.9) / 2
    assert got["feo"]["formation_energy_per_atom"] == pytest.approx(formation, abs=1e-6)


@pytest.mark.parametrize(
    "engine",
    [
        SevenNetEngine(checkpoint="7net-0"),
        SevenNetEngine(checkpoint="7net-mf-0", modal="PBE", dispersion="d3bj"),
        SevenNetEngine(checkpoint="7net-mf-0", modal="R2SCAN"),
        ChgnetEngine(),
        VaspEngine(),
        VaspEngine(hubbard_u="mp2020"),
    ],
    ids=lambda e: str(e.name),
)
def test_a_level_tells_whether_it_mixes_scales(engine) -> None:
    level = engine.level_of_theory(["Bi"])
    assert is_mixed(level) == engine.mixes_scales


# --- references ---------------------------------------------------------------------------------


def row(structure: Structure, energy: float, level: LevelOfTheory | None) -> dict[str, Any]:
    """A row of a file with an energy in eV/atom."""
    told = {} if level is None else {"level_of_theory": level.model_dump(mode="json")}
    return {"structure": structure.as_dict(), "energy_per_atom": energy, **told}


def test_references_of_the_level_join(monkeypatch, capsys, tmp_path, folders) -> None:
    path = tmp_path / "known.json"
    rows = [
        row(NIAS, -4.2, LEVEL),
        row(ROCKSALT, -4.06, LEVEL),
        row(CSCL, -9.0, OTHER),
        row(FLUORITE, -9.0, PRESSED),
        row(ZINCBLENDE, -9.0, None),
        row(fcc(["Na", "Cl"], [0, 0.5], 5.6), -9.0, LEVEL),
    ]
    path.write_text(json.dumps(rows))
    found = asked(monkeypatch, capsys, tmp_path, "Bi-Se", folders[0], "--references", path)
    assert found["references"]["joined"] == 2
    refused_line = found["references"]["refused"]
    for words in (f"hull of {LEVEL}", f"1 of {OTHER}", f"1 of {PRESSED}", "1 of a level"):
        assert words in refused_line
    known = [relaxed("nias", NIAS, -4.2)]
    pymatgen = diagram([*(d for d in FIRST if d.converged), *known])
    by_id = {p["id"]: p for p in found["phases"]}
    assert by_id["reference:known.json#0"]["e_above_hull"] == 0
    assert by_id["reference:known.json#0"]["campaigns"] == ["known.json"]
    above = pymatgen.get_e_above_hull(entry(FIRST[3]))
    assert by_id["fl"]["e_above_hull"] == pytest.approx(above, abs=1e-9)
    # One crystal with what the campaign has of it.
    assert by_id["reference:known.json#1"]["campaigns"] == ["first", "known.json"]
    assert "rs" not in by_id and found["campaigns"] == ["first"]

    path.write_text(json.dumps(rows[2:3]))
    message = refused(monkeypatch, capsys, "Bi-Se", folders[0], "--references", path)
    assert "nothing of known.json can join" in message and "Other" in message
    path.write_text("[]")
    assert "known.json" in refused(monkeypatch, capsys, "Bi-Se", folders[0], "--references", path)


def mp_entry(structure: Structure, energy: float, run_type: str, **more: Any) -> dict[str, Any]:
    """An entry as the Materials Project gives it, eV/atom before corrections."""
    potcars = {
        "Fe": "Fe_pv 06Sep2000",
        "O": "O 08Apr2002",
        "Bi": "Bi 08Apr2002",
        "Se": "Se 06Sep2000",
    }
    symbols = [e.symbol for e in structure.composition]
    hubbards = {"Fe": 5.3, "O": 0.0} if run_type == "GGA+U" else {}
    parameters = {
        "run_type": run_type,
        "is_hubbard": bool(hubbards),
        "hubbards": hubbards,
        "potcar_spec": [{"titel": f"PAW_PBE {potcars[s]}", "hash": None} for s in symbols],
        **more,
    }
    found = ComputedStructureEntry(structure, energy * len(structure), parameters=parameters)
    return found.as_dict()


@pytest.mark.parametrize("system", ["Fe-O", "Bi-Se"])
def test_entries_of_the_materials_project(monkeypatch, capsys, tmp_path, system) -> None:
    """Beside VASP with its U, POTCARs and cutoff; both sides corrected as pymatgen does."""
    level = VaspEngine(hubbard_u="mp2020").level_of_theory()
    metal, anion = system.split("-")
    run = "GGA+U" if system == "Fe-O" else "GGA"
    ends = [
        relaxed("a", Structure(Lattice.cubic(2.9), [metal], [[0] * 3]), -8.3, level),
        relaxed("b", Structure(Lattice.cubic(3.4), [anion], [[0] * 3]), -4.9, level),
    ]
    own = relaxed("own", fcc([metal, anion], [0, 0.5], 5.0), -6.9, level)
    path = folder(tmp_path / "run", [*ends, own], system)
    theirs = fcc([metal, anion, anion], [0, 0.25, 0.75], 6.0)
    files = tmp_path / "mp.json"
    entries = [
        mp_entry(theirs, -6.8, run),
        mp_entry(NIAS if system == "Bi-Se" else theirs, -20.0, "R2SCAN"),
        mp_entry(theirs, -20.0, run, potcar_spec=[{"titel": "PAW_PBE W 08Apr2002"}]),
        mp_entry(ends[0].structure, -8.31, "GGA"),
    ]
    files.write_text(json.dumps(entries))
    found = asked(monkeypatch, capsys, tmp_path, system, path, "--references", files)
    assert found["references"]["joined"] == 2 and found["references"]["materials_project"]
    assert "2 of another input set" in found["references"]["refused"]
    scheme = MaterialsProject2020Compatibility()
    corrected = []
    for row_ in (entries[0], mp_entry(own.structure, -6.9, run), entries[3]):
        one = ComputedStructureEntry.from_dict(row_)
        assert scheme.process_entry(one) is not None
        corrected.append(one)
    oxygen = PDEntry(anion, -4.9)
    pymatgen = PhaseDiagram([*corrected, oxygen])
    by_id = {p["id"]: p for p in found["phases"]}
    for key, one in (("reference:mp.json#0", corrected[0]), ("own", corrected[1])):
        assert by_id[key]["energy_per_atom"] == pytest.approx(one.energy_per_atom, abs=1e-6)
        above = pymatgen.get_e_above_hull(one)
        assert by_id[key]["e_above_hull"] == pytest.approx(above, abs=1e-6)
    assert found["level_of_theory"]["corrections"] == "MP2020 corrections"

    # Without its U and POTCARs, another level.
    plain = VaspEngine().level_of_theory()
    bare = [d.model_copy(update={"level_of_theory": plain}) for d in (*ends, own)]
    other = folder(tmp_path / "plain", bare, system)
    message = refused(monkeypatch, capsys, system, other, "--references", files)
    assert "nothing of mp.json can join" in message and "of VASP (GGA" in message


# --- what is refused ----------------------------------------------------------------------------


def test_mistakes_get_one_line(monkeypatch, capsys, tmp_path, folders) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched" / "campaign.yaml").write_text("system: Bi-Se\n")
    broken = folder(tmp_path / "broken", FIRST)
    (broken / "store" / "documents.sqlite").write_bytes(b"no database" * 100)
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["Bi-Xx", *folders], ["unknown element 'Xx'"]),
        (["BiSe", *folders], ["did you mean Bi-Se"]),
        (["Bi", *folders], ["at least two elements"]),
        (["Ga-N", *folders], ["no relaxations of Ga-N"]),
        (["Bi-S", folders[0]], ["pure element S"]),
        (["Bi-Se", tmp_path / "none"], ["holds no campaign"]),
        (["Bi-Se", tmp_path / "empty"], ["holds no campaign"]),
        (["Bi-Se", tmp_path / "fetched"], ["holds no relaxations", "--config"]),
        (["Bi-Se", broken], ["embedded database is damaged"]),
        (["Bi-Se"], ["there is no ccdcgan-run", "--config"]),
        (["Bi-Se", *folders, "--config", "x.yaml"], ["folders or --config"]),
        (["Bi-Se", *folders, "--limit", "0"], ["--limit"]),
        (["Bi-Se", *folders, "--json", tmp_path / "no" / "hull.json"], ["there is no folder"]),
    ):
        message = refused(monkeypatch, capsys, *arguments)
        assert all(word in message for word in words), message


def test_a_campaign_that_is_running_can_be_read(monkeypatch, capsys, tmp_path, folders) -> None:
    before = {p: p.read_bytes() for p in folders[0].rglob("*") if p.is_file()}
    with locked(folders[0] / ".lock", "in use"):
        found = asked(monkeypatch, capsys, tmp_path, "Bi-Se", folders[0])
    assert {p["id"] for p in found["phases"]} == {"bi", "se", "rs", "fl", "zb"}
    # Nothing is written.
    assert {p: p.read_bytes() for p in before} == before


def test_all_campaigns_of_a_database(database, monkeypatch, capsys, tmp_path) -> None:
    """By the names that they were submitted under; the phases say who else has a relaxation."""
    one, two, third = "a" * 16, "b" * 16, "d" * 16
    handle = database.handle
    documents = [
        *(d.model_copy(update={"campaign": one}) for d in FIRST),
        *(d.model_copy(update={"campaign": two}) for d in SECOND if d.key != "se"),
    ]
    handle["relaxations"].insert_many([d.model_dump(mode="json") for d in documents])
    handle[PHASES].insert_one({"uid": f"{third}:se", "id": "se", "campaign": third})
    handle["campaigns"].insert_many(
        [{"_id": "bise", "digest": one, "name": "bise"}, {"_id": two, "name": "ternary"}]
    )
    config = tmp_path / "my_fireworks.yaml"
    workers = {name: {"queue": {}} for name in ("dft", "gpu", "light")}
    where = {"database": database.name}
    config.write_text(
        json.dumps({"stores": {"results": where}, "launchpad": where, "workers": workers})
    )
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", database.uri)
    found = asked(monkeypatch, capsys, tmp_path, "Bi-Se", "--config", config)
    by_id = {p["id"]: p for p in found["phases"]}
    assert set(by_id) == {"bi", "se", "rs", "fl", "zb", "af"}
    assert by_id["rs"]["campaigns"] == ["bise", "ternary"]
    assert by_id["se"]["campaigns"] == ["bise", third[:8]]
    assert found["campaigns"] == ["bise", third[:8], "ternary"]
    pymatgen = diagram([d for d in documents if d.converged and d.key in {*by_id, "rs2"}])
    for key, p in by_id.items():
        (document,) = (d for d in documents if d.key == key)
        above = pymatgen.get_e_above_hull(entry(document))
        assert p["e_above_hull"] == pytest.approx(above, abs=1e-9)
