"""Space groups that are asked for, against pymatgen's symbols and crystals that are known."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.groups import sg_symbol_from_int_number
from test_structures_symmetry import KNOWN

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures import spacegroups
from ccdcgan.dft.structures.spacegroups import SYSTEMS, all_counts, fits, named, number_of
from ccdcgan.workflows.campaign import parse_campaign
from ccdcgan.workflows.screening import require_fitting_groups


def test_symbols_of_all_groups() -> None:
    for number in range(1, 231):
        assert number_of(sg_symbol_from_int_number(number)) == number_of(str(number)) == number
    settings = {"P21/n": 14, "P2_1/c": 14, "Pbnm": 62, "Cmca": 64, "F d -3 m": 227, "P32": 145}
    assert {symbol: number_of(symbol) for symbol in settings} == settings
    assert named(166) == "R-3m (166)"
    assert [n for system in SYSTEMS.values() for n in range(system[0], system[1] + 1)] == [
        *range(1, 231)
    ]


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"spacegroups": ["Fm-4m"]}, "no space group such as 166 or R-3m; did you mean 'fm-3m'"),
        ({"spacegroups": [231]}, "there is no space group 231: they are numbered from 1 to 230"),
        ({"spacegroups": [-3]}, "'-3' is no space group|-3 is no space group"),
        ({"spacegroups": 166}, "should be a list"),
        ({"crystal_systems": ["cubik"]}, "did you mean 'cubic'"),
    ],
)
def test_slips(search: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_campaign({"search": search}, "x")
    assert "\n" not in str(caught.value)


def test_what_is_asked_for_alike_is_one_campaign() -> None:
    def of(**search: object) -> str:
        return parse_campaign({"search": {"compositions": ["BiSe"], **search}}, "x").digest()

    assert of() == of(spacegroups=[], crystal_systems=[])
    # Of campaigns that began before there were space groups.
    assert parse_campaign({"search": {"compositions": ["Bi2Se3"]}}, "x").digest() == (
        "b94fb53053066e0e"
    )
    one = of(spacegroups=["Fm-3m", 166], crystal_systems=["hexagonal", "cubic"])
    assert one == of(spacegroups=[166, 225, "R-3m"], crystal_systems=["cubic", "hexagonal"])
    assert one != of(spacegroups=[166, 225])
    search = parse_campaign(
        {"search": {"spacegroups": ["R-3m"], "crystal_systems": ["cubic"]}}, "x"
    ).search
    assert search.groups == {166, *range(195, 231)}


def test_groups_fit_the_crystals_that_have_them(pyxtal: None) -> None:
    for structure, number, _ in KNOWN.values():
        counts = structure.get_primitive_structure().composition.get_el_amt_dict().values()
        assert fits(number, [round(n) for n in counts])
    assert not fits(227, [2, 3]) and not fits(230, [1, 1])
    assert list(all_counts(2, 1, 4)) == [[1, 1], [1, 2], [2, 1], [1, 3], [2, 2], [3, 1]]


def test_a_group_that_fits_nothing_is_refused(
    pyxtal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(most: int, **search: object) -> None:
        loop = {"screening": {"max_sites": most}}
        require_fitting_groups(parse_campaign({"search": search, "loop": loop}, "x"))

    require(2, spacegroups=["Fm-3m"], crystal_systems=["trigonal"])
    require(16, compositions=["BiSe"], spacegroups=[230])
    with pytest.raises(UserError, match=r"no cell of BiSe up to 14 atoms can .* Ia-3d \(230\)"):
        require(14, compositions=["BiSe"], spacegroups=[225, 230])
    with pytest.raises(UserError, match="no cell of Bi-Se up to 4 atoms .*230"):
        require(4, spacegroups=[230])
    require(15, compositions=["Bi2Se3"], crystal_systems=["triclinic", "cubic"])
    monkeypatch.setattr(spacegroups, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ccdcgan\[random\]'"):
        require(4, spacegroups=[225])


@pytest.mark.parametrize(
    ("lattice", "number"),
    [
        # Angles by which an atom misses its place by more than 0.1 Å, and by less.
        (Lattice.rhombohedral(4.0, 92.0), 166),
        (Lattice.rhombohedral(4.0, 90.5), 221),
        (Lattice.monoclinic(3.2, 4.1, 5.0, 92.0), 10),
        (Lattice.monoclinic(3.2, 4.1, 5.0, 90.5), 47),
    ],
)
def test_what_is_shown_is_what_can_be_asked_for(lattice: Lattice, number: int) -> None:
    crystal = Structure(lattice, ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    magnet = crystal.copy(site_properties={"magmom": [2.1, -2.0]})
    for structure in (crystal, magnet):
        assert spacegroups.spacegroup(structure) == spacegroups.named(number)
        assert spacegroups.in_groups(structure, {number})
        assert not spacegroups.in_groups(structure, {1, 2, 166, 221, 10, 47} - {number})


def test_a_group_has_its_short_symbol() -> None:
    assert spacegroups.named(14) == "P2_1/c (14)"
    assert spacegroups.named(166) == "R-3m (166)"
