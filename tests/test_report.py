"""The report: what it says without a browser, and what it does in one."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import (
    CANVAS,
    CONTRAST,
    UNREACHABLE,
    chromium,
    complaints,
    opened,
    requests,
    resize,
    wait,
)
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from ccdcgan.launchers.report.hull import hull_figure
from ccdcgan.launchers.report.turning import turning_hull
from ccdcgan.launchers.report.write import write_report
from ccdcgan.workflows.documents import Outcome, Phase
from ccdcgan.workflows.failures import FailedStructure

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'><!--"
LEVEL = {"engine": "SevenNet-0", "package": "sevenn", "checkpoint": "7net-0", "scale": "PBE"}
LABELS = ((0.0, "on the hull"), (0.025, "within 0.025"), (0.1, "within 0.10"), (9.9, "above"))


def bi2se3() -> Structure:
    return Structure.from_spacegroup(
        "R-3m",
        Lattice.hexagonal(4.14, 28.64),
        ["Bi", "Se", "Se"],
        [[0, 0, 0.4], [0, 0, 0], [0, 0, 0.2118]],
    )


def rocksalt(first: str, second: str, a: float = 5.99) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


def element(name: str) -> Structure:
    return Structure(Lattice.cubic(3.1), [name], [[0, 0, 0]])


def phase(
    structure: Structure,
    formation: float | None,
    above: float | None,
    kind: str = "prototype",
    **changes: Any,
) -> dict[str, Any]:
    label = "not converged"
    if above is not None:
        label = next(name for limit, name in LABELS if above <= limit)
    record = {
        "id": f"{kind}-{structure.reduced_formula}-{above}",
        "structure": structure.as_dict(),
        "formula": structure.reduced_formula,
        "spacegroup": "{} ({})".format(*structure.get_space_group_info()),
        "energy_per_atom": -4.0,
        "formation_energy_per_atom": formation,
        "e_above_hull": above,
        "label": label,
        "converged": above is not None,
        "distinct": kind == "generated",
        "origin": {"kind": kind, "id": f"{kind}-id", "round": 1 if kind == "generated" else None},
        "level_of_theory": LEVEL,
    }
    return {**record, **changes}


def bismuth_selenide() -> list[dict[str, Any]]:
    low = rocksalt("Bi", "Se")
    low.perturb(0.05, seed=1)
    hostile = {"kind": "generated", "id": HOSTILE, "round": 2}
    return [
        phase(element("Bi"), 0.0, 0.0, "element"),
        phase(element("Se"), 0.0, 0.0, "element"),
        phase(bi2se3(), -0.41, 0.0),
        phase(rocksalt("Bi", "Se"), -0.22, 0.12),
        phase(rocksalt("Bi", "Se", 7.5), 1.4, 1.74),
        phase(rocksalt("Bi", "Se", 9.9), None, None),
        phase(low, -0.32, 0.02, "generated", file="structures/001_BiSe.cif"),
        phase(
            bi2se3().copy(),
            -0.39,
            0.013 + 0.1,
            "generated",
            origin=hostile,
            file="structures/2.cif",
        ),
        phase(bi2se3(), -0.41, 0.0, "generated", distinct=False),
    ]


@pytest.mark.parametrize("label", ["not converged", "untrusted"])
def test_the_drawn_hull_is_of_what_is_part_of_it(label: str) -> None:
    """What ran out of steps, or nobody believes, may lie below the hull."""
    low = phase(rocksalt("Bi", "Se"), -0.62, -0.3) | {"label": label, "converged": False}
    phases = [Phase.model_validate(p) for p in [*bismuth_selenide(), low]]
    figure, _ = hull_figure(["Bi", "Se"], phases)
    (line,) = [t for t in figure["data"] if t.get("name") == "convex hull"]
    assert list(line["x"]) == [0, 0.6, 1]
    assert list(line["y"]) == [0, -0.41, 0]
    turned = turning_hull(["Bi", "Se", "Te"], phases)
    assert turned is not None
    assert turned["names"] == [["Bi2Se3", 0.4, 0.6, 0.0, -0.41]]


def a_summary(system: tuple[str, ...] = ("Bi", "Se")) -> dict[str, Any]:
    stages = "sampled decoded valid screened relaxed converged distinct"
    numbers = dict(zip(stages.split(), (1000, 720, 310, 150, 150, 121, 31), strict=True))
    counts = {**numbers, "distinct_metastable": 9, "distinct_stable": 0}
    return {
        "system": list(system),
        "level_of_theory": LEVEL,
        "seed": 0,
        "thresholds": {"stable": 0.1, "metastable": 0.15},
        "database": {
            "candidates": 1480,
            "relaxed": 1480,
            "converged": 1337,
            "rejected": {"volume above the cube": 96, "no convergence": 47},
            "stable": 214,
            "metastable": 288,
        },
        "autoencoder": {"match_fraction": 0.94, "held_out": 130},
        "constraint": {"mae_ev_per_atom": np.float64(0.087), "r2": 0.91, "held_out": 130},
        "rounds": [counts, {name: n // 2 for name, n in counts.items()}],
        "wall_seconds": {"database": 812.4, "training": 4100.0, "generation": 95.2},
    }


def some_curves() -> list[dict[str, Any]]:
    steps = list(range(0, 400, 10))
    training: list[float | None] = [0.8 * float(np.exp(-s / 90)) + 0.06 for s in steps]
    validation = [None if s % 20 else 0.75 * float(np.exp(-s / 95)) + 0.09 for s in steps]
    return [
        {
            "title": f"Constraint, round {number}",
            "x_label": "step",
            "y_label": "MAE / eV per atom",
            "x": steps,
            "series": {"training": training, "validation": validation},
        }
        for number in (1, 2)
    ]


def failures(number: int = 3) -> list[FailedStructure]:
    return [
        FailedStructure(
            kind="stopped" if i == 1 else "crystal",
            formula="Bi2Se3",
            origin=f"prototype p{i}",
            reason=f"largest force is 0.{i} eV/Å",
            said=HOSTILE,
            runs=4,
            steps=1200,
            max_force=0.5,
            folder=f"/scratch/calculations/{i}",
            host="node7",
        )
        for i in range(number)
    ]


def outcome(
    summary: dict[str, Any],
    phases: list[dict[str, Any]],
    curves: Any = (),
    failed: Any = (),
    **more: Any,
) -> Outcome:
    found = {"summary": summary, "phases": phases, "curves": curves, "failed": failed, **more}
    return Outcome.model_validate(found)


def page_of(
    folder: Path,
    summary: dict[str, Any],
    phases: list[dict[str, Any]],
    curves: Any = (),
    failed: Any = (),
) -> tuple[str, dict[str, Any]]:
    path = folder / "report.html"
    write_report(path, outcome(summary, phases, curves, failed))
    source = path.read_text()
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', source, re.DOTALL)
    assert found
    return source.split("<script", 1)[0], json.loads(found[1])


def points(data: dict[str, Any]) -> int:
    traces = [t for t in data["figures"]["hull"]["data"] if t.get("meta", {}).get("phases")]
    return sum(len(t["customdata"]) for t in traces)


def test_the_headline_counts_new_low_energy_crystals(tmp_path: Path) -> None:
    page, data = page_of(tmp_path, a_summary(), bismuth_selenide(), some_curves())
    assert "1 new Bi–Se crystal within 0.10 eV/atom of the convex hull" in page
    assert "the best 0.020 eV/atom above it; new: unlike the database and all" in page
    assert points(data) == 8
    assert data["start"] == 6
    assert "1 structure has no formation energy" in page
    assert "structures/001_BiSe.cif" in page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_no_generated_structure_is_said_plainly(tmp_path: Path) -> None:
    phases = [p for p in bismuth_selenide() if p["origin"]["kind"] != "generated"]
    page, data = page_of(tmp_path, {**a_summary(), "rounds": []}, phases)
    assert "No generated Bi–Se crystal was relaxed" in page
    assert "No round of generation was run." in page
    assert "No learning curve was recorded." in page
    assert data["structures"][str(data["start"])]["formula"] == "Bi2Se3"


def test_distinct_structures_far_above_the_hull_are_no_success(tmp_path: Path) -> None:
    phases = [*bismuth_selenide()[:6], phase(rocksalt("Bi", "Se", 6.6), 0.1, 0.42, "generated")]
    page, _ = page_of(tmp_path, a_summary(), phases)
    assert "No new Bi–Se crystal near the hull: of 1 distinct" in page
    assert "the best is 0.420 eV/atom above it" in page


def test_what_is_some_way_above_the_hull_is_not_called_stable(tmp_path: Path) -> None:
    odd = phase(rocksalt("Bi", "Se", 6.6), -0.1, 0.058, "generated", spacegroup="P1 (1)")
    new_to = {"prototypes": 82, "references": 0, "adopted": 1}
    phases = [*bismuth_selenide()[:6], odd]
    page, data = page_of(tmp_path, {**a_summary(), "new_to": new_to}, phases)
    assert "1 new Bi–Se crystal within 0.10 eV/atom of the convex hull, the best 0.058" in page
    assert "unlike 82 prototypes, no references, 1 adopted and all generated before" in page
    assert '<div class="value">0</div><div class="what">new crystals on the hull<' in page
    assert data["structures"][str(data["start"])]["label"] == "within 0.10"
    assert "stable structure" not in page


def test_a_ternary_is_drawn_in_a_triangle(tmp_path: Path) -> None:
    phases = [
        *(phase(element(name), 0.0, 0.0, "element") for name in ("Bi", "Se", "Pb")),
        phase(rocksalt("Pb", "Se"), -0.5, 0.0),
        phase(rocksalt("Bi", "Se"), -0.2, 0.04, "generated"),
    ]
    _, data = page_of(tmp_path, a_summary(("Bi", "Se", "Pb")), phases)
    traces = data["figures"]["hull"]["data"]
    assert {t["type"] for t in traces} == {"scatterternary"}
    assert points(data) == 5
    generated = next(t for t in traces if "generated" in t["name"])
    assert (generated["a"], generated["b"], generated["c"]) == ([0.5], [0.5], [0.0])


def test_four_elements_are_drawn_by_formula(tmp_path: Path) -> None:
    phases = [
        *(phase(element(name), 0.0, 0.0, "element") for name in ("Bi", "Se", "Pb", "Te")),
        phase(rocksalt("Pb", "Te"), -0.4, 0.0),
    ]
    page, data = page_of(tmp_path, a_summary(("Bi", "Se", "Pb", "Te")), phases)
    assert points(data) == 5
    assert "more than three elements" in page


def test_what_limits_the_funnel_is_said_in_words(tmp_path: Path) -> None:
    summary = a_summary()
    for counts in summary["rounds"]:
        counts["distinct_within"] = {"0.1": 3, "0.025": 0, "0": 0}
    page, _ = page_of(tmp_path, summary, bismuth_selenide())
    listed = html.unescape(page[page.index('<ul class="limits">') :].partition("</ul>")[0])
    assert "Of 1\u202f500 candidates 72% could be decoded and 31% are sane" in listed
    assert "Most decoded crystals are not sane" in listed
    assert "Of 225 that were relaxed 80% converged, 20% are new, and 3% are new and" in listed
    assert "known already" in listed and "(135)" in listed
    none = {**summary, "rounds": [{**summary["rounds"][0], "sampled": 0}]}
    assert "limits" not in page_of(tmp_path, none, [])[0].partition("</style>")[2]


def further(phases: list[dict[str, Any]]) -> dict[str, Any]:
    """What a report tells beside phases and counts."""
    line = [0.1 * i for i in range(5)]
    return {
        "parity": [{"title": f"<b>{HOSTILE}", "pairs": [(-0.1, -0.2), (0.3, 0.3)]}],
        "latent": {
            "ids": [p["id"] for p in phases],
            "points": [(i, -i) for i in range(len(phases))],
            "explained": (0.4, 0.2),
        },
        "spectra": {
            phases[6]["id"]: {
                # Two lines of the path meet at 0.2.
                "distances": [0.0, 0.1, 0.2, 0.2, 0.4],
                "bands": [line, line, line],
                "ticks": [(0.0, "G"), (0.4, "X")],
                "frequencies": line,
                "density": line,
            }
        },
        "provenance": {
            "campaign": {"system": ["Bi", "Se"], "note": HOSTILE, "loop": {"relaxations": 75}},
            "digest": "c0ffee",
            "versions": {"python": "3.12.1", "numpy": "2.1.0"},
        },
    }


def told_of(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same phases, one of them with all that is told of the best."""
    low, other = phases[6], phases[7]
    stable = {"lowest_frequency_thz": -0.02, "dynamically_stable": True, "born_stable": True}
    low |= {"displacement": 0.123, "stability": stable, "spacegroup": "Fm-3m (225)"}
    low["relative"] = {
        "kinship": "substitution",
        "formula": "BiTe",
        "origin": f"prototype {HOSTILE}",
        "among": 4,
    }
    other["relative"] = {"kinship": "neither", "among": 4}
    return phases


