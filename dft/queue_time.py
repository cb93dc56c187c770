"""The end of the queue job that this process runs in."""

from __future__ import annotations

import time
from time import sleep

from ccdcgan.dft.variables import variables


class OutOfTimeError(Exception):
    """The queue's time is nearly over: the calculation goes on in the next job."""


#: When this process began, s since 1970.
STARTED = time.time()

#: Time after its end in which a queue ends a job, s.
GRACE = 900.0


def seconds_left(now: float | None = None) -> float | None:
    """Seconds until the queue ends this job; None where there is no end, or none that it keeps.

    A shell may have the end of another job in its environment, which has been over before.
    """
    end = variables().end_time
    now = time.time() if now is None else now
    if end is None or end < STARTED < now or now - end > GRACE:
        return None
    return end - now


def wait_for_the_end() -> None:
    """Let the queue's time go by: what replaces a job may be taken by this very worker."""
    sleep(max(10.0, (seconds_left() or 0.0) - 30.0))
