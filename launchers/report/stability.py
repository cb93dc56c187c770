"""The report's table of crystals whose phonons and elastic constants were computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ccdcgan.dft.dynamics.document import VERDICTS, Spectrum
from ccdcgan.launchers.report.figures import (
    INK,
    Plotly,
    axis,
    energy,
    formula_html,
    layout,
    plotly_text,
)
from ccdcgan.launchers.report.sections import spacegroup_html, table, text
from ccdcgan.workflows.documents import Phase

#: Crystals whose phonons are drawn.
MOST = 10


def stability(phases: Sequence[Phase], spectra: Mapping[str, Spectrum]) -> str:
    """The section with all that were examined; nothing where nobody has asked."""
    examined = [p for p in phases if p.stability is not None]
    if not examined:
        return ""
    unit = "<br><small>{}</small></th>"
    heads = [
        "<th>formula</th><th>space group</th>",
        f'<th class="num">E<sub>hull</sub>{unit.format("eV/atom")}',
        f'<th class="num">lowest frequency{unit.format("THz")}',
        "<th>vibrates stably</th><th>Born stable</th>",
        f'<th class="num">bulk modulus{unit.format("GPa")}',
        f'<th class="num">shear modulus{unit.format("GPa")}',
    ]
    caption = (
        "By the engine of the campaign, each relaxed to 0.001 eV/Å before. Imaginary frequencies "
        "are negative; a crystal vibrates stably where none lies below −0.1 THz, and is stable by "
        "Born's criteria where every strain costs energy."
    )
    return (
        '<section aria-labelledby="h-stability"><h2 id="h-stability">Phonons and elastic '
        f"constants</h2>{table(heads, map(_row, examined), 'tall')}"
        f'<p class="caption">{caption}</p>{_plots(phases, spectra)}</section>'
    )


def drawn(phases: Sequence[Phase], spectra: Mapping[str, Spectrum]) -> list[Phase]:
    """Those whose phonons are drawn."""
    return [p for p in phases if p.id in spectra][:MOST]


def _plots(phases: Sequence[Phase], spectra: Mapping[str, Spectrum]) -> str:
    plots = "".join(
        f"<div><h3>{formula_html(p.formula)} {spacegroup_html(p.spacegroup)}</h3>"
        f'<div id="phonons-{i}" class="plot"></div></div>'
        for i, p in enumerate(drawn(phases, spectra))
    )
    return f'<div class="gap"></div><div class="two">{plots}</div>' if plots else ""


def spectrum_figure(spectrum: Spectrum) -> Plotly:
    """Dispersion of phonons, and beside it their density of states."""
    line = {"type": "scatter", "mode": "lines", "showlegend": False}
    places = spectrum.distances
    xs: list[float | None] = []
    ys: list[float | None] = []
    for band in spectrum.bands:
        for i, (place, frequency) in enumerate(zip(places, band, strict=True)):
            if i == 0 or place == places[i - 1]:
                # A gap, so that one trace has all bands, and no line where the path jumps.
                xs.append(None)
                ys.append(None)
            xs.append(place)
            ys.append(frequency)
    bands = {
        **line,
        "x": xs,
        "y": ys,
        "line": {"color": "#1d4ed8", "width": 1.2},
        "hovertemplate": "%{y:.2f} THz<extra></extra>",
    }
    states = {
        **line,
        "x": spectrum.density,
        "y": spectrum.frequencies,
        "xaxis": "x2",
        "fill": "tozerox",
        "line": {"color": INK, "width": 1.2},
        "hoverinfo": "skip",
    }
    frame = layout(
        dragmode=False,
        height=360,
        xaxis=axis(
            "",
            domain=[0, 0.74],
            range=[0, max(places)],
            tickangle=0,
            tickvals=[place for place, _ in spectrum.ticks],
            ticktext=[plotly_text(name).replace("G", "Γ") for _, name in spectrum.ticks],
        ),
        xaxis2=axis("states / THz", domain=[0.78, 1], showticklabels=False, rangemode="tozero"),
        yaxis=axis("frequency / THz", zeroline=True, zerolinecolor="#94a3b8"),
    )
    return {"data": [bands, states], "layout": frame}


def _row(phase: Phase) -> str:
    found = phase.stability
    assert found is not None
    numbers = (
        energy(found.bulk_modulus_gpa, 0),
        energy(found.shear_modulus_gpa, 0),
    )
    moduli = "".join(f'<td class="num">{n}</td>' for n in numbers)
    problem = f"<br><small>{text(found.problem)}</small>" if found.problem else ""
    return (
        f"<tr><td>{formula_html(phase.formula)}{problem}</td>"
        f"<td>{spacegroup_html(phase.spacegroup)}</td>"
        f'<td class="num">{energy(phase.e_above_hull)}</td>'
        f'<td class="num">{energy(found.lowest_frequency_thz, 2)}</td>'
        f"<td>{VERDICTS[found.dynamically_stable]}</td><td>{VERDICTS[found.born_stable]}</td>"
        f"{moduli}</tr>"
    )
