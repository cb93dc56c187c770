"""What the report tells of a crystal beside its energies: symmetry, relatives, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ccdcgan.dft.dynamics.document import VERDICTS
from ccdcgan.dft.structures.spacegroups import spacegroup
from ccdcgan.launchers.report.figures import energy
from ccdcgan.workflows.documents import Confirmation, Phase

#: A tight tolerance of symmetry, Å, beside the 0.1 Å of all phases.
TIGHT = 0.01

Fact = tuple[str, str]


class Told(NamedTuple):
    """What is told of a crystal: facts by name, and commands to go on with."""

    facts: list[Fact]
    steps: list[str]


def told(
    phase: Phase, rank: int | None, confirmed: Mapping[str, Confirmation], folder: str
) -> Told:
    """What is told of a phase.

    Parameters
    ----------
    phase, rank
        The phase, and its place among the best; None of any other.
    confirmed
        Confirmations by the content key of the campaign's own relaxation.
    folder
        Name of the campaign's folder.
    """
    facts: list[Fact] = []
    if rank is not None:
        loose, tight = phase.spacegroup, spacegroup(phase.structure, TIGHT)
        closer = "also" if tight == loose else tight
        facts.append(("symmetry", f"{loose} within 0.1 Å, {closer} within {TIGHT} Å"))
    if phase.relative is not None:
        facts.append(("nearest known", _relative(phase)))
    if phase.displacement is not None:
        facts.append(("moved on relaxation", f"{phase.displacement:.3f} Å (root mean square)"))
    if (found := phase.stability) is not None:
        stable = VERDICTS[found.dynamically_stable]
        lowest = energy(found.lowest_frequency_thz, 2)
        facts.append(("phonons", f"vibrates stably: {stable}; lowest frequency {lowest} THz"))
    if (other := confirmed.get(phase.id)) is not None:
        engine = other.level_of_theory.engine
        facts.append(("confirmed", f"{energy(other.after.e_above_hull)} eV/atom by {engine}"))
    return Told(facts, [] if rank is None else _steps(phase, rank, other, folder))


def _relative(phase: Phase) -> str:
    relative = phase.relative
    assert relative is not None
    if relative.kinship == "neither":
        return f"none: of {relative.among} in this campaign none has its structure, elements aside"
    how = "the same crystal" if relative.kinship == "copy" else "its structure, elements aside"
    return f"{relative.formula}, {how} ({relative.origin})"


def _steps(phase: Phase, rank: int, other: Confirmation | None, folder: str) -> list[str]:
    """Commands and settings that tell more of a crystal; it is among so many of the best."""
    steps = []
    if phase.stability is None:
        steps.append(f"ccdcgan stability {folder} --count {rank}")
    if other is None:
        steps.append(
            f"confirm: {{count: {rank}, relaxation: {{engine: {{name: vasp}}, fmax: 0.02}}}}"
            f"  # in the campaign file; then ccdcgan run FILE --workdir {folder}"
        )
    return steps
