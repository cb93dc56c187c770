"""The judge of generated crystals: predicted formation energies, and gains to be expected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pymatgen.core import Structure

from ccdcgan.models.energy.errors import PropertyErrors
from ccdcgan.models.energy.goals import FORMATION_ENERGY
from ccdcgan.models.energy.potential import Potential
from ccdcgan.models.representation.voxels import FloatArray
from ccdcgan.models.sampling import Files, Predictor
from ccdcgan.workflows.choosing import expected_gain
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.prerelaxation import LearntCalculator
from ccdcgan.workflows.training import crystals_of, preset_of, with_properties


class Judge:
    """Predicted formation energies (eV/atom) and gains of structures in a campaign.

    Parameters
    ----------
    files
        Of the trained constraint, and of the stages that it needs.
    errors
        Of the constraint, by property.
    knowledge
        It makes the hull.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        files: Files,
        errors: Mapping[str, PropertyErrors],
    ) -> None:
        settings = knowledge.campaign
        self.settings, self.errors = settings, errors
        preset = preset_of(settings)
        self.predict = Predictor(settings.elements, preset, files, settings.properties)
        self.gains = settings.loop.screening.selection == "expected_gain"
        if self.gains:
            self.hull = knowledge.hull
            self.known: FloatArray = np.zeros((0, len(settings.properties)))
        # What is usual is asked of properties other than the formation energy only.
        if self.gains and len(settings.properties) > 1:
            samples = with_properties(knowledge.samples, settings.properties)
            self.known = crystals_of(samples, settings.properties).targets

    def __call__(
        self, crystals: list[Structure], potential: Potential | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Energies (n,) and gains (n,).

        Parameters
        ----------
        potential
            What has relaxed the crystals. Its energies then count as much as the constraint's, and
            the constraint errs as for relaxed crystals.
        """
        settings = self.settings
        members = self.predict(crystals)
        place = settings.properties.index(FORMATION_ENERGY)
        if potential is not None:
            pressure = settings.relaxation.pressure
            calculator = LearntCalculator(potential, settings.elements, pressure)
            said = [
                self.hull.place(c, calculator.energy_per_atom(c)).formation_energy for c in crystals
            ]
            members[:, :, place] += (np.array(said) - members[:, :, place].mean(1))[:, None] / 2
        energies = members.mean(1)[:, place]
        gain = np.ones(len(crystals))
        if self.gains:
            gain = expected_gain(
                members,
                # The paper's constraint has no errors of its own for what is not relaxed.
                {p: self._error(p, potential is None) for p in settings.properties},
                crystals,
                self.hull,
                settings.networks.goals,
                settings.loop.screening.within,
                self.known,
            )
        gain[~(energies <= settings.loop.screening.max_formation_energy)] = 0.0
        return energies, gain

    def _error(self, name: str, unrelaxed: bool) -> float:
        errors = self.errors[name]
        return errors.mae if errors.unrelaxed is None or not unrelaxed else errors.unrelaxed


def left_out(energies: FloatArray, gain: FloatArray, most: float) -> dict[str, int]:
    """Why none of these crystals is chosen: reasons, and of how many crystals they are those.

    Parameters
    ----------
    energies, gain
        As of `Judge`.
    most
        Highest predicted formation energy, eV/atom.
    """
    idle = ~(gain > 0)
    judged = np.isfinite(energies)
    counts = {
        "beyond max_formation_energy, as predicted": idle & judged & (energies > most),
        "without a gain to be expected": idle & judged & (energies <= most),
        "not to be judged": idle & ~judged,
        "known already, or with atoms on each other": ~idle,
    }
    return {reason: int(which.sum()) for reason, which in counts.items() if which.any()}
