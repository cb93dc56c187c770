"""Which relaxations are one crystal: those that match, and near copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from ccdcgan.dft.structures.matching import SeenStructures, is_near_copy
from ccdcgan.dft.structures.shapes import Shape
from ccdcgan.workflows.documents import RelaxationDocument

if TYPE_CHECKING:
    from ccdcgan.models.energy.descriptors import Environments

#: By less than this (eV/atom) the energies of near copies differ.
COPY_ENERGY = 0.002

#: By less than this do the mean environments of near copies. Displacements of 0.1 Å make 0.02;
#: other stackings of quintuple layers and bilayers 0.10 and more, polytypes of SiC 0.001 to 0.02.
COPY_ENVIRONMENTS = 0.05


class Crystals:
    """Crystals of a campaign, each named by the key of its first relaxation.

    A relaxation is of a crystal that is known if the two match, or if it is a near copy: of the
    same formula, less than `COPY_ENERGY` from its first relaxation, with about the same mean
    environments (`COPY_ENVIRONMENTS`), and `is_near_copy`. That is one minimum, in a larger cell or
    not quite at its end; other stackings of the same layers, however near in energy, are crystals
    of their own.

    Parameters
    ----------
    elements
        The system.
    documents
        Relaxations by content key.
    """

    def __init__(
        self, elements: Sequence[str], documents: Mapping[str, RelaxationDocument]
    ) -> None:
        self._elements, self._documents = elements, documents
        self._seen = SeenStructures()
        self._names: list[str] = []
        self._alike: defaultdict[str, list[int]] = defaultdict(list)
        self._means: dict[str, NDArray[np.float32]] = {}

    def know(self, key: str, shape: Shape) -> None:
        """Know the first relaxation of a crystal, with the shape of its end."""
        self._seen.add_later(lambda: self._structure(key), shape)
        self._add(key, shape)

    def name(self, key: str, shape: Shape | None) -> str:
        """The crystal that a relaxation has led to; one that is new is known from now on."""
        number = self._seen.number(self._structure(key), shape, lambda: self._copied(key, shape))
        if number == len(self._names):
            self._add(key, shape)
        return self._names[number]

    def _add(self, key: str, shape: Shape | None) -> None:
        if shape is not None:
            self._alike[shape.formula].append(len(self._names))
        self._names.append(key)

    def _copied(self, key: str, shape: Shape | None) -> int | None:
        """Number of the first crystal that a relaxation is a near copy of."""
        for number in self._alike[shape.formula] if shape else ():
            other = self._names[number]
            # What is cheap is asked first.
            if (
                abs(self._energy(key) - self._energy(other)) < COPY_ENERGY
                and np.linalg.norm(self._mean(key) - self._mean(other)) < COPY_ENVIRONMENTS
                and is_near_copy(self._structure(key), self._structure(other))
            ):
                return number
        return None

    def _structure(self, key: str) -> Structure:
        return self._documents[key].structure

    def _energy(self, key: str) -> float:
        energy = self._documents[key].energy_per_atom
        assert energy is not None
        return energy

    @cached_property
    def _environments(self) -> Environments:
        # dscribe takes a second to import, and most jobs do without.
        from ccdcgan.models.energy.descriptors import Environments

        return Environments(self._elements)

    def _mean(self, key: str) -> NDArray[np.float32]:
        from ccdcgan.models.energy.descriptors import mean_environments

        if key not in self._means:
            self._means[key] = mean_environments(self._environments, [self._structure(key)])[0]
        return self._means[key]
