"""Crystals relaxed in batches beside one after the other: prints one JSON line.

Usage: python benchmarks/batch.py [--count N] [--skip N] [--at-a-time N] [--workers N] [--parity]

Unrelaxed AFLOW prototypes of 5 to 20 atoms, of several chemistries, go both ways through the
default engine on whatever device there is, in as many processes. Where a crystal has another fate
by the two, or energies further than 1 meV/atom apart, it is relaxed alone once more, its atoms in
reverse order: the paths of wild crystals part with the last digit of a force. With --parity, those
that come out the same by themselves, but not by batches, are a failure.

It needs an environment with Python 3.12 or newer and torch-sim: pip install -e '.[batch]'
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
from collections.abc import Iterator
from itertools import islice, zip_longest
from time import perf_counter
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pymatgen.core import Structure

from ccdcgan.dft.engines.potentials import device
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.processes import relax_many
from ccdcgan.dft.relaxation.settings import AUTO_BATCH, RelaxationSettings
from ccdcgan.dft.structures.sources import AflowSource, Filters, collect
from ccdcgan.dft.structures.substitution import candidates

SYSTEMS = (("Bi", "Se"), ("Mg", "O"), ("Ti", "C"), ("Na", "Cl"))
ATOMS = (5, 20)

#: What the two routes may be apart, eV/atom.
TOLERANCE = 0.001


class Run(NamedTuple):
    """Relaxations of all structures by one route."""

    results: list[Relaxation]
    seconds: float
    """On the clock, with the start of the processes."""
    processor: float
    """Seconds of all processes."""


def crystals(count: int) -> list[Structure]:
    """Substituted prototypes in a random order that stays, the chemistries in turn."""
    prototypes, _, _ = collect([AflowSource()], Filters(max_sites=ATOMS[1]), 2, 0)

    def of(system: tuple[str, str]) -> Iterator[Structure]:
        found, _ = candidates(prototypes, system)
        large = [p.structure for p in found if len(p.structure) >= ATOMS[0]]
        yield from random.Random(0).sample(large, len(large))

    turns = zip_longest(*map(of, SYSTEMS))
    return list(islice((s for turn in turns for s in turn if s is not None), count))


def run(structures: list[Structure], settings: RelaxationSettings, workers: int) -> Run:
    """Relax all structures."""
    before, start = _processor_seconds(), perf_counter()
    found = dict(relax_many(structures, settings, workers))
    seconds = perf_counter() - start
    results = [found[number] for number in range(len(structures))]
    return Run(results, seconds, _processor_seconds() - before)


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def apart(one: Relaxation, other: Relaxation) -> float | str:
    """How far the energies are apart, eV/atom, or how the fates differ."""
    fates = [r.reason or "converged" for r in (one, other)]
    if fates[0] != fates[1]:
        return f"{fates[0]} / {fates[1]}"
    if one.energy_per_atom is None or other.energy_per_atom is None:
        return 0.0
    return float(f"{abs(one.energy_per_atom - other.energy_per_atom):.2g}")


def same(difference: float | str) -> bool:
    """Whether two relaxations are as good as one."""
    return not isinstance(difference, str) and difference <= TOLERANCE


def main(argv: list[str] | None = None) -> int:
    """Relax both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--skip", type=int, default=0, help="crystals that another run compares")
    parser.add_argument("--at-a-time", type=int, help="4 on a CPU, 128 on a GPU")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--parity", action="store_true", help="fail beyond 1 meV/atom")
    arguments = parser.parse_args(argv)
    where = device()
    at_a_time = arguments.at_a_time or (AUTO_BATCH if where == "cuda" else 4)
    settings = RelaxationSettings(batch=at_a_time, second_opinion=False)
    alone = settings.model_copy(update={"batch": "none"})
    try:
        settings.check(sorted({element for system in SYSTEMS for element in system}))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    structures = crystals(arguments.skip + arguments.count)[arguments.skip :]
    batches, one_by_one = (run(structures, s, arguments.workers) for s in (settings, alone))
    differences = list(map(apart, batches.results, one_by_one.results))
    beyond = [number for number, difference in enumerate(differences) if not same(difference)]
    reverse = [Structure.from_sites(structures[n].sites[::-1]) for n in beyond]
    again = run(reverse, alone, arguments.workers).results
    itself = [apart(a, one_by_one.results[n]) for n, a in zip(beyond, again, strict=True)]
    names = [f"{n} {structures[n].composition.reduced_formula}" for n in beyond]
    sizes = [len(s) for s in structures]
    line = {
        "device": where,
        "workers": arguments.workers,
        "at_a_time": at_a_time,
        "skipped": arguments.skip,
        "structures": len(structures),
        "atoms": [min(sizes), max(sizes)],
        "converged": sum(r.converged for r in one_by_one.results),
        "steps": [sum(r.steps for r in way.results) for way in (batches, one_by_one)],
        "batches_per_minute": round(60 * len(structures) / batches.seconds, 1),
        "one_by_one_per_minute": round(60 * len(structures) / one_by_one.seconds, 1),
        "processor_seconds": [round(way.processor, 1) for way in (batches, one_by_one)],
        "largest_difference_within_it_ev_per_atom": max(filter(same, differences), default=0.0),
        "beyond_tolerance": {name: differences[n] for name, n in zip(names, beyond, strict=True)},
        "these_alone_in_reverse_order": dict(zip(names, itself, strict=True)),
    }
    print(json.dumps(line), flush=True)
    return 1 if arguments.parity and any(map(same, itself)) else 0


if __name__ == "__main__":
    sys.exit(main())
