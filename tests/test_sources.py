"""Proposal sources: what each proposes, and how much it may."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from crystals import ANTIFLUORITE, BISMUTH, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import SeenStructures, is_same
from ccdcgan.launchers.local.homologous import stack
from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.energy.power_spectrum import PAIR
from ccdcgan.models.pipeline import train_constraints
from ccdcgan.models.sampling import POTENTIAL, Files, shipped_autoencoder
from ccdcgan.workflows.campaign import Campaign, parse_campaign
from ccdcgan.workflows.documents import Claim, Origin, Phase, RelaxationDocument
from ccdcgan.workflows.drawing import generated
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.screening import Limits
from ccdcgan.workflows.sources import registry
from ccdcgan.workflows.sources.base import Context
from ccdcgan.workflows.sources.budget import LEAST, rewards, shares
from ccdcgan.workflows.sources.registry import source_of
from ccdcgan.workflows.training import crystals_of, preset_of

LEVEL = LevelOfTheory(engine="Own", package="p", checkpoint="1" * 16, scale="PBE")
TYPES = [ROCKSALT, ZINCBLENDE, CSCL, NIAS, FLUORITE, ANTIFLUORITE]
BI, SE = -4.0, -3.5


def document(name: str, structure: Structure, formation: float) -> RelaxationDocument:
    selenium = structure.composition.get_atomic_fraction("Se")
    return RelaxationDocument(
        key=name,
        level_of_theory=LEVEL,
        structure=structure,
        energy_per_atom=(1 - selenium) * BI + selenium * SE + formation,
        converged=True,
        campaign="x",
        origin=Origin(kind="prototype", id=name),
        initial_structure=structure,
    )


SELENIUM = Structure(Lattice.cubic(3.2), ["Se"], [[0] * 3])
#: Elements, and each structure type with four lengths of its third axis.
KNOWN = [document("bismuth-", BISMUTH, 0.0), document("selenium", SELENIUM, 0.0)]
KNOWN += [
    document(
        f"{kind}-{strained}",
        Structure(
            structure.lattice.matrix @ np.diag([1, 1, 1 + 0.3 * strained]),
            structure.species,
            structure.frac_coords,
        ),
        -0.1 - 0.05 * kind + 0.08 * strained,
    )
    for kind, structure in enumerate(TYPES)
    for strained in range(4)
]


@pytest.fixture(scope="module")
def files() -> Files:
    """Of a constraint that has learnt from what is known."""
    campaign = Campaign()
    knowledge = Knowledge(campaign, {d.key: d for d in KNOWN})
    crystals = crystals_of(knowledge.samples, campaign.properties)
    shipped = shipped_autoencoder()
    trained, _ = train_constraints(
        crystals, campaign.elements, preset_of(campaign), shipped, 0, guided=False
    )
    return shipped | trained


Make = Callable[..., Context]


@pytest.fixture
def context(files: Files) -> Make:
    """A context of what is known, or of other documents, with settings of the loop."""

    def make(
        documents: list[RelaxationDocument] = KNOWN, number: int = 3, **settings: object
    ) -> Context:
        campaign = parse_campaign(settings, "test")
        claims = [Claim(key=d.key, origin=d.origin) for d in documents]
        knowledge = Knowledge(campaign, {d.key: d for d in documents}, claims)
        return Context(knowledge, knowledge.seen(), files, "m", number)

    return make


@pytest.mark.parametrize("name", ["variation", "substitution", "random", "wyckoff"])
def test_a_source_proposes_sane_crystals_and_the_same_again(context: Make, name: str) -> None:
    found = list(source_of(name)(context(), 40))
    assert len(found) == 40
    limits = context().limits
    for origin, crystal in found:
        assert crystal is not None and limits.allow(crystal)
        assert set(crystal.symbol_set) <= {"Bi", "Se"}
        assert (origin.kind, origin.source, origin.round) == ("generated", name, 3)
    assert len({o.id for o, _ in found}) == 40
    again = list(source_of(name)(context(), 40))
    assert again == found
    other = list(source_of(name)(context(number=4), 40))
    assert [s for _, s in other] != [s for _, s in found]


@pytest.mark.parametrize("name", ["variation", "substitution", "random", "wyckoff"])
def test_a_source_proposes_what_has_the_space_groups_that_are_asked_for(
    context: Make, pyxtal: None, name: str
) -> None:
    asked = context(
        search={"spacegroups": ["Fm-3m", 166]}, loop={"screening": {"max_sites": 6}}, number=2
    )
    found = list(source_of(name)(asked, 4))
    assert found
    for _, crystal in found:
        assert crystal is not None and len(crystal) <= 6
        assert SpacegroupAnalyzer(crystal, symprec=0.1).get_space_group_number() in {166, 225}


def test_what_is_chosen_has_the_space_groups_that_are_asked_for(
    context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the learnt potential, here one that moves nothing."""
    monkeypatch.setattr(Knowledge, "keep", lambda knowledge: None)
    asked = context(
        search={"crystal_systems": ["tetragonal"]},
        loop={"sources": ["variation"], "samples": 12, "screening": {"max_sites": 6}},
    )
    still = Potential(np.array([BI, SE]), np.zeros((2, 2 * PAIR)), np.zeros((2, 420, 420)))
    files = {**asked.files, POTENTIAL: still.to_bytes()}
    errors = {FORMATION_ENERGY: PropertyErrors(mae=0.3, unrelaxed=0.5, held_out=9)}
    chosen, funnel = generated(asked.knowledge, files, errors, "m", 3)
    assert chosen and funnel.valid <= funnel.decoded
    for candidate in chosen:
        number = SpacegroupAnalyzer(candidate.structure, symprec=0.1).get_space_group_number()
        assert 75 <= number <= 142


