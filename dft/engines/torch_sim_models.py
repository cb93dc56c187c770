"""Numbers of many crystals at once by a model of torch-sim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch_sim
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from ccdcgan.dft.engines.base import Measured


def measured(model: Any, crystals: Sequence[Atoms]) -> list[Measured]:
    """What a model, of any device and precision, says of crystals."""
    state = torch_sim.initialize_state(list(crystals), model.device, model.dtype)
    output = model(state)
    energies, forces, stresses = (
        output[name].detach().cpu().numpy().astype(float) for name in ("energy", "forces", "stress")
    )
    ends = np.cumsum([len(crystal) for crystal in crystals])
    return [
        Measured(float(energy), own, full_3x3_to_voigt_6_stress(stress))
        for energy, own, stress in zip(energies, np.split(forces, ends[:-1]), stresses, strict=True)
    ]
