"""YAML files of settings: read whole, or refused in one line with the place of the mistake."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ccdcgan.dft.errors import UserError

#: Bytes of the largest file; a campaign has about 3,000.
LARGEST = 100_000

#: Values of a file, with those that aliases repeat, and how deep they may lie in each other.
MOST_VALUES, DEEPEST = 20_000, 30

#: Where the parser's words would not tell what to mend.
PLAIN_WORDS = {
    "mapping values are not allowed": "a colon where none can be: put the text into quotes, or see "
    "whether the lines above are indented alike",
    "could not find expected ':'": "a key without a colon",
    "found unexpected end of stream": "a quote that is opened here is not closed",
    "but found another document": "a second document begins: keep one to a file",
    "but got '<stream end>'": "a bracket that is opened here is not closed",
    "expected ',' or": "a comma or a bracket is missing",
    "expected <block end>": "the indentation does not fit the lines above",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML file; an empty one has none.

    Raises
    ------
    UserError
        The file cannot be read, is no YAML, or holds something else than keys and values.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if len(content) > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST // 1000} kB: is it a file of settings?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"cannot read {path}: not a text file in UTF-8 (line {line}): save it as UTF-8"
        ) from None
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold keys and values, such as 'system: Bi-Se'")
    return data


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text (version 1.2, in which ``NO`` and ``Y`` are text).

    Parameters
    ----------
    name
        Where it comes from, for messages.

    Raises
    ------
    UserError
        It is no YAML, repeats a key, or unfolds to more than anybody writes by hand.
    """
    # The pure parser: the one in C has other words, and lets duplicate keys pass.
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if problem := _problem(yaml.compose(text)):
                raise UserError(f"{name}: {problem}")
            return yaml.load(text)
    except RecursionError:
        raise UserError(f"{name}: {_TOO_DEEP}") from None
    except MarkedYAMLError as error:
        raise UserError(f"{name} is not valid YAML: {_words(error, text)}") from None
    except (YAMLError, ValueError, OverflowError) as error:
        # A character that is none, a date or a number that cannot be.
        said = str(error).strip().splitlines()[0].partition(":")[0][:200]
        raise UserError(f"{name} is not valid YAML: {said}") from None


_TOO_DEEP = f"values lie more than {DEEPEST} deep in each other"


def _problem(root: Node | None) -> str | None:
    """Why a parsed file cannot be one of settings, or None; each node is looked at once."""
    sizes: dict[int, int] = {}

    def measure(node: Node, above: tuple[int, ...]) -> str | None:
        if id(node) in above:
            return f"line {node.start_mark.line + 1}: an alias that holds itself"
        if len(above) >= DEEPEST:
            return _TOO_DEEP
        if id(node) in sizes:
            return None
        parts: list[Node] = []
        if isinstance(node, MappingNode):
            first: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                parts += [key, value]
                line = key.start_mark.line + 1
                if not isinstance(key, ScalarNode):
                    return f"line {line}: a list or mapping stands where a key is expected"
                name = (str(key.tag), str(key.value))
                if name in first:
                    lines = f"lines {first[name]} and {line} both give"
                    return f"{lines} {key.value[:80]!r}: keep one"
                first[name] = line
        elif isinstance(node, SequenceNode):
            parts = list(node.value)
        for part in parts:
            if found := measure(part, (*above, id(node))):
                return found
        sizes[id(node)] = 1 + sum(sizes[id(part)] for part in parts)
        if sizes[id(node)] > MOST_VALUES:
            return f"aliases and lists unfold to more than {MOST_VALUES:,} values"
        return None

    return None if root is None else measure(root, ())


def _words(error: MarkedYAMLError, text: str) -> str:
    """Place and kind of a slip, for people."""
    problem, mark = str(error.problem or ""), error.problem_mark
    plain = next((words for part, words in PLAIN_WORDS.items() if part in problem), None)
    # What is not closed is looked for where it was opened.
    if plain and "opened here" in plain and error.context_mark is not None:
        mark = error.context_mark
    if mark is None:
        return problem
    line = mark.line + 1
    lines = text.splitlines()
    if mark.line < len(lines) and re.match(r"[^#'\"]*\t", lines[mark.line]):
        return f"a tab in line {line}: indent with spaces"
    if tag := re.search(r"constructor for the tag '(.*)'", problem):
        return f"line {line}: no value of a file of settings has the tag {tag[1][:80]!r}"
    return f"line {line}: {plain or problem[:200]}"
