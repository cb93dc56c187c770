"""``ccdcgan train`` and ``ccdcgan sample`` from the outside, on made-up energies."""

import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.sources import AflowSource, Filters, collect
from ccdcgan.dft.structures.substitution import candidates
from ccdcgan.launchers.cli import app as cli
from ccdcgan.launchers.networks.energies import EnergyKey
from ccdcgan.launchers.networks.sample import asked_compositions
from ccdcgan.models.presets import FORMAT

TINY = """
based_on: quickstart
name: tiny
max_sites: 8
autoencoder_epochs: 1
constraint: {references: 100, members: 3}
guide: {samples: 30, epochs: 2, width: 32}
gan: {steps: 1000, latent: 24, width: 32, batch: 16, critic_steps: 1}
"""
#: Energies per atom of the elements, eV.
PURE = {"Bi": -3.9, "Se": -3.5}
NAMES = ["formation_energy_per_atom", "hardness"]


def formation(structure: Structure) -> float:
    """A made-up formation energy: low at equal shares and at 27 Å³ per atom."""
    x = structure.composition.get_atomic_fraction("Bi")
    return -0.8 * x * (1 - x) + 0.5 * (structure.volume / len(structure) / 27.0 - 1.0) ** 2


def row(structure: Structure, **numbers: Any) -> dict[str, Any]:
    share = structure.composition.fractional_composition
    energy = formation(structure) if len(share) > 1 else 0.0
    return {
        "structure": structure.as_dict(),
        "energy_per_atom": energy + sum(share[e] * PURE[e] for e in PURE),
        "hardness": 100.0 / (structure.volume / len(structure)),
        **numbers,
    }


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Substituted and strained AFLOW prototypes, pure elements, and what is of no use."""
    prototypes, _, _ = collect([AflowSource(designated=True)], Filters(max_sites=5), 2, 0)
    found = [p.structure for p in candidates(prototypes[:24], ["Bi", "Se"])[0]]
    rng = np.random.default_rng(0)
    for structure in found:
        structure.apply_strain(rng.uniform(-0.05, 0.05, 3))
    pure = [Structure(Lattice.cubic(3.2), [e], [[0, 0, 0]]) for e in PURE]
    assert len(found) >= 30
    return [row(s) for s in [*found[:40], *pure]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    """A folder with the preset and the data, clean and dirty."""
    path = tmp_path_factory.mktemp("train")
    (path / "tiny.yaml").write_text(TINY)
    (path / "data.json").write_text(json.dumps(rows))
    return path


def ccdcgan(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and messages of the command line."""
    code, out, messages = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(messages):
        patch.setattr(sys, "argv", ["ccdcgan", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), messages.getvalue()


def error_of(*arguments: object) -> str:
    """The one line in which a mistake ends, and with it the command."""
    code, out, messages = ccdcgan(*arguments)
    lines = messages.splitlines()
    # How far it is and what is left out may be told before; a traceback never.
    assert (code, out) == (2, "") and "Traceback" not in messages
    assert [line.startswith("error: ") for line in lines] == [*[False] * (len(lines) - 1), True]
    return lines[-1]


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Path, str]:
    """Networks of an undisturbed training, and what it printed."""
    out = folder / "models"
    goals = ["--goal", f"{NAMES[0]}:minimise", "--goal", "hardness:near=4:0.1"]
    preset = ["--preset", folder / "tiny.yaml"]
    code, said, messages = ccdcgan(
        "train", "all", folder / "data.json", "--out", out, *preset, *goals
    )
    assert code == 0, messages
    return out, said


@pytest.fixture(scope="module")
def models(trained: tuple[Path, str]) -> Path:
    return trained[0]


def drawn(models: Path, out: Path, *options: object) -> tuple[bytes, dict[str, int]]:
    """The file of `ccdcgan sample` and its funnel."""
    code, said, messages = ccdcgan("sample", models, "--out", out, "--count", 40, *options)
    assert code == 0, messages
    parts = (part.split(" ", 1) for part in said.strip().split(", "))
    return out.read_bytes(), {what: int(number) for number, what in parts}


