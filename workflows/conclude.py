"""The end of a campaign as a job: phases judged by the last hull, and the summary of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ccdcgan.dft.errors import UserError
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.confirm import (
    agreement,
    confirmations,
    without_hull,
)
from ccdcgan.workflows.describe import describe_best, parities, provenance_of
from ccdcgan.workflows.documents import (
    AutoencoderFigures,
    Claim,
    Confirmed,
    ConstraintFigures,
    Curve,
    Outcome,
    Phase,
    RelaxationDocument,
    Summary,
)
from ccdcgan.workflows.failures import FailedStructure, FailureCounts
from ccdcgan.workflows.jobs import document_job
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.outputs import (
    AutoencoderOutput,
    ProposedOutput,
    RelaxedOutput,
    RoundReport,
    RoundsOutput,
    StabilityOutput,
)
from ccdcgan.workflows.phases import (
    database_counts,
    new_to,
    ranked,
    records,
    round_counts,
    warnings_of,
)
from ccdcgan.workflows.stability import with_stability
from ccdcgan.workflows.storage.stores import Relaxations, artifact_key, publish

#: Curves of a GAN's training that the report shows.
GAN_CURVES = {
    "critic": "critic: data minus generated",
    "formation_energy": "predicted by the guide / eV per atom",
}


def publish_phases(knowledge: Knowledge, *, all_of_them: bool = False) -> None:
    """Let people query what is known so far, with the key of the hull that judged it."""
    campaign = knowledge.campaign
    converged = sorted(key for key, d in knowledge.documents.items() if d.converged)
    placed = [p.model_dump(mode="json") for p in knowledge.phases if p.energy_per_atom is not None]
    system = "-".join(sorted(campaign.elements))
    hull = artifact_key("hull", converged)
    publish(placed, campaign.digest(), system, hull, all_of_them=all_of_them)


@document_job("light", data=["phases", "failed"])
def conclude(
    database: RelaxedOutput,
    proposed: ProposedOutput,
    autoencoder: AutoencoderOutput,
    outcome: RoundsOutput,
    campaign: Campaign,
    confirmed: RelaxedOutput | None = None,
    examined: StabilityOutput | None = None,
    followed: RelaxedOutput | None = None,
) -> Outcome:
    """Everything of a campaign judged by its final hull.

    What was rejected without an energy is no phase: it is among the ``failed``. The
    ``confirmed`` crystals are placed on the hulls of both levels of theory. What the ``examined``
    became along imaginary modes, the ``followed``, are phases, too.
    """
    claims = [*outcome.entries, *(followed.entries if followed else [])]
    knowledge = Knowledge.of_job(claims, campaign)
    phases = knowledge.phases
    crystals = examined.crystals if examined else []
    with_stability(phases, crystals)
    best = ranked(phases, campaign.thresholds)
    for rank, phase in enumerate(best, 1):
        phase.file = f"structures/{rank:03d}_{phase.formula}.cif"
    describe_best(best, phases, knowledge.documents)
    publish_phases(knowledge, all_of_them=True)
    history = outcome.history
    confirming = confirmed.entries if confirmed else []
    others = Relaxations().get([e.key for e in confirming])
    failures = failed_structures(knowledge.claims, knowledge.documents)
    failures += failed_structures(confirming, others)
    errors = history[-1].constraint.properties[FORMATION_ENERGY]
    counts = database_counts(phases, campaign.thresholds)
    counts.rejected |= _left_out(proposed)
    summary = Summary(
        warnings=[
            *warnings_of(phases, knowledge.documents, campaign),
            *_warnings_of_rounds(history),
        ],
        system=campaign.elements,
        level_of_theory=knowledge.hull.level,
        seed=campaign.seed,
        thresholds=campaign.thresholds.model_dump(),
        database=counts,
        autoencoder=AutoencoderFigures(
            match_fraction=autoencoder.match_fraction, held_out=autoencoder.held_out
        ),
        constraint=ConstraintFigures(
            mae_ev_per_atom=errors.mae, r2=errors.r2, held_out=errors.held_out
        ),
        potential=_errors(history[-1]),
        rounds=[
            round_counts(phases, i, r.funnel, campaign.thresholds) for i, r in enumerate(history, 1)
        ],
        records=records(phases),
        new_to=new_to(phases),
        failures=FailureCounts.of(failures),
        wall_seconds=_seconds(database, proposed, autoencoder, history),
    )
    return Outcome(
        summary=summary,
        phases=[p for p in phases if p.energy_per_atom is not None],
        confirmed=_confirmed(phases, confirming, others, campaign),
        failed=failures,
        curves=[*_curves_of(autoencoder), *_curves(history)],
        parity=parities(phases, history[-1].constraint),
        latent=history[-1].latent,
        spectra={c.id: s for c in crystals if (s := c.stability.spectrum)},
        provenance=provenance_of(campaign),
    )


def _errors(report: RoundReport) -> PotentialErrors | None:
    """Errors of a round's potential in numbers alone."""
    errors = report.constraint.potential
    return None if errors is None else replace(errors, parity=())


