"""Stages by a maker of the user's own: what it writes is the level, and who trusts it runs it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

# It reads its settings when it is imported.
import atomate2  # noqa: F401
import pytest
from fireworks import FWorker
from jobflow import Flow
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Incar, Kpoints
from test_campaign import command
from test_cluster import Here

from ccdcgan.dft.engines.vasp.existing import Library, UnsuitableError, judge, read_folder
from ccdcgan.dft.engines.vasp.relax import relax_by_vasp
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.trusted import trust
from ccdcgan.launchers.workdir import open_workdir, taken_up
from ccdcgan.workflows.campaign import Campaign, load_campaign, parse_campaign
from ccdcgan.workflows.relax import RelaxMaker

pytestmark = [
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.sets.BadInputSetWarning"),
    pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning"),
]

BISE = Structure(Lattice.orthorhombic(3.9, 3.8, 4.1), ["Bi", "Se"], [[0, 0, 0], [0.53, 0.49, 0.5]])

#: A group's own package; it says when it is imported.
PACKAGE = """
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from atomate2.vasp.flows.core import DoubleRelaxMaker
from atomate2.vasp.jobs.base import BaseVaspMaker
from atomate2.vasp.sets.core import RelaxSetGenerator, StaticSetGenerator
from pymatgen.io.vasp import Kpoints

Path(os.environ["MARKER"]).touch()


@dataclass
class Static(BaseVaspMaker):
    incar: dict = field(default_factory=dict)
    kpoints: dict = field(default_factory=lambda: {"reciprocal_density": 40})
    potcars: dict = field(default_factory=lambda: {"Bi": "Bi", "Se": "Se"})
    generator = StaticSetGenerator

    def __post_init__(self):
        self.input_set_generator = self.generator(
            user_incar_settings={"METAGGA": "R2SCAN", "ENCUT": 420, "LDAU": False, **self.incar},
            user_kpoints_settings=self.kpoints,
            user_potcar_settings=self.potcars,
            user_potcar_functional="PBE",
        )


@dataclass
class Relax(Static):
    generator = RelaxSetGenerator


class ByShape(StaticSetGenerator):
    # Another cutoff for some crystals: no level of theory.
    @property
    def incar_updates(self):
        updates = dict(super().incar_updates)
        a, b, c = self.structure.lattice.abc
        return updates | {"ENCUT": 500 if abs(a - b) + abs(b - c) < 1e-6 else 600}


@dataclass
class Moody(Static):
    generator = ByShape

    def __post_init__(self):
        super().__post_init__()
        del self.input_set_generator.user_incar_settings["ENCUT"]


class Bare:
    def make(self, structure):
        return structure


@dataclass
class Broken(BaseVaspMaker):
    def __post_init__(self):
        raise RuntimeError("no licence for this")
