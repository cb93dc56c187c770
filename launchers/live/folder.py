"""A campaign's folder, read beside the run that writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maggma.core import Sort

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.doing import Doing
from ccdcgan.launchers.live.source import (
    FRESH,
    NEWEST,
    Progress,
    Stage,
    Table,
    as_phase,
    failed,
    fresh,
    phases,
)
from ccdcgan.launchers.results.failures import FIELDS, waiting
from ccdcgan.launchers.results.phases_file import read_phases
from ccdcgan.launchers.results.query import PhaseQuery
from ccdcgan.launchers.results.results import Results
from ccdcgan.launchers.results.rows import table_of
from ccdcgan.launchers.workdir import CALCULATIONS, CAMPAIGN_FILE, campaign_of, store_to_read
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Outcome, Phase
from ccdcgan.workflows.storage.sqlite import SqliteStore
from ccdcgan.workflows.storage.stores import PHASES, RESULTS

#: What of a job's document tells how far a campaign is.
JOB = ("uuid", "metadata.stage", "hosts")

#: Parts of a round that are told of.
ROUND = ("constraint", "gan", "generate", "relax")

END = "conclusion"


class Folder:
    """A `Source` in a folder, in whose store it writes nothing.

    Raises
    ------
    UserError
        There is no such folder, or it holds something else.
    """

    many = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.title = self.folder.name
        self._packed: tuple[str, Any] = ("", None)
        self._require_folder()
        if not (self.folder / CAMPAIGN_FILE).exists() and any(self.folder.iterdir()):
            raise UserError(f"{folder} holds no campaign: give the folder of a ccdcgan run")
        # One of an earlier version is told of at once.
        store_to_read(self.folder)

    def table(self, before: Table | None) -> Table:
        """See `Source`."""
        with self._phases() as (store, mark):
            if before is not None and before.mark == mark:
                return before
            return Table(mark, table_of(store))

    def progress(self, campaign: str | None, before: Progress | None) -> Progress:
        """See `Source`."""
        self._require_folder()
        if not (self.folder / CAMPAIGN_FILE).exists():
            return Progress("nothing yet: no campaign has been started here", mark="nothing")
        doing = Doing.of(self.folder)
        with self._store("jobs") as jobs, self._store(RESULTS) as relaxations:
            done, all_, bad = (
                jobs.numbers(),
                relaxations.numbers(),
                relaxations.numbers({"converged": False}),
            )
            mark = repr((len(done), done[-1:], len(all_), all_[-1:], len(bad), doing))
            if before is not None and before.mark == mark:
                return before
            kept = before.kept if before else {}
            kept_now = {n: kept[n] for n in bad if n in kept and not kept[n].waits}
            unread = [n for n in bad if n not in kept_now]
            read = relaxations.numbered(unread, FIELDS)
            # One that is damaged is read again each time.
            kept_now |= {n: found[0] for n, d in read.items() if (found := failed([d]))}
            newest = fresh(relaxations.numbered(all_[-NEWEST:], FRESH).values())
            ended = list(jobs.numbered(done, JOB).values())
        found = list(waiting(self.folder / CALCULATIONS))
        again = {f.key for f in found}
        stages, report = _stages(campaign_of(self.folder), ended, doing)
        return Progress(
            state=_state(doing, stages, len(all_)),
            stages=stages,
            relaxed=len(all_),
            failures=[*found, *(f for _, f in sorted(kept_now.items()) if f.key not in again)],
            newest=newest[::-1],
            report=report,
            mark=mark,
            kept=kept_now,
        )

    def campaigns(self, name: str) -> tuple[str, ...]:
        """See `Source`."""
        return (name,)

    def asked(self, query: PhaseQuery) -> list[str]:
        """See `Source`."""
        with self._phases() as (store, _):
            return [p["uid"] for p in Results(store).find(query, structures=False)]

    def phases(self, uids: Sequence[str]) -> list[Phase]:
        """See `Source`."""
        with self._phases() as (store, _):
            found = store.query({"uid": {"$in": list(uids)}}, {"_id": 0})
            return phases(found)

    def relaxed(self, key: str) -> Phase | None:
        """See `Source`."""
        with self._store(RESULTS) as store:
            found = store.query_one({"key": key}, {"frames": 0, "_id": 0})
        return None if found is None else as_phase(found)

    def outcome(self, report: str) -> Outcome:
        """See `Source`."""
        self._require_folder()
        store: Any = store_to_read(self.folder)
        store.connect()
        try:
            found = store.query_one(
                {"uuid": report}, ["output"], sort={"index": Sort.Descending}, load=True
            )
        finally:
            store.close()
        if found is None:
            raise UserError(f"the results of {self.folder} are gone")
        return Outcome.model_validate(found["output"])

    def _require_folder(self) -> None:
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}")

    @contextlib.contextmanager
    def _store(self, name: str) -> Iterator[SqliteStore]:
        """A store for as long as it is read: the file may be another one the next time."""
        self._require_folder()
        made: Any = store_to_read(self.folder)
        store = made.docs_store if name == "jobs" else made.additional_stores[name]
        store.connect()
        try:
            yield store
        finally:
            store.close()

    @contextlib.contextmanager
    def _phases(self) -> Iterator[tuple[Any, str]]:
        """The phases, those of phases.json.gz where no others are, and a mark of their state."""
        file = self.folder / "phases.json.gz"
        with self._store(PHASES) as store:
            numbers = store.numbers()
            if numbers or not file.exists():
                yield store, f"store {len(numbers)} {numbers[-1:]}"
                return
        there = file.stat()
        mark = f"file {there.st_mtime_ns} {there.st_size}"
        if self._packed[0] != mark:
            self._packed = (mark, read_phases(file, self.folder))
        yield self._packed[1], mark


def _stages(
    campaign: Campaign, ended: Sequence[dict[str, Any]], doing: Doing | None
) -> tuple[list[Stage], str | None]:
    """The stages of a campaign by its jobs that have ended, and the last job, if it is among them.

    On one machine they run one after the other.
    """
    names = ["prototypes", "database", "autoencoder"]
    names += [f"round {n}: {part}" for n in range(1, campaign.loop.rounds + 1) for part in ROUND]
    names += ["confirmation"] if campaign.confirm else []
    names += ["stability"] if campaign.stability else []
    names.append(END)
    # A folder has the jobs of every run that has gone on there.
    flow = ended[-1]["hosts"][-1:] if ended else []
    mine = [job for job in ended if job["hosts"][-1:] == flow]
    begun = [names.index(s) for job in mine if (s := job["metadata"].get("stage")) in names]
    here = max(begun, default=-1)
    under_way = "stopped" if doing is None or doing.is_gone else "under way"
    if here == len(names) - 1:
        under_way = "done"
    elif here < 0:
        here = 0
    states = ["done"] * here + [under_way] + ["waiting"] * (len(names) - here - 1)
    stages = [Stage(name, state) for name, state in zip(names, states, strict=True)]
    ends = [job["uuid"] for job in ended if job["metadata"].get("stage") == END]
    return stages, ends[-1] if ends else None


def _state(doing: Doing | None, stages: Sequence[Stage], relaxed: int) -> str:
    """What is going on, in one line."""
    if doing is not None and not doing.is_gone:
        left = doing.seconds_left
        about = "" if left is None else f", about {max(1, round(left / 60))} min left"
        far = f", {doing.done} of {doing.total}{about}" if doing.total else ""
        return f"running: {doing.stage}{far}"
    if stages[-1].state == "done":
        return "done"
    if not relaxed:
        return "not running; nothing is relaxed yet"
    return "not running, and not done: ccdcgan run goes on from here"
