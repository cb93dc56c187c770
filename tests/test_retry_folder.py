"""Structures of a folder that failed are tried again, and what was built without them anew."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

from potcars import write_potcars
from ruamel.yaml import YAML
from small_campaign import CAMPAIGN, ccdcgan, results

ENGINE = {"name": "vasp", "polling": 0.1, "stages": ["relax"]}


def test_a_confirmation_without_an_element_gets_its_hull(tmp_path, finished, monkeypatch):
    """The campaign is done: its relaxations stay, the confirming hull is made when Se is there."""
    folder, file, log = tmp_path / "run", tmp_path / "campaign.yaml", tmp_path / "log"
    shutil.copytree(finished, folder)
    plain = YAML(typ="safe").load(CAMPAIGN)

    def run(*arguments: object, attempts: int = 8) -> str:
        relaxation = {"engine": ENGINE | {"attempts": attempts}, "fmax": 0.05, "max_steps": 60}
        plain["confirm"] = {"count": 1, "relaxation": relaxation}
        file.write_text(json.dumps(plain))
        process = ccdcgan(*arguments, cwd=tmp_path)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        return said

    def failures() -> list[dict]:
        return json.loads(run("failures", folder, "--format", "json"))

    def runs() -> Counter[str]:
        return Counter(json.loads(line)["formula"] for line in log.read_text().splitlines())

    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"Se": {"fault": "subspacematrix", "times": None}}))
    stand_in = Path(__file__).with_name("vasp_stand_in.py")
    for name, value in {
        "PMG_VASP_PSP_DIR": write_potcars(tmp_path / "psp", ["Bi", "Se"]),
        "ATOMATE2_VASP_CMD": f"{sys.executable} {stand_in}",
        "VASP_STAND_IN_LOG": log,
        "VASP_STAND_IN_FAULTS": faults,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert "not confirmed" in run("run", file, "--workdir", folder, attempts=2).lower()
    before, phases = runs(), results(folder)[1]
    failed = failures()
    of_vasp = [f for f in failed if f["runs"] and f["folder"]]
    assert {f["formula"] for f in of_vasp} == {"Se"} and of_vasp[0]["runs"] == 2
    crystals = {c["key"]: c for c in json.loads((folder / "confirmed.json").read_text())}
    assert {c["formula"] for c in crystals.values() if not c["converged"]} == {"Se"}

    # Another algorithm helps, given with the retry.
    faults.write_text(json.dumps({"Se": {"fault": "subspacematrix", "unless": {"ALGO": "All"}}}))
    ask = ("retry", folder, "--structures", "--formula", "Se", "--only", "not hermitian")
    said = run(*ask, "--incar", "ALGO=All", "--campaign", file, attempts=7)
    assert f"{len(of_vasp)} structure is tried again" in said
    after = {c["key"]: c for c in json.loads((folder / "confirmed.json").read_text())}
    assert after.keys() == crystals.keys() and all(c["converged"] for c in after.values())
    assert all(c["after"]["e_above_hull"] is not None for c in after.values())
    same = [key for key, c in crystals.items() if c["converged"]]
    assert all(after[key]["structure"] == crystals[key]["structure"] for key in same)
    # The campaign's own phases, and all that VASP had done, are as they were.
    assert results(folder)[1] == phases
    assert {f for f, n in runs().items() if n != before[f]} == {"Se"}
    assert not [f for f in failures() if f in of_vasp]
    stored = YAML(typ="safe").load((folder / "campaign.yaml").read_text())
    assert stored["confirm"]["relaxation"]["engine"]["attempts"] == 7
