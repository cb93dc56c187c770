"""MongoDB's language of queries for documents that lie in files: filters, projections, updates.

What a filter means, and in which order values sort, is mongomock's knowledge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import bson
from bson import ObjectId
from mongomock_ng.filtering import NOTHING, filter_applies, iter_key_candidates, resolve_sort_key
from pymongo.errors import OperationFailure

#: A document as MongoDB and maggma take it and give it: anything may stand in one.
Document = dict[str, Any]
#: MongoDB's code of an error: a unique index has the value already.
DUPLICATE_KEY = 11000

#: What stands in an index, in sqlite's types; MongoDB's null is empty bytes.
Value = str | int | float | bytes

#: Operators of lists of filters.
COMBINING = frozenset({"$and", "$or", "$nor"})

#: Bytes of BSON's values, by the byte that names their type; see bsonspec.org.
_FIXED = {
    **{0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8},
    **{0x13: 16, 0x7F: 0, 0xFF: 0},
}
#: Bytes beside those that its length counts, of types that begin with one.
_COUNTED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0D: 4, 0x0E: 4, 0x0F: 0}


class Filter:
    """A filter of documents.

    Parameters
    ----------
    query
        In MongoDB's language; None for all documents.

    Raises
    ------
    OperationFailure
        It is not understood, or would run code.
    """

    def __init__(self, query: Mapping[str, Any] | None) -> None:
        # Tuples, dates with a time zone and the like become what is read from a store.
        self._query: Document = bson.decode(bson.encode(query or {}))
        _check(self._query)
        filter_applies(self._query, {})

    def __call__(self, document: Document) -> bool:
        return not self._query or bool(filter_applies(self._query, document))

    @property
    def fields(self) -> Set[str] | None:
        """Fields at the top of a document that decide; None for all of them."""
        return _fields(self._query)

    def split(self, indexes: Set[str]) -> tuple[list[tuple[str, list[Value]]], Filter]:
        """What indexes answer: fields, and values of which they hold one; and the filter's rest."""
        rest = Filter(None)
        answered: list[tuple[str, list[Value]]] = []
        rest._query = _split(self._query, indexes, answered)
        return answered, rest


class Projection:
    """Parts of documents, those that are named or all others.

    Parameters
    ----------
    fields
        With 1 what is kept, or with 0 what is left out; a list keeps. Nothing for all.
    """

    def __init__(self, fields: Mapping[str, Any] | Sequence[str] | None) -> None:
        named = dict(fields) if isinstance(fields, Mapping) else dict.fromkeys(fields or (), 1)
        if not all(isinstance(kept, (int, float)) for kept in named.values()):
            raise OperationFailure("a projection names fields with 1 or 0")
        self._with_id = bool(named.get("_id", True))
        kinds = {bool(kept) for name, kept in named.items() if name != "_id"}
        if len(kinds) > 1:
            raise OperationFailure("a projection cannot both keep fields and leave fields out")
        self._keeps = kinds.pop() if kinds else "_id" in named and self._with_id
        named.pop("_id", None)
        self._tree: dict[str, Any] = {}
        for path in named:
            *parents, last = path.split(".")
            place = self._tree
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = {}

    def __call__(self, document: Document) -> Document:
        found = _projected(document, self._tree, self._keeps)
        if self._with_id and "_id" in document:
            return {"_id": document["_id"], **found}
        found.pop("_id", None)
        return found

    def needed(self, queried: Set[str] | None, sorted_by: Sequence[str]) -> Needed:
        """Fields at the top that a question reads: a filter's fields, those to sort by, and these.

        Parameters
        ----------
        queried
            As `Filter.fields`.
        """
        if queried is None:
            return Needed()
        asked = {*queried, *(field.split(".")[0] for field in sorted_by)}
        if self._keeps:
            return Needed({"_id", *self._tree, *asked})
        return Needed(without={name for name, below in self._tree.items() if not below} - asked)


@dataclass(frozen=True)
class Needed:
    """Fields at the top of a document: only some, if any are named, and without others."""

    only: Set[str] | None = None
    without: Set[str] = frozenset()

    def __contains__(self, name: object) -> bool:
        return name not in self.without and (self.only is None or name in self.only)


def ordered_by(
    documents: Iterable[Document], order: Sequence[tuple[str, int]]
) -> Iterator[Document]:
    """Documents in the order of fields, each with 1 or -1, as MongoDB compares values."""
    found = list(documents)
    for field, direction in reversed(order):
        found.sort(key=partial(resolve_sort_key, field), reverse=direction < 0)
    return iter(found)


