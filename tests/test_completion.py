"""Completion of the command line by the shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = shutil.which("ccdcgan", path=str(Path(sys.executable).parent)) or "ccdcgan"
#: The file that each shell reads.
FILES = {
    "bash": ".bash_completions/ccdcgan.sh",
    "zsh": ".zfunc/_ccdcgan",
    "fish": ".config/fish/completions/ccdcgan.fish",
}


def output(*command: str, **variables: object) -> str:
    environment = {**os.environ, **{k: str(v) for k, v in variables.items()}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", FILES)
def test_it_is_installed_where_the_shell_looks(shell: str, tmp_path: Path) -> None:
    # The shell is named, as there is none above the tests.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": 1, "HOME": tmp_path}
    output(SCRIPT, "--install-completion", shell, **named)
    assert "ccdcgan" in (tmp_path / FILES[shell]).read_text()


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": 1}
    (tmp_path / "it.sh").write_text(output(SCRIPT, "--show-completion", "bash", **named))
    asked = (
        f"source {tmp_path / 'it.sh'}; COMP_WORDS=(ccdcgan {{}}); COMP_CWORD={{}}; "
        f'_ccdcgan_completion {SCRIPT}; echo "${{{{COMPREPLY[*]}}}}"'
    )
    assert output("bash", "-c", asked.format("ev", 1)).split() == ["evaluate"]
    assert output("bash", "-c", asked.format("run --se", 2)).split() == ["--seed"]
