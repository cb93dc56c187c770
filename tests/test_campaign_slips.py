"""Slips of the pen in campaign, cluster and preset files: one line each, with place and remedy."""

from __future__ import annotations

import copy
import io
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from test_campaign import command

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.yaml_files import read_yaml
from ccdcgan.launchers.cluster.settings import load_cluster
from ccdcgan.models.presets import load_preset
from ccdcgan.workflows.campaign import load_campaign, parse_campaign

CLUSTER = (Path(__file__).parent.parent / "my_fireworks.yaml").read_text(encoding="utf-8")
BOMB = "a: &a [1, 1]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n"
    for old, new in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True)
)


def refusal(load: Callable[[Path], Any], path: Path) -> str:
    """The one line that refuses a file."""
    with pytest.raises((UserError, ValueError)) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message and "http" not in message and len(message) < 2000, message
    return message


# YAML


@pytest.mark.parametrize("load", [load_campaign, load_cluster, load_preset])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("seed: 1\nx: 2\nseed: 2", ["lines 1 and 3", "'seed'"]),
        ("loop:\n  rounds: 1\n  rounds: 2", ["lines 2 and 3", "'rounds'"]),
        ("{seed: 1, seed: 2}", ["lines 1 and 1", "'seed'"]),
        ("a:\n\tb: 1", ["a tab in line 2"]),
        ("a: |\n  x\n\ty", ["a tab in line 3"]),
        ("a: 1\nb: [1, 2", ["line 2", "bracket", "not closed"]),
        ("a: 1\nb: {c: 2", ["line 2", "bracket", "not closed"]),
        ('a: 1\nb: "x', ["line 2", "quote", "not closed"]),
        ("a: b: c", ["line 1", "colon"]),
        ("a:\n  b: 1\n c: 2", ["line 3", "indentation"]),
        ("a: *x", ["line 1", "alias 'x'"]),
        ("a: 1\n---\nb: 2", ["line 2", "second document"]),
        ("a: !!python/object/apply:os.system [touch x]", ["line 1", "tag", "os.system"]),
        ("[a]: 1", ["line 1", "key"]),
        ("a: 2020-13-45", ["month"]),
        ("a: " + "9" * 5000, ["digits"]),
        ("a: &a [*a]", ["an alias that holds itself"]),
        ("a: &a\n  b: *a", ["an alias that holds itself"]),
        (BOMB, ["unfold to more than"]),
        ("[" * 5000, ["deep"]),
        ("a: " + "{b: " * 40 + "1" + "}" * 40, ["deep"]),
        ("- 1\n- 2", ["must hold keys and values"]),
        ("just text", ["must hold keys and values"]),
        ("a: \x07", ["unacceptable character"]),
        ("x: é".encode("latin-1"), ["UTF-8", "line 1"]),
        (bytes(range(256)), ["UTF-8"]),
        ("a: 1\n".encode("utf-16"), ["UTF-8"]),
        ("a: 1 # " + "x" * 200_000, ["larger than 100 kB"]),
    ],
)
def test_slips_of_yaml(tmp_path: Path, load: Any, content: str | bytes, words: list[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    message = refusal(load, path)
    assert time.monotonic() - start < 10
    assert "file.yaml" in message and all(word in message for word in words), message
    assert not (tmp_path / "x").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / ("x" * 300), Path("a\0b")):
        assert "cannot read" in refusal(load_campaign, path)


def test_what_is_good_yaml_stays_so(tmp_path: Path) -> None:
    """YAML 1.2: NO and Y are text; a byte order mark, CRLF and merged keys are read."""
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xef\xbb\xbfsystem: N-O\r\nseed: 3\r\n")
    assert load_campaign(path).elements == ["N", "O"]
    for text, elements in (("[Y, N]", ["Y", "N"]), ("No-O", ["No", "O"]), ("N – O", ["N", "O"])):
        path.write_text(f"system: {text}", encoding="utf-8")
        assert load_campaign(path).elements == elements
    path.write_text("a: &x {k: 1}\nb: {<<: *x, c: NO}\nd: [*x, *x]\n")
    assert read_yaml(path) == {"a": {"k": 1}, "b": {"k": 1, "c": "NO"}, "d": [{"k": 1}, {"k": 1}]}
    path.write_text("")
    assert load_campaign(path) == parse_campaign({}, "x")


# Values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # The system.
        ("system:", ["system", "as in Bi-Se"]),
        ("system: 5", ["system", "as in Bi-Se"]),
        ("system: {Bi: 1}", ["system", "as in Bi-Se"]),
        ("system: [Bi, 3]", ["system", "as in Bi-Se"]),
        ("system: []", ["at least two elements"]),
        ("system: D-O", ["D is hydrogen", "write H"]),
        ("system: [T, O]", ["T is hydrogen", "write H"]),
        ("system: bi-se", ["'bi'", "did you mean Bi?"]),
        ("system: BiSe", ["did you mean Bi-Se?"]),
        ("system: H-He-Li-Be-B-C-N-O-F", ["at most 8"]),
        # Numbers.
        ("relaxation: {fmax: .nan}", ["relaxation.fmax", "nan is no finite number"]),
        ("relaxation: {fmax: 'nan'}", ["relaxation.fmax", "finite", "eV/Å"]),
        ("thresholds: {stable: .inf}", ["thresholds.stable", "inf is no finite number"]),
        ("database: {filters: {max_length: .inf}}", ["database.filters.max_length", "inf"]),
        ("relaxation: {engine: {name: vasp, incar: {ENCUT: .inf}}}", ["engine.incar.ENCUT"]),
        ("networks: {goals: [{weight: .nan}]}", ["networks.goals.0.weight", "nan"]),
        ("networks: {goals: [{weight: 'nan'}]}", ["networks.goals.0", "finite"]),
        ("loop: {rounds: 1.0e+30}", ["loop.rounds", "beyond"]),
        ("loop: {samples: 100000000000000000000000}", ["loop.samples", "beyond"]),
        ("relaxation: {fmax: -0.1}", ["greater than 0, not -0.1", "eV/Å"]),
        ("loop: {screening: {min_distance: 0}}", ["greater than 0, not 0", "Å"]),
        # Bounds and orders.
        ("loop: {screening: {volume_range: [60, 15]}}", ["from 60 to 15 Å³ per atom"]),
        ("loop: {screening: {volume_range: [-1, 15]}}", ["-1 Å³ per atom is less than 0"]),
        ("loop: {screening: {volume_range: [15]}}", ["volume_range.1 is missing"]),
        ("relaxation: {volume_range: [120, 8]}", ["relaxation.volume_range", "120", "8 Å³"]),
        ("relaxation: {energy_range: [10, -15]}", ["relaxation.energy_range", "10", "-15 eV"]),
        (
            "confirm: {relaxation: {energy_range: [1, 1]}}",
            ["confirm.relaxation.energy_range", "from 1 to 1 eV"],
        ),
        ("thresholds: {stable: 0.3}", ["stable 0.3 eV/atom", "metastable 0.15 eV/atom"]),
        # What nothing can pass.
        ("loop: {screening: {volume_range: [500, 900]}}", ["no crystal has 500 Å³ per atom"]),
        ("relaxation: {volume_range: [800, 1200]}", ["no crystal has 800 Å³ per atom"]),
        ("relaxation: {energy_range: [5, 10]}", ["no crystal has 5 eV per atom"]),
        ("relaxation: {fmax: 30}", ["less than or equal to 10", "eV/Å"]),
        ("relaxation: {min_distance: 150}", ["less than or equal to 4", "Å"]),
        ("loop: {screening: {min_distance: 15}}", ["less than or equal to 4", "Å"]),
        ("loop: {screening: {max_formation_energy: -30}}", ["greater than or equal to -10"]),
        ("search: {min_sites: 30}", ["max_sites is 20", "asks for 30 atoms"]),
        ("{system: Bi-Se-Te, loop: {screening: {max_sites: 2}}}", ["3 elements", "3 atoms"]),
        # What turns a goal around.
        ("networks: {goals: [{property: density, weight: -1}]}", ["turns it around"]),
        ("networks: {goals: [{property: density}, {property: density}]}", ["two goals for dens"]),
        # True and false, which are no numbers.
        ("relaxation: {refine: true}", ["refine is neither true nor false"]),
        ("relaxation: {volume_range: [yes, 120]}", ["volume_range"]),
        ("relaxation: {volume_range: [true, 120]}", ["volume_range is neither"]),
        ("seed: false", ["seed is neither"]),
        ("search: {spacegroups: [true]}", ["spacegroups is neither"]),
        ("networks: {gan_steps: true}", ["gan_steps is neither"]),
        ("relaxation: {batch: true}", ["batch is neither"]),
        # Choices and keys.
        ("database: {sources: [{source: aflwo}]}", ["'aflwo'", "did you mean 'aflow'?"]),
        ("database: {sources: [{path: x}]}", ["sources.0", "'source' is missing"]),
        ("database: {sources: [aflow]}", ["database.sources.0", "keys and values"]),
        ("database: {sources: []}", ["database.sources", "at least 1 item"]),
        (
            "database: {sources: [{source: aflow}, {source: aflow}]}",
            ["source aflow is given twice"],
        ),
        ("networks: {loss: hing}", ["'wgan-gp', 'hinge' or 'bce'", "did you mean 'hinge'?"]),
        ("networks: {variant: cdcgan}", ["did you mean 'ccdcgan'?"]),
        ("networks: {goals: [{property: densty}]}", ["did you mean 'density'?"]),
        ("networks: {goals: [{wieght: 2}]}", ["networks.goals.0.wieght", "mean 'weight'?"]),
        ("relaxation: {engine: {name: sevenet}}", ["did you mean 'sevennet'?"]),
        ("relaxation: {optimiser: FIRE}", ["relaxation.optimiser", "mean 'optimizer'?"]),
        ("rounds: 3", ["unknown key 'rounds'", "did you mean 'loop.rounds'?"]),
        ("max_candidates: 30", ["did you mean 'database.max_candidates'?"]),
        ("filters: {max_sites: 4}", ["did you mean 'database.filters'?"]),
        ("1: 2", ["a key is text"]),
        # Kinds.
        ("database: 3", ["database", "keys and values, not 3"]),
        ("relaxation:", ["relaxation", "keys and values"]),
        ("database: {without: Bi2Se3}", ["database.without", "a list", "'Bi2Se3'"]),
        ("database: {without: [[]]}", ["database.without.0"]),
        ("database: {without: ['((']}", ["'(('", "no formula"]),
        ("database: {without: [Bi2Te3]}", ["Bi2Te3", "no compound of Bi-Se"]),
        ("references: [{source: files, path: 3}]", ["references.0.path", "a path, not 3"]),
        ("references: [{source: files, path: ''}]", ["the path '' is empty"]),
        ("references: [{source: files, path: $NO_SUCH_1/x}]", ["NO_SUCH_1", "is not set"]),
        ("references: [{source: files, path: ~nobody-here/x}]", ["references.0.path"]),
        ("confirm: {count: 3}", ["confirm.relaxation is missing"]),
    ],
)
def test_slips_of_values(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    message = refusal(load_campaign, path)
    assert message.startswith(f"{path}: ") and all(word in message for word in words), message
    assert "mistakes" not in message, message


def test_several_mistakes_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(
        "system: D-O\nsede: 3\nloop: {rounds: 0, samples: .nan}\nthresholds: {stable: 1}"
    )
    message = refusal(load_campaign, path)
    assert "5 mistakes: (1)" in message
    for words in ("write H", "did you mean 'seed'?", "loop.rounds", "loop.samples: nan", "0.15"):
        assert words in message
    path.write_text("".join(f"{c}{c}: 1\n" for c in "abcdefghi"))
    assert refusal(load_campaign, path).endswith("and 4 more")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("folder:", "foldre:", ["did you mean 'folder'?"]),
        ("heartbeat: 30", "heartbeat: 0", ["heartbeat", "greater than 0, not 0"]),
        ("heartbeat: 30", "heartbeat: .inf", ["heartbeat", "inf"]),
        ("database: ccdcgan", "database: 'a b'", ["database", "'a b'"]),
        ("stores:", "stores: 3\nheartbaet:", ["stores", "keys and values, not 3"]),
        ("type: SLURM", "type: SLRUM", ["queue.type", "did you mean 'SLURM'?"]),
        ("walltime:", "waltime:", ["waltime", "did you mean 'walltime'?"]),
        ("dft:", "dtf:", ["workers.dtf", "'dft'"]),
    ],
)
def test_slips_of_clusters(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in CLUSTER
    path = tmp_path / "file.yaml"
    path.write_text(CLUSTER.replace(old, new))
    message = refusal(load_cluster, path)
    assert message.startswith(f"{path}: ") and all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gan: {steps: 0}", ["gan.steps", "greater than or equal to 1, not 0"]),
        ("gan: {learning_rate: .nan}", ["gan.learning_rate", "nan"]),
        ("gan: {learning_rate: 'inf'}", ["gan.learning_rate", "finite"]),
        ("gan: 3", ["gan", "keys and values"]),
        ("constraint: {test_fraction: 1}", ["constraint.test_fraction", "less than 1"]),
        ("based_on: [default]", ["based_on must be one of"]),
        ("steps: 0\nmax_sites: many", ["unknown key 'steps'"]),
    ],
)
def test_slips_of_presets(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    message = refusal(load_preset, path)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--seed", "-1"], ["--seed", "greater than or equal to 0"]),
        (["run", "--seed", "99999999999"], ["--seed", "less than"]),
        (["run", "--seed", "many"], ["--seed"]),
        (["run", "--without", "Bi2Te3"], ["--without", "Bi2Te3"]),
        (["run", "--without", "xx,yy"], ["--without", "'xx'"]),
        (["init", "a/b/campaign.yaml", "--preset", "workstatoin"], ["mean 'workstation'?"]),
        (["init", "a-file/campaign.yaml"], ["a-file"]),
        (["check", "nowhere/campaign.yaml"], ["cannot read", "nowhere"]),
    ],
)
def test_slips_of_commands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    code, message = command(monkeypatch, capsys, *arguments)
    assert code == 2 and len(message.strip().splitlines()) == 1, message
    assert all(word in message for word in words), message
    assert [p.name for p in tmp_path.iterdir()] == ["a-file"]


