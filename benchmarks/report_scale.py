"""A report of many phases: time to make it, its size, and how fast it is in a browser.

    python benchmarks/report_scale.py --phases 10000

Needs chromium, chromedriver and selenium. Prints JSON: seconds to make the page, its size in MB,
first contentful paint, the time until everything is drawn, and of sorting the table of the best.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from pymatgen.core import Lattice, Structure
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from ccdcgan.launchers.report.write import write_report
from ccdcgan.workflows.documents import Outcome

LEVEL = {"engine": "SevenNet-0", "package": "sevenn", "checkpoint": "7net-0", "scale": "PBE"}
FLAGS = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "window-size=1280,900")

SORT = """
    const head = document.querySelectorAll("#best thead th button")[arguments[0]];
    const begin = performance.now();
    head.click();
    document.body.getBoundingClientRect();
    return (performance.now() - begin) / 1000;
"""
PAINT = """
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    return paint ? paint.startTime / 1000 : null;
"""


def outcome(number: int) -> Outcome:
    """Results of a campaign with so many phases, a third of them distinct and generated."""
    drawn = random.Random(0)
    phases: list[dict[str, Any]] = []
    for i in range(number):
        species = ["Bi"] * drawn.randint(1, 6) + ["Se"] * drawn.randint(1, 6)
        n = len(species)
        frac = [[0.3 * j % 1, 0.07 * j % 1, j / n] for j in range(n)]
        structure = Structure(Lattice.orthorhombic(4 + drawn.random(), 5, 3.0 * n), species, frac)
        above = 0.0 if i < 3 else abs(drawn.gauss(0, 0.2))
        generated = drawn.random() < 0.7
        phases.append(
            {
                "id": f"{i:032x}",
                "structure": structure.as_dict(),
                "formula": structure.composition.reduced_formula,
                "spacegroup": "P1 (1)",
                "energy_per_atom": -4.0,
                "formation_energy_per_atom": -0.4 + above,
                "e_above_hull": above,
                "label": "on the hull" if not above else "above",
                "converged": True,
                "distinct": drawn.random() < 0.5,
                "origin": {
                    "kind": "generated" if generated else "prototype",
                    "id": f"sample-{i}",
                    "round": drawn.randint(1, 4) if generated else None,
                },
                "level_of_theory": LEVEL,
            }
        )
    counts = dict.fromkeys(("sampled", "decoded", "valid", "screened", "relaxed"), number // 4)
    counts |= {"converged": number // 5, "distinct": number // 10}
    summary = {
        "system": ["Bi", "Se"],
        "level_of_theory": LEVEL,
        "seed": 0,
        "thresholds": {"stable": 0.1, "metastable": 0.15},
        "database": {},
        "autoencoder": {},
        "constraint": {},
        "rounds": [counts] * 4,
        "wall_seconds": {},
    }
    return Outcome.model_validate({"summary": summary, "phases": phases, "curves": []})


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--phases", type=int, default=10_000)
    wanted = parser.parse_args()
    found = outcome(wanted.phases)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        path = Path(name) / "report.html"
        begin = perf_counter()
        write_report(path, found)
        result: dict[str, Any] = {"phases": wanted.phases, "made": perf_counter() - begin}
        result["megabytes"] = path.stat().st_size / 1e6
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"user-data-dir={name}/profile"):
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            begin = perf_counter()
            browser.get(path.as_uri())
            WebDriverWait(browser, 300).until(
                lambda b: b.execute_script("return window.reportReady === true")
            )
            result["all drawn"] = perf_counter() - begin
            result["first paint"] = browser.execute_script(PAINT)
            result["points"] = browser.execute_script("return window.hullPoints")
            result["sorting"] = max(browser.execute_script(SORT, n) for n in range(4))
        finally:
            browser.quit()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
