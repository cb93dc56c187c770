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
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from maggma.core import Sort, Store
from maggma.stores import MemoryStore
from pydantic import ValidationError
from pymatgen.core import Composition, Element
from pymongo.errors import OperationFailure, PyMongoError

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.archives import Member, members
from ccdcgan.launchers.results.columns import COLUMNS, LABELS, ORIGINS, as_frame
from ccdcgan.launchers.workdir import CAMPAIGN_FILE, can_open, embedded_store
from ccdcgan.workflows.storage.stores import PHASES, RESULTS, phase_document

if TYPE_CHECKING:
    import pandas as pd

    from ccdcgan.launchers.cluster.settings import Cluster

#: Label of what has no result; relaxations have it, not phases.
FAILED = "failed"

#: Operators of free filters: those that both kinds of store have, none of which runs code.
OPERATORS = (
    *("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"),
    *("$and", "$or", "$nor", "$not", "$exists", "$type"),
    *("$all", "$elemMatch", "$size", "$mod", "$regex", "$options"),
)


class Filters(TypedDict, total=False):
    """The keyword arguments of `phase_filter`, which `Results` takes too."""

    formula: str | None
    elements: str | Sequence[str] | None
    containing: str | Sequence[str] | None
    max_e_above_hull: float | None
    label: str | None
    campaign: str | None
    origin: str | None
    engine: str | None
    distinct: bool | None
    where: Mapping[str, Any] | None


def phase_filter(
    *,
    formula: str | None = None,
    elements: str | Sequence[str] | None = None,
    containing: str | Sequence[str] | None = None,
    max_e_above_hull: float | None = None,
    label: str | None = None,
    campaign: str | None = None,
    origin: str | None = None,
    engine: str | None = None,
    distinct: bool | None = None,
    where: Mapping[str, Any] | None = None,
) -> dict[str, object]:
    """The MongoDB filter of a question; what is None is not asked.

    Parameters
    ----------
    formula
        In any multiple and order: Se3Bi2 asks for Bi2Se3.
    elements, containing
        Exactly these elements, at least these: ``Bi-Se`` or symbols.
    max_e_above_hull
        Largest distance to the hull, eV/atom.
    label
        stable, metastable (and not stable), unstable, not converged (on its way, with an energy),
        untrusted, or failed: all that has not converged, also without an energy, which no other
        question finds.
    campaign
        Digest of a campaign, or its beginning.
    origin
        element, reference, prototype, generated or adopted.
    engine
        Name of what computed the energies, in upper or lower case.
    distinct
        Only those that match no earlier phase of their campaign, or only those that do.
    where
        A filter in MongoDB's language, beside the others; nothing that runs code.

    Raises
    ------
    UserError
        A value cannot be asked for; the message says what can.
    """
    query: dict[str, object] = {}
    if formula is not None:
        query["formula"] = reduced_formula(formula)
    symbols = {"$eq": elements, "$all": containing}
    if wanted := {how: _symbols(these) for how, these in symbols.items() if these is not None}:
        query["elements"] = wanted
    if max_e_above_hull is not None:
        if not math.isfinite(max_e_above_hull):
            raise UserError("the largest distance to the hull is a number of eV/atom")
        query["e_above_hull"] = {"$lte": max_e_above_hull}
    if label is not None:
        query["label"] = _one_of(LABELS, label, "label")
    if campaign is not None:
        query["campaign"] = {"$regex": f"^{re.escape(campaign)}"}
    if origin is not None:
        query["origin.kind"] = _one_of(ORIGINS, origin, "origin")
    if engine is not None:
        query["level_of_theory.engine"] = {"$regex": f"^{re.escape(engine)}$", "$options": "i"}
    if distinct is not None:
        query["distinct"] = distinct
    return query if where is None else _both(query, where)


def _both(query: dict[str, object], where: Mapping[str, Any]) -> dict[str, object]:
    """A filter, and a free one beside it."""
    if not isinstance(where, Mapping):
        raise UserError('a free filter is a JSON object, such as {"nsites": {"$lte": 8}}')
    _check_operators(where)
    return {"$and": [query, dict(where)]} if query and where else {**query, **where}