def test_init_makes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "folder" / "campaign.yaml"
    assert command(monkeypatch, capsys, "init", str(path))[0] == 0
    assert load_campaign(path).elements == ["Bi", "Se"]


# Paths

PATHS = """
database: {sources: [{source: files, path: "{0}crystals/"}]}
references: [{source: files, path: "{0}known.cif"}]
relaxation: {engine: {name: sevennet, checkpoint: "{0}my.pth"}}
confirm: {relaxation: {engine: {name: espresso, pseudo_dir: "{0}pseudo"}}}
"""


def paths_of(campaign: Any) -> list[str]:
    return [
        str(campaign.database.sources[0].path),
        str(campaign.references[0].path),
        campaign.relaxation.engine.checkpoint,
        str(campaign.confirm.relaxation.engine.pseudo_dir),
    ]


@pytest.mark.parametrize(
    "written", ["./", "../there/", "~/there/", "$PLACE/there/", "${PLACE}/there/"]
)
def test_paths_are_whole_once_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    text = PATHS.replace("{0}", written)
    names = ["crystals", "known.cif", "my.pth", "pseudo"]
    for name in ("there", "moved"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "campaign.yaml").write_text(text)
    campaign = load_campaign(tmp_path / "there" / "campaign.yaml")
    assert paths_of(campaign) == [str(tmp_path / "there" / name) for name in names]
    # From wherever it is loaded, and from the folder of a run.
    monkeypatch.chdir(tmp_path / "there")
    assert load_campaign(Path("campaign.yaml")) == campaign
    again = parse_campaign(campaign.model_dump(mode="json"), "x", tmp_path / "elsewhere")
    assert again == campaign and again.digest() == campaign.digest()
    # The digest is that of the file as written: one that has moved goes on.
    moved = load_campaign(tmp_path / "moved" / "campaign.yaml")
    assert moved.digest() == campaign.digest()
    assert not campaign.differences(moved)
    if written == "./":
        assert paths_of(moved) == [str(tmp_path / "moved" / name) for name in names]


