"""Stage 1 as jobs: propose structures, relax them, store each result at once."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Any

from jobflow import Flow, Job, JobConfig, Maker, Response, job
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation import content_key, relax_many
from ccdcgan.dft.sources import collect
from ccdcgan.dft.substitution import candidates, end_members
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Entry, Origin, RelaxationDocument
from ccdcgan.workflows.stores import Relaxations


def worker_class(name: str) -> JobConfig:
    """Job settings that route a job to a worker class (``dft``, ``gpu`` or ``light``)."""
    return JobConfig(expose_store=True, manager_config={"_fworker": name})


@dataclass
class ProposeMaker(Maker):
    """Substituted prototypes and end members of a campaign."""

    name: str = "propose structures"

    @job(config=worker_class("light"))
    def make(self, campaign: dict[str, Any]) -> dict[str, Any]:
        """Return ``candidates``, ``rejected`` prototypes by reason and what was ``skipped``."""
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        chosen = settings.database
        prototypes, rejected, skipped = collect(
            chosen.sources, chosen.filters, len(settings.elements), settings.seed
        )
        found, duplicates = candidates(prototypes, settings.elements)
        if duplicates:
            rejected["duplicate"] += duplicates
        if not found:
            reasons = ", ".join(f"{n} {r}" for r, n in rejected.items()) or "none was found"
            raise UserError(f"no prototype passes the filters ({reasons}): widen database.filters")
        if chosen.max_candidates is not None and len(found) > chosen.max_candidates:
            rejected["beyond max_candidates"] += len(found) - chosen.max_candidates
            found = found[: chosen.max_candidates]
        elements = end_members(settings.elements, chosen.element_sites)
        kinds = [("element", e) for e in elements] + [("prototype", p) for p in found]
        return {
            "candidates": [
                Candidate(
                    origin=Origin.model_validate({"kind": kind, "id": p.id}),
                    structure=p.structure.as_dict(),
                ).model_dump(mode="json")
                for kind, p in kinds
            ],
            "rejected": dict(rejected),
            "skipped": [{"id": s.id, "reason": s.reason} for s in skipped],
            "seconds": monotonic() - start,
        }


@dataclass
class RelaxMaker(Maker):
    """Relax candidates; what is in the store already is not relaxed again.

    Attributes
    ----------
    batch_size
        Structures in one job. More candidates become several jobs, which run side by side on a
        cluster.
    """

    name: str = "relax structures"
    batch_size: int = 500

    @job(config=worker_class("dft"))
    def make(
        self, proposed: list[dict[str, Any]], campaign: dict[str, Any], stage: str = "relaxations"
    ) -> dict[str, Any] | Response[Any]:
        """Return the ``entries`` of the candidates, in their order."""
        if len(proposed) > self.batch_size:
            batches: list[Job] = [
                self.make(proposed[i : i + self.batch_size], campaign, stage)
                for i in range(0, len(proposed), self.batch_size)
            ]
            merge = merge_entries([b.output for b in batches])
            return Response(replace=Flow([*batches, merge], output=merge.output))
        start = monotonic()
        settings = Campaign.model_validate(campaign)
        waiting = [Candidate.model_validate(c) for c in proposed]
        structures = [Structure.from_dict(c.structure) for c in waiting]
        level = settings.relaxation.engine.level_of_theory()
        keys = [content_key(s, level, settings.relaxation) for s in structures]
        store = Relaxations()
        done = store.done(keys)
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        todo = sorted(i for key, i in first.items() if key not in done)
        finished = len(first) - len(todo)
        progress.report(stage, finished, len(first))
        for number, result in relax_many(
            [structures[i] for i in todo], settings.relaxation, settings.workers
        ):
            candidate = waiting[todo[number]]
            store.put(
                RelaxationDocument(
                    **result.model_dump(),
                    campaign=settings.digest(),
                    origin=candidate.origin,
                    initial_structure=candidate.structure,
                    level_of_theory=level,
                )
            )
            finished += 1
            progress.report(stage, finished, len(first))
        entries = [
            Entry(key=key, origin=waiting[i].origin).model_dump(mode="json")
            for key, i in first.items()
        ]
        order = sorted(range(len(entries)), key=lambda n: first[entries[n]["key"]])
        return {"entries": [entries[n] for n in order], "seconds": monotonic() - start}


@job(config=worker_class("light"))
def merge_entries(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the outputs of the batches of one relaxation stage."""
    return {
        "entries": [entry for batch in batches for entry in batch["entries"]],
        "seconds": max(batch["seconds"] for batch in batches),
    }
