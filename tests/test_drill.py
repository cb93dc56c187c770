"""A few of the drill's faults, each in a real run; benchmarks/drill.py has all of them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from drill import Undisturbed, struck, table, undisturbed
from drill_campaign import Local
from drill_faults_cluster import FAULTS
from drill_results import Results

#: Fault and seed, which is also when it strikes. The first ones need neither queue nor database;
#: kills of a run on one machine are in test_run, too.
ON_ONE_MACHINE = (
    pytest.param("kill-relaxation", 9, marks=pytest.mark.long),
    ("crystal-segfaults", 0),
)
ON_A_CLUSTER = (("kill-worker", 6), ("kill-database", 1), ("cancel-job", 3))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drill")


@pytest.fixture(scope="module")
def expected(work: Path) -> Undisturbed:
    return undisturbed(Local, work)


def judge(name: str, seed: int, expected: Undisturbed, work: Path, services: object = None) -> None:
    record = struck(FAULTS[name], seed, expected, work, services)
    assert record["ended"], record
    assert not any(record[what] for what in ("lost", "doubled", "wrong")), record
    assert len(record["actions"]) <= 1, record


@pytest.mark.parametrize(("name", "seed"), ON_ONE_MACHINE)
def test_campaign_ends_with_the_phases_of_the_undisturbed_one(name, seed, expected, work):
    judge(name, seed, expected, work)


@pytest.mark.parametrize(("name", "seed"), ON_A_CLUSTER)
def test_campaign_on_a_cluster_does(name, seed, expected, work, stoppable_server, slurm):
    services = SimpleNamespace(server=stoppable_server, slurm=slurm)
    judge(name, seed, expected, work, services)


def test_what_is_lost_or_wrong_is_seen():
    phases = {"a": ("Cu", "stable", -1.0), "b": ("CuAu", "stable", -2.0)}
    right = Results(phases, {"a": -1.0, "b": -2.0, "c": None}, [])
    assert right.against(right) == {"lost": [], "wrong": []}
    less = Results({"a": phases["a"]}, {"a": -1.0, "c": None}, [])
    assert less.against(right) == {"lost": ["b"], "wrong": []}
    assert less.against(right, without=["b"]) == {"lost": [], "wrong": []}
    other = Results(
        {**phases, "b": ("CuAu", "stable", -2.1)}, {"a": -1.0, "b": -2.0, "c": -3.0}, []
    )
    assert other.against(right) == {"lost": [], "wrong": ["b", "c"]}
    more = Results({**phases, "d": phases["a"]}, {**right.energies, "d": -1.0}, [])
    assert more.against(right) == {"lost": [], "wrong": ["d"]}


def test_table_sums_what_is_kept(tmp_path):
    (tmp_path / "kill.json").write_text(
        '[{"seed": 0, "actions": ["the same command again"], "lost": [], "doubled": ["a"]},'
        ' {"seed": 1, "actions": [], "lost": ["all"]}]'
    )
    lines, sums = table(tmp_path, list(FAULTS.values()))
    assert lines[2] == (
        "| SIGKILL to the campaign's process | 2 | 1 | 1 | 0 | 1 | the same command again |"
    )
    assert sums == {"runs": 2, "faults": 1, "lost": 1, "doubled": 1, "wrong": 0, "actions": 1}
