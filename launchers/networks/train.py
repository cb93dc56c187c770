"""Training with files alone: ``ccdcgan train``."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import keras
from rich.table import Table

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest
from ccdcgan.dft.systems import parse_system
from ccdcgan.launchers.networks.data import Data, prepared
from ccdcgan.launchers.networks.energies import EnergyKey, Say, parse_references
from ccdcgan.launchers.networks.folder import (
    MANIFEST,
    STAGES,
    Figures,
    Manifest,
    ModelFolder,
    Stage,
    explained,
)
from ccdcgan.models.energy.goals import FORMATION_ENERGY, Goal, check_goals
from ccdcgan.models.pipeline import train_constraints, train_generator
from ccdcgan.models.presets import PRESETS, Preset, load_preset
from ccdcgan.models.sampling import Files
from ccdcgan.models.training import TrainingLog
from ccdcgan.workflows import progress
from ccdcgan.workflows.sections import SMALLEST_DATABASE
from ccdcgan.workflows.training import autoencoder_of, stage_progress

#: Fewest crystals, each with all elements of the system, that a stage takes.
SMALLEST = {"autoencoder": 10, "constraint": SMALLEST_DATABASE, "gan": SMALLEST_DATABASE}


def parse_goal(text: str) -> Goal:
    """A goal such as ``band_gap:near=1.5:0.2``: property, direction, weight (default 1)."""
    match = re.fullmatch(r"([^:]+):(minimise|maximise|near)(?:=([^:]+))?(?::([^:]+))?", text)
    try:
        if match is None:
            raise ValueError
        name, direction, value, weight = match.groups()
        numbers = [float(n) for n in (value, weight) if n is not None]
        if not all(map(math.isfinite, numbers)) or (weight and float(weight) <= 0):
            raise ValueError
        return Goal(
            name,
            direction,  # type: ignore[arg-type]  # the pattern allows no other
            float(weight or 1.0),
            float(value) if value is not None else None,
        )
    except ValueError:
        raise UserError(
            f"--goal {text!r}: write NAME:minimise, NAME:maximise or NAME:near=VALUE, and :WEIGHT "
            "(positive, eV/atom for one unit) where it is not 1"
        ) from None


def chosen_preset(name: str) -> Preset:
    """A preset by its name or its YAML file."""
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).suffix.lower() in {".yaml", ".yml"}:
        try:
            return load_preset(Path(name))
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from None
    raise UserError(f"unknown preset {name!r}: {', '.join(PRESETS)} or a file .yaml")


def train(
    data: Path | str,
    out: Path | str,
    *,
    stage: str = "all",
    preset: str | None = None,
    system: str | None = None,
    seed: int = 0,
    properties: Sequence[str] = (),
    goals: Sequence[str] = (),
    references: str | None = None,
    autoencoder: str | None = None,
    energy: EnergyKey | None = None,
    say: Say = lambda line: None,
) -> Manifest:
    """Train networks on the crystals of a file; finished stages are kept as they are.

    Parameters
    ----------
    data, out
        File of crystals and energies, and folder of the networks.
    stage
        ``autoencoder``, ``constraint``, ``gan`` or ``all``.
    preset, system
        None: those of the folder; in a new one quickstart, and all elements of the data.
    seed
        The same seed gives the same networks.
    properties, goals
        What the constraint learns beside the formation energy, and what the generator is guided
        to, as ``density:maximise:0.1``; without goals, those of the constraint's training, or a
        low formation energy.
    references
        Energies of the pure elements, eV/atom, as ``Bi=-3.86,Se=-3.474``.
    autoencoder
        ``shipped`` or ``train``; None trains where the stage is called by its name and wherever
        none is shipped.
    energy
        Which number of the data is the energy.
    say
        Gets lines for the user.

    Returns
    -------
    What is in the folder, with errors on crystals that were held out.

    Raises
    ------
    UserError
        Something is missing or does not fit; the message says what to do.

    Examples
    --------
    >>> import ccdcgan
    >>> manifest = ccdcgan.train("ccdcgan-run/phases.json.gz", "networks")  # doctest: +SKIP
    """
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise UserError("training needs KERAS_BACKEND=tensorflow or jax")
    if stage not in (*STAGES, "all"):
        raise UserError(f"unknown stage {stage!r}: {', '.join(STAGES)} or all")
    path, out = Path(data), Path(out)
    stages = list(STAGES) if stage == "all" else [stage]
    parsed = [parse_goal(text) for text in goals]
    folder = _begun(out, stages[0])
    chosen = _preset_of(folder, preset)
    elements = parse_system(system) if system else None
    if folder is not None and elements is not None:
        elements = _same_system(folder, elements)
    shipped = _is_shipped(stage, chosen, autoencoder)
    names = None
    if stages != ["autoencoder"]:
        names, parsed = _learnt(stage, folder, properties, parsed)
    found = prepared(path, elements, chosen, names, parse_references(references), say, energy)
    if folder is None:
        folder = ModelFolder.new(out, chosen, found.elements)
    found.elements = _same_system(folder, found.elements)
    _require_data(stage, stages, path, found, folder)
    with folder.held():
        run = _Run(folder, found, seed, shipped, say)
        if names is not None:
            folder.manifest.properties = names
            folder.manifest.goals = parsed or [Goal()]
        for name in stages:
            run(name)
    return folder.manifest


def _begun(out: Path, first: str) -> ModelFolder | None:
    """The folder of networks, with all stages before the first one; None where it is new."""
    before = list(STAGES)[: list(STAGES).index(first)]
    if (out / MANIFEST).exists():
        folder = ModelFolder.read(out)
        folder.files(before)
        return folder
    if before:
        raise UserError(
            f"{out} has no {before[0]} yet: run first: ccdcgan train {before[0]} DATA --out {out}"
        )
    return None


def _preset_of(folder: ModelFolder | None, name: str | None) -> Preset:
    """The preset that is asked for, which is that of the folder."""
    preset = chosen_preset(name or "quickstart")
    if folder is None:
        return preset
    if name is not None and preset.digest() != folder.preset.digest():
        raise UserError(
            f"{folder.path} holds networks of the preset {_label(folder.preset)}, not "
            f"{_label(preset)}: choose another --out"
        )
    return folder.preset


def _is_shipped(stage: str, preset: Preset, wanted: str | None) -> bool:
    """Whether the autoencoder is the shipped one."""
    chosen = wanted or ("train" if stage == "autoencoder" else "shipped")
    if chosen not in ("shipped", "train"):
        raise UserError(f"unknown autoencoder {chosen!r}: shipped or train")
    if preset.networks == "paper" and wanted == "shipped":
        raise UserError("the paper's autoencoders are not shipped: give --autoencoder train")
    return preset.networks != "paper" and chosen == "shipped"


def _learnt(
    stage: str, folder: ModelFolder | None, properties: Sequence[str], goals: list[Goal]
) -> tuple[list[str], list[Goal]]:
    """What the constraint learns, and what the generator is guided to."""
    names = list(dict.fromkeys([FORMATION_ENERGY, *properties, *(g.property for g in goals)]))
    if stage != "gan" or folder is None:
        return names, goals
    known = folder.manifest.properties
    with explained(folder.path, {}):
        check_goals(known, [Goal(name) for name in names])
    return known, goals or folder.manifest.goals


def _require_data(
    stage: str, stages: Sequence[str], path: Path, data: Data, folder: ModelFolder
) -> None:
    """Refuse data that are too few, or not what the stage before has learnt from."""
    needed = max(SMALLEST[s] for s in stages)
    if len(data.rows) < needed:
        raise UserError(
            f"{path} has {len(data.rows)} distinct crystals with {' and '.join(data.elements)}; "
            f"training needs at least {needed}: add crystals"
        )
    if stage == "gan" and folder.manifest.stages["constraint"].data != data.digest():
        raise UserError(
            f"{path} is not what the constraint in {folder.path} has learnt from: give the same "
            f"DATA and options, or run first: ccdcgan train constraint {path} --out {folder.path}"
        )


def _label(preset: Preset) -> str:
    return f"{preset.name} ({preset.digest()})"


def _same_system(folder: ModelFolder, elements: Sequence[str]) -> list[str]:
    """The folder's system in its own order."""
    own = folder.manifest.system
    if set(own) != set(elements):
        raise UserError(
            f"{folder.path} holds networks of {'-'.join(own)}, not {'-'.join(elements)}: choose "
            f"another --out, or --system {'-'.join(own)} to use only the crystals of that"
        )
    return own


