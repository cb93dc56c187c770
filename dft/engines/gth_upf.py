"""Goedecker-Teter-Hutter pseudopotentials of CP2K's data, written as UPF files for pw.x.

Usage: python -m ccdcgan.dft.engines.gth_upf FOLDER [ELEMENT ...]

They are analytic: Gaussians with the parameters of a few lines in CP2K's file GTH_POTENTIALS
(Goedecker, Teter and Hutter, Phys. Rev. B 54, 1703 (1996); Hartwigsen, Goedecker and Hutter,
Phys. Rev. B 58, 3641 (1998); Krack, Theor. Chem. Acc. 114, 145 (2005)).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element
from scipy.special import erf

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import write_atomically

# Hartree to Rydberg, the unit of UPF files.
RYDBERG = 2.0
# An odd number of points for Simpson's rule; at the end the widest Gaussian is below 1e-20.
MESH = np.linspace(0.0, 12.0, 1201)


@dataclass(frozen=True)
class Gth:
    """One entry of CP2K's file, in atomic units.

    Parameters
    ----------
    coefficients
        C₁, C₂, … of the local part, Hartree.
    channels
        For each angular momentum from 0: radius in Bohr and symmetric matrix h in Hartree.
    """

    element: str
    name: str
    valence: int
    r_loc: float
    coefficients: tuple[float, ...]
    channels: tuple[tuple[float, NDArray[np.float64]], ...]

    @property
    def cutoff(self) -> float:
        """Plane-wave cutoff in Ry that the sharpest Gaussian needs.

        At its wave vector, 3 over the radius, a Gaussian has fallen to 1%. For rocksalt BiSe this
        gives 667 eV, where energies are within 10 meV/atom and pressures within 0.2 GPa of their
        limits; at 500 eV they are 48 meV/atom and 0.8 GPa off.
        """
        radii = [self.r_loc, *(r for r, h in self.channels if len(h))]
        return math.ceil((3 / min(radii)) ** 2)

    def local(self) -> NDArray[np.float64]:
        """Local potential on the mesh, Hartree."""
        x = np.maximum(MESH, 1e-9) / self.r_loc
        polynomial = sum(c * x ** (2 * i) for i, c in enumerate(self.coefficients))
        gaussian = np.exp(-(x**2) / 2) * polynomial
        return np.asarray(gaussian - self.valence / (x * self.r_loc) * erf(x / math.sqrt(2)))

    def upf(self) -> str:
        """The text of the UPF file (version 2)."""
        betas: list[str] = []
        total = sum(len(h) for _, h in self.channels)
        d = np.zeros((total, total))
        for angular, (radius, h) in enumerate(self.channels):
            first = len(betas)
            d[first : first + len(h), first : first + len(h)] = h
            for i in range(len(h)):
                betas.append(
                    _block(
                        f"PP_BETA.{len(betas) + 1}",
                        MESH * projector(radius, angular, i + 1),
                        index=len(betas) + 1,
                        angular_momentum=angular,
                        cutoff_radius_index=len(MESH),
                        cutoff_radius=MESH[-1],
                    )
                )
        attributes = "\n".join(f'    {key}="{value}"' for key, value in self._header().items())
        return "\n".join(
            [
                '<UPF version="2.0.1">',
                f"<PP_INFO>\n{self.name} for {self.element}, written by ccdcgan from the "
                "parameters in CP2K's data; cite\nS. Goedecker, M. Teter, J. Hutter, Phys. Rev. B "
                "54, 1703 (1996)\nC. Hartwigsen, S. Goedecker, J. Hutter, Phys. Rev. B 58, 3641 "
                "(1998)\nM. Krack, Theor. Chem. Acc. 114, 145 (2005)\n</PP_INFO>",
                f"<PP_HEADER\n{attributes}/>",
                f'<PP_MESH mesh="{len(MESH)}">',
                _block("PP_R", MESH),
                _block("PP_RAB", np.full(len(MESH), MESH[1])),
                "</PP_MESH>",
                _block("PP_LOCAL", RYDBERG * self.local()),
                "<PP_NONLOCAL>",
                *betas,
                _block("PP_DIJ", RYDBERG * d.ravel()),
                "</PP_NONLOCAL>",
                "<PP_PSWFC>\n</PP_PSWFC>",
                _block("PP_RHOATOM", self.density()),
                "</UPF>\n",
            ]
        )

    def _header(self) -> dict[str, object]:
        """Attributes of the UPF file's header."""
        sizes = [len(h) for _, h in self.channels]
        return {
            "generated": "converted from CP2K's GTH_POTENTIALS",
            "author": "see PP_INFO",
            "date": "",
            "comment": self.name,
            "element": self.element,
            "pseudo_type": "NC",
            "relativistic": "scalar",
            "is_ultrasoft": "F",
            "is_paw": "F",
            "is_coulomb": "F",
            "has_so": "F",
            "has_wfc": "F",
            "has_gipaw": "F",
            "core_correction": "F",
            "functional": "PBE",
            "z_valence": self.valence,
            "total_psenergy": 0.0,
            "wfc_cutoff": self.cutoff,
            "rho_cutoff": 4 * self.cutoff,
            "l_max": max((angular for angular, n in enumerate(sizes) if n), default=0),
            "l_max_rho": 0,
            "l_local": -1,
            "mesh_size": len(MESH),
            "number_of_wfc": 0,
            "number_of_proj": sum(sizes),
        }

    def density(self) -> NDArray[np.float64]:
        """Radial charge 4πr²ρ that the self-consistent cycle starts from, 1/Bohr."""
        radius = (Element(self.element).atomic_radius or 1.5) / 0.529177
        charge = MESH**2 * np.exp(-2 * MESH / (0.7 * radius))
        return np.asarray(charge * self.valence / np.trapezoid(charge, MESH))


