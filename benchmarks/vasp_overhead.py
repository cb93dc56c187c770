"""Our own time for each VASP job, beyond VASP's: set-up, custodian, parsing, storing. Prints JSON.

Usage: python benchmarks/vasp_overhead.py FOLDER [--structures N] [--polling SECONDS]

ATOMATE2_VASP_CMD and PMG_VASP_PSP_DIR say what runs, as in a campaign: VASP, or the tests' stand-in
(tests/vasp_stand_in.py with POTCARs by tests/potcars.py). VASP's time is what OUTCAR says has
elapsed, or the stand-in's log. Custodian's polling counts as ours: it sees the end of VASP up to
one polling time late.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from jobflow import run_locally
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.relaxation.settings import RelaxationSettings
from ccdcgan.launchers.workdir import embedded_store
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.relax import RelaxMaker


def main() -> int:
    """Relax rocksalt BiSe at several volumes and print seconds for each job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="new, for stores and calculations")
    parser.add_argument("--structures", type=int, default=10)
    parser.add_argument("--polling", type=float, default=VaspEngine().polling)
    arguments = parser.parse_args()
    engine = VaspEngine(polling=arguments.polling, stages=("relax",))
    try:
        engine.check(["Bi", "Se"])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True)
    os.environ["CCDCGAN_CALCULATIONS"] = str(folder / "calculations")
    log = os.environ["VASP_STAND_IN_LOG"] = str(folder / "stand_in.log")
    campaign = Campaign(relaxation=RelaxationSettings(engine=engine)).model_dump(mode="json")
    store = embedded_store(folder)
    overheads = []
    for i in range(arguments.structures):
        a = 2.8 + 0.4 * i / arguments.structures
        lattice = Lattice([[0, a, a], [a, 0, a], [a, a, 0]])
        structure = Structure(lattice, ["Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        origin = {"kind": "prototype", "id": str(i)}
        job = RelaxMaker().make([{"origin": origin, "structure": structure.as_dict()}], campaign)
        start = time.monotonic()
        run_locally(job, store=store, log=False, root_dir=folder, ensure_success=True)
        overheads.append(time.monotonic() - start)
    outcars = sorted(folder.glob("calculations/*/*/OUTCAR"), key=lambda p: p.stat().st_mtime)
    texts = [path.read_text(errors="replace") for path in outcars]
    inside = [float(re.findall(r"Elapsed time \(sec\):\s*([\d.]+)", t)[-1]) for t in texts]
    if Path(log).exists():
        inside = [json.loads(line)["seconds"] for line in Path(log).read_text().splitlines()]
    if len(inside) != arguments.structures:
        print("some structures needed more than one run of VASP: see the folder", file=sys.stderr)
        return 1
    own = [total - vasp for total, vasp in zip(overheads, inside, strict=True)]
    # The first job of a process imports atomate2 and pymatgen.
    result = {
        "jobs": len(own),
        "polling_s": engine.polling,
        "own_s_first": round(own[0], 2),
        "own_s_median": round(statistics.median(own), 2),
        "own_s_largest": round(max(own), 2),
        "vasp_s_median": round(statistics.median(inside), 2),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
