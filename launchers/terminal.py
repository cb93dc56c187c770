"""Progress bars with the time that is left, fed by the stages of a campaign."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ccdcgan.workflows import progress


@contextlib.contextmanager
def progress_bars(console: Console) -> Iterator[None]:
    """Show every stage as a bar; plain lines where the output is no terminal."""
    if not console.is_terminal:
        shown: dict[str, int] = {}

        def line(stage: str, done: int, total: int) -> None:
            tenth = 10 * done // max(1, total)
            if shown.get(stage) != tenth:
                shown[stage] = tenth
                console.print(f"{stage}: {done} of {total}")

        progress.listen(line)
        try:
            yield
        finally:
            progress.listen(None)
        return
    with Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        progress.listen(update)
        try:
            yield
        finally:
            progress.listen(None)
