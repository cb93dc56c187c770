"""Crystal graphs: structures to numbers and back, origins, whitening."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.matching import is_same
from ccdcgan.models.presets import Preset
from ccdcgan.models.representation.default import CrystalGraphs, anchored, problem
from ccdcgan.models.representation.whitening import Whitening
from ccdcgan.models.sampling import SITES, shipped_autoencoder
from ccdcgan.models.saved import model_from_bytes

GRID = Preset().grid


@pytest.fixture(scope="module")
def autoencoder() -> keras.Model:
    return model_from_bytes(shipped_autoencoder()[SITES])


def bismuth_selenide(length: float = 9.6) -> Structure:
    """Bi2Se3 in its rhombohedral cell."""
    lattice = Lattice.rhombohedral(length, 24.9)
    heights = [0.4, -0.4, 0.0, 0.21, -0.21]
    return Structure(lattice, ["Bi"] * 2 + ["Se"] * 3, [[z] * 3 for z in heights])


def rocksalt(a: str = "Bi", b: str = "Se", length: float = 5.9) -> Structure:
    lattice = Lattice(length / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    return Structure(lattice, [a, b], [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])


def perovskite() -> Structure:
    species = ["Sr", "Ti", "O", "O", "O"]
    sites = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Structure(Lattice.cubic(3.9), species, sites)


def test_binary_crystals_come_back(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    crystals = [bismuth_selenide(), rocksalt(), rocksalt("Se", "Bi"), bismuth_selenide(12.0)]
    rows = graphs.encode(crystals)
    assert rows.shape == (4, graphs.length) and rows.dtype == np.float32
    assert graphs.length == graphs.head + 2 * graphs.code_length and graphs.head == 11
    for crystal, decoded in zip(crystals, graphs.decode(rows), strict=True):
        assert decoded is not None
        assert decoded.composition == crystal.composition
        np.testing.assert_allclose(
            decoded.lattice.parameters, crystal.lattice.parameters, rtol=1e-4
        )
        assert is_same(decoded, crystal)


def test_ternary_crystals_come_back(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("O", "Sr", "Ti"), GRID, autoencoder)
    crystal = perovskite()
    rows = graphs.encode([crystal])
    assert rows.shape == (1, 12 + 3 * graphs.code_length)
    decoded = graphs.decode(rows)[0]
    assert decoded is not None and decoded.composition == crystal.composition
    assert is_same(decoded, crystal)


def test_cell_and_composition_lead_the_graph(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Se", "Bi"), GRID, autoencoder)
    lattice = Lattice.from_parameters(5.0, 10.0, 2.5, 90, 60, 120)
    crystal = Structure(lattice, ["Bi", "Se", "Se"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.2, 0.8, 0.4]])
    head = graphs.encode([crystal])[0, : graphs.head]
    expected = [0, np.log(2), -np.log(2), 0, 0.5, -0.5, 0, 1, -1, 2 / 8, 1 / 8]
    np.testing.assert_allclose(head, expected, atol=1e-6)


def layered(blocks: int) -> Structure:
    """A stack of Bi2Se3 quintuple layers and a Bi2 bilayer: c grows far beyond 20 Å."""
    species, heights = [], []
    position = 0.0
    for block in range(blocks + 1):
        names = ["Bi", "Bi"] if block == blocks else ["Se", "Bi", "Se", "Bi", "Se"]
        for number, name in enumerate(names):
            species.append(name)
            heights.append(position)
            position += 2.4 if number + 1 == len(names) else 1.75
    sites = [[(i % 3) / 3, (-i % 3) / 3, h / position] for i, h in enumerate(heights)]
    return Structure(Lattice.hexagonal(4.2, position), species, sites)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_long_cells_come_back(autoencoder: keras.Model, blocks: int) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    crystal = layered(blocks)
    assert crystal.lattice.c > 9 * (blocks + 0.5)
    # A skew cell of the same crystal, too.
    skew = Structure(
        np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]]) @ crystal.lattice.matrix,
        crystal.species,
        crystal.cart_coords,
        coords_are_cartesian=True,
    )
    rows = graphs.encode([crystal, skew])
    assert (graphs.shapes(rows).prod(1) == 16**3).all()
    assert graphs.shapes(rows)[0, 2] >= 32
    for decoded in graphs.decode(rows):
        assert decoded is not None and decoded.composition == crystal.composition
        assert is_same(decoded, crystal)


def test_the_numbers_of_atoms_decide_how_many_are_found(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    rows = np.repeat(graphs.encode([bismuth_selenide()]), 3, axis=0)
    rows[1, graphs.head - 1] = 2 / 8
    rows[2, graphs.head - 1] = 0
    decoded = graphs.decode(rows)
    assert [d and d.composition["Se"] for d in decoded] == [3, 2, None]


def test_what_cannot_be_learnt_from_says_why() -> None:
    elements = ("Bi", "Se")
    assert problem(bismuth_selenide(), elements, 20) is None
    assert problem(bismuth_selenide(), elements, 4) == (
        "has 5 atoms in the primitive cell; the preset takes 4"
    )
    assert problem(rocksalt("Bi", "Te"), elements, 20) == "holds Te, outside the system Bi-Se"
    close = Structure(Lattice.cubic(4), ["Bi", "Se"], [[0, 0, 0], [0.1, 0, 0]])
    assert problem(close, elements, 20) == "has atoms closer than 0.5 Å"
    mixed = Structure(Lattice.cubic(4), [{"Bi": 0.5, "Se": 0.5}], [[0, 0, 0]])
    assert problem(mixed, elements, 20) == "has partly occupied sites"
    endless = Structure(Lattice([[np.nan, 0, 0], [0, 4, 0], [0, 0, 4]]), ["Bi"], [[0, 0, 0]])
    assert problem(endless, elements, 20) == "cannot be a crystal: cell or coordinates not finite"
    flat = Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 0]]), ["Bi"], [[0, 0, 0]])
    assert problem(flat, elements, 20) == "cannot be a crystal: lattice vector shorter than 0.5 Å"


def test_a_row_does_not_depend_on_its_batch(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    crystals = [bismuth_selenide(), rocksalt(), rocksalt("Se", "Bi")]
    together = graphs.encode(crystals)
    for crystal, row in zip(crystals, together, strict=True):
        np.testing.assert_allclose(graphs.encode([crystal])[0], row, atol=1e-5)
    assert graphs.encode([]).shape == (0, graphs.length)


def test_foreign_elements_are_named(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    with pytest.raises(ValueError, match=r"Bi1 Te1 holds Te, outside the system Bi-Se"):
        graphs.encode([rocksalt(), rocksalt("Bi", "Te")])


def test_no_crystal_without_cell_or_element(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    rows = graphs.encode([rocksalt(), rocksalt(), rocksalt(), rocksalt()])
    rows[1, 3:6] = [0.9, 0.9, -0.9]
    rows[2, 0] = np.nan
    empty = graphs.codes([np.zeros((0, 3))], np.array([[16, 16, 16]]))[0]
    rows[3, graphs.head : graphs.head + graphs.code_length] = empty
    decoded = graphs.decode(rows)
    assert [d is None for d in decoded] == [False, True, True, True]


def test_wild_numbers_do_not_break_decoding(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (20, graphs.length))
    rows[0, :3] = 1e6
    decoded = graphs.decode(rows)
    assert len(decoded) == 20
    for crystal in decoded:
        if crystal is not None:
            assert np.isfinite(crystal.lattice.matrix).all()
            assert np.isfinite(crystal.frac_coords).all()


def test_nothing_decodes_to_nothing(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    assert graphs.decode(np.zeros((0, graphs.length))) == []


def test_anchored_crystals_are_the_crystal_with_an_atom_at_the_origin() -> None:
    crystal = bismuth_selenide()
    crystal.translate_sites(range(len(crystal)), [0.13, 0.37, 0.71])
    copies = anchored(crystal)
    # Bi, of which there are two, is the rarer one.
    assert len(copies) == 2 and len(anchored(crystal, 1)) == 1
    for i, copy in enumerate(copies):
        assert copy.species == crystal.species
        np.testing.assert_allclose(copy.lattice.matrix, crystal.lattice.matrix)
        np.testing.assert_allclose(copy[i].frac_coords, 0, atol=1e-12)
        assert (copy.frac_coords >= 0).all() and (copy.frac_coords < 1).all()
        np.testing.assert_allclose(copy.distance_matrix, crystal.distance_matrix, atol=1e-8)
        assert is_same(copy, crystal)


def test_anchored_crystals_do_not_depend_on_the_origin(autoencoder: keras.Model) -> None:
    graphs = CrystalGraphs(("Bi", "Se"), GRID, autoencoder)
    crystal = bismuth_selenide()
    moved = crystal.copy()
    moved.translate_sites(range(len(moved)), [0.31, 0.07, 0.55])
    rows, again = graphs.encode(anchored(crystal)), graphs.encode(anchored(moved))
    np.testing.assert_allclose(rows, again, atol=1e-4)


def test_anchors_are_limited() -> None:
    crystal = rocksalt() * (2, 2, 2)
    assert len(anchored(crystal)) == 4
    assert len(anchored(crystal, 20)) == 8
    assert all(copy[i].specie.symbol == "Bi" for i, copy in enumerate(anchored(crystal)))


def low_rank(rank: int, count: int = 60, head: int = 8, codes: int = 50) -> np.ndarray:
    rng = np.random.default_rng(3)
    cell = rng.normal(1.0, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], (count, head))
    hidden = rng.uniform(-1, 1, (count, rank)) @ rng.normal(size=(rank, codes))
    return np.column_stack([cell, 0.9 * hidden / np.abs(hidden).max()])


@pytest.mark.parametrize("latent", [18, 19, 40, 500])
def test_whitening_is_exact_when_it_keeps_the_rank(latent: int) -> None:
    graphs = low_rank(rank=10)
    space = Whitening.fit(graphs, 8, latent)
    vectors = space.forward(graphs)
    assert space.size == 18 and vectors.shape == (60, 18)
    np.testing.assert_allclose(space.inverse(vectors), graphs, atol=1e-5)
    np.testing.assert_allclose(space.forward(space.inverse(vectors)), vectors, atol=1e-3)


@pytest.mark.parametrize("latent", [11, 18])
def test_whitened_numbers_have_unit_variance_and_no_correlation(latent: int) -> None:
    graphs = low_rank(rank=10)
    space = Whitening.fit(graphs, 8, latent)
    assert space.size == latent
    vectors = space.forward(graphs).astype(float)
    np.testing.assert_allclose(vectors.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(vectors[:, :8].std(0), 1, rtol=1e-4)
    covariance = np.cov(vectors[:, 8:].T)
    np.testing.assert_allclose(covariance, np.eye(latent - 8), atol=1e-3)


def test_whitening_is_deterministic_and_blind_to_the_order() -> None:
    graphs = low_rank(rank=10)
    first, second = Whitening.fit(graphs, 8, 16), Whitening.fit(graphs.copy(), 8, 16)
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, vars(second)[name])
    turned = Whitening.fit(graphs[::-1], 8, 16)
    np.testing.assert_allclose(turned.forward(graphs), first.forward(graphs), atol=1e-3)


def test_whitening_keeps_codes_in_range() -> None:
    space = Whitening.fit(low_rank(rank=10), 8, 18)
    wild = space.inverse(np.full((2, 18), 50.0))
    assert np.abs(wild[:, 8:]).max() <= 1 and np.abs(wild[:, :8]).max() > 1


@pytest.mark.parametrize("count", [1, 2, 12])
def test_whitening_of_too_few_or_equal_graphs(count: int) -> None:
    graphs = np.repeat(low_rank(rank=10)[:1], count, axis=0)
    space = Whitening.fit(graphs, 8, 30)
    vectors = space.forward(graphs)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(space.inverse(vectors), graphs, atol=1e-5)
