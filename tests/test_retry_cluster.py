"""Structures that failed on a cluster are tried again: real database, real queue, stand-in VASP."""

import gzip
import json
import sys
from pathlib import Path

import pytest
import test_cluster
from jobflow import Flow
from potcars import write_potcars
from test_cluster import Here
from test_conclusion import ROUND
from test_vasp_campaign import crystal

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster.queue import parse_queue, with_parameters
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.conclude import conclude
from ccdcgan.workflows.jobs import in_stage
from ccdcgan.workflows.relax import RelaxMaker, in_batches

pytestmark = pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning")

ENGINE = {"name": "vasp", "polling": 0.1, "buffer": 5, "stages": ["relax"]}
CAMPAIGN = {
    "system": "Bi-Se",
    "relaxation": {"engine": ENGINE, "fmax": 0.01, "max_steps": 60},
}
FORMULAS = ("BiSe", "BiSe2", "Bi3Se")

here = test_cluster.here


class OnCluster:
    """A campaign of some relaxations, and of its conclusion, whose VASP fails as it is told."""

    def __init__(
        self, here: Here, monkeypatch, formulas: tuple[str, ...] = FORMULAS, ends: bool = False
    ) -> None:
        from ccdcgan.workflows.flow import InverseDesignMaker

        self.here, folder = here, here.folder
        self.file = folder / "bise.yaml"
        self.file.write_text(json.dumps(CAMPAIGN))
        stand_in = Path(__file__).with_name("vasp_stand_in.py")
        environment = {
            "PMG_VASP_PSP_DIR": str(write_potcars(folder / "psp", ["Bi", "Se"])),
            "ATOMATE2_VASP_CMD": f"{sys.executable} {stand_in}",
            "VASP_STAND_IN_LOG": str(folder / "log"),
            "VASP_STAND_IN_FAULTS": str(folder / "faults.json"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        candidates = [
            {"origin": {"kind": "prototype", "id": f}, "structure": crystal(f).as_dict()}
            for f in formulas
        ]

        def flow(_: object, campaign: Campaign) -> Flow:
            plain = campaign.model_dump(mode="json")
            job = in_stage(RelaxMaker().make(candidates, plain, "database"), "database")
            jobs = [job]
            if ends:
                outcome = {"entries": job.output["entries"], "history": [ROUND]}
                proposed = {"seconds": 1.0, "rejected": {}, "skipped": []}
                autoencoder = {"match_fraction": 1.0, "held_out": 1, "seconds": 1.0}
                end = conclude(job.output, proposed, autoencoder, outcome, campaign)
                jobs.append(in_stage(end, "conclusion"))
            made = Flow(jobs, output=jobs[-1].output)
            made.update_config(
                {"manager_config": {"_fworker": "light"}}, name_filter="store_inputs"
            )
            return made

        monkeypatch.setattr(InverseDesignMaker, "make", flow)

    def faults(self, told: object) -> None:
        (self.here.folder / "faults.json").write_text(json.dumps(told))

    def command(self, *arguments: object) -> tuple[int, str]:
        return self.here.command(*arguments, "--config", self.here.config)

    def complaint(self, *arguments: object) -> str:
        return self.here.complaint(*arguments, "--config", self.here.config)

    def work(self, *classes: str) -> None:
        for name in classes:
            self.here.worker(name)

    def failures(self, *arguments: object) -> list[dict]:
        code, said = self.command("failures", *arguments, "--format", "json")
        assert code == 0, said
        return json.loads(said)

    def documents(self) -> dict[str, dict]:
        return {d["origin"]["id"]: d for d in self.here.handle.relaxations.find()}

    def runs(self) -> list[dict]:
        return [json.loads(line) for line in (self.here.folder / "log").read_text().splitlines()]


@pytest.fixture
def cluster(here, monkeypatch) -> OnCluster:
    return OnCluster(here, monkeypatch)


def test_what_failed_is_tried_again_with_more_of_the_queue(cluster, slurm):
    """One structure fails by itself, one by the machine; then both are mended."""
    cluster.faults({"BiSe2": {"fault": "eddrmm", "times": None}, "Bi3Se": {"fault": "disk"}})
    code, said = cluster.command("submit", cluster.file)
    assert code == 0, said
    retry = ("retry", "--structures", "--campaign", "bise")
    code, said = cluster.command(*retry)
    assert code == 0 and "nothing to try again" in said
    cluster.work("dft")
    rows = {row["formula"]: row for row in cluster.failures("--campaign", "bise")}
    assert {f: row["kind"] for f, row in rows.items()} == {"BiSe2": "crystal", "Bi3Se": "machine"}
    assert "disk of" in rows["Bi3Se"]["reason"] and rows["Bi3Se"]["steps"] > 0

    # The disk has space again: its job is run again as it is, and goes on.
    code, said = cluster.command(*retry, "--only", "machine")
    assert code == 0 and "1 job is tried again" in said
    cluster.work("dft", "light")
    third = [run for run in cluster.runs() if run["formula"] == "Bi3Se"]
    assert len(third) == 2 and third[1]["start"] != third[0]["start"]
    assert [row["formula"] for row in cluster.failures()] == ["BiSe2"]

    before, runs = cluster.documents(), len(cluster.runs())
    for wrong, words in {
        ("--queue", "memory=64G"): "has no 'memory'",
        ("--queue", "mem"): "write it as mem=64G",
        ("--queue", "mem=1;reboot"): "mem cannot be",
        ("--incar", "ENCUT=600"): "another level of theory",
        ("--formula", "Xx"): "no formula such as",
        ("--campaign", "none"): "no campaign 'none'",
    }.items():
        assert words in cluster.complaint(*retry, *wrong)
    assert cluster.documents() == before
    # Another algorithm is known to help. More attempts are a technical setting: the same campaign.
    cluster.faults({"BiSe2": {"fault": "eddrmm"}})
    changed = {"engine": ENGINE | {"attempts": 5}}
    cluster.file.write_text(
        json.dumps({**CAMPAIGN, "relaxation": CAMPAIGN["relaxation"] | changed})
    )
    asked = ("--queue", "queue=short", "--queue", "walltime=00:04:00", "--incar", "ALGO=Normal")
    code, said = cluster.command(*retry[:2], "--campaign", cluster.file, *asked)
    assert code == 0 and "1 structure is tried again: submitted as" in said, said
    assert "still has 1 job to run" in cluster.complaint(*retry)
    cluster.work("dft")
    code, said = cluster.command("launch", "--once")
    queue = slurm.run("squeue", "-h", "-o", "%P %l").stdout.split("\n")
    assert code == 0 and "short 4:00" in queue and not any("main" in line for line in queue), said
    code, said = cluster.command("launch", "--poll", "0.5")
    assert code == 0, said
    after = cluster.documents()
    assert all(d["converged"] and not d["retry"] for d in after.values()) and len(after) == 3
    assert all(after[f] == before[f] for f in ("BiSe", "Bi3Se"))
    assert {run["formula"] for run in cluster.runs()[runs:]} == {"BiSe2"}
    assert cluster.failures() == []
    settings = [d["settings"] for d in cluster.here.handle.campaigns.find()]
    assert [s["relaxation"]["engine"]["attempts"] for s in settings] == [8, 5]


def test_what_is_built_on_a_failed_structure_is_made_again(here, monkeypatch):
    """Hull, summary and files of a campaign that had ended without it."""
    cluster = OnCluster(here, monkeypatch, ("Bi", "Se", "BiSe", "BiSe2"), ends=True)
    cluster.faults({"BiSe2": {"fault": "eddrmm", "times": None}})

    def fetched(name: str) -> tuple[dict, dict[str, float]]:
        code, said = cluster.command("fetch", "bise", "--workdir", here.folder / name)
        assert code == 0, said
        phases = json.loads(gzip.decompress((here.folder / name / "phases.json.gz").read_bytes()))
        summary = json.loads((here.folder / name / "summary.json").read_text())
        return summary["failures"], {p["formula"]: p["energy_per_atom"] for p in phases}

    assert cluster.command("submit", cluster.file)[0] == 0
    cluster.work("dft", "light")
    failures, before = fetched("before")
    assert failures["crystal"] == 1 and set(before) == {"Bi", "Se", "BiSe"}
    runs = len(cluster.runs())
    cluster.faults({})
    code, said = cluster.command("retry", "--structures", "--campaign", "bise")
    assert code == 0 and "1 structure is tried again: submitted as" in said, said
    cluster.work("dft", "light")
    failures, after = fetched("after")
    assert failures["crystal"] == 0 and after.pop("BiSe2") is not None and after == before
    assert {run["formula"] for run in cluster.runs()[runs:]} == {"BiSe2"}
    assert "BiSe2" in (here.folder / "after" / "report.html").read_text(encoding="utf-8")


def test_what_another_campaign_has_asked_for_first_is_among_the_failures(cluster):
    code, said = cluster.command("submit", cluster.file)
    assert code == 0, said
    handle = cluster.here.handle
    failed = {
        "converged": False,
        "campaign": "elsewhere",
        "origin": {"kind": "prototype", "id": "x"},
        "reason": "electrons did not converge",
    }
    handle.relaxations.insert_many([{"key": key, **failed} for key in ("shared", "foreign")])
    assert cluster.failures("--campaign", "bise") == []
    # Its job is done, with what was there.
    job = handle.fireworks.find_one({})
    entries = [{"key": key, "origin": failed["origin"]} for key in ("shared", "converged")]
    output = {"uuid": job["spec"]["_tasks"][0]["job"]["uuid"], "index": 1}
    handle.outputs.insert_one({**output, "output": {"entries": entries, "seconds": 1.0}})
    handle.fireworks.update_one({"fw_id": job["fw_id"]}, {"$set": {"state": "COMPLETED"}})
    assert [row["key"] for row in cluster.failures("--campaign", "bise")] == ["shared"]
    assert {row["key"] for row in cluster.failures()} == {"shared", "foreign"}
    assert "1 failed: 1 crystal" in cluster.command("status", "bise")[1]


def test_values_of_a_queue_are_checked_wherever_they_come_from(here):
    worker = here.cluster.workers["dft"]
    assert parse_queue(["mem = 64G"], worker) == {"mem": "64G"}
    for wrong in ({"mem": "1\n#SBATCH"}, {"mem": "$(id)"}, {"mem": {"a": 1}}, {"type": "PBS"}):
        with pytest.raises(UserError, match="queue: "):
            with_parameters(worker, wrong)


def test_structures_with_wishes_are_alone_and_the_order_stays():
    assert list(in_batches("abcdef", 2, {"c"})) == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    assert list(in_batches("abc", 5, {"a"})) == [["a"], ["b", "c"]]
    assert list(in_batches("", 5, {})) == []


def test_a_campaign_is_known_by_a_file_with_other_technical_settings(here):
    """Not by one of another level of theory."""
    from ccdcgan.launchers.cluster.submit import submit
    from ccdcgan.launchers.results.retry import campaign_on

    submit(parse_campaign(CAMPAIGN, "x"), "bise", here.cluster)
    file = here.folder / "other.yaml"
    for changed, known in (({"walltime": 2.0}, True), ({"incar": {"ENCUT": 600}}, False)):
        relaxation = CAMPAIGN["relaxation"] | {"engine": ENGINE | changed}
        file.write_text(json.dumps({**CAMPAIGN, "relaxation": relaxation}))
        if known:
            assert campaign_on(here.pad, str(file))[0].name == "bise"
        else:
            with pytest.raises(UserError, match="was submitted"):
                campaign_on(here.pad, str(file))
