"""The document of a submitted campaign, beside its jobs on the LaunchPad."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccdcgan.dft.errors import UserError
from ccdcgan.workflows.campaign import Campaign, parse_campaign


class Submission(BaseModel):
    """A run of a campaign on a cluster; earlier versions lack what has a default."""

    model_config = ConfigDict(populate_by_name=True)

    id: str = Field(alias="_id", description="Name of the run: the digest, from the second on -2.")
    digest: str = ""
    name: str = Field(description="What people call it: the stem of its file.")
    system: str = ""
    rounds: int = 0
    settings: dict[str, object] = Field(description="The campaign as plain data.")
    version: str = Field("", description="Of ccdcgan that submitted it.")
    submitted_by: str = ""
    submitted_at: str = ""
    claimed: float = Field(0.0, description="When somebody began to submit it, s since 1970.")
    submitted: bool = Field(description="Whether its jobs are on the LaunchPad.")
    outcome: str | None = Field(None, description="Job whose output is the campaign's outcome.")
    relaxed: dict[str, int] = Field({}, description="Relaxations, in total and by the hour.")

    def campaign(self) -> Campaign:
        """Its settings.

        Raises
        ------
        UserError
            They are not those of a campaign of this version.
        """
        return parse_campaign(self.settings, self.id)

    @classmethod
    def readable(cls, documents: Iterable[Mapping[str, Any]]) -> Iterator[Submission]:
        """Of stored documents those that this version reads."""
        for document in documents:
            with contextlib.suppress(UserError, ValidationError):
                found = cls.model_validate(document)
                found.campaign()
                yield found

    def stored(self) -> dict[str, object]:
        """The document as a new one is stored."""
        return self.model_dump(by_alias=True, exclude={"outcome", "relaxed"})


def superseded(documents: Iterable[Mapping[str, Any]], shown: Collection[str]) -> set[str]:
    """Digests of campaigns in whose place a later one of their name came, to do more or less.

    Parameters
    ----------
    documents
        Of submissions, the latest first.
    shown
        Digests of campaigns that have results: what has none takes nobody's place.
    """
    latest: dict[tuple[str, str], list[Submission]] = {}
    hidden: set[str] = set()
    for found in Submission.readable(documents):
        if found.digest not in shown:
            continue
        others = latest.setdefault((found.name, found.system), [])
        later = next((o for o in others if not o.campaign().differences(found.campaign())), None)
        if later is None:
            others.append(found)
        elif later.digest != found.digest:
            hidden.add(found.digest)
    return hidden
