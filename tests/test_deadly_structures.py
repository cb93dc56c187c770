"""Structures that their process does not survive, among others that it does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crystals import ROCKSALT
from deadly import FATES, LEVEL, DeadlyEngine, ForkedEngine, variable
from maggma.stores import MemoryStore
from pymatgen.core import Structure

from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation import worker
from ccdcgan.dft.relaxation.failure import MachineError
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.processes import in_workers, relax_many
from ccdcgan.dft.relaxation.properties import compute
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import POTENTIAL_HOURS, RelaxationSettings
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Origin
from ccdcgan.workflows.failures import FailedStructure
from ccdcgan.workflows.relax import relax_missing
from ccdcgan.workflows.storage.stores import Relaxations


@pytest.fixture
def engine(tmp_path: Path) -> DeadlyEngine:
    return ForkedEngine(log=str(tmp_path / "log"))


def settings(engine: DeadlyEngine, hours: float | None = None) -> RelaxationSettings:
    return RelaxationSettings(engine=engine, max_hours=hours)


def runs(engine: DeadlyEngine) -> list[tuple[str, ...]]:
    """What was computed, and in which process."""
    return [tuple(line.split()) for line in Path(engine.log).read_text().splitlines()]


@pytest.mark.parametrize("kind", [DeadlyEngine, ForkedEngine])
def test_deadly_structures_are_to_blame_and_all_others_pass(
    kind: type[DeadlyEngine], tmp_path: Path
) -> None:
    """Documents say how each process died; nothing is left to do, and nobody else has suffered."""
    engine = kind(log=str(tmp_path / "log"))
    names = ["segfault", "passes", "killed", "memory", "exit"]
    chosen = settings(engine)
    store = MemoryStore(key="key")
    store.connect()
    origin = Origin(kind="prototype", id="p")
    campaign = Campaign(workers=2).model_copy(update={"relaxation": chosen})
    wanted = {
        content_key(FATES[name], LEVEL, chosen): Candidate(origin=origin, structure=FATES[name])
        for name in names
    }
    relax_missing(Relaxations(store), wanted, campaign, "relaxations")
    found = dict(zip(names, (store.query_one({"key": key}) for key in wanted), strict=True))
    assert found["passes"]["converged"] and found["passes"]["energy_per_atom"] == -3.0
    told = {n: FailedStructure.of(d).reason for n, d in found.items() if n != "passes"}
    assert {FailedStructure.of(found[name]).kind for name in told} == {"crystal"}
    assert told == {
        "segfault": "its process died: SIGSEGV (Segmentation fault), twice",
        "killed": "its process died: SIGKILL (Killed, as for want of memory), twice",
        "memory": "memory: MemoryError, twice",
        "exit": "its process ended with status 3, twice",
    }
    logged = runs(engine)
    for name in told:
        processes = [process for fate, process in logged if fate == name]
        assert len(processes) == len(set(processes)) == 2
    # Again there is nothing to do.
    relax_missing(Relaxations(store), wanted, campaign, "relaxations")
    assert runs(engine) == logged


def test_no_end_is_an_end(engine: DeadlyEngine) -> None:
    """A structure that never returns takes no more than twice the limit."""
    limited = settings(engine, hours=4 / 3600)
    ((_, result),) = relax_many([FATES["endless"]], limited)
    assert result.reason == "not done in 0.00111 h, twice"
    assert (result.failure, result.attempts) == ("crystal", 2)


@pytest.mark.parametrize(
    ("fate", "words"), [("segfault", "SIGSEGV"), ("cuda", "CUDA out of memory")]
)
def test_where_nothing_passes_the_machine_is_to_blame(
    engine: DeadlyEngine, fate: str, words: str
) -> None:
    """No structure is blamed for what happens to the smallest crystals, too."""
    broken = settings(engine.model_copy(update={"always": fate}))
    with pytest.raises(MachineError, match=f"not even of a crystal of two atoms.*{words}"):
        list(relax_many([ROCKSALT], broken))


def test_a_process_that_somebody_ends_is_nobodys_fault(engine: DeadlyEngine) -> None:
    with pytest.raises(UserError, match=r"was ended \(SIGTERM\): the same command goes on"):
        list(relax_many([FATES["term"]], settings(engine)))


def test_a_fault_of_the_machine_is_no_lack_of_the_crystal(engine: DeadlyEngine) -> None:
    relaxer = Relaxer(settings(engine))
    for fate, error in (("cuda", RuntimeError), ("memory", MemoryError)):
        with pytest.raises(error):
            compute(relaxer, FATES[fate], ["bulk_modulus"])


def fails(relaxer: Relaxer, structure: Structure) -> None:
    """A task with a mistake of ours."""
    raise ZeroDivisionError("of ours")


def test_a_bug_has_its_traceback(engine: DeadlyEngine) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in fails.*ZeroDivisionError: of ours"):
        list(in_workers(fails, [ROCKSALT], settings(engine), lambda structure, reason: None))


def test_two_tries_fit_into_the_queues_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end would else be begun in one queue job after the other."""
    for left, hours in ((36000, 3.0), (3600, 1 / 3), (300, 1 / 6)):
        monkeypatch.setenv("CCDCGAN_END_TIME", str(int(time.time()) + left))
        limit = worker._timeout(RelaxationSettings(engine=SevenNetEngine()))
        assert limit == pytest.approx(3600 * hours, abs=2)


def test_limit_of_time(engine: DeadlyEngine) -> None:
    """A setting without a part in keys and digests, nor in which campaign it is."""
    default, chosen = settings(engine), settings(engine, hours=0.5)
    assert (default.timeout, chosen.timeout) == (None, 1800), "a DFT code may take long"
    assert RelaxationSettings(engine=SevenNetEngine()).timeout == 3600 * POTENTIAL_HOURS
    assert content_key(ROCKSALT, LEVEL, default) == content_key(ROCKSALT, LEVEL, chosen)
    campaign = Campaign()
    limited = campaign.model_copy(
        update={"relaxation": campaign.relaxation.model_copy(update={"max_hours": 0.5})}
    )
    assert not campaign.differences(limited)
    assert "max_hours" not in campaign.model_dump(mode="json")["relaxation"]


def test_forks_have_the_environment_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of their server, which is older."""
    chosen = settings(ForkedEngine(log=str(tmp_path / "log")))
    for value in ("1", "2"):
        monkeypatch.setenv("A_VARIABLE", value)
        found = in_workers(variable, [ROCKSALT], chosen, lambda structure, reason: reason, 1)
        assert list(found) == [(0, value)]


@pytest.mark.parametrize("fault", ["raise RuntimeError", "import os; os._exit(1)"])
def test_an_import_that_ends_the_server_of_forks_ends_nothing_else(
    tmp_path: Path, fault: str
) -> None:
    (tmp_path / "broken_module.py").write_text(fault)
    code = (
        "from crystals import ROCKSALT\n"
        "from deadly import BrokenEngine\n"
        "from ccdcgan.dft.relaxation.processes import relax_many\n"
        "from ccdcgan.dft.relaxation.settings import RelaxationSettings\n"
        "settings = RelaxationSettings(engine=BrokenEngine(log='log'))\n"
        "for _ in range(2):\n"
        "    [(_, found)] = relax_many([ROCKSALT], settings, 1)\n"
        "    print(found.energy_per_atom)\n"
    )
    paths = (str(tmp_path), str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["-3.0", "-3.0"]
