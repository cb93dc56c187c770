"""Times of the embedded store beside other kinds of stores, at thousands of relaxations.

Usage: python benchmarks/store.py [--documents N] [--kinds sqlite,montydb,mongodb]

montydb is what the embedded store was made of before: pip install montydb. mongodb takes the
address CCDCGAN_MONGODB_URI, where a database is made and dropped, or starts the tests' SecantusDB.
Prints medians in milliseconds, and in brackets how many times that of sqlite.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymongo
from failures import CAMPAIGN, address, documents
from maggma.stores import MongoStore, MontyStore

from ccdcgan.launchers.workdir import embedded_store, relaxations_of
from ccdcgan.workflows.storage.stores import insert

#: Times that each is done.
REPEATS = 20


def opened(kind: str, folder: Path, stack: ExitStack) -> Any:
    """An empty store of relaxations, with the indexes that it has in use."""
    if kind == "sqlite":
        store = relaxations_of(embedded_store(folder))
    elif kind == "montydb":
        store = MontyStore(
            "relaxations", database_path=str(folder), database_name="ccdcgan", key="key"
        )
    else:
        uri, name = address(stack, folder), f"ccdcgan_benchmark_{uuid4().hex[:8]}"
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri)
        stack.callback(client.drop_database, name)
        store = MongoStore.from_uri(uri, "relaxations", database=name, key="key")
    store.connect()
    if kind == "mongodb":
        for field in ("key", "campaign", "converged"):
            store.ensure_index(field, unique=field == "key")
    return store


def median(action: Callable[[int], object], repeats: int = REPEATS) -> float:
    """Milliseconds."""
    times = []
    for number in range(repeats):
        start = time.perf_counter()
        action(number)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def figures(store: Any, stored: list[dict[str, Any]]) -> dict[str, float]:
    """Fill a store and ask it."""
    start = time.perf_counter()
    for first in range(0, len(stored), 500):
        insert(store, [dict(d) for d in stored[first : first + 500]])
    filled = 1000 * (time.perf_counter() - start) / len(stored)
    step = len(stored) // REPEATS
    fresh = [{**d, "key": f"new-{i}"} for i, d in enumerate(stored[:REPEATS])]
    campaign = {"campaign": CAMPAIGN.digest()}
    return {
        "filling, a document": filled,
        "read by key": median(lambda i: store.query_one({"key": stored[i * step]["key"]})),
        "write a new one": median(lambda i: store.update([fresh[i]], key="key")),
        "write in place": median(lambda i: store.update([stored[i * step]], key="key")),
        "failed of a campaign": median(
            lambda i: list(store.query({**campaign, "converged": False})), 3
        ),
        "all of a campaign": median(lambda i: list(store.query(campaign, ["key", "origin"])), 3),
    }


def main() -> None:
    """Measure each kind and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--kinds", default="sqlite,montydb")
    told = parser.parse_args()
    stored = [d.model_dump(mode="json") for d in documents(told.documents, told.documents // 20)]
    found: dict[str, dict[str, float]] = {}
    for kind in told.kinds.split(","):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ccdcgan-")))
            store = opened(kind, folder, stack)
            found[kind] = figures(store, stored)
            store.close()
            print(f"{kind} done", file=sys.stderr)
    first = next(iter(found.values()))
    print(f"{'ms, of ' + str(told.documents):24}", *(f"{kind:>20}" for kind in found))
    for what, base in first.items():
        cells = (f"{f[what]:.2f} ({f[what] / base:.1f})" for f in found.values())
        print(f"{what:24}", *(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
