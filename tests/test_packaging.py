"""What gets installed: the wheel, its requirements, and which room imports which."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
#: Rooms, and what each may import beside itself: rooms, or modules of them.
MAY_IMPORT = {
    "dft": set(),
    "models": {
        *("dft.errors", "dft.files", "dft.finite", "dft.mistakes", "dft.yaml_files"),
        *("dft.systems", "dft.structures.spacegroups", "dft.structures.validity"),
    },
    "workflows": {"dft", "models"},
    "launchers": {"dft", "models", "workflows"},
}
#: Wings of launchers, and what each may import beside itself and the modules beside them.
WINGS = {
    "cli": {"local", "networks", "check", "results", "cluster", "live", "figures"},
    "live": {"results", "cluster", "report"},
    "figures": {"local", "results", "report"},
    "local": {"check", "results"},
    "check": {"cluster"},
    "results": {"cluster", "report"},
    "networks": {"results"},
    "cluster": set(),
    "report": set(),
    # The names of `ccdcgan` itself, which is this folder.
    "api": {"local", "networks", "results"},
}
#: Required, though no module of ours imports them by name.
INDIRECT = {
    "pymongo": "maggma's stores",
    "tensorflow": "Keras's default backend",
}
#: Distributions of modules that have another name.
DISTRIBUTIONS = {
    "bson": "pymongo",
    "emmet": "emmet-core",
    "pydantic_core": "pydantic",
    "ruamel": "ruamel.yaml",
    "torch_sim": "torch-sim-atomistic",
}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


VERSION = setup_cfg()["metadata"]["version"]


def requirements(*, extras: bool) -> list[Requirement]:
    config = setup_cfg()
    lines = config["options"]["install_requires"].split("\n")
    if extras:
        for extra in config["options.extras_require"].values():
            lines += extra.split("\n")
    parsed = [Requirement(line) for line in lines if line.strip()]
    return [r for r in parsed if r.name != "ccdcgan"]


def run(
    *command: str | Path, cwd: Path, pythonpath: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if pythonpath:
        env["PYTHONPATH"] = str(pythonpath)
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: a build leaves its traces in the tree, and takes in older ones.
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*MAY_IMPORT, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
    run(*pip, "--target", folder, wheel, cwd=folder)
    return folder


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"ccdcgan-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = f"ccdcgan-{VERSION}.dist-info"
    assert {name.split("/")[0] for name in names} == {"ccdcgan", info}
    wanted = {
        f"ccdcgan/{path.relative_to(ROOT).as_posix()}".replace("launchers/api/", "")
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("ccdcgan/")} == wanted
    for pattern in (
        r"ccdcgan/launchers/.*\.html",
        r"ccdcgan/launchers/.*\.js",
        r"ccdcgan/launchers/.*\.css",
        r"ccdcgan/launchers/presets/quickstart\.yaml",
        r"ccdcgan/models/weights/.*\.keras",
        r"ccdcgan/__init__\.py",
        r"ccdcgan/py\.typed",
        re.escape(info) + r"/licenses/LICENSE",
    ):
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_installed_wheel_runs_from_anywhere(target: Path, tmp_path: Path) -> None:
    # The editable install that the tests run from must not answer in the wheel's place.
    code = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import ccdcgan, ccdcgan.launchers.cli.app as cli\n"
        "print(ccdcgan.__file__, cli.__file__, ccdcgan.Campaign.__module__, sep='\\n')\n"
    )
    files = run(sys.executable, "-c", code, cwd=tmp_path, pythonpath=target).stdout.split("\n")
    assert Path(files[0]) == target / "ccdcgan/__init__.py"
    assert Path(files[1]) == target / "ccdcgan/launchers/cli/app.py"
    assert files[2] == "ccdcgan.workflows.campaign"

    command = (sys.executable, "-m", "ccdcgan.launchers.cli")
    version = run(*command, "--version", cwd=tmp_path, pythonpath=target)
    assert version.stdout.strip() == VERSION
    run(*command, "init", "mine.yaml", cwd=tmp_path, pythonpath=target)
    preset = target / "ccdcgan/launchers/presets/quickstart.yaml"
    assert (tmp_path / "mine.yaml").read_text() == preset.read_text()


def test_this_installation_runs_from_anywhere(tmp_path: Path) -> None:
    code = "import ccdcgan, ccdcgan.launchers.cli.app; ccdcgan.UserError"
    run(sys.executable, "-c", code, cwd=tmp_path)
    script = shutil.which("ccdcgan", path=str(Path(sys.executable).parent)) or "ccdcgan"
    assert run(script, "--version", cwd=tmp_path).stdout.strip() == VERSION


def imports(path: Path, *, types: bool = True) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it; also those for types alone, or not."""
    package = ("ccdcgan", *path.relative_to(ROOT).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*start, *((node.module or "").split(".") if node.module else ())))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_one_way(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    wrong = []
    for path in modules(room):
        for name in imports(path):
            parts = name.split(".")
            # Bare rooms exist only where the checkout happens to be on the path.
            bare = parts[0] in MAY_IMPORT or parts[0] == "tests"
            fits = any(f"{name}.".startswith(f"ccdcgan.{one}.") for one in allowed)
            if bare or (parts[0] == "ccdcgan" and parts[1:2] and not fits):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_wings_import_one_way() -> None:
    """Each in its place, the command line on top; so there is no circle among them."""
    folders = {p.name for p in (ROOT / "launchers").iterdir() if (p / "__init__.py").exists()}
    assert folders == set(WINGS)
    wrong = []
    for path in modules("launchers"):
        own = path.relative_to(ROOT / "launchers").parts[0]
        for name in imports(path, types=False):
            parts = name.split(".")
            other = parts[2] if parts[:2] == ["ccdcgan", "launchers"] and len(parts) > 2 else own
            # What stands beside the wings is theirs in common, and knows none of them.
            if other in WINGS and other != own and other not in WINGS.get(own, set()):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong
    TopologicalSorter(WINGS).prepare()


def test_requirements_are_what_is_imported() -> None:
    imported = {
        canonicalize_name(DISTRIBUTIONS.get(name.split(".")[0], name.split(".")[0]))
        for room in MAY_IMPORT
        for path in modules(room)
        for name in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, "ccdcgan"}
    }
    always = {canonicalize_name(r.name) for r in requirements(extras=False)}
    declared = {canonicalize_name(r.name) for r in requirements(extras=True)}
    assert imported <= declared
    # On Linux tensorflow-cpu is the distribution that gives the module tensorflow.
    assert always <= imported | {*INDIRECT, "tensorflow-cpu"}


def test_every_place_has_the_version() -> None:
    """setup.cfg has it; what cannot read that is equal."""
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[\d.]*)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    assert released[0] == VERSION
    assert released == sorted(released, key=Version, reverse=True)


def test_constraints_fix_every_requirement() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert "+" not in version, "a local version exists in one index only"
            pins[canonicalize_name(name)] = version
    for requirement in requirements(extras=True):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"torch=={pins['torch']} " in script


def test_worker_classes_are_documented() -> None:
    """my_fireworks.yaml names the worker classes that the jobs carry."""
    carried = {
        node.args[0].value
        for path in modules("workflows")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"worker_class", "document_job"}
        and isinstance(node.args[0], ast.Constant)
    }
    workers = YAML(typ="safe").load((ROOT / "my_fireworks.yaml").read_text(encoding="utf-8"))[
        "workers"
    ]
    assert set(workers) == carried
