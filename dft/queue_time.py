"""The end of the queue job that this process runs in."""

from __future__ import annotations

import time
from time import sleep

from ccdcgan.dft.variables import variables


class OutOfTimeError(Exception):
    """The queue's time is nearly over: the calculation goes on in the next job."""


def seconds_left(now: float | None = None) -> float | None:
    """Seconds until the queue ends this job; None where there is no end."""
    end = variables().end_time
    return None if end is None else end - (time.time() if now is None else now)


def wait_for_the_end() -> None:
    """Let the queue's time go by: what replaces a job may be taken by this very worker."""
    sleep(max(10.0, (seconds_left() or 0.0) - 30.0))
