"""Known crystals of Bi-Se, built from their published description as stacks of layers.

Bismuth selenides from Bi₂Se₃ to bismuth form one series, (Bi₂)ₘ(Bi₂Se₃)ₙ: bilayers of bismuth as in
the element between quintuple layers Se-Bi-Se-Bi-Se as in tetradymite, spread as evenly as they can
be. All layers are close-packed ones, in the sequence ABC throughout [1-3]. Bi₃Se₄ is also described
by septuple layers Se-Bi-Se-Bi-Se-Bi-Se, which tin bismuth selenides have [4, 5].

Lengths are those of Bi₂Se₃ [6], bismuth [7] and SnBi₄Se₇ [4]. They bring the lattices of BiSe and
Bi₄Se₃ within about 1% of the measured ones: good to start a relaxation from, not a refinement.

With BiSe₂ and BiSe₃ they are the 15 phases of Long et al. (2021), Supplementary Table 7. Those two
are not here: their layers do not belong to the series, and no coordinates of theirs are at hand.

1. Lind and Lidin, Solid State Sci. 5, 47 (2003).
2. Gaudin et al., Mater. Res. Bull. 30, 549 (1995).
3. Bos et al., Phys. Rev. B 75, 195203 (2007), on (Bi₂)ₘ(Bi₂Te₃)ₙ.
4. Pérez Vicente et al., Inorg. Chem. 38, 2131 (1999).
5. Nentwig et al., Chem. Eur. J. (2020), doi:10.1002/chem.202000663.
6. Nakajima, J. Phys. Chem. Solids 24, 479 (1963).
7. Cucka and Barrett, Acta Cryst. 15, 865 (1962).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from pymatgen.core import Lattice, Structure

from ccdcgan.dft.structures.sources import Prototype


@dataclass(frozen=True)
class Block:
    """Layers that are bonded to each other.

    Attributes
    ----------
    elements
        Element of each layer.
    bonds
        Length of the bonds from each layer to the next, Å.
    """

    elements: tuple[str, ...]
    bonds: tuple[float, ...]


BILAYER = Block(("Bi", "Bi"), (3.071,))
QUINTUPLE = Block(("Se", "Bi", "Se", "Bi", "Se"), (2.851, 3.075, 3.075, 2.851))
SEPTUPLE = Block(
    ("Se", "Bi", "Se", "Bi", "Se", "Bi", "Se"), (2.858, 3.121, 2.952, 2.952, 3.121, 2.858)
)

#: Distance between atoms of neighbouring blocks, Å: 3.517 in Bi₂Se₃, 3.529 in bismuth.
CONTACT = 3.52

#: Side of the layers' lattice, Å, in Bi₂Se₃, bismuth and SnBi₄Se₇.
A_SELENIDE, A_BISMUTH, A_SEPTUPLE = 4.143, 4.546, 4.160

#: Bilayers m and quintuple layers n of the reported phases: Bi₂Se₃, Bi₃Se₄, Bi₄Se₅, Bi₈Se₉, BiSe,
#: Bi₈Se₇, then Bi₆Se₅, Bi₄Se₃, Bi₃Se₂, Bi₅Se₃, Bi₂Se, Bi₇Se₃ and Bi₃Se.
REPORTED = (
    *((0, 1), (1, 8), (1, 5), (1, 3), (1, 2), (5, 7)),
    *((4, 5), (1, 1), (5, 4), (3, 2), (2, 1), (5, 2), (7, 2)),
)


def known_crystals() -> list[Prototype]:
    """The reported phases of Bi-Se that can be built, rich in selenium first."""
    series = [Prototype(f"{m}-{n}", stack(m, n)) for m, n in REPORTED]
    series.insert(2, Prototype("septuple", pile([SEPTUPLE], A_SEPTUPLE)))
    return series


def stack(m: int, n: int) -> Structure:
    """(Bi₂)ₘ(Bi₂Se₃)ₙ: `m` bilayers spread evenly among `n` quintuple layers.

    The side of the layers' lattice goes from that of Bi₂Se₃ to that of bismuth, linearly with the
    share of layers that are in bilayers; bond lengths stay.
    """
    if m < 0 or n < 1:
        raise ValueError(
            f"no stack of {m} bilayers and {n} quintuple layers: one at least is needed"
        )
    m, n = m // gcd(m, n), n // gcd(m, n)
    blocks: list[Block] = []
    for i in range(n):
        blocks += [QUINTUPLE, *[BILAYER] * ((i + 1) * m // n - i * m // n)]
    share = 2 * m / (2 * m + 5 * n)
    return pile(blocks, A_SELENIDE + share * (A_BISMUTH - A_SELENIDE))


def pile(blocks: Sequence[Block], a: float) -> Structure:
    """Primitive cell of blocks stacked along z, each layer a step of ABC beside the last one.

    Parameters
    ----------
    blocks
        One period of them, from the bottom.
    a
        Side of the layers' hexagonal lattice, Å.
    """
    elements = [element for block in blocks for element in block.elements]
    bonds = np.array([length for block in blocks for length in (*block.bonds, CONTACT)])
    # An atom lies above the middle of a triangle of the layer below.
    step = np.array([0.0, a / np.sqrt(3.0), 0.0])
    heights = np.cumsum(np.sqrt(bonds**2 - a**2 / 3.0))
    positions = [i * step + [0.0, 0.0, z] for i, z in enumerate([0.0, *heights[:-1]])]
    # After a number of layers that three does not divide, the next period begins beside the first:
    # the lattice is rhombohedral then, and hexagonal otherwise.
    beside = (len(elements) + 1) % 3 - 1
    lattice = Lattice(
        [
            [a, 0.0, 0.0],
            [-a / 2.0, a * np.sqrt(3.0) / 2.0, 0.0],
            beside * step + [0.0, 0.0, heights[-1]],
        ]
    )
    return Structure(lattice, elements, positions, coords_are_cartesian=True)
