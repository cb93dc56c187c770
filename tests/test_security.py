"""What foreign hands have put into files and databases: shown, refused, never run."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_jobs
from fireworks import Firework, ScriptTask, Workflow
from jobflow.managers.fireworks import flow_to_workflow
from maggma.stores import MemoryStore
from monty.json import MontyDecoder
from outcomes import outcome_of
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text
from test_campaign import command
from test_cluster import Here
from test_results import EVERY

from ccdcgan.dft.engines.vasp.record import read_record
from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli.app import explain
from ccdcgan.launchers.cli.terminal import Console
from ccdcgan.launchers.cluster.launch import launch
from ccdcgan.launchers.cluster.trusted import UntrustedError, objection, restrict
from ccdcgan.launchers.results.export import export
from ccdcgan.launchers.results.outcome import write_results
from ccdcgan.launchers.results.retry import Again, prepare_retry
from ccdcgan.launchers.results.tables import csv_text
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.documents import Outcome, RelaxationDocument
from ccdcgan.workflows.failures import FailedStructure
from ccdcgan.workflows.storage.stores import PHASES

#: A module that says when it is imported.
EVIL = """
import os
from pathlib import Path

Path(os.environ["MARKER"]).touch()


class Thing:
    @classmethod
    def from_dict(cls, data):
        return cls()


def call(*arguments):
    Path(os.environ["MARKER"]).touch()
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once anything of the module ``evil`` has run."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    return tmp_path / "marker"


@pytest.fixture
def here(
    tmp_path: Path, database: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, marker: Path
) -> Here:
    found = Here(tmp_path, database, monkeypatch, capsys)
    paths = f"{tmp_path / 'modules'}:{os.environ['PYTHONPATH']}"
    monkeypatch.setenv("PYTHONPATH", paths)
    return found


def stored(number: int = 7) -> dict[str, Any]:
    """A job as FireWorks stores it."""
    workflow = flow_to_workflow(toy_jobs.toys(toy_jobs.total(number)))
    found: dict[str, Any] = json.loads(json.dumps(workflow.fws[0].to_db_dict(), default=str))
    return found


