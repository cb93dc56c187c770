"""Campaign files and the command line's answers to bad input."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command import status_of

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cli import app as cli
from ccdcgan.launchers.local.presets import PRESETS, preset_text
from ccdcgan.workflows.campaign import Campaign, load_campaign, parse_campaign


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and messages of the command line."""
    code = status_of(monkeypatch, *arguments)
    captured = capsys.readouterr()
    return code, captured.err + captured.out


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_campaign_and_an_example(name):
    example = Path(__file__).parent.parent / "examples" / f"{name}.yaml"
    assert example.read_text() == preset_text(name)
    campaign = load_campaign(example)
    assert campaign.elements == ["Bi", "Se"]
    assert campaign.loop.rounds >= 1


def test_every_stage_of_every_round_and_campaign_has_a_seed_of_its_own():
    stages = [
        (seed, stage, number)
        for seed in (0, 1, 1000)
        for stage in ("constraint", "gan", "generator", "wyckoff")
        for number in range(1, 21)
    ]
    seeds = [Campaign(seed=s).seed_of(stage, number) for s, stage, number in stages]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds[0] == Campaign(seed=0).seed_of("constraint", 1)


def test_digest_knows_what_decides_the_result():
    base = Campaign()
    assert base.digest() == Campaign().digest()
    assert base.digest() == Campaign(workers=1).digest()
    assert base.digest() != Campaign(seed=1).digest()
    assert base.digest() != parse_campaign({"relaxation": {"fmax": 0.1}}, "x").digest()


@pytest.mark.parametrize("engine", ["vasp", "gpaw", "espresso"])
def test_dft_codes_relax_once_whatever_the_preset_says(engine):
    """So that a preset's file with another engine has the keys of one without the line."""
    relaxations = [
        parse_campaign({"relaxation": {"engine": {"name": engine}, **refine}}, "x")
        for refine in ({}, {"refine": 0.01})
    ]
    assert relaxations[0].digest() == relaxations[1].digest()
    potential = parse_campaign({"relaxation": {"refine": 0.01}}, "x")
    assert potential.relaxation.refine == 0.01
    assert potential.digest() != Campaign().digest()


@pytest.mark.parametrize(
    ("first", "selection", "digest", "artifact"),
    [
        # Of the version before selection had its name.
        ("gain", "expected_gain", "96c9b0807c78f52e", "generated-323072eb39cd5eb161ff62a7"),
        ("any", "none", "2eab3e80a1003474", "generated-2feed41ecd389c49e28af4cd"),
    ],
)
def test_first_names_are_understood_and_hashed(
    first: str, selection: str, digest: str, artifact: str
) -> None:
    from ccdcgan.workflows.generate import generated_keys

    for name, value in (("choose", first), ("selection", selection), ("selection", first)):
        campaign = parse_campaign({"loop": {"screening": {name: value}}}, "x")
        assert campaign.loop.screening.selection == selection
        assert campaign.digest() == digest
        assert generated_keys("g", campaign)[1] == artifact
        stored = campaign.model_dump(mode="json")
        assert stored["loop"]["screening"]["selection"] == selection
        assert "choose" not in stored["loop"]["screening"]
        assert parse_campaign(stored, "x") == campaign


def test_a_campaigns_loss_replaces_that_of_its_preset():
    from ccdcgan.models.presets import PRESETS
    from ccdcgan.workflows.training import preset_of

    own = PRESETS["quickstart"]
    assert preset_of(Campaign()) == own
    for loss in ("wgan-gp", "hinge", "bce"):
        chosen = preset_of(parse_campaign({"networks": {"loss": loss}}, "x"))
        assert chosen.gan.loss == loss
        assert replace(chosen, gan=replace(chosen.gan, loss=own.gan.loss)) == own


