"""Which engines there are: our own, and those of other packages by entry points.

A package of its own adds an engine with a subclass of `CalculatorEngine`, whose ``name`` is a
literal, and an entry point of that name:

    [project.entry-points."ccdcgan.engines"]
    my-potential = "my_package:MyEngine"
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from ccdcgan.dft.engines.base import CalculatorEngine, EngineSettings
from ccdcgan.dft.engines.espresso import EspressoEngine
from ccdcgan.dft.engines.gpaw import GpawEngine
from ccdcgan.dft.engines.potentials import ChgnetEngine, SevenNetEngine
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.mistakes import did_you_mean, in_one_line, mistakes, shown
from ccdcgan.dft.yaml_files import parse_yaml

GROUP = "ccdcgan.engines"

OWN: dict[str, type[EngineSettings]] = {
    "sevennet": SevenNetEngine,
    "chgnet": ChgnetEngine,
    "vasp": VaspEngine,
    "espresso": EspressoEngine,
    "gpaw": GpawEngine,
}


def names() -> list[str]:
    """Names of all engines that this environment has."""
    return sorted({*OWN, *(point.name for point in entry_points(group=GROUP))})


@cache
def engine_class(name: str) -> type[EngineSettings]:
    """The class of an engine; that of another package is imported now.

    Raises
    ------
    ValueError
        There is none of this name, or it cannot be used; the text says why.
    """
    if name in OWN:
        return OWN[name]
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        known = names()
        raise ValueError(
            f"there is no engine {shown(name)} here{did_you_mean(name, known)} (there are "
            f"{', '.join(known)}; others come with packages that declare an entry point in {GROUP})"
        )
    try:
        found = points[0].load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  a package of somebody else's
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"engine {name!r} cannot be imported: {said}") from None
    if not (isinstance(found, type) and issubclass(found, CalculatorEngine)):
        raise ValueError(f"engine {name!r} is no subclass of {CalculatorEngine.__name__}")
    if inspect.isabstract(found):
        lacking = " and ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"engine {name!r} cannot be used: its class has no {lacking}")
    return found


def _parse(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, Mapping):
        if isinstance(value, EngineSettings):
            return value
        raise ValueError("an engine is written as {name: sevennet}")
    name = value.get("name")
    if not isinstance(name, str):
        raise ValueError(f"an engine needs a name: one of {', '.join(names())}")
    return engine_class(name).model_validate(dict(value), context=info.context)


#: An engine in a campaign file.
Engine = Annotated[SerializeAsAny[EngineSettings], BeforeValidator(_parse)]


def engine_of(text: str) -> EngineSettings:
    """The engine that a text names as a campaign file would; files beside the working folder.

    Raises
    ------
    UserError
        It names none, or its settings are wrong.
    """
    value = parse_yaml(text, repr(text))
    try:
        return TypeAdapter(Engine).validate_python(value, context={"folder": Path.cwd()})
    except ValidationError as error:
        raise UserError(
            in_one_line(list(mistakes(error, EngineSettings, value).values()))
        ) from None
