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
    def whole(cls, documents: Iterable[Mapping[str, Any]]) -> Iterator[Submission]:
        """Of stored documents those of submissions, also of other versions' campaigns."""
        for document in documents:
            with contextlib.suppress(ValidationError):
                yield cls.model_validate(document)

    @classmethod
    def readable(cls, documents: Iterable[Mapping[str, Any]]) -> Iterator[Submission]:
        """Of stored documents those whose campaigns this version reads."""
        for found in cls.whole(documents):
            with contextlib.suppress(UserError, ValidationError):
                found.campaign()
                yield found

    def stored(self) -> dict[str, object]:
        """The document as a new one is stored."""
        return self.model_dump(by_alias=True, exclude={"outcome", "relaxed"})


def followed(documents: Iterable[Mapping[str, Any]], shown: Collection[str]) -> dict[str, str]:
    """Digests of campaigns that a later one follows, to do more or less, and that one's digest.

    Parameters
    ----------
    documents
        Of submissions, the latest first.
    shown
        Digests of campaigns that have results.
    """
    named: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for document in documents:
        if document.get("digest") in shown:
            whose = tuple(document.get(key) for key in ("name", "system", "submitted_by"))
            named.setdefault(whose, []).append(document)
    found: dict[str, str] = {}
    # Most names are of one campaign: reading one takes milliseconds.
    for runs in named.values():
        if len({run["digest"] for run in runs}) > 1:
            latest: list[Submission] = []
            for run in Submission.readable(runs):
                later = (o for o in latest if not o.campaign().differences(run.campaign()))
                if (over := next(later, None)) is None:
                    latest.append(run)
                elif over.digest != run.digest:
                    found.setdefault(run.digest, over.digest)
    return found