def hostile(marker: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Jobs that would run what nobody trusts, by what they do."""

    def changed(**call: Any) -> dict[str, Any]:
        job = stored()
        job["spec"]["_tasks"][0]["job"] |= call
        return job

    def in_spec(**more: Any) -> dict[str, Any]:
        job = stored()
        job["spec"] |= more
        return job

    touch = f"touch {marker}"
    script = ScriptTask.from_str(touch).to_dict()
    evil = {"@module": "evil", "@class": "Thing"}
    job = stored()
    job["spec"]["_tasks"] = [script]
    yield "a script", job
    job = stored()
    job["spec"]["_tasks"].append(script)
    yield "a script beside a job", job
    job = stored()
    job["spec"]["_tasks"] = [{"_fw_name": "{{evil.Thing}}"}]
    yield "a task of another module", job
    job = stored()
    job["spec"]["_tasks"] = []
    yield "no task", job
    for module, name in (
        ("os", "system"),
        ("evil", "call"),
        # What a trusted module has imported is none of its own.
        ("ccdcgan.launchers.local.run", "os.system"),
        ("ccdcgan.launchers.local.run", "shutil.rmtree"),
        ("jobflow.core.job", "logging.os.system"),
        ("ccdcganevil", "call"),
        ("builtins", "eval"),
    ):
        function = {"@module": module, "@callable": name, "@bound": None}
        yield f"{module}.{name}", changed(function=function, function_args=[touch])
    inner = stored()["spec"]["_tasks"][0]["job"] | {
        "function": {"@module": "os", "@callable": "system", "@bound": None}
    }
    bound = {"@module": "jobflow.core.job", "@callable": "Job.function", "@bound": inner}
    yield "what an object holds", changed(function=bound, function_args=[touch])
    yield "an argument", changed(function_args=[{"deep": [evil]}])
    yield (
        "a function as argument",
        changed(function_kwargs={"x": {"@module": "evil", "@callable": "call", "@bound": None}}),
    )
    yield "its settings", changed(config={**evil})
    job = stored()
    job["spec"]["_tasks"][0]["store"] = evil
    yield "its store", job
    yield "the spec", in_spec(note=evil)
    yield "a task in the spec", in_spec(note={"_fw_name": "{{evil.Thing}}"})
    yield "a background task", in_spec(_background_tasks=[{"_fw_name": "BackgroundTask"}])
    yield "a folder", in_spec(_launch_dir=str(marker.parent / "elsewhere"))
    yield "files", in_spec(_files_in={"a": str(marker)}, _files_prev={"a": "/etc/hostname"})


def test_a_worker_runs_trusted_jobs_and_leaves_all_others(here: Here, marker: Path) -> None:
    here.submit(toy_jobs.toys(*toy_jobs.staged("toys", toy_jobs.spread(1, 2))))
    pad = here.pad
    cases = dict(hostile(marker))
    numbers = {}
    for name, job in cases.items():
        # Of a priority above all others, and stored by hand: FireWorks would look at it.
        firework = Firework([ScriptTask.from_str("true")], spec={"_fworker": "light"}, name=name)
        (number,) = pad.add_wf(Workflow([firework], name=name)).values()
        spec = job["spec"] | {"_fworker": "light", "_priority": 5}
        here.handle.fireworks.update_one({"fw_id": number}, {"$set": {"spec": spec}})
        numbers[name] = number
    said = here.worker()
    assert not marker.exists()
    assert not (marker.parent / "elsewhere").exists()
    assert "5 jobs were run" in said
    for name, number in numbers.items():
        found = here.handle.fireworks.find_one({"fw_id": number})
        assert found is not None
        assert found["state"] == "READY", name
        assert found["launches"] == [], name
        (line,) = [line for line in said.splitlines() if f"job {number} is not run" in line]
        assert "not trusted" in line
        assert "\x1b" not in line
    # Nobody starts queue jobs for them, and they are named.
    lines: list[str] = []
    assert launch(here.cluster, {}, lines.append, poll=0.1)
    assert any("is not trusted" in line and "docs/security.md" in line for line in lines)
    # Who trusts one more package has them looked at again.
    here.change({"trusted": ["toy_jobs", "more"]})
    live = here.handle.fireworks.count_documents({"refused.trusted": {"$ne": "more toy_jobs"}})
    assert live >= len(numbers)


def test_a_package_is_trusted_once_the_cluster_names_it(here: Here) -> None:
    here.submit(toy_jobs.toys(toy_jobs.total(3)))
    here.change({"trusted": None})
    said = here.worker()
    assert "0 jobs were run" in said
    assert "'total' of 'toy_jobs', which is not trusted" in said
    here.change({"trusted": ["toy_jobs"]})
    assert "1 job was run" in here.worker()
    assert here.counts() == {"COMPLETED": 1}


@pytest.mark.parametrize("value", ["evil;rm", "a.b", "", 3, "../x"])
def test_a_package_has_a_name(here: Here, value: Any) -> None:
    here.change({"trusted": [value]})
    assert "trusted" in here.complaint("status")


def test_decoders_import_nothing_that_is_not_known(marker: Path) -> None:
    restrict(())
    hidden = {"@module": "evil", "@class": "Thing"}
    for value in (hidden, {"a": [hidden]}, {"@module": "evil", "@callable": "call"}):
        with pytest.raises(UntrustedError, match="'evil', which is not trusted"):
            MontyDecoder().process_decoded(value)
        with pytest.raises(UntrustedError):
            json.loads(json.dumps(value), cls=MontyDecoder)
    with pytest.raises(UntrustedError, match="evil"):
        Firework.from_dict({"spec": {"_tasks": [{"_fw_name": "{{evil.Thing}}"}]}})
    with pytest.raises(UntrustedError):
        MontyDecoder().process_decoded({"@module": "pymatgen.core", "@callable": "os.system"})
    assert not marker.exists()
    # What is trusted is decoded as ever.
    lattice = EVERY[0]["structure"]
    assert len(MontyDecoder().process_decoded(lattice)) == EVERY[0]["nsites"]
    assert objection(stored(), ["toy_jobs"]) is None
    assert objection(stored(), []) is not None


ADDRESSES = [
    "mongodb://me:{password}@word@host/",
    "mongodb://me:{password}@host:port/",
    "mongodb://me:{password}@host:99999/",
    "mongodb://me:{password}@host/?maxPoolSize",
    "mongodb://me:{password}@host/?tlsCAFile=/nowhere",
    "http://me:{password}@host/",
    "me:{password}@host",
    "mongodb://",
    "mongodb+srv://me:{password}@host:27017/",
    "mongodb://me:{password}%zz@/",
    "  ",
]
COMMANDS = [
    ("query",),
    ("export", "out.zip"),
    ("status",),
    ("status", "x"),
    ("fetch", "x"),
    ("submit", "campaign.yaml"),
    ("check", "campaign.yaml"),
    ("launch",),
    ("retry",),
    ("pause", "x"),
    ("failures",),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_none_gets_one_line_without_the_password(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    queue = {"queue": {"queue": "main"}}
    settings = {"workers": dict.fromkeys(("dft", "gpu", "light"), queue)}
    Path("my_fireworks.yaml").write_text(json.dumps({**settings, "folder": str(tmp_path / "f")}))
    Path("campaign.yaml").write_text("system: Bi-Se\n")
    monkeypatch.setenv("CCDCGAN_MONGODB_URI", address.format(password="s3cret"))
    for words in COMMANDS:
        # It takes seconds over other things.
        if words[0] == "check" and address != ADDRESSES[0]:
            continue
        code, said = command(monkeypatch, capsys, *words, "--config", "my_fireworks.yaml")
        assert code == 2, (words, said)
        assert "s3cret" not in said
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if "CCDCGAN_MONGODB_URI" in line]
        assert lines, (words, said)
        if words[0] != "check":
            assert len(said.strip().splitlines()) == 1, (words, said)


def test_a_worker_whose_files_hold_no_address_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "config" / "light"
    folder.mkdir(parents=True)
    (tmp_path / "config" / "environment.sh").write_text("export A=b\n")
    (folder / "my_fworker.yaml").write_text("name: light\n")
    for content, said_of_it in (
        ("host: mongodb://me:s3cret@host:port/\nname: x\nuri_mode: true\n", "not the address"),
        ("host: [\n", "my_launchpad.yaml"),
        ("- 1\n", "my_launchpad.yaml"),
    ):
        (folder / "my_launchpad.yaml").write_text(content)
        code, said = command(monkeypatch, capsys, "worker", str(folder))
        assert code == 2, said
        assert said_of_it in said
        assert "s3cret" not in said
        assert len(said.strip().splitlines()) == 1, said


#: What changes title, colours and clipboard of a terminal, or the order of its letters.
STEERING = "\x1b]0;mine\x07\x1b[31mred\x1b]52;c;cm0=\x07\x9b2J\u202eabc\u2066\r\b"

ODD = [
    "../../outside.cif",
    "/{folder}/outside.cif",
    "structures/../../outside.cif",
    "structures/001_Bi.cif/../../../outside.cif",
    "..",
    "a\x00b",
    "structures/001_Bi2Se3.cif",
]


def tree(folder: Path) -> dict[str, bytes]:
    found = folder.rglob("*")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.is_file()}


def stored_outcome(phases: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Results of a campaign as they are in a database."""
    plain = outcome_of(EVERY[3]["level_of_theory"]).model_dump(mode="json")
    return {**plain, "phases": phases, **more}


@pytest.mark.parametrize("name", ODD)
def test_names_of_files_are_made_from_rank_and_formula(tmp_path: Path, name: str) -> None:
    name = name.replace("{folder}", str(tmp_path).strip("/"))
    phases = copy.deepcopy([EVERY[4], EVERY[3], EVERY[0], EVERY[5]])
    phases[2]["file"] = None
    for phase, formula in zip(phases, ("Bi2Se3", "../x\x1b/y", "Bi", "Li3Fe2(PO4)3"), strict=True):
        phase["formula"] = formula
    for phase in (phases[0], phases[1], phases[3]):
        phase["file"] = name
    folder = tmp_path / "results"
    folder.mkdir()
    write_results(Outcome.model_validate(stored_outcome(phases)), folder)
    assert {p.name for p in tmp_path.iterdir()} == {"results"}
    named = {
        "structures/001____x__y.cif",
        "structures/002_Bi2Se3.cif",
        "structures/003_Li3Fe2(PO4)3.cif",
    }
    assert {n for n in tree(folder) if n.endswith(".cif")} == named
    written = json.loads(gzip.decompress((folder / "phases.json.gz").read_bytes()))
    assert {p["file"] for p in written} == {*named, None}


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    phases = copy.deepcopy([EVERY[3]])
    phases[0]["file"] = "structures/001_Bi2Se3.cif"
    folder, other = tmp_path / "results", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "kept").write_text("x")
    (folder / "structures").symlink_to(other)
    with pytest.raises(OSError, match="structures"):
        write_results(Outcome.model_validate(stored_outcome(phases)), folder)
    assert tree(other) == {"kept": b"x"}


