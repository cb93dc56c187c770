"""What campaigns have found: phases by formula, distance to the hull and the like."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from maggma.core import Sort, Store
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pymatgen.core import Composition, Element
from pymongo.errors import OperationFailure, PyMongoError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import in_one_line, mistakes
from ccdcgan.dft.structures.hull import NEAR, NOISE, Thresholds
from ccdcgan.launchers.results.columns import COLUMNS, LABELS, ORIGINS, as_frame, value_of
from ccdcgan.launchers.results.phases_file import is_phase, read_phases
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, can_open, embedded_store
from ccdcgan.workflows.documents import OLD_LABELS, NoPlace, Phase, relabelled
from ccdcgan.workflows.notebook import html_table
from ccdcgan.workflows.storage.stores import PHASES, RESULTS

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from ccdcgan.launchers.cluster.settings import Cluster

#: Phases that a notebook lists.
SHOWN = 20

#: Label of what has no result; relaxations have it, not phases.
FAILED = "failed"

NO_OBJECT = 'a free filter is a JSON object, such as {"nsites": {"$lte": 8}}'

#: Operators of free filters: those that both kinds of store have, none of which runs code.
OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"),
    *("$and", "$or", "$nor", "$not", "$exists", "$type"),
    *("$all", "$elemMatch", "$size", "$mod", "$regex", "$options"),
)


def _places() -> dict[str, dict[str, object]]:
    """What labels ask of energies, eV/atom, in MongoDB's language."""
    found: dict[str, dict[str, object]] = {}
    beyond: dict[str, float] = {}
    for word, most in NEAR.items():
        found[word] = {"e_above_hull": {**beyond, "$lte": most + NOISE}}
        beyond = {"$gt": most + NOISE}
    found["above"] = {"e_above_hull": beyond}
    paper = Thresholds()
    below = {"formation_energy_per_atom": {"$lt": 0.0}}
    found["stable"] = {"e_above_hull": {"$lt": paper.stable}, **below}
    metastable = {"$gte": paper.stable, "$lt": paper.metastable}
    found["metastable"] = {"e_above_hull": metastable, **below}
    others = [{"e_above_hull": {"$gte": paper.metastable}}]
    others += [{"formation_energy_per_atom": {"$gte": 0.0}}]
    found["unstable"] = {"$or": others}
    return found


#: Filters of the labels of phases with a place on the hull, the paper's words among them.
PLACES = _places()


