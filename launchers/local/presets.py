"""The campaign files that come with the package."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccdcgan.workflows.campaign import Campaign

PRESETS = ("quickstart", "workstation", "paper", "paper-small")


def preset_text(name: str) -> str:
    """The campaign file of a preset."""
    file = resources.files("ccdcgan.launchers").joinpath("presets", f"{name}.yaml")
    return file.read_text(encoding="utf-8")


def default_campaign() -> Campaign:
    """The campaign of ``ccdcgan run`` without a file."""
    # Slow imports, which a copy of a preset does without.
    from ruamel.yaml import YAML

    from ccdcgan.workflows.campaign import parse_campaign

    return parse_campaign(YAML(typ="safe").load(preset_text("quickstart")), "quickstart")
