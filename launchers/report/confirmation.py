"""The report's table of crystals that were relaxed again at another level of theory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccdcgan.launchers.report.figures import energy, formula_html, number
from ccdcgan.launchers.report.sections import spacegroup_html, table, text


def confirmation(summary: Mapping[str, Any], confirmed: Mapping[str, Any]) -> str:
    """The section with both levels side by side; nothing where nothing was confirmed."""
    crystals, problem = confirmed.get("crystals") or [], confirmed.get("problem")
    if not crystals and not problem:
        return ""
    note = f'<p class="note">No hull at the other level: {text(problem)}</p>' if problem else ""
    if crystals:
        own = (summary.get("level_of_theory") or {}).get("engine")
        note += _table(crystals, text(own), text(crystals[0]["level_of_theory"]["engine"]))
        note += _agreement(confirmed.get("agreement") or {})
    return (
        '<section aria-labelledby="h-confirmed"><h2 id="h-confirmed">Confirmed at another level '
        f"of theory</h2>{note}</section>"
    )


def _table(crystals: list[dict[str, Any]], own: str, other: str) -> str:
    unit = "<br><small>eV/atom</small></th>"
    places = "".join(
        f'<th class="num">E<sub>{name}</sub>, {level}{unit}'
        for name in ("f", "hull")
        for level in (own, other)
    )
    heads = [
        "<th>formula</th><th>space group</th>",
        places,
        '<th class="num">displacement<br><small>Å</small></th><th>result</th>',
    ]
    caption = (
        f"{own}: on the hull of all phases of this run. {other}: on the hull of the crystals in "
        "this table. Displacement: root mean square on relaxation; a dash where the crystal "
        "became another one."
    )
    return table(heads, map(_row, crystals), "tall") + f'<p class="caption">{caption}</p>'


def _agreement(found: Mapping[str, Any]) -> str:
    """How far both levels agree, in a sentence."""
    if not found.get("crystals"):
        return ""
    kendall = number(found.get("kendall"))
    order = "" if kendall is None else f", Kendall's τ of the distances is {kendall:.2f}"
    return (
        f'<p class="note">Both levels give {int(found["same_label"])} of {int(found["crystals"])} '
        f"compounds the same label{order}; mean difference {energy(found['formation_energy'])} "
        f"(E<sub>f</sub>) and {energy(found['e_above_hull'])} (E<sub>hull</sub>) eV/atom.</p>"
    )


def _row(crystal: dict[str, Any]) -> str:
    before, after = crystal["before"], crystal["after"]
    moved = number(crystal.get("displacement"))
    numbers = [
        *(energy(p["formation_energy_per_atom"]) for p in (before, after)),
        *(energy(p["e_above_hull"]) for p in (before, after)),
        "–" if moved is None else f"{moved:.3f}",
    ]
    label = after["label"] if crystal["converged"] else crystal.get("reason") or "not converged"
    cells = [
        f'<td class="nowrap">{formula_html(crystal["formula"])}</td>',
        f'<td class="nowrap">{spacegroup_html(crystal["spacegroup"])}</td>',
        *(f'<td class="num">{value}</td>' for value in numbers),
        f"<td>{text(label)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"
