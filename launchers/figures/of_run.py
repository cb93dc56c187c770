"""The paper's figures from the files of a run; what it lacks is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.structures.sources import primitive_cell
from ccdcgan.launchers.figures.chart import Chart, Figure, Portrait, Portraits, Series, Symbol
from ccdcgan.launchers.local.homologous import known_crystals
from ccdcgan.launchers.report.figures import is_generated
from ccdcgan.launchers.report.points import formation, fractions, is_corner
from ccdcgan.launchers.results.run_files import RunFiles
from ccdcgan.workflows.documents import Curve, Phase

#: Names of the paper's figures, in its order.
NAMES = ("1b", "1c", "1d", "2b", "2c", "2d", "3b", "3c", "3d", "3e", "3f", "3g")

#: Formation energies above this, eV/atom, are left to those who zoom out.
TOP = 0.5

#: Crystals beside their graphs.
PORTRAITS = 4

BLACK, RED, GREY, CYAN, BLUE, GREEN = (
    *("#000000", "#d62728", "#7f7f7f", "#17becf", "#1f4ed8", "#2ca02c"),
)


#: Phases that are drawn alike: name, phases, colour and symbol.
Group = tuple[str, Sequence[Phase], str, Symbol]


class LackingError(UserError):
    """A run lacks what a figure shows."""


@dataclass
class RunFigures:
    """Figures of a run.

    Attributes
    ----------
    lacking
        By figure, why it is not among those that were made.
    """

    run: RunFiles
    lacking: dict[str, str] = field(default_factory=dict)

    def made(self, names: Sequence[str] = NAMES) -> list[Figure]:
        """Those of the figures that the run has what they take for."""
        figures: list[Figure] = []
        for name in names:
            try:
                figures.append(self._made(name))
            except LackingError as error:
                self.lacking[name] = str(error)
        return figures

    def _made(self, name: str) -> Figure:
        make: dict[str, Callable[[], Figure]] = {
            "1b": lambda: self._learning("1b", "Lattice autoencoder"),
            "1c": lambda: self._learning("1c", "Sites autoencoder"),
            "1d": self._graphs,
            "2b": lambda: self._energies("2b", screened=True),
            "2c": self._latent,
            "2d": lambda: self._learning("2d", "Guide"),
            "3b": lambda: self._energies("3b", screened=False),
            "3c": self._all_generated,
        }
        if name in make:
            return make[name]()
        return self._regenerated(name, "defg".index(name[1]))

    # Learning curves.

    def _learning(self, name: str, title: str) -> Chart:
        found = [c for c in self._curves if c.title.startswith(title)]
        if not found:
            raise LackingError(
                f"no learning curve of the {title.lower()}: "
                + ("not trained here" if self._curves else "none is in the folder's database")
            )
        curve = found[-1]
        colours = {"training": BLACK, "held out": RED}
        series = [
            Series(kind, curve.x, _numbers(values), colours.get(kind, BLUE))
            for kind, values in curve.series.items()
        ]
        losses = [y for s in series for y in s.y if math.isfinite(y)]
        wide = bool(losses) and min(losses) > 0 and max(losses) > 20 * min(losses)
        return Chart(name, curve.title, curve.x_label, curve.y_label, series, log_y=wide)

    @cached_property
    def _curves(self) -> list[Curve]:
        return self.run.curves()

    # Formation energies.

    @cached_property
    def _placed(self) -> list[Phase]:
        """Phases with a formation energy to be believed."""
        return [p for p in self.run.phases if formation(p) is not None]

    @property
    def _database(self) -> list[Phase]:
        return [p for p in self._placed if not is_generated(p)]

    @property
    def _generated(self) -> list[Phase]:
        return [p for p in self._placed if is_generated(p)]

    @cached_property
    def _known(self) -> list[Phase]:
        """Phases that are known crystals: references, and stacks of Bi-Se."""
        system = set(self.run.summary.system)
        known = known_crystals() if system == {"Bi", "Se"} else []
        cells: dict[str, list[Structure]] = {}
        for crystal in known:
            cell = primitive_cell(crystal.structure)
            cells.setdefault(cell.composition.reduced_formula, []).append(cell)
        return [
            p
            for p in self._placed
            if p.origin.kind == "reference"
            or any(
                is_same(cell, primitive_cell(p.structure))
                for cell in cells.get(p.structure.composition.reduced_formula, [])
            )
        ]

    def _energies(self, name: str, *, screened: bool) -> Chart:
        """Fig. 2b, with what passes the constraint's screening apart; or 3b."""
        self._require_two_elements()
        drawn = self._generated
        if not drawn:
            raise LackingError("no crystal was generated and relaxed")
        groups: list[Group] = [("database", self._database, RED, "circle")]
        if screened:
            most = self.run.campaign.loop.screening.max_formation_energy
            passed = [
                p
                for p in drawn
                if (e := p.origin.predicted_formation_energy) is not None and e <= most
            ]
            groups += [("generated", drawn, GREY, "ring")]
            groups += [(f"predicted below {most:g} eV/atom", passed, CYAN, "star")]
        else:
            groups += [("generated", drawn, GREEN, "ring")]
        return self._scatter(name, "Formation energy of database and generated crystals", groups)

    def _all_generated(self) -> Chart:
        self._require_two_elements()
        if not self._generated:
            raise LackingError("no crystal was generated and relaxed")
        groups: list[Group] = [("generated", self._generated, GREEN, "ring")]
        return self._scatter("3c", "Formation energy of all generated crystals", groups)

    def _scatter(self, name: str, title: str, groups: Sequence[Group]) -> Chart:
        own = [p for p in self._known if not is_generated(p)]
        again = [p for p in self._known if is_generated(p)]
        every: list[Group] = [
            *groups,
            ("known, in the database", own, BLACK, "filled triangle"),
            ("known, generated", again, BLUE, "triangle"),
        ]
        series = [self._hull_line()]
        for label, phases, colour, symbol in every:
            if phases:
                series.append(self._points(label, phases, colour, symbol))
        lowest = min((y for s in series for y in s.y), default=0.0)
        highest = max((y for s in series for y in s.y), default=0.0)
        first, second = self.run.summary.system
        return Chart(
            name,
            title,
            f"x in {first}(1-x){second}(x)",
            "formation energy / eV per atom",
            series,
            y_range=(lowest - 0.03, min(highest, TOP) + 0.03),
        )

    def _points(self, label: str, phases: Sequence[Phase], colour: str, symbol: Symbol) -> Series:
        return Series(
            label,
            [fractions(p, self.run.summary.system)[1] for p in phases],
            [formation(p) or 0.0 for p in phases],
            colour,
            symbol,
            labels=[_label(p) for p in phases],
        )

    def _hull_line(self) -> Series:
        corners = {0.0: 0.0, 1.0: 0.0}
        for p in self._placed:
            x = fractions(p, self.run.summary.system)[1]
            if is_corner(p) and 0 < x < 1:
                corners[x] = formation(p) or 0.0
        line = sorted(corners.items())
        return Series("convex hull", [x for x, _ in line], [y for _, y in line], BLACK)

    def _require_two_elements(self) -> None:
        if len(self.run.summary.system) != 2:
            raise LackingError("one axis of composition takes a system of two elements")

    # Crystal graphs.

    @cached_property
    def _encoded(self) -> tuple[list[Phase], NDArray[np.float32], NDArray[np.float32]]:
        """Compounds that have crystal graphs, those graphs, and what networks see of them."""
        # Keras takes seconds to import.
        from ccdcgan.models.representation.default import anchored
        from ccdcgan.models.sampling import SITES, SPACE, crystal_graphs, load_space
        from ccdcgan.workflows.training import preset_of

        files = self.run.networks()
        if SITES not in files or SPACE not in files:
            raise LackingError("the folder's database has no trained networks")
        elements = self.run.campaign.elements
        graphs = crystal_graphs(elements, preset_of(self.run.campaign), files)
        whole = [p for p in self._placed if len(p.structure.composition) == len(elements)]
        cells = [(p, anchored(primitive_cell(p.structure), 1)[0]) for p in whole]
        fitting = [(p, cell) for p, cell in cells if graphs.fits(cell)]
        rows = graphs.encode([cell for _, cell in fitting])
        space, _ = load_space(files[SPACE])
        return [p for p, _ in fitting], rows, np.asarray(space.forward(rows), np.float32)

    def _graphs(self) -> Portraits:
        phases, rows, seen = self._encoded
        order = sorted(
            (i for i, p in enumerate(phases) if not is_generated(p)),
            key=lambda i: phases[i].e_above_hull or 0.0,
        )
        chosen: dict[str, int] = {}
        for i in order:
            chosen.setdefault(phases[i].structure.composition.reduced_formula, i)
        crystals = [
            Portrait(phases[i].formula, phases[i].structure, _image(rows[i], seen[i]))
            for i in list(chosen.values())[:PORTRAITS]
        ]
        if not crystals:
            raise LackingError("no compound of the database has a crystal graph")
        return Portraits("1d", "Crystals and their crystal graphs", crystals)

    def _latent(self) -> Chart:
        """Fig. 2c: principal components of the database's crystal graphs."""
        phases, _, seen = self._encoded
        drawn = np.array([is_generated(p) for p in phases], bool)
        flat = seen.reshape(len(seen), -1)
        if (~drawn).sum() < 3:
            raise LackingError("fewer than three compounds of the database have a crystal graph")
        mean = flat[~drawn].mean(0)
        _, deviations, axes = np.linalg.svd(flat[~drawn] - mean, full_matrices=False)
        places = (flat - mean) @ axes[:2].T
        variance = deviations**2 / (deviations**2).sum()
        groups: list[tuple[str, NDArray[np.bool_], Symbol]] = [
            ("database", ~drawn, "circle"),
            ("generated, relaxed", drawn, "star"),
        ]
        series = [
            Series(
                name,
                places[which, 0].tolist(),
                places[which, 1].tolist(),
                GREY,
                symbol,
                values=[formation(p) or 0.0 for p, w in zip(phases, which, strict=True) if w],
                labels=[_label(p) for p, w in zip(phases, which, strict=True) if w],
            )
            for name, which, symbol in groups
            if which.any()
        ]
        energies = [v for s in series for v in s.values or ()]
        return Chart(
            "2c",
            "Crystals in the latent space, by the database's principal components",
            f"first component ({variance[0]:.0%} of the variance)",
            f"second component ({variance[1]:.0%})",
            series,
            value_label="formation energy / eV per atom",
            value_range=(min(energies), min(max(energies), TOP)),
        )

    # Compositions that were left out.

    def _regenerated(self, name: str, number: int) -> Portraits:
        without = self.run.campaign.database.without
        if number >= len(without):
            raise LackingError(
                "no more compositions were left out of the database"
                if without
                else "no composition was left out of the database (ccdcgan run --without …)"
            )
        formula = without[number]
        found = [p for p in self._generated if p.structure.composition.reduced_formula == formula]
        if not found:
            raise LackingError(f"no crystal of {formula}, which was left out, was generated")
        known = {p.id for p in self._known}
        found.sort(key=lambda p: (p.id not in known, p.e_above_hull or 0.0))
        crystals = [
            Portrait(_label(p) + (", the known crystal" if p.id in known else ""), p.structure)
            for p in found[:PORTRAITS]
        ]
        return Portraits(name, f"{formula} generated without {formula} in the database", crystals)


def _label(phase: Phase) -> str:
    energy = formation(phase) or 0.0
    distance = phase.e_above_hull or 0.0
    return f"{phase.formula}, {phase.spacegroup}, E_f {energy:.3f}, E_hull {distance:.3f} eV/atom"


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None else v for v in values]


def _image(row: NDArray[np.float32], seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """A crystal graph as a square: the paper's image, or the numbers of a row, line by line."""
    if seen.ndim == 3:
        return seen[..., 0]
    side = math.ceil(math.sqrt(len(row)))
    square = np.full(side * side, np.nan, np.float32)
    square[: len(row)] = row
    return square.reshape(side, side)
