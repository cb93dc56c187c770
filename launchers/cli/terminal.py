"""What people see: text that steers no terminal, and progress bars fed by a campaign's stages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from ccdcgan.workflows import progress


def readable(text: object) -> str:
    """A text in which all that would steer a terminal is to be read instead."""
    characters = str(text)
    if characters.isprintable():
        return characters
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in characters
    )


def readable_lines(text: str) -> str:
    """`readable` line by line."""
    return "\n".join(map(readable, text.split("\n")))


class Console(rich.console.Console):
    """rich's, for text of any origin: it shows all of it, and takes orders from none.

    No markup, no names of emoji, no highlighting; for colours there is `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        """See rich; everything that is shown comes through here."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else readable_lines(text), style, control)


#: What is no result: progress, notes and errors.
console = Console(stderr=True)


def tell(mark: str, colour: str, text: str, on: Console = console) -> None:
    """One line after a mark in colour."""
    on.print(Text(mark, colour), text, soft_wrap=True)


def say(line: str) -> None:
    """One line of what is no result."""
    console.print(line, soft_wrap=True)


class Formatter(logging.Formatter):
    """A log's, for text of any origin."""

    def format(self, record: logging.LogRecord) -> str:
        return readable_lines(super().format(record))


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
        TextColumn("{task.description:<22}", markup=False),
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
