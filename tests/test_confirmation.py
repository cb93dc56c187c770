"""The best crystals at another level of theory: what is chosen, both hulls, the report."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from outcomes import outcome_of
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import displacement
from ccdcgan.launchers.report.write import write_report
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.confirm import (
    agreement,
    confirmations,
    confirmed_campaign,
    to_confirm,
    without_hull,
)
from ccdcgan.workflows.documents import Claim, Confirmed, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge

OWN = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE")
OTHER = LevelOfTheory(engine="Other", package="q", checkpoint="2" * 16, scale="PBE")


def crystal(species: list[str], length: float, shift: float = 0.0) -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5 + shift], [0.5, 0, 0.2], [0, 0.5, 0.3]]
    return Structure(Lattice.cubic(length), species, sites[: len(species)])


#: kind, structure, energy (eV/atom) of its own and of the other level
KNOWN: dict[str, tuple[str, Structure, float, float | None]] = {
    "bi": ("element", crystal(["Bi"], 3.3), -3.80, -3.70),
    "bi2": ("element", crystal(["Bi", "Bi"], 4.2), -3.78, -3.75),
    "bi-high": ("element", crystal(["Bi", "Bi"], 4.2, 0.1), -3.50, -3.50),
    "se": ("element", crystal(["Se"], 3.0), -3.40, -3.30),
    "hull": ("prototype", crystal(["Bi", "Se"], 3.9), -3.90, -3.80),
    "above": ("prototype", crystal(["Bi", "Se", "Se"], 4.6), -3.60, -3.55),
    "new": ("generated", crystal(["Bi", "Bi", "Se"], 4.8), -3.80, -3.85),
    "worse": ("generated", crystal(["Bi", "Bi", "Bi", "Se"], 5.2), -3.83, -3.60),
    "failed": ("generated", crystal(["Bi", "Se", "Se", "Se"], 5.1), -3.58, None),
}


def documents(level: LevelOfTheory) -> dict[str, RelaxationDocument]:
    found = {}
    for name, (kind, structure, *energies) in KNOWN.items():
        energy = energies[level == OTHER]
        end = structure.copy()
        if level == OTHER:
            end.translate_sites([0], [0.02, 0, 0])
        found[name] = RelaxationDocument(
            key=name,
            level_of_theory=level,
            structure=end.as_dict(),
            energy_per_atom=energy,
            converged=energy is not None,
            reason=None if energy is not None else "VASP said no <b>",
            campaign="x",
            origin=Origin.model_validate({"kind": kind, "id": name}),
            initial_structure=structure.as_dict(),
        )
    return found


@pytest.fixture
def campaign() -> Campaign:
    return parse_campaign({"confirm": {"relaxation": {"engine": {"name": "vasp"}}}}, "x")


def entries(found: dict[str, RelaxationDocument]) -> list[Claim]:
    return [Claim(key=key, origin=d.origin) for key, d in found.items()]


def test_the_best_the_hull_and_low_elements_are_confirmed(campaign: Campaign) -> None:
    own = documents(OWN)
    phases = Knowledge(campaign, own, entries(own)).phases
    chosen = {p.id for p in to_confirm(phases, 2, campaign.thresholds)}
    distance = {p.id: p.e_above_hull or 0.0 for p in phases}
    best = sorted(["new", "worse", "failed"], key=lambda name: distance[name])[:2]
    assert chosen == {"bi", "bi2", "se", "hull", *best}


def test_both_levels_have_their_own_hull(campaign: Campaign) -> None:
    own, other = documents(OWN), documents(OTHER)
    phases = Knowledge(campaign, own, entries(own)).phases
    found = {c.id: c for c in confirmations(phases, entries(other), other, campaign)}
    assert found.keys() == KNOWN.keys()
    diagram = PhaseDiagram(
        [PDEntry(s.composition, e * len(s)) for _, s, _, e in KNOWN.values() if e is not None]
    )
    for name, (_, structure, before, after) in KNOWN.items():
        assert found[name].level_of_theory == OTHER
        assert found[name].before.e_above_hull == {p.id: p.e_above_hull for p in phases}[name]
        if after is None:
            assert found[name].after.e_above_hull is None and not found[name].converged
            continue
        assert before != found[name].after.formation_energy_per_atom
        entry = PDEntry(structure.composition, after * len(structure))
        expected = diagram.get_e_above_hull(entry)
        assert found[name].after.e_above_hull == pytest.approx(expected, abs=1e-9)
    distances = [c.after.e_above_hull for c in found.values()]
    assert distances[-1] is None
    assert distances[:-1] == sorted(distances[:-1])  # type: ignore[type-var]


def test_agreement_counts_compounds_on_both_hulls(campaign: Campaign) -> None:
    own, other = documents(OWN), documents(OTHER)
    phases = Knowledge(campaign, own, entries(own)).phases
    crystals = confirmations(phases, entries(other), other, campaign)
    found = agreement(crystals)
    pairs = [
        (c.before, c.after)
        for c in crystals
        if KNOWN[c.id][0] != "element" and c.after.e_above_hull is not None
    ]
    assert found.crystals == found.converged == len(pairs) == 4
    assert found.same_label == sum(b.label == a.label for b, a in pairs)
    pulls = [
        np.sign((a[0].e_above_hull or 0) - (b[0].e_above_hull or 0))
        * np.sign((a[1].e_above_hull or 0) - (b[1].e_above_hull or 0))
        for a, b in itertools.combinations(pairs, 2)
    ]
    # Without ties among the crystals off the hull this is tau; ties are left to SciPy.
    assert found.kendall is not None and np.sign(found.kendall) == np.sign(sum(pulls))
    differences = [abs((a.e_above_hull or 0) - (b.e_above_hull or 0)) for a, b in pairs]
    assert found.e_above_hull == pytest.approx(np.mean(differences))
    assert agreement([]).kendall is None


def test_an_element_that_failed_is_named(campaign: Campaign) -> None:
    own, other = documents(OWN), documents(OTHER)
    other["se"].converged, other["se"].energy_per_atom = False, None
    phases = Knowledge(campaign, own, entries(own)).phases
    with pytest.raises(UserError, match="Se"):
        confirmations(phases, entries(other), other, campaign)


def test_what_was_confirmed_is_told_without_a_hull(campaign: Campaign, tmp_path: Path) -> None:
    own, other = documents(OWN), documents(OTHER)
    other["se"].converged, other["se"].energy_per_atom = False, None
    crystals = without_hull(Knowledge(campaign, own, entries(own)).phases, entries(other), other)
    found = {c.id: c for c in crystals}
    assert set(found) == set(KNOWN)
    assert found["new"].after.label == "no hull" and found["new"].displacement is not None
    assert found["new"].before.e_above_hull is not None
    assert found["se"].after.label == "not converged"
    path = tmp_path / "report.html"
    write_report(path, outcome_of(OWN, confirmed=Confirmed(crystals=crystals, problem="no Se")))
    text = path.read_text()
    assert "No hull at the other level: no Se" in text and "no hull</td>" in text


def test_the_confirming_campaign_differs_in_its_relaxation(campaign: Campaign) -> None:
    changed = confirmed_campaign(campaign)
    assert changed.relaxation.engine.name == "vasp"
    assert changed.model_copy(update={"relaxation": campaign.relaxation}) == campaign
    # Without a confirmation the hash is that of a campaign that knows of none.
    assert Campaign().digest() != campaign.digest()


def test_displacement_is_the_root_mean_square() -> None:
    start = crystal(["Bi", "Se", "Se"], 5.0)
    moved = start.copy()
    moved.translate_sites([1], [0.3, 0, 0], frac_coords=False)
    # The mean displacement is not counted: (0.2, 0.1, 0.1) Å are left.
    expected = np.sqrt((0.2**2 + 0.1**2 + 0.1**2) / 3)
    found = displacement(start, moved)
    assert found == pytest.approx(expected, rel=1e-3)
    assert displacement(start, crystal(["Bi", "Se"], 3.9)) is None


def test_the_report_shows_both_levels(campaign: Campaign, tmp_path: Path) -> None:
    own, other = documents(OWN), documents(OTHER)
    phases = Knowledge(campaign, own, entries(own)).phases
    crystals = confirmations(phases, entries(other), other, campaign)
    confirmed = Confirmed(crystals=crystals, agreement=agreement(crystals))
    path = tmp_path / "report.html"
    write_report(path, outcome_of(OWN, phases, confirmed=confirmed))
    page = path.read_text().split("<script", 1)[0]
    section = page.split('id="h-confirmed"')[1].split("</section>")[0]
    assert section.count("<tr>") == 1 + len(KNOWN)
    assert "hull</sub>, Own" in section and "hull</sub>, Other" in section
    assert "of 4 compounds the same label" in section
    assert "VASP said no &lt;b&gt;" in section
    write_report(path, outcome_of(OWN, phases, confirmed=Confirmed(problem="no Se <i>")))
    assert "no Se &lt;i&gt;" in path.read_text()
    write_report(path, outcome_of(OWN, phases))
    assert "h-confirmed" not in path.read_text()
