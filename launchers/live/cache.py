"""What was read last, read again in the background: who asks does not wait for a large store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")

#: Shortest time between two looks, s, and the share of time that is spent on looking.
PACE, SHARE = 2.0, 0.1

#: How long who asks waits for what is newer, s.
PATIENCE = 0.3


class Cached(Generic[T]):
    """A value that is read anew where somebody asks for it, in a thread, one reading at a time.

    Parameters
    ----------
    read
        Reads it; gets what was read before, or None.
    """

    def __init__(self, read: Callable[[T | None], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: Exception | None = None
        self._due = 0.0
        self._ready = threading.Event()
        self._ready.set()

    def get(self) -> tuple[T, Exception | None]:
        """What was read last, and why it could not be read since then.

        Raises
        ------
        Exception
            Nothing could be read as yet.
        """
        with self._lock:
            if self._ready.is_set() and monotonic() >= self._due:
                self._ready.clear()
                threading.Thread(target=self._look, daemon=True).start()
            first = self._value is None
        self._ready.wait(None if first else PATIENCE)
        with self._lock:
            if self._value is None:
                assert self._error is not None
                raise self._error
            return self._value, self._error

    def _look(self) -> None:
        begin = monotonic()
        value, error = self._value, None
        try:
            value = self._read(value)
        except Exception as caught:  # noqa: BLE001  it is for who asks
            error = caught
        with self._lock:
            self._value, self._error = value, error
            now = monotonic()
            self._due = now + max(PACE, (now - begin) / SHARE)
            self._ready.set()
