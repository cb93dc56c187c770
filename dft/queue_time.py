"""The end of the queue job that this process runs in."""

from __future__ import annotations

import time

from ccdcgan.dft.variables import variables


class OutOfTimeError(Exception):
    """The queue's time is nearly over: the calculation goes on in the next job."""


def seconds_left(now: float | None = None) -> float | None:
    """Seconds until the queue ends this job; None where there is no end."""
    end = variables().end_time
    return None if end is None else end - (time.time() if now is None else now)
