"""The contract of engines, for whoever writes one: what a calculator and its names must hold to.

    python -m ccdcgan.dft.engines.contract '{name: my-engine}' [STRUCTURE_FILES] [--elements Bi,Se]

prints what is broken, one line each, and ends with status 1 if anything is.
"""

from __future__ import annotations

import argparse
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from ase import Atoms
from ase.data import chemical_symbols
from pydantic import ValidationError
from pymatgen.core import Element, Structure

from ccdcgan.dft.engines.base import CalculatorEngine, LevelOfTheory, Measured
from ccdcgan.dft.engines.consistency import (
    Tolerances,
    compared,
    differences,
    distorted,
    measured,
    small_structures,
    symmetry,
)
from ccdcgan.dft.engines.registry import engine_of
from ccdcgan.dft.errors import UserError


def violations(
    engine: CalculatorEngine,
    structures: Sequence[Structure],
    tolerances: Tolerances = Tolerances(),  # noqa: B008  a tuple cannot change
    another_process: bool = True,
) -> list[str]:
    """What an engine breaks of its contract, a line each; empty if it is as it should be.

    Parameters
    ----------
    engine
        With the settings that a campaign would give it.
    structures
        Small crystals of elements that it knows. They are distorted first, so that forces and
        stress are not zero.
    tolerances
        Wider for a DFT code, whose basis changes with the cell.
    another_process
        Compare with what a new process says, too.
    """
    elements = sorted({site.specie.symbol for s in structures for site in s})
    found = _noted("level of theory", lambda: _of_level(engine, elements))
    found += _noted("elements", lambda: _of_elements(engine, elements))
    found += _noted("settings", lambda: _of_settings(engine))
    known: list[tuple[Atoms, Measured]] = []
    for structure in structures:
        atoms = distorted(structure)

        def look(atoms: Atoms = atoms) -> Iterator[str]:
            given = measured(engine, atoms)
            known.append((atoms, given))
            yield from differences(engine, atoms, given, tolerances)
            yield from symmetry(engine, atoms, given, tolerances)

        found += _noted(atoms.get_chemical_formula(), look)
    found += _noted("made anew", lambda: _of_reload(engine, known, tolerances))
    if another_process and known and not found:
        found += _noted("another process", lambda: _of_process(engine, known, tolerances))
    return found


def _noted(title: str, look: Callable[[], Iterator[str]]) -> list[str]:
    found: list[str] = []
    try:
        found.extend(f"{title}: {text}" for text in look())
    except Exception as error:  # noqa: BLE001  an engine may fail in any way
        kind = "" if type(error) in (UserError, ValueError) else f"{type(error).__name__}: "
        found.append(f"{title}: {kind}{' '.join(str(error).split())[:300]}")
    return found


def _of_level(engine: CalculatorEngine, elements: list[str]) -> Iterator[str]:
    level = engine.level_of_theory(elements)
    if not isinstance(level, LevelOfTheory):
        yield f"is a {type(level).__name__} instead of a LevelOfTheory"
        return
    if engine.level_of_theory(elements) != level:
        yield "is another one when asked again"
    if not re.fullmatch("[0-9a-f]{16}", level.checkpoint):
        yield f"checkpoint is {level.checkpoint!r} instead of 16 hex digits of a hash"
    for name in ("engine", "package", "scale"):
        if not getattr(level, name).strip():
            yield f"has no {name}"
    if getattr(engine, "dispersion", None) is not None:
        bare = engine.model_copy(update={"dispersion": None}).level_of_theory(elements)
        if not level.dispersion or bare.dispersion == level.dispersion:
            yield "does not name the dispersion correction"
    other = engine.second_opinion()
    if other is not None and other.level_of_theory(elements) == level:
        yield "is that of the second opinion, too"


def _of_elements(engine: CalculatorEngine, elements: list[str]) -> Iterator[str]:
    engine.check(elements)
    if engine.learnt is None:
        return
    for symbol in chemical_symbols[1:104]:
        refused = None
        try:
            engine.check([symbol])
        except UserError as error:
            refused = str(error)
        if refused is None and Element(symbol).Z not in engine.learnt:
            yield f"{symbol} is not among those learnt, and check() says nothing"
        elif refused is not None and (symbol not in refused or "\n" in refused):
            yield f"check() refuses {symbol} without naming it in one line: {refused!r}"