def test_ternary_systems_are_campaigns_too():
    assert parse_campaign({"system": "Mn-Mg-O"}, "x").elements == ["Mn", "Mg", "O"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loop: {screening: {bound: 2.0}}", ["unknown key 'loop.screening.bound'"]),
        (
            "loop: {screening: {selection: best}}",
            ["loop.screening.selection", "'none' or 'sample'", "not 'best'"],
        ),
        ("loop: {screening: {choose: best}}", ["loop.screening.selection", "not 'best'"]),
        (
            "loop: {screening: {choose: gain, selection: none}}",
            ["unknown key 'loop.screening.choose'"],
        ),
        ("networks: {loss: gentle}", ["networks.loss", "'wgan-gp', 'hinge' or 'bce'"]),
        ("sytem: Bi-Se", ["sytem", "did you mean 'system'"]),
        ("loop: {relaxatoins: 3}", ["loop.relaxatoins", "did you mean 'relaxations'"]),
        ("system: Bi-Xx", ["unknown element 'Xx'"]),
        ("system: Bi", ["at least two elements"]),
        ("system: Bi-Bi", ["occurs twice"]),
        ("seed: many", ["seed"]),
        ("loop: {rounds: 0}", ["loop.rounds", "greater than or equal to 1"]),
        ("a: [1", ["not valid YAML"]),
        ("- 1", ["keys and values"]),
        ("networks: {preset: paper}", ["autoencoder: train"]),
        ("relaxation: {engine: {name: vasp, incar: {nsw: 5}}}", ["NSW", "relaxation.max_steps"]),
        ("relaxation: {engine: {name: vosp}}", ["vasp", "espresso"]),
        (
            "relaxation: {engine: {name: vasp}}\n"
            "networks: {goals: [{property: bulk_modulus, direction: maximise}]}",
            ["engine vasp", "bulk_modulus"],
        ),
    ],
)
def test_bad_campaign_files_get_one_line(tmp_path, monkeypatch, capsys, text, words):
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    workdir = tmp_path / "run"
    code, message = command(monkeypatch, capsys, "run", str(path), "--workdir", str(workdir))
    assert code == 2
    assert len(message.strip().splitlines()) == 1
    assert all(word in message for word in words), message
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("system: Bi-Po", ["has not learnt Po"]),
        ("relaxation: {engine: {name: vasp}}", ["no-such-vasp", "ATOMATE2_VASP_CMD"]),
        ("confirm: {relaxation: {engine: {name: vasp}}}", ["no-such-vasp", "ATOMATE2_VASP_CMD"]),
        ("relaxation: {engine: {name: espresso, command: no-such-pw.x}}", ["no-such-pw.x"]),
        (
            "relaxation: {engine: {name: chgnet}, batch: 8}",
            ["relaxation.batch is 8", "engine chgnet", "leave batch out"],
        ),
    ],
)
def test_what_an_engine_lacks_is_said_before_the_start(tmp_path, monkeypatch, capsys, text, words):
    monkeypatch.setenv("ATOMATE2_VASP_CMD", "no-such-vasp")
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    workdir = tmp_path / "run"
    code, message = command(monkeypatch, capsys, "run", str(path), "--workdir", str(workdir))
    assert code == 2
    last = message.strip().splitlines()[-1]
    assert all(word in last for word in words), message
    assert not workdir.exists()


def test_check_says_what_run_would_do_line_by_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATOMATE2_VASP_CMD", "no-such-vasp")
    monkeypatch.chdir(tmp_path)
    code, message = command(monkeypatch, capsys, "check")
    *lines, guess = message.splitlines()
    assert (code, lines) == (
        0,
        [
            "ok  relaxation by sevennet of Bi, Se: SevenNet-l3i5 + D3(BJ) of PBE",
            "ok  relaxation: second opinion by SevenNet-MF-0 + PBE + D3(BJ) of PBE",
            "ok  source aflow: 103 prototypes; left out: 70 too many sites, 3 lattice vector too "
            "long",
            "ok  proposals by stackings, substitution, variation, generator",
            "ok  candidates: 96 of Bi-Se",
            "ok  results go to ccdcgan-run, which is new",
        ],
    )
    assert guess.startswith("note") and "a guess of" in guess and "minutes" in guess
    path = tmp_path / "campaign.yaml"
    path.write_text("confirm: {relaxation: {engine: {name: vasp}}}")
    code, message = command(monkeypatch, capsys, "check", str(path))
    missing = [line for line in message.splitlines() if line.startswith("missing")]
    assert code == 2 and len(missing) == 1
    assert missing[0].startswith("missing  'no-such-vasp'")
    assert not (tmp_path / "ccdcgan-run").exists()