def test_whole_paths_are_as_they_were() -> None:
    """Folders and databases out there are named by digests of whole paths."""
    campaign = parse_campaign(
        {"references": [{"source": "files", "path": "/a/b"}]}, "x", Path("/c")
    )
    assert not campaign.written
    dump = campaign.model_dump(mode="json")
    # A dollar in a name is no variable once the path is whole, as for a job.
    dollar = parse_campaign({"references": [{"source": "files", "path": "/a$b/c"}]}, "x")
    assert str(dollar.references[0].path) == "/a$b/c"
    assert "written" not in dump and dump["references"][0]["path"] == "/a/b"


def test_paths_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "there" / "cluster.yaml"
    path.parent.mkdir()
    (path.parent / "slurm.txt").write_text("#SBATCH $${walltime}\n")
    text = re.sub("(?m)^folder: .*$", "folder: $SCRATCH/ccdcgan", CLUSTER)
    path.write_text(text)
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    assert load_cluster(path).root == tmp_path / "scratch" / "ccdcgan"
    monkeypatch.delenv("SCRATCH")
    assert "SCRATCH" in refusal(load_cluster, path)
    path.write_text(re.sub("(?m)^folder: .*$", "folder: mine", CLUSTER))
    assert load_cluster(path).root == path.parent / "mine"


