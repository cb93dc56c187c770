"""``ccdcgan evaluate``: any structures through the funnel of a campaign that was run."""

import gzip
import hashlib
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from crystals import FLUORITE, ROCKSALT, fcc
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter
from small_campaign import CAMPAIGN
from test_campaign import command

from ccdcgan.dft.structures.matching import is_same
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.storage.stores import PHASES, RESULTS


def stored(folder: Path, name: str) -> list[dict]:
    """The documents of a store of a campaign's folder."""
    store = embedded_store(folder)
    store.connect()
    found = [dict(d) for d in store.additional_stores[name].query({})]
    store.close()
    for document in found:
        document.pop("_id", None)
    return found


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the files of a campaign that are not its database."""
    files = [f for f in folder.rglob("*") if f.is_file() and "store" not in f.parts]
    return {str(f.relative_to(folder)): hashlib.md5(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def campaign(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(finished, folder)
    return folder


STRAINED = fcc(["Bi", "Se"], [0, 0.5], 6.15)
#: What no campaign of at most four atoms has in its database.
LARGE = Structure(
    Lattice.tetragonal(4.2, 9.2),
    ["Bi", "Bi", "Bi", "Se", "Se", "Se"],
    [[0, 0, 0], [0, 0, 0.4], [0.5, 0.5, 0.7], [0.5, 0.5, 0.05], [0.5, 0.5, 0.35], [0, 0, 0.7]],
)
#: Whose relaxation is asked for: one is there twice, one in another cell, one a little strained.
GOOD = [ROCKSALT, ROCKSALT, STRAINED, FLUORITE, LARGE]

FOREIGN = [fcc(["Na", "Cl"], [0, 0.5], 5.6), fcc(["Bi"], [0], 5.0)]
OVERLAPPING = fcc(["Bi", "Se"], [0, 0.15], 6.0)
CRUSHED = fcc(["Bi", "Se"], [0, 0.5], 4.5)
DISORDERED = Structure(Lattice.cubic(3.6), [{"Bi": 0.5, "Se": 0.5}, "Se"], [[0, 0, 0], [0.5] * 3])


@pytest.fixture(scope="module")
def structures(tmp_path_factory) -> Path:
    """Good and bad structures in one file."""
    path = tmp_path_factory.mktemp("structures") / "mixed.json"
    rows = [s.as_dict() for s in [*GOOD, *FOREIGN, OVERLAPPING, CRUSHED, DISORDERED]]
    path.write_text(json.dumps([{"a": 1}, *rows, 7]))
    return path


def evaluated(monkeypatch, capsys, path: Path, campaign: Path, *options: str) -> dict:
    # The folder is not there yet.
    out = path.parent / f"figures-{path.stem}" / "figures.json"
    code, message = command(
        monkeypatch,
        capsys,
        *("evaluate", str(path), "--campaign", str(campaign), "--out", str(out), *options),
    )
    assert code == 0, message
    return json.loads(out.read_text())


def counted(figures: dict, *names: str) -> list[tuple[int, int]]:
    return [(s["count"], s["of"]) for s in (figures[n] for n in names)]


def test_the_funnel_is_that_of_the_relaxations(monkeypatch, capsys, campaign, structures) -> None:
    """Every number of the file from the stored relaxations and phases, by pymatgen's hull."""
    files, phases = contents(campaign), stored(campaign, PHASES)
    before = {d["key"] for d in stored(campaign, RESULTS)}
    figures = evaluated(monkeypatch, capsys, structures, campaign, "--sampled", "20")
    assert counted(figures, "decoded", "valid") == [(10, 20), (5, 20)]
    assert figures["invalid"] == {
        "unreadable: not a structure of a known layout": 2,
        "other elements than Bi-Se": 1,
        "without Se": 1,
        # One of the two has too little room, the other too.
        **Counter(r for o in figures["outcomes"][8:10] if (r := o["reason"])),
        "disordered": 1,
    }
    # The campaign's own results are as they were.
    assert contents(campaign) == files
    assert stored(campaign, PHASES) == phases
    documents = {d["key"]: d for d in stored(campaign, RESULTS)}
    added = [d for key, d in documents.items() if key not in before]
    assert len(added) + len(before) == len(documents)
    found = figures["found"]
    # The one that is there twice is relaxed once; a set that repeats itself is not unique.
    assert found["relaxed"] == 5 and 0 < len(added) <= 4
    assert all(d["origin"]["id"].startswith("evaluated:") for d in added)

    mine = []
    for start in GOOD:
        same = [
            d
            for d in documents.values()
            if start.matches(Structure.from_dict(d["initial_structure"]), scale=False, stol=0.01)
            and np.isclose(
                start.volume / len(start),
                (s := Structure.from_dict(d["initial_structure"])).volume / len(s),
                rtol=1e-3,
            )
        ]
        assert len(same) == 1
        mine.append(same[0])
    ends = [Structure.from_dict(d["structure"]) for d in mine]
    with gzip.open(campaign / "phases.json.gz") as stream:
        own = [p for p in json.load(stream) if p["converged"]]
    diagram = PhaseDiagram(
        [
            PDEntry(c, p["energy_per_atom"] * c.num_atoms)
            for p in own
            for c in [Structure.from_dict(p["structure"]).composition]
        ]
    )
    known = [Structure.from_dict(p["structure"]) for p in own if p["origin"]["kind"] != "generated"]
    assert figures["known"] == len(known)
    expected: Counter[str] = Counter()
    formation = []
    for i, (document, end) in enumerate(zip(mine, ends, strict=True)):
        if not document["converged"]:
            continue
        expected["converged"] += 1
        total = document["energy_per_atom"] * end.composition.num_atoms
        entry = PDEntry(end.composition, total)
        formation.append(diagram.get_form_energy_per_atom(entry))
        if any(is_same(end, other) for other in ends[:i]):
            continue
        expected["unique"] += 1
        if any(is_same(end, other) for other in known):
            continue
        expected["new"] += 1
        for distance in found["below"]:
            above = diagram.get_e_above_hull(entry, allow_negative=True)
            expected[distance] += formation[-1] < 0 and above <= float(distance)
    for name in ("converged", "unique", "new"):
        assert (found[name]["count"], found[name]["of"]) == (expected[name], 5), name
    for name, share in found["below"].items():
        assert (share["count"], share["of"]) == (expected[name], 5), name
    assert found["mean_formation_energy"] == pytest.approx(np.mean(formation), abs=1e-5)
    # Rocksalt and its strained copy are one crystal.
    assert is_same(ends[0], ends[2]) and expected["unique"] < expected["converged"]


