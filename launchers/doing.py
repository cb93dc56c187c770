"""What a run in a folder is doing, in a small file beside its results, for who looks on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import Self

from pydantic import BaseModel, Field, ValidationError

from ccdcgan.dft.files import write_atomically
from ccdcgan.workflows import progress

FILE = Path("store", "doing.json")

#: Time between two writes, s.
PACE = 2.0

#: Most bytes that are read.
MOST = 10_000


class Doing(BaseModel):
    """The stage that a run is in, and how far."""

    pid: int
    host: str
    stage: str = "starting"
    done: int = 0
    total: int = 0
    began: float = Field(description="When the run began, s since 1970.")
    stage_began: float = Field(description="When the stage was first told of, s since 1970.")
    stage_first: int = Field(0, description="What of the stage was done then.")
    updated: float = Field(description="When, s since 1970.")

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """What is going on in a folder; None where nothing is, or it cannot be read."""
        try:
            with (folder / FILE).open("rb") as stream:
                return cls.model_validate_json(stream.read(MOST))
        except (OSError, ValidationError):
            return None

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended without a word; of another machine nobody knows."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False

    @property
    def seconds_left(self) -> float | None:
        """Until the stage is done, at its pace so far, s."""
        since = self.done - self.stage_first
        if since <= 0 or self.done >= self.total:
            return None
        pace = (self.updated - self.stage_began) / since
        return max(0.0, pace * (self.total - self.done) - (time() - self.updated))


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """Keep the file while a run goes on; it is gone afterwards."""
    now = time()
    doing = Doing(
        pid=os.getpid(), host=socket.gethostname(), began=now, stage_began=now, updated=now
    )
    written = 0.0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal doing, written
        now = time()
        changed = {"stage": stage, "done": done, "total": total, "updated": now}
        if another := stage != doing.stage:
            changed |= {"stage_began": now, "stage_first": done}
        doing = doing.model_copy(update=changed)
        if another or done == total or now - written > PACE:
            write()
            written = now

    def write() -> None:
        # Who looks on is no reason for a run to fail.
        with contextlib.suppress(OSError):
            (folder / FILE).parent.mkdir(exist_ok=True)
            write_atomically(folder / FILE, doing.model_dump_json())

    write()
    try:
        with progress.also(tell):
            yield
    finally:
        with contextlib.suppress(OSError):
            (folder / FILE).unlink()
