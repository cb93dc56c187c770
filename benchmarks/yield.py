"""Which source of structures finds most new low-energy crystals per relaxation.

    python benchmarks/yield.py [--folder benchmarks/yield] [--sources NAME ...] [--seeds 0 1 2]
        [--start 250] [--budget 200] [--workers N]

All sources begin with one database: the end members and `--start` prototypes, picked at random
among the decorated AFLOW prototypes of at most 14 atoms. Then each gets `--budget` relaxations, in
`ROUNDS` rounds where it learns. A crystal counts if it is converged, matches (StructureMatcher
0.2, 0.3, 5 degrees) nothing in the starting database and nothing found before by the same source
and seed, has a negative formation energy, and lies within the threshold of the hull of everything
that all sources have found.

What was relaxed is kept in the folder under content keys: a run that was broken off goes on, and a
later one adds to it. Prints yields, rounds and what became of the relaxed, all seeds of a source
together, and writes them with those of each run as `table.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from jobflow import Flow, run_locally
from pydantic import TypeAdapter
from relaxation_archive import Archive, proposed

from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import AflowSource, Filters, Prototype, collect, random_crystals
from ccdcgan.dft.structures.substitution import candidates, starting_volume
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.pipeline import train_constraints
from ccdcgan.models.sampling import shipped_autoencoder
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.choosing import choose
from ccdcgan.workflows.documents import Candidate, Claim
from ccdcgan.workflows.evaluation import Share, fates, place, share, yield_of
from ccdcgan.workflows.flow import RoundMaker
from ccdcgan.workflows.judge import Judge
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.learn import AutoencoderMaker
from ccdcgan.workflows.storage.stores import RESULTS, Relaxations
from ccdcgan.workflows.training import crystals_of, preset_of

ELEMENTS = ("Bi", "Se")
MAX_SITES = 14
ROUNDS = 4
#: SevenNet-0, which the archive of relaxations was made with.
RELAXATION = RelaxationSettings(engine=SevenNetEngine(), fmax=0.05, max_steps=200)

ERRORS = TypeAdapter(dict[str, PropertyErrors])


def prototypes(start: int) -> tuple[list[Candidate], list[Candidate]]:
    """The starting database (end members first), and the prototypes that are left."""
    found, _, _ = collect(
        [AflowSource(decorated=True)], Filters(max_sites=MAX_SITES, max_length=15.0), 2, 0
    )
    pool, _ = candidates(found, ELEMENTS)
    order = np.random.default_rng(0).permutation(len(pool))
    shuffled = [pool[i] for i in order]
    # Not `end_members`: those of the table that is written down, whose relaxations are kept.
    elemental, _, _ = collect(
        [AflowSource(designated=True)], Filters(max_sites=8, max_length=1e3), 1, 0
    )
    members = [p for symbol in ELEMENTS for p in candidates(elemental, [symbol])[0]]
    first = proposed("element", members) + proposed("prototype", shuffled[:start])
    return first, proposed("prototype", shuffled[start:])


def random_symmetric(count: int, seed: int) -> list[Candidate]:
    """Random symmetric crystals from PyXtal, at the volume of substituted prototypes."""
    found = random_crystals(list(ELEMENTS), count, MAX_SITES, seed)
    usual = [
        Prototype(p.id, starting_volume(p.structure)) for p in found if isinstance(p, Prototype)
    ]
    return proposed("prototype", usual)


#: Sources that generate: what differs from the default campaign.
NETWORKS: dict[str, dict[str, Any]] = {
    "dcgan": {"variant": "dcgan"},
    "dcgan+constraint": {"variant": "dcgan+constraint"},
    "ccdcgan, paper's loss": {"loss": "bce", "selection": "none"},
    "ccdcgan": {},
    "ccdcgan, not pre-relaxed": {"prerelax": 0},
    "ccdcgan, not screened": {"selection": "none"},
    "ccdcgan, one round": {"rounds": 1},
    "ccdcgan, GAN not trained": {"gan_steps": 1},
    "ccdcgan with stackings": {"stackings": 400},
}
SOURCES = ("random", "prototypes", "prototypes ranked", *NETWORKS)


def campaign_of(source: str, seed: int, budget: int, samples: int) -> Campaign:
    """The campaign of a source that generates."""
    chosen = dict(NETWORKS.get(source, {}))
    rounds = chosen.pop("rounds", ROUNDS)
    screening = {
        "max_sites": MAX_SITES,
        # Limits that do not follow what is known keep the protocol the same.
        "min_distance": 1.8,
        "volume_range": (15.0, 60.0),
        "per_formula": max(1, 8 * ROUNDS // rounds),
        # As the default was when the table was made.
        "within": 0.1,
        "selection": chosen.pop("selection", "expected_gain"),
        **{key: chosen.pop(key) for key in ("prerelax",) if key in chosen},
    }
    stackings = chosen.pop("stackings", 0)
    loop = {
        "rounds": rounds,
        # As many are judged.
        "samples": samples * ROUNDS // rounds - stackings,
        "stackings": stackings,
        "sources": ["stackings", "generator"] if stackings else ["generator"],
        "relaxations": budget // rounds,
        "screening": screening,
    }
    return Campaign.model_validate(
        {
            "system": list(ELEMENTS),
            "seed": seed,
            "relaxation": RELAXATION,
            "networks": chosen,
            "loop": loop,
        }
    )


def generated(
    archive: Archive, first: Sequence[Claim], campaign: Campaign, folder: Path, frames: bool
) -> list[str]:
    """Content keys of what a campaign's rounds relax, in their order; frames kept if asked for."""
    store: Any = embedded_store(folder)
    store.connect()
    relaxations = Relaxations(store.additional_stores[RESULTS])
    for key in {e.key for e in first} - relaxations.done([e.key for e in first]):
        relaxations.put(archive.documents[key])
    entries = [e.model_dump(mode="json") for e in first]
    plain = campaign.model_dump(mode="json")
    autoencoder = AutoencoderMaker().make(entries, plain)
    rounds = RoundMaker().make(entries, autoencoder.output, plain, 1, [])
    flow = Flow([autoencoder, rounds], output=rounds.output)
    os.environ["CCDCGAN_CHECKPOINTS"] = str(folder / "checkpoints")
    run_locally(flow, store=store, log=False, root_dir=folder, raise_immediately=True)
    outcome = store.get_output(rounds.uuid, which="last", load=True)
    keys = [e["key"] for e in outcome["entries"][len(entries) :]]
    archive.add(list(relaxations.get(keys).values()), frames)
    return keys