@dataclass
class _Run:
    """The stages of one command."""

    folder: ModelFolder
    data: Data
    seed: int
    shipped: bool
    say: Say

    def __call__(self, stage: str) -> None:
        """Train a stage and put it into the folder, unless it is there from the same input."""
        start, folder = monotonic(), self.folder
        before = list(STAGES)[: list(STAGES).index(stage)]
        files = folder.files(before)
        data = self.data.digest()
        seen: dict[str, object] = {
            "stage": stage,
            "preset": folder.manifest.digest,
            "seed": self.seed,
            "data": data,
            "files": {name: digest(content) for name, content in files.items()},
        }
        if stage == "autoencoder":
            seen["shipped"] = self.shipped
        else:
            # The goals do not change the constraint, but the generator takes them from it.
            seen["properties"] = folder.manifest.properties
            seen["goals"] = [vars(g) for g in folder.manifest.goals]
        key = digest(json.dumps(seen, sort_keys=True).encode())[:16]
        if folder.has(stage, key):
            self.say(f"{stage}: kept, it comes from the same data, preset and seed")
            return
        log = folder.path / "log" / stage
        checkpoint = folder.path / "checkpoint" / f"{stage}-{key}.npz"
        if not checkpoint.exists():
            shutil.rmtree(log, ignore_errors=True)
        progress.report(stage, 0, 1)
        with explained(folder.path, files):
            made, figures = getattr(self, f"_{stage}")(files, log, checkpoint)
        figures["seconds"] = round(monotonic() - start, 1)
        record = Stage(key=key, data=data, seed=self.seed, figures=figures, files={})
        folder.write(stage, made, record)
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
        progress.report(stage, 1, 1)

    def _autoencoder(self, files: Files, log: Path, checkpoint: Path) -> tuple[Files, Figures]:
        made = autoencoder_of(
            [r.structure for r in self.data.rows],
            self.data.elements,
            self.folder.preset,
            self.seed,
            self.shipped,
            checkpoint,
            TrainingLog(log),
        )
        # The curves are in the log.
        figures = made.model_dump(exclude={"files", "history"})
        return made.files, {"shipped": self.shipped, **figures}

    def _constraint(self, files: Files, log: Path, checkpoint: Path) -> tuple[Files, Figures]:
        assert self.data.crystals is not None
        preset = self.folder.preset
        made, figures = train_constraints(
            self.data.crystals,
            self.data.elements,
            preset,
            files,
            self.seed,
            guided=preset.gan.variant == "ccdcgan",
            progress=stage_progress("constraint"),
            log=TrainingLog(log),
        )
        # The curves are in the log.
        del figures["history"]
        return made, {"crystals": len(self.data.rows), **figures}

    def _gan(self, files: Files, log: Path, checkpoint: Path) -> tuple[Files, Figures]:
        made, figures = train_generator(
            self.folder.manifest.properties,
            self.folder.manifest.goals,
            self.data.elements,
            self.folder.preset,
            files,
            self.seed,
            checkpoint=checkpoint,
            progress=stage_progress("gan"),
            log=TrainingLog(log),
        )
        last = {name: curve[-1] for name, curve in figures["history"].items() if curve}
        return made, {"steps": self.folder.preset.gan.steps, **last}


def figures_table(manifest: Manifest) -> Table:
    """How well the networks of a folder do, in a few rows."""
    table = Table("stage", "figure", "seconds")
    for name in STAGES:
        if name not in manifest.stages:
            continue
        figures = manifest.stages[name].figures
        lines = []
        if name == "autoencoder":
            share, kind = figures["match_fraction"], "shipped" if figures["shipped"] else "trained"
            lines = [f"{share:.1%} of {figures['held_out']} unseen crystals come back ({kind})"]
        elif name == "constraint":
            for target, errors in figures["properties"].items():
                told = f"MAE {errors['mae']:.3g}"
                if errors["r2"] is not None and math.isfinite(errors["r2"]):
                    told += f", R² {errors['r2']:.2f}"
                lines.append(f"{target}: {told} on {errors['held_out']} unseen crystals")
        else:
            lines = [f"{figures['steps']} steps"]
        table.add_row(name, "\n".join(lines), f"{figures['seconds']:.0f}")
    return table
