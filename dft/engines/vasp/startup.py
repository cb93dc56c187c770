"""What a run writes before its first electronic step, and what it writes after that."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from ccdcgan.dft.engines.vasp.files import has_electronic_step, output_of

#: Longest interval between two looks, s: much less than VASP takes to begin.
INTERVAL = 0.5


class StartUp:
    """Output of a run up to its first electronic step, noted while it runs.

    MPI and its network complain at each start of things that do no harm; of two streams in files
    nobody can tell afterwards which line was before that step.

    Parameters
    ----------
    folder
        Of the run.
    interval
        Between two looks, s.
    """

    def __init__(self, folder: Path, interval: float) -> None:
        self._folder, self._interval = folder, min(interval, INTERVAL)
        self._lines: Counter[str] = Counter()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(self._interval):
            # In this order: what has been read when there is no step was before it.
            text = output_of(self._folder)
            if has_electronic_step(self._folder):
                return
            self._lines = Counter(map(_plain, text.splitlines()))

    def later(self) -> str:
        """What the run has written since its first electronic step; all, if it has come to none."""
        text = output_of(self._folder)
        if not has_electronic_step(self._folder):
            return text
        earlier, lines = self._lines.copy(), []
        for line in text.splitlines():
            plain = _plain(line)
            if earlier[plain]:
                earlier[plain] -= 1
            else:
                lines.append(line)
        return "\n".join(lines)


def _plain(line: str) -> str:
    """A line without the numbers of processes and times, which are others after a restart."""
    return re.sub(r"\d+", "0", line)
