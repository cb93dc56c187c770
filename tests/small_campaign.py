"""A whole small campaign, for the tests that run one."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

#: One process, as a second takes as long to start as it saves.
CAMPAIGN = """
system: Bi-Se
seed: 3
workers: 1
database: {filters: {max_sites: 4}, max_candidates: 24, element_sites: 3}
networks: {gan_steps: 750, guide_epochs: 5}
relaxation: {engine: {name: sevennet}, fmax: 0.3}
loop: {rounds: 1, samples: 200, stackings: 30, relaxations: 2}
"""


def ccdcgan(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ccdcgan.launchers.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
    )


def of_rounds(number: int) -> str:
    """The campaign with so many rounds."""
    return CAMPAIGN.replace("rounds: 1", f"rounds: {number}")


def start(folder: Path, text: str = CAMPAIGN, *options: object) -> subprocess.Popen[str]:
    """``ccdcgan run`` of the campaign in a folder."""
    campaign = folder.parent / "campaign.yaml"
    campaign.write_text(text)
    return ccdcgan("run", campaign, "--workdir", folder, *options, cwd=folder.parent)


def results(folder: Path) -> tuple[dict, list[dict]]:
    """Summary and phases of a finished campaign."""
    summary = json.loads((folder / "summary.json").read_text())
    with gzip.open(folder / "phases.json.gz") as stream:
        return summary, json.load(stream)