@pytest.fixture(scope="module")
def crystals(models: Path, folder: Path) -> tuple[bytes, dict[str, int]]:
    """All that the networks draw, as JSON, and the funnel."""
    return drawn(models, folder / "all.json", "--all")


def manifest(models: Path) -> dict[str, Any]:
    return json.loads((models / "manifest.json").read_text())


# --- training -----------------------------------------------------------------------------------


def test_training_leaves_networks_that_say_what_they_are(trained: tuple[Path, str]) -> None:
    path, said = trained
    known = manifest(path)
    assert (known["system"], known["properties"], known["seed"]) == (["Bi", "Se"], NAMES, 0)
    assert known["preset"]["name"] == "tiny" and known["preset"]["max_sites"] == 8
    assert known["goals"][1] == {
        "property": "hardness", "direction": "near", "weight": 0.1, "value": 4.0
    }  # fmt: skip
    files = {n: h for s in known["stages"].values() for n, h in s["files"].items()}
    expected = {"sites", "constraint", "guide", "generator"}
    assert set(files) == {f"{n}.keras" for n in expected} | {"space.npz"}
    for name, digest in files.items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == digest
    assert {p.name for p in path.iterdir()} == {*files, "manifest.json", "log"}
    log = (path / "log" / "gan" / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ["step", "250", "500", "750", "1000"]
    figures = known["stages"]["constraint"]["figures"]
    assert set(figures["properties"]) == set(NAMES)
    assert figures["properties"]["hardness"]["mae"] < 2.0
    for word in ("unseen crystals come back", "MAE", "1000 steps", "seconds"):
        assert word in said
    # Of few held-out crystals there is none.
    told = [e["r2"] for e in figures["properties"].values() if e["r2"] is not None]
    assert said.count("R²") == len(told)


def test_finished_stages_are_kept(models: Path, folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in models.rglob("*") if p.is_file()}
    # Goals and preset come from the folder.
    code, said, messages = ccdcgan("train", "gan", folder / "data.json", "--out", models)
    assert code == 0 and "gan: kept" in messages and "1000 steps" in said
    assert {p: p.stat().st_mtime_ns for p in models.rglob("*") if p.is_file()} == before


def test_killed_gan_training_goes_on_to_the_same_generator(
    models: Path, folder: Path, tmp_path: Path, crystals: tuple[bytes, dict[str, int]]
) -> None:
    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    known = manifest(copy)
    del known["stages"]["gan"]
    (copy / "manifest.json").write_text(json.dumps(known))
    (copy / "generator.keras").unlink()
    arguments = [str(a) for a in ("train", "gan", folder / "data.json", "--out", copy)]
    process = subprocess.Popen(
        [sys.executable, "-m", "ccdcgan.launchers.cli", *arguments], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(copy.glob("checkpoint/*.npz")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(copy.glob("checkpoint/*.npz")) and not (copy / "generator.keras").exists()
    message = error_of("sample", copy, "--out", tmp_path / "none.json")
    assert "has no gan yet: run first: ccdcgan train gan" in message
    code, _, messages = ccdcgan(*arguments)
    assert code == 0, messages
    assert "gan: 250 of" not in messages and "gan: 1000 of 1000" in messages
    assert not (copy / "checkpoint").exists()
    resumed, _ = drawn(copy, tmp_path / "resumed.json", "--all")
    assert resumed == crystals[0]


def test_autoencoder_from_a_folder_of_cif_files(
    rows: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "cif").mkdir()
    for i, one in enumerate(rows[:14]):
        Structure.from_dict(one["structure"]).to(str(tmp_path / "cif" / f"{i}.cif"))
    (tmp_path / "cif" / "broken.cif").write_text("nothing")
    out = tmp_path / "models"
    options = ["--preset", folder / "tiny.yaml", "--autoencoder", "shipped"]
    code, said, messages = ccdcgan("train", "autoencoder", tmp_path / "cif", "--out", out, *options)
    assert code == 0 and "come back (shipped)" in said
    assert "left out: broken.cif" in messages
    assert set(manifest(out)["stages"]) == {"autoencoder"}
    message = error_of("train", "gan", folder / "data.json", "--out", out)
    assert "has no constraint yet: run first: ccdcgan train constraint" in message
    assert "holds no energies" in error_of("train", "constraint", tmp_path / "cif", "--out", out)


# --- data ---------------------------------------------------------------------------------------


def learnt(path: Path, **options: Any) -> tuple[Any, list[str]]:
    from ccdcgan.launchers.networks.data import prepared
    from ccdcgan.launchers.networks.energies import parse_references
    from ccdcgan.models.presets import load_preset

    (path.parent / "tiny.yaml").write_text(TINY)
    lines: list[str] = []
    data = prepared(
        path,
        options.get("elements"),
        load_preset(path.parent / "tiny.yaml"),
        options.get("names", NAMES),
        parse_references(options.get("references")),
        lines.append,
        options.get("energy"),
    )
    return data, lines


def test_every_kind_of_data_gives_the_same_targets(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    structures = [Structure.from_dict(r["structure"]) for r in rows]
    phases = [
        {**r, "energy_per_atom": None, "formation_energy_per_atom": formation(s), "converged": True}
        for r, s in zip(rows, structures, strict=True)
    ]
    images = []
    for one, structure in zip(rows, structures, strict=True):
        # A supercell: every structure is reduced to its primitive cell.
        atoms = (structure * (1, 1, 2)).to_ase_atoms(msonable=False)
        atoms.info = {k: v for k, v in one.items() if k != "structure"}
        images.append(atoms)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "phases.json.gz").write_bytes(gzip.compress(json.dumps(phases).encode()))
    ase.io.write(tmp_path / "rows.extxyz", images, format="extxyz")
    found = [learnt(tmp_path / n)[0] for n in ("rows.json", "phases.json.gz", "rows.extxyz")]
    for data in found:
        assert data.elements == ["Bi", "Se"]
        assert len(data.rows) >= 30 and max(len(r.structure) for r in data.rows) <= 8
        expected = [[formation(r.structure), 100 * len(r.structure) / r.structure.volume]
                    for r in data.rows]  # fmt: skip
        np.testing.assert_allclose(data.crystals.targets, expected, atol=1e-5)
        assert abs(data.crystals.e_above_hull.min()) < 1e-6
        assert data.crystals.e_above_hull.max() > 0.01
    # Distances to the hull that the data bring are taken as they are.
    (tmp_path / "rows.json").write_text(json.dumps([{**r, "e_above_hull": 0.07} for r in rows]))
    assert set(learnt(tmp_path / "rows.json")[0].crystals.e_above_hull) == {0.07}


def test_references_and_what_is_left_out(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    good = rows[:30]
    alien = Structure(Lattice.cubic(4.0), ["Bi", "Te"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    half = Structure(Lattice.cubic(4.0), [{"Bi": 0.5, "Se": 0.5}], [[0, 0, 0]])
    crushed = Structure(Lattice.cubic(4.0), ["Bi", "Se"], [[0, 0, 0], [0, 0, 0.01]])
    bad = [{"structure": s.as_dict(), "energy_per_atom": -3.0} for s in (alien, half, crushed)]
    lost = [{**rows[30], "status": "rejected"}, {**rows[31], "converged": False}]
    bare = [{"structure": rows[32]["structure"], "hardness": 1.0}, {"no": "structure"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*good, *bad, *lost, *bare, good[0], bad[0]]))
    data, lines = learnt(path, elements=["Bi", "Se"], references="Bi=-3.9,Se=-3.5")
    assert len(data.rows) == 30
    expected = [formation(r.structure) for r in data.rows]
    np.testing.assert_allclose(data.crystals.targets[:, 0], expected, atol=1e-9)
    text = "\n".join(lines)
    assert sum(line.startswith("left out: rows.json#") for line in lines) == 5
    for words in ("outside the system Bi-Se", "partly occupied", "closer than 0.5 Å"):
        assert words in text
    for words in (
        "1 of 39 more",
        "2 of 39 left out: did not converge,",
        "1 of 39 left out: the sa",
    ):
        assert words in text


def entry(one: dict[str, Any], number: int) -> dict[str, Any]:
    structure = Structure.from_dict(one["structure"])
    energy = one["energy_per_atom"] * len(structure)
    return ComputedStructureEntry(
        structure, energy - 0.5, correction=0.5, entry_id=number
    ).as_dict()


def images(rows: list[dict[str, Any]], key: str) -> list[ase.Atoms]:
    """Frames with their energies, eV, under a name or in a calculator."""
    found = []
    for one in rows:
        atoms = Structure.from_dict(one["structure"]).to_ase_atoms(msonable=False)
        energy = one["energy_per_atom"] * len(atoms)
        if key == "calculator":
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
        else:
            atoms.info[key] = energy
        found.append(atoms)
    return found


def test_energies_by_known_names(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Entries of pymatgen, corrected; totals of several names; a calculator; a name of the user's.

    The targets are the same each time.
    """
    names = [NAMES[0]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    expected = learnt(tmp_path / "rows.json", names=names)[0].crystals.targets
    (tmp_path / "entries.json").write_text(json.dumps([entry(r, i) for i, r in enumerate(rows)]))
    for key in ("energy", "REF_energy", "total_energy", "calculator", "mine"):
        ase.io.write(tmp_path / f"{key}.extxyz", images(rows, key), format="extxyz")
    frames = [
        {"structure": r["structure"], "total_energy": r["energy_per_atom"] * n, "mine": 3.0}
        for r in rows
        if (n := len(r["structure"]["sites"]))
    ]
    pd.DataFrame(frames).to_json(tmp_path / "columns.json")
    pd.DataFrame(frames).to_json(tmp_path / "split.json", orient="split")
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, frames)))
    files = [p for p in tmp_path.iterdir() if p.suffix != ".yaml" and p.stem != "mine"]
    assert len(files) == 9
    for path in files:
        targets = learnt(path, names=names)[0].crystals.targets
        np.testing.assert_allclose(targets, expected, atol=1e-6, err_msg=path.name)
    with pytest.raises(UserError, match="its numbers are mine: choose one with --energy"):
        learnt(tmp_path / "mine.extxyz", names=names)
    chosen = learnt(tmp_path / "mine.extxyz", names=names, energy=EnergyKey("mine"))[0]
    np.testing.assert_allclose(chosen.crystals.targets, expected, atol=1e-6)
    other = learnt(
        tmp_path / "rows.json", names=names, energy=EnergyKey("energy_per_atom", per_atom=True)
    )[0]
    np.testing.assert_allclose(other.crystals.targets, expected, atol=1e-9)


def test_runs_of_two_functionals_are_not_mixed(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """GGA and GGA+U are one scale in the Materials Project; r2SCAN is another."""
    path = tmp_path / "entries.json"
    entries = [entry(r, i) for i, r in enumerate(rows)]
    for runs in (("GGA", "GGA+U"), ("GGA", "R2SCAN")):
        for number, one in enumerate(entries):
            one["parameters"] = {"run_type": runs[number % 2]}
        path.write_text(json.dumps(entries))
        if "R2SCAN" not in runs:
            assert len(learnt(path, names=[NAMES[0]])[0].rows) == len(rows) - len(PURE)
            continue
        with pytest.raises(UserError, match="mixes levels of theory: VASP's GGA and VASP's R2SCAN"):
            learnt(path, names=[NAMES[0]])


def test_energies_that_no_crystal_has(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    wild = [{**r, "energy_per_atom": e} for r, e in zip(rows[:2], (9999.0, -1e6), strict=True)]
    pure = {**rows[-1], "energy_per_atom": -1e4, "structure": rows[-2]["structure"]}
    same = [{**rows[-2], "energy_per_atom": PURE["Bi"] + 0.01 * i} for i in range(2)]
    path.write_text(json.dumps([*wild, *rows[2:], pure, *same]))
    data, lines = learnt(path)
    expected = [formation(r.structure) for r in data.rows]
    np.testing.assert_allclose(data.crystals.targets[:, 0], expected, atol=1e-9)
    text = "\n".join(lines)
    assert "3 left out: energies out of the range of crystals (-10 to 10 eV/atom" in text
    assert "the farthest is rows.json#1: -" in text and "formation energies: median" in text
    path.write_text(json.dumps([{**r, "formation_energy_per_atom": 50.0} for r in rows]))
    with pytest.raises(UserError, match=r"all \d\d left out: energies out of the range"):
        learnt(path)


@pytest.mark.parametrize("word", ["False", "false", "no", "0", 0, "F", False, None])
def test_what_says_that_it_did_not_converge(
    rows: list[dict[str, Any]], tmp_path: Path, word: object
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*rows, {**rows[0], "converged": word}]))
    _, lines = learnt(path)
    assert f"1 of {len(rows) + 1} left out: did not converge, or untrusted" in lines
    path.write_text(json.dumps([*rows, {**rows[0], "converged": "perhaps"}]))
    assert any("'converged' is neither true nor false" in line for line in learnt(path)[1])


def test_numbers_that_cannot_be(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Left out and named: of the hull, of the cell, of an atom of no element, or no number."""
    path = tmp_path / "rows.json"
    dummy = json.loads(json.dumps(rows[3]).replace('"Bi"', '"X"'))
    for site in dummy["structure"]["sites"]:
        site["species"][0]["oxidation_state"] = 0
    odd = [
        {**rows[0], "e_above_hull": -5.0},
        {**rows[1], "density": 99.0},
        dummy,
        {**rows[2], "energy_per_atom": "-3,5"},
    ]
    path.write_text(json.dumps([*odd, *rows]))
    data, lines = learnt(path)
    expected = [formation(r.structure) for r in data.rows]
    np.testing.assert_allclose(data.crystals.targets[:, 0], expected, atol=1e-9)
    text = "\n".join(lines)
    for words in (
        "left out: rows.json#0 has e_above_hull -5, which no crystal has",
        "left out: rows.json#1 has density 99, its cell has ",
        "left out: rows.json#2 no element 'X'",
        "rows.json#3: its energy_per_atom is '-3,5', which is no number",
        "left out: rows.json#3 has no energy",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("references", "words"),
    [
        ("Bi=-3.9,Se=-3.5,Bi=-9", "--references has Bi twice"),
        ("Bi=-3.9,Se=-3.5,Te=-3", "--references has Te, which is not in Bi-Se"),
    ],
)
def test_references_that_do_not_fit(
    references: str, words: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=words):
        learnt(tmp_path / "rows.json", references=references)


def test_references_above_the_data_s_own_and_levels_of_some(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    _, lines = learnt(path, references="Bi=-1,Se=-3.5")
    assert any(line.startswith("--references Bi=-1 is above -3.9 eV/atom") for line in lines)
    _, lines = learnt(path, references="Bi=-3.88,Se=-3.5")
    assert not any("is above" in line for line in lines)
    path.write_text(json.dumps([{**rows[0], "level_of_theory": "PBE"}, *rows[1:]]))
    _, lines = learnt(path)
    silent = len(rows) - 1
    assert f"{silent} of {len(rows)} tell no level of theory: taken for that of the others" in lines


# --- sampling -----------------------------------------------------------------------------------


def test_samples_in_every_format(
    models: Path,
    tmp_path: Path,
    crystals: tuple[bytes, dict[str, int]],
    rows: list[dict[str, Any]],
) -> None:
    entries, funnel = json.loads(crystals[0]), crystals[1]
    assert list(funnel) == ["sampled", "decoded", "valid", "written"]
    assert funnel["sampled"] == 40 and funnel["decoded"] == funnel["written"] == len(entries) > 5
    assert any("predicted_hardness" in e for e in entries)
    archive, _ = drawn(models, tmp_path / "a.zip", "--all")
    with zipfile.ZipFile(io.BytesIO(archive)) as stored:
        table = list(csv.DictReader(stored.read("predictions.csv").decode().splitlines()))
        assert sorted(stored.namelist()) == sorted(["predictions.csv", *(r["file"] for r in table)])
        first = Structure.from_str(stored.read(table[0]["file"]).decode(), fmt="cif")
    assert [int(r["sample"]) for r in table] == [e["sample"] for e in entries]
    assert first.composition == Structure.from_dict(entries[0]["structure"]).composition
    # By default only what passes a campaign's screen; the same crystals otherwise.
    _, again = drawn(models, tmp_path / "a.extxyz")
    images = ase.io.read(tmp_path / "a.extxyz", index=":")
    assert again == {**funnel, "written": funnel["valid"]}
    cells = [Structure.from_dict(e["structure"]) for e in entries]
    known = [c for r in rows if len((c := Structure.from_dict(r["structure"])).composition) == 2]
    volumes = [c.volume / len(c) for c in known]
    low, high = 0.6 * min(volumes), 1.2 * max(volumes)
    apart = 0.8 * min(d for c in known for d in c.get_neighbor_list(4.0)[3])
    passing = [low <= c.volume / len(c) <= high and c.is_valid(tol=apart) for c in cells]
    assert len(images) == funnel["valid"] == sum(passing)
    by_sample = {e["sample"]: e for e in entries}
    for image in images:
        entry = by_sample[image.info["sample"]]
        assert low <= image.get_volume() / len(image) <= high
        np.testing.assert_allclose(
            image.cell[:], entry["structure"]["lattice"]["matrix"], atol=1e-6
        )
        for name in NAMES:
            for key in (f"predicted_{name}", f"predicted_{name}_std"):
                assert image.info[key] == pytest.approx(entry[key], rel=1e-6)
                assert np.isfinite(entry[key])


def test_composition_is_honoured(models: Path, tmp_path: Path) -> None:
    options = ("--composition", "Bi4Se4,BiSe2", "--atoms", 6, "--all", "--seed", 1)
    data, funnel = drawn(models, tmp_path / "a.json", *options)
    found = {(e["formula"], len(e["structure"]["sites"])) for e in json.loads(data)}
    assert found <= {("BiSe", 2), ("BiSe", 4), ("BiSe", 6), ("BiSe2", 3), ("BiSe2", 6)}
    assert len(found) > 2 and {f for f, _ in found} == {"BiSe", "BiSe2"}
    assert funnel["decoded"] >= funnel["of the composition"] == funnel["written"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--composition", "Bi2Te3"], "Te is not in Bi-Se"),
        (["--composition", "BiSe,Bi4"], "Bi4 lacks Se"),
        (["--composition", "bise3"], "'bise3' is no formula"),
        (["--composition", "Bi5Se4"], "9 atoms are more than 8"),
        (["--atoms", "4"], "--atoms bounds the cells of a --composition"),
        (["--out", "crystals.pdf"], "must end in .extxyz, .zip, .json"),
    ],
)
def test_sampling_mistakes_get_one_line(
    models: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    out = tmp_path / "a.json"
    assert words in error_of("sample", models, "--out", out, *options)
    assert not out.exists()


def test_compositions_are_asked_for_in_their_smallest_ratio() -> None:
    """Some formulas of the same ratio are written otherwise by pymatgen: Na2O2, Hg2Cl2."""
    for formula, one in (("NaO", (1, 1)), ("Na2O2", (1, 1)), ("NaO2", (1, 2)), ("O4Na6", (3, 2))):
        asked = asked_compositions(formula, ["Na", "O"], 6).tolist()
        assert asked == [[n * k for n in one] for k in range(1, 6 // sum(one) + 1)]
    with pytest.raises(UserError, match="no formula"):
        asked_compositions("Na0.5O", ["Na", "O"], 6)


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["some", "data.json"], "unknown stage 'some'"),
        (["all", "none.json"], "none.json does not exist"),
        (["constraint", "data.json"], "run first: ccdcgan train autoencoder DATA --out new"),
        (["all", "tiny.yaml"], "no structure in tiny.yaml can be read"),
        (
            ["all", "broken.json"],
            "no structure in broken.json can be read: broken.json#0: broken JSON",
        ),
        (["all", "few.json"], "12 distinct crystals with Bi and Se; training needs at least 15"),
        (["all", "bare.json"], "its numbers are hardness: choose one with --energy"),
        (["all", "bare.json"], "add formation_energy_per_atom, or energy_per_atom"),
        (["all", "binary.json"], "none of pure Bi and Se: add structures of the elements, or give"),
        (["all", "levels.json"], "mixes levels of theory"),
        (["all", "data.json", "--property", "gap"], " crystals have no 'gap'"),
        (["all", "data.json", "--energy-per-atom"], "name that, too"),
        (["all", "data.json", "--energy", "gap"], "holds no energies by a known name"),
        (["all", "data.json", "--goal", "hardness"], "write NAME:minimise, NAME:maximise"),
        (["all", "data.json", "--goal", "hardness:near:1"], "write NAME:minimise, NAME:maximise"),
        (["all", "data.json", "--references", "Bi:3"], "write them as in Bi=-3.86,Se=-3.474"),
        (["all", "data.json", "--preset", "huge"], "unknown preset 'huge'"),
        (["all", "data.json", "--preset", "none.yaml"], "cannot read none.yaml"),
        (["all", "data.json", "--system", "Bi-Xx"], "unknown element 'Xx'"),
        (["all", "data.json", "--system", "Bi-Te"], "training needs at least 15"),
        (["all", "data.json", "--autoencoder", "none"], "unknown autoencoder 'none'"),
        (
            ["all", "data.json", "--preset", "paper", "--autoencoder", "shipped"],
            "the paper's autoencoders are not shipped",
        ),
    ],
)
def test_training_mistakes_get_one_line(
    rows: list[dict[str, Any]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    bare = [{"structure": r["structure"], "hardness": 1.0} for r in rows]
    levels = [{**r, "level_of_theory": {"engine": str(i % 2)}} for i, r in enumerate(rows)]
    for name, data in (
        ("few", [*rows[:12], *rows[-2:]]),
        ("bare", bare),
        ("binary", rows[:-2]),
        ("levels", levels),
    ):
        Path(f"{name}.json").write_text(json.dumps(data))
    Path("broken.json").write_text("[{")
    if "--preset" not in arguments:
        arguments = [*arguments, "--preset", "tiny.yaml"]
    assert words in error_of("train", *arguments, "--out", "new")
    assert not Path("new").exists()


def test_other_inputs_than_the_folder_s_are_refused(
    models: Path, rows: list[dict[str, Any]], folder: Path
) -> None:
    data, other = folder / "data.json", folder / "other.json"
    other.write_text(json.dumps([{**r, "hardness": 1.0 + i} for i, r in enumerate(rows)]))
    before = (models / "manifest.json").read_bytes()
    for arguments, words in (
        (["all", data, "--preset", "quickstart"], ["tiny (", "quickstart (", "another --out"]),
        (["all", data, "--system", "Bi-Te"], ["networks of Bi-Se, not Bi-Te"]),
        (["gan", other], ["is not what the constraint", "ccdcgan train constraint"]),
        (["gan", data, "--goal", "gap:maximise"], ["no prediction of 'gap'", *NAMES]),
    ):
        message = error_of("train", *arguments, "--out", models)
        assert all(word in message for word in words), message
    assert "is not empty" in error_of("train", "all", data, "--out", folder)
    assert (models / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("case", ["format", "digest", "json", "damaged", "missing", "no network"])
def test_damaged_folders_get_one_line(models: Path, tmp_path: Path, case: str) -> None:
    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    known, file = manifest(copy), copy / "generator.keras"
    words = {
        "format": f"have format 1, this ccdcgan reads format {FORMAT}",
        "digest": "manifest.json is damaged",
        "json": "manifest.json is damaged",
        "damaged": "generator.keras is damaged or exchanged (SHA-256 differs)",
        "missing": "generator.keras is missing",
        "no network": "generator.keras cannot be read as a network",
    }[case]
    if case == "format":
        known["format"] = 1
    elif case == "digest":
        known["preset"]["max_sites"] = 9
    elif case == "damaged":
        file.write_bytes(file.read_bytes()[:-10] + b"0123456789")
    elif case == "missing":
        file.unlink()
    elif case == "no network":
        file.write_bytes(b"no network")
        digest = hashlib.sha256(b"no network").hexdigest()
        known["stages"]["gan"]["files"]["generator.keras"] = digest
    text = "{" if case == "json" else json.dumps(known)
    (copy / "manifest.json").write_text(text)
    assert words in error_of("sample", copy, "--out", tmp_path / "a.json")