"""


@pytest.fixture(autouse=True)
def marker(vasp_machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with VASP's stand-in and the package, which makes this file when it is imported."""
    folder = vasp_machine / "modules" / "my_vasp"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "makers.py").write_text(PACKAGE)
    (folder / "broken.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("MARKER", str(vasp_machine / "marker"))
    # Set back after the test.
    monkeypatch.setenv("CCDCGAN_TRUSTED", "")
    for name in [n for n in sys.modules if n.partition(".")[0] == "my_vasp"]:
        monkeypatch.delitem(sys.modules, name)
    return vasp_machine / "marker"


def by(name: str, kind: str = "static", **parameters: Any) -> dict[str, Any]:
    more = {"parameters": parameters} if parameters else {}
    return {"kind": kind, "maker": f"my_vasp.makers:{name}", **more}


def engine(*stages: Any, **chosen: Any) -> VaspEngine:
    """An engine whose makers the user trusts."""
    trust(["my_vasp"])
    asked = VaspEngine(**{"polling": 0.1, "buffer": 0.0, "stages": stages} | chosen)
    return asked.completed(["Bi", "Se"])


def key(*stages: Any, **chosen: Any) -> str:
    settings = RelaxationSettings(engine=engine(*stages, **chosen))
    return content_key(BISE, settings.engine.level_of_theory(), settings)


def file(folder: Path, *stages: Any, **more: Any) -> Path:
    """A campaign file."""
    chosen = {"name": "vasp", "stages": list(stages), "polling": 0.1, "buffer": 0.0}
    path = folder / "campaign.yaml"
    path.write_text(json.dumps({"relaxation": {"engine": chosen}, **more}))
    return path


def test_a_maker_writes_the_inputs_of_its_stage(vasp_machine: Path) -> None:
    chosen = engine("relax", by("Relax", "relax"), by("Static"), incar={"NCORE": 2, "ISMEAR": 1})
    result, folder = relax_by_vasp(BISE, RelaxationSettings(engine=chosen))
    assert result.converged and folder is not None and folder.name == "03-static"
    plain, relaxed, static = (
        Incar.from_file(folder.parent / run / "INCAR")
        for run in ("01-relax", "02-relax", "03-static")
    )
    assert "METAGGA" not in plain and plain["ENCUT"] == 500 and plain["ISMEAR"] == 1
    for incar in (relaxed, static):
        assert incar["METAGGA"].upper() == "R2SCAN" and incar["ENCUT"] == 420
        # What leaves energies alone is the campaign's, what decides them is the maker's.
        assert incar["NCORE"] == 2 and incar["LWAVE"] and incar["ISMEAR"] != 1
    assert relaxed["ISIF"] == 3 and relaxed["NSW"] == plain["NSW"]
    assert relaxed["EDIFFG"] == plain["EDIFFG"] and static["NSW"] == 0
    grids = [Kpoints.from_file(folder.parent / r / "KPOINTS").kpts[0] for r in ("01-relax", folder)]
    assert grids[0] != grids[1]
    assert result.level_of_theory.checkpoint == chosen.level_of_theory().checkpoint
    assert "METAGGA" in result.level_of_theory.scale
    # What others have run with these inputs is of the campaign's level, too.
    settings = RelaxationSettings(engine=chosen)
    library = Library(chosen, ["Bi", "Se"])
    judge(read_folder(folder), settings, library)
    with pytest.raises(UnsuitableError, match="another level of theory"):
        judge(read_folder(folder.parent / "01-relax"), settings, library)


def test_what_a_maker_decides_is_the_level_and_nothing_else() -> None:
    plain = key("relax", by("Static"))
    assert key("relax", by("Static", incar={"NCORE": 4, "ALGO": "All", "KPAR": 2})) == plain
    assert key("relax", by("Static"), incar={"NCORE": 4}) == plain
    # The same inputs by another class.
    assert key("relax", by("Static", kpoints={"reciprocal_density": 40})) == plain
    others = [
        key("relax", "static"),
        key("relax", {"kind": "static", "incar": {"METAGGA": "R2SCAN", "ENCUT": 420}}),
        key("relax", by("Static", incar={"ENCUT": 430})),
        key("relax", by("Static", incar={"METAGGA": "R2SCANL"})),
        key("relax", by("Static", incar={"ISMEAR": 1})),
        key("relax", by("Static", kpoints={"reciprocal_density": 90})),
        key("relax", by("Static", potcars={"Bi": "Bi_d", "Se": "Se"})),
        key(by("Relax", "relax"), by("Static")),
    ]
    assert len({plain, *others}) == 1 + len(others)


def test_campaigns_without_makers_are_as_before() -> None:
    own = ("relax", {"kind": "static", "incar": {"METAGGA": "R2SCAN"}})
    # Of the version before there were makers.
    for stages, expected in (
        (("relax", "relax", "static"), "dc019a35b56ee82788a87c0f5d37268c"),
        (own, "b59bd4ca522c2a4ef44568af899fddd1"),
    ):
        settings = RelaxationSettings(engine=VaspEngine(stages=stages))
        assert content_key(BISE, settings.engine.level_of_theory(), settings) == expected
    relaxations = [{"engine": {"name": "vasp"}}, {"engine": {"name": "vasp", "stages": ["relax"]}}]
    campaign = Campaign(relaxation=relaxations[0], confirm={"relaxation": relaxations[1]})
    assert campaign.digest() == "0d3d48e1eee830fd" and Campaign().digest() == "96c9b0807c78f52e"
    assert campaign.completed() is campaign
    assert not {"trusted", "maker_inputs"} & set(campaign.model_dump_json().split('"'))


def test_grids_are_those_that_vasp_would_make(tmp_path: Path) -> None:
    from ccdcgan.dft.engines.vasp.inputs import write_inputs

    spacing = 2.0
    cases = {
        "KSPACING": by("Static", incar={"KSPACING": spacing / 4}, kpoints={}),
        "length": by("Static", kpoints={"length": 20}),
    }
    for name, stage in cases.items():
        write_inputs(engine(stage), BISE, 0, {}, tmp_path / name)
        incar = Incar.from_file(tmp_path / name / "INCAR")
        assert "KSPACING" not in incar, name
    lengths = BISE.lattice.reciprocal_lattice.abc
    spaced, by_length = (Kpoints.from_file(tmp_path / name / "KPOINTS") for name in cases)
    assert list(spaced.kpts[0]) == [-(-b // 0.5) for b in lengths]
    assert list(by_length.kpts[0]) == [round(20 * b / (2 * 3.14159265)) for b in lengths]


def test_a_stage_of_a_maker_is_restarted_as_any_other(vasp_machine: Path) -> None:
    faults = {"BiSe": {"fault": "segfault", "times": 1}}
    (vasp_machine / "faults.json").write_text(json.dumps(faults))
    settings = RelaxationSettings(engine=engine(by("Relax", "relax"), by("Static")))
    result, _ = relax_by_vasp(BISE, settings)
    assert result.converged and result.attempts == 3
    second = Incar.from_file(Path(result.folder or "") / "02-relax" / "INCAR")
    assert second["ALGO"] == "Normal" and second["METAGGA"].upper() == "R2SCAN"


BAD = [
    ({"kind": "static", "maker": "no_such.thing:X"}, "not trusted"),
    ({"kind": "static", "maker": "my_vasp.nothing:X"}, "install its package"),
    ({"kind": "static", "maker": "my_vasp.broken:X"}, "no_such_package"),
    (by("Statics"), "did you mean 'Static'"),
    (by("Bare"), "BaseVaspMaker"),
    (by("DoubleRelaxMaker", "relax"), "BaseVaspMaker"),
    # A package may hold what it has from one that nobody trusts.
    (by("OrderedDict"), "BaseVaspMaker"),
    (by("Broken"), "no licence for this"),
    (by("Static", "relax"), "of another kind than its stage: static, and not relax"),
    (by("Relax"), "of another kind than its stage: relax, and not static"),
    (by("Static", encut=4), "unexpected keyword argument 'encut'"),
    (by("Static", input_set_generator={}, incar={"ENCUT": -3}), "ENCUT"),
    (by("Static", incar={"NELECT": 40}), "NELECT"),
    (by("Static", incar={"ICHARG": 11}), "ICHARG"),
    (by("Static", kpoints={"line_density": 20}), "no grid"),
]


@pytest.mark.parametrize(("stage", "words"), BAD)
def test_a_maker_that_cannot_work_is_refused_in_one_line(stage: Any, words: str) -> None:
    with pytest.raises(UserError) as refused:
        engine("relax", stage)
    said = str(refused.value)
    assert words in said and stage["maker"] in said and "\n" not in said


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"kind": "static", "maker": "my_vasp"}, "package.module:Class"),
        ({"kind": "static", "maker": "../evil:X"}, "package.module:Class"),
        ({"kind": "static", "maker": "my_vasp:X", "incar": {}}, "incar"),
        ({"kind": "dance", "maker": "my_vasp:X"}, "'dance'"),
        ({"maker": "my_vasp:X"}, "kind is missing"),
    ],
)
def test_mistakes_in_a_stage(stage: Any, words: str, marker: Path) -> None:
    chosen = {"name": "vasp", "stages": ["relax", stage]}
    with pytest.raises(UserError) as refused:
        parse_campaign({"relaxation": {"engine": chosen}}, "campaign.yaml")
    assert words in str(refused.value) and "\n" not in str(refused.value)
    for setting in ({"dispersion": "d3bj"}, {"hubbard_u": "mp2020"}):
        chosen = {"name": "vasp", "stages": ["relax", by("Static")], **setting}
        with pytest.raises(UserError, match="not for the inputs of a maker"):
            parse_campaign({"relaxation": {"engine": chosen}}, "campaign.yaml")
    assert not marker.exists()


