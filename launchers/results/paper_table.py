"""The paper's accounting of runs: ``ccdcgan paper-table``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field
from rich.table import Table

from ccdcgan.dft.structures.hull import Thresholds
from ccdcgan.launchers.report.figures import is_generated
from ccdcgan.launchers.results.run_files import RunFiles
from ccdcgan.workflows.documents import Phase
from ccdcgan.workflows.evaluation import Share, share
from ccdcgan.workflows.phases import paper_word

#: Columns that count crystals, in the paper's order.
COUNTS = (
    *("negative", "metastable", "stable"),
    *("distinct", "distinct_metastable", "distinct_stable"),
)

#: What a random sample tells of all crystals that were drawn. How many of them are distinct it does
#: not: of more crystals fewer are.
SCALED = COUNTS[:3]


class Row(BaseModel):
    """A generator in numbers.

    Counted are crystals that have converged and are believed. Metastable (which counts the stable)
    and stable are by the run's thresholds, the paper's unless it has others; distinct: matches
    nothing of the database and nothing generated before.
    """

    name: str
    graphs: int | None = Field(None, description="Crystal graphs that were drawn.")
    decoded: int | None = Field(None, description="Of them, those that became a structure.")
    crystals: int | None = Field(
        None, description="Of them, those whose distances and volume are within the limits."
    )
    relaxed: int = Field(description="Crystals that have converged and are counted.")
    counts: dict[str, Share] = Field(description="Of the relaxed, with Wilson's interval (95%).")
    estimates: dict[str, Share] = Field(
        {},
        description="The same of all crystals that would converge, by the shares of the relaxed, "
        "which are a random sample: count, low and high are numbers of crystals.",
    )
    mean_formation_energy: float | None = Field(None, description="Of the relaxed, eV/atom.")
    mean_interval: float | None = Field(
        None, description="Half of the mean's interval (95%, normal), eV/atom."
    )


class RunRows(BaseModel):
    """A run in numbers."""

    run: str
    variant: Literal["ccdcgan", "dcgan+constraint", "dcgan"]
    preset: str
    level_of_theory: str
    reconstructed: float | None = Field(None, description="Share of the held-out crystals.")
    constraint_mae: float | None = Field(None, description="eV/atom, of held-out crystals.")
    constraint_r2: float | None = None
    is_sample: bool = Field(
        description="Whether what was relaxed is a random sample of what was drawn."
    )
    untrusted: int = Field(0, description="Generated crystals that are set aside: not counted.")
    rows: list[Row] = Field(description="Database, before and after the constraint's screening.")


class PaperTable(BaseModel):
    """Runs beside the paper."""

    runs: list[RunRows]
    paper: list[Row]


def _paper(
    name: str, crystals: int, counts: Sequence[int], mean: float | None, graphs: int | None = 13_000
) -> Row:
    shares = {n: share(c, crystals) for n, c in zip(COUNTS, counts, strict=False)}
    return Row(
        name=name,
        graphs=graphs,
        decoded=crystals if graphs else None,
        crystals=crystals if graphs else None,
        relaxed=crystals,
        counts=shares,
        mean_formation_energy=mean,
    )


#: Of Long et al. (2021). Its text also calls 629 candidates of DCGAN "screened out" by the
#: constraint, where 2,832 - 2,148 are 684.
PAPER = [
    _paper("database", 9810, (4588, 707, 155), None, None),
    _paper("DCGAN", 2832, (2548, 1233, 58, 476, 73, 15), -0.08),
    _paper("DCGAN + constraint", 2148, (2037, 1145, 36, 247, 67, 12), -0.09),
    _paper("CCDCGAN", 3743, (3556, 1910, 307, 511, 187, 42), -0.11),
]

#: What a variant is called before and after its constraint has screened.
NAMES = {
    "dcgan": ("DCGAN", "DCGAN + constraint"),
    "dcgan+constraint": ("DCGAN", "DCGAN + constraint"),
    "ccdcgan": ("CCDCGAN", "CCDCGAN, screened"),
}


def paper_table(runs: Sequence[RunFiles]) -> PaperTable:
    """Count runs as the paper counts its own."""
    return PaperTable(runs=[rows_of(run) for run in runs], paper=PAPER)


def rows_of(run: RunFiles) -> RunRows:
    """Database and generator of a run."""
    campaign, summary = run.campaign, run.summary
    screening, variant = campaign.loop.screening, campaign.networks.variant
    generated = [p for p in run.phases if is_generated(p) and p.converged]
    believed = [p for p in generated if p.label != "untrusted"]
    compounds = [
        p
        for p in run.phases
        if not is_generated(p)
        and len(p.structure.composition) > 1
        and p.converged
        and p.label != "untrusted"
    ]
    drawn = {n: sum(getattr(r, n) for r in summary.rounds) for n in ("sampled", "decoded", "valid")}
    chosen = sum(r.screened for r in summary.rounds)
    is_sample = screening.selection == "sample"
    before, after = NAMES[variant]
    # Of those that do not converge nobody knows what they would have been.
    whole = round(drawn["valid"] * len(generated) / chosen) if is_sample and chosen else None
    rows = [
        _row("database", compounds, campaign.thresholds),
        _row(before, believed, campaign.thresholds, whole).model_copy(
            update={
                "graphs": drawn["sampled"],
                "decoded": drawn["decoded"],
                "crystals": drawn["valid"],
            }
        ),
    ]
    if any(p.origin.predicted_formation_energy is not None for p in believed):
        kept = [
            p
            for p in believed
            if (e := p.origin.predicted_formation_energy) is not None
            and e <= screening.max_formation_energy
        ]
        of_them = None if whole is None else round(whole * len(kept) / len(believed))
        rows.append(_row(after, kept, campaign.thresholds, of_them))
    return RunRows(
        run=str(run.folder),
        variant=variant,
        preset=campaign.networks.preset,
        level_of_theory=str(summary.level_of_theory),
        reconstructed=summary.autoencoder.match_fraction,
        constraint_mae=summary.constraint.mae_ev_per_atom,
        constraint_r2=summary.constraint.r2,
        is_sample=is_sample,
        untrusted=len(generated) - len(believed),
        rows=rows,
    )


def _row(
    name: str, phases: Sequence[Phase], thresholds: Thresholds, whole: int | None = None
) -> Row:
    """Counts of phases, which are a random sample of a whole of that many crystals."""
    words = [(p, paper_word(p, thresholds)) for p in phases]
    near = {"metastable": {"stable", "metastable"}, "stable": {"stable"}}
    asked: dict[str, Callable[[Phase, str | None], bool]] = {
        "negative": lambda p, _: (p.formation_energy_per_atom or 0.0) < 0,
        "metastable": lambda _, word: word in near["metastable"],
        "stable": lambda _, word: word in near["stable"],
        "distinct": lambda p, _: p.distinct,
        "distinct_metastable": lambda p, word: p.distinct and word in near["metastable"],
        "distinct_stable": lambda p, word: p.distinct and word in near["stable"],
    }
    counts = {
        key: share(sum(holds(p, word) for p, word in words), len(words))
        for key, holds in asked.items()
    }
    energies = np.array(
        [e for p in phases if (e := p.formation_energy_per_atom) is not None], float
    )
    several = len(energies) > 1
    return Row(
        name=name,
        crystals=whole,
        relaxed=len(phases),
        counts=counts,
        estimates={} if whole is None else {n: _scaled(counts[n], whole) for n in SCALED},
        mean_formation_energy=float(energies.mean()) if len(energies) else None,
        mean_interval=1.96 * float(energies.std(ddof=1)) / len(energies) ** 0.5
        if several
        else None,
    )


def _scaled(counted: Share, whole: int) -> Share:
    """The number among a whole of which a random sample was counted."""
    fraction, low, high = (
        None if part is None else part * whole
        for part in (counted.fraction, counted.low, counted.high)
    )
    return Share(
        count=round(fraction or 0.0), of=whole, fraction=counted.fraction, low=low, high=high
    )


def tables_of(found: PaperTable) -> list[Table]:
    """The counts of the relaxed, and what they say of all that was drawn."""
    headings = (
        *("graphs", "decoded", "crystals", "relaxed", "E_f < 0", "metastable", "stable"),
        *("distinct", "metastable", "stable", "mean E_f"),
    )
    counted = Table(title="Relaxed crystals", caption="95% intervals of shares; eV/atom")
    whole = Table(title="All crystals, by the shares of the random sample")
    for table, names in ((counted, headings), (whole, ("that converge", *headings[4:7]))):
        table.add_column("", overflow="fold")
        for name in names:
            table.add_column(name, justify="right", overflow="fold")
    for run in found.runs:
        counted.add_section()
        for row in run.rows:
            name = f"{run.run}: {row.name}"
            counted.add_row(name, *_cells(row))
            if row.estimates:
                whole.add_row(
                    name,
                    _number(row.estimates["negative"].of),
                    *(
                        f"{row.estimates[n].count:,}\n[{row.estimates[n].low:,.0f}, "
                        f"{row.estimates[n].high:,.0f}]"
                        for n in SCALED
                    ),
                )
    for table in (counted, whole):
        table.add_section()
    for row in found.paper:
        counted.add_row(f"paper: {row.name}", *_cells(row))
        numbers = [f"{row.counts[n].count:,}" for n in SCALED]
        whole.add_row(f"paper: {row.name}", f"{row.relaxed:,}", *numbers)
    return (
        [counted, whole] if any(r.estimates for run in found.runs for r in run.rows) else [counted]
    )


def _cells(row: Row) -> list[str]:
    mean = "–" if row.mean_formation_energy is None else f"{row.mean_formation_energy:+.3f}"
    if row.mean_interval is not None:
        mean += f"\n± {row.mean_interval:.3f}"
    return [
        *map(_number, (row.graphs, row.decoded, row.crystals, row.relaxed)),
        *(_counted(row.counts.get(name)) for name in COUNTS),
        mean,
    ]


def _number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _counted(counted: Share | None) -> str:
    if counted is None:
        return "–"
    if counted.fraction is None or counted.low is None or counted.high is None:
        return f"{counted.count:,}"
    return (
        f"{counted.count:,}\n{counted.fraction:.1%} [{100 * counted.low:.1f}, "
        f"{100 * counted.high:.1f}]"
    )


def notes_of(found: PaperTable) -> list[str]:
    """What to know of the runs, a line each."""
    notes = []
    for run in found.runs:
        if not run.is_sample:
            notes.append(
                f"{run.run}: what was relaxed was chosen, not drawn at random "
                "(loop.screening.selection: sample): its shares are not those of what was drawn"
            )
        if run.untrusted:
            notes.append(f"{run.run}: {run.untrusted} crystals are set aside as untrusted")
    return notes