def ranked(
    archive: Archive,
    first: Sequence[Claim],
    rest: Sequence[Candidate],
    campaign: Campaign,
    workers: int | None,
) -> list[str]:
    """Content keys of prototypes that the constraint chooses, as it chooses samples."""
    entries, left = list(first), list(rest)
    keys: list[str] = []
    for number in range(1, campaign.loop.rounds + 1):
        documents = {e.key: archive.documents[e.key] for e in entries}
        knowledge = Knowledge(campaign, documents, entries)
        samples = knowledge.samples
        crystals = crystals_of(samples, campaign.properties)
        preset = preset_of(campaign)
        files = shipped_autoencoder()
        trained, figures = train_constraints(
            crystals, ELEMENTS, preset, files, campaign.seed + number, guided=False
        )
        structures = [c.structure for c in left]
        errors = ERRORS.validate_python(figures["properties"])
        _, gain = Judge(knowledge, files | trained, errors)(structures)
        screening = campaign.loop.screening
        picked = choose(
            structures,
            gain,
            SeenStructures(knowledge.structure(e.key) for e in entries),
            screening.per_formula,
            campaign.loop.relaxations,
            knowledge.novelty(),
        )
        found = archive.relax([left[i] for i in picked], workers)
        entries += found
        keys += [e.key for e in found]
        left = [c for i, c in enumerate(left) if i not in set(picked)]
    return keys


def relaxed_by(
    source: str,
    seed: int,
    archive: Archive,
    first: Sequence[Claim],
    rest: Sequence[Candidate],
    options: argparse.Namespace,
) -> list[str]:
    """Content keys of what a source relaxes with a seed."""
    if source == "random":
        entries = archive.relax(random_symmetric(options.budget, seed), options.workers)
        return [e.key for e in entries]
    if source == "prototypes":
        order = np.random.default_rng([1, seed]).permutation(len(rest))[: options.budget]
        return [e.key for e in archive.relax([rest[i] for i in order], options.workers)]
    campaign = campaign_of(source, seed, options.budget, options.samples)
    if source == "prototypes ranked":
        return ranked(archive, first, rest, campaign, options.workers)
    folder = options.work / f"{source} {seed}".replace(" ", "-").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    # The learnt potential is judged by those of the default (benchmarks/potential.py).
    return generated(archive, first, campaign, folder, frames=source == "ccdcgan")


