"""The notebooks of examples/ run on a small campaign, and are stored executed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def kinds(notebook: nbformat.NotebookNode) -> list[set[str]]:
    """What each cell shows: the types of its outputs, without what libraries remark."""
    return [
        {kind for output in cell.outputs for kind in output.get("data", {})}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("name", ["results", "networks"])
def test_notebooks_run(name: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "ccdcgan-run")
    stored = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    again = nbformat.from_dict(stored)
    kernel = AsyncKernelManager(transport="ipc", ip=str(tmp_path / "kernel"))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(again, km=kernel, timeout=600, resources=resources).execute()
    assert kinds(again) == kinds(stored)
    texts = [o for c in stored.cells if c.cell_type == "code" for o in c.outputs]
    assert texts and not [o for o in texts if o.output_type == "error"]
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 100_000


def test_their_links_exist() -> None:
    for path in EXAMPLES.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", cell.source):
                assert (EXAMPLES / link).exists(), link
