"""All that the live page shows, from what was read last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.hull import NEAR
from ccdcgan.launchers.live.cache import Cached
from ccdcgan.launchers.live.source import Progress, Source, Table
from ccdcgan.launchers.report.write import page
from ccdcgan.launchers.results.query import PhaseQuery
from ccdcgan.launchers.results.rows import rows_of

if TYPE_CHECKING:
    import pandas as pd

V = TypeVar("V")

#: Answers of each kind that are kept.
KEPT = 16


class Kept:
    """The answers that were asked for last."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._answers: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: object, make: Callable[[], V]) -> V:
        """The answer under a key; made where there is none."""
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        answer = make()
        with self._lock:
            self._answers[key] = answer
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)
        return answer


@dataclass(frozen=True)
class View:
    """What one question shows.

    Attributes
    ----------
    query
        The question.
    progress, rows, table
        Of the campaign; the phases that are asked for, without structures; and all of them.
    key, mark
        Others where other phases, or anything else, would be shown.
    problem
        Why nothing newer could be read.
    """

    query: PhaseQuery
    progress: Progress
    rows: pd.DataFrame
    table: pd.DataFrame
    key: str
    mark: str
    problem: Exception | None


class Live:
    """A source, looked at as often as somebody asks and it is due.

    Parameters
    ----------
    source
        Where the campaigns are.
    campaign
        The only one that is shown, of a source with many.
    """

    def __init__(self, source: Source, campaign: str | None = None) -> None:
        self.source, self.campaign = source, campaign
        self._table: Cached[Table] = Cached(source.table)
        self._progress, self._rows, self._reports = Kept(), Kept(), Kept(1)
        self._making = threading.Lock()

    def load(self) -> int:
        """Read all phases for the first time; how many there are."""
        return len(self._table.get()[0].rows)

    def view(self, query: PhaseQuery) -> View:
        """What a question shows."""
        name = self.campaign or (query.campaign if self.source.many else None)
        assert not isinstance(name, tuple)
        table, problem = self._table.get()
        try:
            progress, worse = self._progress_of(name).get()
        except UserError as error:
            # A campaign that nobody has submitted, or a name that is only the start of one.
            progress, worse = Progress(str(error), mark=str(error)), None
        wanted = name if self.campaign else query.campaign
        asked = query
        if isinstance(wanted, str):
            asked = query.model_copy(update={"campaign": self.source.campaigns(wanted)})
        # What one question finds stays until something has changed.
        key = f"{table.mark} {asked.model_dump_json(exclude={'limit'})}"
        rows = self._rows.get(key, lambda: self._asked(asked, table))
        mark = f"{key} {progress.mark}"
        return View(query, progress, rows, table.rows, key, mark, problem or worse)

    def _progress_of(self, campaign: str | None) -> Cached[Progress]:
        def make() -> Cached[Progress]:
            return Cached(lambda before: self.source.progress(campaign, before))

        return self._progress.get(campaign, make)

    def _asked(self, query: PhaseQuery, table: Table) -> pd.DataFrame:
        found = rows_of(query.model_copy(update={"where": None}), table.rows)
        if query.where is None:
            return found
        return found[found["uid"].isin(self.source.asked(query))]

    def report(self, name: str) -> str:
        """The report of a campaign that has ended, as ``ccdcgan run`` writes it."""
        # Of a large campaign it takes a minute: once is enough.
        with self._making:
            return self._reports.get(name, lambda: page(self.source.outcome(name)))


def counts(rows: pd.DataFrame) -> dict[str, int]:
    """How many of the new crystals are on the hull, and within a distance of it, by those words."""
    new = rows[(rows["origin"] == "generated") & rows["distinct"].fillna(False).astype(bool)]
    labels: Sequence[str] = list(new["label"])
    within: Iterable[int] = accumulate(labels.count(word) for word in NEAR)
    return dict(zip(NEAR, within, strict=True))
