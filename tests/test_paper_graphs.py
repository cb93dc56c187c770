"""The paper's crystal graphs, on small grids with trained-in-the-test or exact networks."""

import io
from dataclasses import replace

import numpy as np
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.matching import is_same
from ccdcgan.models.paper.graphs import (
    Folding,
    PaperCrystalGraphs,
    pictures_of,
    squared_error,
    train_paper_autoencoders,
)
from ccdcgan.models.paper.networks import (
    build_paper_constraint,
    build_paper_lattice_autoencoder,
    build_paper_sites_autoencoder,
)
from ccdcgan.models.presets import PAPER_GRID, PRESETS
from ccdcgan.models.representation.voxels import LatticeGrid, SitesGrid, lattice_from_metric
from ccdcgan.models.sampling import GUIDE, LATTICE, SITES, SPACE, Predictor
from ccdcgan.models.saved import model_bytes

GRID = SitesGrid(points=32, sigma=1.1, cube=15.0)
SMALL = SitesGrid(points=8, sigma=1.1, cube=15.0)


def crystal(c: float = 6.0) -> Structure:
    lattice = Lattice.from_parameters(4.1, 5.0, c, 80, 95, 110)
    return Structure(lattice, ["Bi", "Bi", "Se"], [[0, 0, 0], [0.5, 0.5, 0.4], [0.3, 0.1, 0.7]])


def graphs() -> PaperCrystalGraphs:
    return PaperCrystalGraphs(
        ["Bi", "Se"],
        SMALL,
        build_paper_sites_autoencoder(8, filters=2),
        build_paper_lattice_autoencoder(8, filters=2),
        LatticeGrid(8),
    )


def test_voxels_without_networks_give_the_crystal_back():
    """The geometry of both grids together: what the paper calls trivial, and its image filter."""
    from ccdcgan.models.paper.graphs import _centred

    structure = crystal()
    lattice, coords = _centred(structure)
    metric = LatticeGrid().decode(LatticeGrid().encode(lattice[None]))
    pictures = [coords[:2], coords[2:]]
    decoded = GRID.decode(GRID.encode(pictures))
    rebuilt = Structure(
        Lattice(lattice_from_metric(metric)[0]),
        ["Bi", "Bi", "Se"],
        np.concatenate(decoded),
        coords_are_cartesian=True,
        to_unit_cell=True,
    )
    assert is_same(structure, rebuilt)


def test_rows_and_sizes():
    encoded = graphs().encode([crystal(), crystal(7.0)])
    assert encoded.shape == (2, 600)
    # The lattice code has 25 numbers; the rest of its row is zero.
    assert np.abs(encoded[:, :25]).max() > 0
    assert not encoded[:, 25:200].any()


def test_decode_returns_a_structure_or_none():
    for structure in graphs().decode(np.zeros((3, 600), np.float32)):
        assert structure is None or set(structure.symbol_set) == {"Bi", "Se"}


def test_crystals_beyond_the_cube_are_told():
    assert graphs().fits(crystal())
    assert not graphs().fits(crystal(40.0))


def test_folding_is_exact():
    rows = np.random.default_rng(0).normal(size=(4, 600)).astype(np.float32)
    space = Folding(3)
    assert space.forward(rows).shape == (4, 28, 28, 1)
    np.testing.assert_array_equal(space.inverse(space.forward(rows)), rows)


def test_training_repeats_whatever_is_held_out():
    both = [
        train_paper_autoencoders(
            [crystal(), crystal(7.0)],
            ["Bi", "Se"],
            SMALL,
            LatticeGrid(8),
            epochs=2,
            seed=1,
            filters=2,
            held_out=held_out,
        )
        for held_out in ([], [crystal(8.0)])
    ]
    for one, other in zip(both[0][:2], both[1][:2], strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    without, with_test = (history for *_, history in both)
    assert without == {name: with_test[name] for name in ("lattice training", "sites training")}
    assert set(with_test) - set(without) == {"lattice test", "sites test"}
    assert all(len(losses) == 2 and losses[1] < losses[0] for losses in with_test.values())


def test_a_crystal_comes_back_through_the_networks():
    """Both autoencoders at a small scale: the kernels, losses and optimizer are the paper's."""
    crystals, elements = [crystal(), crystal(7.5)], ["Bi", "Se"]
    grid, lattice_grid = replace(PAPER_GRID, points=16), LatticeGrid(8)
    sites, lattice, history = train_paper_autoencoders(
        crystals, elements, grid, lattice_grid, epochs=300, seed=0, filters=16
    )
    graphs = PaperCrystalGraphs(elements, grid, sites, lattice, lattice_grid)
    empty = np.square(grid.encode(pictures_of(crystals, elements))).sum((1, 2, 3)).mean()
    assert history["sites training"][-1] < 0.1 * empty
    for structure, decoded in zip(crystals, graphs.decode(graphs.encode(crystals)), strict=True):
        assert decoded is not None and is_same(structure, decoded)


def test_the_loss_is_the_sum_over_the_picture() -> None:
    """Eq. (5): an empty picture costs what the whole picture holds, however fine the grid."""
    picture = SMALL.encode([np.zeros((1, 3))])[..., None]
    loss = np.asarray(squared_error(picture, np.zeros_like(picture)))
    np.testing.assert_allclose(loss, [np.square(picture).sum()], rtol=1e-5)


def test_of_no_crystals_there_are_no_predictions() -> None:
    assert graphs().decode(np.zeros((0, 600), np.float32)) == []
    side = 28
    network = build_paper_constraint(side)
    files = {
        SITES: model_bytes(build_paper_sites_autoencoder(SMALL.points, filters=2)),
        LATTICE: model_bytes(build_paper_lattice_autoencoder(8, filters=2)),
        SPACE: saved_folding(3),
        GUIDE: model_bytes(network),
    }
    preset = replace(PRESETS["paper"], grid=SMALL)
    predict = Predictor(["Bi", "Se"], preset, files, ["formation_energy_per_atom"])
    assert predict([]).shape == (0, 1, 1)
    assert np.isinf(predict([crystal(40.0)])).all()


def saved_folding(rows: int) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, n_rows=rows)
    return stream.getvalue()
