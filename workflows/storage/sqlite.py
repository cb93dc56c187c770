"""A maggma store in a sqlite file: documents as in MongoDB, found by indexes.

Every document is a row of BSON. What its indexed fields hold stands beside in a table by field,
value and row, which each write keeps true within its transaction. A filter is first narrowed down
by indexes; what is left is looked at as MongoDB would.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import bson
from bson import ObjectId
from bson.errors import InvalidDocument
from maggma.stores import MemoryStore
from monty.json import jsanitize
from pymongo.errors import BulkWriteError, DuplicateKeyError

from ccdcgan.dft.errors import UserError
from ccdcgan.workflows.storage.connections import File
from ccdcgan.workflows.storage.language import (
    DUPLICATE_KEY,
    Document,
    Filter,
    Needed,
    Projection,
    Value,
    decode,
    indexed,
    ordered_by,
    updated,
    values_at,
)

#: Version of the tables.
FORMAT = 1

#: Documents that are read at a time, and values that are given to sqlite one by one.
BATCH, MARKS = 100, 1000


class NoCollectionError(LookupError):
    """A file that is only read does not have a collection of this name."""


class Collection:
    """Documents in a sqlite file, with those of PyMongo's methods that maggma's stores call.

    Raises
    ------
    UserError
        A later version has written the file.
    """

    def __init__(self, file: File, name: str) -> None:
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"{name!r} is no name of a collection")
        self._file, self._name = file, name
        version = file.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            raise UserError(f"{file.path} was written by a later version of ccdcgan: use that")
        tables = "SELECT 1 FROM sqlite_master WHERE name = ?"
        if not file.connection.execute(tables, (name,)).fetchone():
            if file.read_only:
                raise NoCollectionError(name)
            self._create_tables()
        self._indexes = self._read_indexes()

    def find(
        self,
        filter: Mapping[str, Any] | None = None,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        skip: int = 0,
        limit: int = 0,
        sort: Sequence[tuple[str, int]] | None = None,
        hint: object = None,
    ) -> Iterator[Document]:
        """Documents that a filter applies to, as they came or sorted."""
        query, parts, order = Filter(filter), Projection(projection), sort or ()
        needed = parts.needed(query.fields, [field for field, _ in order])
        found: Iterator[Document] = (document for _, document in self._matching(query, needed))
        if order:
            found = ordered_by(found, order)
        for document in islice(found, skip, skip + limit if limit else None):
            yield parts(document)

    def count_documents(self, filter: Mapping[str, Any], hint: object = None) -> int:
        """Number of the documents that a filter applies to."""
        query = Filter(filter)
        return sum(1 for _ in self._matching(query, Needed(query.fields)))

    def estimated_document_count(self) -> int:
        """Number of all documents."""
        return len(self._rows([]))

    def numbers(self, filter: Mapping[str, Any] | None = None) -> list[int]:
        """Numbers of documents, from the oldest, for a filter that indexes answer.

        A document that is changed in place keeps its number; another one never has it.
        """
        answered, rest = Filter(filter or {}).split(self._indexes.keys())
        if rest.fields != set():
            raise ValueError("no index answers the filter")
        if answered:
            return self._rows(answered)
        # The table of the documents themselves is large.
        select = f'SELECT id FROM "{self._name}.index" WHERE field = ? ORDER BY id'
        return [row for (row,) in self._file.connection.execute(select, ("_id",))]

    def numbered(self, numbers: Sequence[int], projection: Sequence[str]) -> dict[int, Document]:
        """Documents by their numbers, from the oldest; without those that are gone."""
        parts = Projection(projection)
        found = self._read(sorted(numbers), parts.needed(set(), []))
        return {number: parts(document) for number, document in found}

    def distinct(self, field: str, filter: Mapping[str, Any] | None = None) -> list[Any]:
        """Values of a field, of arrays their elements."""
        found: dict[bytes, Any] = {}
        for document in self.find(filter, [field]):
            for value in values_at(document, field):
                # Equal numbers are one value, whether whole or not.
                whole = isinstance(value, int) and not isinstance(value, bool)
                found.setdefault(bson.encode({"": float(value) if whole else value}), value)
        return list(found.values())

    def insert_many(self, documents: Sequence[Mapping[str, Any]], ordered: bool = True) -> None:
        """Store documents in one go; with ``ordered``, none after one that is refused.

        Raises
        ------
        BulkWriteError
            A unique index refuses some of them.
        """
        refused = []
        with self._writing() as connection:
            for number, document in enumerate(documents):
                try:
                    self._write(connection, None, document)
                except DuplicateKeyError as error:
                    refused.append({"index": number, "code": DUPLICATE_KEY, "errmsg": str(error)})
                    if ordered:
                        break
        if refused:
            raise BulkWriteError({"writeErrors": refused, "writeConcernErrors": []})

    def replace(self, documents: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
        """Store documents in one go, each in place of one that has the same in these fields."""
        with self._writing() as connection:
            for document in documents:
                query = Filter({field: document[field] for field in fields})
                there = self._matching(query, Needed({"_id", *(query.fields or ())}))
                row, before = next(there, (None, {}))
                own = {"_id": before["_id"]} if before else {}
                self._write(connection, row, {**document, **own})

    def update_many(
        self, filter: Mapping[str, Any], update: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Set and remove fields of the documents that a filter applies to."""
        query = Filter(filter)
        with self._writing() as connection:
            for row, document in self._matching(query, Needed()):
                self._write(connection, row, updated(document, update))

    def delete_many(self, filter: Mapping[str, Any]) -> None:
        """Remove the documents that a filter applies to."""
        query = Filter(filter)
        with self._writing() as connection:
            for row, _ in self._matching(query, Needed(query.fields)):
                for table in (self._name, f"{self._name}.index"):
                    connection.execute(f'DELETE FROM "{table}" WHERE id = ?', (row,))

    def create_index(self, field: str, unique: bool = False, background: bool = True) -> None:
        """Index a field, for everybody who opens the file; an index that is there stays.

        Raises
        ------
        DuplicateKeyError
            It is to be unique and is not.
        """
        with self._writing() as connection:
            if field not in self._indexes:
                values = (self._name, field, unique)
                connection.execute("INSERT INTO indexes VALUES (?, ?, ?)", values)
                for row, document in self._matching(Filter(None), Needed({field.split(".")[0]})):
                    self._index(
                        connection, row, self._entries(connection, document, {field: unique})
                    )
        self._indexes = self._read_indexes()

    def index_information(self) -> dict[str, Document]:
        """Indexes as PyMongo describes them."""
        return {f"{field}_1": {"key": [(field, 1)]} for field in self._indexes}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _create_tables(self) -> None:
        table = f"{self._name}.index"
        with self._file.writing() as connection:
            for definition in (
                "indexes (collection TEXT, field TEXT, is_unique INTEGER, "
                "PRIMARY KEY (collection, field))",
                # Of one that is removed while somebody reads, the row is never another's.
                f'"{self._name}" (id INTEGER PRIMARY KEY AUTOINCREMENT, document BLOB NOT NULL)',
                f'"{table}" (field TEXT, value, id INTEGER, PRIMARY KEY (field, value, id)) '
                "WITHOUT ROWID",
            ):
                connection.execute(f"CREATE TABLE IF NOT EXISTS {definition}")
            connection.execute(f'CREATE INDEX IF NOT EXISTS "{table}.id" ON "{table}" (id)')
            connection.execute("INSERT OR IGNORE INTO indexes VALUES (?, '_id', 1)", (self._name,))
            connection.execute(f"PRAGMA user_version = {FORMAT}")

    def _read_indexes(self) -> dict[str, bool]:
        """Indexed fields in the order in which they were declared, and which are unique."""
        select = "SELECT field, is_unique FROM indexes WHERE collection = ? ORDER BY rowid"
        found = self._file.connection.execute(select, (self._name,))
        return {field: bool(unique) for field, unique in found}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._file.writing() as connection:
            # Somebody may have added some: every writer serves all.
            self._indexes = self._read_indexes()
            yield connection

    def _matching(self, query: Filter, needed: Needed) -> Iterator[tuple[int, Document]]:
        """Rows and documents that a filter applies to; `needed` has the fields that it reads."""
        answered, rest = query.split(self._indexes.keys())
        for row, document in self._read(self._rows(answered), needed):
            if rest(document):
                yield row, document

    def _read(self, rows: Sequence[int], needed: Needed) -> Iterator[tuple[int, Document]]:
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            select = f'SELECT id, document FROM "{self._name}" WHERE id IN ({_marks(some)})'
            found = self._file.connection.execute(f"{select} ORDER BY id", some).fetchall()
            for row, data in found:
                yield row, decode(data, needed)

    def _rows(self, wanted: Iterable[tuple[str, list[Value]]]) -> list[int]:
        """Rows of the documents that have one of the values in each of the indexed fields."""
        table = f'"{self._name}.index"'
        conditions: list[str] = []
        parameters: list[Any] = []
        rank = list(self._indexes)
        for field, values in sorted(wanted, key=lambda pair: rank.index(pair[0])):
            marks = _marks(values)
            if len(values) > MARKS and all(isinstance(value, str) for value in values):
                marks, values = "SELECT value FROM json_each(?)", [json.dumps(values)]
            condition = f"field = ? AND value IN ({marks})"
            if conditions:
                condition = f"EXISTS (SELECT 1 FROM {table} WHERE id = one.id AND {condition})"
            conditions.append(condition)
            parameters += [field, *values]
        select = f'SELECT id FROM "{self._name}" ORDER BY id'
        if conditions:
            chosen = " AND ".join(conditions)
            select = f"SELECT DISTINCT id FROM {table} AS one WHERE {chosen} ORDER BY id"
        return [row for (row,) in self._file.connection.execute(select, parameters)]

    def _write(
        self, connection: sqlite3.Connection, row: int | None, document: Mapping[str, Any]
    ) -> None:
        data = _encoded({"_id": ObjectId(), **document})
        read = decode(data, Needed({field.split(".")[0] for field in self._indexes}))
        if row is not None:
            connection.execute(f'DELETE FROM "{self._name}.index" WHERE id = ?', (row,))
        entries = self._entries(connection, read, self._indexes)
        insert = f'INSERT OR REPLACE INTO "{self._name}" VALUES (?, ?)'
        row = connection.execute(insert, (row, data)).lastrowid
        self._index(connection, row, entries)

    def _entries(
        self, connection: sqlite3.Connection, document: Document, fields: Mapping[str, bool]
    ) -> list[tuple[str, Value]]:
        """Fields and values by which a document is found, or a DuplicateKeyError."""
        found = [(field, value) for field in fields for value in indexed(document, field)]
        select = f'SELECT 1 FROM "{self._name}.index" WHERE field = ? AND value = ?'
        for field, value in found:
            if fields[field] and connection.execute(select, (field, value)).fetchone():
                raise DuplicateKeyError(f"{field} of {self._name} is unique: {value!r}")
        return found

    def _index(
        self, connection: sqlite3.Connection, row: int | None, entries: list[tuple[str, Value]]
    ) -> None:
        insert = f'INSERT INTO "{self._name}.index" VALUES (?, ?, ?)'
        connection.executemany(insert, [(field, value, row) for field, value in entries])


