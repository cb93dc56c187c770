"""Dispersion and density of states of phonons that are known, for pictures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string

from ccdcgan.dft.dynamics.document import Spectrum
from ccdcgan.dft.dynamics.phonons import Phonons

#: Points on a line between two points of high symmetry, and of the density of states.
POINTS, STATES = 21, 150


def spectrum_of(found: Phonons) -> Spectrum | None:
    """Phonons along ASE's path of the lattice; None where the lattice has none.

    The path: W. Setyawan and S. Curtarolo, Comput. Mater. Sci. 49, 299 (2010).
    """
    phonopy = found.phonopy
    try:
        path = Cell(phonopy.primitive.cell).bandpath(npoints=0)
    except (RuntimeError, ValueError, AssertionError):
        # A cell that ASE takes for none of its lattices.
        return None
    lines, names = [], []
    for part in parse_path_string(path.path):
        for start, end in pairwise(part):
            first, last = path.special_points[start], path.special_points[end]
            lines.append(np.linspace(first, last, POINTS))
            names.append((start, end))
    if not lines:
        return None
    phonopy.run_band_structure(lines)
    bands = phonopy.get_band_structure_dict()
    places = list(bands["distances"] or ())
    distances = np.concatenate(places)
    frequencies = np.concatenate(list(bands["frequencies"] or ()))
    ticks: dict[float, str] = {}
    for (start, end), along in zip(names, places, strict=True):
        for place, name in ((along[0], start), (along[-1], end)):
            there = ticks.setdefault(round(float(place), 4), name)
            # Where the path jumps, one place has two names.
            if name not in there.split("|"):
                ticks[round(float(place), 4)] = f"{there}|{name}"
    low, high = float(frequencies.min()), float(frequencies.max())
    phonopy.run_total_dos(freq_pitch=max(high - low, 0.1) / STATES)
    states = phonopy.get_total_dos_dict()
    return Spectrum(
        distances=distances.round(4).tolist(),
        bands=frequencies.T.round(3).tolist(),
        ticks=list(ticks.items()),
        frequencies=np.asarray(states["frequency_points"]).round(3).tolist(),
        density=np.asarray(states["total_dos"]).round(4).tolist(),
    )
