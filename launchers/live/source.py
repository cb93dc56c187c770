"""What the live page reads: the same of a folder and of a cluster's database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.decoding import decode_structure
from ccdcgan.workflows.documents import Claim, Outcome, Phase, RelaxationDocument
from ccdcgan.workflows.failures import FailedStructure
from ccdcgan.workflows.phases import unplaced

if TYPE_CHECKING:
    import pandas as pd

    from ccdcgan.launchers.results.query import PhaseQuery

T = TypeVar("T")

#: Newest crystals that are shown.
NEWEST = 20

#: What of a relaxation document is read for them.
FRESH = ("key", "origin", "structure", "energy_per_atom", "converged", "reason", "finished_at")


@dataclass(frozen=True)
class Stage:
    """A stage of a campaign and where it stands, in a word or in numbers of jobs."""

    name: str
    state: str


@dataclass(frozen=True)
class Run:
    """A campaign of a cluster: the name of its run, and what people are told of it."""

    id: str
    name: str
    system: str
    submitted: str
    jobs: str


@dataclass(frozen=True)
class Fresh:
    """One of the relaxations that ended last."""

    key: str
    formula: str
    origin: str
    energy_per_atom: float | None
    result: str
    at: str

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Fresh:
        """From a stored document, `FRESH` of it."""
        structure = decode_structure(document["structure"])
        origin, energy = document.get("origin") or {}, document.get("energy_per_atom")
        parts = [str(origin.get("kind")), str(origin.get("source") or origin.get("id"))]
        if origin.get("round"):
            parts.append(f"round {origin['round']}")
        return cls(
            key=str(document["key"]),
            formula=structure.composition.reduced_formula,
            origin=" · ".join(parts),
            energy_per_atom=energy if isinstance(energy, (int, float)) else None,
            result="converged" if document.get("converged") else str(document.get("reason")),
            at=str(document.get("finished_at") or "–"),
        )


@dataclass(frozen=True)
class Progress:
    """How far a campaign is.

    Attributes
    ----------
    state
        In one line.
    stages, runs
        Of one campaign, or all campaigns of a cluster.
    relaxed
        Relaxations that are stored.
    failures, newest
        Structures without a result, and what has ended last.
    report
        What `Source.outcome` takes; None before the campaign has ended.
    mark
        What it was read from: another where something has changed.
    """

    state: str
    stages: Sequence[Stage] = ()
    runs: Sequence[Run] = ()
    relaxed: int = 0
    failures: Sequence[FailedStructure] = ()
    newest: Sequence[Fresh] = ()
    report: str | None = None
    mark: str = ""
    kept: Mapping[int, FailedStructure] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """All phases without their structures, and what they were read from."""

    mark: str
    rows: pd.DataFrame


class Source(Protocol):
    """Where campaigns and their results are; read from several threads.

    Each method raises a `UserError`, or an error of the file or the database, where that is gone.
    """

    title: str
    #: Whether there may be several campaigns.
    many: bool

    def table(self, before: Table | None) -> Table:
        """All phases; what was read before, where nothing has changed."""

    def progress(self, campaign: str | None, before: Progress | None) -> Progress:
        """How far a campaign is, or all of them."""

    def campaigns(self, name: str) -> tuple[str, ...]:
        """Digests of the campaigns of a name, or the name, which may be the start of one."""

    def asked(self, query: PhaseQuery) -> list[str]:
        """The ``uid`` of the phases that a question with a free filter is about."""

    def phases(self, uids: Sequence[str]) -> list[Phase]:
        """Phases with their structures."""

    def relaxed(self, key: str) -> Phase | None:
        """The crystal of a relaxation, which has no place on a hull yet."""

    def outcome(self, report: str) -> Outcome:
        """The results of a campaign that has ended."""


def fresh(documents: Iterable[Mapping[str, Any]]) -> list[Fresh]:
    """The newest relaxations; one that is damaged hides no others."""
    return _each(Fresh.of, documents)


def failed(documents: Iterable[Mapping[str, Any]]) -> list[FailedStructure]:
    """Structures without a result, likewise."""
    return _each(FailedStructure.of, documents)


def phases(documents: Iterable[Mapping[str, Any]]) -> list[Phase]:
    """Phases, likewise."""
    return _each(Phase.model_validate, documents)


def _each(
    read: Callable[[Mapping[str, Any]], T], documents: Iterable[Mapping[str, Any]]
) -> list[T]:
    found = []
    for document in documents:
        with contextlib.suppress(UserError, ValueError, LookupError, TypeError, AttributeError):
            found.append(read(document))
    return found


def as_phase(stored: Mapping[str, Any]) -> Phase:
    """The relaxed crystal of a stored relaxation as a phase that is on no hull."""
    document = RelaxationDocument.model_validate({**stored, "frames": []})
    return unplaced(Claim(key=document.key, origin=document.origin), document)
