"""Phases of phases.json.gz, for folders of versions that had them nowhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maggma.core import Store
from maggma.stores import MemoryStore
from pydantic import ValidationError

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.archives import Member, members
from ccdcgan.launchers.workdir import CAMPAIGN_FILE
from ccdcgan.workflows.campaign import load_campaign
from ccdcgan.workflows.storage.stores import PHASES, phase_document


def is_phase(phase: Any) -> bool:
    """Whether a stored document has what every phase has.

    Versions before this one have published energies that are no numbers, and a database may be
    written by others.
    """
    if not isinstance(phase, Mapping):
        return False
    energy = phase.get("energy_per_atom")
    if not isinstance(energy, (int, float)) or not math.isfinite(energy):
        return False
    try:
        LevelOfTheory.model_validate(phase.get("level_of_theory"))
    except ValidationError:
        return False
    return isinstance(phase.get("formula"), str) and isinstance(phase.get("id"), str)


def _content(file: Path) -> bytes:
    """A packed file's content, within the limits of what is unpacked."""
    for member in members(file):
        if isinstance(member, Member):
            return member.load()
        raise ValueError(member.reason)
    raise ValueError("it is empty")


def read_phases(file: Path, workdir: Path) -> Store:
    """The phases of phases.json.gz in a store, as those that have an energy are in a database."""
    try:
        phases = json.loads(_content(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    campaign = load_campaign(workdir / CAMPAIGN_FILE)
    digest, system = campaign.digest(), "-".join(sorted(campaign.elements))
    listed = phases if isinstance(phases, list) else []
    try:
        documents = [phase_document(p, digest, system) for p in listed if is_phase(p)]
    except UserError as error:
        raise UserError(f"{file} holds a phase that is none: {error}") from None
    store = MemoryStore(PHASES, key="uid")
    store.connect()
    if documents:
        store._collection.insert_many(list({d["uid"]: d for d in reversed(documents)}.values()))
    return store
