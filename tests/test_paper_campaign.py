"""A campaign with the paper's networks, its table and its figures."""

import csv
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import status_of
from small_campaign import CAMPAIGN, results, start
from test_report import HOSTILE, LEVEL, a_summary, bi2se3, element, phase, rocksalt, some_curves

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.results.outcome import write_results
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.documents import Outcome
from ccdcgan.workflows.training import preset_of

NETWORKS = (
    "networks: {preset: paper-small, autoencoder: train, variant: dcgan+constraint, grid: 8, "
    "lattice_grid: 8, filters: 4, autoencoder_epochs: 2, guide_epochs: 2, gan_steps: 1}"
)


@pytest.fixture(scope="module")
def paper_run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small campaign with the paper's networks, on what another has relaxed."""
    text = re.sub(r"networks: .*", NETWORKS, CAMPAIGN).replace(
        "stackings: 30, relaxations: 2", "relaxations: 2, screening: {selection: sample}"
    )
    folder = tmp_path_factory.mktemp("paper") / "run"
    process = start(folder, text, "--reuse", finished)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return folder


def test_a_campaign_runs_with_the_papers_networks(paper_run: Path) -> None:
    summary, phases = results(paper_run)
    counts = summary["rounds"][0]
    assert counts["sampled"] == 200 and counts["decoded"] <= 200
    assert counts["relaxed"] == min(2, counts["valid"])
    assert summary["database"]["converged"] > 15 and len(phases) > 15
    assert summary["constraint"]["mae_ev_per_atom"] > 0