def test_u_for_some_compounds_alone_is_no_level(vasp_machine: Path) -> None:
    trust(["my_vasp"])
    own = {"LDAU": True, "LDAUU": {"O": {"Fe": 5}}, "LDAUL": {"O": {"Fe": 2}}, "LDAUJ": {"O": {}}}
    potcars = {"Fe": "Fe_pv", "O": "O"}
    chosen = VaspEngine(stages=("relax", by("Static", incar=own, potcars=potcars)))
    with pytest.raises(UserError, match="one level of theory for all structures of Fe-O: U of Fe"):
        chosen.completed(["Fe", "O"])
    everywhere = {tag: {"Fe": v} for tag, v in (("LDAUU", 5), ("LDAUL", 2), ("LDAUJ", 0))}
    chosen = VaspEngine(
        stages=("relax", by("Static", incar={"LDAU": True, **everywhere}, potcars=potcars))
    )
    done = chosen.completed(["Fe", "O"])
    assert done.maker_inputs["2"].hubbard == {"Fe": [2.0, 5.0, 0.0, 2.0]}
    assert "LDAU" in done.level_of_theory().scale


def test_a_maker_that_has_another_level_for_a_structure_ends_it(vasp_machine: Path) -> None:
    settings = RelaxationSettings(engine=engine("relax", by("Moody")))
    with pytest.raises(UserError) as refused:
        relax_by_vasp(BISE, settings)
    said = str(refused.value)
    assert "writes for BiSe" in said and "ENCUT 600.0 instead of 500.0" in said
    # It is no failure of the structure: the stages before it are kept.
    (record,) = vasp_machine.glob("calculations/*/calculation.json")
    assert [a["outcome"] for a in json.loads(record.read_text())] == ["done"]


