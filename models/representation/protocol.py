"""What a representation of crystals does for the networks: the default's and the paper's alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.models.representation.voxels import FloatArray


class Space(Protocol):
    """The space in which networks work: crystal graphs mapped one by one."""

    def forward(self, graphs: FloatArray) -> NDArray[Any]:
        """Crystal graphs (n, length) to what networks take, (n, …)."""

    def inverse(self, vectors: FloatArray) -> NDArray[Any]:
        """Crystal graphs (n, length) of what networks give."""


@dataclass(frozen=True)
class Composition:
    """Where a whitened crystal graph counts its atoms: offset + scale · row[first : first + m].

    Parameters
    ----------
    first
        Column of the first element.
    scale, offset : array (m,)
        From whitened units to atoms, for each element.
    """

    first: int
    scale: FloatArray
    offset: FloatArray

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + len(self.scale))


@dataclass(frozen=True)
class Conditions:
    """What a generator can be asked for.

    Attributes
    ----------
    composition
        Which numbers of a row count the atoms; None where none do.
    groups : array (n,)
        Rows of different groups do not blend; None makes them one group.
    """

    composition: Composition | None = None
    groups: NDArray[Any] | None = None


class Representation(Protocol):
    """Structures of a system to crystal graphs and back."""

    elements: Sequence[str]

    @property
    def origins(self) -> int:
        """Most origins of a crystal that have a crystal graph each."""

    @property
    def length(self) -> int:
        """Numbers of a crystal graph."""

    def fits(self, structure: Structure) -> bool:
        """Whether a structure has a crystal graph."""

    def encode(self, structures: Sequence[Structure]) -> NDArray[Any]:
        """Crystal graphs (n, length) of structures that fit."""

    def decode(self, graphs: FloatArray) -> list[Structure | None]:
        """Structures of crystal graphs; None where a cell or an element is missing."""

    def space(self, graphs: FloatArray, latent: int) -> Space:
        """The networks' space for known crystal graphs, of at most `latent` numbers."""

    def conditions(self, space: Space, graphs: FloatArray) -> Conditions:
        """What the generator of known crystal graphs can be asked for."""

    def statistics(
        self, structures: Sequence[Structure], weights: FloatArray
    ) -> dict[str, NDArray[Any]]:
        """What `repaired` needs to know of known crystals, `weights` (n,) of them."""

    def repaired(self, structure: Structure, known: Mapping[str, FloatArray]) -> Structure:
        """A decoded structure, mended by the `statistics` of known crystals."""