class PhaseQuery(BaseModel):
    """A question about phases; what is None is not asked.

    Raises
    ------
    UserError
        A value cannot be asked for; the message says what can.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    formula: str | None = Field(
        None, description="In any multiple and order: Se3Bi2 asks for Bi2Se3."
    )
    elements: tuple[str, ...] | None = Field(
        None, description="Exactly these elements: Bi-Se, or symbols."
    )
    containing: tuple[str, ...] | None = Field(None, description="At least these elements.")
    max_e_above_hull: float | None = Field(
        None, description="Largest distance to the hull, eV/atom."
    )
    label: str | None = Field(
        None,
        description="On the hull; within 0.025 or within 0.10, and not nearer; above; not "
        "converged (on its way, with an energy); untrusted; or failed: all that has not "
        "converged, also without an energy, which no other question finds. Stable, metastable and "
        "unstable are the paper's words.",
    )
    campaign: str | tuple[str, ...] | None = Field(
        None,
        description="Digest of a campaign, or its beginning; on a cluster also its name.",
    )
    origin: str | None = Field(
        None, description="element, reference, prototype, generated or adopted."
    )
    source: str | None = Field(
        None, description="Proposal source of generated crystals, as variation."
    )
    engine: str | None = Field(
        None, description="Name of what computed the energies, in upper or lower case."
    )
    distinct: bool | None = Field(
        None,
        description="Only those that match no earlier phase of their campaign, or only those that "
        "do.",
    )
    where: Mapping[str, Any] | None = Field(
        None,
        description="A filter in MongoDB's language, or JSON of one, beside the others; nothing "
        "that runs code.",
    )
    sort: str = Field(
        "e_above_hull", description="A column of `COLUMNS`; after a -, the largest first."
    )
    limit: int | None = Field(None, description="Most phases.")

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Self:
        """A question from its fields by name."""
        try:
            return cls(**asked)
        except ValidationError as error:
            wrong = list(mistakes(error, cls, asked).values())
            raise UserError(in_one_line(wrong)) from None

    @field_validator("formula")
    @classmethod
    def _reduce(cls, formula: str | None) -> str | None:
        return None if formula is None else reduced_formula(formula)

    @field_validator("elements", "containing", mode="before")
    @classmethod
    def _parse_symbols(cls, elements: str | Sequence[str] | None) -> list[str] | None:
        return None if elements is None else _symbols(elements)

    @field_validator("max_e_above_hull")
    @classmethod
    def _is_a_number(cls, distance: float | None) -> float | None:
        if distance is not None and not math.isfinite(distance):
            raise UserError("the largest distance to the hull is a number of eV/atom")
        return distance

    @field_validator("label", "origin")
    @classmethod
    def _is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        choices = LABELS if info.field_name == "label" else ORIGINS
        if value is not None and value not in (*choices, *OLD_LABELS):
            raise UserError(
                f"unknown {info.field_name} {value!r}: choose one of {', '.join(choices)}"
            )
        return value

    @field_validator("where", mode="before")
    @classmethod
    def _is_safe(cls, where: Any) -> Any:
        if isinstance(where, str):
            where = parse_where(where)
        if not isinstance(where, Mapping | None):
            raise UserError(NO_OBJECT)
        _check_operators(where)
        return where

    @field_validator("sort")
    @classmethod
    def _is_a_column(cls, sort: str) -> str:
        name = sort.removeprefix("-")
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1) or [", ".join(COLUMNS)]
            raise UserError(f"cannot sort by {name!r}: choose {close[0]}")
        return sort

    @field_validator("limit")
    @classmethod
    def _is_positive(cls, limit: int | None) -> int | None:
        if limit is not None and limit < 1:
            raise UserError("the limit is a number of phases from 1")
        return limit

    @property
    def filter(self) -> dict[str, object]:
        """The question as a MongoDB filter."""
        symbols = {"$eq": self.elements, "$all": self.containing}
        most, engine, campaigns = self.max_e_above_hull, self.engine, self.campaign
        beginnings = (campaigns,) if isinstance(campaigns, str) else campaigns or ()
        asked = {
            "formula": self.formula,
            "elements": {how: list(these) for how, these in symbols.items() if these is not None}
            or None,
            "e_above_hull": None if most is None else {"$lte": most},
            "label": self.label if self.label in get_args(NoPlace) else None,
            "campaign": None
            if campaigns is None
            else {"$regex": f"^({'|'.join(map(re.escape, beginnings))})"},
            "origin.kind": self.origin,
            "origin.source": self.source,
            "level_of_theory.engine": None
            if engine is None
            else {"$regex": f"^{re.escape(engine)}$", "$options": "i"},
            "distinct": self.distinct,
        }
        query: dict[str, object] = {k: v for k, v in asked.items() if v is not None}
        parts = [part for part in (query, self._near, dict(self.where or {})) if part]
        return {"$and": parts} if len(parts) > 1 else dict(*parts)

    @property
    def _near(self) -> dict[str, object]:
        """What a label of a place on the hull asks for; earlier versions have stored others."""
        if self.label not in PLACES:
            return {}
        if self.label in OLD_LABELS:
            return {"label": {"$nin": list(get_args(NoPlace))}, **PLACES[self.label]}
        old = {"label": {"$in": list(OLD_LABELS)}, **PLACES[self.label]}
        return {"$or": [{"label": self.label}, old]}

    @property
    def order(self) -> dict[str, Sort | int]:
        """Sorting by a column; the same everywhere where phases are equal in it."""
        name = self.sort.removeprefix("-")
        direction = Sort.Ascending if name == self.sort else Sort.Descending
        return {COLUMNS[name].path: direction, "uid": Sort.Ascending}


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
            store: Any = embedded_store(workdir)
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
        self, query: PhaseQuery | None = None, *, structures: bool = True, **asked: Any
    ) -> list[Mapping[str, Any]]:
        """Stored documents of the phases that a question is about.

        Parameters
        ----------
        query, asked
            The question, or fields of a `PhaseQuery`.
        structures
            Whether the documents hold their structures.

        Raises
        ------
        UserError
            A value cannot be asked for, or the store does not understand the free filter.
        """
        query = self._by_digest(query or PhaseQuery.of(asked))
        hidden = {"_id": 0} if structures else {"_id": 0, "structure": 0}
        store = self._asked(query)
        with _explained(query.where):
            found = store.query(
                query.filter, properties=hidden, sort=query.order, limit=query.limit or 0
            )
            return [relabelled(p) for p in found if query.label == FAILED or is_phase(p)]

    def phases(self, query: PhaseQuery | None = None, **asked: Any) -> list[Phase]:
        """The phases that a question is about, as `find` takes it."""
        return [Phase.model_validate(p) for p in self.find(query, **asked)]

    def count(self, query: PhaseQuery | None = None, **asked: Any) -> int:
        """How many phases a question is about, whatever its limit."""
        query = self._by_digest(query or PhaseQuery.of(asked))
        with _explained(query.where):
            return int(self._asked(query).count(query.filter))

    def frame(self, query: PhaseQuery | None = None, **asked: Any) -> pd.DataFrame:
        """The phases as a table with the columns of `COLUMNS`, as `find` takes the question."""
        return as_frame(self.find(query, structures=False, **asked))

    def hull(self, query: PhaseQuery | None = None, **asked: Any) -> Figure:
        """The convex hull of one campaign, as a figure of plotly; `find` takes the question.

        Raises
        ------
        UserError
            The phases are of several campaigns, or there are none.
        """
        from plotly.graph_objects import Figure

        from ccdcgan.launchers.report.hull import hull_figure

        found = self.find(query, **asked)
        systems = {(str(p["campaign"]), str(p["system"])) for p in found}
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


def parse_where(text: str) -> Mapping[str, Any]:
    """A free filter from JSON.

    Raises
    ------
    UserError
        The text is no JSON object.
    """
    try:
        where = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise UserError(f"the free filter is not valid JSON: {reason}") from None
    if not isinstance(where, dict):
        raise UserError(NO_OBJECT)
    return where


def reduced_formula(formula: str) -> str:
    """A formula in any multiple and order, reduced.

    Raises
    ------
    UserError
        It is none.
    """
    try:
        composition = Composition(formula)
        if not composition or not all(isinstance(e, Element) for e in composition):
            raise ValueError("no elements")
        whole = composition.get_integer_formula_and_factor()[0]
        return str(Composition(whole).reduced_formula)
    except Exception:  # noqa: BLE001  pymatgen raises many kinds on what is no formula
        raise UserError(f"{formula!r} is no formula such as Bi2Se3") from None


def _symbols(elements: str | Sequence[str]) -> list[str]:
    parts = re.split(r"[-–,\s]+", elements.strip()) if isinstance(elements, str) else elements
    for symbol in parts:
        if not Element.is_valid_symbol(symbol):
            raise UserError(f"unknown element {symbol!r}: write elements as in Bi-Se")
    return sorted(set(parts))


def _check_operators(where: Any, depth: int = 0) -> None:
    if depth > 50:
        raise UserError("the free filter is nested too deeply")
    if isinstance(where, Mapping):
        if depth and not where:
            # Each store understands it in its own way.
            raise UserError("the free filter has an empty condition: {}")
        for key, value in where.items():
            if str(key).startswith("$") and key not in OPERATORS:
                raise UserError(f"{key} is not for free filters: these know {', '.join(OPERATORS)}")
            _check_operators(value, depth + 1)
    elif isinstance(where, list):
        for value in where:
            _check_operators(value, depth + 1)


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
