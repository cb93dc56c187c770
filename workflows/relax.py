"""Relaxation as jobs: candidates relaxed in batches, each result stored at once."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

from jobflow import Flow, Job, Maker, Response
from pydantic import TypeAdapter
from pymatgen.core import Structure

from ccdcgan.dft.engines.vasp.record import final_run, read_retry
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.side_by_side import relax_all_by_vasp
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import to_json, write_atomically
from ccdcgan.dft.queue_time import OutOfTimeError, wait_for_the_end
from ccdcgan.dft.relaxation.document import Relaxation, SecondOpinion
from ccdcgan.dft.relaxation.processes import in_workers, relax_many
from ccdcgan.dft.relaxation.properties import PROPERTIES, compute
from ccdcgan.dft.relaxation.relaxer import Relaxer, calculations_folder
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Candidate, Claim, RelaxationDocument
from ccdcgan.workflows.jobs import document_job, in_queue, plain
from ccdcgan.workflows.magnetism import in_orders
from ccdcgan.workflows.outputs import RelaxedOutput, TaskDocument, VaspOutput
from ccdcgan.workflows.propose import key_of
from ccdcgan.workflows.storage.stores import Relaxations

logger = logging.getLogger("ccdcgan")


#: Most jobs of a stage: FireWorks rewrites a campaign's whole workflow with each change of a job.
MOST_JOBS = 500

#: Times that what does not get into the store is relaxed.
TRIES = 2

CANDIDATES = TypeAdapter(list[Candidate])


@dataclass
class RelaxMaker(Maker):
    """Relax candidates; what is in the store already is not relaxed again.

    Attributes
    ----------
    batch_size
        Structures in one job of a potential; a DFT code gets one, those that the campaign relaxes
        at a time if it names a number, or more in a stage of more than `MOST_JOBS`. More candidates
        become several jobs, which run side by side on a cluster.
    turns
        How often a job of a DFT code takes the campaign's number of structures at a time.
    """

    name: str = "relax structures"
    batch_size: int = 500
    turns: int = 1

    @document_job("dft", data="tasks")
    def make(
        self,
        proposed: list[Candidate] | str,
        campaign: Campaign,
        stage: str = "relaxations",
        before: int = 0,
        total: int | None = None,
        spent: float = 0.0,
    ) -> RelaxedOutput | Response[Any]:
        """Entries of the candidates; one whose queue time is nearly over goes on in a new job.

        Parameters
        ----------
        proposed
            Candidates; those of a batch as one JSON text.
        campaign
            Its relaxation and goals say what to do.
        stage, before, total
            For the progress: name of the stage, its candidates in the batches before this one, and
            in all.
        spent
            Seconds that jobs before it have spent, which this one goes on from.
        """
        start = monotonic()
        whole = isinstance(proposed, list)
        if isinstance(proposed, list):
            candidates = in_orders(proposed, campaign.relaxation)
        else:
            candidates = CANDIDATES.validate_json(proposed)
        wanted: dict[str, Candidate] = {}
        for candidate in candidates:
            wanted.setdefault(key_of(candidate, campaign.relaxation), candidate)
        size = self._size(len(wanted), campaign)
        store = Relaxations()
        queues = queues_of(set(wanted) - store.done(wanted))
        total = len(wanted) if total is None else total
        if whole and (len(wanted) > size or queues):
            return Response(replace=self._in_batches(wanted, campaign, stage, size, total, queues))
        try:
            relax_missing(store, wanted, campaign, stage, before, total)
        except OutOfTimeError:
            store.settle()
            spent += monotonic() - start
            wait_for_the_end()
            again = self.make(proposed, campaign, stage, before, total, spent)
            return Response(replace=in_queue(again, next(iter(queues.values()), None)))
        self._add_properties(store, list(wanted), campaign)
        add_second_opinions(store, list(wanted), campaign)
        entries = [Claim(key=key, origin=candidate.origin) for key, candidate in wanted.items()]
        seconds = spent + monotonic() - start
        if not isinstance(campaign.relaxation.engine, VaspEngine):
            return RelaxedOutput(entries=entries, seconds=seconds)
        # Also those of runs before this one: a job may have been broken off.
        runs = {key: run for key in wanted if (run := final_run(key))}
        tasks = {key: task for key, run in runs.items() if (task := task_of(run)) is not None}
        return VaspOutput(entries=entries, seconds=seconds, tasks=tasks)

    def _size(self, number: int, campaign: Campaign) -> int:
        """Structures in one job of a stage of so many."""
        workers = campaign.workers or 1
        at_a_time = self.turns * workers if workers > 1 else 1
        size = self.batch_size if campaign.relaxation.engine.is_potential else at_a_time
        return max(size, ceil(number / MOST_JOBS))

    def _in_batches(
        self,
        wanted: Mapping[str, Candidate],
        campaign: Campaign,
        stage: str,
        size: int,
        total: int,
        queues: Mapping[str, Mapping[str, str]],
    ) -> Flow:
        """Jobs of at most so many structures, and one that joins what they give."""
        batches: list[Job] = []
        first = 0
        for keys in in_batches(list(wanted), size, queues):
            # As text: FireWorks walks through every nested value of a new job many times.
            text = json.dumps(plain([wanted[key] for key in keys]))
            batch = self.make(text, campaign, stage, first, total)
            batches.append(in_queue(batch, queues.get(keys[0])))
            first += len(keys)
        merge = merge_entries([{k: b.output[k] for k in ("entries", "seconds")} for b in batches])
        return Flow([*batches, merge], output=merge.output)

    @staticmethod
    def _add_properties(store: Relaxations, keys: list[str], settings: Campaign) -> None:
        """Compute what the campaign's goals ask for and the documents have not yet."""
        names = [p for p in settings.properties if p in PROPERTIES]
        todo = {key for name in names for key in store.without(keys, name)}
        found = store.get(sorted(todo)).values()
        # Only crystals that hold every element are learnt from.
        m = len(settings.elements)
        documents = [d for d in found if len(d.structure.composition) == m]
        structures = [d.structure for d in documents]
        task = partial(compute, names=names)
        stage = " and ".join(n.replace("_", " ") for n in names)
        without = partial(_without, names)
        results = in_workers(task, structures, settings.relaxation, without, settings.workers)
        for done, (number, values) in enumerate(results, 1):
            document = documents[number]
            for name, value in values.items():
                if isinstance(value, str):
                    document.lacking[name] = value
                else:
                    document.properties[name] = value
            store.put(document)
            progress.report(stage, done, len(documents))
        store.settle()