def projector(radius: float, angular: int, i: int) -> NDArray[np.float64]:
    """The normalised projector i (from 1) of an angular momentum on the mesh, Bohr^(-3/2)."""
    power = angular + (4 * i - 1) / 2
    norm = math.sqrt(2) / (radius**power * math.sqrt(math.gamma(power)))
    return np.asarray(norm * MESH ** (angular + 2 * (i - 1)) * np.exp(-((MESH / radius) ** 2) / 2))


def _block(tag: str, values: NDArray[np.float64], **attributes: object) -> str:
    opening = "".join(f' {key}="{value}"' for key, value in attributes.items())
    lines = [
        " ".join(f"{value:18.10e}" for value in values[start : start + 4])
        for start in range(0, len(values), 4)
    ]
    text = "\n".join(lines)
    return f'<{tag} type="real" size="{len(values)}" columns="4"{opening}>\n{text}\n</{tag}>'


def read_gth(path: Path) -> dict[str, Gth]:
    """The default PBE pseudopotential of each element in a file of CP2K's format.

    Where an element has several, the default is the one with the alias GTH-PBE, or else the
    first: fewer electrons, cheaper.

    Raises
    ------
    UserError
        The file is not there or not of this format.
    """
    try:
        text = path.read_text()
    except OSError:
        raise UserError(
            f"{path} is not there: sudo apt-get install cp2k-data, or set CP2K_DATA_DIR to the "
            "data folder of CP2K"
        ) from None
    entries: list[list[list[str]]] = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words and words[0][0].isalpha():
            entries.append([])
        if words and entries:
            entries[-1].append(words)
    found: dict[str, Gth] = {}
    for (element, name, *aliases), *rows in entries:
        if not name.startswith("GTH-PBE-q") or (element in found and "GTH-PBE" not in aliases):
            continue
        try:
            found[element] = _parse(element, name, rows)
        except (ValueError, IndexError, StopIteration):
            raise UserError(f"{path} has an entry {element} {name} that cannot be read") from None
    if not found:
        raise UserError(f"{path} has no GTH-PBE pseudopotentials: give CP2K's GTH_POTENTIALS")
    return found


def _parse(element: str, name: str, rows: list[list[str]]) -> Gth:
    words = iter([word for row in rows[1:] for word in row])
    r_loc, terms = float(next(words)), int(next(words))
    coefficients = tuple(float(next(words)) for _ in range(terms))
    channels = []
    for _ in range(int(next(words))):
        radius, size = float(next(words)), int(next(words))
        h = np.zeros((size, size))
        for i in range(size):
            for j in range(i, size):
                h[i, j] = h[j, i] = float(next(words))
        channels.append((radius, h))
    return Gth(element, name, sum(map(int, rows[0])), r_loc, coefficients, tuple(channels))


def write_upf(
    folder: Path, elements: Sequence[str] = (), source: Path | None = None
) -> dict[str, Path]:
    """Write the UPF file of each element into a folder; all elements that there are by default.

    Parameters
    ----------
    source
        CP2K's file; by default GTH_POTENTIALS in ``CP2K_DATA_DIR`` or in Debian's /usr/share/cp2k.

    Returns
    -------
    file of each element
    """
    data = Path(os.environ.get("CP2K_DATA_DIR") or "/usr/share/cp2k")
    found = read_gth(source or data / "GTH_POTENTIALS")
    missing = [element for element in elements if element not in found]
    if missing:
        raise UserError(f"CP2K's data has no GTH-PBE pseudopotential of {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for element in elements or sorted(found):
        files[element] = folder / f"{element}.{found[element].name.lower()}.upf"
        write_atomically(files[element], found[element].upf())
    return files


def main() -> int:
    """Write the files and print each one's name and the cutoff that it needs."""
    parser = argparse.ArgumentParser(
        prog="python -m ccdcgan.dft.engines.gth_upf", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("elements", nargs="*", metavar="ELEMENT")
    arguments = parser.parse_args()
    try:
        files = write_upf(arguments.folder, arguments.elements)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(files)} pseudopotentials in {arguments.folder}: set ESPRESSO_PSEUDO to it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