class Results:
    """The phases of campaigns, in a folder or on a cluster.

    Parameters
    ----------
    store
        maggma store of the phases.
    relaxations
        maggma store of the relaxations, which has what failed.
    """

    def __init__(self, store: Store, relaxations: Store | None = None) -> None:
        self._store, self._relaxations = store, relaxations
        store.connect()

    @classmethod
    def in_folder(cls, workdir: Path) -> Results:
        """The phases of the campaign in a folder.

        Raises
        ------
        UserError
            The folder holds no campaign, or one without phases as yet.
        """
        workdir = workdir.resolve()
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
            return cls(_read(file, workdir))
        raise UserError(f"{workdir} has no phases yet: the first come with its database")

    @classmethod
    def on_cluster(cls, settings: Cluster) -> Results:
        """The phases of all campaigns of a cluster.

        Raises
        ------
        UserError
            The database cannot be reached; one line, in which no password is.
        """
        settings.stores.results.ping()
        return cls(settings.store_of(PHASES), settings.store_of(RESULTS))

    def find(
        self,
        *,
        sort: str = "e_above_hull",
        limit: int | None = None,
        structures: bool = True,
        **filters: Unpack[Filters],
    ) -> list[Mapping[str, Any]]:
        """Stored documents of the phases that pass all filters of `phase_filter`.

        Parameters
        ----------
        sort
            A column of `COLUMNS`; with a leading ``-``, the largest first.
        limit
            Most phases.
        structures
            Whether the documents hold their structures.

        Raises
        ------
        UserError
            A value cannot be asked for, or the store does not understand the free filter.
        """
        query, order = phase_filter(**filters), _order(sort)
        if limit is not None and limit < 1:
            raise UserError("the limit is a number of phases from 1")
        hidden = {"_id": 0} if structures else {"_id": 0, "structure": 0}
        store = self._asked(filters)
        with _explained(filters.get("where")):
            found = store.query(query, properties=hidden, sort=order, limit=limit or 0)
            return [p for p in found if filters.get("label") == FAILED or _is_phase(p)]

    def count(self, **filters: Unpack[Filters]) -> int:
        """How many phases pass all filters of `phase_filter`."""
        query, store = phase_filter(**filters), self._asked(filters)
        with _explained(filters.get("where")):
            return int(store.count(query))

    def _has_failures(self) -> bool:
        if self._relaxations is None:
            return False
        self._relaxations.connect()
        return self._relaxations.query_one({"converged": False}) is not None

    def _asked(self, filters: Filters) -> Store:
        """The store of what is asked for."""
        if filters.get("label") != FAILED:
            return self._store
        if self._relaxations is None:
            raise UserError(
                "what failed is in the store of the campaign: ask its own folder, which takes the "
                "right to write there, or its cluster with --config; report.html lists it, too"
            )
        from ccdcgan.launchers.results.failed import failed_phases

        self._relaxations.connect()
        mine = phase_filter(campaign=filters.get("campaign"))
        return failed_phases(self._relaxations, self._store, mine)

    def frame(
        self, *, sort: str = "e_above_hull", limit: int | None = None, **filters: Unpack[Filters]
    ) -> pd.DataFrame:
        """The phases as a table with the columns of `COLUMNS`, as `find` chooses them."""
        return as_frame(self.find(sort=sort, limit=limit, structures=False, **filters))


def _is_phase(phase: Any) -> bool:
    """Whether a stored document has what every phase has.

    Versions before this one have published energies that are no numbers, and a database may be
    written by others.
    """
    if not isinstance(phase, Mapping):
        return False
    energy = phase.get("energy_per_atom")
    if not isinstance(energy, (int, float)) or not math.isfinite(energy):
        return False
    try:
        LevelOfTheory.model_validate(phase.get("level_of_theory"))
    except ValidationError:
        return False
    return isinstance(phase.get("formula"), str) and isinstance(phase.get("id"), str)


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
        raise UserError('a free filter is a JSON object, such as {"nsites": {"$lte": 8}}')
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


def _one_of(choices: Sequence[str], value: str, name: str) -> str:
    if value not in choices:
        raise UserError(f"unknown {name} {value!r}: choose one of {', '.join(choices)}")
    return value


def _order(sort: str) -> dict[str, Sort | int]:
    """Sorting by a column; the same everywhere where phases are equal in it."""
    name = sort.removeprefix("-")
    if name not in COLUMNS:
        close = difflib.get_close_matches(name, COLUMNS, n=1) or [", ".join(COLUMNS)]
        raise UserError(f"cannot sort by {name!r}: choose {close[0]}")
    direction = Sort.Ascending if name == sort else Sort.Descending
    return {COLUMNS[name].path: direction, "uid": Sort.Ascending}


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


def _content(file: Path) -> bytes:
    """A packed file's content, within the limits of what is unpacked."""
    for member in members(file):
        if isinstance(member, Member):
            return member.load()
        raise ValueError(member.reason)
    raise ValueError("it is empty")


def _read(file: Path, workdir: Path) -> Store:
    """The phases of phases.json.gz in a store, as those that have an energy are in a database."""
    from ccdcgan.workflows.campaign import load_campaign

    try:
        phases = json.loads(_content(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    campaign = load_campaign(workdir / CAMPAIGN_FILE)
    digest, system = campaign.digest(), "-".join(sorted(campaign.elements))
    listed = phases if isinstance(phases, list) else []
    try:
        documents = [phase_document(p, digest, system) for p in listed if _is_phase(p)]
    except UserError as error:
        raise UserError(f"{file} holds a phase that is none: {error}") from None
    store = MemoryStore(PHASES, key="uid")
    store.connect()
    if documents:
        store._collection.insert_many(list({d["uid"]: d for d in reversed(documents)}.values()))
    return store
