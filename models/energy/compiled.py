"""Energy of a learnt potential and its gradients along the vectors to neighbours, by Numba.

The same sums as `power_spectrum.Surroundings` makes for the fit, without arrays in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ccdcgan.models.energy.power_spectrum import (
    CUTOFF,
    DECLINE,
    DEGREES,
    EXPONENTS,
    MULTIPLICITY,
    NEAR,
    RADIAL,
)
from ccdcgan.models.representation.voxels import FloatArray

#: An argument, since what is kept of a compiled function outlives constants that change.
BASIS = (CUTOFF, NEAR, DECLINE, RADIAL, EXPONENTS, DEGREES, MULTIPLICITY)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled by Numba, and kept for the next process where there is a place for it."""
    try:
        return numba.njit(function, cache=True)
    except RuntimeError:
        return numba.njit(function)


@_compiled
def _radial_functions(
    r: float, cutoff: float, near: float, decline: int, value: FloatArray, derivative: FloatArray
) -> None:
    """Write `power_spectrum._radial_functions` of a distance into (PAIR,) twice."""
    x = min(max(1.0 - 2.0 * r / cutoff, -1.0 + 1e-9), 1.0 - 1e-9)
    angle = np.arccos(x)
    turn = np.pi / cutoff * r
    end, end_derivative = 0.5 * (1.0 + np.cos(turn)), -0.5 * np.pi / cutoff * np.sin(turn)
    power = (r / near) ** decline
    weight = 1.0 / (1.0 + power)
    weight_derivative = -decline / r * power * weight**2
    fade = end * weight
    falling = end_derivative * weight + end * weight_derivative
    for k in range(len(value)):
        chebyshev = np.cos(k * angle)
        inner = k * np.sin(k * angle) / np.sin(angle) * (-2.0 / cutoff)
        value[k] = chebyshev * fade
        derivative[k] = inner * fade + chebyshev * falling


@_compiled
def energy_and_gradients(
    species: Any,
    i: Any,
    j: Any,
    vectors: FloatArray,
    offsets: FloatArray,
    pairs: FloatArray,
    kernels: FloatArray,
    basis: Any,
) -> tuple[float, FloatArray]:
    """Energy (eV) of a cell, and its gradients (pairs, 3) along the vectors, eV/Å.

    Parameters
    ----------
    species : array (n,)
        Index of each atom's element.
    i, j, vectors : arrays (pairs,), (pairs,), (pairs, 3)
        Atoms, their neighbours, and the vectors from one to the other, Å.
    offsets, pairs, kernels
        Of the `Potential`.
    basis
        `BASIS`.
    """
    cutoff, nearest, decline, functions, exponents, degrees, multiplicity = basis
    n, elements, count = len(species), len(offsets), len(i)
    terms, pair_functions = len(exponents), pairs.shape[1] // elements
    highest = degrees[-1]
    begin = np.searchsorted(degrees, np.arange(highest + 2))
    channels = elements * functions
    triangle = channels * (channels + 1) // 2
    half = np.sqrt(0.5)

    radial = np.empty((count, pair_functions))
    derivative = np.empty((count, pair_functions))
    distance = np.empty(count)
    powers = np.empty((count, 3, highest + 1))
    products = np.empty((count, terms))
    moments = np.zeros((n, channels, terms))
    energy = 0.0
    for a in range(n):
        energy += offsets[species[a]]
    for p in range(count):
        r = np.sqrt(vectors[p, 0] ** 2 + vectors[p, 1] ** 2 + vectors[p, 2] ** 2)
        distance[p] = r
        _radial_functions(r, cutoff, nearest, decline, radial[p], derivative[p])
        for axis in range(3):
            powers[p, axis, 0] = 1.0
            for k in range(highest):
                powers[p, axis, k + 1] = powers[p, axis, k] * vectors[p, axis] / r
        other = species[j[p]]
        for t in range(terms):
            x, y, z = exponents[t]
            products[p, t] = powers[p, 0, x] * powers[p, 1, y] * powers[p, 2, z]
        for k in range(functions):
            for t in range(terms):
                moments[i[p], other * functions + k, t] += radial[p, k] * products[p, t]
        for k in range(pair_functions):
            energy += radial[p, k] * pairs[species[i[p]], other * pair_functions + k]

    of_moments = np.zeros((n, channels, terms))
    for element in range(elements):
        some = np.flatnonzero(species == element)
        spectra = np.empty((len(some), (highest + 1) * triangle))
        lengths = np.empty(len(some))
        for row in range(len(some)):
            here = moments[some[row]]
            column = 0
            for degree in range(highest + 1):
                for a in range(channels):
                    for b in range(a, channels):
                        value = 0.0
                        for t in range(begin[degree], begin[degree + 1]):
                            value += multiplicity[t] * here[a, t] * here[b, t]
                        spectra[row, column] = value if a == b else value / half
                        column += 1
            lengths[row] = np.sqrt((spectra[row] ** 2).sum()) + 1e-12
            spectra[row] /= lengths[row]
        projected = spectra @ kernels[element]
        for row in range(len(some)):
            here, out = moments[some[row]], of_moments[some[row]]
            own = (projected[row] * spectra[row]).sum()
            energy += own
            # A spectrum that grows without turning changes nothing.
            upstream = 2.0 * (projected[row] - own * spectra[row]) / lengths[row]
            column = 0
            for degree in range(highest + 1):
                for a in range(channels):
                    for b in range(a, channels):
                        value = upstream[column] * (1.0 if a == b else half)
                        for t in range(begin[degree], begin[degree + 1]):
                            weighted = 2.0 * multiplicity[t] * value
                            out[a, t] += weighted * here[b, t]
                            if a != b:
                                out[b, t] += weighted * here[a, t]
                        column += 1

    gradients = np.empty((count, 3))
    for p in range(count):
        other, here = species[j[p]], of_moments[i[p]]
        along = 0.0
        across = np.zeros(3)
        for t in range(terms):
            falling, weight = 0.0, 0.0
            for k in range(functions):
                value = here[other * functions + k, t]
                falling += derivative[p, k] * value
                weight += radial[p, k] * value
            along += falling * products[p, t]
            for axis in range(3):
                e = exponents[t, axis]
                if e:
                    lowered = e * weight * powers[p, axis, e - 1]
                    for others in range(3):
                        if others != axis:
                            lowered *= powers[p, others, exponents[t, others]]
                    across[axis] += lowered
            # Only what is across the vector turns it: a product of degree d has d of it along.
            for axis in range(3):
                across[axis] -= degrees[t] * weight * products[p, t] * powers[p, axis, 1]
        for k in range(pair_functions):
            along += derivative[p, k] * pairs[species[i[p]], other * pair_functions + k]
        for axis in range(3):
            gradients[p, axis] = along * powers[p, axis, 1] + across[axis] / distance[p]
    return energy, gradients
