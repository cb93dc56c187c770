"""What campaigns have found, in a folder or on a cluster: `Results`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maggma.core import Store
from pymongo.errors import OperationFailure, PyMongoError

from ccdcgan.dft.errors import UserError
from ccdcgan.launchers.results.columns import COLUMNS, as_frame, value_of
from ccdcgan.launchers.results.phases_file import is_phase, read_phases
from ccdcgan.launchers.results.query import FAILED, PhaseQuery
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, can_open, embedded_store
from ccdcgan.workflows.documents import Phase, relabelled
from ccdcgan.workflows.notebook import html_table
from ccdcgan.workflows.storage.sqlite import SqliteStore
from ccdcgan.workflows.storage.stores import PHASES, RESULTS

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from ccdcgan.launchers.cluster.settings import Cluster

#: Phases that a notebook lists.
SHOWN = 20


class Results:
    """The phases of campaigns, in a folder or on a cluster.

    Parameters
    ----------
    store
        maggma store of the phases.
    relaxations
        maggma store of the relaxations, which has what failed.
    campaigns
        Collection of the submitted campaigns, by which those on a cluster have names.

    Examples
    --------
    >>> import ccdcgan
    >>> results = ccdcgan.Results.in_folder("ccdcgan-run")  # doctest: +SKIP
    >>> near = results.phases(max_e_above_hull=0.025, origin="generated")  # doctest: +SKIP
    """

    def __init__(
        self, store: Store, relaxations: Store | None = None, campaigns: Any = None
    ) -> None:
        self._store, self._relaxations, self._campaigns = store, relaxations, campaigns
        store.connect()

    @classmethod
    def in_folder(cls, workdir: Path | str) -> Results:
        """The phases of the campaign in a folder.

        Raises
        ------
        UserError
            The folder holds no campaign, or one without phases as yet.
        """
        workdir = Path(workdir).resolve()
        if not (workdir / CAMPAIGN_FILE).exists():
            raise UserError(f"{workdir} holds no campaign: give the folder of a ccdcgan run")
        file = workdir / "phases.json.gz"
        # Runs of earlier versions have no phases in their store.
        if can_open(workdir):
            store: Any = embedded_store(workdir, read_only=True)
            results = cls(store.additional_stores[PHASES], store.additional_stores[RESULTS])
            if results._store.query_one({}, properties=["uid"]) or (
                not file.exists() and results._has_failures()
            ):
                return results
        if file.exists():
            return cls(read_phases(file, workdir))
        raise UserError(f"{workdir} has no phases yet: the first come with its database")

    @classmethod
    def on_cluster(cls, settings: Cluster | Path | str) -> Results:
        """The phases of all campaigns of a cluster, by its my_fireworks.yaml.

        Raises
        ------
        UserError
            The database cannot be reached; one line, in which no password is.
        """
        if isinstance(settings, (Path, str)):
            from ccdcgan.launchers.cluster.settings import load_cluster

            settings = load_cluster(Path(settings))
        settings.ping()
        campaigns = settings.launchpad.handle()["campaigns"]
        return cls(settings.store_of(PHASES), settings.store_of(RESULTS), campaigns)

    def find(
        self, query: PhaseQuery | str | None = None, *, structures: bool = True, **asked: Any
    ) -> list[Mapping[str, Any]]:
        """Stored documents of the phases that a question is about.

        Parameters
        ----------
        query, asked
            The question, or a formula, or fields of a `PhaseQuery`.
        structures
            Whether the documents hold their structures.

        Raises
        ------
        UserError
            A value cannot be asked for, or the store does not understand the free filter.
        """
        query = self._by_digest(_question(query, asked))
        hidden = {"_id": 0} if structures else {"_id": 0, "structure": 0}
        store = self._asked(query)
        # One that is read may not have had any phases when it was opened.
        store.connect()
        with _explained(query.where):
            found = store.query(
                self._filter(query), properties=hidden, sort=query.order, limit=query.limit or 0
            )
            return [relabelled(p) for p in found if query.label == FAILED or is_phase(p)]

    def phases(self, query: PhaseQuery | str | None = None, **asked: Any) -> list[Phase]:
        """The phases that a question is about, as `find` takes it."""
        return [Phase.model_validate(p) for p in self.find(query, **asked)]

    def count(self, query: PhaseQuery | str | None = None, **asked: Any) -> int:
        """How many phases a question is about, whatever its limit."""
        query = self._by_digest(_question(query, asked))
        with _explained(query.where):
            return int(self._asked(query).count(self._filter(query)))

    def frame(self, query: PhaseQuery | str | None = None, **asked: Any) -> pd.DataFrame:
        """The phases as a table with the columns of `COLUMNS`, as `find` takes the question."""
        return as_frame(self.find(query, structures=False, **asked))

    def hull(self, query: PhaseQuery | str | None = None, **asked: Any) -> Figure:
        """The convex hull of one campaign, as a figure of plotly; `find` takes the question.

        Raises
        ------
        UserError
            The phases are of several campaigns, or there are none.
        """
        from plotly.graph_objects import Figure

        from ccdcgan.launchers.report.hull import hull_figure

        found = self.find(query, **asked)
        # A folder holds one campaign, whatever its digests on the way.
        is_folder = isinstance(self._store, SqliteStore)
        systems = {("" if is_folder else str(p["campaign"]), str(p["system"])) for p in found}
        if len(systems) != 1:
            raise UserError(
                f"a hull is of one campaign, and these phases are of {len(systems)}: "
                "name one by campaign"
            )
        ((_, system),) = systems
        figure, _ = hull_figure(system.split("-"), [Phase.model_validate(p) for p in found])
        return Figure(figure)

    def _repr_html_(self) -> str:
        """The phases nearest to the hull, for Jupyter."""
        names = ("formula", "spacegroup", "formation_energy_per_atom", "e_above_hull", "label")
        shown = [
            [value_of(phase, COLUMNS[name]) for name in (*names, "origin")]
            for phase in self.find(structures=False, limit=SHOWN)
        ]
        count = self.count()
        title = f"{count} phases" + (f", the {SHOWN} nearest" if count > SHOWN else "")
        headings = ("formula", "space group", "E_f, eV/atom", "E_hull, eV/atom", "label", "origin")
        return html_table(title, headings, shown)

    def _by_digest(self, query: PhaseQuery) -> PhaseQuery:
        """The question with the digests of campaigns whose name, or name of a run, it gives."""
        if self._campaigns is None or not isinstance(query.campaign, str):
            return query
        named = {"$or": [{"_id": query.campaign}, {"name": query.campaign}]}
        found = {
            str(c.get("digest") or c["_id"]) for c in self._campaigns.find(named, {"digest": 1})
        }
        return query.model_copy(update={"campaign": tuple(sorted(found))}) if found else query

    def _filter(self, query: PhaseQuery) -> dict[str, object]:
        """The question; of crystals that a campaign has from one that it follows, its own alone."""
        by_digest = isinstance(query.campaign, str)
        if self._campaigns is None or by_digest or query.label == FAILED:
            return query.filter
        return {"$and": [each_once(self._campaigns, self._store), *filter(None, [query.filter])]}

    def _has_failures(self) -> bool:
        if self._relaxations is None:
            return False
        self._relaxations.connect()
        return self._relaxations.query_one({"converged": False}) is not None

    def _asked(self, query: PhaseQuery) -> Store:
        """The store of what is asked for."""
        if query.label != FAILED:
            return self._store
        if self._relaxations is None:
            raise UserError(
                "what failed is in the store of the campaign: ask its own folder, which takes the "
                "right to write there, or its cluster with --config; report.html lists it, too"
            )
        from ccdcgan.launchers.results.failed import failed_phases

        self._relaxations.connect()
        mine = PhaseQuery(campaign=query.campaign).filter
        return failed_phases(self._relaxations, self._store, mine)


def _question(query: PhaseQuery | str | None, asked: Mapping[str, Any]) -> PhaseQuery:
    if isinstance(query, PhaseQuery):
        return query
    return PhaseQuery.of(asked if query is None else {**asked, "formula": query})


def each_once(campaigns: Any, phases: Store) -> dict[str, object]:
    """A filter of phases: none that a later campaign, which does more or less, has as well.

    Parameters
    ----------
    campaigns
        Collection of the submitted ones.
    phases
        Connected store of what they have found.
    """
    from ccdcgan.launchers.cluster.submission import followed

    documents = list(campaigns.find({}).sort("claimed", -1))
    if len({d.get("digest") for d in documents}) < 2:
        return {}
    pairs = followed(documents, set(phases.distinct("campaign")))
    return (
        {
            "$nor": [
                {"campaign": earlier, "id": {"$in": phases.distinct("id", {"campaign": later})}}
                for earlier, later in sorted(pairs.items())
            ]
        }
        if pairs
        else {}
    )


@contextlib.contextmanager
def _explained(where: Mapping[str, Any] | None) -> Iterator[None]:
    """Turn what a store says of a free filter into one line; other errors stay as they are."""
    try:
        yield
    except Exception as error:
        # mongomock and BSON's encoder signal a wrong filter in many ways.
        away = isinstance(error, PyMongoError) and not isinstance(error, OperationFailure)
        if not where or away or isinstance(error, (OSError, sqlite3.Error)):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"the free filter is not understood: {reason}") from None
