"""``ccdcgan launch --notify``: a command that is told how it goes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import pymongo
from pymongo.errors import PyMongoError

from ccdcgan.launchers.cluster.failed_jobs import failures
from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, Pad

#: What the command is told of.
Event = Literal["end", "stop", "failure"]

#: States of jobs that are counted, as FireWorks names them.
COUNTED = {"done": "COMPLETED", "failed": "FIZZLED", "paused": "PAUSED", "ready": "READY"}
COUNTED |= {"running": "RUNNING", "waiting": "WAITING"}
FAILED = {"state": "FIZZLED"}

#: Timeout of the command, s.
TIMEOUT = 60.0


class Notifier:
    """Runs a command at the end, at a stop, and at the first job that fails.

    The command gets no arguments of ours. Its standard input is what there is to tell, one line
    each. Its environment has besides: CCDCGAN_EVENT, one of ``end``, ``stop`` and ``failure``;
    CCDCGAN_CAMPAIGNS, the names of the campaigns in question; and the number of their jobs in
    CCDCGAN_DONE, CCDCGAN_FAILED, CCDCGAN_PAUSED, CCDCGAN_READY, CCDCGAN_RUNNING and
    CCDCGAN_WAITING. Whatever becomes of the command, the launcher goes on.

    Parameters
    ----------
    command
        Program and arguments; without any nobody is told.
    say
        Told what is said anyway, and of a command that has failed.
    """

    def __init__(self, command: Sequence[str], say: Callable[[str], None]) -> None:
        self._words = list(command)
        self._say = say
        self._pad: Pad | None = None
        self._failed = 0
        self._campaigns: set[str] = set()
        self._said: list[str] = []

    def say(self, line: str) -> None:
        """Say a line, and tell the command of it at the end."""
        self._said.append(line)
        self._say(line)

    @contextlib.contextmanager
    def watching(self, pad: Pad) -> Iterator[None]:
        """Tell how what is done here ends."""
        if not self._words:
            yield
            return
        self._pad = pad
        self._failed = pad.fireworks.count_documents(FAILED)
        self._note_campaigns(pad)
        try:
            yield
        except BaseException as error:
            said = str(error) if isinstance(error, Exception) else "stopped from outside"
            self._tell("stop", [said or type(error).__name__], sorted(self._campaigns))
            raise
        if self._said:
            self._tell("end", self._said, sorted(self._campaigns))

    def look(self) -> None:
        """Note whose jobs there are, and tell of the first that has failed."""
        if self._pad is None:
            return
        self._note_campaigns(self._pad)
        if not 0 <= self._failed < self._pad.fireworks.count_documents(FAILED):
            return
        self._failed = -1
        first = failures(self._pad, {}, 1)
        told = [f"a job of {f.campaign} has failed: {f.stage}: {f.reason}" for f in first]
        self._tell("failure", told, [str(f.campaign) for f in first])

    def _note_campaigns(self, pad: Pad) -> None:
        live = {"state": {"$nin": ["COMPLETED", "DEFUSED", "ARCHIVED"]}}
        self._campaigns.update(map(str, pad.fireworks.distinct("spec.campaign", live)))

    def _tell(self, event: Event, lines: list[str], campaigns: list[str]) -> None:
        told = {"EVENT": event, **self._numbers(campaigns)}
        # A name out of a database may hold what no variable can.
        values = {f"CCDCGAN_{key}": value.replace("\0", " ") for key, value in told.items()}
        try:
            ended = subprocess.run(
                self._words,
                input="\n".join(lines) + "\n",
                env={**os.environ, **values},
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
            said = " ".join((ended.stderr or ended.stdout).split())[:200]
            fault = f"exit status {ended.returncode}: {said}" if ended.returncode else None
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            fault = str(error)[:200]
        if fault:
            self._say(f"the notification of {event} failed: {self._words[0]}: {fault}")

    def _numbers(self, campaigns: list[str]) -> dict[str, str]:
        """What is known of the campaigns; of a database that is away, nothing."""
        if self._pad is None:
            return {}
        query = {"spec.campaign": {"$in": campaigns}}
        try:
            with pymongo.timeout(5):
                named = self._pad.db[CAMPAIGNS].find({"_id": {"$in": campaigns}}, {"name": 1})
                names = {str(found["_id"]): str(found.get("name", "")) for found in named}
                counts = {
                    key.upper(): str(self._pad.fireworks.count_documents({**query, "state": state}))
                    for key, state in COUNTED.items()
                }
        except PyMongoError:
            return {"CAMPAIGNS": " ".join(campaigns)}
        return {"CAMPAIGNS": " ".join(names.get(c) or c for c in campaigns), **counts}