def add_second_opinions(store: Relaxations, keys: list[str], settings: Campaign) -> None:
    """Ask for those that documents of earlier versions lack."""
    relaxation = settings.relaxation
    if not relaxation.second_opinion or relaxation.engine.second_opinion() is None:
        return
    documents = list(store.get(store.without_opinion(keys)).values())
    structures = [d.structure for d in documents]
    results = in_workers(ask_second, structures, relaxation, _no_opinion, settings.workers)
    for number, opinion in results:
        if opinion is not None:
            documents[number].second_opinion = opinion
            store.put(documents[number])
    store.settle()


def ask_second(relaxer: Relaxer, structure: Structure) -> SecondOpinion | None:
    """A task of `in_workers`."""
    return relaxer.second_opinion(structure)


def _no_opinion(structure: Structure, reason: str) -> None:
    """The second opinion of a structure that its process does not survive."""


def _without(names: Sequence[str], structure: Structure, reason: str) -> dict[str, float | str]:
    """The properties of a structure that its process does not survive."""
    return dict.fromkeys(names, reason)


def queues_of(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """What somebody has asked of the queue for single structures, by content key."""
    found = {key: read_retry(calculations_folder() / key).get("queue") for key in keys}
    return {key: queue for key, queue in found.items() if isinstance(queue, dict) and queue}


def in_batches(keys: Sequence[str], size: int, alone: Container[str]) -> Iterator[list[str]]:
    """Keys in their order, at most so many at a time, and some of them alone."""
    batch: list[str] = []
    for key in keys:
        if batch and (len(batch) == size or key in alone or batch[-1] in alone):
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def relax_missing(
    store: Relaxations,
    wanted: Mapping[str, Candidate],
    settings: Campaign,
    stage: str,
    before: int = 0,
    total: int | None = None,
) -> None:
    """Relax candidates, by content key, that the store has not yet; each is stored at once.

    `stage`, `before` and `total` are for the progress, as of `RelaxMaker.make`.

    Raises
    ------
    UserError
        Results do not get into the store.
    """
    total = len(wanted) if total is None else total
    # A file on the way into the database may be cut: what has not come in is relaxed again.
    for _ in range(TRIES):
        # What was computed while the database was away, or by a worker that was killed.
        store.settle()
        done = store.done(wanted)
        todo = [key for key in wanted if key not in done]
        finished = before + len(done)
        progress.report(stage, finished, total)
        if not todo:
            return
        structures = [wanted[key].structure for key in todo]
        for number, result in relaxed(structures, settings):
            store.put(RelaxationDocument.of(result, wanted[todo[number]], settings.digest()))
            finished += 1
            progress.report(stage, finished, total)
    store.settle()
    if lost := set(wanted) - store.done(wanted):
        raise UserError(
            f"the database does not take {len(lost)} results: the logs of the job's folder tell "
            "why; mend that, then ccdcgan retry --failed"
        )


def relaxed(
    structures: Sequence[Structure], settings: Campaign
) -> Iterator[tuple[int, Relaxation]]:
    """Relax structures, several at a time; VASP has all cores unless the campaign says more."""
    if isinstance(settings.relaxation.engine, VaspEngine):
        return relax_all_by_vasp(structures, settings.relaxation, settings.workers or 1)
    return relax_many(structures, settings.relaxation, settings.workers)


def task_of(folder: Path) -> TaskDocument | None:
    """atomate2's task document of a run of VASP; None where its files are gone or cut.

    It is kept beside the run, which has no such file itself, as atomate2 would take that for a part
    of it: whoever tries a campaign's failed structures again asks for those of all.
    """
    from atomate2.vasp.jobs.base import get_vasp_task_document

    kept = folder.with_name(f"{folder.name}.task.json.gz")
    task: TaskDocument
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
        task = json.loads(gzip.decompress(kept.read_bytes()))
        return task
    try:
        text = to_json(get_vasp_task_document(folder).model_dump(mode="json"))
        write_atomically(kept, gzip.compress(text.encode(), mtime=0))
        task = json.loads(text)
    except Exception as error:  # noqa: BLE001  the result is stored: its files may be cleared away
        logger.warning("no task document of %s: %s", folder, type(error).__name__)
        return None
    return task


@document_job("light")
def merge_entries(batches: list[RelaxedOutput]) -> RelaxedOutput:
    """Outputs of the batches of one relaxation stage, as one."""
    return RelaxedOutput(
        entries=[claim for batch in batches for claim in batch.entries],
        # Of all jobs together, which may have run side by side.
        seconds=sum(batch.seconds for batch in batches),
    )
