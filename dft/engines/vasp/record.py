"""The record of a calculation: its runs, and how each of them ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ccdcgan.dft.files import locked, to_json, write_atomically
from ccdcgan.dft.relaxation.relaxer import LAST, calculations_folder

RECORD = "calculation.json"

#: Reasons of runs that somebody has stopped: the queue or the machine, or the user.
KILLED, INTERRUPTED = "killed", "interrupted"

#: What somebody has asked for when a calculation is tried again.
RETRY = "retry.json"

#: Name of a run's folder, which lies in that of its calculation.
RUN = re.compile(r"\w[\w.-]*", re.ASCII)

#: Value of a tag in INCAR.
Tag = bool | int | float | str


@dataclass
class Attempt:
    """One run.

    Attributes
    ----------
    stage
        Index into the engine's stages.
    rung
        Step of the engine's ladder that it ran with.
    incar
        What that step changes in INCAR.
    outcome
        ``running``, which a kill leaves behind; ``done``: converged; ``stopped`` before its time
        was over, or by somebody; ``failed``.
    steps
        Ionic steps, also those before custodian's corrections.
    host, fault, said
        Where it ran, what of that machine failed, and VASP's own last words.
    retired
        Before somebody asked for a new ladder: only its geometry counts.
    """

    folder: str
    stage: int
    rung: int
    incar: dict[str, Any] = field(default_factory=dict)
    outcome: Literal["running", "done", "stopped", "failed"] = "running"
    reason: str | None = None
    steps: int = 0
    seconds: float = 0.0
    corrections: list[str] = field(default_factory=list)
    host: str = ""
    fault: str | None = None
    said: str | None = None
    retired: bool = False

    def __post_init__(self) -> None:
        # The record may be another's.
        if not RUN.fullmatch(self.folder):
            raise ValueError(f"no name of a run's folder: {self.folder!r}")


def read_record(folder: Path) -> list[Attempt]:
    """The runs of a calculation's folder.

    Of a record that is cut, nothing but the runs' folders is believed: their geometries count.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return [Attempt(**a) for a in record]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        names = sorted(f.name for f in folder.glob("[0-9][0-9]-*") if f.is_dir())
        return [
            Attempt(name, 0, 0, outcome="stopped", reason=KILLED, retired=True)
            for name in names
            if RUN.fullmatch(name)
        ]


def write_record(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Keep the runs of a calculation in its folder."""
    write_atomically(folder / RECORD, to_json([asdict(a) for a in attempts], indent=1))


def read_retry(folder: Path) -> dict[str, Any]:
    """What somebody has asked for when a calculation is tried again."""
    try:
        found = json.loads((folder / RETRY).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def retry_calculation(
    folder: Path,
    incar: Mapping[str, Tag],
    start: Literal["last", "first"],
    queue: Mapping[str, str] | None = None,
) -> None:
    """Let a calculation that failed be tried again with a new ladder.

    Stages that are done stay done, unless it begins at the first geometry.

    Parameters
    ----------
    incar, start
        Tags for this one alone, and whether it goes on from its last sane geometry.
    queue
        What its job asks of the queue.

    Raises
    ------
    UserError
        It is being calculated.
    """
    if not folder.is_dir() and not incar and not queue:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"{folder} is being calculated: wait for its end"):
        attempts = read_record(folder)
        for attempt in attempts:
            attempt.retired |= start == "first" or attempt.outcome != "done"
        # A stage that was done and refused all the same is to be run again.
        if attempts and start == "last" and attempts[-1].outcome == "done":
            attempts[-1].retired = True
        if attempts:
            write_record(folder, attempts)
        if start == "first" and (folder / LAST).exists():
            (folder / LAST).replace(folder / f"earlier-{LAST}")
        write_atomically(folder / RETRY, to_json({"incar": incar, "start": start, "queue": queue}))


def final_run(key: str) -> Path | None:
    """Folder of the run that gave the energy of a content key; None where none did."""
    folder = calculations_folder() / key
    attempts = read_record(folder)
    last = attempts[-1] if attempts else None
    return folder / last.folder if last and last.outcome == "done" and not last.retired else None
