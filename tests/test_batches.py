"""Relaxations in batches: what they give is what each structure gives alone."""

import logging
from pathlib import Path
from typing import Any

import pytest
from ase.formula import Formula
from batched import BatchedEmt
from crystals import ROCKSALT, fcc
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines import potentials
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation import settings as relaxation_settings
from ccdcgan.dft.relaxation.batches import relaxed_in_batches
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.failure import MachineError
from ccdcgan.dft.relaxation.key import content_key
from ccdcgan.dft.relaxation.processes import relax_many
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import AUTO_BATCH, DEFAULT_ENGINE, RelaxationSettings
from ccdcgan.workflows.campaign import Campaign


def crystals() -> list[Structure]:
    """Of one to eight atoms, near and far from their minima; the third passes no gate."""
    found = [
        Structure(Lattice.cubic(3.9), ["Cu", "Au", "Au", "Au"], [[0] * 3, *_faces()]),
        fcc(["Cu"], [0], 3.8),
        fcc(["Cu", "Pd"], [0, 0.5], 1.5),
        fcc(["Ni", "Pd"], [0, 0.5], 4.8).perturb(0.1, seed=1),
        (fcc(["Ag", "Cu"], [0, 0.5], 5.2) * (1, 1, 2)).perturb(0.15, seed=2),
        (fcc(["Al", "Pt"], [0, 0.5], 5.3) * (2, 2, 1)).perturb(0.1, seed=3),
    ]
    found[0].perturb(0.1, seed=0)
    return found


def _faces() -> list[list[float]]:
    return [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def settings(log: Path, chosen: dict[str, Any] | None = None, **faults: Any) -> RelaxationSettings:
    return RelaxationSettings(
        engine=BatchedEmt(log=str(log), **faults),
        **{"fmax": 0.05, "max_steps": 30, **(chosen or {})},
    )


def batches(log: Path) -> list[list[str]]:
    """Formulas of the crystals that were computed together."""
    return [line.split() for line in log.read_text().splitlines()]


def without_time(result: Relaxation) -> dict[str, Any]:
    return result.model_dump(exclude={"seconds"})


def alone(chosen: RelaxationSettings) -> list[dict[str, Any]]:
    return [without_time(Relaxer(chosen)(structure)) for structure in crystals()]


def in_batches(chosen: RelaxationSettings, at_a_time: int = 4) -> list[dict[str, Any]]:
    found = dict(relaxed_in_batches(crystals(), chosen, at_a_time))
    return [without_time(found[number]) for number in range(len(crystals()))]


@pytest.mark.parametrize(
    "chosen",
    [
        {"optimizer": "BFGS"},
        {"optimizer": "FIRE"},
        {"optimizer": "LBFGS", "pressure": 5.0},
        {"optimizer": "BFGS", "refine": 0.01},
        {"optimizer": "BFGS", "max_steps": 4},
    ],
)
def test_batches_give_what_each_gives_alone(log: Path, chosen: dict[str, Any]) -> None:
    """To the last digit: steps, frames, gates, refinement, second opinion, key."""
    expected = alone(settings(log, chosen))
    assert in_batches(settings(log, chosen)) == expected
    assert max(map(len, batches(log))) == 4
    assert expected[2]["reason"] == "volume per atom out of range"
    assert any(result["converged"] for result in expected)
    assert all((r["second_opinion"] is None) == (n == 2) for n, r in enumerate(expected))
    if chosen.get("refine"):
        assert any(result["symmetrised"] for result in expected)
    if chosen.get("max_steps"):
        assert not all(result["converged"] or n == 2 for n, result in enumerate(expected))


def test_time_is_shared(log: Path) -> None:
    found = [result for _, result in relaxed_in_batches(crystals(), settings(log), 6)]
    assert [r.seconds > 0 for r in found] == [r.steps > 0 for r in found]


def test_results_come_as_they_are_ready(log: Path) -> None:
    results = relaxed_in_batches(crystals(), settings(log), 2)
    for number in range(3):
        assert next(results)[0] in range(number + 2)
    assert "Al4Pt4" not in {name for batch in batches(log) for name in batch}
    assert len(list(results)) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"raises": "NiPd"}, "engine failed: ValueError: no neighbours"),
        ({"not_finite": "NiPd"}, "the engine gave forces that are not finite"),
    ],
)
def test_a_wild_crystal_is_its_own_affair(log: Path, fault: dict[str, str], reason: str) -> None:
    expected = alone(settings(log))
    found = in_batches(settings(log, **fault))
    assert found[3]["reason"] == reason
    assert (found[3]["failure"], found[3]["energy_per_atom"]) == ("crystal", None)
    assert found[:3] + found[4:] == expected[:3] + expected[4:]