def test_the_nearest_version_of_a_crystal_in_the_groups() -> None:
    rng = np.random.default_rng(1)
    crystal = ROCKSALT * (2, 1, 1)
    moved = crystal.cart_coords + rng.normal(0, 0.04, (4, 3))
    near = Structure(crystal.lattice, crystal.species, moved, coords_are_cartesian=True)
    limits = Limits(4, 1.0, (5.0, 100.0))
    assert limits.version(near) is near
    version = replace(limits, groups=frozenset({225})).version(near)
    assert version is not None and is_same(version, ROCKSALT)
    assert replace(limits, groups=frozenset({194})).version(near) is None
    assert replace(limits, max_sites=1, groups=frozenset({225})).version(near) is None


def test_variations_are_of_what_is_near_the_hull(context: Make) -> None:
    """Parents e-fold less likely with every 0.05 eV/atom above the hull."""
    distances = {p.id[:8]: p.e_above_hull for p in context().knowledge.phases}
    names = [
        name
        for origin, _ in source_of("variation")(context(), 200)
        for name in origin.id.rsplit(" ", 1)[1].split("+")
    ]
    mean = np.mean([distances[name] for name in names])
    assert mean < 0.5 * np.mean([d for d in distances.values() if d is not None])


def test_substitution_leaves_out_what_is_known_and_what_is_to_be_found(context: Make) -> None:
    left_out = context(database={"without": ["BiSe"]})
    found = [s for _, s in source_of("substitution")(left_out, 200) if s is not None]
    assert found and "BiSe" not in {s.composition.reduced_formula for s in found}
    seen = SeenStructures(d.structure for d in KNOWN)
    assert all(seen.add_if_new(s) for s in found)


