"""The whole campaign as one flow: database, then rounds of training, generation and relaxation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Job, Maker, OnMissing, Response

from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.conclude import conclude, publish_phases
from ccdcgan.workflows.confirm import (
    confirmed_campaign,
    propose_confirmation,
)
from ccdcgan.workflows.documents import Claim
from ccdcgan.workflows.generate import GenerateMaker
from ccdcgan.workflows.jobs import document_job, in_stage
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.learn import AutoencoderMaker, ConstraintMaker, GanMaker
from ccdcgan.workflows.outputs import AutoencoderOutput, RelaxedOutput, RoundReport, RoundsOutput
from ccdcgan.workflows.propose import ProposeMaker
from ccdcgan.workflows.relax import RelaxMaker
from ccdcgan.workflows.stability import StabilityMaker, propose_stability


@dataclass
class RoundMaker(Maker):
    """One round after another; each grows the next until the campaign's number is reached."""

    name: str = "round"
    relax: RelaxMaker = field(default_factory=RelaxMaker)
    constraint: ConstraintMaker = field(default_factory=ConstraintMaker)
    gan: GanMaker = field(default_factory=GanMaker)
    generate: GenerateMaker = field(default_factory=GenerateMaker)

    @document_job("light")
    def make(
        self,
        entries: list[Claim],
        autoencoder: AutoencoderOutput,
        campaign: Campaign,
        number: int,
        history: list[RoundReport],
        last: RelaxedOutput | None = None,
    ) -> Response[Any] | RoundsOutput:
        """Outcome of all rounds after the last round; before it, a round in its place.

        Parameters
        ----------
        entries, history
            What the campaign has relaxed, and what each finished round reports.
        number
            The round to do now, from 1.
        last
            What the round before has relaxed, to be joined with `entries`.
        """
        entries = entries + (last.entries if last else [])
        if history and last:
            history[-1].relaxation_seconds = last.seconds
        for report in history[:-1]:
            # Of each crystal the last round knows more.
            report.latent = None
        if number > campaign.loop.rounds:
            return RoundsOutput(entries=entries, history=history)
        publish_phases(Knowledge.of_job(entries, campaign))
        return Response(replace=self._round(entries, autoencoder, campaign, number, history))

    def _round(
        self,
        entries: list[Claim],
        autoencoder: AutoencoderOutput,
        campaign: Campaign,
        number: int,
        history: list[RoundReport],
    ) -> Flow:
        """A round, and at its end the job that decides what follows."""
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
            "latent": drawn.output["latent"],
        }
        following = self.make(
            entries, autoencoder, campaign, number + 1, [*history, report], relax.output
        )
        for stage in (constraint, gan, drawn):
            in_stage(stage, f"{here}: {stage.name}")
        in_stage(relax, f"{here}: relax")
        in_stage(following, f"{here}: end", inherit=False)
        stages: list[Flow | Job] = [constraint, gan, drawn, relax, following]
        return Flow(stages, output=following.output, name=here)


@dataclass
class InverseDesignMaker(Maker):
    """A campaign as a flow that any jobflow manager can run.

    Attributes
    ----------
    propose, relax, autoencoder, rounds, stability
        Makers of the stages.

    Examples
    --------
    >>> import ccdcgan
    >>> flow = ccdcgan.InverseDesignMaker().make(ccdcgan.Campaign(system="Bi-Se"))
    >>> flow.jobs[0].name
    'propose structures'
    """

    name: str = "inverse design"
    propose: ProposeMaker = field(default_factory=ProposeMaker)
    relax: RelaxMaker = field(default_factory=RelaxMaker)
    autoencoder: AutoencoderMaker = field(default_factory=AutoencoderMaker)
    rounds: RoundMaker = field(default_factory=RoundMaker)
    stability: StabilityMaker = field(default_factory=StabilityMaker)

    def make(self, campaign: Campaign) -> Flow:
        """The flow of a campaign; its output has ``summary``, ``phases`` and ``curves``."""
        proposed = self.propose.make(campaign)
        database = self.relax.make(proposed.output["candidates"], campaign, "database")
        autoencoder = self.autoencoder.make(database.output["entries"], campaign)
        rounds = self.rounds.make(database.output["entries"], autoencoder.output, campaign, 1, [])
        in_stage(proposed, "prototypes")
        in_stage(database, "database")
        in_stage(autoencoder, "autoencoder")
        in_stage(rounds, "rounds", inherit=False)
        stages: list[Job] = [proposed, database, autoencoder, rounds]
        confirmed = None
        if campaign.confirm is not None:
            best = propose_confirmation(rounds.output, campaign)
            again = self.relax.make(best.output, confirmed_campaign(campaign), "confirmation")
            confirmed = again.output
            stages += [in_stage(best, "confirmation"), in_stage(again, "confirmation")]
        examined = followed = None
        if campaign.stability is not None:
            best = propose_stability(rounds.output, campaign)
            stability = self.stability.make(best.output, campaign)
            along = self.relax.make(stability.output["candidates"], campaign, "imaginary modes")
            examined, followed = stability.output, along.output
            stages += [in_stage(job, "stability") for job in (best, stability, along)]
        end = conclude(
            database.output,
            proposed.output,
            autoencoder.output,
            rounds.output,
            campaign,
            confirmed,
            examined,
            followed,
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