def test_its_figures(
    paper_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert status_of(monkeypatch, "figures", paper_run, "--out", tmp_path, "--format", "svg") == 0
    said = capsys.readouterr().err
    made = {path.stem for path in tmp_path.glob("*.svg")}
    assert {"1b", "1c", "1d", "2c", "2d"} <= made
    assert "3d: no composition was left out" in said
    with (tmp_path / "1c.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # Two epochs, of the training crystals and of those that are held out.
    assert [row["series"] for row in rows] == ["training"] * 2 + ["held out"] * 2
    with (tmp_path / "1d.csv").open(newline="") as stream:
        graphs = list(csv.DictReader(stream))
    assert len(graphs) % 28**2 == 0 and len({row["formula"] for row in graphs}) > 1


def test_sizes_of_a_campaign_file() -> None:
    chosen = {"preset": "paper-small", "autoencoder": "train"}
    small = preset_of(parse_campaign({"networks": chosen}, "x"))
    assert (small.grid.points, small.paper.lattice_points, small.paper.filters) == (16, 16, 64)
    sizes = {"grid": 32, "lattice_grid": 8, "filters": 16}
    other = preset_of(parse_campaign({"networks": {**chosen, **sizes}}, "x"))
    assert (other.grid.points, other.paper.lattice_points, other.paper.filters) == (32, 8, 16)
    # A Gaussian spans as many points, and the cube has as many Å.
    assert (other.grid.sigma, other.grid.cube) == (small.grid.sigma, small.grid.cube)
    assert len({small.digest(), other.digest()}) == 2


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"preset": "paper-small"}, "autoencoder: train"),
        ({"grid": 16}, "preset: paper-small"),
        ({"preset": "paper-small", "autoencoder": "train", "grid": 12}, "grid"),
    ],
)
def test_sizes_that_cannot_be(networks: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_campaign({"networks": networks}, "x")


def drawn(structure: Any, formation: float, above: float, **changes: Any) -> dict[str, Any]:
    """A generated phase whose energy was predicted right."""
    origin = {
        "kind": "generated",
        "id": HOSTILE,
        "round": 1,
        "predicted_formation_energy": formation,
    }
    return phase(structure, formation, above, "generated", origin=origin, **changes)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of which the counts are known."""
    phases = [
        phase(element("Bi"), 0.0, 0.0, "element"),
        phase(element("Se"), 0.0, 0.0, "element"),
        phase(bi2se3(), -0.41, 0.0),
        phase(rocksalt("Bi", "Se"), 0.1, 0.4),
        drawn(bi2se3(), -0.40, 0.01, distinct=False),
        drawn(rocksalt("Bi", "Se", 6.1), -0.2, 0.12),
        drawn(rocksalt("Bi", "Se", 6.2), -0.1, 0.22),
        drawn(rocksalt("Bi", "Se", 6.3), 0.6, 0.9, distinct=False),
        drawn(rocksalt("Bi", "Se", 6.4), -5.0, -4.0, label="untrusted"),
    ]
    for number, one in enumerate(phases):
        one["id"] = str(number)
    summary = a_summary()
    summary["rounds"] = [{"sampled": 1000, "decoded": 300, "valid": 100, "screened": 5}]
    run = tmp_path_factory.mktemp("counted")
    curves = some_curves()
    write_results(
        Outcome.model_validate({"summary": summary, "phases": phases, "curves": curves}), run
    )
    (run / "campaign.yaml").write_text(
        "networks: {variant: dcgan+constraint}\nloop: {screening: {selection: sample}}\n"
    )
    return run


@pytest.fixture
def folder(counted: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(counted, tmp_path / "run"))


def test_the_table_counts_by_the_papers_definitions(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "table.json"
    assert status_of(monkeypatch, "paper-table", folder, "--json", out) == 0
    found = json.loads(out.read_text())
    (run,) = found["runs"]
    database, before, after = run["rows"]
    counts = [{k: v["count"] for k, v in row["counts"].items()} for row in run["rows"]]
    assert database["relaxed"] == 2
    assert (counts[0]["negative"], counts[0]["metastable"], counts[0]["stable"]) == (1, 1, 1)
    assert (before["name"], after["name"]) == ("DCGAN", "DCGAN + constraint")
    assert (before["graphs"], before["decoded"], before["crystals"]) == (1000, 300, 100)
    # What is untrusted is not counted, and what is known is.
    assert before["relaxed"] == 4 and run["untrusted"] == 1
    assert counts[1] == {
        "negative": 3,
        "metastable": 2,
        "stable": 1,
        "distinct": 2,
        "distinct_metastable": 1,
        "distinct_stable": 0,
    }
    assert before["mean_formation_energy"] == pytest.approx((-0.4 - 0.2 - 0.1 + 0.6) / 4)
    # Predicted above 0.3 eV/atom: screened out.
    assert after["relaxed"] == 3 and counts[2]["negative"] == 3
    estimate = before["estimates"]["stable"]
    # Five were chosen of a hundred, and all have an energy.
    assert (estimate["count"], estimate["of"]) == (25, 100)
    assert 0 < estimate["low"] < 25 < estimate["high"] < 100
    paper = {row["name"]: row for row in found["paper"]}
    assert paper["CCDCGAN"]["counts"]["distinct_stable"]["count"] == 42
    said = capsys.readouterr()
    assert "3,743" in said.out and "untrusted" in said.err


def test_figures_of_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "figures"
    assert status_of(monkeypatch, "figures", folder, "--out", out) == 0
    said = capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {
        *("2b.pdf", "2b.csv", "3b.pdf", "3b.csv", "3c.pdf", "3c.csv", "figures.html"),
    }
    assert (out / "2b.pdf").read_bytes().startswith(b"%PDF")
    for name in ("1b", "1c", "1d", "2c", "2d", "3d"):
        assert f"skipped  {name}: " in said
    with (out / "2b.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    energies = [
        float(row["formation energy / eV per atom"]) for row in rows if row["series"] == "generated"
    ]
    assert sorted(energies) == [-0.4, -0.2, -0.1, 0.6]
    passed = [row for row in rows if row["series"].startswith("predicted below")]
    assert len(passed) == 3
    # Bi2Se3 is known, in the database and generated.
    known = {row["series"]: row["label"] for row in rows if row["series"].startswith("known")}
    assert set(known) == {"known, in the database", "known, generated"}
    assert all(label.startswith("Bi2Se3") for label in known.values())
    page = (out / "figures.html").read_text()
    assert "Content-Security-Policy" in page and "<img" not in page


def test_compositions_that_were_left_out(folder: Path, tmp_path: Path) -> None:
    from ccdcgan.launchers.figures.of_run import RunFigures
    from ccdcgan.launchers.results.run_files import RunFiles

    with (folder / "campaign.yaml").open("a") as stream:
        stream.write("database: {without: [Bi2Se3, BiSe3]}\n")
    figures = RunFigures(RunFiles.of(folder))
    (made,) = figures.made(["3d", "3e", "3f"])
    assert made.name == "3d" and made.title.startswith("Bi2Se3")
    assert "the known crystal" in made.crystals[0].label
    assert "BiSe3" in figures.lacking["3e"] and "no more" in figures.lacking["3f"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paper-table", "nowhere"], "holds no campaign"),
        (["figures", "nowhere"], "holds no campaign"),
        (["figures", "run", "--only", "2x"], "unknown figure '2x'"),
        (["figures", "run", "--format", "gif"], "choose pdf, svg or png"),
        (["figures", "run", "--only", "1b"], "nothing of what these figures show"),
        (["figures", "run", "--out", "run/campaign.yaml"], "is a file"),
    ],
)
def test_what_cannot_be(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert status_of(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_has_not_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (folder / "phases.json.gz").write_bytes(gzip.compress(b"[{]"))
    assert status_of(monkeypatch, "paper-table", folder) == 2
    assert "cannot be read" in capsys.readouterr().err
    (folder / "summary.json").unlink()
    assert status_of(monkeypatch, "paper-table", folder) == 2
    assert "has not ended" in capsys.readouterr().err


def test_levels_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert status_of(monkeypatch, "paper-table", folder) == 0
    assert str(LEVEL["engine"]) in capsys.readouterr().out
