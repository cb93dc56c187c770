"""The end of a campaign as a job: phases judged by the last hull, and the summary of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobflow import job

from ccdcgan.dft.errors import UserError
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.confirm import (
    agreement,
    confirmations,
    without_hull,
)
from ccdcgan.workflows.documents import (
    AutoencoderFigures,
    Confirmation,
    ConstraintFigures,
    Curve,
    Entry,
    RelaxationDocument,
    Summary,
)
from ccdcgan.workflows.failures import FailedStructure, FailureCounts
from ccdcgan.workflows.generate import nothing_chosen
from ccdcgan.workflows.jobs import worker_class
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.phases import database_counts, ranked, round_counts, warnings_of
from ccdcgan.workflows.storage.stores import Relaxations, artifact_key, publish

#: Curves of a GAN's training that the report shows.
GAN_CURVES = {
    "critic": "critic: data minus generated",
    "formation_energy": "what the guide says of the generated / eV per atom",
}


def publish_phases(knowledge: Knowledge) -> None:
    """Let people query what is known so far, with the key of the hull that judged it."""
    campaign = knowledge.campaign
    converged = sorted(key for key, d in knowledge.documents.items() if d.converged)
    placed = [p.model_dump(mode="json") for p in knowledge.phases if p.energy_per_atom is not None]
    system = "-".join(sorted(campaign.elements))
    publish(placed, campaign.digest(), system, artifact_key("hull", converged))


@job(data=["phases", "failed"], config=worker_class("light"))
def conclude(
    database: dict[str, Any],
    proposed: dict[str, Any],
    autoencoder: dict[str, Any],
    outcome: dict[str, Any],
    campaign: dict[str, Any],
    confirmed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Judge everything by the final hull: ``summary``, ``phases`` and learning ``curves``.

    What was rejected without an energy is no phase: it is among the ``failed``. The
    ``confirmed`` crystals are placed on the hulls of both levels of theory.
    """
    settings = Campaign.model_validate(campaign)
    knowledge = Knowledge.of_job(outcome["entries"], settings)
    phases = knowledge.phases
    for rank, phase in enumerate(ranked(phases), 1):
        phase.file = f"structures/{rank:03d}_{phase.formula}.cif"
    publish_phases(knowledge)
    history = outcome["history"]
    confirming = [Entry.model_validate(e) for e in (confirmed or {"entries": []})["entries"]]
    others = Relaxations().get([e.key for e in confirming])
    failures = failed_structures(knowledge.entries, knowledge.documents)
    failures += failed_structures(confirming, others)
    counts = database_counts(phases, len(settings.elements))
    for reason, number in proposed["rejected"].items():
        counts.rejected[f"prototype: {reason}"] = number
    names: dict[str, list[str]] = {}
    for skipped in proposed["skipped"]:
        names.setdefault(skipped["reason"], []).append(skipped["id"])
    for reason, ids in names.items():
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        counts.rejected[f"unreadable: {reason} ({', '.join(ids[:3])}{more})"] = len(ids)
    errors = history[-1]["constraint"]["properties"][FORMATION_ENERGY]
    summary = Summary(
        warnings=[
            *warnings_of(phases, knowledge.documents, settings),
            *_warnings_of_rounds(history),
        ],
        system=settings.elements,
        level_of_theory=knowledge.hull.level,
        seed=settings.seed,
        thresholds=settings.thresholds.model_dump(),
        database=counts,
        autoencoder=AutoencoderFigures(
            match_fraction=autoencoder["match_fraction"], held_out=autoencoder["held_out"]
        ),
        constraint=ConstraintFigures(
            mae_ev_per_atom=errors["mae"], r2=errors["r2"], held_out=errors["held_out"]
        ),
        potential=history[-1]["constraint"].get("potential"),
        rounds=[round_counts(phases, i, h["funnel"]) for i, h in enumerate(history, 1)],
        failures=FailureCounts.of(failures),
        wall_seconds={
            "prototypes": proposed["seconds"],
            "database": database["seconds"],
            "autoencoder": autoencoder["seconds"],
            "constraint": sum(h["constraint"]["seconds"] for h in history),
            "gan": sum(h["gan"]["seconds"] for h in history),
            "generation": sum(h["generation_seconds"] for h in history),
            "relaxation": sum(h["relaxation_seconds"] for h in history),
        },
    )
    both: list[Confirmation] = []
    problem = None
    if confirming:
        try:
            both = confirmations(phases, confirming, others, settings)
        except UserError as error:
            # The campaign's own results are none the worse for it.
            problem = str(error)
            both = without_hull(phases, confirming, others)
    return {
        "summary": summary.model_dump(mode="json"),
        "phases": [p.model_dump(mode="json") for p in phases if p.energy_per_atom is not None],
        "confirmed": {
            "crystals": [c.model_dump(mode="json") for c in both],
            "agreement": agreement(both).model_dump(mode="json") if both and not problem else None,
            "problem": problem,
        },
        "failed": [f.model_dump(mode="json") for f in failures],
        "curves": [c.model_dump(mode="json") for c in _curves(history)],
    }


def _warnings_of_rounds(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was not as it should be on the way, a line each."""
    found = []
    if foreign := history[-1]["constraint"].get("foreign_frames"):
        found.append(
            f"the geometries on the way of {foreign} relaxations have energies that are not theirs "
            "(VASP 5 with earlier versions of ccdcgan): no potential was learnt from them"
        )
    for number, report in enumerate(history, 1):
        figures = report["constraint"].get("potential")
        if figures and not (errors := PotentialErrors(**figures)).used:
            found.append(
                f"round {number} did not relax its candidates by the potential learnt on the way, "
                f"which is not good enough: {errors}"
            )
        if not report["funnel"]["screened"]:
            found.append(nothing_chosen(number, report["funnel"]))
    return found


def failed_structures(
    entries: Sequence[Entry], documents: Mapping[str, RelaxationDocument]
) -> list[FailedStructure]:
    """Those of the entries that have not converged, in their order."""
    return [
        FailedStructure.of(
            documents[e.key].model_dump(mode="json", exclude={"frames", "structure"})
            | {"origin": e.origin.model_dump(mode="json")}
        )
        for e in entries
        if not documents[e.key].converged
    ]


def _curves(history: list[dict[str, Any]]) -> list[Curve]:
    curves = []
    for number, report in enumerate(history, 1):
        losses = report["constraint"]["history"]
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
            values = report["gan"]["history"][name]
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