def table(archive: Archive, first: Sequence[Claim], runs: dict[str, list[str]]) -> dict[str, Any]:
    """The yields of all runs on the hull of everything, and of their sources."""
    known = {e.key for e in first}.union(*runs.values())
    everything = {k: archive.documents[k] for k in known}
    hull = Knowledge(Campaign(relaxation=RELAXATION), everything).hull
    start = [
        archive.documents[e.key].structure for e in first if archive.documents[e.key].converged
    ]
    rows: dict[str, Any] = {}
    for name, keys in sorted(runs.items()):
        documents = [archive.documents[k] for k in keys]
        rows[name] = yield_of(documents, start, hull).model_dump()
        size = max(1, len(keys) // ROUNDS)
        judged = zip(documents, fates(documents, SeenStructures(start)), strict=True)
        found = [document for document, fate in judged if fate == "new"]
        low = {d.key for d in found if (p := place(d, hull))[0] < 0 and p[1] <= 0.1}
        rows[name]["by_round_0.10"] = [
            sum(k in low for k in keys[i : i + size]) for i in range(0, len(keys), size)
        ]
    pooled: dict[str, dict[str, Share]] = {}
    for source, seeds in by_source(rows).items():
        own = [r["below"] for r in seeds]
        pooled[source] = {
            distance: share(
                sum(b[distance]["count"] for b in own), sum(b[distance]["of"] for b in own)
            )
            for distance in own[0]
        }
    best = pooled.get("ccdcgan", {})
    return {
        "sources": {
            source: {
                distance: {
                    **found.model_dump(),
                    "ccdcgan_finds": times(best[distance], found) if best else None,
                }
                for distance, found in below.items()
            }
            for source, below in pooled.items()
        },
        "start": {"relaxed": len(first), "converged": len(start)},
        "level_of_theory": archive.level.model_dump(),
        "relaxation": RELAXATION.model_dump(mode="json"),
        "runs": rows,
    }


def by_source(runs: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The seeds of each source."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, run in runs.items():
        found.setdefault(name.rsplit(", seed", 1)[0], []).append(run)
    return found


def times(a: Share, b: Share) -> list[float] | None:
    """How many times the share `a` is `b`, and the interval (95%, Katz's logarithm) of that."""
    if not (a.count and b.count):
        return None
    ratio = (a.count / a.of) / (b.count / b.of)
    width = 1.96 * np.sqrt(1 / a.count - 1 / a.of + 1 / b.count - 1 / b.of)
    return [round(float(ratio * np.exp(k * width)), 2) for k in (0, -1, 1)]


def lines_of(found: dict[str, Any]) -> str:
    """The yields of the sources, their rounds, and what became of the relaxed, in Markdown."""
    order = sorted(found["sources"], key=lambda s: found["sources"][s]["0.10"]["fraction"])
    rows = [["", "relaxed", "≤ 0.05", "≤ 0.10", "≤ 0.15", "ccdcgan finds, ≤ 0.10"]]
    for name in order:
        below = found["sources"][name]
        cells = [name, str(below["0.10"]["of"])]
        for distance in ("0.05", "0.10", "0.15"):
            one = below[distance]
            low, high = 100 * one["low"], 100 * one["high"]
            cells.append(f"{100 * one['fraction']:.1f}% [{low:.1f}, {high:.1f}]")
        ratio = below["0.10"]["ccdcgan_finds"]
        known = ratio and name != "ccdcgan"
        cells.append(f"{ratio[0]:.1f} × [{ratio[1]:.1f}, {ratio[2]:.1f}]" if known else "")
        rows.append(cells)
    seeds = by_source(found["runs"])
    rounds = [["≤ 0.10, round", *map(str, range(1, ROUNDS + 1))]]
    head = "converged|unique|new|stay themselves|displacement, Å|mean of theirs, Å"
    became = [["", *head.split("|")]]
    for name in order:
        runs = seeds[name]
        relaxed = sum(r["relaxed"] for r in runs)
        if name not in ("random", "prototypes", "ccdcgan, one round"):
            counts = np.sum([r["by_round_0.10"] for r in runs], axis=0)
            rounds.append([name, *(f"{100 * c / relaxed * ROUNDS:.0f}%" for c in counts)])
        stayed = np.array([r["stayed"]["count"] for r in runs])
        square = np.array([r["displacement"] for r in runs]) ** 2
        mean = np.array([r["mean_displacement"] for r in runs])
        shares = [sum(r[k]["count"] for r in runs) / relaxed for k in KINDS]
        became.append(
            [
                name,
                *(f"{100 * part:.0f}%" for part in shares),
                f"{np.sqrt(np.average(square, weights=stayed)):.2f}",
                f"{np.average(mean, weights=stayed):.2f}",
            ]
        )
    return "\n\n".join(map(markdown, (rows, rounds, became)))


#: Counts of a `Yield` in the table of what became of the relaxed.
KINDS = ("converged", "unique", "new", "stayed")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, its head first."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Yield per relaxation, source by source.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "yield")
    parser.add_argument("--sources", nargs="*", default=SOURCES, choices=SOURCES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--start", type=int, default=250)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--samples", type=int, default=4000, help="graphs drawn a round")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--work", type=Path, help="folder of the campaigns, kept for going on")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    options.folder.mkdir(exist_ok=True)
    archive = Archive(options.folder / "relaxations.jsonl.gz", RELAXATION, ELEMENTS)
    runs_file = options.folder / "runs.json"
    runs = json.loads(runs_file.read_text()) if runs_file.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        initial, rest = prototypes(options.start)
        first = archive.relax(initial, options.workers, frames=True)
        for seed in options.seeds:
            for source in options.sources:
                name = f"{source}, seed {seed}"
                if name not in runs:
                    keys = relaxed_by(source, seed, archive, first, rest, options)
                    # Another process may have added to it.
                    runs = json.loads(runs_file.read_text()) if runs_file.exists() else {}
                    runs[name] = keys
                    runs_file.write_text(json.dumps(runs) + "\n")
                    print(f"done: {name}", file=sys.stderr, flush=True)
    archive = Archive(archive.path, RELAXATION, ELEMENTS)
    found = table(archive, first, runs)
    (options.folder / "table.json").write_text(json.dumps(found, indent=1) + "\n")
    print(lines_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