def test_the_best_have_symmetry_relatives_and_next_steps(tmp_path: Path) -> None:
    phases = told_of(bismuth_selenide())
    path = tmp_path / "my-run" / "report.html"
    write_report(path, outcome(a_summary(), phases, **further(phases)))
    source = path.read_text()
    data = json.loads(source.split('id="report-data">')[1].partition("</script>")[0])
    facts, steps = data["structures"]["6"]["facts"], data["structures"]["6"]["steps"]
    assert dict(facts)["symmetry"] == "Fm-3m (225) within 0.1 Å, P1 (1) within 0.01 Å"
    assert dict(facts)["nearest known"].startswith("BiTe, its structure, elements aside (prototy")
    assert dict(facts)["moved on relaxation"] == "0.123 Å (root mean square)"
    assert "lowest frequency −0.02 THz" in dict(facts)["phonons"]
    assert len(steps) == 1 and steps[0].startswith("confirm: {count: 1, relaxation: {engine:")
    assert data["structures"]["7"]["steps"][0] == "ccdcgan stability my-run --count 2"
    assert "none: of 4 in" in dict(data["structures"]["7"]["facts"])["nearest known"]
    assert data["structures"]["2"]["steps"] == []
    bands = data["figures"]["phonons-0"]["data"][0]
    assert bands["x"][:7] == [None, 0.0, 0.1, 0.2, None, 0.2, 0.4] and len(bands["y"]) == 21
    assert {"latent", "parity-0", "phonons-0", "funnel"} <= set(data["figures"])
    assert sum(len(t["customdata"]) for t in data["figures"]["latent"]["data"]) == 8
    head = source.partition('<script type="application/json"')[0]
    assert "python 3.12.1" in head and "relaxations: 75" in head and "c0ffee" in head
    assert "75 of 150 relaxations" not in head and "All 150 relaxations" in html.unescape(head)


