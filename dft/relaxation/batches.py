"""Relaxations side by side in one process: what they ask for is computed together.

Each structure has its own optimizer, filter, gates and frames, as when it is relaxed alone: only
the numbers come in batches. torch-sim's own optimizers do not serve: its BFGS (0.6.2) leaves the
cell of all but the largest crystals of a batch as it is, its FIRE takes 2.5 times as many steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Structure

from ccdcgan.dft.engines.base import CalculatorEngine
from ccdcgan.dft.relaxation.document import Relaxation
from ccdcgan.dft.relaxation.failure import MEMORY, machine_fault
from ccdcgan.dft.relaxation.relaxer import Relaxer
from ccdcgan.dft.relaxation.settings import RelaxationSettings


class Given(SinglePointCalculator):
    """Numbers of atoms as they are; unlike ASE's own it tells others that it has them."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]


class BatchRelaxer(Relaxer):
    """A relaxer whose atoms get their numbers from outside, of engines that work in batches."""

    def calculator(self, engine: CalculatorEngine, structure: Structure) -> Calculator | None:
        return super().calculator(engine, structure) if engine.lacking_for_batches() else None


class Running:
    """A relaxation on its way."""

    def __init__(self, index: int, relaxer: Relaxer, structure: Structure) -> None:
        self.index = index
        self.seconds = 0.0
        self.asking = relaxer.relaxing(structure, lambda: self.seconds)
        self.engine: CalculatorEngine | None = None
        self.atoms: Atoms | None = None
        self.error: Exception | None = None

    def advance(self) -> Relaxation | None:
        """Go on with the numbers asked for, or without; the result once there is one."""
        start = perf_counter()
        error, self.error = self.error, None
        try:
            self.engine, self.atoms = (
                next(self.asking) if error is None else self.asking.throw(error)
            )
        except StopIteration as end:
            result: Relaxation = end.value
            return result
        finally:
            self.seconds += perf_counter() - start
        return None


@dataclass
class Evaluator:
    """Gives many atoms at once their numbers by an engine."""

    engine: CalculatorEngine
    most: float = field(default=float("inf"), init=False)
    """Atoms at a time, by what the memory of the device has borne."""

    def __call__(self, group: Sequence[Atoms]) -> list[Exception | None]:
        """Give each of some atoms a calculator with its numbers, or why there are none.

        What fails as a whole is tried in halves: for want of memory, or for one wild crystal.
        """
        count = sum(map(len, group))
        if len(group) == 1 or count <= self.most:
            try:
                self._compute(group)
            except Exception as error:  # noqa: BLE001  a potential may fail in any way on a wild cell
                if len(group) == 1:
                    return [error]
                fault = machine_fault(error, "")
                if fault is not None and fault.what == MEMORY:
                    self.most = count / 2
            else:
                return [None] * len(group)
        half = len(group) // 2
        return [*self(group[:half]), *self(group[half:])]

    def _compute(self, group: Sequence[Atoms]) -> None:
        for atoms, given in zip(group, self.engine.measured_together(group), strict=True):
            atoms.calc = self.engine.completed_by(Given(atoms, **given._asdict()))


def relaxed_in_batches(
    structures: Sequence[Structure], settings: RelaxationSettings, at_a_time: int
) -> Iterator[tuple[int, Relaxation]]:
    """Relax structures, so many at a time in this process; results come as they are ready.

    Yields
    ------
    index of the structure, result

    Raises
    ------
    MachineError
        The machine cannot compute.
    """
    relaxer = BatchRelaxer(settings)
    evaluators: dict[CalculatorEngine, Evaluator] = {}
    waiting = deque(enumerate(structures))
    running: list[Running] = []
    while waiting or running:
        while waiting and len(running) < at_a_time:
            index, structure = waiting.popleft()
            running.append(Running(index, relaxer, structure))
        going = []
        for one in running:
            result = one.advance()
            if result is None:
                going.append(one)
            else:
                yield one.index, result
        running = going
        for engine, group in _by_engine(running).items():
            evaluator = evaluators.setdefault(engine, Evaluator(engine))
            start = perf_counter()
            errors = evaluator([one.atoms for one in group if one.atoms is not None])
            share = (perf_counter() - start) / len(group)
            for one, error in zip(group, errors, strict=True):
                one.error = error
                one.seconds += share


def _by_engine(running: Sequence[Running]) -> dict[CalculatorEngine, list[Running]]:
    """Those that wait for numbers from outside, by the engine that gives them."""
    found: dict[CalculatorEngine, list[Running]] = {}
    for one in running:
        if one.engine is not None and not one.engine.lacking_for_batches():
            found.setdefault(one.engine, []).append(one)
    return found
