"""Write the HTML report of a design run: one file that needs no network to be read."""

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors
from plotly.offline import get_plotlyjs

from ccdcgan.dft.files import to_json, write_atomically
from ccdcgan.launchers.report import sections
from ccdcgan.launchers.report.confirmation import confirmation
from ccdcgan.launchers.report.failures import failed
from ccdcgan.launchers.report.figures import (
    Phase,
    curve_figure,
    funnel_figure,
    is_generated,
    number,
)
from ccdcgan.launchers.report.headline import cards, headline
from ccdcgan.launchers.report.hull import ON_HULL, hull_figure
from ccdcgan.workflows.failures import FailedStructure

# The definitions of the paper, in eV/atom above the hull.
THRESHOLDS = {"stable": 0.100, "metastable": 0.150}
# A page with more rows or crystals than this opens slowly and helps nobody.
MAX_ROWS = 100
MAX_STRUCTURES = 600
BEST_STRUCTURES = 400


def write_report(
    path: Path,
    summary: dict[str, Any],
    phases: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    confirmed: dict[str, Any] | None = None,
    failures: Sequence[FailedStructure] = (),
) -> None:
    """Write the report as one self-contained HTML file.

    The file appears whole or not at all: a reader never sees half of it.

    Parameters
    ----------
    path
        Where to write; the folder is made if it is missing.
    summary
        The numbers of the run: system, level of theory, seed, database, models, rounds, times.
        A figure that was not computed is None or absent, and shown as a dash.
    phases
        One record for each relaxed structure, of the database and of the generator.
    curves
        Learning curves: title, axis labels, ``x`` and a ``series`` of ``y`` values by name.
    confirmed
        ``crystals`` relaxed again at another level of theory, and the ``problem`` that kept them
        from a hull, if there was one.
    failures
        Structures without a result.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _page(summary, phases, curves, confirmed or {}, failures))


def _page(
    summary: dict[str, Any],
    phases: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    confirmed: dict[str, Any],
    failures: Sequence[FailedStructure],
) -> str:
    system = [str(element) for element in summary["system"]]
    limits = {**THRESHOLDS, **(summary.get("thresholds") or {})}
    rounds = summary.get("rounds") or []
    ranked = _ranked(phases)
    best = [phase for _, phase in ranked]
    hull, caption = hull_figure(system, phases, limits)
    figures = {"hull": hull}
    if rounds:
        figures["funnel"] = funnel_figure(rounds)
    figures |= {f"curve-{i}": curve_figure(curve) for i, curve in enumerate(curves)}
    structures = _structures(phases, ranked[:MAX_ROWS])
    data = {
        "figures": figures,
        "structures": structures,
        "elements": _elements(structures),
        "start": _start(phases, ranked),
    }
    plotly, script = _newlines(get_plotlyjs()), _asset("viewer.js") + _asset("report.js")
    heading = sections.text(f"{'–'.join(system)} crystals")
    return Template(_asset("template.html")).substitute(
        policy=_policy(plotly, script),
        title=heading,
        style=_asset("style.css"),
        heading=heading,
        lead=headline(system, phases, best, limits),
        notes=sections.notes(summary.get("warnings") or []),
        untrusted=sections.untrusted(p for p in phases if p.get("label") == "untrusted"),
        cards=cards(summary, best),
        phases=len(phases),
        hull_caption=sections.text(caption),
        best=sections.best_table(ranked[:MAX_ROWS], len(ranked)),
        confirmed=confirmation(summary, confirmed),
        failed=failed(failures),
        funnel=sections.funnel(rounds),
        database=sections.database(summary.get("database") or {}),
        curves=sections.curves(curves),
        method=sections.method(summary, limits),
        data=_json(data),
        plotly=plotly,
        script=script,
    )


def _ranked(phases: list[Phase]) -> list[tuple[int, Phase]]:
    chosen = [
        (distance, i, phase)
        for i, phase in enumerate(phases)
        if is_generated(phase)
        and phase.get("distinct")
        and phase.get("label") != "untrusted"
        and (distance := number(phase.get("e_above_hull"))) is not None
    ]
    return [(i, phase) for _, i, phase in sorted(chosen, key=lambda item: item[:2])]


def _start(phases: list[Phase], ranked: list[tuple[int, Phase]]) -> int | None:
    if ranked:
        return ranked[0][0]

    def order(i: int) -> tuple[bool, float, float]:
        distance = number(phases[i].get("e_above_hull"))
        formation = number(phases[i].get("formation_energy_per_atom"))
        above = math.inf if distance is None else max(distance, 0.0)
        # Elements are on the hull too, but a compound is what the reader came for.
        return len(_symbols(phases[i])) < 2, above, 0.0 if formation is None else formation

    return min(range(len(phases)), key=order, default=None)


def _symbols(phase: Phase) -> set[str]:
    return {s["element"] for site in phase["structure"]["sites"] for s in site["species"]}


def _structures(phases: list[Phase], listed: list[tuple[int, Phase]]) -> dict[str, Any]:
    # All structures of a usual run are embedded. Of a run with more than 600 the page holds those
    # of the table, the members of the hull and the 400 lowest: enough to look at, and the file
    # stays small; for the others the viewer says that they are not here.
    chosen = set(range(len(phases)))
    if len(phases) > MAX_STRUCTURES:
        above = {i: number(phase.get("e_above_hull")) for i, phase in enumerate(phases)}
        placed = {i: distance for i, distance in above.items() if distance is not None}
        lowest = sorted(placed, key=lambda i: placed[i])[:BEST_STRUCTURES]
        members = {i for i, distance in placed.items() if distance <= ON_HULL}
        chosen = {i for i, _ in listed} | members | set(lowest)
    return {str(i): _structure(phases[i]) for i in sorted(chosen)}


def _structure(phase: Phase) -> dict[str, Any]:
    record = phase["structure"]
    sites = record["sites"]
    return {
        **sections.phase_facts(phase),
        "matrix": [[round(float(x), 5) for x in row] for row in record["lattice"]["matrix"]],
        "species": [site["species"][0]["element"] for site in sites],
        "frac": [round(float(x), 5) for site in sites for x in site["abc"]],
    }


def _elements(structures: dict[str, Any]) -> dict[str, Any]:
    symbols = sorted({name for record in structures.values() for name in record["species"]})
    table = {}
    for name in symbols:
        z = atomic_numbers[name]
        table[name] = {
            "rgb": [round(255 * float(part)) for part in jmol_colors[z]],
            "radius": round(float(covalent_radii[z]), 2),
        }
    return table


def _asset(name: str) -> str:
    return _newlines(resources.files("ccdcgan.launchers.report").joinpath(name).read_text("utf-8"))


def _newlines(source: str) -> str:
    # A browser normalises newlines before it hashes a script for the policy.
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _policy(*scripts: str) -> str:
    # Nothing but the page's own scripts may run and nothing may be fetched, whatever text from
    # outside ends up in the page; escaping alone would be one mistake away from that.
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    encoded = to_json(value, ensure_ascii=False, separators=(",", ":"), default=float)
    # Inside <script> only these could end the element or open a comment.
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
