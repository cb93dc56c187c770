"""A whole small campaign from the command line, undisturbed and killed on its way."""

import os
import shutil
import signal
import time

import numpy as np
import pytest
from jobflow import Flow, run_locally
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Structure
from small_campaign import CAMPAIGN, results, start

from ccdcgan.launchers.workdir import embedded_store, relaxations_of
from ccdcgan.workflows.campaign import load_campaign
from ccdcgan.workflows.generate import GenerateMaker
from ccdcgan.workflows.learn import ConstraintMaker, GanMaker
from ccdcgan.workflows.storage.stores import RESULTS


def within(phases):
    counts = {f"{d:g}": sum(p["e_above_hull"] <= d for p in phases) for d in (0.025, 0.05, 0.1)}
    return {"0": sum(p["label"] == "on the hull" for p in phases), **counts}


def test_summary_counts_what_the_phases_show(finished):
    summary, phases = results(finished)
    assert summary["system"] == ["Bi", "Se"] and summary["seed"] == 3
    assert summary["level_of_theory"]["engine"] == "SevenNet-0"
    own = [p for p in phases if p["origin"]["kind"] == "prototype"]
    assert summary["database"]["candidates"] == 24
    assert summary["database"]["relaxed"] == len(own) >= 20
    assert summary["database"]["converged"] == sum(p["converged"] for p in own)
    assert len(summary["rounds"]) == 1
    for number, counts in enumerate(summary["rounds"], 1):
        new = [p for p in phases if p["origin"]["round"] == number]
        assert counts["sampled"] == 200
        assert counts["sampled"] >= counts["decoded"] >= counts["valid"] >= counts["screened"]
        assert list(counts["proposed"]) == ["stackings", "substitution", "variation", "generator"]
        assert min(counts["proposed"].values()) > 0
        assert sum(counts["proposed"].values()) == counts["valid"]
        brought = counts["sources"]
        assert sum(s["relaxed"] for s in brought.values()) == counts["relaxed"]
        assert sum(s["new"] for s in brought.values()) == counts["distinct"]
        for name, source in brought.items():
            own = [p for p in new if p["origin"]["source"] == name and p["distinct"]]
            assert source["within"] == within(own)
        assert counts["relaxed"] == len(new) <= 2
        assert counts["distinct"] == sum(p["distinct"] for p in new)
        assert counts["distinct_within"] == within([p for p in new if p["distinct"]])
        assert counts["distinct_metastable"] == sum(
            p["distinct"] and p["formation_energy_per_atom"] < 0 and p["e_above_hull"] < 0.15
            for p in new
        )
    # Each crystal of the database once.
    known = [p for p in phases if p["distinct"] and p["origin"]["kind"] == "prototype"]
    database = summary["database"]
    assert database["distinct"] == len(known) == summary["new_to"]["prototypes"]
    assert database["distinct"] < database["converged"]
    assert database["distinct_within"] == within(known)
    assert database["stable"] <= database["metastable"] <= len(known)
    assert summary["autoencoder"]["match_fraction"] >= 0.9
    assert summary["constraint"]["mae_ev_per_atom"] > 0
    assert set(summary["wall_seconds"]) >= {"database", "gan", "generation", "relaxation"}


#: Distances to the hull, eV/atom, of labels.
WORDS = {"on the hull": 0.0, "within 0.025": 0.025, "within 0.10": 0.1}


def nearest(above: float) -> str:
    return next((word for word, depth in WORDS.items() if above <= depth + 1e-9), "above")


def test_hull_agrees_with_pymatgen(finished):
    _, phases = results(finished)
    converged = [p for p in phases if p["converged"]]
    entries = []
    for phase in converged:
        structure = Structure.from_dict(phase["structure"])
        energy = phase["energy_per_atom"] * len(structure)
        entries.append(PDEntry(structure.composition, energy))
    diagram = PhaseDiagram(entries)
    assert all(p["formation_energy_per_atom"] is not None for p in phases)
    for phase, entry in zip(converged, entries, strict=True):
        formation = diagram.get_form_energy_per_atom(entry)
        above = diagram.get_e_above_hull(entry)
        assert phase["formation_energy_per_atom"] == pytest.approx(formation, abs=1e-6)
        assert phase["e_above_hull"] == pytest.approx(above, abs=1e-6)
        # Another relaxation of the crystal may be a bit lower.
        lowest = max(above - 0.002, 0.0)
        assert phase["label"] in {nearest(above), nearest(lowest)}


def test_stored_energies_are_those_of_the_stored_structures(finished):
    from sevenn.calculator import SevenNetCalculator

    _, phases = results(finished)
    calculator = SevenNetCalculator(model="7net-0", device="cpu")
    for phase in [p for p in phases if p["converged"]][::7]:
        atoms = Structure.from_dict(phase["structure"]).to_ase_atoms()
        atoms.calc = calculator
        energy = atoms.get_potential_energy() / len(atoms)
        assert energy == pytest.approx(phase["energy_per_atom"], abs=0.002)