def with_elements(structure: Structure, **elements: str) -> Structure:
    """A structure with other elements."""
    exchanged = structure.copy()
    exchanged.replace_species(elements)
    return exchanged


def test_sun_and_relatives_of_files(monkeypatch, capsys, campaign, structures) -> None:
    """Against a reference set of files, by pymatgen's StructureMatcher and its hull."""
    level = stored(campaign, PHASES)[0]["level_of_theory"]
    other = {**level, "engine": "Another"}
    path = structures.with_name("references.json")
    rows = [
        {"structure": with_elements(ROCKSALT, Bi="Na", Se="Cl").as_dict()},
        {"structure": FLUORITE.as_dict(), "energy_per_atom": -9.0, "level_of_theory": other},
        {"structure": with_elements(LARGE, Bi="S", Se="P").as_dict()},
        {"structure": with_elements(FLUORITE, Bi="Ca", Se="F").as_dict()},
        {"structure": DISORDERED.as_dict()},
    ]
    path.write_text(json.dumps(rows))
    known = [Structure.from_dict(row["structure"]) for row in rows[:4]]
    monkeypatch.setenv("COLUMNS", "300")
    figures = evaluated(monkeypatch, capsys, structures, campaign, "--references", str(path))
    documents = {d["key"]: d for d in stored(campaign, RESULTS)}
    with gzip.open(campaign / "phases.json.gz") as stream:
        phases = [p for p in json.load(stream) if p["converged"]]
    database = [p for p in phases if p["origin"]["kind"] != "generated"]

    def diagram(*more: tuple[Structure, float]) -> PhaseDiagram:
        own = [(Structure.from_dict(p["structure"]), p["energy_per_atom"]) for p in database]
        entries = [(s.composition, e * s.composition.num_atoms) for s, e in (*own, *more)]
        return PhaseDiagram([PDEntry(c, e) for c, e in entries])

    loose, tight = StructureMatcher(), StructureMatcher(ltol=0.1)
    ends, above, kinds = [], [], []
    for outcome, start in zip(figures["outcomes"][1:6], GOOD, strict=True):
        document = documents[outcome["key"]]
        end = Structure.from_dict(document["structure"]) if document["converged"] else start
        if document["converged"]:
            entry = PDEntry(end.composition, document["energy_per_atom"] * len(end))
            above.append(diagram().get_e_above_hull(entry, allow_negative=True))
            assert outcome["e_above_reference_hull"] == pytest.approx(above[-1], abs=1e-6)
            ends.append(end)
        copies = [k for k, s in enumerate(known) if loose.fit(end, s)]
        alike = [k for k, s in enumerate(known) if loose.fit_anonymous(end, s)]
        kinds.append("copy" if copies else "substitution" if alike else "neither")
        assert outcome["kinship"] == kinds[-1]
        names = [f"references.json#{k}" for k in copies or alike]
        assert outcome["relative"] in (names or [None])
    # What is not valid is related to nothing.
    assert all(o["kinship"] is None for i, o in enumerate(figures["outcomes"]) if not 0 < i < 6)
    assert kinds.count("substitution") >= 3
    outside = figures["outside"]
    for name in ("copy", "substitution", "neither"):
        assert counted(outside["kinship"], name) == [(kinds.count(name), 5)]

    def unique(matcher: StructureMatcher, some: list[int]) -> list[int]:
        return [
            i
            for n, i in enumerate(some)
            if not any(matcher.fit(ends[i], ends[j]) for j in some[:n])
        ]

    def new(matcher: StructureMatcher, some: list[int]) -> list[int]:
        return [i for i in some if not any(matcher.fit(ends[i], s) for s in known)]

    all_ = list(range(len(ends)))
    stable = [i for i in all_ if above[i] <= 1e-9]
    metastable = [i for i in all_ if 1e-9 < above[i] <= 0.1]
    near = [i for i in new(loose, unique(loose, all_)) if above[i] <= 0.1]
    assert counted(outside["sun"], "lemat_sun", "lemat_metasun", "mattergen_sun") == [
        (len(new(tight, unique(tight, stable))), 5),
        (len(new(tight, unique(tight, metastable))), 5),
        (len(near), 12),
    ]
    about = outside["references"]
    assert about["name"] == "references.json" and about["crystals"] == 4
    assert about["energies"] == about["own"] == len(database)
    assert "1 of Another" in about["refused"]
    assert about["skipped"] == {"references.json#4": "disordered"}

    # With energies of the campaign's level they are part of the hull.
    rows[1] |= {"energy_per_atom": -4.6, "level_of_theory": level}
    # One of a false minimum is not.
    rows[2] = {"structure": LARGE.as_dict(), "energy_per_atom": -11.0, "level_of_theory": level}
    path.write_text(json.dumps(rows))
    joined = evaluated(monkeypatch, capsys, structures, campaign, "--references", str(path))
    refused_line = joined["outside"]["references"]["refused"]
    assert refused_line == "references too low to be believed: 1"
    assert joined["outside"]["references"]["energies"] == len(database) + 1
    lower = diagram((FLUORITE, -4.6))
    for outcome, document in ((o, documents.get(o["key"])) for o in joined["outcomes"]):
        if document is not None and document["converged"]:
            end = Structure.from_dict(document["structure"])
            entry = PDEntry(end.composition, document["energy_per_atom"] * len(end))
            expected = lower.get_e_above_hull(entry, allow_negative=True)
            assert outcome["e_above_reference_hull"] == pytest.approx(expected, abs=1e-6)
    # The campaign's own funnel is what it was.
    assert joined["found"] == figures["found"]

    arguments = ("evaluate", str(structures), "--campaign", str(campaign))
    text = command(monkeypatch, capsys, *arguments, "--references", str(path))[1]
    assert f"Against references.json, 4 crystals; hull of {len(database)} of the campaign's" in text
    (row,) = (line for line in text.splitlines() if "S.U.N., MatterGen" in line and "│" in line)
    assert f"{outside['sun']['mattergen_sun']['of']} sampled" in row
    text = command(monkeypatch, capsys, *arguments)[1]
    assert "Against the campaign's starting database" in text