@pytest.fixture
def fetched(here: Here) -> Any:
    """Store the outcome of a campaign, and fetch it."""
    here.submit(toy_jobs.toys(toy_jobs.total(1)))
    uuid = here.handle.campaigns.find_one({})["outcome"]

    def fetch(outcome: Any) -> tuple[int, str]:
        document = {"uuid": uuid, "index": 1, "output": outcome}
        here.handle.outputs.replace_one({"uuid": uuid}, document, upsert=True)
        return here.command("fetch", "toys", "--workdir", "results")

    return fetch


def test_fetch_runs_nothing_and_writes_nowhere_else(here: Here, fetched: Any, marker: Path) -> None:
    evil = {"@module": "evil", "@class": "Thing"}
    before = set(tree(here.folder))
    phase = copy.deepcopy({k: v for k, v in EVERY[3].items() if k != "campaign"})
    phase |= {"file": "../outside.cif", "formula": "../../outside"}
    reference = {"@module": "jobflow.core.reference", "@class": "OutputReference", "uuid": "x"}
    code, said = fetched(stored_outcome([phase], more=[evil, {**reference, "x": evil}]))
    assert code == 0, said
    new = set(tree(here.folder)) - before
    assert all(name.startswith("results/") for name in new)
    assert "results/structures/001_______outside.cif" in new
    # A structure that names something is refused, and nothing of it is run.
    for place in ("sites", "lattice", "properties"):
        bad = copy.deepcopy(phase)
        target = bad["structure"]["sites"][0] if place == "sites" else bad["structure"]
        target["properties"] = {"magmom": evil}
        code, said = fetched(stored_outcome([bad]))
        assert code == 2
        assert len(said.strip().splitlines()) == 1
    assert not marker.exists()


