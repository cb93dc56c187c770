"""Results of campaigns for tests that are about other things than their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ccdcgan.workflows.documents import (
    AutoencoderFigures,
    ConstraintFigures,
    DatabaseCounts,
    Outcome,
    Summary,
)


def outcome_of(level_of_theory: Any, phases: Sequence[Any] = (), **more: Any) -> Outcome:
    """Results of a campaign of Bi-Se without a round, with these phases."""
    summary = Summary(
        system=["Bi", "Se"],
        level_of_theory=level_of_theory,
        seed=0,
        thresholds={"stable": 0.1, "metastable": 0.15},
        database=DatabaseCounts(),
        autoencoder=AutoencoderFigures(),
        constraint=ConstraintFigures(),
        rounds=[],
        wall_seconds={},
    )
    return Outcome.model_validate({"summary": summary, "phases": phases, "curves": [], **more})
