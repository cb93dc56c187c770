"""Structures that name what monty would call: from files and from the database, nothing runs."""

import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crystals import CSCL, NIAS, ROCKSALT
from small_campaign import CAMPAIGN
from test_campaign import command

from ccdcgan.launchers.workdir import embedded_store, open_workdir
from ccdcgan.workflows.campaign import load_campaign
from ccdcgan.workflows.documents import Candidate, Origin, RelaxationDocument
from ccdcgan.workflows.propose import key_of
from ccdcgan.workflows.storage.stores import PHASES, RESULTS


def payloads(marker: Path) -> list[dict[str, Any]]:
    """Ways in which monty's decoder has something called."""
    touch = f"touch {marker}"
    return [
        {"@module": "subprocess", "@class": "Popen", "args": touch, "shell": True},
        {"@module": "os", "@callable": "system", "@bound": None},
        {"@module": "evil_of_tests", "@class": "Thing"},
        {"@module": "builtins", "@class": "exec", "source": f"open({str(marker)!r}, 'w')"},
        {"@module": "pathlib", "@class": "Path", "data": touch},
    ]


def hostile(marker: Path, number: int = 0) -> dict[str, Any]:
    """A good crystal but for a property of a site."""
    bad = payloads(marker)[number]
    data: dict[str, Any] = json.loads(json.dumps(ROCKSALT.as_dict()))
    data["sites"][0]["properties"] = {"magmom": bad, "other": bad}
    data["properties"] = {"x": bad}
    return data


def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once anything has run, and a module that makes it when imported."""
    found = tmp_path / "marker"
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "evil_of_tests.py").write_text(f"open({str(found)!r}, 'w')\nThing = dict\n")
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.delitem(sys.modules, "evil_of_tests", raising=False)
    return found


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    found = planted(tmp_path, monkeypatch)
    yield found
    assert not found.exists()


def test_monty_would_have_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the marker tells: pymatgen's own decoder makes it."""
    found = planted(tmp_path, monkeypatch)
    # In a process of its own: a LaunchPad that was opened before keeps monty from it.
    code = "import json, sys; from pymatgen.core import Structure; "
    code += "Structure.from_dict(json.loads(sys.stdin.read()))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [tmp_path, *sys.path]))}
    subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(hostile(found, 2)),
        text=True,
        env=environment,
        check=True,
    )
    assert found.exists()


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.json", content)
    return stream.getvalue()


FILES: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.json": lambda d: json.dumps(d).encode(),
    "one.json": lambda d: json.dumps(d[0]).encode(),
    "rows.json": lambda d: json.dumps([{"structure": s, "energy": -3.0} for s in d]).encode(),
    "entries.json": lambda d: json.dumps(
        [
            {
                "@module": "pymatgen.entries.computed_entries",
                "@class": "ComputedStructureEntry",
                "energy": -6.0,
                "structure": s,
                "data": s["properties"],
            }
            for s in d
        ]
    ).encode(),
    "text.json": lambda d: json.dumps([{"structure": json.dumps(s)} for s in d]).encode(),
    "a.jsonl": lambda d: b"\n".join(json.dumps(s).encode() for s in d),
    "a.json.gz": lambda d: gzip.compress(json.dumps(d).encode()),
    "a.json.xz": lambda d: lzma.compress(json.dumps(d).encode()),
    "a.zip": lambda d: zipped(json.dumps(d).encode()),
}  # fmt: skip


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path, marker: Path) -> Path:
    path = tmp_path / "files" / request.param
    path.parent.mkdir()
    path.write_bytes(FILES[request.param]([hostile(marker, i) for i in range(5)]))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A campaign's folder as after a run, made by hand."""
    path = tmp_path / "run"
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    campaign = load_campaign(tmp_path / "campaign.yaml")
    with open_workdir(path, campaign):
        store: Any = embedded_store(path)
        store.connect()
        for structure in (ROCKSALT, CSCL, NIAS):
            candidate = Candidate(
                origin=Origin(kind="prototype", id="x"), structure=structure.as_dict()
            )
            key = key_of(candidate, campaign.relaxation)
            level = campaign.relaxation.engine.level_of_theory(["Bi", "Se"])
            document = RelaxationDocument(
                key=key,
                level_of_theory=level,
                structure=structure.as_dict(),
                energy_per_atom=-4.0,
                converged=True,
                campaign=campaign.digest(),
                origin=candidate.origin,
                initial_structure=structure.as_dict(),
            )
            store.additional_stores[RESULTS].update(document.model_dump(mode="json"), key="key")
            phase = {
                "uid": f"{campaign.digest()}:{key}",
                "campaign": campaign.digest(),
                "id": key,
                "formula": structure.composition.reduced_formula,
                "energy_per_atom": -4.0,
                "e_above_hull": 0.0,
                "converged": True,
                "origin": candidate.origin.model_dump(),
                "level_of_theory": level.model_dump(),
                "structure": structure.as_dict(),
            }
            store.additional_stores[PHASES].update(phase, key="uid")
        store.close()
    return path


def refused(monkeypatch, capsys, *arguments: object) -> str:
    code, message = command(monkeypatch, capsys, *map(str, arguments))
    assert code == 2, message
    assert "Traceback" not in message
    assert message.strip().splitlines()[-1].startswith("error: "), message
    return message


def test_no_command_runs_what_a_file_names(
    monkeypatch, capsys, folder: Path, file: Path, marker: Path, tmp_path: Path
) -> None:
    campaign = tmp_path / "files.yaml"
    source = {"database": {"sources": [{"source": "files", "path": str(file)}]}}
    campaign.write_text(
        CAMPAIGN.replace("database: {", f"database: {{{json.dumps(source['database'])[1:-1]}, ")
    )
    for arguments in (
        ("evaluate", file, "--campaign", folder),
        ("known", "--references", file, "--campaign", folder),
        ("train", "all", file, "--out", tmp_path / "models"),
        ("run", campaign, "--workdir", tmp_path / "new"),
    ):
        message = refused(monkeypatch, capsys, *arguments)
        assert "magnetic moment" in message, message
        assert not marker.exists(), arguments
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("number", range(5))
def test_no_command_runs_what_a_document_names(
    monkeypatch, capsys, folder: Path, marker: Path, tmp_path: Path, number: int
) -> None:
    """Somebody with write access to the database has changed a phase and a relaxation."""
    store: Any = embedded_store(folder)
    store.connect()
    for name in (PHASES, RESULTS):
        changed = store.additional_stores[name]
        document = {**changed.query_one(), "structure": hostile(marker, number)}
        changed.update(document, key="_id")
    store.close()
    for suffix in ("zip", "extxyz", "json", "jsonl", "parquet"):
        out = tmp_path / f"out.{suffix}"
        code, message = command(monkeypatch, capsys, "export", str(out), "--workdir", str(folder))
        assert not marker.exists() and "Traceback" not in message
        # What needs no structure hands on what is stored: plain text for whoever reads it.
        assert code == 2 or suffix == "parquet", message
        assert code == 0 or not out.exists()
    assert command(monkeypatch, capsys, "query", "--workdir", str(folder))[0] == 0
    (tmp_path / "good.json").write_text(json.dumps(CSCL.as_dict()))
    for arguments in (
        ("evaluate", tmp_path / "good.json", "--campaign", folder),
        ("known", "--campaign", folder),
    ):
        message = refused(monkeypatch, capsys, *arguments)
        assert "no part of a structure" in message, message
