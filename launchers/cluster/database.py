"""A MongoDB: its address, its answer, and its errors in a line."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pymongo import MongoClient
from pymongo.errors import (
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.uri_parser import parse_uri

from ccdcgan.dft.errors import UserError

#: Collection with what we know of the database itself, in one document.
MARK = "ccdcgan"

#: Milliseconds until a person is told that the database does not answer.
SOON = 5000

#: Names that MongoDB takes for a database.
DatabaseName = Annotated[str, Field(pattern=r"^[\w-]{1,63}$")]

#: How a failure of the name server begins, or what it says.
NAME_SERVER = re.compile(r"DNS|name ?server|resolution lifetime|SRV record", re.IGNORECASE)

#: Name of an environment variable.
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


class Section(BaseModel):
    """A part of ``my_fireworks.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Database(Section):
    """Where a MongoDB is; its address, which may hold a password, is never in the file."""

    uri_from_environment: Variable = Field(
        "CCDCGAN_MONGODB_URI",
        description="Environment variable with the address, as mongodb://user:password@host/.",
    )
    database: DatabaseName = "ccdcgan"

    @property
    def uri(self) -> str:
        """The address.

        Raises
        ------
        UserError
            The environment variable is not set, or holds no address; that is not repeated.
        """
        found = os.environ.get(self.uri_from_environment, "").strip()
        if not found:
            raise UserError(
                f"set {self.uri_from_environment} to the address of the database, "
                "as mongodb://user:password@host:27017/"
            )
        with address_in(self.uri_from_environment):
            # Looking at one of the other kind asks a name server.
            if not found.startswith("mongodb+srv://"):
                parse_uri(found, warn=True)
        return found

    @property
    def server(self) -> str:
        """Where it is, without user and password."""
        return server_of(self.uri)

    def handle(self) -> Any:
        """Pymongo's handle of it."""
        return MongoClient[Any](self.uri, serverSelectionTimeoutMS=SOON)[self.database]

    def ping(self) -> str:
        """The version of the server.

        Raises
        ------
        UserError
            It cannot be reached, or may not be read; one line, in which no password is.
        """
        variable = self.uri_from_environment
        try:
            with address_in(variable):
                handle = self.handle()
                # Something that needs the right to read.
                handle[MARK].find_one({"_id": MARK})
                return str(handle.client.server_info()["version"])
        except PyMongoError as error:
            raise UserError(f"{explain(error)} ({variable})") from None


def server_of(uri: str) -> str:
    """Hosts of an address, without user and password."""
    return uri.partition("://")[2].partition("/")[0].rpartition("@")[2]


@contextlib.contextmanager
def address_in(where: object) -> Iterator[None]:
    """Turn what pymongo says of an address into one line, without the address.

    Parameters
    ----------
    where
        What holds it: an environment variable or a file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise UserError(
                f"a certificate that {where} names cannot be used: {error.strerror or error}"
            ) from None
        raise UserError(
            f"{where} names the file {error.filename}, which cannot be read: {error.strerror}"
        ) from None
    except (InvalidURI, ConfigurationError, ValueError, TypeError) as error:
        # The message would repeat the address.
        if isinstance(error, ConfigurationError) and NAME_SERVER.search(str(error)):
            raise UserError(
                f"no name server knows the host of the mongodb+srv address in {where}: correct "
                "it, try again where there is a network, or list the hosts as "
                "mongodb://user:password@host1,host2/?replicaSet=NAME"
            ) from None
        raise UserError(
            f"{where} is not the address of a MongoDB: it should look like "
            "mongodb://user:password@host:27017/, in user and password %2F for /, %3A for :, %40 "
            "for @, %25 for %, %3F for ? and %23 for #"
        ) from None


def explain(error: PyMongoError) -> str:
    """One line for an error of the database, without an address that may hold a password."""
    if isinstance(error, OperationFailure):
        # Atlas has one code for all that it refuses.
        if error.code == 18 or (error.code == 8000 and "auth" in str(error)):
            return "the database rejects the user or the password"
        if error.code == 13:
            return "the database user has no right to do this"
        return f"the database refuses: {str((error.details or {}).get('errmsg', error.code))[:200]}"
    if isinstance(error, ServerSelectionTimeoutError):
        reason = str(error).split(",")[0].split(" (")[0]
        return f"cannot reach the database: {reason[:200]}"
    return f"the database does not answer: {type(error).__name__}"
