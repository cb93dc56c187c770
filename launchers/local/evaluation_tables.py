"""An evaluation as tables and notes."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from ccdcgan.launchers.local.definitions import described
from ccdcgan.launchers.local.evaluate import Evaluation
from ccdcgan.workflows.evaluation import DISTANCES, Share

#: Reasons that the table of them shows.
MOST_REASONS = 20


def table_of(evaluation: Evaluation) -> Table:
    """The funnel as a table."""
    found = evaluation.found
    table = _shares(f"{evaluation.structures}: {found.relaxed} relaxed")
    rows = {
        "decoded": evaluation.decoded,
        "valid": evaluation.valid,
        "converged": found.converged,
        "unique": found.unique,
        "new": found.new,
        **{f"E_hull ≤ {d:.2f}": found.below[f"{d:.2f}"] for d in DISTANCES},
        "same crystal after relaxation": found.stayed,
    }
    for name, s in rows.items():
        of = "sampled" if name in {"decoded", "valid"} else "relaxed"
        if name.startswith("same"):
            of = "converged"
        table.add_row(*_row(name, s, of))
    if found.untrusted:
        table.add_row("set aside as untrusted", str(found.untrusted))
    if found.displacement is not None and found.mean_displacement is not None:
        both = f"{found.displacement:.3f} Å, mean {found.mean_displacement:.3f} Å"
        table.add_row("displacement", both)
    if found.mean_formation_energy is not None:
        table.add_row("mean formation energy", f"{found.mean_formation_energy:+.3f} eV/atom")
    return table


def outside_of(evaluation: Evaluation) -> Table:
    """What others count as a table."""
    found = evaluation.outside
    table = _shares(f"Against {described(found.references)}")
    table.add_row(*_row("S.U.N., LeMat-GenBench", found.sun.lemat_sun, "relaxed"))
    table.add_row(*_row("MetaSUN, LeMat-GenBench", found.sun.lemat_metasun, "relaxed"))
    table.add_row(*_row("S.U.N., MatterGen", found.sun.mattergen_sun, "sampled"))
    for name, counted in found.kinship.items():
        table.add_row(*_row(name, counted, "valid"))
    return table


def _shares(title: str) -> Table:
    """A table for shares."""
    table = Table(title=title)
    for name in ("", "count", "of", "share", "95% interval"):
        table.add_column(name, justify="left" if not name else "right")
    return table


def _row(name: str, counted: Share, of: str) -> list[str]:
    row = [name, str(counted.count), f"{counted.of} {of}"]
    if counted.fraction is not None and counted.low is not None and counted.high is not None:
        row += [f"{counted.fraction:.1%}", f"{counted.low:.1%} – {counted.high:.1%}"]
    return row


def reasons_of(evaluation: Evaluation) -> Table | None:
    """Why structures did not get further, with counts; None where all did."""
    counted = Counter(
        (o.outcome, o.reason or "")
        for o in evaluation.outcomes
        if o.outcome in ("unreadable", "not valid", "not relaxed", "not converged")
    )
    if not counted:
        return None
    table = Table(title="What was left out")
    for name in ("", "reason", "count", "such as"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for (outcome, reason), count in counted.most_common(MOST_REASONS):
        first = next(
            o.id for o in evaluation.outcomes if (o.outcome, o.reason or "") == (outcome, reason)
        )
        table.add_row(outcome, reason, str(count), first)
    if len(counted) > MOST_REASONS:
        rest = counted.total() - sum(n for _, n in counted.most_common(MOST_REASONS))
        table.add_row("", f"{len(counted) - MOST_REASONS} more reasons", str(rest), "")
    return table


def names_of(evaluation: Evaluation) -> list[str]:
    """A line for each structure that was left out, and for each file without structures."""
    lines = [
        f"{o.outcome}: {o.id}: {o.reason or ''}".removesuffix(": ")
        for o in evaluation.outcomes
        if o.outcome != "new"
    ]
    return [*lines, *(f"no structure: {k}: {v}" for k, v in evaluation.no_structures.items())]


def notes_of(evaluation: Evaluation) -> list[str]:
    """What to know of files and structures, in few lines."""
    references = evaluation.outside.references
    notes = [] if references.refused is None else [references.refused]
    if references.skipped:
        name, reason = next(iter(references.skipped.items()))
        notes.append(
            f"{len(references.skipped)} of {references.name} cannot be compared, as {name} "
            f"({reason})"
        )
    notes += [f"{name}: {text}" for name, text in list(evaluation.warnings.items())[:5]]
    if more := len(evaluation.warnings) - 5 if len(evaluation.warnings) > 5 else 0:
        notes.append(f"{more} more structures like these: see --verbose or --out")
    if evaluation.no_structures:
        name, reason = next(iter(evaluation.no_structures.items()))
        count = len(evaluation.no_structures)
        notes.append(
            f"{count} {'file' if count == 1 else 'files'} without structures not counted, as "
            f"{name} ({reason})"
        )
    return notes
