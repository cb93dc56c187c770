"""The report's table of crystals whose phonons and elastic constants were computed."""

from __future__ import annotations

from collections.abc import Sequence

from ccdcgan.dft.dynamics.document import VERDICTS
from ccdcgan.launchers.report.figures import energy, formula_html
from ccdcgan.launchers.report.sections import spacegroup_html, table, text
from ccdcgan.workflows.documents import Phase


def stability(phases: Sequence[Phase]) -> str:
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
        f'<p class="caption">{caption}</p></section>'
    )


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
