"""The documentation site: python -m sphinx -W -b html docs build/site."""

import configparser
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_setup = configparser.ConfigParser()
_setup.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")

project = "ccdcgan"
author = "the ccdcgan developers"
release = version = _setup["metadata"]["version"]
copyright = f"{author}, BSD 3-clause"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"ccdcgan {release}"
# Links to the headings of other pages, as GitHub has them.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]

# The names of the page are loaded, and with them what they import; networks are not built for it.
autodoc_mock_imports = ["keras", "sevenn", "tensorflow", "torch"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# No long signatures of documents, which have their fields below.
autodoc_class_signature = "separated"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
napoleon_google_docstring = False
napoleon_use_rtype = False


def _fields(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The fields of a document, below what its docstring says."""
    if what == "class" and issubclass(thing, BaseModel):
        fields = thing.model_fields.items()
        lines += ["", *(f":param {name}: {f.description}" for name, f in fields if f.description)]


def setup(app: Any) -> None:
    """See Sphinx."""
    app.connect("autodoc-process-docstring", _fields)
