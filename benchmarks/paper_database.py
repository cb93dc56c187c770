"""A database of the paper's size for Bi-Se, from what pip installs.

    python benchmarks/paper_database.py [--folder benchmarks/paper_database] [--prototypes N]
        [--random 3000] [--variations 3000] [--seed 0] [--workers N]

Relaxed are: the elements; AFLOW's prototypes with the elements on them and spread over the sites of
all others, at most 20 atoms; PyXtal's random symmetric crystals; and then variations of what has
converged, whatever its energy, made by the operators of dft/structures/variation.py. As in the
paper a cell is at most 10 Å long before it is relaxed, and nothing is chosen by its energy. The
engine is the default one without dispersion, as the paper's PBE has none. Goes on where it was
broken off, and with other numbers adds to what is there; without frames 6,000 crystals take some 5
MB.

The end, and every 200 relaxations, prints how many have converged, and writes `histogram.json`: the
shares with negative formation energy, metastable and stable by the paper's definitions, on the hull
of all, beside the paper's, and the histogram of formation energies. `paper_run.py` takes the
archive in place of a campaign's own database.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from relaxation_archive import Archive, proposed

from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.dft.structures.elements import end_members
from ccdcgan.dft.structures.hull import Hull, Thresholds
from ccdcgan.dft.structures.matching import SeenStructures
from ccdcgan.dft.structures.sources import (
    AflowSource,
    Filters,
    Prototype,
    collect,
    primitive_cell,
    random_crystals,
)
from ccdcgan.dft.structures.substitution import candidates, starting_volume
from ccdcgan.dft.structures.validity import too_close
from ccdcgan.dft.structures.variation import vary
from ccdcgan.workflows.documents import Candidate, RelaxationDocument
from ccdcgan.workflows.evaluation import Share, place, share

ELEMENTS = ("Bi", "Se")
MAX_SITES, MAX_LENGTH = 20, 10.0

#: As in launchers/presets/paper-small.yaml.
RELAXATION = RelaxationSettings(engine=SevenNetEngine(checkpoint="7net-l3i5"), min_distance=0.5)

#: Shares of the paper's 9,810.
PAPER = {"negative": 4588 / 9810, "metastable": 707 / 9810, "stable": 155 / 9810}

#: Relaxations between two looks; variations of a generation, made of what was known before it.
BLOCK = 200

#: Shortest distance of a start, Å, and children that are made for one that suits.
SHORTEST, DRAWS = 1.8, 20

#: Edges of the histogram, eV/atom.
EDGES = np.round(np.arange(-0.4, 1.01, 0.05), 2)


def prototypes(most: int | None) -> list[Candidate]:
    """End members, and substituted and decorated prototypes in an order that nothing decides."""
    filters = Filters(max_sites=MAX_SITES, max_length=MAX_LENGTH)
    found, _, _ = collect([AflowSource(decorated=True)], filters, len(ELEMENTS), 0)
    pool, _ = candidates(found, ELEMENTS)
    order = np.random.default_rng(0).permutation(len(pool))
    members = proposed("element", end_members(ELEMENTS, 4))
    return members + proposed("prototype", [pool[i] for i in order[:most]])


def random_symmetric(count: int, seed: int) -> Iterator[Prototype]:
    """Random symmetric crystals at the volume of substituted prototypes, short enough."""
    for item in random_crystals(list(ELEMENTS), DRAWS * count, MAX_SITES, seed):
        if isinstance(item, Prototype):
            cell = starting_volume(item.structure)
            if max(cell.lattice.abc) <= MAX_LENGTH:
                yield Prototype(item.id, cell)


def variations(archive: Archive, number: int, seed: int, count: int = BLOCK) -> list[Prototype]:
    """A generation or its beginning: children of what converged before it, all alike often."""
    rng = np.random.default_rng([seed, number])
    # Not of this generation nor a later one: so that a run that was broken off makes the same.
    keys = sorted(
        key
        for key, d in archive.documents.items()
        if d.converged and (generation(d) or (seed, -1)) < (seed, number)
    )
    parents = [primitive_cell(archive.documents[k].structure) for k in keys]
    parents = [p for p in parents if len(p) <= MAX_SITES and len(p.composition) == len(ELEMENTS)]
    seen = SeenStructures(parents)
    found: list[Prototype] = []
    for _ in range(DRAWS * count):
        child = vary(parents, [1.0] * len(parents), ELEMENTS, MAX_SITES, rng)
        if child is None:
            continue
        cell = starting_volume(child[0])
        if max(cell.lattice.abc) > MAX_LENGTH or too_close(cell, SHORTEST):
            continue
        if seen.add_if_new(cell):
            found.append(Prototype(f"variation:{seed}-{number}-{len(found)} {child[2]}", cell))
        if len(found) == count:
            break
    return found


def generation(document: RelaxationDocument) -> tuple[int, int] | None:
    """Seed and number of the generation of a variation; None of all else."""
    found = re.match(r"variation:(\d+)-(\d+)-", document.origin.id)
    return (int(found[1]), int(found[2])) if found else None


def relax(archive: Archive, wanted: Sequence[Candidate], options: argparse.Namespace) -> None:
    """Relax what is not there, with a look at all that is after each block."""
    for start in range(0, len(wanted), BLOCK):
        archive.relax(wanted[start : start + BLOCK], options.workers)
        tell(archive, options.folder)


def tell(archive: Archive, folder: Path) -> None:
    """Print what there is, and write its histogram."""
    found = histogram(list(archive.documents.values()))
    (folder / "histogram.json").write_text(json.dumps(found, indent=1) + "\n")
    shares = ", ".join(
        f"{name} {found[name]['fraction']:.1%} (paper {paper:.1%})"
        for name, paper in PAPER.items()
        if found[name]["fraction"] is not None
    )
    print(f"{found['converged']} of {found['relaxed']} converged: {shares}", flush=True)


def histogram(documents: Sequence[RelaxationDocument]) -> dict[str, Any]:
    """Counts of compounds by the paper's definitions, on the hull of all that has converged."""
    converged = [d for d in documents if d.converged]
    hull = Hull.of(
        [(d.structure, d.energy_per_atom or 0.0, d.level_of_theory) for d in converged], ELEMENTS
    )
    compounds = [d for d in converged if len(d.structure.composition) == len(ELEMENTS)]
    places = [place(d, hull) for d in compounds]
    words = [Thresholds().label(energy, above) for energy, above in places]
    counts: dict[str, Share] = {
        "negative": share(sum(energy < 0 for energy, _ in places), len(places)),
        "metastable": share(len(words) - words.count("unstable"), len(words)),
        "stable": share(words.count("stable"), len(words)),
    }
    energies = np.clip([energy for energy, _ in places], EDGES[0], EDGES[-1])
    return {
        "relaxed": len(documents),
        "converged": len(converged),
        "compounds": len(compounds),
        **{name: counted.model_dump() for name, counted in counts.items()},
        "paper": PAPER,
        "edges": EDGES.tolist(),
        "histogram": np.histogram(energies, EDGES)[0].tolist(),
    }


def main() -> None:
    """Make the database, or what is left of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "paper_database")
    parser.add_argument("--prototypes", type=int)
    parser.add_argument("--random", type=int, default=3000)
    parser.add_argument("--variations", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    archive = Archive(options.folder / "relaxations.jsonl.gz", RELAXATION, ELEMENTS)
    relax(archive, prototypes(options.prototypes), options)
    found = islice(random_symmetric(options.random, options.seed), options.random)
    while block := list(islice(found, BLOCK)):
        relax(archive, proposed("prototype", block), options)
    for number in range(-(-options.variations // BLOCK)):
        left = min(options.variations - number * BLOCK, BLOCK)
        made = variations(archive, number, options.seed, left)
        relax(archive, proposed("prototype", made), options)


if __name__ == "__main__":
    main()
