"""Faults from outside in real runs of a small campaign: what is lost, doubled, wrongly accepted.

Usage: python benchmarks/drill.py [--quick] [--seed S] [--fault NAME ...] [--out FOLDER]

Each fault of `drill_faults` strikes a campaign as often as it has seeds, at moments that are spread
over the whole campaign. After each the campaign must end by itself or by the commands that its
messages name, with the phases of the undisturbed run. Root, Slurm and SecantusDB are needed for the
runs on a cluster, root for those on a small disk; what cannot be done here is named.

What is done is kept in FOLDER (benchmarks/drill), one file a fault, and not done again. Prints a
table and, last, one line of JSON: `runs`, `faults`, `lost` phases and relaxations, `doubled` ones
(two documents of a content key, or relaxed again after the result was stored), `wrong` ones (not
those of the undisturbed run), and `actions`: commands beyond the campaign's own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drill_campaign import CONFIRM, Local, Run, proposed
from drill_cluster import OnCluster, Services
from drill_faults import Fault
from drill_faults_cluster import FAULTS
from drill_results import Results
from services import in_memory

from ccdcgan.dft.files import write_atomically

#: Folder of what is done.
OUT = Path(__file__).with_name("drill")

ROOT = Path(__file__).resolve().parent.parent

#: Seconds after which ``--quick`` begins no further run.
QUICK = 540.0

#: Longest time on the clock of a run, as multiple of the undisturbed one's, and at least, s: others
#: may have come to the machine since.
PATIENCE, LEAST = 12.0, 3600.0


@dataclass(frozen=True)
class Undisturbed:
    """A campaign that nothing strikes.

    Attributes
    ----------
    seconds, clock
        Processor time and time on the clock, s.
    broken
        Fingerprint and content key of the crystal that faults may break.
    """

    results: Results
    seconds: float
    clock: float
    broken: tuple[str, str]


def undisturbed(kind: type[Local], folder: Path) -> Undisturbed:
    """Run a campaign on this machine, unless the folder holds what today's code gave."""
    name = kind.__name__
    kept, text = folder / f"{name}.json", kind.text + CONFIRM
    if kept.exists() and (folder / name).exists() and kept.stat().st_mtime > _changed():
        found = json.loads(kept.read_text())
        if found.pop("campaign") == text:
            phases = {k: tuple(v) for k, v in found["results"]["phases"].items()}
            results = Results(**{**found.pop("results"), "phases": phases})
            return Undisturbed(results=results, **{**found, "broken": tuple(found["broken"])})
    shutil.rmtree(folder / name, ignore_errors=True)
    run = kind(folder / name)
    start = time.monotonic()
    run.start()
    while not run.is_over:
        run.seconds()
        time.sleep(0.2)
    clock = time.monotonic() - start
    if not run.finish() or run.actions:
        raise SystemExit(f"the undisturbed campaign does not end: {run.said}")
    results = run.results()
    made = Undisturbed(results, run.seconds(), clock, _unlucky(run, results))
    run.stack.close()
    write_atomically(kept, json.dumps({**asdict(made), "campaign": text}, indent=1))
    return made


def _changed() -> float:
    """When one of our modules was changed last."""
    rooms = [ROOT / name for name in ("dft", "models", "workflows", "launchers", "benchmarks")]
    return max(path.stat().st_mtime for room in rooms for path in room.rglob("*.py"))


def _unlucky(run: Local, results: Results) -> tuple[str, str]:
    """The crystal of the last round that is farthest above the hull."""
    generated = [d for d in run.documents() if d["origin"]["kind"] == "generated"]
    # A confirmation's are no phases.
    judged = [d for d in generated if d["key"] in results.phases]
    worst = max(judged, key=lambda d: (results.phases[d["key"]][1] == "above", d["key"]))
    return proposed(worst), worst["key"]


def local(fault: Fault) -> type[Local]:
    """The kind of campaign on one machine whose results are those of a fault's campaign."""
    return fault.on if issubclass(fault.on, Local) else Local


def struck(fault: Fault, seed: int, expected: Undisturbed, folder: Path, services: Services) -> Any:
    """One run with a fault: what came of it."""
    options: dict[str, Any] = {"services": services} if fault.on is OnCluster else {}
    run = fault.on(
        folder / f"{fault.name}-{seed}",
        whole=expected.seconds,
        seed=seed,
        limit=max(LEAST, PATIENCE * expected.clock),
        broken=expected.broken,
        **options,
    )
    start = time.monotonic()
    with run.stack:
        fault.strike(run, moment(fault, seed, run))
        ended = run.finish()
        record: dict[str, Any] = {
            "seed": seed,
            "ended": ended,
            "late": run.late,
            "actions": run.actions,
            "said": run.said,
        }
        record |= (
            _verdict(fault, run, expected) if ended else {"lost": sorted(expected.results.phases)}
        )
        run.kill()
    record["processor_s"] = round(run.seconds(), 1)
    record["clock_s"] = round(time.monotonic() - start, 1)
    if not any(record.get(name) for name in ("lost", "doubled", "wrong")):
        shutil.rmtree(run.folder, ignore_errors=True)
    return record


