"""Settings that keep their hashes when new ones join them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

#: Context of `model_dump` for what is hashed: fields are written under their first names.
HASHED: Mapping[str, bool] = MappingProxyType({"hashed": True})


class Renamed(NamedTuple):
    """First name of a field, and first values by those of today; files may still have them."""

    name: str
    values: Mapping[str, str]


class Settings(BaseModel):
    """Part of a campaign file: frozen, and without unknown keys.

    Content keys and digests of campaigns are hashes of what such parts write. A field of `added`
    is written only where it differs from its default, so that campaigns begun before there was such
    a field keep their hashes. One of `renamed` is hashed as it was called before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Fields that joined after the first version; their defaults never change.
    added: ClassVar[frozenset[str]] = frozenset()

    #: Fields that had another name at first.
    renamed: ClassVar[Mapping[str, Renamed]] = MappingProxyType({})

    @model_validator(mode="before")
    @classmethod
    def _take_first_names(cls, data: Any) -> Any:
        if not cls.renamed or not isinstance(data, Mapping):
            return data
        data = dict(data)
        for name, (first, values) in cls.renamed.items():
            if first in data and name not in data:
                data[name] = data.pop(first)
            today = {old: new for new, old in values.items()}
            if isinstance(value := data.get(name), str):
                data[name] = today.get(value, value)
        return data

    @model_validator(mode="before")
    @classmethod
    def _refuse_true_for_one(cls, data: Any) -> Any:
        # pydantic takes true for 1: refine: true would relax to 1 eV/Å.
        for name, value in data.items() if isinstance(data, Mapping) else ():
            given = value if isinstance(value, (list, tuple)) else [value]
            field = cls.model_fields.get(name)
            if field is None or not any(isinstance(v, bool) for v in given):
                continue
            if not _takes_bool(field.annotation):
                raise ValueError(f"{name} is neither true nor false: give a number or a text")
        return data

    @model_serializer(mode="wrap")
    def _write(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self.added:
            if name in data and getattr(self, name) == fields[name].get_default():
                del data[name]
        if info.context == HASHED:
            for name, (first, values) in self.renamed.items():
                if name in data:
                    value = data.pop(name)
                    data[first] = values.get(value, value)
        return data


def _takes_bool(annotation: Any) -> bool:
    """Whether a type, or a part of it, is a truth value or anything."""
    parts = get_args(annotation)
    if annotation in (bool, Any) or any(isinstance(part, bool) for part in parts):
        return True
    return any(map(_takes_bool, parts))


def beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A path of a file that is read with ``context={"folder": ...}``, relative to that folder.

    ``~`` is expanded, and so are ``$VARIABLES`` of a file. How the file has a path that it does not
    have whole is noted in the context's ``written``, if it has one.
    """
    context = info.context or {}
    folder, text = context.get("folder"), str(path)
    # What is read again later, as by a job, is whole, and may have a dollar in a name.
    if folder is not None and not (path.is_absolute() and path.exists()):
        text = os.path.expandvars(text)
        if unset := re.search(r"\$\{?(\w+)", text):
            raise ValueError(f"the environment variable {unset[1]} of {str(path)!r} is not set")
    try:
        whole = Path(text).expanduser()
        if folder is not None and not whole.is_absolute():
            whole = (Path(folder) / whole).resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is no path: {error}") from None
    if whole != path:
        context.get("written", {})[str(whole)] = str(path)
    return whole


def _not_empty(path: Any) -> Any:
    # Path takes an empty text for the folder itself, and all that is in it.
    if isinstance(path, str) and not os.path.expandvars(path).strip():
        raise ValueError(f"the path {path!r} is empty")
    return path


#: A path in a campaign file, relative to it.
FilePath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(beside_the_file)]


def ordered(unit: str, low: float | None = None, *, most: float) -> AfterValidator:
    """A check of two bounds: the smaller one first, none below a number, and that at most so."""

    def check(bounds: tuple[float, float]) -> tuple[float, float]:
        if not bounds[0] < bounds[1]:
            raise ValueError(
                f"from {bounds[0]:g} to {bounds[1]:g} {unit} is nothing: give the smaller bound "
                "first"
            )
        if low is not None and bounds[0] < low:
            raise ValueError(f"{bounds[0]:g} {unit} is less than {low:g}: give a larger bound")
        if bounds[0] > most:
            raise ValueError(f"no crystal has {bounds[0]:g} {unit} or more: give a smaller bound")
        return bounds

    return AfterValidator(check)


#: Smallest and largest volume of an atom, Å³.
VolumeRange = Annotated[tuple[float, float], ordered("Å³ per atom", 0, most=200)]

#: Lowest and highest energy of an atom, eV.
EnergyRange = Annotated[tuple[float, float], ordered("eV per atom", most=0)]