@pytest.mark.parametrize(
    "outcome",
    [
        *(None, 7, [], {}, {"phases": None}, {"phases": [3]}, {"phases": [{"file": "x"}]}),
        *(stored_outcome([EVERY[3] | bad]) for bad in ({"file": 7}, {"converged": "x"})),
    ],
)
def test_results_that_are_damaged_get_one_line(here: Here, fetched: Any, outcome: Any) -> None:
    code, said = fetched(outcome)
    assert code == 2, said
    assert len(said.strip().splitlines()) == 1, said
    assert "damaged" in said or "not done" in said
    assert not Path("results").exists()


def test_status_shows_what_would_steer_the_terminal(here: Here) -> None:
    run = here.submit(toy_jobs.toys(*toy_jobs.staged("toys", toy_jobs.total(1))), "mine")
    name = f"[bold]{STEERING}[/bold]"
    here.handle.campaigns.update_one({}, {"$set": {"name": name, "system": name}})
    details = {"_stacktrace": f"Traceback\nRuntimeError: {name}\n"}
    here.handle.fireworks.update_one(
        {}, {"$set": {"spec.stage": name, "state": "FIZZLED", "spec._exception_details": details}}
    )
    for words in (("status",), ("status", run)):
        code, said = here.command(*words)
        assert code == 0
        assert "[bold]" in said.replace("\n", "")
        assert all(c.isprintable() or c == "\n" for c in said), words


