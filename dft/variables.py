"""Environment variables of ccdcgan, which a process reads and hands on to those that it starts."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ccdcgan.dft.errors import UserError

PREFIX = "CCDCGAN_"


def _seconds(value: Any) -> Any:
    """Queues that set no end have words for it."""
    text = str(value).strip()
    return text if any(map(str.isdigit, text)) else None


class Variables(BaseSettings):
    """What a process takes from its environment; each has `PREFIX` before its name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore")

    calculations: Path = Field(
        Path("calculations"),
        description="a folder of DFT calculations that all workers of a class see",
    )
    checkpoints: Path = Field(
        Path("checkpoints"), description="a folder of trainings that are not at their end"
    )
    logs: Path | None = Field(None, description="a folder of TensorBoard's logs")
    spool: Path | None = Field(
        None, description="a folder of results that wait for a database that is away"
    )
    patience: float = Field(
        3600.0, ge=0, description="the seconds to wait for a database that is away, as in 3600"
    )
    end_time: Annotated[float | None, BeforeValidator(_seconds)] = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        validation_alias=AliasChoices(f"{PREFIX}END_TIME", "SLURM_JOB_END_TIME"),
        description="the end of the queue job, in seconds since 1970; our queue scripts set it, "
        "Slurm (from 23.02) SLURM_JOB_END_TIME",
    )
    queue_job: str | None = Field(
        None, description="the name under which the launcher knows this queue job"
    )
    max_unpacked: int = Field(256, gt=0, lt=10**7, description="a number of megabytes, as in 1000")
    trusted: str = Field("", description="names of packages whose makers may be imported")


def variables() -> Variables:
    """The variables as they are set now.

    Raises
    ------
    UserError
        A value does not fit; in one line.
    """
    return _variables(tuple(os.environ.get(name) for name in _NAMES))


_NAMES = (*(f"{PREFIX}{name.upper()}" for name in Variables.model_fields), "SLURM_JOB_END_TIME")


@lru_cache(maxsize=8)
def _variables(_: tuple[str | None, ...]) -> Variables:
    # Some are asked for once a file: they are read again where they have changed.
    try:
        return Variables()
    except ValidationError as error:
        # Where a variable has two names, the first of them.
        name = str(error.errors()[0]["loc"][0]).removeprefix(PREFIX).lower()
        given = str(error.errors()[0]["input"])[:40]
        meant = Variables.model_fields[name].description
        raise UserError(f"{PREFIX}{name.upper()}={given!r}: give {meant}") from None
