"""What a run has left in its folder: campaign, summary, phases, learning curves, networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from maggma.core import Sort
from pydantic import BaseModel, TypeAdapter, ValidationError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.archives import Member, members
from ccdcgan.launchers.workdir import campaign_of, can_open, embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Artifact, Curve, Phase, Summary
from ccdcgan.workflows.storage.stores import DATA, artifact_in

T = TypeVar("T", bound=BaseModel)

_PHASES = TypeAdapter(list[Phase])
_CURVES = TypeAdapter(list[Curve])


@dataclass(frozen=True)
class RunFiles:
    """A run that has ended.

    Attributes
    ----------
    folder, campaign
        Where it is, and what it was asked for.
    summary, phases
        Of summary.json and phases.json.gz.
    """

    folder: Path
    campaign: Campaign
    summary: Summary
    phases: list[Phase]

    @classmethod
    def of(cls, folder: Path) -> RunFiles:
        """Those of a folder.

        Raises
        ------
        UserError
            It holds no campaign, or one that has not ended.
        """
        campaign = campaign_of(folder)
        for name in ("summary.json", "phases.json.gz"):
            if not (folder / name).exists():
                raise UserError(
                    f"{folder} has no {name}: its campaign has not ended; go on with ccdcgan run"
                )
        try:
            summary = Summary.model_validate_json(_content(folder / "summary.json"))
            phases = _PHASES.validate_python(json.loads(_content(folder / "phases.json.gz")))
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the results in {folder} cannot be read: {reason}") from None
        return cls(folder, campaign, summary, phases)

    def curves(self) -> list[Curve]:
        """Learning curves; none where the folder's database cannot be opened."""
        output = self._output("conclude")
        try:
            return _CURVES.validate_python(output.get("curves", []))
        except ValidationError:
            return []

    def networks(self) -> dict[str, bytes]:
        """Files of the last autoencoders, constraint and generator, as far as they are there."""
        found: dict[str, bytes] = {}
        if not can_open(self.folder):
            return found
        store: Any = embedded_store(self.folder, read_only=True)
        store.connect()
        for name in ("autoencoder", "constraint", "gan"):
            key = self._output(name).get("key")
            artifact = key and artifact_in(store.additional_stores[DATA], str(key), Artifact)
            found |= artifact.files if artifact else {}
        return found

    def _output(self, name: str) -> Mapping[str, Any]:
        """Output of the last job of a name; large parts of it are left where they are."""
        if not can_open(self.folder):
            return {}
        store: Any = embedded_store(self.folder, read_only=True)
        store.connect()
        criteria = {"name": name, "metadata.campaign": self.campaign.digest()}
        newest = {"completed_at": Sort.Descending}
        found = store.docs_store.query_one(criteria, ["output"], sort=newest)
        output = (found or {}).get("output")
        return output if isinstance(output, Mapping) else {}


def _content(file: Path) -> bytes:
    """A file's content, unpacked within limits."""
    if file.suffix != ".gz":
        return file.read_bytes()
    for member in members(file):
        if isinstance(member, Member):
            return member.load()
        raise ValueError(member.reason)
    raise ValueError(f"{file.name} is empty")
