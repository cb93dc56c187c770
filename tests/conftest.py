"""Environment of all tests, set before any imports Keras or PyTorch, and services for some."""

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from maggma.stores import MemoryStore
from potcars import write_potcars
from services import Database, MongoServer, Slurm, in_memory
from small_campaign import start

# The same inputs each time, and none kept on disk.
settings.register_profile(
    "ccdcgan",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("ccdcgan")

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On cells of few atoms more threads only wait for each other, ten times as long on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Geometries that DFT codes go on from: never those of an earlier run of the tests.
os.environ["CCDCGAN_CALCULATIONS"] = tempfile.mkdtemp(prefix="ccdcgan-tests-")
atexit.register(shutil.rmtree, os.environ["CCDCGAN_CALCULATIONS"], ignore_errors=True)


#: Files that take minutes: begun first, so that no process works alone at the end. A file's tests
#: share fixtures: of several processes (-n 3 --dist loadfile) one has them.
LONGEST = (
    "test_run",
    "test_drill",
    "test_predict",
    "test_continuation",
    "test_vasp_campaign",
    "test_retry_cluster",
    "test_dft_engines",
    "test_benchmarks",
    "test_train",
    "test_training_autoencoder",
    "test_cluster",
    "test_evaluate",
    "test_stability",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda i: LONGEST.index(i.path.stem) if i.path.stem in LONGEST else len(LONGEST))


def pytest_configure(config: pytest.Config) -> None:
    # Else the files of the most tests would be begun first.
    config.option.loadscopereorder = False


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    # Not pytest's tmp_path: too long for a socket's name, and kept for days.
    kept = {"prefix": "ccdcgan-", "dir": in_memory(1), "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**kept) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def mongo_server(service_folder: Path) -> Iterator[MongoServer]:
    """Server of CCDCGAN_TEST_MONGODB_URI, or one that is started here."""
    uri = os.environ.get("CCDCGAN_TEST_MONGODB_URI")
    if not uri and not importlib.util.find_spec("secantus"):
        pytest.skip("needs CCDCGAN_TEST_MONGODB_URI or secantusdb: pip install 'ccdcgan[dev]'")
    folder = service_folder / "mongodb"
    folder.mkdir()
    server = MongoServer(folder, uri)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def stoppable_server(mongo_server: MongoServer) -> Iterator[MongoServer]:
    """The same, for tests that stop or kill it; it runs again after them."""
    if not mongo_server.can_stop:
        pytest.skip("the server of CCDCGAN_TEST_MONGODB_URI is not the tests' to stop")
    yield mongo_server
    mongo_server.start()


@pytest.fixture
def database(mongo_server: MongoServer) -> Iterator[Database]:
    with mongo_server.database() as fresh:
        yield fresh


@pytest.fixture(scope="session")
def slurm(service_folder: Path) -> Iterator[Slurm]:
    if lack := Slurm.lacks():
        pytest.skip(lack)
    folder = service_folder / "slurm"
    folder.mkdir()
    server = Slurm(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(server.conf))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def vasp_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose VASP is the stand-in, with POTCARs of Bi and Se and folders of its own."""
    import pymatgen.core

    folder = str(write_potcars(tmp_path / "psp", ["Bi", "Se"]))
    monkeypatch.setitem(pymatgen.core.SETTINGS, "PMG_VASP_PSP_DIR", folder)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", folder)
    stand_in = Path(__file__).with_name("vasp_stand_in.py")
    monkeypatch.setenv("ATOMATE2_VASP_CMD", f"{sys.executable} {stand_in}")
    monkeypatch.setenv("CCDCGAN_CALCULATIONS", str(tmp_path / "calculations"))
    monkeypatch.setenv("VASP_STAND_IN_FAULTS", str(tmp_path / "faults.json"))
    monkeypatch.setenv("VASP_STAND_IN_LOG", str(tmp_path / "log"))
    return tmp_path


@pytest.fixture
def pyxtal() -> None:
    """PyXtal, which ccdcgan[random] brings."""
    if os.environ.get("CI"):
        import pyxtal  # noqa: F401
    else:
        pytest.importorskip("pyxtal", reason="random crystals need PyXtal: ccdcgan[random]")


@pytest.fixture
def empty_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No relaxations yet, for a job of stage 1 that is called as a function."""
    store = MemoryStore(key="key")
    store.connect()
    monkeypatch.setattr("ccdcgan.workflows.propose.current_store", lambda name: store)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id: str) -> Path:
    """Folder of a small campaign that ran undisturbed on this machine: once for all processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "undisturbed" / "run"
    with FileLock(f"{folder.parent}.lock"):
        if not (folder / "summary.json").exists():
            folder.parent.mkdir(exist_ok=True)
            process = start(folder)
            output, _ = process.communicate(timeout=900)
            assert process.returncode == 0, output
    return folder