def test_a_ternary_has_a_body_that_turns(tmp_path: Path) -> None:
    phases = [
        *(phase(element(name), 0.0, 0.0, "element") for name in ("Bi", "Se", "Pb")),
        phase(rocksalt("Pb", "Se"), -0.5, 0.0),
        phase(rocksalt("Bi", "Se"), -0.2, 0.04, "generated"),
    ]
    _, data = page_of(tmp_path, a_summary(("Bi", "Se", "Pb")), phases)
    body = data["turning"]
    assert sorted(p[0] for p in body["points"]) == [0, 1, 2, 3, 4]
    assert [4, 0.5, 0.5, 0.0, -0.2, 0.04, True] in body["points"]
    # PbSe on the edge Se–Pb splits the triangle in two.
    facets = [{tuple(vertex[:3]) for vertex in facet} for facet in body["facets"]]
    bi, se, pb, middle = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0.5, 0.5)
    assert len(facets) == 2 and {bi, se, middle} in facets and {bi, pb, middle} in facets
    assert body["names"] == [["PbSe", 0.0, 0.5, 0.5, -0.5]]
    assert page_of(tmp_path, a_summary(), bismuth_selenide())[1]["turning"] is None


def test_a_learnt_potential_has_its_errors_in_the_headline(tmp_path: Path) -> None:
    words = "potential learnt on the way"
    assert words not in page_of(tmp_path, a_summary(), [])[0]
    errors = {"energy_mae": 0.05, "force_mae": 0.108, "mean_force": 0.219, "held_out": 145}
    page, _ = page_of(tmp_path, {**a_summary(), "potential": errors}, [])
    value = '0.11 <span class="unit">eV/Å</span></div><div class="what">'
    assert f"{value}MAE of forces of the {words}" in page
    assert "mean force 0.22, 145 geometries held out" in page


