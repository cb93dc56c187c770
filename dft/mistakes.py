"""Mistakes in files of settings, in words: each with its place and what to do about it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ccdcgan.dft.errors import UserError

#: Mistakes that are told at a time.
MOST = 5

#: No setting is a larger number.
LARGEST = 1e15

#: Words for people in place of pydantic's, by its kinds of mistakes.
PLAIN_WORDS = {
    "model_type": "Input should be keys and values",
    "dataclass_type": "Input should be keys and values",
    "dict_type": "Input should be keys and values",
    "model_attributes_type": "Input should be keys and values",
    "tuple_type": "Input should be a list, as in [a, b]",
    "path_type": "Input should be a path",
}

Model = TypeVar("Model", bound=BaseModel)


class _Key(NamedTuple):
    annotation: Any
    description: str


def validated(
    model: type[Model], data: Any, name: str, context: Mapping[str, Any] | None = None
) -> Model:
    """Settings from plain data.

    Parameters
    ----------
    name
        Where the data come from, for messages.
    context
        For the model's validators.

    Raises
    ------
    UserError
        Values do not fit; the first few are told, each with its place.
    """
    found = dict(not_numbers(data))
    try:
        settings = model.model_validate(data, context=dict(context or {}))
    except ValidationError as error:
        found = {**mistakes(error, model, data), **found}
    else:
        if not found:
            return settings
    raise UserError(f"{name}: {in_one_line(list(found.values()))}") from None


def in_one_line(texts: Sequence[str], what: str = "mistakes") -> str:
    """Several mistakes as one text, numbered where there is more than one."""
    if len(texts) == 1:
        return texts[0]
    told = " ".join(f"({i}) {text};" for i, text in enumerate(texts[:MOST], 1)).rstrip(";")
    more = f"; and {len(texts) - MOST} more" if len(texts) > MOST else ""
    return f"{len(texts)} {what}: {told}{more}"


def mistakes(error: ValidationError, model: Any, data: Any) -> dict[str, str]:
    """What is wrong, by place, such as ``loop.rounds``."""
    found: dict[str, str] = {}
    errors = [(one, _place(one["loc"], data)) for one in error.errors(include_url=False)]
    for one, place in errors:
        # What only follows from another mistake: a list that is short of it, a default made of it.
        inner = any(len(other) > len(place) == _common(place, other) for _, other in errors)
        if one["type"] == "default_factory_not_called" or (inner and one["type"] == "too_short"):
            continue
        found.setdefault(".".join(place), _told(one, place, model))
    return found


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of parts with which both places begin."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def did_you_mean(word: str, choices: Iterable[str], cutoff: float = 0.5) -> str:
    """A hint at the nearest choice; empty where none is near."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: Any) -> str:
    """A value as in a message, in one short line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def not_numbers(data: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Numbers with which nothing can be computed, wherever they are."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from not_numbers(value, f"{place}.{str(key)[:60]}".lstrip("."))
    elif isinstance(data, (list, tuple)):
        for number, value in enumerate(data):
            yield from not_numbers(value, f"{place}.{number}")
    elif isinstance(data, float) and not math.isfinite(data):
        yield place, f"{place}: {data} is no finite number"
    elif isinstance(data, (int, float)) and abs(data) > LARGEST:
        yield place, f"{place}: a number beyond {LARGEST:g} is none that can be meant"


def _place(location: Sequence[int | str], data: Any) -> list[str]:
    """Keys and numbers that lead to a value in the data, without the tags of unions."""
    place: list[str] = []
    for i, part in enumerate(location):
        # A model, as where an engine is one, is looked into no further.
        inner = data if isinstance(data, Mapping) else {}
        if isinstance(data, (list, tuple)):
            inner = dict(enumerate(data))
        if part not in inner and i < len(location) - 1:
            continue
        data = inner.get(part)
        text = str(part) if str(part).isprintable() else repr(part)
        place.append(text if len(text) <= 60 else f"{text[:57]}...")
    return place


def _told(one: ErrorDetails, place: list[str], model: Any) -> str:
    where, kind, given, context = ".".join(place), one["type"], one["input"], one.get("ctx", {})
    prefix = f"{where}: " if where else ""
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"unknown key {where!r}{_nearest_key(place, model)}"
    if kind in {"missing", "missing_argument"}:
        return f"{where} is missing"
    if kind == "invalid_key":
        return f"{prefix}a key is text, not {shown(given)}"
    if kind == "union_tag_invalid":
        discriminator = context["discriminator"].strip("'")
        tags = re.findall(r"'([^']*)'", context["expected_tags"])
        hint = did_you_mean(context["tag"], tags)
        return f"{prefix}{discriminator} {shown(context['tag'])} is none of {', '.join(tags)}{hint}"
    if kind == "union_tag_not_found":
        discriminator = context["discriminator"].strip("'")
        return f"{prefix}the key {discriminator!r} is missing"
    message = one["msg"].removeprefix("Value error, ")
    message = message if len(message) <= 500 else f"{message[:400]}...{message[-97:]}"
    if kind in {"value_error", "assertion_error"}:
        return f"{prefix}{message}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"{prefix}{message}, not {shown(given)}{did_you_mean(str(given), choices)}"
    if kind in PLAIN_WORDS:
        message = PLAIN_WORDS[kind]
    message = message.replace("Tuple", "The list").replace(" after validation", "")
    if isinstance(given, (str, int, float)) or given is None:
        message += f", not {shown(given)}"
    meant = _description(place, model)
    return f"{prefix}{message}{f' ({meant})' if meant else ''}"


def _description(place: Sequence[str], model: Any) -> str:
    """What a key is for, with its unit: the beginning of its description."""
    if not place or place[-1] not in (keys := _keys_beside(place, model)):
        return ""
    return re.split(r"[;:]\s|\.\s|\.$", keys[place[-1]].description)[0]


def _nearest_key(place: Sequence[str], model: Any) -> str:
    """A hint at the key of this place that is nearest, or at one of another place."""
    word, beside, elsewhere = place[-1], _keys_beside(place, model), _everywhere(model)
    if word in beside:
        # Of another engine or source.
        return ""
    if word not in elsewhere and (hint := did_you_mean(word, beside)):
        return hint
    close = difflib.get_close_matches(word, elsewhere, n=1, cutoff=0.75)
    return f"; did you mean {elsewhere[close[0]]!r}?" if close else ""


def _keys_beside(place: Sequence[str], model: Any) -> dict[str, _Key]:
    """All keys that may stand where the last part of a place does."""
    keys = _keys(model)
    for part in place[:-1]:
        # A number in a list, or a key of somebody's own, changes nothing.
        if part in keys:
            keys = _keys(keys[part].annotation)
    return keys


def _everywhere(annotation: Any, above: str = "", depth: int = 0) -> dict[str, str]:
    """Where keys stand, by name; the outermost place of each."""
    keys = {} if depth > 6 else _keys(annotation)
    found = {name: above + name for name in keys}
    for name, key in keys.items():
        found = {**_everywhere(key.annotation, f"{above}{name}.", depth + 1), **found}
    return found


def _keys(annotation: Any) -> dict[str, _Key]:
    """Keys of all models in an annotation; in place of an abstract one, of those made of it."""
    if isinstance(annotation, type) and not get_args(annotation):
        if inspect.isabstract(annotation):
            made: list[Any] = annotation.__subclasses__()
            return {k: v for part in made for k, v in _keys(part).items()}
        if issubclass(annotation, BaseModel):
            return {
                name: _Key(info.annotation, info.description or "")
                for name, info in annotation.model_fields.items()
            }
        if dataclasses.is_dataclass(annotation):
            return {name: _Key(hint, "") for name, hint in get_type_hints(annotation).items()}
    parts: list[Any] = [p for p in get_args(annotation) if not isinstance(p, str)]
    return {k: v for part in parts for k, v in _keys(part).items()}
