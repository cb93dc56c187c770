"""Mistakes of users, each in one line."""

from __future__ import annotations

import errno
import sqlite3

from ccdcgan.dft.errors import UserError

#: Options by which commands are told of a campaign's folder; others take it as their argument.
FOLDERS = ("--workdir", "--campaign")


def hint_of(error: BaseException) -> str:
    """What a wrong option or argument was meant to be, where commands name the folder otherwise."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    params = getattr(command, "params", ())
    if getattr(error, "option_name", None) in FOLDERS:
        if any(p.param_type_name == "argument" and p.name.startswith("folder") for p in params):
            return ": give the folder without it"
        # `evaluate` and `known` are of a campaign; the argument of others is something else.
        if any("--campaign" in p.opts and p.name == "campaign" for p in params):
            return ": give it as --campaign FOLDER"
    takes_folder = any("--workdir" in p.opts for p in params)
    return (
        ": give a folder as --workdir FOLDER" if takes_folder and "extra arg" in str(error) else ""
    )


def explain(error: BaseException) -> str | None:
    """One line for an error that the user can mend, or None for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"{name}the disk is full: free space and run the same command again"
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return f"{name}no permission to write: choose another folder"
        if error.filename and error.strerror:
            return f"{name}{error.strerror}: choose another path"
    if type(error).__module__.startswith("pydantic") and type(error).__name__ == "ValidationError":
        # Files of users are read with care: this one comes out of a store.
        first = error.errors(include_url=False)[0]  # type: ignore[attr-defined]
        place = ".".join(map(str, first["loc"]))
        return f"a stored document is damaged: {error.title}: {place}: {first['msg']}"  # type: ignore[attr-defined]
    if type(error).__module__.startswith("pymongo"):
        from ccdcgan.launchers.cluster.database import explain as explain_database

        return explain_database(error)  # type: ignore[arg-type]
    if (
        type(error).__module__.startswith("ruamel")
        or type(error).__name__ == "FWConfigurationError"
    ):
        # Our own files are read with care; FireWorks reads its settings when it is imported.
        said = " ".join(str(error).split())[:200]
        return (
            f"FireWorks cannot read its settings, FW_config.yaml in this folder or in ~/.fireworks "
            f"({said}): mend them, or move them away"
        )
    if isinstance(error, sqlite3.OperationalError):
        return (
            f"the embedded database cannot be written ({error}): is the disk full or read-only? "
            "Mend that and run the same command again"
        )
    if isinstance(error, sqlite3.DatabaseError):
        return (
            f"the embedded database is damaged ({error}): put a copy of the folder's store/ in its "
            "place, or run the campaign in another folder"
        )
    return None
