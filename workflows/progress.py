"""Progress of long stages, told to whoever listens: a progress bar, or the log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

logger = logging.getLogger("ccdcgan")

#: Called with (stage, done, total).
Listener = Callable[[str, int, int], None]

_listener: Listener | None = None
_others: list[Listener] = []


def listen(listener: Listener | None) -> None:
    """Send progress to a listener; None sends it to the log again."""
    global _listener
    _listener = listener


@contextlib.contextmanager
def also(listener: Listener) -> Iterator[None]:
    """Send progress to one more listener for a while."""
    _others.append(listener)
    try:
        yield
    finally:
        _others.remove(listener)


def report(stage: str, done: int, total: int) -> None:
    """Tell that `done` of `total` parts of a stage are finished."""
    if _listener is not None:
        _listener(stage, done, total)
    else:
        logger.info("%s: %d of %d", stage, done, total)
    for other in _others:
        other(stage, done, total)