def test_no_line_of_an_error_steers_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = STEERING.replace("\x00", "")
    Path("odd.yaml").write_text(json.dumps({"system": odd, odd: 1}))
    for words in (("run", f"[red]{odd}.yaml"), ("run", "odd.yaml"), ("query", "--label", odd)):
        code, said = command(monkeypatch, capsys, *words)
        assert code == 2
        assert all(c.isprintable() or c == "\n" for c in said), words


@pytest.mark.parametrize("content", ["a: [\n", "NO_SUCH: 1\n"])
def test_settings_of_fireworks_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "FW_config.yaml").write_text(content)
    queue = {"queue": {"queue": "main"}}
    settings = {"workers": dict.fromkeys(("dft", "gpu", "light"), queue)}
    (tmp_path / "my_fireworks.yaml").write_text(json.dumps(settings))
    environment = {k: v for k, v in os.environ.items() if k != "FW_CONFIG_FILE"}
    done = subprocess.run(
        [sys.executable, "-m", "ccdcgan.launchers.cli", "status"],
        cwd=tmp_path,
        env={**environment, "CCDCGAN_MONGODB_URI": "mongodb://127.0.0.1:1/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "FW_config.yaml" in done.stderr


def test_a_console_takes_no_orders() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=70, force_terminal=True, color_system=None)
    table = Table("[red]head", title=f"[b]{STEERING}", caption=":bomb:")
    table.add_row(f"[link=http://x]{STEERING}[/link]")
    console.print(f"[red]{STEERING}[/red] :bomb:", soft_wrap=True)
    console.print(table)
    console.print(Text("red", "red"), STEERING)
    said = stream.getvalue()
    for part in (
        "[red]",
        "[b]",
        "[link=http://x]",
        ":bomb:",
        r"\x1b[31mred",
        r"\u202eabc",
        r"\x9b",
    ):
        assert part in said, part
    assert all(c.isprintable() or c == "\n" for c in said)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", " =1", '=HYPERLINK("x")', "=", "-"]
)
def test_a_spreadsheet_computes_no_text(tmp_path: Path, text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text([text, "b"], [{text: text, "b": -1.5}])))
    text = text.replace("\r", "\n")
    assert row == {f"'{text}": f"'{text}", "b": "-1.5"}
    out = tmp_path / "out.zip"
    export([{**EVERY[2], "reason": text}], out)
    with zipfile.ZipFile(out) as archive:
        (row,) = csv.DictReader(io.StringIO(archive.read("phases.csv").decode()))
    assert row["reason"] == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+2", "1e-3", "Bi2Se3", "a=b", "x-y", "", "'"])
def test_numbers_and_plain_texts_stay_as_they_are(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_text(["a", "b"], [{"a": text, "b": None}])))
    assert row == {"a": text, "b": ""}


DAMAGED: list[dict[str, Any]] = [
    {"energy_per_atom": "much"},
    {"energy_per_atom": {"gt": 1}},
    {"level_of_theory": None},
    {"level_of_theory": {"engine": 7}},
    {"formula": None},
    {"id": None},
    {"formula": ["Bi"], "e_above_hull": "low", "origin": 7},
]


