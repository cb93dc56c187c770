"""The whole campaign as one flow: database, then rounds of training, generation and relaxation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Job, Maker, OnMissing, Response, job

from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.conclude import conclude, publish_phases
from ccdcgan.workflows.confirm import (
    confirmed_campaign,
    propose_confirmation,
)
from ccdcgan.workflows.generate import GenerateMaker
from ccdcgan.workflows.jobs import in_stage, worker_class
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.learn import AutoencoderMaker, ConstraintMaker, GanMaker
from ccdcgan.workflows.propose import ProposeMaker
from ccdcgan.workflows.relax import RelaxMaker


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
