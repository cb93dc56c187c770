"""Sites and lattice voxels against direct sums, and their inverses."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from pymatgen.core import Lattice
from scipy.optimize import least_squares

from ccdcgan.dft.structures.sources import AflowSource, Filters, collect
from ccdcgan.models.representation.voxels import LatticeGrid, SitesGrid, lattice_from_metric

PERIODIC = SitesGrid(points=16, sigma=0.75)
SMALL_CUBE = SitesGrid(points=32, sigma=1.0, cube=15.0)
LARGE_CUBE = SitesGrid(points=64, sigma=0.26 * 63 / 15, cube=15.0)


def periodic_sum(
    coords: NDArray[np.float64], grid: SitesGrid, shape: tuple[int, ...] = (16, 16, 16)
) -> NDArray[np.float64]:
    """Every atom and its 125 nearest images, each as one Gaussian of a distance."""
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    images = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    out = np.zeros(shape)
    for atom in np.mod(coords, 1.0):
        for image in images:
            square = ((points - (atom + image) * shape) ** 2).sum(-1)
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


def distance(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    edges: tuple[int, ...] | np.ndarray = (1, 1, 1),
    periodic: bool = True,
) -> float:
    """Largest distance, along any axis, of an atom of `a` to its partner in `b`; inf if none."""
    if len(a) != len(b):
        return float("inf")
    if not len(a):
        return 0.0
    d = a[:, None] - b[None]
    if periodic:
        d -= np.asarray(edges) * np.round(d / edges)
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


def together(
    rng: np.random.Generator, shape: tuple[int, ...], count: int, near: int, least: float = 1.2
) -> np.ndarray:
    """Random atoms, `near` of them `least` to 2.5 grid spacings from an earlier one."""
    edges = np.array(shape)
    kept = [rng.random(3) * edges]
    while len(kept) < count:
        if len(kept) <= near:
            step = rng.normal(size=3)
            step *= rng.uniform(least, 2.5) / np.linalg.norm(step)
            point = kept[rng.integers(len(kept))] + step
        else:
            point = rng.random(3) * edges
        d = np.array(kept) - point
        if np.linalg.norm(d - edges * np.round(d / edges), axis=1).min() >= least:
            kept.append(point)
    return np.array(kept) / edges


def test_shapes_have_the_smallest_largest_spacing() -> None:
    rng = np.random.default_rng(1)
    lengths = np.exp(rng.uniform(np.log(2), np.log(60), (200, 3)))
    powers = [4, 8, 16, 32, 64, 128, 256]
    allowed = np.array([s for s in itertools.product(powers, repeat=3) if np.prod(s) == 4096])
    shapes = PERIODIC.shapes(lengths)
    assert shapes.shape == (200, 3) and len(np.unique(shapes, axis=0)) > 10
    assert (shapes.prod(1) == 4096).all() and set(shapes.ravel()) <= set(powers)
    for cell, shape in zip(lengths, shapes, strict=True):
        assert (cell / shape).max() == pytest.approx((cell / allowed).max(1).min())


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        ((4.0, 4.0, 4.0), (16, 16, 16)),
        ((4.0, 4.0, 40.0), (8, 8, 64)),
        ((40.0, 4.0, 4.0), (64, 8, 8)),
        # 4 × 4 × 256 has the same largest spacing, and a larger second one.
        ((2.1, 2.8, 45.0), (4, 8, 128)),
        # Two shapes are as good as each other.
        ((4.0, 4.0, 12.0), (8, 16, 32)),
        ((4.0 + 1e-12, 4.0, 12.0), (8, 16, 32)),
        ((4.0, 4.0 + 1e-12, 12.0), (8, 16, 32)),
    ],
)
def test_shapes_of_cells(cell: tuple[float, ...], shape: tuple[int, ...]) -> None:
    assert tuple(PERIODIC.shapes(np.array([cell]))[0]) == shape


def test_shapes_of_other_grids() -> None:
    long = np.array([[3.0, 3.0, 50.0]])
    assert SMALL_CUBE.shapes(long).tolist() == [[32, 32, 32]]
    assert SitesGrid(points=4).shapes(long).tolist() == [[4, 4, 4]]
    assert SitesGrid(points=8).shapes(long).tolist() == [[4, 4, 32]]
    assert PERIODIC.shapes(np.zeros((0, 3))).shape == (0, 3)
    for points in (2, 12, 0):
        with pytest.raises(ValueError, match=f"power of two of points, 4 or more, not {points}"):
            SitesGrid(points=points).shapes(long)
    for length in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="cell 1: lengths"):
            PERIODIC.shapes(np.array([[3.0, 3.0, 3.0], [3.0, length, 3.0]]))


@pytest.mark.parametrize("shape", [(16, 16, 16), (4, 8, 128), (64, 4, 16), (256, 4, 4)])
def test_periodic_encoding_is_the_sum_over_atoms_and_images(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape) + shape[0])
    pictures = [rng.uniform(-1.5, 2.5, (n, 3)) for n in (1, 7, 20, 7)]
    voxels = PERIODIC.encode(pictures, shape)
    assert voxels.shape == (4, *shape) and voxels.dtype == np.float32
    for picture, voxel in zip(pictures, voxels, strict=True):
        np.testing.assert_allclose(voxel, periodic_sum(picture, PERIODIC, shape), atol=1.5e-6)
    if shape == (16, 16, 16):
        np.testing.assert_array_equal(PERIODIC.encode(pictures), voxels)


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
        assert distance(picture, positions, periodic=grid.periodic) < tolerance


def test_decoding_inverts_the_aflow_prototypes() -> None:
    prototypes, _, _ = collect([AflowSource()], Filters(max_length=1e3), 2, 0)
    assert len(prototypes) > 150
    rng = np.random.default_rng(7)
    shapes = PERIODIC.shapes(np.array([p.structure.lattice.abc for p in prototypes]))
    assert len(np.unique(shapes, axis=0)) > 2
    for prototype, shape in zip(prototypes, shapes, strict=True):
        structure, origin = prototype.structure, rng.random(3)
        pictures = []
        for element in structure.composition:
            chosen = [site.specie == element for site in structure]
            pictures += [structure.frac_coords[chosen], structure.frac_coords[chosen] + origin]
        decoded = PERIODIC.decode(PERIODIC.encode(pictures, shape))
        for picture, positions in zip(pictures, decoded, strict=True):
            assert distance(picture * shape, positions * shape, shape) < 0.02, prototype.id


@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 8, 64)])
@pytest.mark.parametrize(("count", "near"), [(2, 1), (3, 2), (8, 2), (20, 1)])
def test_merged_peaks_come_apart(shape: tuple[int, ...], count: int, near: int) -> None:
    rng = np.random.default_rng(20 + count)
    pictures = [together(rng, shape, count, near) for _ in range(12)]
    voxels = PERIODIC.encode(pictures, shape)
    for counts in (None, [count] * len(pictures)):
        for picture, positions in zip(pictures, PERIODIC.decode(voxels, counts), strict=True):
            assert distance(picture * shape, positions * shape, shape) < 0.02


@pytest.mark.parametrize("direction", [(1, 0, 0), (1, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("spacings", [1.2, 1.5, 1.8, 2.1, 2.5])
def test_pairs_come_apart(direction: tuple[int, ...], spacings: float) -> None:
    unit = np.array(direction) / np.linalg.norm(direction)
    starts = np.random.default_rng(21).random((10, 3))
    pictures = [np.stack([start, start + unit * spacings / 16]) for start in starts]
    decoded = PERIODIC.decode(PERIODIC.encode(pictures))
    for picture, positions in zip(pictures, decoded, strict=True):
        assert distance(picture, positions) * 16 < 0.02


def test_pairs_in_a_cube_come_apart() -> None:
    rng = np.random.default_rng(22)
    spacing = 15.0 / 31
    steps = rng.normal(size=(10, 3))
    steps *= 1.8 * spacing / np.linalg.norm(steps, axis=1)[:, None]
    pictures = [np.stack([x, x + step]) for x, step in zip(rng.random((10, 3)), steps, strict=True)]
    decoded = SMALL_CUBE.decode(SMALL_CUBE.encode(pictures))
    for picture, positions in zip(pictures, decoded, strict=True):
        assert distance(picture, positions, periodic=False) < 0.02 * spacing


def test_the_fit_of_a_noisy_pair_is_that_of_scipy() -> None:
    rng = np.random.default_rng(23)
    pair = np.array([[0.4, 0.4, 0.4], [0.48, 0.45, 0.42]])
    voxel = PERIODIC.encode([pair])[0] + rng.normal(0, 0.02, (16,) * 3).astype(np.float32)

    def residual(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (periodic_sum(x.reshape(2, 3), PERIODIC) - voxel).ravel()

    best = least_squares(residual, pair.ravel()).x.reshape(2, 3)
    decoded = PERIODIC.decode(voxel[None])[0]
    # The fit stops seeing at three sigma.
    assert distance(best, decoded) * 16 < 0.01
    assert distance(pair, decoded) * 16 > 0.01


def blurred(
    rng: np.random.Generator, pictures: list[np.ndarray], low: float, high: float
) -> NDArray[np.float32]:
    """Peaks of height 0.7 to 1.2 and width `low` to `high`, with noise."""
    voxels = rng.normal(0, 0.03, (len(pictures), 16, 16, 16))
    for voxel, picture in zip(voxels, pictures, strict=True):
        for atom in picture:
            wide = SitesGrid(16, 0.75 * rng.uniform(low, high))
            voxel += rng.uniform(0.7, 1.2) * wide.encode([atom[None]])[0]
    return voxels.astype(np.float32)


def test_blurred_peaks_do_not_split() -> None:
    rng = np.random.default_rng(24)
    pictures = [apart(rng, 8, 3.5 / 16, periodic=True) for _ in range(40)]
    voxels = blurred(rng, pictures, 1.0, 1.15)
    for counts in (None, [8] * 40):
        for picture, positions in zip(pictures, PERIODIC.decode(voxels, counts), strict=True):
            assert distance(picture, positions) * 16 < 0.4


def test_known_counts_help_with_blurred_pairs() -> None:
    rng = np.random.default_rng(25)
    pictures = [together(rng, (16, 16, 16), 4, 1) for _ in range(40)]
    voxels = blurred(rng, pictures, 1.0, 1.0)

    def found(counts: list[int] | None) -> int:
        decoded = PERIODIC.decode(voxels, counts)
        pairs = zip(pictures, decoded, strict=True)
        return sum(distance(picture, positions) * 16 < 0.6 for picture, positions in pairs)

    assert found([4] * 40) >= 38 > found(None) >= 32


def test_counts_choose_the_strongest() -> None:
    atoms = np.array([[0.1, 0.1, 0.1], [0.6, 0.1, 0.1], [0.1, 0.6, 0.6], [0.55, 0.6, 0.6]])
    heights = np.array([1.0, 0.5, 0.8, 0.25])
    voxel = sum(h * PERIODIC.encode([a[None]]) for h, a in zip(heights, atoms, strict=True))
    for count in range(5):
        decoded = PERIODIC.decode(voxel, [count])[0]
        chosen = np.argsort(-heights)[:count]
        assert distance(atoms[chosen], decoded) * 16 < 0.2
    # There is nothing more to find. Without counts half an atom, off the grid, is background.
    assert distance(atoms, PERIODIC.decode(voxel, [9])[0]) * 16 < 0.2
    assert len(PERIODIC.decode(voxel)[0]) == 2
    with pytest.raises(ValueError, match=r"1 pictures, but counts of shape \(2,\)"):
        PERIODIC.decode(voxel, [1, 1])


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
    assert [len(d) for d in PERIODIC.decode(flat, [1, 1, 1])] == [1, 0, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_broken_voxels_do_not_raise(value: float) -> None:
    rng = np.random.default_rng(11)
    pictures = [apart(rng, 6, 0.2, periodic=True), together(rng, (16,) * 3, 6, 2)]
    for voxels in (PERIODIC.encode(pictures), rng.random((2, 16, 16, 16), np.float32)):
        voxels[0, 2, 3, 4] = value
        voxels[1, :3] = value
        for counts in (None, [6, 6]):
            decoded = PERIODIC.decode(voxels, counts)
            assert all(len(d) and np.isfinite(d).all() for d in decoded)


def test_voxels_have_the_shape_of_the_grid() -> None:
    with pytest.raises(ValueError, match="not \\(batch, nx, ny, nz\\)"):
        PERIODIC.decode(np.zeros((16, 16, 16)))
    with pytest.raises(ValueError, match="the cube's grid has the shape"):
        SMALL_CUBE.decode(np.zeros((1, 16, 16, 16)))
    with pytest.raises(ValueError, match="the cube's grid has the shape"):
        SMALL_CUBE.encode([np.zeros((1, 3))], (16, 16, 16))


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
    with pytest.raises(ValueError, match="picture 1: a coordinate is not finite"):
        grid.encode([np.array([[0.1, 0.2, 0.3]]), np.array([[0.1, value, 0.3]])])


@pytest.mark.parametrize("coordinate", [7.51, -7.51, 100.0])
def test_atoms_must_be_in_the_cube(coordinate: float) -> None:
    inside = np.zeros((2, 3))
    with pytest.raises(ValueError, match="picture 2: an atom lies outside the cube of 15.0 Å"):
        SMALL_CUBE.encode([inside, inside[:0], np.array([[0.0, coordinate, 0.0]]), inside])


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
    with pytest.raises(ValueError, match="lattice 1 is not finite"):
        LatticeGrid(points=4).encode(np.stack([np.eye(3), np.full((3, 3), np.nan)]))


def test_metric_without_a_cell_gives_nan() -> None:
    good = np.diag([9.0, 16.0, 25.0])
    indefinite = np.array([[9.0, 12.0, 0.0], [12.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    flat = np.array([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    broken = np.full((3, 3), np.nan)
    cells = lattice_from_metric(np.stack([indefinite, good, flat, broken]))
    assert np.isnan(cells[[0, 2, 3]]).all()
    np.testing.assert_allclose(cells[1], np.diag([3.0, 4.0, 5.0]))
    assert np.isnan(lattice_from_metric(indefinite[None])).all()
