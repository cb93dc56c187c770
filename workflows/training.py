"""What stage 2 learns from, and how: samples, crystals and frames of a campaign, autoencoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.structures.matching import is_same
from ccdcgan.dft.variables import variables
from ccdcgan.models.energy.constraint import Starts
from ccdcgan.models.energy.potential import Labelled
from ccdcgan.models.pipeline import (
    Crystals,
    train_autoencoders,
    usable,
)
from ccdcgan.models.presets import PRESETS, Preset
from ccdcgan.models.representation.default import anchored
from ccdcgan.models.sampling import crystal_graphs, shipped_autoencoder
from ccdcgan.models.training import TrainingLog
from ccdcgan.workflows import progress
from ccdcgan.workflows.campaign import Campaign
from ccdcgan.workflows.documents import RelaxationDocument
from ccdcgan.workflows.knowledge import Knowledge
from ccdcgan.workflows.outputs import AutoencoderArtifact
from ccdcgan.workflows.phases import Sample
from ccdcgan.workflows.sections import SMALLEST_DATABASE
from ccdcgan.workflows.storage.stores import (
    Relaxations,
)


def preset_of(campaign: Campaign) -> Preset:
    """The preset of a campaign with the campaign's own choices in it."""
    chosen = campaign.networks
    preset = PRESETS[chosen.preset]
    gan = replace(
        preset.gan,
        variant=chosen.variant,
        omega=chosen.omega,
        loss=chosen.loss or preset.gan.loss,
        steps=chosen.gan_steps or preset.gan.steps,
    )
    guide = replace(preset.guide, epochs=chosen.guide_epochs or preset.guide.epochs)
    epochs = chosen.autoencoder_epochs or preset.autoencoder_epochs
    paper = replace(
        preset.paper,
        lattice_points=chosen.lattice_grid or preset.paper.lattice_points,
        filters=chosen.filters or preset.paper.filters,
    )
    grid = replace(preset.grid, points=chosen.grid or preset.grid.points)
    return replace(preset, grid=grid, gan=gan, guide=guide, autoencoder_epochs=epochs, paper=paper)


def samples_of(knowledge: Knowledge) -> list[Sample]:
    """What can be learnt from, or a clear error if it is too little."""
    samples, campaign = knowledge.samples, knowledge.campaign
    cells = [s.structure for s in samples]
    good, _ = usable(cells, campaign.elements, preset_of(campaign))
    if len(good) < SMALLEST_DATABASE:
        raise UserError(
            f"{len(good)} relaxed crystals hold {' and '.join(campaign.elements)}; training "
            f"needs at least {SMALLEST_DATABASE}: add prototype sources, widen database.filters or "
            "raise database.max_candidates; what is relaxed stays"
        )
    return [samples[i] for i in good]


def with_properties(samples: Sequence[Sample], names: Sequence[str]) -> Sequence[Sample]:
    """The samples that have all properties, or a clear error if they are too few."""
    for name in names:
        having = [s for s in samples if name in s.properties]
        if len(having) < SMALLEST_DATABASE:
            known = ", ".join(sorted(samples[0].properties))
            raise UserError(
                f"{len(samples) - len(having)} of {len(samples)} relaxed crystals have no {name!r},"
                f" which networks.goals asks for, and training needs {SMALLEST_DATABASE} that have "
                f"it; known are {known}"
            )
        samples = having
    return samples


def crystals_of(samples: Sequence[Sample], names: Sequence[str]) -> Crystals:
    """Crystals with the properties of these names, and what they were relaxed from."""
    starts = [(start, i) for i, s in enumerate(samples) for start in s.starts.values()]
    return Crystals(
        [s.structure for s in samples],
        np.array([[s.properties[name] for name in names] for s in samples]),
        list(names),
        np.array([s.properties["e_above_hull"] for s in samples]),
        Starts([start for start, _ in starts], np.array([i for _, i in starts], int)),
    )


def frames_of(documents: Mapping[str, RelaxationDocument], campaign: Campaign) -> list[Labelled]:
    """What the relaxations say on their way, for learning a potential."""
    index = {element: i for i, element in enumerate(campaign.elements)}
    return [
        Labelled(
            cell=np.array(frame.cell),
            species_index=np.array([index[s.specie.symbol] for s in d.framed]),
            positions=np.array(frame.positions),
            energy=frame.energy,
            forces=np.array(frame.forces),
            stress=np.array(frame.stress),
            relaxation=number,
        )
        for number, (_, d) in enumerate(sorted(documents.items()))
        if d.has_own_frames
        for frame in d.frames
    ]


def learnable_frames(knowledge: Knowledge) -> tuple[list[Labelled], int]:
    """Frames of what can be believed, and of how many relaxations they are not their own."""
    keys = knowledge.documents.keys() - knowledge.untrusted.keys()
    believed = Relaxations().get(keys)
    foreign = sum(not d.has_own_frames for d in believed.values())
    return frames_of(believed, knowledge.campaign), foreign


def stage_progress(stage: str) -> Callable[[int, int], None]:
    """A stage's reporter of (done, total)."""
    return lambda done, total: progress.report(stage, done, total)


def stage_log(key: str) -> TrainingLog | None:
    """Where a stage logs its losses: a folder of its own, if there is one for logs."""
    folder = variables().logs
    return TrainingLog(folder / key) if folder else None


def autoencoder_of(
    structures: Sequence[Structure],
    elements: Sequence[str],
    preset: Preset,
    seed: int,
    shipped: bool,
    checkpoint: Path,
    log: TrainingLog | None,
) -> AutoencoderArtifact:
    """The shipped autoencoder, or one trained on 90% of the crystals, with its figures."""
    cells = [anchored(s, 1)[0] for s in structures]
    # The shipped weights come from random crystals: every crystal is held out.
    files, held_out = shipped_autoencoder() if shipped else {}, cells
    history: dict[str, list[float]] = {}
    if not shipped:
        order = np.random.default_rng(seed).permutation(len(cells))
        n_test = max(2, len(cells) // 10)
        held_out = [cells[i] for i in order[:n_test]]
        files, history = train_autoencoders(
            [cells[i] for i in order[n_test:]],
            elements,
            preset,
            seed,
            held_out=held_out,
            checkpoint=checkpoint,
            progress=stage_progress("autoencoder"),
            log=log,
        )
    graphs = crystal_graphs(elements, preset, files)
    fitting = [c for c in held_out if graphs.fits(c)]
    decoded = graphs.decode(graphs.encode(fitting))
    same = [d is not None and is_same(c, d) for c, d in zip(fitting, decoded, strict=True)]
    return AutoencoderArtifact(
        files=files,
        match_fraction=sum(same) / len(held_out),
        held_out=len(held_out),
        history=history,
    )