def test_stackings_of_what_is_stable_are_new_and_few_of_a_formula(context: Make) -> None:
    known = [
        *KNOWN[:2],
        document("quintuple", stack(0, 1), -0.3),
        document("high", stack(2, 1), 0.3),
    ]
    screening = {"max_sites": 9, "min_distance": 2.4, "volume_range": [10.0, 60.0]}

    def found(count: int, per_formula: int = 4) -> list[tuple[Origin, Structure | None]]:
        loop = {"screening": {**screening, "per_formula": per_formula}}
        return list(source_of("stackings")(context(known, loop=loop), count))

    some = found(100, per_formula=1)
    assert any(is_same(s, stack(1, 1)) and o.id.endswith("bismuth-+quintupl") for o, s in some)
    assert all((o.kind, o.round, o.source) == ("generated", 3, "stackings") for o, _ in some)
    assert not any("high" in o.id for o, _ in some)
    limits = context(known, loop={"screening": screening}).limits
    again = SeenStructures(d.structure for d in known)
    formulas = []
    for _, structure in some:
        assert limits.allow(structure) and again.add_if_new(structure)
        assert set(structure.symbol_set) == {"Bi", "Se"}
        formulas.append(structure.composition.reduced_formula)
    assert max(formulas.count(f) for f in formulas) <= 3
    assert len(some) > 3 and [s for _, s in found(3)] == [s for _, s in some][:3]
    assert [o for o, _ in found(100, per_formula=1)] == [o for o, _ in some]


# --- budgets ------------------------------------------------------------------------------------


def phase(source: str | None, above: float | None, distinct: bool = True, **more: str) -> Phase:
    one = document("k", ROCKSALT, 0.0)
    return Phase(
        id="k",
        structure=ROCKSALT,
        formula="BiSe",
        spacegroup="Fm-3m (225)",
        energy_per_atom=None if above is None else -4.0,
        formation_energy_per_atom=None if above is None else -0.1,
        e_above_hull=above,
        label=more.pop("label", "above"),
        converged=above is not None,
        distinct=distinct,
        origin=Origin(kind="generated", id=more.pop("id", "x"), source=source, round=1),
        level_of_theory=one.level_of_theory,
        steps=1,
        max_force=0.0,
        max_stress=0.0,
    )


def test_what_a_source_has_brought() -> None:
    phases = [
        phase("variation", 0.0),
        phase("variation", 0.025),
        phase("variation", 0.0, distinct=False),
        phase("random", 0.3),
        phase("random", None),
        phase("random", -0.1, label="untrusted"),
        phase(None, 0.05, id="stacking:a+b"),
        phase(None, 0.05, id="ccdcgan:1-7"),
    ]
    assert rewards(phases, 0.1) == {
        "variation": [1.0, 0.75, 0.0],
        "random": [0.0, 0.0, 0.0],
        "stackings": [0.5],
        "generator": [0.5],
    }


def test_budgets_follow_what_was_brought() -> None:
    names = ("a", "b", "c")
    even = shares(names, {}, np.random.default_rng(0))
    assert sum(even.values()) == pytest.approx(1.0)
    assert all(share == pytest.approx(1 / 3, abs=0.05) for share in even.values())
    brought = {"a": [0.9] * 20, "b": [0.1] * 20, "c": [0.0] * 20}
    led = shares(names, brought, np.random.default_rng(0))
    assert led["a"] > 0.8 and min(led.values()) >= LEAST / 3
    assert led == shares(names, brought, np.random.default_rng(0))


# --- which there are ----------------------------------------------------------------------------


def test_a_source_that_there_is_not() -> None:
    with pytest.raises(UserError, match="no source 'variatoin' here.*did you mean.*variation"):
        parse_campaign({"loop": {"sources": ["variatoin"]}}, "x")


def test_the_generator_is_alone_where_nothing_judges() -> None:
    assert Campaign().sources == ("stackings", "substitution", "variation", "generator")
    for networks in ({"variant": "dcgan"}, {"preset": "paper", "autoencoder": "train"}):
        assert parse_campaign({"networks": networks}, "x").sources == ("generator",)
    asked = parse_campaign({"loop": {"sources": ["random", "random"]}}, "x")
    assert asked.sources == ("random",)
    assert asked.digest() != Campaign().digest()


def test_a_source_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "theirs"

        def load(self) -> Callable[..., list[object]]:
            return lambda context, count: []

    class Points(list[Point]):
        def __getitem__(self, name: object) -> Point:  # type: ignore[override]
            return next(p for p in self if p.name == name)

    monkeypatch.setattr(registry, "entry_points", lambda group: Points([Point()]))
    assert parse_campaign({"loop": {"sources": ["theirs"]}}, "x").sources == ("theirs",)
    assert list(source_of("theirs")(None, 3)) == []  # type: ignore[arg-type]
