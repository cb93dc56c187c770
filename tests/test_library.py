"""The names that programs may rely on: what they are, and that they do what the commands do."""

from __future__ import annotations

import ast
import doctest
import gzip
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crystals import ROCKSALT
from pymatgen.core import Structure

import ccdcgan
from ccdcgan.launchers.local import functions
from ccdcgan.launchers.local.predict import Wishes

ROOT = Path(__file__).resolve().parent.parent


def script(text: str, folder: Path) -> str:
    """What a script of a user's prints."""
    path = folder / "script.py"
    path.write_text(text)
    done = subprocess.run([sys.executable, path], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_nothing(tmp_path: Path) -> None:
    """No package of others: not TensorFlow, not even pydantic."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import ccdcgan\n"
        "names = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "print(*sorted(names - {*sys.stdlib_module_names, 'ccdcgan'}))\n"
        "print(ccdcgan.load_campaign.__module__)\n"
        "print('tensorflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert script(code, tmp_path).split("\n")[:3] == ["", "ccdcgan.workflows.campaign", "False"]


def test_every_name_is_there_and_typed() -> None:
    tree = ast.parse(Path(ccdcgan.__file__).read_text(encoding="utf-8"))
    for_types = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ccdcgan")
        for alias in node.names
    }
    loaded = {f"ccdcgan.{module}" for module in ccdcgan._MODULES.values()}
    assert set(for_types.values()) == loaded
    assert ccdcgan.__all__ == sorted({*for_types, "__version__"})
    for name, module in for_types.items():
        thing = getattr(ccdcgan, name)
        assert thing.__name__ == name and thing.__module__ == module
        assert inspect.getdoc(thing)
    assert set(dir(ccdcgan)) >= {*for_types, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ccdcgan.nothing


def test_examples_of_the_docstrings() -> None:
    """Those that take no time are run; every function has one."""
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in set(ccdcgan.__all__) - {"__version__", "UserError", "Phase"}:
        (test,) = finder.find(getattr(ccdcgan, name), name, globs={})
        assert test.examples, name
        assert runner.run(test).failed == 0


def test_results_are_those_of_the_files(finished: Path) -> None:
    results = ccdcgan.Results.in_folder(str(finished))
    with gzip.open(finished / "phases.json.gz") as stream:
        written = json.load(stream)
    phases = results.phases()
    assert {p.id for p in phases} == {p["id"] for p in written}
    assert all(isinstance(p, ccdcgan.Phase) for p in phases)
    near = results.phases(max_e_above_hull=0.1, origin="generated")
    expected = {
        p["id"] for p in written if p["origin"]["kind"] == "generated" and p["e_above_hull"] <= 0.1
    }
    assert {p.id for p in near} == expected


def test_the_hull_of_results_is_a_figure_of_them(finished: Path) -> None:
    results = ccdcgan.Results.in_folder(finished)
    figure = results.hull()
    drawn = sum(len(t.x) for t in figure.data if (t.meta or {}).get("phases"))
    judged = [p for p in results.phases() if p.label != "untrusted"]
    assert drawn == len(judged) > 20
    with pytest.raises(ccdcgan.UserError, match="these phases are of 0"):
        results.hull(formula="Bi7Se")


def test_they_show_themselves_and_hostile_text_is_text(finished: Path) -> None:
    results = ccdcgan.Results.in_folder(finished)
    shown = results._repr_html_()
    assert shown.count("<tr>") == 21 and f"{results.count()} phases, the 20 nearest" in shown
    hostile = "<script>alert(1)</script>"
    phase = results.phases(limit=1)[0].model_copy(update={"spacegroup": hostile})
    assert "<script>" not in phase._repr_html_() and "&lt;script&gt;" in phase._repr_html_()


def test_a_campaign_that_is_done_is_not_done_again(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    results = ccdcgan.run(finished.parent / "campaign.yaml", folder)
    before = ccdcgan.Results.in_folder(finished).frame()
    assert results.frame().equals(before)


def test_given_structures_are_judged_as_those_of_a_file(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    crystals = [p.structure for p in ccdcgan.Results.in_folder(finished).phases(formula="BiSe")]
    bad = Structure(ROCKSALT.lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    given = [crystals[0], bad, crystals[-1]]
    files = tmp_path / "mine"
    files.mkdir()
    for number, crystal in enumerate(given):
        crystal.to(str(files / f"{number}.vasp"), fmt="poscar")
    one, other = (ccdcgan.evaluate(source, folder) for source in (given, str(files)))
    assert one.valid.count == 2 and [o.outcome for o in one.outcomes][1] == "not valid"
    for mine, theirs in zip(one.outcomes, other.outcomes, strict=True):
        assert (mine.outcome, mine.formula) == (theirs.outcome, theirs.formula)
        assert mine.e_above_hull == pytest.approx(theirs.e_above_hull, abs=2e-3)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Processes that relax start without the script that asked for them."""
    ROCKSALT.to(str(tmp_path / "bise.vasp"), fmt="poscar")
    code = (
        "import ccdcgan\n"
        "from pymatgen.core import Structure\n"
        "print('once')\n"
        "(found,) = ccdcgan.relax(Structure.from_file('bise.vasp'), 'sevennet')\n"
        "print(found.converged, found.energy_per_atom < 0, found.level_of_theory.engine)"
    )
    assert script(code, tmp_path) == "once\nTrue True SevenNet-0\n"


def test_what_cannot_be_relaxed_or_predicted() -> None:
    with pytest.raises(ccdcgan.UserError, match="vasp relaxes in campaigns"):
        ccdcgan.relax(ROCKSALT, "vasp")
    with pytest.raises(ccdcgan.UserError, match="sevennett"):
        ccdcgan.relax(ROCKSALT, "sevennett")
    with pytest.raises(ccdcgan.UserError, match="has one element"):
        ccdcgan.predict("Bi")


def test_predict_searches_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(functions.search, "predict", lambda *given: asked.append(given))
    ccdcgan.predict("Se3Bi2", budget=50, wishes=Wishes(seed=4))
    ccdcgan.predict("BiSe", Path("there"), minutes=3)
    (first, *_), (_, folder, budget, minutes, _) = asked
    assert first.search.compositions == ("Bi2Se3",) and first.seed == 4
    assert asked[0][1:4] == (Path("ccdcgan-predict/Bi2Se3"), 50, None)
    assert (folder, budget, minutes) == (Path("there"), 200, 3)