def test_nothing_is_relaxed_twice(monkeypatch, capsys, campaign, structures) -> None:
    first = evaluated(monkeypatch, capsys, structures, campaign)
    before = stored(campaign, RESULTS)

    def never(_: object, structures: list, *__: object) -> Iterator:
        assert not structures, "relaxed again"
        return iter(())

    monkeypatch.setattr("ccdcgan.workflows.relax.in_workers", never)
    again = evaluated(monkeypatch, capsys, structures, campaign)
    assert again == first
    # Without --sampled the samples are what is in the file.
    assert counted(first, "decoded", "valid") == [(10, 12), (5, 12)]
    # The same crystals from another format, each with another origin: known by what they are.
    path = structures.with_name("same.extxyz")
    ase.io.write(path, [AseAtomsAdaptor.get_atoms(s) for s in GOOD], format="extxyz")
    other = evaluated(monkeypatch, capsys, path, campaign, "--limit", "3")
    assert counted(other, "decoded", "valid") == [(5, 5), (5, 5)]
    assert other["found"]["relaxed"] == 3
    assert other["structures"] == "same.extxyz"
    assert stored(campaign, RESULTS) == before


def test_a_campaigns_own_export(monkeypatch, capsys, campaign, tmp_path) -> None:
    """ZIP of CIF files: relaxed crystals stay what they are, and the campaign knows them all."""
    path = tmp_path / "generated.zip"
    arguments = ("--workdir", str(campaign), "--origin", "generated", "--distinct")
    assert command(monkeypatch, capsys, "export", str(path), *arguments)[0] == 0
    with zipfile.ZipFile(path) as archive:
        count = sum(name.endswith(".cif") for name in archive.namelist())
    assert count
    figures = evaluated(monkeypatch, capsys, path, campaign, "--against", "all", "--limit", "1")
    assert counted(figures, "decoded", "valid") == [(count, count)] * 2
    found = figures["found"]
    assert counted(found, "converged", "new", "stayed") == [(1, 1), (0, 1), (1, 1)]
    assert found["displacement"] < 0.05
    with gzip.open(campaign / "phases.json.gz") as stream:
        own = [p for p in json.load(stream) if p["converged"]]
    assert figures["known"] == len(own)
    database = evaluated(monkeypatch, capsys, path, campaign, "--limit", "1")
    assert database["known"] == sum(p["origin"]["kind"] != "generated" for p in own)
    assert database["found"]["new"]["count"] == 1


