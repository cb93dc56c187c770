"""The option --engine of benchmarks that relax by an engine of the user's choice."""

from __future__ import annotations

import argparse

from ruamel.yaml import YAML

from ccdcgan.dft.relaxation.settings import RelaxationSettings


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command line."""
    parser.add_argument("--engine", help="As in a campaign file. [the default]")


def relaxation(engine: str | None, **settings: object) -> RelaxationSettings:
    """How an engine relaxes, given as in a campaign file, with other settings than the default."""
    given = {"engine": YAML(typ="safe").load(engine)} if engine else {}
    return RelaxationSettings.model_validate({**given, **settings})
