"""Structures that failed as documents that are asked for in the way of phases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maggma.core import Store
from maggma.stores import MemoryStore
from pydantic import ValidationError

from ccdcgan.dft.errors import UserError
from ccdcgan.workflows.documents import Claim, RelaxationDocument
from ccdcgan.workflows.phases import unplaced
from ccdcgan.workflows.storage.stores import PHASES, phase_document


def failed_phases(relaxations: Store, phases: Store, query: Mapping[str, Any]) -> Store:
    """A store of what has not converged, without a place on a hull, labelled ``failed``.

    Parameters
    ----------
    relaxations, phases
        Stores of relaxation documents, and of the phases of the same campaigns.
    query
        Filter of the relaxation documents.
    """
    systems: dict[str, str] = {}

    def system_of(campaign: str) -> str:
        if campaign not in systems:
            found = phases.query_one({"campaign": campaign}, ["system"]) or {}
            systems[campaign] = str(found.get("system") or "")
        return systems[campaign]

    documents: dict[str, Mapping[str, Any]] = {}
    for stored in relaxations.query({"converged": False, **query}, {"frames": 0, "_id": 0}):
        # One that is damaged hides no others.
        try:
            document = RelaxationDocument.model_validate({**stored, "frames": []})
            claim = Claim(key=document.key, origin=document.origin)
            phase = unplaced(claim, document)
        except (UserError, ValidationError):
            continue
        phase.label, phase.failure = "failed", phase.failure or "crystal"
        plain = phase.model_dump(mode="json")
        found = phase_document(plain, document.campaign, system_of(document.campaign))
        documents[found["uid"]] = found
    store = MemoryStore(PHASES, key="uid")
    store.connect()
    if documents:
        store._collection.insert_many(list(documents.values()))
    return store