def values_at(document: Document, field: str) -> Iterator[Any]:
    """Values that a dotted path leads to, of arrays their elements."""
    for found in iter_key_candidates(field, document):
        for value in found if isinstance(found, list) else [found]:
            if value is not NOTHING:
                yield value


def indexed(document: Document, field: str) -> set[Value]:
    """What an index of a field holds of a document: null, too, where the field is missing."""
    found = list(iter_key_candidates(field, document))
    values = {_value(value) for value in values_at(document, field)}
    if not found or NOTHING in found:
        values.add(_value(None))
    return {value for value in values if value is not None}


def updated(document: Document, update: Mapping[str, Mapping[str, Any]]) -> Document:
    """A document after ``$set`` and ``$unset``, which go into dictionaries."""
    if set(update) - {"$set", "$unset"}:
        raise OperationFailure("an update has $set and $unset")
    document = copy(document)
    for operator, fields in update.items():
        for path, value in fields.items():
            *parents, last = path.split(".")
            place = document
            for name in parents:
                place[name] = copy(place.get(name, {}))
                place = place[name]
            if operator == "$set":
                place[last] = value
            else:
                place.pop(last, None)
    return document


def decode(data: bytes, needed: Needed) -> Document:
    """Fields of a document from its BSON; what is not needed is passed over, not decoded."""
    if needed == Needed():
        return bson.decode(data)
    parts, at = [], 4
    while kind := data[at]:
        end_of_name = data.index(0, at + 1)
        end = end_of_name + 1
        if kind in _FIXED:
            end += _FIXED[kind]
        elif kind in _COUNTED:
            end += _COUNTED[kind] + int.from_bytes(data[end : end + 4], "little")
        else:
            return {k: v for k, v in bson.decode(data).items() if k in needed}
        if data[at + 1 : end_of_name].decode() in needed:
            parts.append(data[at:end])
        at = end
    body = b"".join(parts)
    return bson.decode((len(body) + 5).to_bytes(4, "little") + body + b"\0")


def _check(value: Any) -> None:
    if isinstance(value, Mapping):
        if "$where" in value:
            raise OperationFailure("$where is not for filters: it would run code")
        for name in COMBINING & value.keys():
            if not isinstance(value[name], list):
                raise OperationFailure(f"{name} needs an array")
    if isinstance(value, (Mapping, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            _check(part)


def _fields(query: Mapping[str, Any]) -> set[str] | None:
    names: set[str] = set()
    for key, value in query.items():
        if not key.startswith("$"):
            names.add(key.split(".")[0])
        elif key in COMBINING:
            for part in value:
                if (below := _fields(part)) is None:
                    return None
                names |= below
        else:
            return None
    return names


def _split(query: Document, indexes: Set[str], answered: list[tuple[str, list[Value]]]) -> Document:
    """What of a filter is left without what indexes answer, which is added to the list."""
    rest: Document = {}
    for key, wanted in query.items():
        if key == "$and":
            parts = [_split(part, indexes, answered) for part in wanted]
            if any(parts):
                rest[key] = parts
        elif key in indexes and (values := _choices(wanted)) is not None:
            answered.append((key, values))
        else:
            rest[key] = wanted
    return rest


def _choices(wanted: Any) -> list[Value] | None:
    """Values of which a field must have one; None where an index cannot tell."""
    choices = [wanted]
    if isinstance(wanted, Mapping) and set(wanted) in ({"$eq"}, {"$in"}):
        choices = wanted.get("$in", [wanted.get("$eq")])
    values = [_value(choice) for choice in choices]
    return None if None in values else [value for value in values if value is not None]


def _value(value: Any) -> Value | None:
    """A value for an index; None for what no index knows, such as documents and dates."""
    if value is None:
        return b""
    if isinstance(value, ObjectId):
        return value.binary
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, (str, int, float)) else None


def _projected(document: Document, tree: Mapping[str, Any], keeps: bool) -> Document:
    found: Document = {}
    for name, value in document.items():
        below = tree.get(name)
        if below:
            parts = _below(value, below, keeps)
            if parts is not NOTHING:
                found[name] = parts
        elif (below is not None) == keeps:
            found[name] = value
    return found


def _below(value: Any, tree: Mapping[str, Any], keeps: bool) -> Any:
    if isinstance(value, dict):
        return _projected(value, tree, keeps)
    if isinstance(value, list):
        parts = [_below(part, tree, keeps) for part in value]
        return [part for part in parts if part is not NOTHING]
    return NOTHING if keeps else value
