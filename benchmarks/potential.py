"""The learnt potential: its errors for a campaign's last round, and what it costs.

    python benchmarks/potential.py [--folder benchmarks/yield] [--run "ccdcgan, seed 0"]

Learns from what `benchmarks/yield.py` has kept: the relaxations of the starting database and the
first three quarters of those of a run. Tests on the geometries of the last quarter. Prints one JSON
line: mean absolute errors of energies (eV/atom) and forces (eV/Å) with the mean of the forces'
components, seconds of the fit, and milliseconds of an evaluation by the potential and, for the same
geometries, by SevenNet-0. Set OMP_NUM_THREADS to the cores that it may take.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from ase import Atoms

from ccdcgan.dft.engines.potentials import SevenNetEngine
from ccdcgan.models.energy.potential import Labelled, fit_potential

#: Geometries on which both are timed.
TIMED = 20


def frames_of(rows: Iterable[dict[str, Any]], elements: Sequence[str]) -> Iterator[Labelled]:
    """The geometries of kept relaxations; the oldest are kept without."""
    for number, row in enumerate(rows):
        species_index = np.array([elements.index(s) for s in row["final"]["species"]])
        for frame in row.get("frames", ()):
            parts = {k: np.array(frame[k]) for k in ("cell", "positions", "forces", "stress")}
            yield Labelled(
                species_index=species_index, energy=frame["energy"], relaxation=number, **parts
            )


def milliseconds(evaluate: Callable[[Labelled], object], frames: Sequence[Labelled]) -> float:
    """Time of an evaluation, after a first one that does not count."""
    evaluate(frames[0])
    start = perf_counter()
    for frame in frames:
        evaluate(frame)
    return round(1e3 * (perf_counter() - start) / len(frames), 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Errors and cost of the learnt potential.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "yield")
    parser.add_argument("--run", default="ccdcgan, seed 0")
    options = parser.parse_args(arguments)
    runs = json.loads((options.folder / "runs.json").read_text())
    if options.run not in runs:
        print(f"potential: no run {options.run!r}; there are {', '.join(runs)}", file=sys.stderr)
        return 2
    with gzip.open(options.folder / "relaxations.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = {row["key"]: row for row in map(json.loads, lines)}
    later = {key for keys in runs.values() for key in keys}
    own = runs[options.run]
    start = [key for key in rows if key not in later]
    elements = sorted({s for row in rows.values() for s in row["final"]["species"]})
    first, last = own[: len(own) * 3 // 4], own[len(own) * 3 // 4 :]
    known = list(frames_of((rows[k] for k in [*start, *first]), elements))
    unseen = list(frames_of((rows[k] for k in last), elements))
    begun = perf_counter()
    potential, _ = fit_potential(known, len(elements), 0)
    seconds = perf_counter() - begun
    found = [potential(f) for f in unseen]
    missed = [(e - f.energy) / len(f) for (e, _, _), f in zip(found, unseen, strict=True)]
    forces = np.concatenate([f.forces for f in unseen])
    off = np.concatenate([f for _, f, _ in found]) - forces
    engine = SevenNetEngine().calculator()

    def by_engine(frame: Labelled) -> object:
        symbols = [elements[k] for k in frame.species_index]
        atoms = Atoms(symbols, cell=frame.cell, positions=frame.positions, pbc=True)
        atoms.calc = engine
        return atoms.get_forces(), atoms.get_stress()

    some = unseen[:: max(1, len(unseen) // TIMED)]
    times = [milliseconds(potential, some), milliseconds(by_engine, some)]
    result = {
        "learnt_from": len(known),
        "unseen": len(unseen),
        "energy_mae": round(float(np.abs(missed).mean()), 4),
        "force_mae": round(float(np.abs(off).mean()), 4),
        "mean_force": round(float(np.abs(forces).mean()), 4),
        "fit_seconds": round(seconds, 1),
        "potential_ms": times[0],
        "engine_ms": times[1],
        "engine_over_potential": round(times[1] / times[0], 1),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
