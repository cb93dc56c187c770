"""The documentation: its commands, files and links exist, and what takes no time is run."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from command import status_of
from typer.main import get_command

import ccdcgan
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.yaml_files import parse_yaml
from ccdcgan.launchers.cli.app import app
from ccdcgan.models.presets import preset_from
from ccdcgan.workflows.campaign import Campaign, parse_campaign

#: typer brings click's errors with it, in newer versions under another name.
errors = importlib.import_module(typer.BadParameter.__module__)

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```([a-z]+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
#: Commands that need no minutes and no services, with a folder of a campaign that was run.
CHEAP = {"export", "failures", "hull", "init", "query"}
#: Folders of campaigns that pages speak of.
FOLDERS = ("ccdcgan-run", "my-run", "seed-1", "seed-2", "ternary")


class Shown(NamedTuple):
    """A command of a page."""

    page: str
    words: list[str]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Pages, and the code on them."""
    for page in PAGES:
        for found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield page.name, text


def commands(text: str) -> Iterator[list[str]]:
    """The commands of lines for a shell, without what is said of them."""
    for line in text.splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        words.whitespace_split = True
        words.commenters = "#"
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set(";&|"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


#: All but those of the program itself, which act while they are parsed.
SHOWN = [
    Shown(page, words[1:])
    for page, text in blocks("bash")
    for words in commands(text)
    if words[0] == "ccdcgan" and not words[1].startswith("--")
]


def _kept(context: Any) -> list[str]:
    """The words from the name of a command on, in click before 8.2 and since."""
    found = vars(context)
    return list(found.get("_protected_args") or found.get("protected_args") or ())


def parsed(words: list[str]) -> dict[str, Any]:
    """What the command line understands of a command, which is not run."""
    command: Any = get_command(app)
    name, context = "ccdcgan", None
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return dict(context.params)
        name, command, words = command.resolve_command(context, [*_kept(context), *context.args])


def test_every_command_is_understood() -> None:
    assert len(SHOWN) > 40
    wrong = []
    for page, words in SHOWN:
        try:
            parsed(words)
        except (errors.ClickException, UserError) as error:
            wrong.append(f"{page}: ccdcgan {shlex.join(words)}: {error}")
    assert not wrong


def test_commands_in_the_text_are_understood() -> None:
    """They may leave out what they are about, as `ccdcgan query --source` does."""
    wrong, count = [], 0
    for page in PAGES:
        for text in re.findall(r"`(ccdcgan [^`]*)`", BLOCK.sub("", page.read_text("utf-8"))):
            count += 1
            words = shlex.split(text)[1:]
            if words[0] in {"--install-completion", "--version"}:
                continue
            try:
                parsed(words)
            except (errors.MissingParameter, errors.BadOptionUsage):
                pass
            except errors.ClickException as error:
                wrong.append(f"{page.name}: {text}: {error}")
    assert not wrong and count > 30


def test_a_wrong_command_is_noticed() -> None:
    """Or the tests above say nothing."""
    for wrong in ("evaluat mine.zip", "evaluate mine.zip --limits 3", "export", "run a b"):
        with pytest.raises(errors.ClickException):
            parsed(wrong.split())


def test_cheap_commands_do_what_is_said(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FOLDERS:
        shutil.copytree(finished, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    done = set()
    for page, words in SHOWN:
        dry = {"--dry-run", "--to-file"} & set(words) and words[0] != "adopt"
        if "--config" in words or not (words[0] in CHEAP or dry):
            continue
        for left in ("campaign.yaml", "hull.zip"):
            Path(left).unlink(missing_ok=True)
        assert status_of(monkeypatch, *words) == 0, (page, words)
        done.add(words[0])
    assert done == {*CHEAP, "predict", "retry"}


def test_programs_use_what_there_is() -> None:
    for page, text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ccdcgan"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), page
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ccdcgan":
                assert node.attr in ccdcgan.__all__, page


def test_campaign_files_are_understood() -> None:
    count = 0
    for page, text in blocks("yaml"):
        data = parse_yaml(text, page)
        if set(data) <= set(Campaign.model_fields):
            count += 1
            parse_campaign(data, page)
        elif "based_on" in data:
            preset_from(data, page)
    assert count >= 4


def test_files_and_modules_exist() -> None:
    wrong = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        folders = "benchmarks|dft|docs|launchers|models|tests|workflows"
        for path in re.findall(rf"`(?:python )?((?:{folders})/[\w./-]+)", text):
            if not (ROOT / path.rstrip(".")).exists():
                wrong.append(f"{page.name}: {path}")
        for module in re.findall(r"python -m (ccdcgan[\w.]+)", text):
            if importlib.util.find_spec(module) is None:
                wrong.append(f"{page.name}: {module}")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", BLOCK.sub("", text)):
            if not (page.parent / link).exists():
                wrong.append(f"{page.name}: {link}")
    assert not wrong


def test_tables_are_those_of_the_code() -> None:
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    for page, line in {
        "numbers.md": "| `e_above_hull` | eV/atom |",
        "campaigns.md": "| `loop.screening.per_formula` |",
    }.items():
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert tables["renewed"](text, page) == text, "run python docs/tables.py"
        assert line in text


def test_every_page_is_in_the_contents() -> None:
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or f"\n{page.stem}\n" in contents, page.name
        # Pages of Sphinx's own, which would take its place.
        assert page.stem not in {"genindex", "modindex", "search"}


def test_the_public_names_are_in_the_api() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"auto\w+:: (\w+)$", text, re.MULTILINE)) == set(ccdcgan.__all__) - {
        "__version__"
    }
