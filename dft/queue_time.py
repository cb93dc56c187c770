"""The end of the queue job that this process runs in."""

from __future__ import annotations

import os
import time


class OutOfTimeError(Exception):
    """The queue's time is nearly over: the calculation goes on in the next job."""


def seconds_left(now: float | None = None) -> float | None:
    """Seconds until the queue ends this job; None where there is no end.

    CCDCGAN_END_TIME, which our queue scripts set, or Slurm's own SLURM_JOB_END_TIME (from 23.02).
    """
    for variable in ("CCDCGAN_END_TIME", "SLURM_JOB_END_TIME"):
        end = os.environ.get(variable, "")
        if end.isdigit():
            return float(end) - (time.time() if now is None else now)
    return None
