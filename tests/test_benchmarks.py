"""The benchmark scripts on small input."""

import gzip
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from crystals import FLUORITE, NIAS, ROCKSALT
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.frames import Frame
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.settings import DEFAULT_ENGINE

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


# Workers of the scripts find them by name.
sys.path.append(str(BENCHMARKS))


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crystals")
    for metal, length in (("Na", 5.6), ("K", 6.3)):
        salt = Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(length), [metal, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
        )
        salt.to(str(folder / f"{metal}Cl.cif"))
    sites = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    perovskite = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], sites)
    perovskite.to(str(folder / "POSCAR"), fmt="poscar")
    disordered = Structure(Lattice.cubic(3.0), [{"Fe": 0.5, "Al": 0.5}], [[0, 0, 0]])
    (folder / "alloy.json").write_text(json.dumps(disordered.as_dict()))
    return folder


def check(output: str, *more: str) -> None:
    assert output.count("\n") == 1
    result = json.loads(output)
    assert list(result) == [
        "structures", "matched", "fraction", *more, "encode_per_second", "decode_per_second",
        "failures",
    ]  # fmt: skip
    assert (result["structures"], result["matched"], result["fraction"]) == (3, 3, 1.0)
    assert result["failures"] == []
    assert result["encode_per_second"] > 0 and result["decode_per_second"] > 0


def test_roundtrip_through_voxels(crystals: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "roundtrip.py"), str(crystals)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    check(done.stdout)


