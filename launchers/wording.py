"""Words of what commands say."""

from __future__ import annotations


def counted(number: int, one: str, more: str | None = None) -> str:
    """A number of things: 1 job, 2 jobs.

    Parameters
    ----------
    one
        What follows 1.
    more
        What follows the other numbers; by default the same with an s.
    """
    return f"{number} {one}" if number == 1 else f"{number} {more or one + 's'}"
