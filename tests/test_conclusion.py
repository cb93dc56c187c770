"""The end of a campaign: what its summary and report say of its relaxations."""

import json
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import pytest
from crystals import CSCL, ROCKSALT, ZINCBLENDE
from jobflow import run_locally
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.frames import Frame
from ccdcgan.launchers.results.outcome import write_results
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.conclude import conclude
from ccdcgan.workflows.documents import Origin, Outcome, RelaxationDocument
from ccdcgan.workflows.storage.stores import RESULTS
from ccdcgan.workflows.training import frames_of

CAMPAIGN = Campaign()
LEVEL = CAMPAIGN.relaxation.engine.level_of_theory()


def document(key: str, structure: Structure, energy: float | None, **more) -> RelaxationDocument:
    return RelaxationDocument(
        key=key,
        level_of_theory=LEVEL,
        structure=structure.as_dict(),
        initial_structure=structure.as_dict(),
        energy_per_atom=energy,
        converged=energy is not None,
        campaign=CAMPAIGN.digest(),
        origin=Origin(kind="prototype", id=key),
        **more,
    )


DOCUMENTS = [
    document("bi", Structure(Lattice.cubic(3.2), ["Bi"], [[0] * 3]), -4.0),
    document("se", Structure(Lattice.cubic(3.0), ["Se"], [[0] * 3]), -3.5),
    document("good", ROCKSALT, -4.0, host="node8", folder="/scratch/good"),
    document("far", CSCL, None, reason="largest force is 0.31 eV/Å", failure="crystal"),
    # As versions before have stored it.
    document("near", ZINCBLENDE, None, reason="largest force is 0.07 eV/Å"),
    document("cut", CSCL, None, reason="3 runs were stopped", failure="stopped", said="<i>x</i>"),
]
ROUND = {
    "constraint": {
        "properties": {"formation_energy_per_atom": {"mae": 0.1, "r2": 0.9, "held_out": 2}},
        "history": {},
        "seconds": 1.0,
    },
    "gan": {"history": {"critic": [], "formation_energy": []}, "seconds": 1.0},
    "funnel": {"sampled": 9, "decoded": 8, "valid": 7, "stackings": None, "screened": 0},
    "generation_seconds": 1.0,
    "relaxation_seconds": 1.0,
}


@pytest.fixture
def concluded(tmp_path):
    """A folder with the results of a campaign whose rounds report this."""

    def run(*rounds):
        store = embedded_store(tmp_path)
        store.connect()
        plain = [d.model_dump(mode="json") for d in DOCUMENTS]
        store.additional_stores[RESULTS].update(plain, "key")
        entries = [{"key": d.key, "origin": d.origin.model_dump()} for d in DOCUMENTS]
        end = conclude(
            {"seconds": 1.0},
            {"seconds": 1.0, "rejected": {}, "skipped": []},
            {"match_fraction": 1.0, "held_out": 1, "seconds": 1.0},
            {"entries": entries, "history": list(rounds)},
            CAMPAIGN.model_dump(mode="json"),
        )
        run_locally(end, store=store, log=False, root_dir=tmp_path, raise_immediately=True)
        write_results(Outcome.model_validate(store.get_output(end.uuid, load=True)), tmp_path)
        return json.loads((tmp_path / "summary.json").read_text())

    return run


def test_what_went_wrong_in_a_round_is_said(concluded, tmp_path):
    errors = {"energy_mae": 2.0, "force_mae": 0.5, "mean_force": 0.4, "held_out": 9}
    judged = {"guess_mae": 0.2, "spearman": -0.14, "used": False}
    bad = ROUND["constraint"] | {"potential": errors | judged}
    funnel = ROUND["funnel"] | {"left_out": {"known already": 4, "beyond the limit": 3}}
    good = ROUND["constraint"] | {"potential": errors}
    chosen = ROUND["funnel"] | {"screened": 2}
    summary = concluded(
        ROUND | {"constraint": bad, "funnel": funnel},
        ROUND | {"constraint": good, "funnel": chosen},
    )
    first, second = (w for w in summary["warnings"] if w.startswith("round"))
    assert first.startswith("round 1 did not relax its candidates by the potential")
    assert "wrong by 2.000 eV/atom (Spearman -0.14), those of a guess by 0.200" in first
    assert second == (
        "round 1 chose nothing to relax: of 9 samples 8 were decoded, 7 valid; of what was judged: "
        "4 known already, 3 beyond the limit"
    )
    assert [r["left_out"] for r in summary["rounds"]] == [funnel["left_out"], {}]
    assert summary["potential"]["used"] is True
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "round 1 chose nothing to relax" in report and "(not used)" not in report


def test_frames_of_other_energies_are_not_learnt_from(concluded):
    """As versions before have stored them of VASP 5."""
    good = DOCUMENTS[2]
    frame = Frame(
        cell=ROCKSALT.lattice.matrix.tolist(),
        positions=ROCKSALT.cart_coords.tolist(),
        energy=-4.0 * len(ROCKSALT),
        forces=[[0.0] * 3] * len(ROCKSALT),
        stress=[0.0] * 6,
    )
    own = good.model_copy(update={"frames": [frame]})
    foreign = good.model_copy(update={"frames": [frame, frame.model_copy(update={"energy": 0.0})]})
    assert len(frames_of({"good": own}, CAMPAIGN)) == 1
    assert frames_of({"good": foreign}, CAMPAIGN) == []
    # The constraint's job counts them.
    told = {"constraint": ROUND["constraint"] | {"foreign_frames": 1}}
    assert any("on the way of 1 relaxations" in w for w in concluded(ROUND | told)["warnings"])


def test_what_failed_is_in_summary_and_report(concluded, tmp_path):
    found = concluded(ROUND)["failures"]
    # A campaign ends when no machine keeps a result from it.
    assert (found["crystal"], found["stopped"]) == (2, 1) and "machine" not in found
    assert found["reasons"] == [
        {"kind": "crystal", "reason": "largest force is # eV/Å", "count": 2},
        {"kind": "stopped", "reason": "# runs were stopped", "count": 1},
    ]
    counts = json.loads((tmp_path / "summary.json").read_text())["database"]["rejected"]
    assert counts == {"3 runs were stopped": 1, "largest force is # eV/Å": 2}
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = report[report.index('id="h-failed"') : report.index('id="h-curves"')]
    assert "prototype near" in section and "&lt;i&gt;x&lt;/i&gt;" in section
    assert "prototype good" not in section
