"""Whether a run that VASP has ended is a result."""

from __future__ import annotations

import math

from ccdcgan.dft.engines.frames import KBAR
from ccdcgan.dft.engines.vasp.files import Run
from ccdcgan.dft.engines.vasp.settings import VaspEngine
from ccdcgan.dft.engines.vasp.stages import Stage
from ccdcgan.dft.engines.vasp.tags import difference
from ccdcgan.dft.relaxation.settings import RelaxationSettings

#: How a reason begins that EDIFFG can mend.
FORCE = "largest force is"

#: How one begins that a relaxation with the basis and k-points of its own cell can mend.
STRESS = "largest stress is"


def refused(run: Run, engine: VaspEngine, stage: Stage, settings: RelaxationSettings) -> str | None:
    """Why a run that ended is no result: we look at forces and stress ourselves."""
    if run.changed:
        tags = ", ".join(difference(t, v) for t, v in run.changed.items())
        return f"ran with {tags}"
    numbers = {"energy": run.energy_per_atom, "force": run.max_force, "stress": run.max_stress}
    for name, number in numbers.items():
        if not math.isfinite(number):
            return f"{name} is not finite"
    gate = settings.final_gate(run.structure, run.energy_per_atom)
    if gate:
        return gate
    if not run.electronic:
        return "electrons did not converge"
    # A static run keeps the geometry of the relaxation before it, whose forces were looked at.
    if stage == "relax" and run.max_force > settings.fmax:
        return f"{FORCE} {run.max_force:.3f} eV/Å"
    kbar = run.max_stress * KBAR
    if kbar > engine.max_stress:
        return f"{STRESS} {kbar:.1f} kbar"
    if stage == "relax" and not run.ionic:
        return "VASP did not reach the required accuracy"
    return None
