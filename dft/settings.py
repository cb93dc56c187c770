"""Settings that keep their hashes when new ones join them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
)


class Settings(BaseModel):
    """Part of a campaign file: frozen, and without unknown keys.

    Content keys and digests of campaigns are hashes of what such parts write. A field of `added`
    is written only where it differs from its default, so that campaigns begun before there was such
    a field keep their hashes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Fields that joined after the first version; their defaults never change.
    added: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_added(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for name in self.added:
            if name in data and getattr(self, name) == fields[name].get_default():
                del data[name]
        return data


def beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A path of a file that is read with ``context={"folder": ...}``, relative to that folder."""
    folder = (info.context or {}).get("folder")
    path = path.expanduser()
    return path if path.is_absolute() or folder is None else (Path(folder) / path).resolve()


#: A path in a campaign file, relative to it.
FilePath = Annotated[Path, AfterValidator(beside_the_file)]