# Mutated files

FULL = """
system: Bi-Se
seed: 3
database:
  sources:
    - {source: aflow, designated: true, decorated: false}
    - {source: files, path: my_structures/}
    - {source: random, count: 20}
    - {source: materials_project}
  filters: {max_sites: 4, max_length: 12.5}
  max_candidates: 24
  element_sites: 3
  own_element_sites: 12
  without: [Bi2Se3, BiSe]
relaxation:
  engine: {name: sevennet, checkpoint: 7net-l3i5, dispersion: d3bj}
  optimizer: BFGS
  fmax: 0.3
  max_steps: 100
  min_distance: 1.5
  volume_range: [8.0, 120.0]
  energy_range: [-15.0, 10.0]
references:
  - {source: files, path: ~/known.cif}
  - {source: materials_project, max_e_above_hull: 0.1}
thresholds: {stable: 0.1, metastable: 0.15}
networks:
  preset: default
  autoencoder: train
  variant: ccdcgan
  omega: 0.1
  loss: hinge
  goals:
    - {property: formation_energy_per_atom, direction: minimise, weight: 1.0}
    - {property: density, direction: near, value: 7.0, weight: 0.05}
loop:
  rounds: 2
  samples: 200
  stackings: 30
  relaxations: 2
  screening: {min_distance: 1.8, volume_range: [15.0, 60.0], max_sites: 20, selection: none}
confirm:
  count: 2
  relaxation:
    engine:
      name: vasp
      incar: {ENCUT: 400, METAGGA: R2SCAN}
      potcars: {Bi: Bi_d}
      stages: [relax, static]
      pre_relax: {name: chgnet}
workers: 2
"""

JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 3.7, -0.0, 1e-300, 1e300, 10**30, float("nan"), float("inf"),
    -float("inf"), "", " ", "nan", "inf", "1e999", "x" * 5000, "é\u202e\u0007", "../../..", "~",
    "~nobody-here", "$HOME", "$NO_SUCH_1", "a\0b", "\n", "- 1", "{", "NO", "Y", "D-O", "Bi-Se",
    "vasp", [], [[]], [None], [1, 2], [2, 1], [1, 2, 3], ["a"] * 50, {}, {"a": 1}, {"name": "vasp"},
    {"name": []}, {"name": "vasp", "incar": {"NSW": 1}}, {"source": "files"}, {"source": {}},
    {"a": {"b": {"c": [{"d": 1}]}}}, {1: 2}, {None: None}, {"__class__": "x"}, {"@module": "os"},
]  # fmt: skip

CHARACTERS = list("\t\n :[]{}'\"&*!|>%@`,#-?<=~0é\0\x07\ufeff\x85\u2028")


def mutated(text: str, rng: random.Random) -> bytes:
    """The file with a slip or two."""
    if rng.random() < 0.6:
        data = YAML(typ="safe", pure=True).load(text)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change_data(data, rng)
        stream = io.StringIO()
        YAML(typ="safe", pure=True).dump(data, stream)
        text = stream.getvalue()
    if rng.random() < 0.5:
        for _ in range(rng.choice((1, 1, 2, 5))):
            text = change_text(text, rng)
    encoding = rng.choice(("utf-8",) * 30 + ("latin-1", "utf-16", "utf-8-sig"))
    return text.encode(encoding, errors="replace")