def test_memory_is_found_out(log: Path) -> None:
    """Twenty atoms are too many: halves of them from then on, with the same results."""
    assert in_batches(settings(log, bears=12), 6) == alone(settings(log))
    sizes = [len(Formula("".join(batch))) for batch in batches(log)]
    assert sizes[0] > 12 and sum(size > 12 for size in sizes) <= 2


def test_a_crystal_beyond_the_memory_is_no_crystals_fault(log: Path) -> None:
    with pytest.raises(MachineError, match="CUDA out of memory"):
        list(relaxed_in_batches(crystals(), settings(log, bears=6), 6))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kills": "Al4Pt4"}, "its process died: SIGKILL"),
        ({"bears": 6}, "memory: RuntimeError: CUDA out of memory"),
    ],
)
def test_what_batches_do_not_survive_goes_alone(
    log: Path, caplog: pytest.LogCaptureFixture, fault: dict[str, Any], words: str
) -> None:
    chosen = settings(log, {"batch": 6}, **fault)
    with caplog.at_level(logging.WARNING, "ccdcgan"):
        found = dict(relax_many(crystals(), chosen, 1))
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("batches: ") and line.endswith(": the rest one after the other")
    assert words.split(": ")[-1] in line
    assert [without_time(found[n]) for n in range(len(found))] == alone(chosen)


def test_processes_share_the_structures(log: Path) -> None:
    chosen = settings(log, {"batch": 3})
    found = dict(relax_many(crystals(), chosen, 4))
    assert [without_time(found[n]) for n in range(len(found))] == alone(chosen)
    # Of two processes, as there are no more than two batches: three of the first and of the second.
    firsts = {batch[0] for batch in batches(log)}
    assert max(map(len, batches(log))) == 3 and len(firsts & {"Au3Cu", "Cu"}) == 2


# Where there are none


@pytest.fixture
def without_torch_sim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(potentials, "find_spec", lambda name: None)


@pytest.mark.usefixtures("without_torch_sim")
def test_without_torch_sim() -> None:
    chosen = RelaxationSettings(batch=8)
    assert chosen.at_a_time is None and RelaxationSettings().at_a_time is None
    with pytest.raises(UserError) as error:
        chosen.check(["Bi"])
    assert str(error.value) == (
        "relaxation.batch is 8: torch-sim is missing: pip install 'ccdcgan[batch]' with Python "
        "3.12 or newer, or leave batch out"
    )
    RelaxationSettings().check(["Bi"])


def test_an_engine_of_one_crystal_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    chosen = RelaxationSettings(engine=ChgnetEngine(), batch=2)
    with pytest.raises(UserError, match="engine chgnet computes one crystal at a time"):
        chosen.check(["Bi"])
    assert chosen.at_a_time is None


def test_by_itself_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(potentials, "find_spec", lambda name: name)
    for device, expected in (("cuda", AUTO_BATCH), ("cpu", None)):
        monkeypatch.setattr(relaxation_settings, "device", lambda device=device: device)
        assert RelaxationSettings(engine=SevenNetEngine()).at_a_time == expected
        assert RelaxationSettings(engine=ChgnetEngine()).at_a_time is None
        assert RelaxationSettings(batch="none").at_a_time is None
        assert RelaxationSettings(batch=3).at_a_time == 3


@pytest.mark.parametrize("value", [0, -3, 1.5, True, "off", "8 GB", None])
def test_bad_values(value: Any) -> None:
    with pytest.raises(ValidationError, match="batch"):
        RelaxationSettings(batch=value)


def test_no_key_or_digest_depends_on_it() -> None:
    level = DEFAULT_ENGINE.level_of_theory()
    keys = {
        content_key(ROCKSALT, level, RelaxationSettings.model_validate({"batch": batch}))
        for batch in ("auto", "none", 1, 64)
    }
    assert len(keys) == 1
    campaign = Campaign()
    assert "batch" not in campaign.model_dump(mode="json")["relaxation"]
    other = campaign.model_copy(
        update={"relaxation": campaign.relaxation.model_copy(update={"batch": 64})}
    )
    assert not campaign.differences(other)