def test_every_phase_has_a_second_opinion(finished):
    from sevenn.calculator import SevenNetCalculator

    _, phases = results(finished)
    calculator = SevenNetCalculator(model="7net-mf-0", modal="PBE", device="cpu")
    assert all(p["second_opinion"]["engine"] == "SevenNet-MF-0 + PBE" for p in phases)
    assert min(p["second_opinion"]["e_above_hull"] for p in phases) == 0.0
    for phase in phases[::7]:
        atoms = Structure.from_dict(phase["structure"]).to_ase_atoms()
        atoms.calc = calculator
        energy = atoms.get_potential_energy() / len(atoms)
        assert energy == pytest.approx(phase["second_opinion"]["energy_per_atom"], abs=0.002)


def test_files_for_people(finished):
    _, phases = results(finished)
    named = [p for p in phases if p["file"]]
    files = sorted(str(p.relative_to(finished)) for p in (finished / "structures").iterdir())
    assert sorted(p["file"] for p in named) == files
    for phase in named:
        structure = Structure.from_file(finished / phase["file"])
        assert structure.composition.reduced_formula == phase["formula"]
    report = (finished / "report.html").read_text(encoding="utf-8")
    for part in ("parity-0", "latent", "funnel", "hull"):
        assert f'<div id="{part}" class="plot"' in report
    assert not named or "ccdcgan stability run --count 1" in report
    assert not (finished / "store" / "doing.json").exists()
    assert not list(finished.rglob("*.tmp"))


def test_every_generated_phase_says_where_it_came_from(finished):
    summary, phases = results(finished)
    assert 0 < summary["potential"]["force_mae"] < summary["potential"]["mean_force"]
    assert summary["potential"]["used"] and summary["potential"]["spearman"] > 0.5
    generated = [p for p in phases if p["origin"]["kind"] == "generated"]
    for phase in generated:
        origin = phase["origin"]
        assert origin["source"] in {"stackings", "substitution", "variation", "generator"}
        if origin["source"] == "generator":
            assert origin["model"].startswith("gan-")
            assert origin["sample"] < 200 and origin["noise_seed"] is not None
        assert np.isfinite(origin["predicted_formation_energy"])
        assert origin["prerelaxed"] is True


def test_a_potential_that_learnt_nothing_stops_no_round(finished, tmp_path, monkeypatch):
    """One more round, whose frames have the energies of others."""
    shutil.copytree(finished / "store", tmp_path / "store")
    store = embedded_store(tmp_path)
    store.connect()
    autoencoder = store.query_one({"name": "autoencoder"})["output"]
    relaxations = store.additional_stores[RESULTS]
    documents = list(relaxations.query())
    frames = [f for d in documents for f in d["frames"]]
    energies = [f["energy"] / len(f["forces"]) for f in frames]
    order = np.random.default_rng(0).permutation(len(frames))
    for frame, other in zip(frames, order, strict=True):
        frame["energy"] = energies[other] * len(frame["forces"])
    relaxations.update(documents, "key")
    monkeypatch.setattr("ccdcgan.workflows.documents.SAME_ENERGY", np.inf)
    plain = load_campaign(finished / "campaign.yaml").model_dump(mode="json")
    plain["loop"] |= {"samples": 100, "stackings": 0}
    plain["networks"]["gan_steps"] = 150
    entries = [{"key": d["key"], "origin": d["origin"]} for d in documents]
    learnt = ConstraintMaker().make(entries, autoencoder, plain, 3)
    gan = GanMaker().make(autoencoder, learnt.output, plain, 3)
    drawn = GenerateMaker().make(entries, autoencoder, learnt.output, gan.output, plain, 3)
    flow = Flow([learnt, gan, drawn])
    run_locally(flow, store=store, log=False, root_dir=tmp_path, raise_immediately=True)
    assert store.get_output(learnt.uuid)["potential"]["used"] is False
    candidates = store.get_output(drawn.uuid)["candidates"]
    assert len(candidates) == 2
    assert {c["origin"]["prerelaxed"] for c in candidates} == {None}


def test_killed_and_started_again(finished, tmp_path):
    """Kill -9 in the middle of relaxations; in trainings, too: test_cluster_campaign.py."""
    # The database is taken from the other run, the crystals of the round are not.
    relaxed = tmp_path / "relaxed"
    shutil.copytree(finished, relaxed)
    others = relaxations_of(embedded_store(relaxed))
    others.remove_docs({"origin.kind": "generated"})
    others.close()
    folder = tmp_path / "run"
    process = start(folder, CAMPAIGN, "--reuse", relaxed)
    assert process.stdout is not None
    stage = "relaxations, round 1: 1"
    seen = next((line for line in process.stdout if line.startswith(stage)), None)
    assert seen, f"the stage {stage!r} never came"
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    assert not (folder / "summary.json").exists()
    time.sleep(0.5)
    process = start(folder)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    # What was relaxed before the kill is not relaxed again: it starts complete.
    summary, phases = results(folder)
    expected_summary, expected_phases = results(finished)
    assert phases == expected_phases
    for one in (summary, expected_summary):
        one.pop("wall_seconds")
    assert summary == expected_summary
    assert not list((folder / "checkpoints").glob("*"))


def test_finished_campaign_returns_at_once_with_the_same_phases(finished):
    before = (finished / "phases.json.gz").read_bytes()
    process = start(finished)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert (finished / "phases.json.gz").read_bytes() == before
    assert "GAN, round" not in output