def test_what_was_not_computed_is_a_dash(tmp_path: Path) -> None:
    nothing = {"constraint": {"mae_ev_per_atom": None, "r2": float("nan")}, "autoencoder": {}}
    bad = phase(rocksalt("Bi", "Se"), float("nan"), None, "generated")
    page, _ = page_of(tmp_path, {**a_summary(), **nothing}, [bad])
    assert "R² –" in page
    assert "1 structure has no formation energy" in page
    assert "None" not in page
    assert "nan" not in page


def test_what_the_first_version_has_stored_is_shown(tmp_path: Path) -> None:
    """Its documents lack all that has come since; the Summary had no failures and no warnings."""
    phases = bismuth_selenide()
    phases[2]["label"], phases[3]["label"], phases[6]["label"] = "stable", "metastable", "stable"
    old = {"summary": a_summary(), "phases": phases, "curves": some_curves()}
    assert not {"failures", "warnings", "potential", "schema_version"} & set(old["summary"])
    write_report(tmp_path / "report.html", Outcome.model_validate(old))
    page = (tmp_path / "report.html").read_text().split("<script", 1)[0]
    assert "1 new Bi–Se crystal within 0.10 eV/atom" in page and ">within 0.025</span>" in page
    assert "in the paper's words 13 metastable, 0 of them stable" in html.unescape(page)
    assert "h-failed" not in page and "h-confirmed" not in page


