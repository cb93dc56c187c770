"""Constraint, guide and goals: what they learn, repeatability, what they refuse."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from ccdcgan.models.energy.constraint import (
    Constraint,
    EnvironmentKernel,
    Starts,
    error_figures,
    train_constraint,
)
from ccdcgan.models.energy.descriptors import Environments, crystal_means, rattled
from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.energy.goals import Goal, score
from ccdcgan.models.gan.guide import TrainedGuide, objective, train_guide
from ccdcgan.models.presets import ConstraintSettings, GuideSettings, load_preset, preset_from
from ccdcgan.models.saved import model_bytes, model_from_bytes

SMALL = ConstraintSettings(references=80, members=3)
ELEMENTS = ("Bi", "Se")


def crystals(count: int, seed: int = 0) -> list[Structure]:
    """Rocksalt, zincblende and caesium chloride cells of many lengths, some with a swap."""
    rng = np.random.default_rng(seed)
    places = [(0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]
    found = []
    for _ in range(count):
        length = rng.uniform(5.4, 6.6)
        if rng.random() < 0.3:
            lattice, place = Lattice.cubic(length / 1.6), places[0]
        else:
            lattice = Lattice(length / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
            place = places[int(rng.integers(2))]
        pair = list(rng.permutation(ELEMENTS))
        found.append(Structure(lattice, pair, [[0, 0, 0], place]))
    return found


def pair_energy(structure: Structure) -> float:
    """Morse pairs between unlike atoms, eV/atom: short-ranged, so that environments know it."""
    energy = 0.0
    for site, around in zip(structure, structure.get_all_neighbors(6.0), strict=True):
        for other in around:
            if other.specie != site.specie:
                x = np.exp(-1.2 * (other.nn_distance - 2.9))
                energy += 0.05 * (x * x - 2 * x)
    return energy / len(structure)


def targets(structures: list[Structure]) -> np.ndarray:
    volume = [s.volume / len(s) for s in structures]
    return np.column_stack([[pair_energy(s) for s in structures], volume])


@pytest.fixture(scope="module")
def trained() -> tuple[Constraint, dict[str, PropertyErrors]]:
    cells = crystals(120)
    names = ("formation_energy_per_atom", "volume_per_atom")
    return train_constraint(cells, targets(cells), names, np.zeros(120), ELEMENTS, SMALL, 4)


def test_environments_do_not_depend_on_orientation_origin_or_cell() -> None:
    structure = crystals(1)[0]
    environments = Environments(ELEMENTS)
    rows, counts = environments([structure])
    assert list(counts) == [2]
    c, s = np.cos(0.7), np.sin(0.7)
    turned = structure.lattice.matrix @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    shift = np.array([0.1, 0.7, 0.4])
    moved = Structure(turned, structure.species, structure.frac_coords + shift)
    np.testing.assert_allclose(environments([moved])[0], rows, atol=1e-4)
    double, _ = environments([structure * (1, 1, 2)])
    symbols = [site.specie.symbol for site in structure * (1, 1, 2)]
    for symbol, row in zip(symbols, double, strict=True):
        own = rows[[site.specie.symbol == symbol for site in structure]][0]
        np.testing.assert_allclose(row, own, atol=1e-4)


def test_crystal_means_are_means() -> None:
    values = np.random.default_rng(0).normal(size=(6, 2))
    found = crystal_means(values, np.array([1, 3, 2]))
    expected = [values[:1].mean(0), values[1:4].mean(0), values[4:].mean(0)]
    np.testing.assert_allclose(found, expected)


def test_rattled_copies_are_near_and_repeat() -> None:
    structure = crystals(1)[0] * (2, 2, 2)
    copy = rattled(structure, 3, amplitude=0.1, strain=0.0)
    shift = (copy.frac_coords - structure.frac_coords) @ structure.lattice.matrix
    assert 0.05 < np.sqrt((shift**2).mean()) < 0.15
    np.testing.assert_array_equal(copy.frac_coords, rattled(structure, 3, 0.1, 0.0).frac_coords)
    assert not np.allclose(rattled(structure, 4).lattice.matrix, structure.lattice.matrix)


def test_kernel_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    layer = EnvironmentKernel((3, 4), 2, 5, 3)
    z, x = rng.random((5, 9)).astype("f"), rng.random((7, 9)).astype("f")
    z[:, 7:], x[:, 7:] = np.eye(2)[rng.integers(2, size=5)], np.eye(2)[rng.integers(2, size=7)]
    layer.environments.assign(z)
    found = np.asarray(layer(x))
    for i, j in np.ndindex(7, 5):
        same = float((x[i, 7:] == z[j, 7:]).all())
        assert found[i, j] == pytest.approx(same * (x[i, :3] @ z[j, :3]) ** 3, rel=1e-4)
        assert found[i, 5 + j] == pytest.approx(same * (x[i, 3:7] @ z[j, 3:7]) ** 3, rel=1e-4)


def test_errors_on_held_out_crystals(trained: tuple[Constraint, dict[str, PropertyErrors]]) -> None:
    energy, volume = (trained[1][name] for name in ("formation_energy_per_atom", "volume_per_atom"))
    assert energy.held_out == volume.held_out == energy.near_hull == 12
    assert energy.r2 > 0.95 and volume.r2 > 0.95
    assert energy.mae == energy.mae_near_hull


def test_predicts_crystals_that_it_never_saw(
    trained: tuple[Constraint, dict[str, PropertyErrors]],
) -> None:
    cells = crystals(40, seed=9)
    predicted = trained[0].predict(cells)
    assert predicted.shape == (40, 3, 2)
    truth = targets(cells)
    for k in range(2):
        error = np.abs(predicted.mean(1)[:, k] - truth[:, k]).mean()
        assert error < 0.15 * truth[:, k].std()
    # The same crystals in larger cells have the same intensive properties.
    larger = trained[0].predict([c * (2, 1, 1) for c in cells[:5]])
    np.testing.assert_allclose(larger, predicted[:5], rtol=1e-3, atol=1e-3)
    assert trained[0].predict([]).shape == (0, 3, 2)


def test_members_disagree_more_where_nothing_was_learnt(
    trained: tuple[Constraint, dict[str, PropertyErrors]],
) -> None:
    inside = trained[0].predict(crystals(20, seed=5)).std(1)[:, 0].mean()
    lattice = Lattice.orthorhombic(3.0, 4.5, 7.0)
    strange = Structure(lattice, ["Bi", "Se", "Se"], [[0, 0, 0], [0.5, 0.4, 0.3], [0.1, 0.6, 0.7]])
    assert trained[0].predict([strange]).std(1)[0, 0] > 3 * inside


def test_same_seed_same_constraint_also_in_another_process(
    trained: tuple[Constraint, dict[str, PropertyErrors]], tmp_path: Path
) -> None:
    cells = crystals(60)
    names = ("formation_energy_per_atom",)
    first, again = (
        train_constraint(cells, targets(cells)[:, 0], names, np.zeros(60), ELEMENTS, SMALL, 4)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first[0].predict(cells[:9]), again[0].predict(cells[:9]))
    assert first[1] == again[1]
    rows, _ = trained[0].environments(cells[:2])
    (tmp_path / "c.keras").write_bytes(model_bytes(trained[0].model))
    np.save(tmp_path / "x.npy", rows)
    script = (
        "import numpy as np; from pathlib import Path\n"
        "from ccdcgan.models.saved import model_from_bytes\n"
        "model = model_from_bytes(Path('c.keras').read_bytes())\n"
        "np.save('y.npy', np.asarray(model(np.load('x.npy'))))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, timeout=120)
    expected = np.asarray(trained[0].model(rows))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)


def test_what_a_constraint_cannot_learn_from() -> None:
    cells = crystals(12)
    names = ("formation_energy_per_atom",)
    with pytest.raises(ValueError, match="9 crystals are too few"):
        train_constraint(cells[:9], np.ones(9), names, np.zeros(9), ELEMENTS, SMALL, 0)
    bad = np.ones(12)
    bad[3] = np.nan
    with pytest.raises(ValueError, match="formation_energy_per_atom of Bi1 Se1 is not a finite"):
        train_constraint(cells, bad, names, np.zeros(12), ELEMENTS, SMALL, 0)


# --- starts -------------------------------------------------------------------------------------

ENERGY = ("formation_energy_per_atom",)


def orderings(count: int, seed: int) -> tuple[list[Structure], list[Structure]]:
    """Orderings on the sites of rocksalt and zincblende near one length, and swollen copies."""
    rng = np.random.default_rng(seed)
    found, starts = [], []
    for _ in range(count):
        place = [(0.5, 0.5, 0.5), (0.25, 0.25, 0.25)][int(rng.integers(2))]
        length = 6.0 * rng.normal(1.0, 0.01)
        lattice = Lattice(length / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
        cell = Structure(lattice, ELEMENTS, [[0, 0, 0], place]) * (2, 2, 1)
        kinds = np.array(["Bi", "Se"])[rng.integers(2, size=len(cell))]
        cell = Structure(cell.lattice, kinds, cell.frac_coords)
        found.append(cell)
        start = cell.copy()
        start.scale_lattice(cell.volume * rng.uniform(1.2, 1.5))
        starts.append(start)
    return found, starts


def energies(structures: list[Structure]) -> np.ndarray:
    return np.array([pair_energy(s) for s in structures])


def rms(constraint: Constraint, structures: list[Structure], truth: np.ndarray) -> float:
    missed = constraint.predict(structures).mean(1)[:, 0] - truth
    return float(np.sqrt((missed**2).mean()))


def test_what_has_learnt_from_starts_judges_starts_better() -> None:
    """Swollen starts have the energy of what they become: only starts can teach that."""
    cells, starts = orderings(150, 0)
    y, hull = energies(cells), np.zeros(150)
    of = Starts(starts, np.arange(150))
    settings = replace(SMALL, test_fraction=0.3)
    arguments = (cells, y, ENERGY, hull, ELEMENTS)
    without, plain = train_constraint(*arguments, settings, 1)
    learnt, errors = train_constraint(*arguments, settings, 1, of)
    # Judged by its starts, but with nothing learnt from them.
    naive, told = train_constraint(*arguments, replace(settings, start_weight=1e-9), 1, of)
    unseen, swollen = orderings(80, 7)
    truth = energies(unseen)
    assert rms(learnt, swollen, truth) < 0.6 * rms(without, swollen, truth)
    assert rms(learnt, swollen, truth) < 0.6 * truth.std()
    # The error on starts is told as it is for crystals that were never seen.
    energy = ENERGY[0]
    assert errors[energy].unrelaxed == pytest.approx(rms(learnt, swollen, truth), rel=0.4)
    assert told[energy].unrelaxed == pytest.approx(rms(naive, swollen, truth), rel=0.4)
    assert errors[energy].unrelaxed < 0.6 * told[energy].unrelaxed
    # Without starts it is that of rattled copies, which are less far away.
    copies = [rattled(s, 900 + i) for i, s in enumerate(unseen)]
    assert 0.5 < plain[energy].unrelaxed / rms(without, copies, truth) < 2.0
    assert plain[energy].unrelaxed < 0.5 * told[energy].unrelaxed
    # Relaxed crystals are judged about as well as before.
    assert rms(learnt, unseen, truth) < max(2 * rms(without, unseen, truth), 0.2 * truth.std())


def test_starts_of_held_out_crystals_are_held_out() -> None:
    """Energies without reason: only who has seen the starts could know those of the others."""
    cells, _ = orderings(80, 3)
    y = np.random.default_rng(0).normal(size=80)
    starts = Starts(
        [rattled(s, i, 0.01, 0.0) for i, s in enumerate(cells * 2)], np.arange(160) % 80
    )
    settings = replace(SMALL, start_weight=10.0, references=400)
    errors = train_constraint(cells, y, ENERGY, np.zeros(80), ELEMENTS, settings, 2, starts)[1]
    found = errors[ENERGY[0]]
    # As wrong as on the crystals that they differ so little from.
    assert found.r2 < 0.4 and found.unrelaxed > 0.9 * found.mae > 0.5


def test_the_error_on_starts_is_that_near_the_hull() -> None:
    """Starts in any order and number, of some crystals only; those far from it do not count."""
    cells, _ = orderings(120, 5)
    y = energies(cells)
    far = np.arange(120) % 2 == 0
    crystal = np.random.default_rng(1).permutation(np.repeat(np.arange(120), 2))[:200]
    nonsense = Structure(Lattice.cubic(3.3), ["Bi"], [[0, 0, 0]])
    cell = [nonsense if far[i] else rattled(cells[i], int(i), 0.02, 0.0) for i in crystal]
    hull = np.where(far, 2.0, 0.0)
    settings = replace(SMALL, test_fraction=0.3)
    arguments = (cells, y, ENERGY, hull, ELEMENTS, settings, 1)
    near = train_constraint(*arguments, Starts(cell, crystal))[1][ENERGY[0]]
    assert near.near_hull < near.held_out == 36
    assert near.unrelaxed < 0.4 * y.std()
    # The same starts given to other crystals are wrong, and the error says so.
    wrong = train_constraint(*arguments, Starts(cell, (crystal + 2) % 120))[1][ENERGY[0]]
    assert wrong.unrelaxed > 2 * near.unrelaxed


def test_r2_is_told_of_five_values_or_more() -> None:
    truth = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    predicted = truth + np.array([0.1, -0.1, 0.1, -0.1, 0.1])
    assert error_figures(predicted, truth) == pytest.approx((0.1, 1 - 0.05 / 10))
    mae, r2 = error_figures(predicted[:4], truth[:4])
    assert mae == pytest.approx(0.1) and np.isnan(r2)
    assert np.isnan(error_figures(predicted[:1], truth[:1])).all()


# --- guide --------------------------------------------------------------------------------------

SHORT = GuideSettings(samples=0, width=32, epochs=40, batch=32, learning_rate=3e-3)


def graphs(count: int, rows: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Graphs, energies that are linear in what the graphs of a crystal share, and crystals."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(count) * 7 + 3, rows)
    shared = np.repeat(rng.normal(size=(count, 4)), rows, axis=0)
    vectors = np.column_stack([shared, rng.normal(size=(count * rows, 2))])
    energies = shared @ [0.2, -0.1, 0.05, 0.3] - 0.4
    order = rng.permutation(len(owner))
    return vectors[order], energies[order, None], owner[order]


@pytest.fixture(scope="module")
def guide() -> TrainedGuide:
    return train_guide(*graphs(60), SHORT, 4)


@pytest.mark.parametrize("seed", range(5))
def test_errors_of_few_relaxed_crystals_among_many_drawn(seed: int) -> None:
    vectors, energies, owner = graphs(300)
    guide = train_guide(
        vectors, energies, owner, GuideSettings(epochs=1), seed, real=owner < 7 * 15
    )
    assert guide.held_out == 2
    assert np.isfinite(guide.mae).all()


def test_guide_beats_the_mean_and_repeats(guide: TrainedGuide) -> None:
    vectors, energies, _ = graphs(60)
    assert guide.held_out == 6
    assert guide.mae[0] < 0.4 * np.abs(energies - energies.mean()).mean() and guide.r2[0] > 0.7
    for curve in guide.history.values():
        assert np.isfinite(curve).all() and curve[-1] < curve[0]
    again = train_guide(*graphs(60), SHORT, 4)
    np.testing.assert_array_equal(
        np.asarray(guide.network(vectors)), np.asarray(again.network(vectors))
    )
    assert (guide.mae, guide.history) == (again.mae, again.history)


def test_guide_stops_early_and_reports() -> None:
    vectors, _, owner = graphs(40)
    noise = np.random.default_rng(1).normal(size=(len(vectors), 1))
    calls: list[tuple[int, int]] = []
    settings = replace(SHORT, epochs=200)
    long = train_guide(
        vectors, noise, owner, settings, 0, progress=lambda done, of: calls.append((done, of))
    )
    assert len(long.history["test"]) < 150
    assert calls[0] == (1, 200) and len(calls) == len(long.history["test"])


def test_all_graphs_of_a_crystal_are_on_one_side() -> None:
    # Graphs of a crystal are alike here, and energies have no reason: only who has seen other
    # graphs of the test crystals can predict them.
    rng = np.random.default_rng(1)
    owner = rng.permutation(np.repeat(np.arange(100), 4))
    vectors = rng.normal(size=(100, 12))[owner] + rng.normal(0, 0.01, (400, 12))
    energies = rng.normal(size=(100, 1))[owner]
    settings = replace(SHORT, epochs=60)
    assert train_guide(vectors, energies, owner, settings, 4).r2[0] < 0.3
    assert train_guide(vectors, energies, np.arange(400), settings, 4).r2[0] > 0.5


# --- goals --------------------------------------------------------------------------------------

NAMES = ("formation_energy_per_atom", "density", "gap")
GOALS = (Goal(), Goal("density", "maximise", 0.1), Goal("gap", "near", 2.0, 0.5))


def test_goals_score_as_they_say() -> None:
    values = np.array([[-0.2, 7.0, 0.5], [-0.2, 7.0, 0.8], [0.1, 6.0, 0.0]])
    expected = [-0.2 - 0.7, -0.2 - 0.7 + 0.6, 0.1 - 0.6 + 1.0]
    np.testing.assert_allclose(score(values, NAMES, GOALS), expected)


def test_the_objective_is_the_score_of_the_guide() -> None:
    rows = keras.Input((5,))
    keras.utils.set_random_seed(0)
    network = keras.Model(rows, keras.layers.Dense(3)(rows))
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    model = objective(network, NAMES, GOALS)
    expected = score(np.asarray(network(x)), NAMES, GOALS)
    np.testing.assert_allclose(np.asarray(model(x))[:, 0], expected, rtol=1e-5)
    reloaded = model_from_bytes(model_bytes(model))
    np.testing.assert_allclose(np.asarray(reloaded(x)), np.asarray(model(x)), rtol=1e-6)


def test_goals_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="'near', and only that, needs a value"):
        Goal("gap", "near")
    with pytest.raises(ValueError, match="'near', and only that, needs a value"):
        Goal("gap", "maximise", 1.0, 2.0)
    with pytest.raises(ValueError, match="no prediction of 'hardness': the constraint knows forma"):
        score(np.zeros((1, 3)), NAMES, [Goal("hardness")])


# --- presets ------------------------------------------------------------------------------------


def test_presets_print_load_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "preset.yaml"
    path.write_text("based_on: paper\ngan: {steps: 7, loss: hinge}\nmax_sites: 12\n")
    preset = load_preset(path)
    assert (preset.gan.steps, preset.gan.loss, preset.max_sites) == (7, "hinge", 12)
    assert preset.grid.points == 64 and preset.grid.cube == 15.0
    path.write_text(str(preset))
    assert load_preset(path) == preset and load_preset(path).digest() == preset.digest()
    assert preset_from({"max_sites": 21}).digest() != preset_from({}).digest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gan: {stepps: 7}", "unknown key 'gan.stepps'; did you mean 'steps'?"),
        ("gan: {steps: many}", "gan.steps: Input should be a valid integer"),
        ("gan: {loss: gentle}", "gan.loss: Input should be 'wgan-gp', 'hinge' or 'bce'"),
        ("based_on: nothing", "based_on must be one of quickstart, default, paper"),
        ("- 1", "must hold keys and values"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_bad_presets_are_told(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        load_preset(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot read .*missing.yaml"):
        load_preset(tmp_path / "missing.yaml")
