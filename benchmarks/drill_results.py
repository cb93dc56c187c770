"""What a campaign of the drill ended with, beside what the undisturbed one did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Tolerance of energies, eV/atom: VASP that is repaired ends elsewhere within `fmax`.
SAME = 1e-4


@dataclass(frozen=True)
class Results:
    """What a campaign ended with.

    Attributes
    ----------
    phases
        Formula, label and energy in eV/atom of each phase, by content key.
    energies
        Energy in eV/atom of each relaxation document, by content key; None where it failed.
    copies
        Content keys with more than one document.
    """

    phases: dict[str, tuple[str, str, float]]
    energies: dict[str, float | None]
    copies: list[str]

    def against(self, expected: Results, without: Sequence[str] = ()) -> dict[str, list[str]]:
        """What is lost and what is wrong, by content key.

        Parameters
        ----------
        without
            Content keys that the fault takes away: the crystals that it breaks.
        """
        wanted = {k: v for k, v in expected.phases.items() if k not in without}
        energies = {k: v for k, v in expected.energies.items() if k not in without}
        found = {k: v for k, v in self.energies.items() if k not in without}
        lost = (wanted.keys() - self.phases.keys()) | (energies.keys() - found.keys())
        wrong = self.phases.keys() - wanted.keys()
        wrong |= {k for k in wanted if k in self.phases and not _same(self.phases[k], wanted[k])}
        wrong |= found.keys() - energies.keys()
        wrong |= {k for k, e in energies.items() if k in found and not _same([e], [found[k]])}
        return {"lost": sorted(lost), "wrong": sorted(wrong)}


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(
        abs(a - b) < SAME if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(one, other, strict=True)
    )
