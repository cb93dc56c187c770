"""The campaigns of a cluster, read from its MongoDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maggma.core import Sort

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.cluster.launchpad import CAMPAIGNS, connect
from ccdcgan.launchers.cluster.settings import Cluster
from ccdcgan.launchers.cluster.status import COLUMNS, overview, status_of
from ccdcgan.launchers.cluster.submission import Submission
from ccdcgan.launchers.cluster.submit import alike
from ccdcgan.launchers.live.source import (
    FRESH,
    NEWEST,
    Fresh,
    Progress,
    Run,
    Stage,
    Table,
    as_phase,
    fresh,
    phases,
)
from ccdcgan.launchers.results.failures import Wanted, failures_of_cluster
from ccdcgan.launchers.results.query import PhaseQuery
from ccdcgan.launchers.results.results import Results, each_once
from ccdcgan.launchers.results.rows import table_of
from ccdcgan.launchers.wording import counted
from ccdcgan.workflows.documents import Outcome, Phase
from ccdcgan.workflows.storage.stores import PHASES, RESULTS


class Campaigns:
    """A `Source` in a cluster's database.

    Raises
    ------
    UserError
        The database cannot be reached; one line, in which no password is.
    """

    many = True

    def __init__(self, cluster: Cluster) -> None:
        self.title = f"cluster {cluster.launchpad.database}"
        self._cluster, self._pad = cluster, connect(cluster)
        cluster.ping()
        self._phases, self._relaxations = cluster.store_of(PHASES), cluster.store_of(RESULTS)
        self._phases.connect()
        self._relaxations.connect()

    def table(self, before: Table | None) -> Table:
        """See `Source`."""
        mark = _mark(self._phases._collection, {})
        if before is not None and before.mark == mark:
            return before
        once = each_once(self._pad.db[CAMPAIGNS], self._phases)
        return Table(mark, table_of(self._phases, once))

    def progress(self, campaign: str | None, before: Progress | None) -> Progress:
        """See `Source`."""
        if campaign is None:
            return self._overview(before)
        found = self._submission(campaign)
        if found is None:
            raise UserError(f"no campaign {campaign!r} was submitted")
        family = self.campaigns(campaign)
        own = {"campaign": {"$in": list(family)}}
        status = status_of(self._pad, self._cluster, found)
        mark = repr((_mark(self._relaxations._collection, own), status.stages, status.doing))
        if before is not None and before.mark == mark:
            return before
        failures = failures_of_cluster(
            self._cluster, self._pad, Wanted(campaigns=frozenset(family))
        )
        doing = [f"{d.what}, {d.done} of {d.total}" for d in status.doing]
        # The job of the outcome is there from the start.
        report = found.outcome
        totals = _in_words(status.totals)
        return Progress(
            state=f"{found.name}: {'; '.join([totals, *doing])}",
            stages=[Stage(name, _in_words(states)) for name, states in status.stages.items()],
            relaxed=status.relaxed,
            failures=failures,
            newest=self._newest(own),
            report=report if report and self._stored(report, ["uuid"]) else None,
            mark=mark,
        )

    def campaigns(self, name: str) -> tuple[str, ...]:
        """See `Source`."""
        found = self._submission(name)
        if found is None:
            return (name,)
        runs = alike(self._pad, found.campaign())
        return tuple(sorted({name for run in runs for name in (run.id, run.digest)}))

    def _submission(self, name: str) -> Submission | None:
        """The newest run of a name, which comes from outside: never that of a file."""
        query = {"$or": [{"_id": name}, {"name": name}]}
        found = self._pad.db[CAMPAIGNS].find(query).sort("submitted_at", -1)
        return next(Submission.whole(found), None)

    def asked(self, query: PhaseQuery) -> list[str]:
        """See `Source`."""
        return [p["uid"] for p in Results(self._phases).find(query, structures=False)]

    def phases(self, uids: Sequence[str]) -> list[Phase]:
        """See `Source`."""
        found = self._phases.query({"uid": {"$in": list(uids)}}, {"_id": 0})
        return phases(found)

    def relaxed(self, key: str) -> Phase | None:
        """See `Source`."""
        found = self._relaxations.query_one({"key": key}, {"frames": 0, "_id": 0})
        return None if found is None else as_phase(found)

    def outcome(self, report: str) -> Outcome:
        """See `Source`."""
        found = self._stored(report, ["output"], load=True)
        if found is None:
            raise UserError("the results of the campaign are gone")
        return Outcome.model_validate(found["output"])

    def _stored(self, uuid: str, fields: list[str], load: bool = False) -> Any:
        store = self._cluster.job_store()
        store.connect()
        try:
            return store.query_one(
                {"uuid": uuid}, fields, sort={"index": Sort.Descending}, load=load
            )
        finally:
            store.close()

    def _overview(self, before: Progress | None) -> Progress:
        runs = [
            Run(
                row.submission.id,
                row.submission.name,
                row.submission.system,
                row.submission.submitted_at,
                _in_words(row.states),
            )
            for row in overview(self._pad)
        ]
        mark = repr((_mark(self._relaxations._collection, {}), runs))
        if before is not None and before.mark == mark:
            return before
        number = self._relaxations._collection.estimated_document_count()
        state = counted(len(runs), "campaign") if runs else "no campaign has been submitted"
        newest = self._newest({})
        return Progress(state, runs=runs, relaxed=number, newest=newest, mark=mark)

    def _newest(self, own: Mapping[str, object]) -> list[Fresh]:
        cursor = self._relaxations._collection.find(own, list(FRESH))
        return fresh(cursor.sort("_id", -1).limit(NEWEST))


def _mark(collection: Any, own: Mapping[str, object]) -> str:
    """Number of documents, and the newest."""
    number = collection.count_documents(own) if own else collection.estimated_document_count()
    newest = collection.find_one(own, {"_id": 1}, sort=[("_id", -1)])
    return f"{number} {newest and newest['_id']}"


def _in_words(states: Mapping[str, int]) -> str:
    return ", ".join(f"{states[c]} {c}" for c in COLUMNS if states.get(c)) or "–"
