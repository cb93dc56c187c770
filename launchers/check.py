"""``ccdcgan check``: whether this machine has what a campaign needs, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ccdcgan.dft.errors import UserError
from ccdcgan.workflows.campaign import Campaign


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what to do if it is not as it should be."""

    what: str
    problem: str | None = None


def findings(campaign: Campaign) -> Iterator[Finding]:
    """Look at each part that the campaign uses."""
    parts: list[tuple[str, Callable[[], None]]] = []
    elements = campaign.elements
    for name, relaxation in campaign.relaxations.items():
        engine = relaxation.engine
        what = f"{name} by {engine.name} of {', '.join(elements)}"
        parts.append((what, partial(engine.check, elements)))
    for what, look in parts:
        try:
            look()
        except UserError as error:
            yield Finding(what, str(error))
        else:
            yield Finding(what)
