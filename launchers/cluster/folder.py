"""The folder on the shared disk, which belongs to one database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import write_atomically
from ccdcgan.launchers.cluster.database import MARK
from ccdcgan.launchers.cluster.settings import Cluster

#: File in it that names its database.
OWNER = "database.json"


def claim_folder(cluster: Cluster) -> None:
    """Note which database a folder belongs to, before anything is written into it or taken from it.

    What waits in it on its way into one database must not get into another.

    Raises
    ------
    UserError
        It belongs to another one.
    """
    database = cluster.launchpad
    handle = database.handle()
    with handle.client:
        claim(cluster.root, handle, database.server)


def claim(root: Path, handle: Any, server: str) -> None:
    """See `claim_folder`; for a handle of the database and where its server is."""
    mark = handle[MARK].find_one({"_id": MARK}) or {}
    # By what is in the database, as addresses change; none before the first submission.
    made = str(mark["created_at"]) if "created_at" in mark else None
    path = root / OWNER
    try:
        there = json.loads(path.read_text())
        same = (there["database"], there["made"]) == (handle.name, made)
        name = f"{there['database']!r} of {there['server']}"
    except (OSError, ValueError, LookupError, TypeError):
        # There is none, or it was cut short.
        if made:
            root.mkdir(parents=True, exist_ok=True)
            here = {"database": handle.name, "server": server, "made": made}
            write_atomically(path, json.dumps(here))
        return
    if not same:
        raise UserError(
            f"folder {root} belongs to database {name}, not to {handle.name!r} of {server}: choose "
            f"another folder in my_fireworks.yaml (or remove {path} if that database is no more)"
        )
