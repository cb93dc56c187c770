"""Candidates drawn by the trained generator (paper, Fig. 1)."""

from __future__ import annotations

import numpy as np

from ccdcgan.models.sampling import draw_crystals
from ccdcgan.workflows.documents import Origin
from ccdcgan.workflows.sources.base import Context, Proposal
from ccdcgan.workflows.training import preset_of


def generator(context: Context, count: int) -> list[Proposal]:
    """Crystal graphs of the trained generator, decoded and repaired."""
    campaign, number = context.campaign, context.number
    preset, noise_seed = preset_of(campaign), campaign.seed_of("generator", number)
    # The paper's generator cannot be asked for a composition: what it draws of others is screened.
    asked = campaign.searched() if preset.networks == "dense" else []
    drawn = draw_crystals(
        count,
        noise_seed,
        campaign.elements,
        preset,
        context.files,
        np.array(asked, float) if asked else None,
    )
    return [
        Proposal(
            Origin(
                kind="generated",
                id=f"{preset.gan.variant}:{number}-{i}",
                source="generator",
                round=number,
                model=context.model,
                sample=i,
                noise_seed=noise_seed,
            ),
            crystal,
        )
        for i, crystal in enumerate(drawn)
    ]
