"""Further numbers of a relaxed crystal, beside its energy, by the engine that relaxed it.

A property is a function of a relaxer and a structure, under its name in `PROPERTIES`. A campaign
computes those that its goals name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase.eos import EquationOfState
from ase.units import GPa
from pymatgen.core import Structure

from ccdcgan.dft.relaxation.failure import MachineError, machine_fault

if TYPE_CHECKING:
    from ccdcgan.dft.relaxation.relaxer import Relaxer

#: Volumes of the equation of state, relative to the relaxed crystal's.
STRAINS = np.linspace(0.94, 1.06, 7)


class PropertyError(ValueError):
    """A property that a crystal has not, or that cannot be computed; the text says why."""


def bulk_modulus(relaxer: Relaxer, structure: Structure) -> float:
    """Bulk modulus (GPa) of a relaxed crystal under its pressure.

    Third-order Birch-Murnaghan equation (F. Birch, Phys. Rev. 71, 809 (1947)) through the energies
    of seven cells of 94% to 106% of the volume and the same shape, with relaxed positions.

    Raises
    ------
    PropertyError
        The energies have no minimum between these volumes.
    """
    # Takes seconds, which a campaign file, with the names of properties, need not wait for.
    from ase.optimize import FIRE

    volumes, energies = [], []
    for strain in STRAINS:
        atoms = relaxer.atoms(structure)
        atoms.set_cell(atoms.cell * strain ** (1 / 3), scale_atoms=True)
        with FIRE(atoms, logfile=None) as optimizer:
            optimizer.run(fmax=relaxer.settings.fmax, steps=relaxer.settings.max_steps)
        volumes.append(atoms.get_volume())
        # Enthalpies: under pressure energies have no minimum there, and the same second derivative.
        pv = relaxer.settings.pressure * GPa * volumes[-1]
        energies.append(atoms.get_potential_energy() + pv)
    try:
        volume, _, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit(
            warn=False
        )
    except (RuntimeError, ValueError) as error:
        raise PropertyError(f"no equation of state: {error}") from None
    if not (volumes[0] < volume < volumes[-1] and modulus > 0):
        raise PropertyError("energies have no minimum near the relaxed volume")
    return float(modulus / GPa)


PROPERTIES: dict[str, Callable[[Relaxer, Structure], float]] = {"bulk_modulus": bulk_modulus}


def compute(relaxer: Relaxer, structure: Structure, names: Sequence[str]) -> dict[str, float | str]:
    """Properties of a relaxed crystal by name: numbers, or why there is none.

    Raises
    ------
    Exception
        The machine cannot compute: it is no property of the crystal.
    """
    found: dict[str, float | str] = {}
    for name in names:
        try:
            value = PROPERTIES[name](relaxer, structure)
            found[name] = value if math.isfinite(value) else "not finite"
        except PropertyError as error:
            found[name] = str(error)
        except Exception as error:
            # An engine may fail in any way on a wild cell; a machine, on any.
            if isinstance(error, MachineError) or machine_fault(error, "") is not None:
                raise
            found[name] = f"engine failed: {type(error).__name__}"
    return found