def test_stackings_are_counted_where_there_are_any(tmp_path: Path) -> None:
    summary = a_summary()
    assert "stackings" not in page_of(tmp_path, summary, [])[0]
    for counts in summary["rounds"]:
        counts["stackings"] = 60
    page, _ = page_of(tmp_path, summary, [])
    assert "120 stackings of known crystals" in page


def test_what_failed_is_counted_by_reason_and_listed(tmp_path: Path) -> None:
    assert "h-failed" not in page_of(tmp_path, a_summary(), [])[0]
    page, _ = page_of(tmp_path, a_summary(), [], (), failures(1200))
    section = page[page.index('id="h-failed"') :]
    assert "1\u202f200 without a result: 1\u202f199 by" in section
    assert "largest force is # eV/Å" in section and "100 of 1\u202f200 structures" in section
    assert "calculations/99<" in section and "calculations/100<" not in section
    assert "<script>" not in section and "&lt;script&gt;" in section


def test_a_large_run_embeds_only_the_structures_worth_seeing(tmp_path: Path) -> None:
    many = [phase(rocksalt("Bi", "Se"), 0.01 * i, 0.3 + 0.01 * i) for i in range(3)] * 220
    phases = [*many, *bismuth_selenide()]
    _, data = page_of(tmp_path, a_summary(), phases)
    assert points(data) == len(phases) - 1
    assert 400 <= len(data["structures"]) < 420
    assert str(data["start"]) in data["structures"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("report")
    phases = told_of(bismuth_selenide())
    write_report(
        folder / "report.html",
        outcome(a_summary(), phases, some_curves(), failures(), **further(phases)),
    )
    with chromium(folder) as browser:
        yield opened(browser, (folder / "report.html").as_uri(), "reportReady")


def title(page: Any) -> str:
    return str(page.find_element("id", "viewer-title").text.replace("\n", ""))


def test_every_phase_with_a_formation_energy_is_a_point(page: Any) -> None:
    placed = [p for p in bismuth_selenide() if p["formation_energy_per_atom"] is not None]
    assert page.execute_script("return window.hullPoints") == len(placed)
    assert len(page.find_elements("css selector", "#hull .scatterlayer .points path")) >= 8


def test_a_row_and_a_point_show_their_structure(page: Any) -> None:
    rows = page.find_elements("css selector", "tr[data-phase]")
    assert len(rows) == 2
    assert title(page) == "BiSe"
    rows[1].click()
    assert title(page) == "Bi2Se3"
    origin = page.find_element("id", "viewer-facts").text
    assert "28.640" in origin
    page.execute_script(
        "document.getElementById('hull').emit('plotly_click', {points: [{customdata: 0}]})"
    )
    assert title(page) == "Bi"


def test_a_heading_sorts_the_best(page: Any) -> None:
    def column(number: int) -> list[str]:
        rows = page.find_elements("css selector", "#best tbody tr")
        return [r.find_elements("css selector", "td")[number].text for r in rows]

    heads = page.find_elements("css selector", "#best thead th button")
    assert column(0) == ["1", "2"]
    heads[4].click()
    assert column(4) == ["−0.390", "−0.320"] and column(0) == ["2", "1"]
    heads[4].click()
    assert column(4) == ["−0.320", "−0.390"]
    heads[2].click()
    assert column(0) == ["1", "2"]


def test_the_canvas_shows_atoms_and_turns(page: Any) -> None:
    page.find_elements("css selector", "tr[data-phase]")[0].click()
    filled, before = page.execute_script(CANVAS)
    assert filled > 0.05
    from selenium.webdriver import ActionChains

    canvas = page.find_element("id", "crystal")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(page).drag_and_drop_by_offset(canvas, 80, 30).perform()
    assert page.execute_script(CANVAS)[1] != before


def test_hostile_text_is_shown_and_runs_nothing(page: Any) -> None:
    row = page.find_elements("css selector", "tr[data-phase]")[1]
    assert HOSTILE in row.text
    row.click()
    assert HOSTILE in page.find_element("id", "viewer-facts").text
    assert page.execute_script("return window.hacked === undefined")
    assert not page.find_elements("css selector", "img")
    assert page.execute_script(
        "const t = document.getElementById('hull').data.filter(t => t.meta && t.meta.phases);"
        "return t.some(t => t.text.some(s => s.includes('&lt;img')));"
    )


def test_what_failed_is_shown_with_the_codes_own_words(page: Any) -> None:
    section = page.find_element("css selector", "section[aria-labelledby=h-failed]")
    reasons, rows = section.find_elements("css selector", "tbody")
    assert "crystal largest force is # eV/Å 2" in reasons.text
    cells = [c.text for c in rows.find_elements("css selector", "tr:nth-child(2) td")]
    assert cells[:5] == ["Bi2Se3", "prototype p1", "stopped", "largest force is 0.1 eV/Å", HOSTILE]
    assert cells[5:] == ["4", "1\u202f200", "0.500", "node7", "/scratch/calculations/1"]


def test_the_page_fits_a_phone(page: Any) -> None:
    resize(page, 390)
    # The figures follow the window a moment later.
    assert wait(page, "return document.documentElement.scrollWidth <= 390")
    resize(page, None)


def test_the_copied_cif_is_the_structure(page: Any) -> None:
    page.execute_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    rows = page.find_elements("css selector", "tr[data-phase]")
    for row, number in zip(rows, (6, 7), strict=True):
        row.click()
        page.find_element("id", "copy-cif").click()
        stored = Structure.from_dict(bismuth_selenide()[number]["structure"])
        copied = Structure.from_str(wait(page, "return window.copied"), fmt="cif")
        page.execute_script("delete window.copied")
        assert StructureMatcher(scale=False, stol=1e-3, ltol=1e-3).fit(copied, stored)


def test_everybody_can_read_and_reach_all_of_it(page: Any) -> None:
    assert page.execute_script(CONTRAST) == []
    assert page.execute_script(UNREACHABLE) == []
    from selenium.webdriver import ActionChains, Keys

    rows = page.find_elements("css selector", "tr[data-phase]")
    page.execute_script("arguments[0].focus()", rows[0])
    ActionChains(page).send_keys(Keys.ENTER).perform()
    assert title(page) == "BiSe"
    page.execute_script("document.getElementById('hull').focus()")
    met = []
    for _ in range(8):
        ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
        met.append(title(page))
    # Every point once, from bismuth to selenium.
    assert met == ["Bi", "BiSe", "BiSe", "BiSe", "Bi2Se3", "Bi2Se3", "Bi2Se3", "Se"]
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    assert title(page) == "Bi"


def test_a_ternary_hull_turns_and_is_clicked(page: Any, tmp_path: Path) -> None:
    phases = [
        *(phase(element(name), 0.0, 0.0, "element") for name in ("Bi", "Se", "Pb")),
        phase(rocksalt("Pb", "Se"), -0.5, 0.0),
        phase(rocksalt("Bi", "Se"), -0.2, 0.04, "generated"),
    ]
    write_report(tmp_path / "ternary.html", outcome(a_summary(("Bi", "Se", "Pb")), phases))
    before = page.current_url
    opened(page, (tmp_path / "ternary.html").as_uri(), "reportReady")
    from selenium.webdriver import ActionChains, Keys

    canvas = page.find_element("id", "turning")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    picture = "return document.getElementById('turning').toDataURL()"
    first = page.execute_script(picture)
    page.execute_script("arguments[0].focus()", canvas)
    ActionChains(page).send_keys(Keys.ARROW_LEFT).perform()
    assert page.execute_script(picture) != first
    for key, name in ((3, "PbSe"), (4, "BiSe")):
        x, y = page.execute_script(
            f"const s = turning.spots.find((p) => p.key === {key}); const c = turning.canvas;"
            "return [s.x - c.clientWidth / 2, s.y - c.clientHeight / 2];"
        )
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        ActionChains(page).move_to_element_with_offset(canvas, x, y).click().perform()
        assert title(page) == name
    opened(page, before, "reportReady")


def test_nothing_is_asked_of_the_network_and_nothing_fails(page: Any) -> None:
    asked = requests(page)
    assert any(url.endswith("/report.html") for url in asked)
    assert [u for u in asked if not u.startswith(("file:", "data:", "blob:"))] == []
    assert complaints(page) == []
