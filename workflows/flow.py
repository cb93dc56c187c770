"""The whole campaign as one flow: database, then rounds of training, generation and relaxation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Job, Maker, OnMissing, Response, job

from ccdcgan.dft.errors import UserError
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.energy.potential import PotentialErrors
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.confirm import (
    agreement,
    confirmations,
    confirmed_campaign,
    propose_confirmation,
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
from ccdcgan.workflows.generate import GenerateMaker, nothing_chosen
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.learn import AutoencoderMaker, ConstraintMaker, GanMaker
from ccdcgan.workflows.phases import database_counts, ranked, round_counts, warnings_of
from ccdcgan.workflows.relax import ProposeMaker, RelaxMaker, in_stage, worker_class
from ccdcgan.workflows.storage.stores import Relaxations, artifact_key, publish

#: Curves of a GAN's training that the report shows.
GAN_CURVES = {
    "critic": "critic: data minus generated",
    "formation_energy": "what the guide says of the generated / eV per atom",
}


@dataclass
class RoundMaker(Maker):
    """One round after another; each grows the next until the campaign's number is reached."""

    name: str = "round"
    relax: RelaxMaker = field(default_factory=RelaxMaker)
    constraint: ConstraintMaker = field(default_factory=ConstraintMaker)
    gan: GanMaker = field(default_factory=GanMaker)
    generate: GenerateMaker = field(default_factory=GenerateMaker)

    @job(config=worker_class("light"))
    def make(
        self,
        entries: list[dict[str, Any]],
        autoencoder: dict[str, Any],
        campaign: dict[str, Any],
        number: int,
        history: list[dict[str, Any]],
        last: dict[str, Any] | None = None,
    ) -> Response[Any] | dict[str, Any]:
        """Return the campaign's outcome after the last round, or replace itself by a round.

        Parameters
        ----------
        entries, history
            What the campaign has relaxed, and what each finished round reports.
        number
            The round to do now, from 1.
        last
            Entries of the round before, to be joined with `entries`.
        """
        entries = entries + (last["entries"] if last else [])
        if history and last:
            history = [*history[:-1], {**history[-1], "relaxation_seconds": last["seconds"]}]
        settings = Campaign.model_validate(campaign)
        if number > settings.loop.rounds:
            return {"entries": entries, "history": history}
        publish_phases(Knowledge.of_job(entries, settings))
        here = f"round {number}"
        constraint = self.constraint.make(entries, autoencoder, campaign, number)
        gan = self.gan.make(autoencoder, constraint.output, campaign, number)
        drawn = self.generate.make(
            entries, autoencoder, constraint.output, gan.output, campaign, number
        )
        relax = self.relax.make(
            drawn.output["candidates"], campaign, f"relaxations, round {number}"
        )
        report = {
            "funnel": drawn.output["funnel"],
            "constraint": constraint.output,
            "gan": gan.output,
            "generation_seconds": drawn.output["seconds"],
        }
        following = self.make(
            entries, autoencoder, campaign, number + 1, [*history, report], relax.output
        )
        for stage in (constraint, gan, drawn):
            in_stage(stage, f"{here}: {stage.name}")
        in_stage(relax, f"{here}: relax")
        in_stage(following, f"{here}: end", inherit=False)
        return Response(
            replace=Flow(
                [constraint, gan, drawn, relax, following],
                output=following.output,
                name=here,
            )
        )


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


@dataclass
class InverseDesignMaker(Maker):
    """A campaign as a flow that any jobflow manager can run.

    Attributes
    ----------
    propose, relax, autoencoder, rounds
        Makers of the stages.
    """

    name: str = "inverse design"
    propose: ProposeMaker = field(default_factory=ProposeMaker)
    relax: RelaxMaker = field(default_factory=RelaxMaker)
    autoencoder: AutoencoderMaker = field(default_factory=AutoencoderMaker)
    rounds: RoundMaker = field(default_factory=RoundMaker)

    def make(self, campaign: Campaign) -> Flow:
        """The flow of a campaign; its output has ``summary``, ``phases`` and ``curves``."""
        plain = campaign.model_dump(mode="json")
        proposed = self.propose.make(plain)
        database = self.relax.make(proposed.output["candidates"], plain, "database")
        autoencoder = self.autoencoder.make(database.output["entries"], plain)
        rounds = self.rounds.make(database.output["entries"], autoencoder.output, plain, 1, [])
        in_stage(proposed, "prototypes")
        in_stage(database, "database")
        in_stage(autoencoder, "autoencoder")
        in_stage(rounds, "rounds", inherit=False)
        stages: list[Job] = [proposed, database, autoencoder, rounds]
        confirmed = None
        if campaign.confirm is not None:
            best = propose_confirmation(rounds.output, plain)
            other = confirmed_campaign(campaign).model_dump(mode="json")
            again = self.relax.make(best.output, other, "confirmation")
            confirmed = again.output
            stages += [in_stage(best, "confirmation"), in_stage(again, "confirmation")]
        end = conclude(
            database.output, proposed.output, autoencoder.output, rounds.output, plain, confirmed
        )
        in_stage(end, "conclusion")
        flow = Flow(
            [*stages, end],
            output=end.output,
            name=f"{self.name} {'-'.join(campaign.elements)}",
        )
        # jobflow's own jobs, which hand on the output of a replacement, have no class and would
        # go on after a failed parent.
        flow.update_config(
            {
                "manager_config": {"_fworker": "light", "worker": "light"},
                "on_missing_references": OnMissing.ERROR,
            },
            name_filter="store_inputs",
        )
        return flow
