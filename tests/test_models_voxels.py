"""Sites and lattice voxels against direct sums, and their inverses."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pymatgen.core import Lattice

from ccdcgan.dft.sources import AflowSource, Filters, collect
from ccdcgan.models.voxels import LatticeGrid, SitesGrid, lattice_from_metric

PERIODIC = SitesGrid(points=16, sigma=0.75)
SMALL_CUBE = SitesGrid(points=32, sigma=1.0, cube=15.0)
LARGE_CUBE = SitesGrid(points=64, sigma=0.26 * 63 / 15, cube=15.0)


def periodic_sum(coords: NDArray[np.float64], grid: SitesGrid) -> NDArray[np.float64]:
    """Every atom and its 27 nearest images, each as one Gaussian of a distance."""
    axis = np.arange(grid.points) / grid.points
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    out = np.zeros((grid.points,) * 3)
    for atom in np.mod(coords, 1.0):
        for image in images:
            square = ((points - atom - image) ** 2).sum(-1) * grid.points**2
            out += np.exp(-square / (2 * grid.sigma**2))
    return out


def cube_sum(coords: NDArray[np.float64], grid: SitesGrid) -> NDArray[np.float64]:
    """Every atom as one Gaussian of the distance in Å, in a cube around the origin."""
    assert grid.cube is not None
    axis = np.linspace(-grid.cube / 2, grid.cube / 2, grid.points)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    sigma = grid.sigma * grid.cube / (grid.points - 1)
    out = np.zeros((grid.points,) * 3)
    for atom in coords:
        out += np.exp(-((points - atom) ** 2).sum(-1) / (2 * sigma**2))
    return out


def distance(a: NDArray[np.float64], b: NDArray[np.float64], periodic: bool = True) -> float:
    """Largest distance, along any axis, of an atom of `a` to its partner in `b`; inf if none."""
    if len(a) != len(b):
        return float("inf")
    if not len(a):
        return 0.0
    d = a[:, None] - b[None]
    if periodic:
        d -= np.round(d)
    r = np.abs(d).max(-1)
    if len(set(r.argmin(1))) < len(a):
        return float("inf")
    return float(r.min(1).max())


def apart(rng: np.random.Generator, count: int, least: float, periodic: bool) -> np.ndarray:
    """Random points in the unit cell, no two closer than `least`."""
    kept: list[np.ndarray] = []
    while len(kept) < count:
        point = rng.random(3)
        d = np.array(kept).reshape(-1, 3) - point
        if periodic:
            d -= np.round(d)
        if not len(d) or np.linalg.norm(d, axis=1).min() > least:
            kept.append(point)
    return np.array(kept)


@pytest.mark.parametrize("seed", range(3))
def test_periodic_encoding_is_the_sum_over_atoms_and_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = [rng.uniform(-1.5, 2.5, (n, 3)) for n in (1, 7, 20, 7)]
    voxels = PERIODIC.encode(pictures)
    assert voxels.shape == (4, 16, 16, 16) and voxels.dtype == np.float32
    for picture, voxel in zip(pictures, voxels, strict=True):
        np.testing.assert_allclose(voxel, periodic_sum(picture, PERIODIC), atol=1e-6)


@pytest.mark.parametrize("grid", [SMALL_CUBE, LARGE_CUBE], ids=["32", "64"])
def test_cube_encoding_is_the_sum_over_distances(grid: SitesGrid) -> None:
    rng = np.random.default_rng(4)
    corner = np.array([[7.5, -7.5, 7.5]])
    pictures = [rng.uniform(-7.5, 7.5, (9, 3)), corner]
    for picture, voxel in zip(pictures, grid.encode(pictures), strict=True):
        np.testing.assert_allclose(voxel, cube_sum(picture, grid), atol=1e-6)


def test_batch_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    pictures = [rng.random((n, 3)) for n in (3, 1, 0, 8, 3)]
    together = PERIODIC.encode(pictures)
    for picture, voxel in zip(pictures, together, strict=True):
        np.testing.assert_allclose(PERIODIC.encode([picture[::-1]])[0], voxel, atol=1e-6)


@pytest.mark.parametrize("grid", [PERIODIC, SMALL_CUBE, LARGE_CUBE], ids=["periodic", "32", "64"])
def test_decoding_inverts_random_pictures(grid: SitesGrid) -> None:
    # Two maxima show in every direction from 2√3 grid spacings on.
    rng = np.random.default_rng(6)
    counts = [0, 1, 2, 5, 12] * 8 if grid.points == 16 else [0, 1, 5, 12]
    least = 3.5 / grid.points
    pictures = [apart(rng, n, least, grid.periodic).reshape(-1, 3) for n in counts]
    if grid.cube is not None:
        pictures = [(p - 0.5) * grid.cube for p in pictures]
    decoded = grid.decode(grid.encode(pictures))
    tolerance = 1e-4 if grid.periodic else 1e-3
    for picture, positions in zip(pictures, decoded, strict=True):
        assert distance(picture, positions, grid.periodic) < tolerance


def test_decoding_inverts_the_aflow_prototypes() -> None:
    prototypes, _, _ = collect([AflowSource()], Filters(max_length=1e3), 2, 0)
    assert len(prototypes) > 150
    rng = np.random.default_rng(7)
    pictures, names = [], []
    for prototype in prototypes:
        structure, origin = prototype.structure, rng.random(3)
        for element in structure.composition:
            chosen = [site.specie == element for site in structure]
            pictures += [structure.frac_coords[chosen], structure.frac_coords[chosen] + origin]
            names += [prototype.id] * 2
    decoded = PERIODIC.decode(PERIODIC.encode(pictures))
    lost = set()
    for name, picture, positions in zip(names, pictures, decoded, strict=True):
        if distance(picture, positions) > 1e-3:
            lost.add(name)
    # Covellite's S2 pairs lie 2.0 grid spacings apart in a cell of 16 Å, and the library's GeS2
    # has pairs of S only 1.3 Å apart.
    assert lost <= {"aflow:AB_hP12_194_df_ce", "aflow:AB2_oF72_43_ab_3b"}


@pytest.mark.parametrize(("layers", "length"), [(14, 26.0), (18, 34.0), (30, 57.0)])
def test_decoding_inverts_long_layered_cells(layers: int, length: float) -> None:
    # Close-packed layers of Bi and Se by turns, as in the homologous series of Bi-Se.
    z = (np.arange(layers) + 0.5) / layers
    assert length / layers < 2.0
    lateral = np.array([[0, 0], [1 / 3, 2 / 3], [2 / 3, 1 / 3]])[np.arange(layers) % 3]
    sites = np.column_stack([lateral, z])
    for sublattice in (sites[::2], sites[1::2]):
        decoded = PERIODIC.decode(PERIODIC.encode([sublattice]))[0]
        assert distance(sublattice, decoded) < 1e-5


@pytest.mark.parametrize("half_way", [(1, 0, 0), (1, 1, 0), (1, 1, 1)])
def test_an_atom_half_way_between_grid_points_is_one_atom(half_way: tuple[int, ...]) -> None:
    atom = (np.array([[3.0, 15.0, 8.0]]) + 0.5 * np.array(half_way)) / 16
    decoded = PERIODIC.decode(PERIODIC.encode([atom]))[0]
    assert distance(atom, decoded) < 1e-6


def test_unresolved_atoms_are_one_between_them() -> None:
    atoms = np.array([[0.40, 0.4, 0.4], [0.46, 0.4, 0.4]])
    decoded = PERIODIC.decode(PERIODIC.encode([atoms]))[0]
    assert decoded.shape == (1, 3)
    np.testing.assert_allclose(decoded[0], [0.43, 0.4, 0.4], atol=0.03)


def test_atoms_meet_across_the_cell_faces() -> None:
    atoms = np.array([[0.99, 0.01, 0.0], [0.2, 0.98, 0.999]])
    decoded = PERIODIC.decode(PERIODIC.encode([atoms]))[0]
    assert distance(atoms, decoded) < 1e-6
    assert ((decoded >= 0) & (decoded < 1)).all()


@pytest.mark.parametrize("grid", [SMALL_CUBE, LARGE_CUBE], ids=["32", "64"])
def test_atoms_on_the_faces_of_the_cube_come_back(grid: SitesGrid) -> None:
    atoms = np.array([[-7.5, 0.1, 7.5], [7.4, 7.3, 0.0], [0.0, -7.39, -7.45]])
    decoded = grid.decode(grid.encode([atoms]))[0]
    assert distance(atoms, decoded, periodic=False) < 1e-5


@pytest.mark.parametrize("grid", [PERIODIC, SMALL_CUBE], ids=["periodic", "cube"])
def test_empty_pictures(grid: SitesGrid) -> None:
    n = grid.points
    voxels = grid.encode([np.zeros((0, 3)), np.zeros((0, 3))])
    assert voxels.shape == (2, n, n, n) and not voxels.any()
    assert [d.shape for d in grid.decode(voxels)] == [(0, 3), (0, 3)]
    assert grid.encode([]).shape == (0, n, n, n)
    assert grid.decode(np.zeros((0, n, n, n))) == []
    mixed = grid.decode(grid.encode([np.zeros((0, 3)), np.full((1, 3), 0.25)]))
    assert [len(d) for d in mixed] == [0, 1]


def test_flat_and_broken_pictures_are_not_a_thousand_atoms() -> None:
    flat = np.stack([np.full((16,) * 3, value) for value in (0.9, 0.1, np.nan)])
    assert [len(d) for d in PERIODIC.decode(flat)] == [1, 0, 0]


def test_decoding_survives_noise() -> None:
    rng = np.random.default_rng(8)
    pictures = [apart(rng, 6, 0.25, periodic=True) for _ in range(10)]
    voxels = PERIODIC.encode(pictures)
    voxels = voxels + rng.normal(0, 0.02, voxels.shape).astype(np.float32)
    for picture, positions in zip(pictures, PERIODIC.decode(voxels), strict=True):
        assert distance(picture, positions) < 0.02


@pytest.mark.parametrize("grid", [PERIODIC, SMALL_CUBE], ids=["periodic", "cube"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_coordinates_must_be_finite(grid: SitesGrid, value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        grid.encode([np.array([[0.1, 0.2, 0.3]]), np.array([[0.1, value, 0.3]])])


@pytest.mark.parametrize("coordinate", [7.51, -7.51, 100.0])
def test_atoms_must_be_in_the_cube(coordinate: float) -> None:
    with pytest.raises(ValueError, match="outside the cube of 15.0 Å"):
        SMALL_CUBE.encode([np.array([[0.0, coordinate, 0.0]])])


def random_lattices(rng: np.random.Generator, count: int) -> list[Lattice]:
    """Triclinic cells with edges of 3 to 14 Å that are not flat."""
    lattices: list[Lattice] = []
    while len(lattices) < count:
        angles = rng.uniform(55, 125, 3)
        cosines = np.cos(np.radians(angles))
        if 1 - (cosines**2).sum() + 2 * cosines.prod() < 0.15:
            continue
        lattices.append(Lattice.from_parameters(*rng.uniform(3, 14, 3), *angles))
    return lattices


def test_lattice_encoding_is_the_gaussian_of_the_distance_to_the_centre() -> None:
    grid = LatticeGrid(points=8, sigma=2.0)
    lattice = random_lattices(np.random.default_rng(9), 1)[0]
    axis = (np.arange(8) + 0.5) / 8 - 0.5
    fractional = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    r = np.linalg.norm(lattice.get_cartesian_coords(fractional), axis=1)
    voxel = grid.encode(lattice.matrix[None])[0]
    np.testing.assert_allclose(voxel.ravel(), np.exp(-(r**2) / 8), atol=1e-6)


@pytest.mark.parametrize(("noise", "length", "angle"), [(0.0, 1e-4, 1e-3), (0.01, 0.02, 0.5)])
def test_lattice_voxels_give_back_the_cell(noise: float, length: float, angle: float) -> None:
    rng = np.random.default_rng(10)
    lattices = random_lattices(rng, 12)
    grid = LatticeGrid()
    voxels = grid.encode(np.array([lattice.matrix for lattice in lattices]))
    voxels = voxels + rng.normal(0, noise, voxels.shape)
    metrics = grid.decode(voxels)
    for lattice, metric in zip(lattices, metrics, strict=True):
        if not noise:
            np.testing.assert_allclose(metric, lattice.metric_tensor, rtol=1e-4, atol=1e-3)
    cells = lattice_from_metric(metrics)
    for lattice, matrix in zip(lattices, cells, strict=True):
        found = Lattice(matrix)
        np.testing.assert_allclose(found.abc, lattice.abc, rtol=length)
        np.testing.assert_allclose(found.angles, lattice.angles, atol=angle)


def test_lattices_must_be_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        LatticeGrid(points=4).encode(np.full((1, 3, 3), np.nan))


def test_metric_without_a_cell_gives_nan() -> None:
    good = np.diag([9.0, 16.0, 25.0])
    indefinite = np.array([[9.0, 12.0, 0.0], [12.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    flat = np.array([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    broken = np.full((3, 3), np.nan)
    cells = lattice_from_metric(np.stack([indefinite, good, flat, broken]))
    assert np.isnan(cells[[0, 2, 3]]).all()
    np.testing.assert_allclose(cells[1], np.diag([3.0, 4.0, 5.0]))
    assert np.isnan(lattice_from_metric(indefinite[None])).all()