@pytest.mark.parametrize("change", DAMAGED)
def test_phases_that_are_none_hide_no_others(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    store = embedded_store(tmp_path).additional_stores[PHASES]
    store.connect()
    store._collection.insert_many(copy.deepcopy([EVERY[2], {**EVERY[3], **change}]))
    (tmp_path / "campaign.yaml").write_text("system: Bi-Se\n")
    at = ("--workdir", str(tmp_path))
    for form in ("table", "json", "csv"):
        code, said = command(monkeypatch, capsys, "query", *at, "--format", form)
        assert code == 0, said
        assert "prototype" in said
        assert "generated" not in said
    for suffix in ("zip", "extxyz", "json", "jsonl"):
        code, said = command(monkeypatch, capsys, "export", str(tmp_path / f"o.{suffix}"), *at)
        assert code == 0, said
        assert "1 phase in" in said


@pytest.mark.parametrize(
    "structure", [None, 7, {}, {"lattice": 1, "sites": []}, {**EVERY[3]["structure"], "sites": [1]}]
)
@pytest.mark.parametrize("suffix", ["zip", "extxyz", "json", "jsonl"])
def test_a_phase_without_a_crystal_is_named(tmp_path: Path, structure: Any, suffix: str) -> None:
    with pytest.raises(UserError, match=f"phase {EVERY[3]['uid']} is damaged") as caught:
        export([EVERY[2], {**EVERY[3], "structure": structure}], tmp_path / f"o.{suffix}")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_packed_table_is_read_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "campaign.yaml").write_text("system: Bi-Se\n")
    monkeypatch.setenv("CCDCGAN_MAX_UNPACKED", "20")
    packed = tmp_path / "phases.json.gz"
    deep = b"[" * 100_000
    for content in (b" " * 30_000_000, deep, b"{}", b"[1, null]", b"{", b"\xff"):
        packed.write_bytes(gzip.compress(content))
        code, said = command(monkeypatch, capsys, "query", "--workdir", str(tmp_path))
        assert len(said.strip().splitlines()) == 1, said
        assert code == (0 if content in (b"{}", b"[1, null]") else 2)
    packed.write_bytes(b"no gzip")
    assert command(monkeypatch, capsys, "query", "--workdir", str(tmp_path))[0] == 2


def test_retry_writes_into_folders_of_content_keys_alone(tmp_path: Path) -> None:
    """Others may write into a database."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store = MemoryStore(key="key")
    store.connect()
    keys = ["a" * 32, str(elsewhere), "../elsewhere", "..", "", "A" * 32]
    failed = [FailedStructure.of({"key": key, "origin": {"kind": "k", "id": "i"}}) for key in keys]
    store.update([{"key": key, "converged": False} for key in keys])
    prepare_retry(store, tmp_path / "calculations", failed, Again(incar={"ALGO": "Normal"}))
    assert [p.relative_to(tmp_path) for p in tmp_path.rglob("retry.json")] == [
        Path("calculations", "a" * 32, "retry.json")
    ]
    assert not list(elsewhere.iterdir())
    assert store.distinct("key", {"retry": True}) == ["a" * 32]


@pytest.mark.parametrize(
    "folder", ["../../victim", "/victim", "..", ".", "", "a\0b", ["x"], None, "01-relax/../x"]
)
def test_a_record_names_folders_of_its_calculation_alone(tmp_path: Path, folder: object) -> None:
    (tmp_path / "01-relax").mkdir()
    record = [{"folder": folder, "stage": 0, "rung": 0, "outcome": "done"}]
    (tmp_path / "calculation.json").write_text(json.dumps(record))
    assert [(a.folder, a.retired) for a in read_record(tmp_path)] == [("01-relax", True)]


def test_a_stored_document_that_is_damaged_gets_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        RelaxationDocument.model_validate({"key": 7})
    said = explain(caught.value)
    assert said is not None
    assert said.startswith("a stored document is damaged: RelaxationDocument: key: ")
    assert "\n" not in said
