"""What failed is listed with its reason, and tried again by a command; VASP's stand-in fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import status_of
from potcars import write_potcars
from ruamel.yaml import YAML
from test_vasp_campaign import DRIVER, crystal

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.results.failures import Wanted, failures_of_folder
from ccdcgan.launchers.results.retry import Again, parse_incar, prepare_retry
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, embedded_store
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.failures import FailedStructure, counts
from ccdcgan.workflows.storage.stores import RESULTS

CAMPAIGN = Campaign(
    system=("Bi", "Se"),
    relaxation={
        "engine": {"name": "vasp", "polling": 0.1, "stages": ["relax"]},
        "fmax": 0.01,
        "max_steps": 60,
    },
)
#: A fault that no step of the ladder mends, but another ALGO.
FAULTS = {"BiSe2": {"fault": "eddrmm", "times": None}, "Bi3Se": {"fault": "kill", "times": None}}


class Folder:
    """A campaign's folder whose relaxations a process of its own runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        candidates = [
            {"origin": {"kind": "prototype", "id": f}, "structure": crystal(f).as_dict()}
            for f in ("BiSe", "BiSe2", "Bi3Se")
        ]
        plain = CAMPAIGN.model_dump(mode="json")
        (folder / "told.json").write_text(json.dumps({"candidates": candidates, "campaign": plain}))
        with (folder / CAMPAIGN_FILE).open("w") as stream:
            YAML().dump(plain, stream)
        self.faults(FAULTS)
        self.environment = os.environ | {
            "PMG_VASP_PSP_DIR": str(write_potcars(folder / "psp", ["Bi", "Se"])),
            "ATOMATE2_VASP_CMD": f"{sys.executable} {Path(__file__).with_name('vasp_stand_in.py')}",
            "CCDCGAN_CALCULATIONS": str(folder / "calculations"),
            "VASP_STAND_IN_LOG": str(folder / "log"),
            "VASP_STAND_IN_FAULTS": str(folder / "faults.json"),
        }
        for name in ("SLURM_JOB_END_TIME", "CCDCGAN_END_TIME", "CCDCGAN_CONFIG"):
            self.environment.pop(name, None)

    def faults(self, told: object) -> None:
        (self.path / "faults.json").write_text(json.dumps(told))

    def relax(self) -> int:
        command = [sys.executable, "-c", DRIVER, str(self.path)]
        return subprocess.run(command, env=self.environment, capture_output=True).returncode

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ccdcgan.launchers.cli", *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, cwd=self.path
        )

    def documents(self) -> dict[str, dict]:
        store = embedded_store(self.path).additional_stores[RESULTS]
        store.connect()
        return {d["origin"]["id"]: d for d in store.query()}

    def runs(self) -> list[dict]:
        return [json.loads(line) for line in (self.path / "log").read_text().splitlines()]


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("failed"))
    assert folder.relax() == 0
    return folder


@pytest.fixture
def inside(failed, monkeypatch, capsys):
    """The command line in this process, which has imported everything: status and output."""

    def run(*arguments):
        monkeypatch.chdir(failed.path)
        monkeypatch.delenv("CCDCGAN_CONFIG", raising=False)
        monkeypatch.setenv("COLUMNS", "200")
        status = status_of(monkeypatch, *arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_failures_are_listed_with_the_codes_own_words(failed, inside):
    said = failed.command("failures", failed.path, "--format", "json")
    rows = {row["formula"]: row for row in json.loads(said.stdout)}
    assert set(rows) == {"BiSe2", "Bi3Se"} and said.returncode == 0
    row = rows["BiSe2"]
    assert row["kind"] == "crystal" and row["origin"] == "prototype BiSe2"
    assert "ZHEGV failed" in row["said"] and "failed in 4 ways" in row["reason"]
    assert row["runs"] == 4 and row["steps"] > 0 and row["host"]
    assert Path(row["folder"]).is_dir() and Path(row["folder"]).name == row["key"]
    _, table, _ = inside("failures", ".")
    assert "BiSe2" in table and "1 crystal: " in table
    _, one, _ = inside("failures", ".", "--formula", "Se4Bi2", "--format", "json")
    assert [r["formula"] for r in json.loads(one)] == ["BiSe2"]
    status, _, none = inside("failures", ".", "--only", "no such words")
    assert status == 0 and "nothing failed" in none


def test_successes_have_host_and_folder(failed):
    good = failed.documents()["BiSe"]
    assert good["host"] and Path(good["folder"]).is_dir() and good["failure"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["failures", "nowhere"], "holds no campaign"),
        (["failures", ".", "--format", "xml"], "unknown format"),
        (["failures", ".", "--campaign", "a"], "a folder has one campaign"),
        (["failures", ".", "--formula", "Xx9"], "no formula such as Bi2Se3"),
        (["retry", ".", "--structures", "--incar", "ENCUT=600"], "another level of theory"),
        (["retry", ".", "--structures", "--incar", "ALGO"], "write it as ALGO=Normal"),
        (["retry", ".", "--structures", "--from", "middle"], "choose last or first"),
        (["retry", "--dry-run"], "go with --structures"),
    ],
)
def test_bad_input_is_one_line(failed, inside, arguments, words):
    before = failed.documents()
    status, _, said = inside(*arguments)
    assert status == 2 and words in said and len(said.strip().splitlines()) == 1
    assert failed.documents() == before


