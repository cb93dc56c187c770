"""Write the figures of a run: files for print, a page to look at, numbers as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path

from ccdcgan.dft.files import write_atomically
from ccdcgan.launchers.figures.chart import Chart, Figure
from ccdcgan.launchers.figures.of_run import NAMES, RunFigures
from ccdcgan.launchers.figures.page import page
from ccdcgan.launchers.figures.static import Format, drawn
from ccdcgan.launchers.results.run_files import RunFiles
from ccdcgan.launchers.results.tables import csv_text


def write_figures(
    run: RunFiles, out: Path, kind: Format = "pdf", names: Sequence[str] = NAMES
) -> tuple[list[Path], dict[str, str]]:
    """Write figures of a run into a folder.

    Parameters
    ----------
    kind
        Of the files for print.
    names
        Which of the paper's figures.

    Returns
    -------
    files, lacking
        Those that were written; of the figures that were not made, why.
    """
    of_run = RunFigures(run)
    figures = of_run.made(names)
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for figure in figures:
        files += [out / f"{figure.name}.{kind}", out / f"{figure.name}.csv"]
        write_atomically(files[-2], drawn(figure, kind))
        write_atomically(files[-1], _csv(figure))
    if figures:
        files.append(out / "figures.html")
        title = f"{'–'.join(run.summary.system)}, {run.campaign.networks.variant}"
        lacking = [f"{name}: {reason}" for name, reason in of_run.lacking.items()]
        write_atomically(files[-1], page(title, figures, lacking))
    return files, of_run.lacking


def _csv(figure: Figure) -> str:
    """The numbers of a figure, a line for each point, or each number of a crystal graph."""
    if isinstance(figure, Chart):
        value = [figure.value_label] if figure.value_label else []
        header = ["series", figure.x_label, figure.y_label, *value, "label"]
    else:
        header = ["crystal", "formula", "graph line", "graph column", "value"]
    return csv_text(header, (dict(zip(header, row, strict=True)) for row in _rows(figure)))


def _rows(figure: Figure) -> Iterator[list[object]]:
    if isinstance(figure, Chart):
        for series in figure.series:
            labels = series.labels or repeat("")
            values = series.values or repeat(None)
            points = zip(series.x, series.y, values, labels, strict=False)
            for x, y, value, label in points:
                yield [series.name, x, y, *([value] if figure.value_label else []), label]
        return
    for crystal in figure.crystals:
        formula = crystal.structure.composition.reduced_formula
        if crystal.graph is None:
            yield [crystal.label, formula, "", "", ""]
            continue
        for (i, j), number in ((ij, crystal.graph[ij]) for ij in _places(crystal.graph.shape)):
            yield [crystal.label, formula, i, j, float(number)]


def _places(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(shape[0]) for j in range(shape[1]))