def test_missing_campaign_file(tmp_path, monkeypatch, capsys):
    code, message = command(monkeypatch, capsys, "run", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "cannot read" in message and "none.yaml" in message


def test_init_writes_a_file_once(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.yaml"
    assert command(monkeypatch, capsys, "init", str(path))[0] == 0
    assert load_campaign(path).elements == ["Bi", "Se"]
    code, message = command(monkeypatch, capsys, "init", str(path))
    assert code == 2 and "exists already" in message
    code, message = command(monkeypatch, capsys, "init", str(tmp_path / "b"), "--preset", "x")
    assert code == 2 and "quickstart" in message


def test_another_campaign_in_the_folder_is_left_alone(tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "campaign.yaml").write_text("system: Bi-Te\n")
    before = sorted(p.name for p in workdir.iterdir())
    code, message = command(monkeypatch, capsys, "run", "--workdir", str(workdir))
    assert code == 2 and "another campaign" in message
    assert sorted(p.name for p in workdir.iterdir()) == before


def test_foreign_files_are_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    code, message = command(monkeypatch, capsys, "run", "--workdir", str(tmp_path))
    assert code == 2 and "not empty" in message
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    code, message = command(monkeypatch, capsys, "run", "--workdir", str(tmp_path / "file" / "x"))
    assert code == 2 and len(message.strip().splitlines()) <= 2


def test_unreadable_structure_files(tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.cif").write_text("no crystal here")
    (tmp_path / "empty.cif").write_text("")
    path = tmp_path / "campaign.yaml"
    path.write_text(f"database: {{sources: [{{source: files, path: {tmp_path}}}]}}")
    code, message = command(
        monkeypatch, capsys, "run", str(path), "--workdir", str(tmp_path / "run")
    )
    assert code == 2
    assert "no structure in" in message and "bad.cif" in message


def test_filters_that_let_nothing_pass(tmp_path, monkeypatch, capsys):
    path = tmp_path / "campaign.yaml"
    path.write_text("database: {filters: {max_length: 0.1}}")
    code, message = command(
        monkeypatch, capsys, "run", str(path), "--workdir", str(tmp_path / "run")
    )
    assert code == 2 and "widen database.filters" in message


def test_too_few_crystals_to_learn_from_says_how_many(tmp_path):
    from pymatgen.core import Structure

    from ccdcgan.workflows.documents import Origin, RelaxationDocument
    from ccdcgan.workflows.knowledge import Knowledge

    level = Campaign().relaxation.engine.level_of_theory()
    cell = [[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]]
    documents = {}
    for species, energy in ((["Bi"], -3.8), (["Se"], -3.4), (["Bi", "Se"], -3.8)):
        structure = Structure(cell, species, [[0, 0, 0], [0.5, 0.5, 0.5]][: len(species)])
        documents["".join(species)] = RelaxationDocument(
            key="".join(species),
            structure=structure.as_dict(),
            energy_per_atom=energy,
            converged=True,
            campaign="x",
            origin=Origin(kind="prototype", id="x"),
            initial_structure=structure.as_dict(),
            level_of_theory=level,
        )
    samples = Knowledge(Campaign(), documents).samples
    # -3.8 - (-3.8 - 3.4) / 2 = -0.2, and nothing lies below it.
    assert [s.key for s in samples] == ["BiSe"]
    volume = 27.0 / 2
    expected = {
        "formation_energy_per_atom": -0.2,
        "e_above_hull": 0.0,
        "volume_per_atom": volume,
        "density": (208.980 + 78.971) / 2 * 1.66054 / volume,
    }
    assert samples[0].properties == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_what_became_one_crystal_is_one_sample_with_all_its_starts():
    """Starts go by the keys of their relaxations to the first sample, whatever the cell."""
    from pymatgen.core import Structure

    from ccdcgan.workflows.documents import Origin, RelaxationDocument
    from ccdcgan.workflows.knowledge import Knowledge
    from ccdcgan.workflows.training import crystals_of

    level = Campaign().relaxation.engine.level_of_theory()

    def cell(species, edge, place=0.5):
        sites = [[0, 0, 0], [place] * 3][: len(species)]
        return Structure([[edge, 0, 0], [0, edge, 0], [0, 0, edge]], species, sites)

    cscl = cell(["Bi", "Se"], 3.6)
    flat = Structure([[4, 0, 0], [0, 4, 0], [4, 4, 0.05]], ["Bi", "Se"], [[0, 0, 0], [0.5] * 3])
    nickel = Structure(
        [[4.1, 0, 0], [-2.05, 3.55, 0], [0, 0, 5.6]],
        ["Bi", "Bi", "Se", "Se"],
        [[0, 0, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]],
    )
    # key: start, end, energy; "f" did not converge, "g" and "h" are elements.
    made = {
        "a": (flat, flat, -3.5),
        "b": (cell(["Bi", "Se"], 3.9, 0.45), cscl, -3.8),
        "c": (cell(["Bi", "Se"], 4.4), nickel, -3.7),
        "d": (cell(["Bi", "Se"], 3.2), cscl * (2, 1, 1), -3.81),
        "e": (cell(["Bi", "Se"], 4.1), nickel * (1, 2, 1), -3.7),
        "f": (cell(["Bi", "Se"], 4.2), cscl, -3.7),
        "g": (cell(["Bi"], 3.0), cell(["Bi"], 3.1), -3.8),
        "h": (cell(["Se"], 3.0), cell(["Se"], 3.1), -3.4),
        "i": (cell(["Bi", "Se"], 3.8), cscl, -3.8),
    }
    documents = {
        key: RelaxationDocument(
            key=key,
            structure=end.as_dict(),
            energy_per_atom=energy,
            converged=key != "f",
            campaign="x",
            origin=Origin(kind="prototype", id="x"),
            initial_structure=start.as_dict(),
            level_of_theory=level,
        )
        # Their order is that of the keys, however they come.
        for key, (start, end, energy) in reversed(made.items())
    }
    samples = Knowledge(Campaign(), documents).samples
    assert [s.key for s in samples] == ["a", "b", "c"]
    starts = {s.key: s.starts for s in samples}
    assert {key: list(found) for key, found in starts.items()} == {
        "a": ["a"],
        "b": ["b", "d", "i"],
        "c": ["c", "e"],
    }
    assert all(found[key] == made[key][0] for found in starts.values() for key in found)
    # The crystal and its numbers are those of the first.
    assert samples[1].properties["formation_energy_per_atom"] == pytest.approx(-3.8 + 3.6)
    assert len(samples[2].structure) == 4
    # What is trained on knows of each start whose it is.
    crystals = crystals_of(samples, ["formation_energy_per_atom"])
    assert list(crystals.starts.crystal) == [0, 1, 1, 1, 2, 2]
    assert crystals.starts.structures[3] == made["i"][0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(("options", "words"), [("size=24k", "full"), ("ro", "permission")])
def test_full_or_read_only_disk(tmp_path, options, words):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let tests mount a tmpfs")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ccdcgan.launchers.cli", "run", "--workdir", str(disk / "run")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert words in last and "Traceback" not in done.stderr


def test_unknown_errors_are_not_hidden():
    assert cli.explain(RuntimeError("bug")) is None
    assert cli.explain(UserError("do this")) == "do this"


def test_recorded_phases_are_plain_json(tmp_path):
    from outcomes import outcome_of

    from ccdcgan.launchers.results.outcome import write_results

    outcome = outcome_of(Campaign().relaxation.engine.level_of_theory())
    write_results(outcome, tmp_path)
    with gzip.open(tmp_path / "phases.json.gz") as stream:
        assert json.load(stream) == []
    assert json.loads((tmp_path / "summary.json").read_text())["system"] == ["Bi", "Se"]