def _of_settings(engine: CalculatorEngine) -> Iterator[str]:
    if _again(engine) != engine:
        yield "those written to a file make another engine"
    if pickle.loads(pickle.dumps(engine)) != engine:
        yield "those sent to another process make another engine"
    try:
        type(engine).model_validate({**engine.model_dump(mode="json"), "no such key": 1})
    except ValidationError:
        return
    yield "unknown keys are taken without a word"


def _of_reload(
    engine: CalculatorEngine, known: list[tuple[Atoms, Measured]], tolerances: Tolerances
) -> Iterator[str]:
    again = _again(engine)
    elements = sorted({e for atoms, _ in known for e in atoms.get_chemical_symbols()})
    if again.level_of_theory(elements) != engine.level_of_theory(elements):
        yield "another level of theory"
    for atoms, given in known:
        formula = atoms.get_chemical_formula()
        yield from compared(formula, measured(again, atoms), given, tolerances)


def _of_process(
    engine: CalculatorEngine, known: list[tuple[Atoms, Measured]], tolerances: Tolerances
) -> Iterator[str]:
    elements = sorted({e for atoms, _ in known for e in atoms.get_chemical_symbols()})
    # spawn, as campaigns do: nothing of this process is there.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        task = pool.submit(_there, engine, elements, [atoms for atoms, _ in known])
        level, found = task.result()
    if level != engine.level_of_theory(elements):
        yield "another level of theory"
    for (atoms, given), other in zip(known, found, strict=True):
        formula = atoms.get_chemical_formula()
        yield from compared(formula, other, given, tolerances)


def _there(
    engine: CalculatorEngine, elements: list[str], crystals: list[Atoms]
) -> tuple[LevelOfTheory, list[Measured]]:
    return engine.level_of_theory(elements), [measured(engine, atoms) for atoms in crystals]


def _again(engine: CalculatorEngine) -> CalculatorEngine:
    return type(engine).model_validate(engine.model_dump(mode="json"))


def _engine(text: str) -> CalculatorEngine:
    engine = engine_of(text)
    if not isinstance(engine, CalculatorEngine):
        raise UserError(f"engine {engine.name} relaxes by itself: there is no calculator to test")
    return engine


def _structures(files: Sequence[Path], elements: str) -> list[Structure]:
    if not files:
        symbols = [e.strip() for e in elements.split(",")]
        unknown = [e for e in symbols if e not in chemical_symbols[1:]]
        if unknown:
            raise UserError(f"--elements: {unknown[0]!r} is no element: write Bi,Se")
        return small_structures(symbols)
    found = []
    for path in files:
        try:
            found.append(Structure.from_file(path))
        except Exception as error:  # noqa: BLE001  pymatgen raises several kinds
            said = " ".join(str(error).split())[:200]
            raise UserError(f"cannot read a structure from {path}: {said}") from None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what an engine breaks; 0 if nothing, 1 if anything, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(
        prog="python -m ccdcgan.dft.engines.contract", description="What an engine breaks."
    )
    parser.add_argument("engine", help="as in a campaign file: '{name: my-engine}'")
    parser.add_argument("files", nargs="*", type=Path, help="crystals; by default small ones")
    parser.add_argument("--elements", default="Bi,Se", help="of the small ones (default: Bi,Se)")
    parser.add_argument(
        "--widen", type=float, default=1.0, help="all tolerances times this, for a DFT code"
    )
    given = parser.parse_args(arguments)
    try:
        engine = _engine(given.engine)
        structures = _structures(given.files, given.elements)
        engine.check(sorted({site.specie.symbol for s in structures for site in s}))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    found = violations(engine, structures, Tolerances(*(given.widen * t for t in Tolerances())))
    print("\n".join(found) or f"{engine.name} keeps the contract")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
