"""Structures without a result: what people are told of each, and how many there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from pymatgen.core import Composition

Fault = Literal["crystal", "stopped", "machine"]


class FailedStructure(BaseModel):
    """A structure without a result, or a fault of a machine that keeps one from it."""

    kind: Fault = Field(
        description="Whose fault it is: machine: nothing is stored, the structure waits."
    )
    formula: str | None
    origin: str | None = Field(description="Kind and id, as prototype aflow:AB_cF8_225_a_b>BiSe.")
    reason: str
    said: str | None = Field(None, description="The code's own last words.")
    runs: int | None = None
    steps: int | None = Field(None, description="Ionic steps of all runs.")
    max_force: float | None = Field(None, description="Largest force at the end, eV/Å.")
    folder: str | None = None
    host: str | None = None
    campaign: str | None = Field(None, description="Digest of the campaign that asked first.")
    key: str | None = Field(None, description="Content key of its relaxation.")
    at: str | None = None
    waits: bool = Field(False, description="Whether it is to be tried again.")

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> FailedStructure:
        """What a stored document, of any version, tells."""
        origin = document["origin"]
        return cls(
            kind=document.get("failure") or "crystal",
            formula=_formula(document.get("initial_structure") or {}),
            origin=f"{origin['kind']} {origin['id']}",
            reason=document.get("reason") or "not converged",
            said=document.get("said"),
            runs=document.get("attempts"),
            steps=document.get("steps"),
            max_force=document.get("max_force"),
            folder=document.get("folder"),
            host=document.get("host"),
            campaign=document.get("campaign"),
            key=document["key"],
            at=document.get("finished_at"),
            waits=bool(document.get("retry")),
        )


class ReasonCount(BaseModel):
    """How many structures failed for one reason, its numbers left out."""

    kind: Fault
    reason: str
    count: int


class FailureCounts(BaseModel):
    """Structures that failed: by whose fault it was, and by reason, the most frequent first."""

    crystal: int = 0
    stopped: int = 0
    reasons: list[ReasonCount] = []

    @classmethod
    def of(cls, failures: Iterable[FailedStructure]) -> FailureCounts:
        """The counts of failures."""
        found = [ReasonCount(kind=k, reason=r, count=n) for k, r, n in counts(failures)]
        total: Counter[str] = Counter()
        for one in found:
            total[one.kind] += one.count
        return cls(crystal=total["crystal"], stopped=total["stopped"], reasons=found)

    @property
    def machine(self) -> int:
        """Faults of machines, of which a campaign that has come to its end has none."""
        return sum(one.count for one in self.reasons if one.kind == "machine")

    @property
    def total(self) -> int:
        return self.crystal + self.stopped + self.machine

    def lines(self, most: int) -> list[str]:
        """What to tell people, with the `most` frequent reasons; nothing where nothing failed."""
        if not self.total:
            return []
        kinds = {"crystal": self.crystal, "stopped": self.stopped, "machine": self.machine}
        shares = ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n)
        told = [f"{self.total} failed: {shares} (ccdcgan failures lists them)"]
        told += [f"{r.count} {r.kind}: {r.reason}" for r in self.reasons[:most]]
        more = len(self.reasons) - most
        return told + ([f"and {more} more reasons"] if more > 0 else [])


def counts(failures: Iterable[FailedStructure]) -> list[tuple[Fault, str, int]]:
    """Kind, reason with its numbers left out, and how many have it; the most frequent first."""
    found = Counter((f.kind, _without_numbers(f.reason)) for f in failures)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [(kind, reason, number) for (kind, reason), number in ordered]


def grouped(reasons: Iterable[str]) -> dict[str, int]:
    """How often there is each reason; those that differ in their numbers alone are one."""
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        alike.setdefault(_without_numbers(reason), []).append(reason)
    found = {r[0] if len(set(r)) == 1 else text: len(r) for text, r in alike.items()}
    return dict(sorted(found.items()))


def _without_numbers(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", reason)


def _formula(structure: Mapping[str, Any]) -> str | None:
    """Reduced formula of a stored structure, without decoding it whole."""
    try:
        amounts: dict[str, float] = {}
        for site in structure["sites"]:
            for species in site["species"]:
                symbol = str(species["element"])
                amounts[symbol] = amounts.get(symbol, 0.0) + float(species["occu"])
        return str(Composition(amounts).reduced_formula)
    except (LookupError, TypeError, ValueError):
        return None