def places(data: Any) -> list[tuple[Any, Any]]:
    """All containers with each of their keys or numbers."""
    found = []
    items = list(data.items()) if isinstance(data, dict) else list(enumerate(data))
    for key, value in items:
        found.append((data, key))
        if isinstance(value, (dict, list)):
            found += places(value)
    return found


def change_data(data: Any, rng: random.Random) -> None:
    found = places(data)
    if not found:
        return
    container, key = rng.choice(found)
    kind = rng.randrange(6)
    if kind <= 1:
        container[key] = copy.deepcopy(rng.choice(JUNK))
    elif kind == 2 and isinstance(container, dict):
        word = list(str(key)) or ["x"]
        place = rng.randrange(len(word))
        word[place] = rng.choice(("", word[place] * 2, "x", word[place].upper(), "_"))
        container["".join(word)] = container.pop(key)
    elif kind == 3:
        del container[key]
    elif kind == 4:
        # The value of another key, or the key in another place.
        other, place = rng.choice(found)
        if isinstance(other, dict):
            other[key if rng.random() < 0.5 else place] = copy.deepcopy(container[key])
    else:
        container[key] = [copy.deepcopy(container[key])] * rng.choice((1, 2, 3))


def change_text(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    place, line = rng.randrange(len(text) + 1), rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        return text[:place] + rng.choice(CHARACTERS) + text[place:]
    if kind == 1:
        return text[:place] + text[place + 1 :]
    if kind == 2:
        return text[:place]
    if kind == 3:
        lines.insert(line, rng.choice(lines))
    elif kind == 4:
        del lines[line]
    else:
        lines[line] = rng.choice(("\t", " ", "    ", "- ")) + lines[line]
    return "\n".join(lines)


def try_mutated(load: Callable[[Path], Any], text: str, path: Path, numbers: range) -> Counter[str]:
    """How many load and how many are refused in one line; anything else fails."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        content = mutated(text, random.Random(number))
        path.write_bytes(content)
        start = time.monotonic()
        found, refused = attempt(load, path)
        assert time.monotonic() - start < 10, number
        if refused is not None:
            told = f"{number}: {refused}"
            assert refused.isprintable() and len(refused) < 3000, told
            assert "http" not in refused and path.name in refused, told
        elif load is load_campaign:
            again = parse_campaign(found.model_dump(mode="json"), "again")
            assert again.digest() == found.digest(), number
        outcomes["loaded" if refused is None else "refused"] += 1
    return outcomes


def attempt(load: Callable[[Path], Any], path: Path) -> tuple[Any, str | None]:
    """What a file holds, or why it is refused."""
    try:
        return load(path), None
    except UserError as error:
        return None, str(error)
    except ValueError as error:
        # Of presets; a kind of it would be a mistake of ours.
        if type(error) is not ValueError or load is not load_preset:
            raise
        return None, str(error)


PRESET = """
based_on: paper
max_sites: 12
grid: {points: 8, sigma: 0.9, cube: null}
constraint: {references: 80, test_fraction: 0.2}
gan: {steps: 7, loss: hinge, energy_scale: 0.1}
"""

KINDS = [(load_campaign, FULL), (load_cluster, CLUSTER), (load_preset, PRESET)]


@pytest.mark.parametrize(("load", "text"), KINDS)
def test_mutated_files_load_or_are_refused_in_one_line(
    tmp_path: Path, load: Callable[[Path], Any], text: str
) -> None:
    outcomes = try_mutated(load, text, tmp_path / "file.yaml", range(100))
    assert outcomes["refused"] > 30 and outcomes["loaded"] > 3


@pytest.mark.long
@pytest.mark.parametrize(("load", "text"), KINDS)
def test_many_mutated_files(tmp_path: Path, load: Callable[[Path], Any], text: str) -> None:
    number = int(os.environ.get("CCDCGAN_TEST_MUTATIONS", "3000"))
    print(try_mutated(load, text, tmp_path / "file.yaml", range(1000, 1000 + number)))
