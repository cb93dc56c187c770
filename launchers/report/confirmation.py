"""The report's table of crystals that were relaxed again at another level of theory."""

from __future__ import annotations

from collections.abc import Sequence

from ccdcgan.launchers.report.figures import energy, formula_html
from ccdcgan.launchers.report.sections import spacegroup_html, table, text
from ccdcgan.workflows.documents import Agreement, Confirmation, Confirmed, Place


def confirmation(engine: str, confirmed: Confirmed) -> str:
    """The section with both levels side by side; nothing where nothing was confirmed.

    `engine` is that of the campaign's own level.
    """
    crystals, problem = confirmed.crystals, confirmed.problem
    if not crystals and not problem:
        return ""
    note = f'<p class="note">No hull at the other level: {text(problem)}</p>' if problem else ""
    if crystals:
        note += _table(crystals, text(engine), text(crystals[0].level_of_theory.engine))
        note += _agreement(confirmed.agreement)
    return (
        '<section aria-labelledby="h-confirmed"><h2 id="h-confirmed">Confirmed at another level '
        f"of theory</h2>{note}</section>"
    )


def _table(crystals: Sequence[Confirmation], own: str, other: str) -> str:
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
        "this table, ± the standard deviation between both levels. Displacement: root mean square "
        "on relaxation; a dash where the crystal became another one."
    )
    return table(heads, map(_row, crystals), "tall") + f'<p class="caption">{caption}</p>'


def _agreement(found: Agreement | None) -> str:
    """How far both levels agree, in a sentence."""
    if found is None or not found.crystals:
        return ""
    tau = found.kendall
    order = "" if tau is None else f", Kendall's τ of the distances is {tau:.2f}"
    return (
        f'<p class="note">Both levels give {found.same_label} of {found.crystals} compounds the '
        f"same label{order}; mean difference {energy(found.formation_energy)} (E<sub>f</sub>) and "
        f"{energy(found.e_above_hull)} (E<sub>hull</sub>) eV/atom.</p>"
    )


def _with_uncertainty(place: Place) -> str:
    between = place.e_above_hull_uncertainty
    return energy(place.e_above_hull) + ("" if between is None else f" ± {energy(between)}")


def _row(crystal: Confirmation) -> str:
    before, after, moved = crystal.before, crystal.after, crystal.displacement
    numbers = [
        *(energy(place.formation_energy_per_atom) for place in (before, after)),
        energy(before.e_above_hull),
        _with_uncertainty(after),
        "–" if moved is None else f"{moved:.3f}",
    ]
    label = after.label if crystal.converged else crystal.reason or "not converged"
    if crystal.magnetic_order not in (None, "nonmagnetic"):
        label += f", {crystal.magnetic_order}"
    cells = [
        f'<td class="nowrap">{formula_html(crystal.formula)}</td>',
        f'<td class="nowrap">{spacegroup_html(crystal.spacegroup)}</td>',
        *(f'<td class="num">{value}</td>' for value in numbers),
        f"<td>{text(label)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"