def test_nothing_is_imported_that_nobody_trusts(
    vasp_machine: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = file(vasp_machine, "relax", by("Static"))
    campaign = load_campaign(path)
    assert campaign.digest() and campaign.relaxation.engine.is_magnetic is not None
    with pytest.raises(UserError, match="not known here"):
        campaign.relaxation.engine.level_of_theory()
    monkeypatch.chdir(vasp_machine)
    for words in (("check", path), ("run", path)):
        code, said = command(monkeypatch, capsys, *map(str, words))
        assert code == 2
        (line,) = [line for line in said.splitlines() if "my_vasp.makers:Static" in line]
        assert "add my_vasp to `trusted` in the campaign file" in line
        assert "my_fireworks.yaml" in line
    assert not marker.exists() and "my_vasp.makers" not in sys.modules
    # What a process has inherited is nobody's word here.
    monkeypatch.setenv("CCDCGAN_TRUSTED", "my_vasp")
    assert command(monkeypatch, capsys, "check", str(path))[0] == 2 and not marker.exists()
    path = file(vasp_machine, "relax", by("Static"), trusted=["my_vasp"])
    _, said = command(monkeypatch, capsys, "check", str(path))
    (line,) = [line for line in said.splitlines() if "stage 2 by my_vasp.makers:Static" in line]
    assert "ENCUT 420" in line and "METAGGA R2SCAN" in line and marker.exists()
    path = file(vasp_machine, "relax", by("Statics"), trusted=["my_vasp"])
    code, said = command(monkeypatch, capsys, "check", str(path))
    assert code == 2 and "did you mean 'Static'" in said


def test_a_folder_goes_on_with_the_maker_that_it_began_with(vasp_machine: Path) -> None:
    folder = vasp_machine / "run"
    trust(["my_vasp"])

    def campaign(*stages: Any) -> Campaign:
        return load_campaign(file(vasp_machine, *stages, trusted=["my_vasp"]))

    begun = campaign("relax", by("Static")).completed()
    with open_workdir(folder, begun):
        pass
    stored = load_campaign(folder / "campaign.yaml")
    assert stored == begun and stored.completed() == begun
    assert stored.digest() == campaign("relax", by("Static")).digest()
    level = begun.relaxation.engine.level_of_theory()
    assert stored.relaxation.engine.level_of_theory() == level
    # The file alone, and one that differs in what is technical.
    assert taken_up(folder, campaign("relax", by("Static")))
    technical = campaign("relax", by("Static", incar={"NCORE": 8})).completed()
    assert taken_up(folder, technical) == technical
    other = campaign("relax", by("Static", incar={"ENCUT": 440})).completed()
    with pytest.raises(UserError, match=r"maker_inputs.2.incar.ENCUT is 420.0 there and 440.0"):
        taken_up(folder, other)
    # Somebody has changed the package.
    makers = vasp_machine / "modules" / "my_vasp" / "makers.py"
    makers.write_text(PACKAGE.replace("420", "460"))
    # Of one size and second, its bytecode would be taken for that of the new one.
    shutil.rmtree(makers.parent / "__pycache__", ignore_errors=True)
    sys.modules.pop("my_vasp.makers")
    with pytest.raises(UserError, match=r"other inputs than when the campaign began: ENCUT 460"):
        stored.completed()


@pytest.fixture
def here(tmp_path: Path, database: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Here:
    path = os.environ["PYTHONPATH"]
    found = Here(tmp_path, database, monkeypatch, capsys)
    monkeypatch.setenv("PYTHONPATH", f"{path}:{os.environ['PYTHONPATH']}")
    return found


def test_a_worker_runs_a_maker_where_its_package_is_listed(
    here: Here, marker: Path, tmp_path: Path
) -> None:
    path = file(tmp_path, "relax", by("Static"), trusted=["my_vasp"])
    # Whoever submits is the cluster's user: the campaign file says nothing there.
    said = here.complaint("submit", path)
    assert "my_vasp.makers:Static" in said and "`trusted`" in said and "my_fireworks.yaml" in said
    assert not marker.exists() and "campaigns" not in here.handle.list_collection_names()

    trust(["my_vasp"])
    campaign = load_campaign(path).completed()
    marker.unlink()
    candidate = {"origin": {"kind": "prototype", "id": "x"}, "structure": BISE.as_dict()}
    job = RelaxMaker().make([candidate], campaign.model_dump(mode="json"))
    here.submit(Flow([job], output=job.output))
    # What a worker does that does not list it.
    worker = FWorker("dft", query={"spec._fworker": "dft"})
    assert here.pad.checkout_fw(worker, str(tmp_path)) == (None, None) and not marker.exists()
    (waiting,) = here.handle.fireworks.find({})
    assert "'my_vasp.makers:Static'" in waiting["refused"]["reason"]
    assert here.counts() == {"READY": 1}
    here.change({"trusted": ["my_vasp"]})
    assert "1 job was run" in here.worker("dft")
    assert here.counts() == {"COMPLETED": 1} and marker.exists()
    (document,) = here.handle.relaxations.find({})
    settings = campaign.relaxation
    assert document["converged"]
    assert document["key"] == content_key(BISE, settings.engine.level_of_theory(), settings)


def test_a_campaign_with_a_maker_is_submitted_and_found(here: Here, tmp_path: Path) -> None:
    here.change({"trusted": ["my_vasp"]})
    path = file(tmp_path, "relax", by("Static"), trusted=["my_vasp"])
    code, said = here.command("submit", path)
    assert code == 0, said
    stored = here.handle.campaigns.find_one()
    chosen = stored["settings"]["relaxation"]["engine"]
    assert chosen["maker_inputs"]["2"]["incar"]["ENCUT"] == 420
    # Whom one user trusts is nobody else's.
    assert "trusted" not in stored["settings"]
    assert here.command("status", path)[0] == 0
    assert "was submitted" in here.complaint("submit", path)