def test_nothing_to_retry_is_said(failed, inside):
    status, _, said = inside("retry", ".", "--structures", "--formula", "BiSe")
    assert status == 0 and "nothing to try again" in said
    _, shown, _ = inside("retry", ".", "--structures", "--dry-run")
    assert "BiSe2" in shown and not any(d["retry"] for d in failed.documents().values())


def test_retried_structures_go_on_from_their_last_geometry(failed):
    """With a tag for these alone; what is there is not computed again."""
    before, runs = failed.documents(), len(failed.runs())
    store = embedded_store(failed.path).additional_stores[RESULTS]
    store.connect()
    found = failures_of_folder(failed.path, Wanted())
    # The cause is gone: another node for the one, another algorithm for the other.
    failed.faults({"BiSe2": {"fault": "eddrmm"}})
    prepare_retry(store, failed.path / "calculations", found, Again({"ALGO": "Normal"}))
    assert all(f.waits for f in failures_of_folder(failed.path, Wanted()))
    assert failed.relax() == 0
    after = failed.documents()
    assert all(d["converged"] and not d["retry"] for d in after.values())
    assert failures_of_folder(failed.path, Wanted()) == []
    assert after["BiSe"] == before["BiSe"] and after["BiSe2"]["key"] == before["BiSe2"]["key"]
    again = failed.runs()[runs:]
    assert {r["formula"] for r in again} == {"BiSe2", "Bi3Se"}
    for formula in ("BiSe2", "Bi3Se"):
        first = [r for r in failed.runs()[:runs] if r["formula"] == formula]
        second = [r for r in again if r["formula"] == formula]
        reached = min(r["energy_last"] for r in first if r["energy_last"] is not None)
        begun = first[0]["energy_first"]
        # The last step of a run that was killed is in no file.
        assert second[0]["energy_first"] - reached < 0.1 * (begun - reached) + 1e-3


def test_a_calculation_that_runs_is_not_touched(tmp_path):
    from ccdcgan.dft.engines.vasp.record import retry_calculation
    from ccdcgan.dft.files import locked

    (tmp_path / "calculation.json").write_text("[]")
    with locked(tmp_path / ".lock", "busy"), pytest.raises(UserError, match="wait for its end"):
        retry_calculation(tmp_path, {}, "last")
    assert not (tmp_path / "retry.json").exists()


def test_reasons_are_counted_without_their_numbers():
    rows = [
        FailedStructure(kind="crystal", formula="Bi", origin=None, reason=f"force is 0.{n} eV/Å")
        for n in range(3)
    ]
    assert counts(rows) == [("crystal", "force is # eV/Å", 3)]


def test_tags_of_the_command_line():
    vasp = parse_campaign({"confirm": {"relaxation": {"engine": {"name": "vasp"}}}}, "x")
    assert parse_incar(["algo = Normal", "SYMPREC=1e-8", "NCORE=4"], vasp) == {
        "ALGO": "Normal",
        "SYMPREC": 1e-8,
        "NCORE": 4,
    }
    for tag in ("ENCUT", "ISPIN", "LDAU", "METAGGA", "GGA", "IVDW", "PREC"):
        with pytest.raises(UserError, match="another level of theory"):
            parse_incar([f"{tag}=1"], vasp)
    with pytest.raises(UserError, match="whose engine is vasp"):
        parse_incar(["ALGO=Normal"], Campaign())
