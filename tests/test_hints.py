"""What commands say of slips: formulas, elements, folders, and nothing that is not theirs."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import complaint, status_of

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.systems import composition_of, spelled
from ccdcgan.launchers.cli.quiet import without_noise


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("zns", ["Zn", "S"]),
        ("BISE", ["Bi", "Se"]),
        ("nio", ["Ni", "O"]),
        ("CO", ["Co"]),
        ("NaCl", ["Na", "Cl"]),
        # Isotopes are no elements.
        ("td", []),
        ("Co", ["Co"]),
        ("xq", []),
        ("", []),
        ("bi" * 30, []),
    ],
)
def test_the_fewest_symbols_that_spell_a_text(text: str, symbols: list[str]) -> None:
    assert spelled(text) == symbols


def test_formulas_as_they_are_printed() -> None:
    assert composition_of("Bi₂Se₃") == composition_of(" Bi2Se3 ") == composition_of("Se3Bi2")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("bi2se3", "; did you mean Bi2Se3?"),
        ("zn₂s", "; did you mean Zn2S?"),
        # Once each.
        ("foo", ""),
        ("", ""),
        ("12", ""),
        ("Bi2Se3!", ""),
        ("Xx2O", ""),
        ("Bi+", ""),
        ("Bi0", ""),
        ("D2O", ""),
    ],
)
def test_what_is_no_formula(text: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        composition_of(text)
    assert str(caught.value) == f"{text!r} is no formula such as Bi2Se3{hint}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["query", "run"], "extra argument(s) (run): give a folder as --workdir FOLDER"),
        (["failures", "--workdir", "run"], "--workdir: give the folder without it"),
        (["serve", "--workdir", "run"], "--workdir: give the folder without it"),
        (["known", "--workdir", "run"], "--workdir: give it as --campaign FOLDER"),
        (["predict", "zns"], "did you mean ZnS?"),
        (["hull", "zns"], "did you mean Zn-S?"),
        (["query", "--elements", "zn-s"], "did you mean Zn?"),
        (["train", "all", "nofile", "--out", "n"], "nofile does not exist"),
        (["evaluate", "a.zip", "--out", "a.csv"], "let its name end in .json"),
    ],
)
def test_slips_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in complaint(monkeypatch, capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_without_a_command_there_is_help_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(monkeypatch) == 2
    said = capsys.readouterr()
    assert "Usage" in said.out + said.err and "error:" not in said.out + said.err


def test_tensorflow_is_imported_in_silence() -> None:
    code = (
        "import sys; sys.argv = ['ccdcgan', '--version']\n"
        "from ccdcgan.launchers.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "import importlib.util, importlib.resources, tensorflow\n"
        "assert importlib.resources.files(tensorflow).joinpath('__init__.py').is_file()\n"
        "print(int(tensorflow.constant(1)))"
    )
    run = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "1" and "oneDNN" not in done.stderr


def test_all_but_the_noise_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(ArithmeticError), without_noise():
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on. You\nwhy it failed")
        raise ArithmeticError
    assert capfd.readouterr().err == "why it failed"


def test_without_standard_error_nothing_breaks() -> None:
    code = (
        "import os; os.close(2)\n"
        "from ccdcgan.launchers.cli.quiet import without_noise\n"
        "with without_noise(): print('in')\n"
        "print('out')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["in", "out"]


def test_a_mistake_in_a_campaign_file_waits_for_no_packages_that_run_it(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text("system: Bi-Se\nloop: {round: 2}\n")
    code = (
        "import sys\n"
        "from ccdcgan.dft.errors import UserError\n"
        "from ccdcgan.workflows.campaign import load_campaign\n"
        "try:\n"
        "    load_campaign(sys.argv[1])\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "slow = {'jobflow', 'maggma', 'scipy', 'tensorflow', 'torch'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    mistake, slow = done.stdout.splitlines()
    assert "loop.round" in mistake
    assert slow == "[]"