def test_the_table_says_what_the_file_says(monkeypatch, capsys, campaign, structures) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = structures.with_name("table.json")
    arguments = ("evaluate", str(structures), "--campaign", str(campaign), "--out", str(out))
    code, text = command(monkeypatch, capsys, *arguments)
    assert code == 0
    found = json.loads(out.read_text())["found"]
    rows = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if len(cells := [c.strip() for c in line.strip("│┃ ").split("│")]) == 5
    }
    for name in ("converged", "unique", "new"):
        share = found[name]
        low, high = share["low"], share["high"]
        assert rows[name] == [
            str(share["count"]),
            f"{share['of']} relaxed",
            f"{share['fraction']:.1%}",
            f"{low:.1%} – {high:.1%}",
        ]
    assert rows["E_hull ≤ 0.10"][0] == str(found["below"]["0.10"]["count"])
    assert f"{found['mean_formation_energy']:+.3f} eV/atom" in text


def test_each_structure_has_its_outcome(monkeypatch, capsys, campaign, tmp_path) -> None:
    """A folder as macOS and other programs leave it; the counts are those of the file."""
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "generated"
    (folder / "__MACOSX").mkdir(parents=True)
    for name, text in {
        "a.cif": str(CifWriter(ROCKSALT)),
        "b.cif": str(CifWriter(ROCKSALT)) + str(CifWriter(FOREIGN[0])),
        "c.cif": str(CifWriter(ROCKSALT)).replace("0.50000000", "?", 1),
        "metrics.json": '{"loss": [1.0, 0.5]}',
        "._a.cif": "\0\5\x16\7",
        "__MACOSX/d.cif": "",
        "notes.txt": "by hand",
    }.items():
        (folder / name).write_text(text)
    figures = evaluated(monkeypatch, capsys, folder, campaign)
    assert counted(figures, "decoded", "valid") == [(3, 4), (2, 4)]
    found = [(o["id"], o["outcome"]) for o in figures["outcomes"]]
    assert found[1:2] == [("b.cif#0", "not unique")] or found[1][1] == "not converged"
    assert [f[0] for f in found] == ["a.cif", "b.cif#0", "b.cif#1", "c.cif"]
    assert found[2:] == [("b.cif#1", "not valid"), ("c.cif", "unreadable")]
    assert figures["outcomes"][2]["reason"] == "other elements than Bi-Se"
    assert "'?'" in figures["outcomes"][3]["reason"]
    assert set(figures["no_structures"]) == {
        "._a.cif",
        "__MACOSX/d.cif",
        "metrics.json",
        "notes.txt",
    }
    arguments = ("evaluate", str(folder), "--campaign", str(campaign))
    text = command(monkeypatch, capsys, *arguments)[1]
    assert "What was left out" in text and "other elements than Bi-Se" in text
    assert "4 files without structures not counted" in text
    assert "unreadable: c.cif" not in text
    text = command(monkeypatch, capsys, *arguments, "--verbose")[1]
    assert "unreadable: c.cif: " in text and "no structure: metrics.json" in text


