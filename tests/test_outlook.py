"""``ccdcgan check`` says what ``run`` would do, and fails where that would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from test_campaign import command

from ccdcgan.dft.structures import spacegroups
from ccdcgan.launchers.workdir import open_workdir
from ccdcgan.workflows.campaign import load_campaign

#: Candidates that are not made and not compared, which is what takes time.
SMALL = "{sources: [{source: random, count: 30}], max_candidates: 20}"

Check = Callable[..., tuple[int, list[tuple[str, str]]]]


def rocksalt(length: float) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(length), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]
    )


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """What check says of a campaign, in another folder than that of its file."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("MP_API_KEY", raising=False)

    def run(text: str, *arguments: str) -> tuple[int, list[tuple[str, str]]]:
        path = tmp_path / "campaign.yaml"
        path.write_text(text, encoding="utf-8")
        code, said = command(monkeypatch, capsys, "check", str(path), *arguments)
        lines = [line.partition("  ") for line in said.splitlines()]
        found = [(state, text) for state, _, text in lines]
        assert {state for state, _ in found} <= {"ok", "note", "missing"}, said
        assert code == (2 if any(state == "missing" for state, _ in found) else 0), said
        missing = [text for state, text in found if state == "missing"]
        if missing and "VASP" not in said:
            # What check misses, run misses at once, and leaves nothing.
            code, said = command(monkeypatch, capsys, "run", str(path), *arguments)
            assert code == 2 and "Traceback" not in said
            assert all(text[:60] in said.splitlines()[-1] for text in missing), said
            assert not (elsewhere / "ccdcgan-run").exists()
        return code, found

    return run


def one(found: list[tuple[str, str]], *words: str) -> tuple[str, str]:
    lines = [line for line in found if all(word in line[1] for word in words)]
    assert len(lines) == 1, found
    return lines[0]


def test_files_beside_the_campaign_are_opened_and_counted(check: Check, tmp_path: Path) -> None:
    text = """
database:
  sources: [{source: files, path: mine/}, {source: aflow, designated: true}]
  filters: {max_sites: 4}
  max_candidates: 20
"""
    code, found = check(text)
    state, said = one(found, str(tmp_path / "mine"))
    assert code == 2 and state == "missing" and "does not exist" in said
    folder = tmp_path / "mine"
    folder.mkdir()
    rocksalt(5.6).to_file(str(folder / "good.cif"))
    (folder / "bad.cif").write_text("no crystal")
    code, found = check(text)
    assert code == 0
    state, said = one(found, "source files: 1 prototype")
    assert state == "note" and "1 cannot be read" in said and "bad.cif" in said
    assert one(found, "candidates: 20 of Bi-Se")[0] == "ok"


def test_too_few_candidates_are_told_before_they_are_relaxed(check: Check, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    rocksalt(5.6).to_file(str(folder / "good.cif"))
    text = "database: {sources: [{source: files, path: mine/}]}"
    code, found = check(text)
    assert code == 2
    assert "training needs at least 15" in one(found, "candidates: 1 of Bi-Se")[1]
    (folder / "good.cif").write_text("no crystal")
    long = Structure(Lattice.tetragonal(4, 60), ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.05]])
    (folder / "long.cif").write_text(long.to(fmt="cif"))
    code, found = check(text)
    assert code == 2 and "widen database.filters" in one(found, "no prototype passes")[1]


def test_packages_and_keys_of_sources(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    random = "database: {sources: [{source: random, count: 30}]}"
    code, found = check(random)
    assert code == 0 and one(found, "candidates: up to 60 of Bi-Se")[0] == "ok"
    monkeypatch.setattr(spacegroups, "find_spec", lambda name: None)
    code, found = check(random)
    assert code == 2 and "pip install 'ccdcgan[random]'" in one(found, "PyXtal")[1]
    project = "database: {sources: [{source: materials_project}], max_candidates: 40}"
    code, found = check(project)
    assert code == 2 and "MP_API_KEY" in one(found, "API key")[1]

    asked: list[dict[str, Any]] = []

    class Client:
        def __init__(self, key: str) -> None:
            if key == "wrong":
                raise ValueError("this key is not known: wrong")
            self.materials = SimpleNamespace(summary=self)

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def search(self, **query: Any) -> list[Any]:
            asked.append(query)
            return []

    monkeypatch.setitem(sys.modules, "mp_api.client", SimpleNamespace(MPRester=Client))
    monkeypatch.setenv("MP_API_KEY", "right")
    code, found = check(project)
    assert code == 0 and one(found, "source materials_project: it answers")[0] == "ok"
    assert [query["material_ids"] for query in asked] == [["mp-149"]]
    assert "up to 40" in one(found, "candidates")[1]
    monkeypatch.setenv("MP_API_KEY", "wrong")
    code, found = check(project)
    state, said = one(found, "gave no answer")
    assert state == "missing" and "wrong" not in said


def test_references_are_read(check: Check, tmp_path: Path) -> None:
    text = f"references: [{{source: files, path: known.cif}}]\ndatabase: {SMALL}"
    assert "known.cif does not exist" in one(check(text)[1], "known.cif")[1]
    rocksalt(5.6).to_file(str(tmp_path / "known.cif"))
    assert "not of the system Bi-Se" in one(check(text)[1], "NaCl")[1]
    rocksalt(5.6).replace_species({"Na": "Bi", "Cl": "Se"}).to_file(str(tmp_path / "known.cif"))
    code, found = check(text)
    assert code == 0 and one(found, "references: 1 crystal")[0] == "ok"


def test_the_folder(check: Check, tmp_path: Path) -> None:
    text = f"database: {SMALL}"
    (tmp_path / "file").touch()
    assert "is a file" in one(check(text, "--workdir", str(tmp_path / "file"))[1], "file")[1]
    said = one(check(text, "--workdir", str(tmp_path / "file" / "run"))[1], "file")
    assert said[0] == "missing"
    (tmp_path / "elsewhere" / "thesis.tex").touch()
    assert (
        "not empty" in one(check(text, "--workdir", str(tmp_path / "elsewhere"))[1], "--workdir")[1]
    )
    folder = tmp_path / "run"
    assert "which is new" in one(check(text, "--workdir", str(folder))[1], "results go to")[1]
    with open_workdir(folder, load_campaign(tmp_path / "campaign.yaml")):
        pass
    code, found = check(
        text.replace("max_candidates: 20", "max_candidates: 30"), "--workdir", str(folder)
    )
    assert code == 0
    said = one(found, "results go to")
    assert said == ("ok", f"results go to {folder}, which goes on with another "
                    "database.max_candidates")  # fmt: skip
    code, found = check("seed: 3\n" + text, "--workdir", str(folder))
    assert code == 2 and "seed is 0 there and 3 here" in one(found, "another campaign")[1]


def test_a_ternary_system_is_looked_at_within_seconds(check: Check) -> None:
    code, found = check("system: Mn-Mg-O\ndatabase: {filters: {max_sites: 5}}")
    assert code == 0 and " of Mn-Mg-O" in one(found, "candidates")[1]
    assert "a guess of" in one(found, "relaxations, and up to")[1]