def _left_out(proposed: ProposedOutput) -> dict[str, int]:
    """How many prototypes were left out, by reason, with the names of some that are unreadable."""
    counts = {f"prototype: {reason}": number for reason, number in proposed.rejected.items()}
    names: dict[str, list[str]] = {}
    for skipped in proposed.skipped:
        names.setdefault(skipped.reason, []).append(skipped.id)
    for reason, ids in names.items():
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        counts[f"unreadable: {reason} ({', '.join(ids[:3])}{more})"] = len(ids)
    return counts


def _seconds(
    database: RelaxedOutput,
    proposed: ProposedOutput,
    autoencoder: AutoencoderOutput,
    history: Sequence[RoundReport],
) -> dict[str, float]:
    """Seconds of the jobs of each stage, all together."""
    return {
        "prototypes": proposed.seconds,
        "database": database.seconds,
        "autoencoder": autoencoder.seconds,
        "constraint": sum(r.constraint.seconds for r in history),
        "gan": sum(r.gan.seconds for r in history),
        "generation": sum(r.generation_seconds for r in history),
        "relaxation": sum(r.relaxation_seconds for r in history),
    }


def _confirmed(
    phases: Sequence[Phase],
    claims: Sequence[Claim],
    documents: Mapping[str, RelaxationDocument],
    campaign: Campaign,
) -> Confirmed:
    if not claims:
        return Confirmed()
    try:
        both = confirmations(phases, claims, documents, campaign)
    except UserError as error:
        # The campaign's own results are none the worse for it.
        both = without_hull(phases, claims, documents)
        return Confirmed(crystals=both, problem=str(error))
    return Confirmed(crystals=both, agreement=agreement(both) if both else None)


def _warnings_of_rounds(history: Sequence[RoundReport]) -> list[str]:
    """What was not as it should be on the way, a line each."""
    found = []
    if foreign := history[-1].constraint.foreign_frames:
        found.append(
            f"the geometries on the way of {foreign} relaxations have energies that are not theirs "
            "(VASP 5 with earlier versions of ccdcgan): no potential was learnt from them"
        )
    for number, report in enumerate(history, 1):
        errors = report.constraint.potential
        if errors and not errors.used:
            found.append(
                f"round {number} did not relax its candidates by the potential learnt on the way, "
                f"which is not good enough: {errors}"
            )
        if not report.funnel.screened:
            found.append(report.funnel.nothing_chosen(number))
    return found


def failed_structures(
    claims: Sequence[Claim], documents: Mapping[str, RelaxationDocument]
) -> list[FailedStructure]:
    """Those of the claims that have not converged, in their order."""
    return [
        FailedStructure.of(
            documents[c.key].model_dump(mode="json", exclude={"frames", "structure"})
            | {"origin": c.origin.model_dump(mode="json")}
        )
        for c in claims
        if not documents[c.key].converged
    ]


def _curves_of(autoencoder: AutoencoderOutput) -> list[Curve]:
    """Of the lattice and of the sites autoencoder, as far as they were trained here."""
    curves = []
    for name in ("lattice", "sites"):
        kinds = {"training": "training", "test": "held out"}
        series = {
            shown: losses
            for kind, shown in kinds.items()
            if (losses := autoencoder.history.get(f"{name} {kind}"))
        }
        if series:
            curves.append(
                Curve(
                    title=f"{name.capitalize()} autoencoder",
                    x_label="epoch",
                    y_label="squared error of a picture, and penalty",
                    x=[float(i + 1) for i in range(len(series["training"]))],
                    series=series,
                )
            )
    return curves


def _curves(history: Sequence[RoundReport]) -> list[Curve]:
    curves = []
    for number, report in enumerate(history, 1):
        losses = report.constraint.history
        if losses:
            curves.append(
                Curve(
                    title=f"Guide, round {number}",
                    x_label="epoch",
                    y_label="loss / standard deviations",
                    x=[float(i + 1) for i in range(len(losses["test"]))],
                    series={"training": losses["training"], "held out": losses["test"]},
                )
            )
        for name, label in GAN_CURVES.items():
            values = report.gan.history[name]
            curves.append(
                Curve(
                    title=f"GAN, round {number}",
                    x_label="chunk of steps",
                    y_label=label,
                    x=[float(i + 1) for i in range(len(values))],
                    series={name: values},
                )
            )
    return curves
