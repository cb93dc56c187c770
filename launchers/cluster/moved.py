"""Modules of jobs that have moved: what was stored under the old name runs under the new one."""

from __future__ import annotations

from typing import Any

_OLD = "ccdcgan.workflows."

#: Old module of a job and the name of its Maker or function, to the module that has it now.
MOVED = {
    (_OLD + old, name): f"ccdcgan.workflows.{new}"
    for old, new, names in (
        ("database", "propose", ("ProposeMaker",)),
        ("database", "relax", ("RelaxMaker", "merge_entries")),
        ("learning", "learn", ("AutoencoderMaker", "ConstraintMaker", "GanMaker")),
        ("generation", "generate", ("GenerateMaker",)),
        ("confirmation", "confirm", ("propose_confirmation", "confirmations")),
        ("inverse_design", "flow", ("RoundMaker", "InverseDesignMaker")),
        ("inverse_design", "conclude", ("conclude",)),
    )
    for name in names
}


def renamed(stored: Any) -> Any:
    """A stored job with the modules of today.

    Parameters
    ----------
    stored
        What is read from a database, at any depth: dictionaries, lists and plain values.
    """
    if isinstance(stored, list):
        return [renamed(value) for value in stored]
    if not isinstance(stored, dict):
        return stored
    found = {key: renamed(value) for key, value in stored.items()}
    name = str(found.get("@class") or found.get("@callable")).split(".")[0]
    if new := MOVED.get((str(found.get("@module")), name)):
        found["@module"] = new
    return found