class SqliteStore(MemoryStore):
    """Documents in a sqlite file, which other stores may share.

    Threads and processes may write at once. What `update` has stored is on the disk.

    Parameters
    ----------
    path
        The file; it is made where it is missing.
    collection_name
        Name of the store in the file.
    key
        Field that names a document.
    indexes, unique
        Fields by which documents are asked for, and those that no two documents have the same.
        The first that a question names should find the fewest.
    read_only
        Whether the file is only read; one that is not there is empty.
    """

    def __init__(
        self,
        path: str,
        collection_name: str,
        key: str = "task_id",
        indexes: Sequence[str] = (),
        unique: Sequence[str] = (),
        read_only: bool = False,
    ) -> None:
        super().__init__(collection_name, key=key)
        self._coll: Any = None
        self.path, self.indexes, self.unique = path, list(indexes), list(unique)
        self.read_only = read_only

    @property
    def name(self) -> str:
        """What is stored where."""
        return f"sqlite://{self.path}/{self.collection_name}"

    def connect(self, force_reset: bool = False) -> None:
        """Open the file."""
        is_there = isinstance(self._coll, Collection) if self.read_only else self._coll is not None
        if is_there and not force_reset:
            return
        path = Path(self.path)
        if self.read_only:
            try:
                if not path.exists():
                    raise NoCollectionError(self.collection_name)
                self._coll = Collection(File(path, read_only=True), self.collection_name)
            except NoCollectionError:
                super().connect()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._coll = Collection(File(path), self.collection_name)
        for field in (*self.unique, *self.indexes):
            self.ensure_index(field, unique=field in self.unique)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._coll, Collection):
            self._coll.close()
        self._coll = None

    def numbers(self, filter: Mapping[str, Any] | None = None) -> list[int]:
        """See `Collection`."""
        return self._coll.numbers(filter) if isinstance(self._coll, Collection) else []

    def numbered(self, numbers: Sequence[int], projection: Sequence[str]) -> dict[int, Document]:
        """See `Collection`."""
        is_there = isinstance(self._coll, Collection)
        return self._coll.numbered(numbers, projection) if is_there else {}

    def update(self, docs: list[Document] | Document, key: list[str] | str | None = None) -> None:
        """Store documents in one go, each in place of one with the same key.

        Parameters
        ----------
        key
            Field or fields to go by; by default the store's key.
        """
        fields = key or self.key
        documents = docs if isinstance(docs, list) else [docs]
        self._collection.replace(documents, [fields] if isinstance(fields, str) else fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SqliteStore) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(self.name)


def _encoded(document: Mapping[str, Any]) -> bytes:
    try:
        return bson.encode(document)
    except InvalidDocument:
        # It holds objects or arrays.
        plain = jsanitize(document, allow_bson=True, recursive_msonable=True)
        return bson.encode(plain)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
