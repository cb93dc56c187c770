"""What a campaign knows: each thing worked out once, and the same however it grew."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from crystals import ANTIFLUORITE, CSCL, FLUORITE, NIAS, ROCKSALT, ZINCBLENDE
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.engines.base import LevelOfTheory
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.dft.structures.stacking import stackings
from ccdcgan.launchers.local.homologous import stack
from ccdcgan.models.energy.descriptors import rattled
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import Claim, Origin, RelaxationDocument
from ccdcgan.workflows.knowledge import Fact, Knowledge
from ccdcgan.workflows.phases import records, within

LEVEL = LevelOfTheory(engine="test", package="test", checkpoint="0", scale="eV")
CAMPAIGN = Campaign()
TYPES = (CSCL, NIAS, ROCKSALT, ZINCBLENDE, FLUORITE, ANTIFLUORITE)


def relaxed(key: str, end: Structure, energy: float, converged: bool = True) -> RelaxationDocument:
    return RelaxationDocument(
        key=key,
        level_of_theory=LEVEL,
        structure=end.as_dict(),
        energy_per_atom=energy,
        converged=converged,
        campaign="x",
        origin=Origin(kind="prototype", id=key),
        initial_structure=rattled(end, 0).as_dict(),
    )


def crystals() -> Iterator[RelaxationDocument]:
    """The elements, then every type three times, of other cells and nearly the same."""
    for symbol, energy in (("Bi", -3.8), ("Se", -3.4)):
        yield relaxed(symbol, Structure(Lattice.cubic(3.0), [symbol], [[0] * 3]), energy)
    cells = ((1, 1, 1), (2, 1, 1), (1, 1, 2))
    for n, (size, end) in enumerate(itertools.product(cells, TYPES)):
        yield relaxed(f"{n:02d}", rattled(end * size, n, 0.01, 0.001), -3.9 + 0.01 * n, n != 7)


DOCUMENTS = list(crystals())


def entries(documents: list[RelaxationDocument]) -> list[Claim]:
    return [Claim(key=d.key, origin=d.origin) for d in documents]


def knowledge(
    documents: list[RelaxationDocument], facts: dict[str, Fact] | None = None
) -> Knowledge:
    return Knowledge(CAMPAIGN, {d.key: d for d in documents}, entries(documents), facts)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Formulas of all pairs of structures that are matched."""
    found: list[tuple[str, str]] = []
    fit = StructureMatcher.fit

    def counted(self: StructureMatcher, a: Structure, b: Structure, **options: bool) -> bool:
        found.append((a.composition.reduced_formula, b.composition.reduced_formula))
        return bool(fit(self, a, b, **options))

    monkeypatch.setattr(StructureMatcher, "fit", counted)
    return found


def test_a_round_matches_what_is_new_with_what_is_known(fits) -> None:
    known, new = DOCUMENTS[:14], DOCUMENTS[14:]
    first = knowledge(known)
    fits.clear()
    grown = knowledge(DOCUMENTS, first.facts)
    kinds = [
        first.structure(k).composition.reduced_formula
        for k, f in first.facts.items()
        if f.crystal == k
    ]
    most = sum(kinds.count(grown.structure(d.key).composition.reduced_formula) for d in new)
    assert 0 < len(fits) <= most
    fits.clear()
    again = knowledge(DOCUMENTS, grown.facts)
    assert (again.phases, len(again.samples), again.facts) == (grown.phases, 6, grown.facts)
    again.novelty()
    assert not fits


def test_what_has_grown_is_what_is_made_at_once() -> None:
    at_once = knowledge(DOCUMENTS)
    facts: dict[str, Fact] = {}
    for number in range(2, len(DOCUMENTS) + 1, 3):
        facts = knowledge(DOCUMENTS[:number], facts).facts
    grown = knowledge(DOCUMENTS, facts)
    assert grown.facts == at_once.facts
    assert grown.phases == at_once.phases
    assert sum(p.distinct for p in grown.phases) == 8
    assert [s.key for s in grown.samples] == ["00", "01", "02", "03", "04", "05"]
    assert all(len(s.starts) == (2 if s.key == "01" else 3) for s in grown.samples)
    assert grown.novelty().scale == at_once.novelty().scale
    assert grown.facts == at_once.facts


def test_what_is_known_of_another_structure_under_a_key_is_worked_out_anew() -> None:
    facts = knowledge(DOCUMENTS).facts
    # The first of its class is now another crystal; one that failed has converged.
    changed = [
        relaxed("00", rattled(NIAS, 3, 0.01, 0.001), -3.9)
        if d.key == "00"
        else d.model_copy(update={"converged": True})
        if d.key == "07"
        else d
        for d in DOCUMENTS
    ]
    assert knowledge(changed, facts).phases == knowledge(changed).phases
    classes = {k: f.crystal for k, f in knowledge(changed, facts).facts.items()}
    assert classes["00"] == classes["01"] == classes["07"]
    assert classes["06"] == classes["12"] not in ("00", None)
    # What left the campaign is no name of a crystal any more.
    fewer = [d for d in DOCUMENTS if d.key != "00"]
    assert knowledge(fewer, facts).phases == knowledge(fewer).phases


def test_other_orders_have_the_same_crystals() -> None:
    facts = knowledge(DOCUMENTS).facts
    backwards = knowledge(DOCUMENTS[::-1], facts)
    distinct = [p.id for p in backwards.phases if p.distinct]
    assert distinct == ["17", "16", "15", "14", "13", "12", "Se", "Bi"]


