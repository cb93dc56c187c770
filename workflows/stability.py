"""The best crystals of a campaign beyond their energies: phonons and elastic constants as jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from jobflow import Maker, Response

from ccdcgan.dft.dynamics.document import Stability
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.queue_time import OutOfTimeError, wait_for_the_end
from ccdcgan.dft.relaxation.processes import in_workers
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Artifact, Candidate, Origin, Phase
from ccdcgan.workflows.jobs import document_job
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.outputs import Examined, RoundsOutput, StabilityOutput
from ccdcgan.workflows.phases import ranked
from ccdcgan.workflows.storage.stores import artifact_key, keep_artifact, stored_artifact

#: To be raised when the same crystal would come to other figures.
VERSION = 1


class StabilityArtifact(Artifact):
    """Phonons and elastic constants of one crystal."""

    stability: Stability


@document_job("light")
def propose_stability(outcome: RoundsOutput, campaign: Campaign) -> list[Phase]:
    """The crystals to examine: new ones, nearest to the hull first."""
    assert campaign.stability is not None
    phases = Knowledge.of_job(outcome.entries, campaign).phases
    return ranked(phases, campaign.thresholds)[: campaign.stability.count]


@dataclass
class StabilityMaker(Maker):
    """Phonons and elastic constants; what was examined before is not computed again."""

    name: str = "stability"

    @document_job("dft", data="crystals")
    def make(
        self, phases: list[Phase], campaign: Campaign, spent: float = 0.0
    ) -> StabilityOutput | Response[Any]:
        """Figures of crystals in their order, and candidates along imaginary modes.

        By VASP one crystal after the other; where the queue's time is nearly over, the rest goes
        on in a new job.

        Parameters
        ----------
        phases, campaign
            The crystals, and whose they are.
        spent
            Seconds that jobs before this one have spent.
        """
        start = monotonic()
        keys = {p.id: artifact_key("stability", VERSION, p.id) for p in phases}
        found = {i: stored_artifact(key, StabilityArtifact) for i, key in keys.items()}
        todo = [p for p in phases if found[p.id] is None]
        progress.report(self.name, len(phases) - len(todo), len(phases))
        try:
            for done, (number, stability) in enumerate(_examined(todo, campaign), 1):
                made, one = StabilityArtifact(stability=stability), todo[number].id
                keep_artifact(keys[one], made)
                found[one] = made
                progress.report(self.name, len(phases) - len(todo) + done, len(phases))
        except OutOfTimeError:
            wait_for_the_end()
            return Response(replace=self.make(phases, campaign, spent + monotonic() - start))
        crystals = [
            Examined(
                id=p.id, formula=p.formula, spacegroup=p.spacegroup, stability=artifact.stability
            )
            for p in phases
            if (artifact := found[p.id]) is not None
        ]
        seconds = spent + monotonic() - start
        return StabilityOutput(crystals=crystals, candidates=followed(crystals), seconds=seconds)


def _examined(phases: Sequence[Phase], campaign: Campaign) -> Iterator[tuple[int, Stability]]:
    """Stability of crystals by their index, as they are ready."""
    # phonopy takes a second to import: only this job needs it.
    from ccdcgan.dft.dynamics.stability import finer, given_up, stability_by_vasp, stability_of

    settings, structures = finer(campaign.relaxation), [p.structure for p in phases]
    if isinstance(settings.engine, VaspEngine):
        return ((i, stability_by_vasp(settings, s)) for i, s in enumerate(structures))
    without = partial(given_up, settings)
    return in_workers(stability_of, structures, settings, without, campaign.workers)


def followed(crystals: Sequence[Examined]) -> list[Candidate]:
    """Crystals displaced along imaginary modes, which name their parents."""
    return [
        Candidate(
            origin=Origin(kind="generated", id=f"mode of {c.id}", source="mode"), structure=moved
        )
        for c in crystals
        if (moved := c.stability.followed) is not None
    ]


def with_stability(phases: Sequence[Phase], crystals: Sequence[Examined]) -> None:
    """Give phases the figures of those that were examined."""
    figures = {c.id: c.stability.figures for c in crystals}
    for phase in phases:
        phase.stability = figures.get(phase.id, phase.stability)