# --- what is refused ----------------------------------------------------------------------------


def refused(monkeypatch, capsys, *arguments: object) -> str:
    code, message = command(monkeypatch, capsys, "evaluate", *map(str, arguments))
    assert code == 2, message
    assert len(message.strip().splitlines()) == 1, message
    assert "Traceback" not in message
    return message


def test_folders_that_cannot_judge(monkeypatch, capsys, tmp_path, structures) -> None:
    message = refused(monkeypatch, capsys, structures, "--campaign", tmp_path / "none")
    assert "holds no campaign" in message and not (tmp_path / "none").exists()
    for text, words in (
        (CAMPAIGN, "run its campaign first"),
        ("relaxation: {engine: {name: vasp}}", "ASP"),
        ("system: [", "not valid YAML"),
    ):
        folder = tmp_path / f"run{len(text)}"
        folder.mkdir()
        (folder / "campaign.yaml").write_text(text)
        monkeypatch.setenv("ATOMATE2_VASP_CMD", "no-such-vasp")
        assert words in refused(monkeypatch, capsys, structures, "--campaign", folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--against", "everything"], ["'everything'", "database or all"]),
        (["--sampled", "11"], ["--sampled 11", "less than the 12 structures"]),
        (["--sampled", "0"], ["--sampled", "greater than or equal to 1"]),
        (["--limit", "0"], ["--limit", "greater than or equal to 1"]),
        (["--out", "."], ["is a folder"]),
        (["--references", "no.zip"], ["no.zip does not exist"]),
        (["--references", "."], ["holds no structure file"]),
    ],
)
def test_options_that_make_no_sense(
    monkeypatch, capsys, tmp_path, campaign, structures, options, words
) -> None:
    monkeypatch.chdir(tmp_path)
    before = stored(campaign, RESULTS)
    message = refused(monkeypatch, capsys, structures, "--campaign", campaign, *options)
    assert all(word in message for word in words), message
    assert stored(campaign, RESULTS) == before


def damaged(content: bytes) -> bytes:
    """An archive whose first file is not what it was."""
    data = bytearray(content)
    for i in range(60, 70):
        data[i] ^= 0xFF
    return bytes(data)


def test_files_that_hold_nothing_to_relax(monkeypatch, capsys, campaign, tmp_path) -> None:
    good = tmp_path / "good.zip"
    with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", ROCKSALT.to(fmt="cif"))
    assert zipfile.ZipFile(good).testzip() is None
    (tmp_path / "damaged.zip").write_bytes(damaged(good.read_bytes()))
    (tmp_path / "broken.zip").write_bytes(good.read_bytes()[:-30])
    (tmp_path / "text.zip").write_text("no archive")
    for name, content in (("empty.zip", {}), ("bad.zip", {"a.cif": "x"}), ("t.zip", {"a.csv": ""})):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, text in content.items():
                archive.writestr(member, text)
    (tmp_path / "foreign.json").write_text(json.dumps([s.as_dict() for s in FOREIGN]))
    (tmp_path / "close.json").write_text(json.dumps([OVERLAPPING.as_dict(), FOREIGN[0].as_dict()]))
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("none.zip", ["does not exist"]),
        ("none.json", ["does not exist"]),
        ("text.zip", ["cannot read"]),
        ("broken.zip", ["cannot read"]),
        ("damaged.zip", ["a.cif: cannot be unpacked"]),
        ("empty.zip", ["holds no structure file"]),
        ("t.zip", ["holds no structure file"]),
        ("bad.zip", ["a.cif"]),
        ("folder", ["holds no structure file"]),
        (
            "foreign.json",
            ["none of the 2 structures", "1 other elements than Bi-Se", "1 without Se"],
        ),
        ("close.json", ["1 atoms closer than", "1 other elements"]),
    ):
        path = tmp_path / name
        message = refused(monkeypatch, capsys, path, "--campaign", campaign)
        # The user's own name of it, not that of a temporary folder.
        expected = [str(path)] if not name.endswith("json") or name == "none.json" else []
        assert all(word in message for word in [*expected, *words]), message


def test_ordinary_compositions_of_the_test_are_what_they_are_called() -> None:
    assert Composition("BiSe") == LARGE.composition.reduced_composition
    assert all(s.is_valid(tol=2.2) for s in GOOD)
    assert not any(is_same(LARGE, s) for s in GOOD[:-1])