def test_copies_learn_for_themselves() -> None:
    known = knowledge(DOCUMENTS)
    seen, novelty = known.seen(), known.novelty()
    other = Structure(Lattice.cubic(4.0), ["Bi", "Se", "Se"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]])
    assert seen.copy().add_if_new(other) and other not in seen
    vector = novelty.vectors([other])[0]
    copied = novelty.copy()
    copied.add(other, vector)
    assert copied.distance(other, vector) == 0 < novelty.distance(other, vector)


def hexagonal(sequence: str) -> Structure:
    """A polytype of AB double layers, as SiC's 2H, 3C, 4H and 6H."""
    places = {"A": (0, 0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}
    n, sites = len(sequence), []
    for number, layer in enumerate(sequence):
        sites += [[*places[layer], (number + height) / n] for height in (0.0, 0.75)]
    return Structure(Lattice.hexagonal(4.2, 3.43 * n), ["Bi", "Se"] * n, sites)


def names(ends: list[Structure], energies: list[float]) -> list[str | None]:
    """The crystal of each, by the letter of its first relaxation."""
    found = [relaxed(*d) for d in zip("abcdefgh", ends, energies, strict=False)]
    facts: dict[str, Fact] = {}
    # One after the other, as rounds bring them.
    for number in range(1, len(found) + 1):
        facts = knowledge(found[:number], facts).facts
    assert facts == knowledge(found).facts
    return [facts[d.key].crystal for d in found]


def test_near_copies_are_one_crystal() -> None:
    known = primitive_cell(stack(0, 1))
    copies = [rattled(known * (2, 1, 1), seed, 0.1, 0.01) for seed in (1, 2)]
    assert not any(is_same(known, copy) for copy in copies)
    ends = [known, *copies, rattled(NIAS * (1, 2, 1), 1, 0.1, 0.01), NIAS]
    energies = [-3.9, -3.8985, -3.9015, -3.7, -3.701]
    assert names(ends, energies) == ["a", "a", "a", "d", "d"]
    # The energy counts from the first relaxation of the crystal, whatever a copy has.
    assert names(ends[:3], [-3.9, -3.8985, -3.897]) == ["a", "a", "c"]
    # What matches is the same crystal at any energy, as ever.
    assert names(ends[2::-1], [-3.9015, -3.8, -3.9]) == ["a", "a", "a"]


def test_polytypes_are_crystals_of_their_own() -> None:
    polytypes = [hexagonal(s) for s in ("AB", "ABC", "ABCB", "ABCACB")]
    assert names(polytypes, [-3.9, -3.9003, -3.8999, -3.9005]) == ["a", "b", "c", "d"]
    known = primitive_cell(stack(1, 1))
    others = list(dict(stackings([known], [0.0], 12))[0,])[:5]
    found = names([known, *others], [-3.9] * 6)
    same = [is_same(a, b) for a, b in itertools.combinations([known, *others], 2)]
    assert len(set(found)) == 6 and not any(same)


def test_a_crystal_is_on_the_hull_by_its_lowest_relaxation() -> None:
    elements = [d for d in DOCUMENTS if d.key in ("Bi", "Se")]
    copies = [rattled(ROCKSALT, seed, 0.01, 0.001) for seed in (1, 2, 3)]
    energies = [-4.0, -4.0015, -3.99]
    found = knowledge(
        [*elements, *(relaxed(*d) for d in zip("abc", copies, energies, strict=True))]
    )
    phases = {p.id: p for p in found.phases}
    assert phases["a"].distinct and phases["a"].e_above_hull == pytest.approx(0.0015)
    assert phases["a"].label == phases["b"].label == "on the hull"
    assert phases["c"].label == "within 0.025"
    assert within([phases["a"]]) == {"0": 1, "0.025": 1, "0.05": 1, "0.1": 1}


def test_the_lowest_crystal_of_a_formula_is_a_record_of_its_source() -> None:
    generated = {
        name: Origin(kind="generated", id=name, source=name, round=1) for name in ("variation", "x")
    }
    found = [
        relaxed("Bi", Structure(Lattice.cubic(3.0), ["Bi"], [[0] * 3]), -3.8),
        relaxed("Se", Structure(Lattice.cubic(3.0), ["Se"], [[0] * 3]), -3.4),
        relaxed("a", ROCKSALT, -3.9),
        # A copy that is lower takes nothing; another crystal does.
        relaxed("b", rattled(ROCKSALT, 1, 0.01, 0.001), -3.91),
        relaxed("c", NIAS, -3.95),
        relaxed("d", FLUORITE, -3.9),
        relaxed("e", ANTIFLUORITE, -3.8),
        relaxed("f", primitive_cell(stack(0, 1)), -3.7),
    ]
    for number, name in ((3, "x"), (4, "variation"), (7, "variation")):
        found[number].origin = generated[name]
    assert records(knowledge(found[:4]).phases) == {"prototype": 1}
    formulas = {d.structure.composition.reduced_formula for d in found[5:7]}
    assert len(formulas) == 2
    assert records(knowledge(found).phases) == {"variation": 2, "prototype": 2}


def test_what_an_earlier_version_has_kept_is_worked_out_anew() -> None:
    known = primitive_cell(stack(0, 1))
    found = [
        relaxed("a", known, -3.9),
        relaxed("b", rattled(known * (2, 1, 1), 1, 0.1, 0.01), -3.9),
    ]
    facts = knowledge(found).facts
    old = {
        key: f.model_copy(update={"source": "0" * 16, "crystal": key}) for key, f in facts.items()
    }
    assert knowledge(found, old).facts == facts
    assert facts["b"].crystal == "a"
