"""Density-functional theory with GPAW in plane waves, driven by ASE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar, Literal

from ase.calculators.calculator import Calculator
from pydantic import Field
from pymatgen.core import Structure

from ccdcgan.dft.engines import dispersion
from ccdcgan.dft.engines.base import CalculatorEngine, Dispersion, LevelOfTheory
from ccdcgan.dft.engines.espresso import kpoints
from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.structures.moments import along_z

# What decides energies. A field added later must not change the hash of older results.
DECISIVE = {"cutoff", "kpoints_length", "width", "spin", "dispersion"}


class GpawEngine(CalculatorEngine):
    """PBE with GPAW, on its own PAW data sets."""

    added: ClassVar[frozenset[str]] = frozenset({"dispersion"})

    name: Literal["gpaw"] = "gpaw"
    cutoff: float = Field(default=500.0, gt=0, description="Plane-wave cutoff, eV.")
    kpoints_length: float = Field(
        default=40.0, gt=0, description="k-points along an axis times the axis's length, Å."
    )
    width: float = Field(default=0.05, gt=0, description="Width of the Fermi smearing, eV.")
    spin: bool = Field(
        default=False,
        description="Spin-polarised, from the structure's moments, else a ferromagnetic start.",
    )

    dispersion: Dispersion | None = Field(
        default=None, description="Dispersion correction on top: d3bj, d4, or null."
    )

    @property
    def is_magnetic(self) -> bool:
        return self.spin

    def calculator(self, structure: Structure) -> Calculator:
        """GPAW with the k-points of this structure."""
        self._installed()
        from gpaw import GPAW

        moments = None
        if self.spin:
            moments = along_z(structure) or [1.0] * len(structure)
        calculator = GPAW(
            mode={"name": "pw", "ecut": self.cutoff},
            xc="PBE",
            kpts={"size": kpoints(structure, self.kpoints_length), "gamma": True},
            occupations={"name": "fermi-dirac", "width": self.width},
            spinpol=self.spin,
            magmoms=moments,
            txt=None,
        )
        return dispersion.with_dispersion(calculator, self.dispersion, "PBE")

    def level_of_theory(self, elements: Sequence[str] | None = None) -> LevelOfTheory:
        """The level of theory of these elements.

        Without elements the data sets are left out: GPAW has one default for every element.
        """
        self._installed()
        from gpaw.setup_data import search_for_file

        settings = self.model_dump(mode="json", include=DECISIVE)
        text = json.dumps({"functional": "PBE", **settings}, sort_keys=True)
        titles = {}
        for element in sorted(elements or ()):
            try:
                path, content = search_for_file(f"{element}.PBE")
            except (FileNotFoundError, RuntimeError):
                raise UserError(
                    f"GPAW has no PBE data set of {element}: pip install gpaw-data, or set "
                    "GPAW_SETUP_PATH"
                ) from None
            titles[element] = f"{path.rpartition('/')[2]} {digest(content, 8)}"
        return LevelOfTheory(
            engine="GPAW",
            package="gpaw",
            checkpoint=digest(text, 16),
            scale="PBE, uncorrected",
            pseudopotentials=titles,
            dispersion=self.dispersion and dispersion.title(self.dispersion, "PBE"),
        )

    def check(self, elements: Sequence[str]) -> None:
        self.level_of_theory(elements)
        dispersion.check(self.dispersion, "PBE", elements)

    def _installed(self) -> None:
        try:
            import gpaw  # noqa: F401
        except ImportError:
            raise UserError("engine gpaw needs: pip install 'ccdcgan[gpaw]'") from None
