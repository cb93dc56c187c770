"""Quantum ESPRESSO's pw.x as a calculator of ASE."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from ccdcgan.dft.children import ending_with_us
from ccdcgan.dft.engines.espresso import SCRATCH
from ccdcgan.dft.relaxation.failure import machine_fault


class PwxError(RuntimeError):
    """pw.x ended without energy, forces and stress; the text is its own complaint."""


class ScfNotConvergedError(PwxError):
    """The electrons of one ionic step did not converge."""


class PwxCalculator(Espresso):
    """ASE's calculator, with a folder of its own and errors that say what pw.x said.

    Every ionic step starts afresh: from the last charge density pw.x needed 6 cycles where it
    needs 7 from none, and a result would depend on its history.
    """

    def __init__(
        self,
        command: str,
        pseudo_dir: Path,
        rotation: NDArray[np.float64],
        magnetization: Sequence[float] | None,
        **parameters: Any,
    ) -> None:
        folder = tempfile.mkdtemp(prefix=SCRATCH)
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._rotation = rotation
        self._magnetization = magnetization
        super().__init__(profile=_Profile(command, pseudo_dir), directory=folder, **parameters)

    def calculate(self, atoms: Atoms, properties: Any, system_changes: Any) -> None:
        rotation = self._rotation
        atoms = Atoms(
            atoms.numbers,
            cell=atoms.cell.array @ rotation.T,
            scaled_positions=atoms.get_scaled_positions(),
            pbc=True,
        )
        if self._magnetization is not None:
            atoms.set_initial_magnetic_moments(self._magnetization)
        output = self.directory / self.template.outputname
        output.unlink(missing_ok=True)
        try:
            super().calculate(atoms, properties, system_changes)
        except Exception as error:
            files = (output, self.directory / self.template.errorname)
            text = "\n".join(f.read_text(errors="replace") for f in files if f.is_file())
            if (fault := machine_fault(error, text)) is not None:
                raise fault.error(self.directory) from None
            raise _failure(text or str(error)) from error
        missing = {"energy", "forces", "stress"} - set(self.results)
        if missing:
            raise _failure(output.read_text(errors="replace"))
        self.results["forces"] = self.results["forces"] @ rotation
        stress = voigt_6_to_full_3x3_stress(self.results["stress"])
        self.results["stress"] = full_3x3_to_voigt_6_stress(rotation.T @ stress @ rotation)


class _Profile(EspressoProfile):
    def run(
        self,
        directory: Path,
        inputfile: str,
        outputfile: str,
        errorfile: str,
        append: bool = False,
    ) -> None:
        # A relaxation that is stopped takes its pw.x with it.
        argv = [*ending_with_us(), *self.get_command(inputfile)]
        with (directory / outputfile).open("wb") as out, (directory / errorfile).open("wb") as err:
            # A session of its own: Ctrl-C is for the parent, who decides what happens to pw.x.
            subprocess.run(
                argv, cwd=directory, stdout=out, stderr=err, check=True, start_new_session=True
            )


def _failure(output: str) -> PwxError:
    """What went wrong, from the output of pw.x."""
    cycles = re.search(r"convergence NOT achieved after\s+(\d+)", output)
    if cycles:
        return ScfNotConvergedError(f"no self-consistency in {cycles[1]} cycles")
    error = re.search(r"Error in routine\s+(\S+)[^\n]*\n\s*([^\n%]*)", output)
    if error:
        return PwxError(f"{error[1]}: {error[2].strip()}")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return PwxError(f"pw.x ended with: {lines[-1] if lines else 'no output'}")