def test_roundtrip_through_the_network(crystals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("roundtrip").main([str(crystals), "--network"]) == 0
    check(capsys.readouterr().out, "fraction_without_counts")


def test_roundtrip_names_what_does_not_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two sodium atoms 0.3 Å apart are one peak on a grid whose spacing is that.
    salt = [Structure(Lattice.cubic(4.8), ["Na", "Na", "Cl"], [[0, 0, x], [0, 0, 0.0], [0.5] * 3])
            for x in (0.5, 0.06)]  # fmt: skip
    path = tmp_path / "salt.json"
    path.write_text(json.dumps([s.as_dict() for s in salt]))
    assert script("roundtrip").main([str(path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["matched"], result["failures"]) == (1, [[1, "Na2Cl"]])


@pytest.mark.parametrize("case", ["missing", "empty", "broken", "disordered"])
def test_roundtrip_errors_are_one_line(
    crystals: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {
        "missing": tmp_path / "nowhere",
        "empty": tmp_path / "empty",
        "broken": tmp_path / "broken.cif",
        "disordered": crystals / "alloy.json",
    }[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.cif").write_text("no crystal")
    assert script("roundtrip").main([str(path)]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("roundtrip: ") and captured.err.count("\n") == 1
    assert path.name in captured.err


def test_autoencoder_training_runs_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyxtal")
    main = script("train_sites_autoencoder").main
    first, second = str(tmp_path / "first.keras"), str(tmp_path / "second.keras")
    small = ["--crystals=4", "--max-sites=4", "--filters=4", "--blocks=0"]
    assert main(["--output", first, "--steps", "2", *small]) == 0
    output = capsys.readouterr().out
    assert "step 2" in output and "held-out crystals" in output
    again = ["--output", second, "--steps", "1", "--resume", first, "--noise", "0.2", *small]
    assert main(again) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "first.keras", "second.keras", "pictures-4-4-1.npz"
    }  # fmt: skip
    capsys.readouterr()
    assert main(["--output", first, "--resume", str(tmp_path / "no.keras"), *small]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_voxels_come_back_and_are_timed(crystals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("voxels").main([str(crystals)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["roundtrip"]["structures"], result["roundtrip"]["matched"]) == (3, 3)
    assert result["encode_64_per_second"] > result["direct_sum_64_per_second"] > 0


def test_drawn_crystals_are_counted_once() -> None:
    def salt(length: float, *sites: list[float]) -> Structure:
        return Structure(Lattice.cubic(length), ["Na", "Cl"], [[0, 0, 0], *sites])

    caesium = salt(4.1, [0.5, 0.5, 0.5])
    moved = salt(4.2, [0.5, 0.5, 0.51])
    chain = salt(4.1, [0.5, 0, 0])
    crushed = salt(2.5, [0.5, 0.5, 0.5])
    drawn = [caesium, None, chain, moved, crushed]
    counts = script("generation").counted(drawn, [chain], judged=10, seed=0)
    low, high = counts.pop("unique_interval")
    assert low < 2 / 3 < high
    assert counts == {
        "sampled": 5,
        "decoded": 4,
        "valid": 3,
        "valid_fraction": 0.6,
        "judged": 3,
        "unique_of_judged": 0.6667,
        "new_of_judged": 0.3333,
        "formulas": 1,
    }


@pytest.mark.parametrize("name", ["voxels", "constraint", "generation"])
def test_missing_structures_are_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(name).main([str(tmp_path / "missing.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"{name}: ") and "missing.json" in captured.err


def test_learnt_potential_on_what_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = script("potential").main
    rng = np.random.default_rng(0)
    rows = []
    for key in range(60):
        atoms = bulk("Cu", "fcc", 3.9, cubic=True)
        atoms.numbers = rng.permutation([29, 29, 79, 79])
        frames = []
        for _ in range(3):
            atoms.positions += rng.normal(0.0, 0.1, (4, 3))
            atoms.calc = EMT()
            frames.append(Frame.of(atoms).model_dump())
        rows.append(
            {"key": str(key), "final": {"species": atoms.get_chemical_symbols()}, "frames": frames}
        )
    with gzip.open(tmp_path / "relaxations.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "runs.json").write_text(json.dumps({"a run": [str(k) for k in range(20, 60)]}))
    assert main(["--folder", str(tmp_path), "--run", "a run"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["learnt_from"], result["unseen"]) == (150, 30)
    assert result["force_mae"] < 0.2 * result["mean_force"]
    assert result["fit_seconds"] > 0 and result["engine_over_potential"] > 0
    assert main(["--folder", str(tmp_path)]) == 2
    assert "there are a run" in capsys.readouterr().err


def test_relaxations_of_the_yield_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yields, archives = script("yield"), script("relaxation_archive")
    level = yields.RELAXATION.engine.level_of_theory(yields.ELEMENTS)
    asked: list[Structure] = []

    def relaxed(structures: list[Structure], *_: object) -> Iterator[tuple[int, Relaxation]]:
        for number, structure in enumerate(structures):
            asked.append(structure)
            shrunk = structure.copy()
            shrunk.scale_lattice(0.9 * structure.volume)
            yield (
                number,
                Relaxation(
                    key=content_key(structure, level, yields.RELAXATION),
                    level_of_theory=level,
                    structure=shrunk.as_dict(),
                    energy_per_atom=-3.7 - 0.1 * number,
                    converged=True,
                    steps=7,
                ),
            )

    monkeypatch.setattr(archives, "relax_many", relaxed)
    salts = [
        archives.Prototype(
            name,
            Structure.from_spacegroup(
                "Pm-3m", Lattice.cubic(length), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]]
            ),
        )
        for name, length in (("one", 3.71234567), ("two", 3.9), ("one again", 3.71234567))
    ]
    archive = yields.Archive(tmp_path / "relaxations.jsonl.gz", yields.RELAXATION, yields.ELEMENTS)
    entries = archive.relax(yields.proposed("prototype", salts[:1]), 1)
    entries += archive.relax(yields.proposed("prototype", salts), 1)
    assert [e.origin.id for e in entries] == ["one", "one", "two"]
    assert entries[0].key == entries[1].key and len(asked) == 2
    again = yields.Archive(archive.path, yields.RELAXATION, yields.ELEMENTS)
    assert list(again.documents) == [entries[0].key, entries[2].key]
    for key, document in archive.documents.items():
        other = again.documents[key]
        for name in archives.NUMBERS:
            assert getattr(other, name) == getattr(document, name)
        first, second = (d.structure for d in (document, other))
        assert first.lattice.matrix == pytest.approx(second.lattice.matrix, abs=1e-5)
    assert [e.key for e in again.relax(yields.proposed("prototype", salts), 1)] == list(
        again.documents
    )
    assert len(asked) == 2


def test_the_papers_database(tmp_path: Path) -> None:
    """What is counted of it, and that a generation does not depend on what came after it."""
    database, runs = script("paper_database"), script("paper_run")
    archive = script("relaxation_archive").Archive(
        tmp_path / "relaxations.jsonl.gz", database.RELAXATION, database.ELEMENTS
    )

    def add(kind: str, name: str, cell: Structure, energy: float) -> None:
        plain = {"lattice": cell.lattice.matrix, "coords": cell.frac_coords}
        row = {"species": [s.specie.symbol for s in cell]} | {
            key: value.tolist() for key, value in plain.items()
        }
        numbers = dict.fromkeys(archives.NUMBERS) | {"converged": True, "steps": 1, "seconds": 1.0}
        origin = {"kind": kind, "id": name}
        document = archive._document(
            {"key": name, "origin": origin, "initial": row, "final": row, **numbers}
            | {"energy_per_atom": energy}
        )
        archive.documents[name] = document

    archives = script("relaxation_archive")
    for symbol in database.ELEMENTS:
        add("element", symbol, Structure(Lattice.cubic(3.2), [symbol], [[0, 0, 0]]), -3.0)
    # On the hull, 0.12 above it, and of positive formation energy.
    for length, energy in ((3.7, -3.4), (3.9, -3.28), (4.4, -2.9)):
        cell = Structure.from_spacegroup(
            "Pm-3m", Lattice.cubic(length), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]]
        )
        add("prototype", f"salt-{length}", cell, energy)
    found = database.histogram(list(archive.documents.values()))
    counts = {name: found[name]["count"] for name in database.PAPER}
    assert counts == {"negative": 2, "metastable": 2, "stable": 1} and found["compounds"] == 3
    assert sum(found["histogram"]) == 3
    first = database.variations(archive, 0, 0, 4)
    assert len(first) == 4
    for child in first:
        add("prototype", child.id, child.structure, -3.1)
    again = database.variations(archive, 0, 0, 4)
    assert [c.id for c in again] == [c.id for c in first]
    assert all(a.structure == b.structure for a, b in zip(again, first, strict=True))
    assert {c.id for c in database.variations(archive, 1, 0, 4)}.isdisjoint(c.id for c in first)
    campaign = runs.parse_campaign({"database": {"without": ["BiSe"]}}, "x")
    kept = runs.picked(archive, None, campaign)
    assert "BiSe" not in {d.structure.composition.reduced_formula for d in kept}
    assert {d.origin.id for d in kept} >= {"Bi", "Se"}


def test_reading(capsys: pytest.CaptureFixture[str]) -> None:
    script("reading").main(["--files", "8", "--mixed", "200"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 CIF files in ")
    assert "200 files with 10 bad ones: 190 crystals, 10 refusals" in lines[1]
    # Ten kinds, each with a reason of its own.
    assert len(lines) == 12


def test_reference_sets_are_compared_as_by_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is done already is not compared again."""
    lines = tmp_path / "loops.jsonl"
    outside = script("outside")
    # Reading all of AFLOW's takes longer than the rest.
    monkeypatch.setattr(outside, "prototypes", lambda: [ROCKSALT, NIAS, FLUORITE])
    arguments = ["outside.py", "--given", "3", "--known", "8", "--check", str(lines)]
    found = []
    for left in (3, 1):
        if lines.exists():
            lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:left]))
        monkeypatch.setattr(sys, "argv", arguments)
        outside.main()
        found.append(json.loads(capsys.readouterr().out))
    assert all(f["equal"] and (f["given"], f["known"]) == (3, 8) for f in found)
    assert found[0]["loops"] == found[1]["loops"]
    assert len(lines.read_text().splitlines()) == 3


def test_batch_without_torch_sim(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ccdcgan.dft.engines.potentials.find_spec", lambda name: None)
    assert script("batch").main(["--count", "2"]) == 2
    assert "pip install 'ccdcgan[batch]' with Python 3.12" in capsys.readouterr().err


def test_batch_tells_wild_crystals_from_wrong_batches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is the same both ways, the second only its own, the third wild in itself."""
    batch = script("batch")
    energies = {"auto": [-1.0, -2.0, -3.0], "none": [-1.0, -2.5, -3.5], "again": [-2.5, -3.7]}
    routes = iter(("auto", "none", "again"))

    def relaxed(structures: list[Structure], *_: object) -> Iterator[tuple[int, Relaxation]]:
        result = Relaxation(
            key="k",
            level_of_theory=DEFAULT_ENGINE.level_of_theory(),
            structure=structures[0],
            converged=True,
        )
        for number, energy in enumerate(energies[next(routes)]):
            yield number, result.model_copy(update={"energy_per_atom": energy})

    monkeypatch.setattr(batch, "relax_many", relaxed)
    monkeypatch.setattr(batch.RelaxationSettings, "check", lambda self, elements: None)
    assert batch.main(["--count", "3", "--parity"]) == 1
    line = json.loads(capsys.readouterr().out)
    assert list(line["beyond_tolerance"].values()) == [0.5, 0.5]
    assert list(line["these_alone_in_reverse_order"].values()) == [0.0, 0.2]
    assert (line["structures"], line["converged"]) == (3, 3)
    assert 5 <= min(line["atoms"]) <= max(line["atoms"]) <= 20


def test_what_is_held_out_has_nothing_of_what_is_learnt_from():
    heldout = script("heldout_generation")
    documents = heldout.database()[:60]
    split = heldout.Split.of(documents, 0)
    family = heldout.family_of
    assert split.heldout
    assert len(split.near_hull) == len(split.heldout)
    for document in split.learnt:
        assert document.structure.composition.reduced_formula not in split.formulas
        assert family(document.origin.id) not in split.families
    asked = heldout.asked_for(split, 40)
    assert {tuple(one.values()) for one in asked} == {
        tuple(int(s.composition[e]) for e in ("Bi", "Se")) for s in split.heldout
    }


def test_the_ratio_of_trained_to_untrained_has_its_interval():
    heldout = script("heldout_generation")

    def found(after: list[bool]) -> object:
        same = {"formulas": [f"Bi{i // 2 + 1}Se" for i in range(20)], "near_hull": [False] * 20}
        return heldout.Found(drawn=9, made=9, before=after, after=after, seconds=0.0, **same)

    many, few = found([True, False] * 10), found([True, False, False, False] * 5)
    told = heldout.ratio([{"trained": many, "untrained": few}])
    assert (told["heldout"], told["trained"], told["untrained"]) == (20, 10, 5)
    assert told["ratio"] == 2.0
    assert 1.0 < told["low"] < 2.0 < told["high"]
    even = heldout.ratio([{"trained": few, "untrained": few}])
    assert (even["low"], even["ratio"], even["high"]) == (1.0, 1.0, 1.0)
    assert heldout.ratio([{"trained": few, "untrained": found([False] * 20)}])["ratio"] is None
