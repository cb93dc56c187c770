"""Write the HTML report of a design run: one file that needs no network to be read."""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from ccdcgan.dft.files import to_json, write_atomically
from ccdcgan.launchers.report import sections
from ccdcgan.launchers.report.best import told
from ccdcgan.launchers.report.confirmation import confirmation
from ccdcgan.launchers.report.failures import failed
from ccdcgan.launchers.report.figures import (
    NumberedPhase,
    Plotly,
    curve_figure,
    funnel_figure,
    is_generated,
)
from ccdcgan.launchers.report.headline import cards, headline
from ccdcgan.launchers.report.hull import hull_figure
from ccdcgan.launchers.report.insight import (
    latent_figure,
    learnt,
    parity_figure,
    provenance,
    yield_figure,
    yields,
)
from ccdcgan.launchers.report.limits import limits
from ccdcgan.launchers.report.points import ON_HULL, amounts
from ccdcgan.launchers.report.stability import drawn as with_phonons
from ccdcgan.launchers.report.stability import spectrum_figure, stability
from ccdcgan.launchers.report.turning import turning_hull
from ccdcgan.launchers.report.viewer import Shown, balls
from ccdcgan.workflows.documents import Outcome, Phase

# A page with more rows or crystals than this opens slowly and helps nobody.
MAX_ROWS = 100
MAX_STRUCTURES = 600
BEST_STRUCTURES = 400


def write_report(path: Path, outcome: Outcome) -> None:
    """Write the report as one self-contained HTML file.

    The file appears whole or not at all: a reader never sees half of it.

    Parameters
    ----------
    path
        Where to write; the folder is made if it is missing.
    outcome
        The results of the campaign.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(outcome, path.absolute().parent.name))


def page(outcome: Outcome, folder: str = "FOLDER") -> str:
    """The report of a campaign's results as HTML with all that it needs in it.

    Parameters
    ----------
    outcome, folder
        The results, and the name of the folder that they lie in, for the commands to go on with.
    """
    summary, phases = outcome.summary, outcome.phases
    ranked = _ranked(phases)
    best = [phase for _, phase in ranked]
    hull, caption = hull_figure(summary.system, phases)
    drawn: dict[str, Plotly | None] = {"hull": hull}
    if summary.rounds:
        drawn["funnel"] = funnel_figure(summary.rounds)
        drawn["yield"] = yield_figure(summary.rounds)
    drawn |= {f"curve-{i}": curve_figure(curve) for i, curve in enumerate(outcome.curves)}
    drawn |= {f"parity-{i}": parity_figure(p, i) for i, p in enumerate(outcome.parity)}
    for i, phase in enumerate(with_phonons(phases, outcome.spectra)):
        drawn[f"phonons-{i}"] = spectrum_figure(outcome.spectra[phase.id])
    drawn["latent"] = latent_figure(outcome.latent, phases) if outcome.latent else None
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    structures = _structures(outcome, ranked[:MAX_ROWS], folder)
    data = {
        "figures": figures,
        "structures": {i: asdict(crystal) for i, crystal in structures.items()},
        "turning": turning_hull(summary.system, phases),
        "elements": {symbol: b._asdict() for symbol, b in balls(structures.values()).items()},
        "start": _start(phases, ranked),
    }
    plotly = asset("plotly.js")
    script = "".join(map(asset, ("viewer.js", "crystal.js", "turning.js", "report.js")))
    heading = sections.text(f"{'–'.join(summary.system)} crystals")
    return Template(asset("template.html")).substitute(
        policy=_policy(plotly, script),
        title=heading,
        style=asset("style.css"),
        heading=heading,
        lead=headline(summary, phases, best),
        notes=sections.notes(summary.warnings),
        untrusted=sections.untrusted(p for p in phases if p.label == "untrusted"),
        cards=cards(summary, best),
        phases=len(phases),
        hull_caption=sections.text(caption),
        turning=asset("turning.html") if data["turning"] else "",
        limits=limits(outcome),
        learnt=learnt(outcome, figures),
        yields=yields(figures),
        best=sections.best_table(ranked[:MAX_ROWS], len(ranked)),
        confirmed=confirmation(summary.level_of_theory.engine, outcome.confirmed),
        stability=stability(phases, outcome.spectra),
        viewer=asset("crystal.html"),
        failed=failed(outcome.failed),
        funnel=sections.funnel(summary),
        database=sections.database(summary.database),
        curves=sections.curves(outcome.curves),
        method=sections.method(summary) + provenance(outcome),
        data=_json(data),
        plotly=plotly,
        script=script,
    )


def _ranked(phases: Sequence[Phase]) -> list[NumberedPhase]:
    """Distinct generated phases, nearest to the hull first."""
    chosen = [
        (phase.e_above_hull, i, phase)
        for i, phase in enumerate(phases)
        if is_generated(phase)
        and phase.distinct
        and phase.label != "untrusted"
        and phase.e_above_hull is not None
    ]
    return [(i, phase) for _, i, phase in sorted(chosen, key=lambda item: item[:2])]


def _start(phases: Sequence[Phase], ranked: Sequence[NumberedPhase]) -> int | None:
    """Which phase the viewer shows first."""
    if ranked:
        return ranked[0][0]

    def order(i: int) -> tuple[bool, float, float]:
        distance = phases[i].e_above_hull
        above = math.inf if distance is None else max(distance, 0.0)
        # Elements are on the hull too, but a compound is what the reader came for.
        return len(amounts(phases[i])) < 2, above, phases[i].formation_energy_per_atom or 0.0

    return min(range(len(phases)), key=order, default=None)


def _structures(outcome: Outcome, listed: Sequence[NumberedPhase], folder: str) -> dict[str, Shown]:
    # All structures of a usual run are embedded. Of a run with more than 600 the page holds those
    # of the table, the members of the hull and the 400 lowest: enough to look at, and the file
    # stays small; for the others the viewer says that they are not here.
    phases = outcome.phases
    chosen = set(range(len(phases)))
    if len(phases) > MAX_STRUCTURES:
        placed = {i: p.e_above_hull for i, p in enumerate(phases) if p.e_above_hull is not None}
        lowest = sorted(placed, key=lambda i: placed[i])[:BEST_STRUCTURES]
        members = {i for i, distance in placed.items() if distance <= ON_HULL}
        chosen = {i for i, _ in listed} | members | set(lowest)
    ranks = {i: rank for rank, (i, _) in enumerate(listed, 1)}
    confirmed = {c.id: c for c in outcome.confirmed.crystals}
    return {
        str(i): Shown.of(phases[i], *told(phases[i], ranks.get(i), confirmed, folder))
        for i in sorted(chosen)
    }


def asset(name: str) -> str:
    """A file that pages are made of: a script, a style or a part of a page."""
    if name == "plotly.js":
        return _newlines(get_plotlyjs())
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


def _json(value: object) -> str:
    encoded = to_json(value, ensure_ascii=False, separators=(",", ":"))
    # Inside <script> only these could end the element or open a comment.
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