def _verdict(fault: Fault, run: Run, expected: Undisturbed) -> dict[str, list[str]]:
    found = run.results()
    broken = [expected.broken[1]] if fault.name.startswith("crystal-segfaults") else []
    judged = found.against(expected.results, without=broken)
    # What broke has no energy.
    judged["wrong"] += [key for key in broken if found.energies.get(key) is not None]
    return {**judged, "doubled": sorted({*found.copies, *run.relaxed_again()})}


def moment(fault: Fault, seed: int, run: Run) -> float:
    """When a fault strikes: seeds are spread evenly over the campaign, each with a jitter."""
    return (seed % fault.seeds + run.random.random()) / fault.seeds


def planned(faults: Sequence[Fault], seed: int | None) -> Iterator[tuple[Fault, int]]:
    """Faults and seeds, so that a drill that is broken off has done some of each."""
    most = max(f.seeds for f in faults)
    # In steps of seven, so that the first ones lie far apart in the campaign.
    order = sorted(range(most), key=lambda s: (s * 7) % most)
    for number in order if seed is None else [seed]:
        for fault in faults:
            if seed is not None or number < fault.seeds:
                yield fault, number


def records(out: Path, fault: Fault) -> list[dict[str, Any]]:
    """What is done of a fault."""
    path = out / f"{fault.name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def keep(out: Path, fault: Fault, record: dict[str, Any]) -> None:
    """Add a run to what is done; one of the same seed goes."""
    others = [r for r in records(out, fault) if r["seed"] != record["seed"]]
    out.mkdir(parents=True, exist_ok=True)
    done = sorted([*others, record], key=lambda r: int(r["seed"]))
    write_atomically(out / f"{fault.name}.json", json.dumps(done, indent=1) + "\n")


def table(out: Path, faults: Sequence[Fault]) -> tuple[list[str], dict[str, int]]:
    """Lines of the table, and their sums."""
    sums: Counter[str] = Counter(runs=0, faults=0, lost=0, doubled=0, wrong=0, actions=0)
    lines = ["| fault | runs | lost | doubled | wrong | actions | commands |"]
    lines.append("|---|---|---|---|---|---|---|")
    for fault in faults:
        done = records(out, fault)
        if not done:
            continue
        counts = {
            name: sum(len(r.get(name, ())) for r in done)
            for name in ("lost", "doubled", "wrong", "actions")
        }
        sums.update(counts, runs=len(done), faults=1)
        commands = ", ".join(sorted({a for r in done for a in r["actions"]}))
        cells = [fault.words, len(done), *counts.values(), commands]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines, dict(sums)


def carry_out(faults: Sequence[Fault], seed: int | None, out: Path, work: Path, end: float) -> None:
    """Do what is not done yet, until a time of the monotonic clock."""
    todo = [
        (fault, number)
        for fault, number in planned(faults, seed)
        if all(record["seed"] != number for record in records(out, fault))
    ]
    for fault in dict.fromkeys(fault for fault, _ in todo):
        if lack := fault.lacks():
            print(f"{fault.name} left out: {lack}", flush=True)
    with ExitStack() as stack:
        place = tempfile.TemporaryDirectory(prefix="drill-", dir=in_memory(1))
        services = Services(Path(stack.enter_context(place)))
        stack.callback(services.stack.close)
        for fault, number in todo:
            if time.monotonic() > end:
                break
            if fault.lacks():
                continue
            # VASP confirms what the first one has left.
            undisturbed(Local, work)
            expected = undisturbed(local(fault), work)
            shutil.rmtree(work / f"{fault.name}-{number}", ignore_errors=True)
            record = struck(fault, number, expected, work, services)
            keep(out, fault, record)
            print(f"{fault.name} {number}: {json.dumps(record)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Strike, and print what came of it; 1 where something was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Ten minutes on two quiet cores.")
    parser.add_argument("--seed", type=int, help="Only this seed of each fault.")
    parser.add_argument("--fault", nargs="+", choices=sorted(FAULTS), help="Only these.")
    parser.add_argument("--out", type=Path, default=OUT, help="What is done, as JSON.")
    parser.add_argument("--folder", type=Path, help="Working folder; kept, with what went wrong.")
    told = parser.parse_args(arguments)
    end = time.monotonic() + QUICK if told.quick else float("inf")
    faults = [FAULTS[name] for name in told.fault or FAULTS]
    work = told.folder or Path(tempfile.gettempdir()) / f"ccdcgan-drill-{os.getuid()}"
    work.mkdir(parents=True, exist_ok=True)
    # So that services and small disks go with the drill.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    carry_out(faults, told.seed, told.out, work, end)
    lines, sums = table(told.out, faults)
    print("\n".join(lines))
    print(json.dumps(sums))
    return int(any(sums[name] for name in ("lost", "doubled", "wrong")))


if __name__ == "__main__":
    raise SystemExit(main())
