"""Environment variables: documented, read anew when they change, and refused in one line."""

import os
import re
import time
from pathlib import Path

import pytest

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.queue_time import STARTED, seconds_left
from ccdcgan.dft.variables import PREFIX, Variables, variables


@pytest.fixture(autouse=True)
def _without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX) or name == "SLURM_JOB_END_TIME":
            monkeypatch.delenv(name)


ROOT = Path(__file__).parent.parent


def test_every_variable_is_in_the_table() -> None:
    """What is read, and what ``--notify`` hands on, which stands above the table."""
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    table = set(re.findall(rf"^\| `{PREFIX}(\w+)` \|", text, re.MULTILINE))
    above = set(re.findall(rf"`{PREFIX}(\w+)`", text.split("## Environment variables")[0]))
    used = {
        name
        for room in ("dft", "models", "workflows", "launchers")
        for path in (ROOT / room).rglob("*")
        if path.suffix in {".py", ".txt", ".yaml"}
        for name in re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])\b", path.read_text(encoding="utf-8"))
    }
    fields = {name.upper() for name in Variables.model_fields}
    assert fields <= table
    assert fields | used == table | above


def test_they_are_read_anew_where_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variables().logs is None and variables().calculations == Path("calculations")
    monkeypatch.setenv("CCDCGAN_LOGS", "there")
    assert variables().logs == Path("there")
    monkeypatch.setenv("CCDCGAN_LOGS", "")
    assert variables().logs is None


@pytest.mark.parametrize(
    ("ours", "slurms", "left"),
    [
        (None, None, None),
        ("50", None, 10),
        (None, "60", 20),
        ("50", "60", 10),
        (None, "no", None),
        ("50.5", None, 10.5),
        (" 50 ", None, 10),
        ("5e1", None, 10),
        ("N/A", "60", None),
    ],
)
def test_the_end_of_the_queue_job(
    ours: str | None, slurms: str | None, left: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("CCDCGAN_END_TIME", ours), ("SLURM_JOB_END_TIME", slurms)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert seconds_left(now=40.0) == left


def test_an_end_that_was_over_before_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of yesterday's allocation, in a shell that is still open."""
    now = time.time()
    for end, left in ((now - 86400, None), (STARTED - 1, None), (now + 50, 50)):
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(end)))
        assert seconds_left(now) == (left and pytest.approx(left, abs=1))
    # One that has come while this process ran is soon kept, or was none.
    monkeypatch.setattr("ccdcgan.dft.queue_time.STARTED", now - 7200)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now - 60)))
    assert seconds_left(now) == pytest.approx(-60, abs=1)
    assert seconds_left(now + 3600) is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PATIENCE", "long", "CCDCGAN_PATIENCE='long': give the seconds to wait"),
        ("PATIENCE", "nan", "as in 3600"),
        (
            "END_TIME",
            "-5",
            "CCDCGAN_END_TIME='-5': give the end of the queue job, in seconds since",
        ),
        ("END_TIME", "2026-12-01", "CCDCGAN_END_TIME='2026-12-01': give the end of the queue job"),
        ("END_TIME", "1e999", "seconds since 1970"),
        ("MAX_UNPACKED", "0", "CCDCGAN_MAX_UNPACKED='0': give a number of megabytes, as in 1000"),
        ("MAX_UNPACKED", "9" * 100, "megabytes"),
    ],
)
def test_bad_values_get_one_line(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(UserError) as caught:
        variables()
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
