"""Model folders: trained networks as files, and a manifest that says what they are."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest, locked, to_json, without_nan, write_atomically
from ccdcgan.models.energy.goals import Goal
from ccdcgan.models.presets import FORMAT, Preset, preset_from
from ccdcgan.models.sampling import (
    CONSTRAINT,
    GENERATOR,
    GUIDE,
    LATTICE,
    SITES,
    SPACE,
    Files,
    load_space,
)
from ccdcgan.models.saved import model_from_bytes

MANIFEST = "manifest.json"

#: Stages in the order in which they build on each other, and the files that each may write.
STAGES: dict[str, tuple[str, ...]] = {
    "autoencoder": (SITES, LATTICE),
    "constraint": (SPACE, CONSTRAINT, GUIDE),
    "gan": (GENERATOR,),
}


#: Numbers of a trained stage by name, as they are in JSON: each kind of network has its own.
Figures = dict[str, Any]


class Stage(BaseModel):
    """A finished stage."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="Hash of all that the stage has seen.")
    data: str = Field(description="Hash of the crystals.")
    seed: int
    figures: Figures = Field(description="How well it does; energies in eV/atom.")
    files: dict[str, str] = Field(description="SHA-256 of each file.")


class Manifest(BaseModel):
    """manifest.json."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    ccdcgan: str = Field(description="Version of the package that wrote last.")
    preset: dict[str, object] = Field(description="All values of the preset.")
    digest: str = Field(description="Hash of the preset.")
    system: list[str]
    properties: list[str] = Field([], description="What the constraint predicts.")
    goals: list[Goal] = Field([], description="What the generator is guided to.")
    seed: int = Field(0, description="Seed of the last training.")
    stages: dict[str, Stage] = {}


@dataclass
class ModelFolder:
    """A folder of networks.

    Attributes
    ----------
    path
        The folder; it need not exist before the first `write`.
    manifest
        What is in it.
    preset
        The manifest's preset.
    """

    path: Path
    manifest: Manifest
    preset: Preset

    @classmethod
    def new(cls, path: Path, preset: Preset, elements: Sequence[str]) -> ModelFolder:
        """A folder without networks.

        Raises
        ------
        UserError
            There is something else in it.
        """
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"{path} is not empty and holds no {MANIFEST}: choose another --out")
        manifest = Manifest(
            ccdcgan=metadata.version("ccdcgan"),
            preset=asdict(preset),
            digest=preset.digest(),
            system=list(elements),
        )
        return cls(path, manifest, preset)

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """A folder that is there.

        Raises
        ------
        UserError
            It has no manifest, or one that is damaged or of another version.
        """
        file = path / MANIFEST
        if not file.exists():
            raise UserError(
                f"{path} holds no networks ({MANIFEST}): "
                f"run first: ccdcgan train all DATA --out {path}"
            )
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            found = data["format"]
            if found != FORMAT:
                raise UserError(
                    f"the networks in {path} have format {found}, this ccdcgan reads format "
                    f"{FORMAT}: train them anew"
                )
            manifest = Manifest.model_validate(data)
            preset = preset_from(manifest.preset)
            if preset.digest() != manifest.digest:
                raise ValueError(f"digest {manifest.digest} is not that of its preset")
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else error
            raise UserError(f"{file} is damaged ({what}): train anew") from None
        return cls(path, manifest, preset)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it for this process.

        Raises
        ------
        UserError
            Another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # The folder itself is locked: what is in it are networks, and no file of ours beside them.
        with locked(self.path, f"{self.path} is in use by another ccdcgan train"):
            if not (self.path / MANIFEST).exists():
                self._write_manifest()
            yield

    def need(self, stages: Sequence[str]) -> None:
        """Raise `UserError` with the command to run first if a stage is missing."""
        for stage in stages:
            if stage not in self.manifest.stages:
                raise UserError(
                    f"{self.path} has no {stage} yet: "
                    f"run first: ccdcgan train {stage} DATA --out {self.path}"
                )

    def files(self, stages: Sequence[str]) -> Files:
        """The files of finished stages.

        Raises
        ------
        UserError
            A stage is missing, or a file is missing or not the one that was written.
        """
        self.need(stages)
        found: Files = {}
        for stage in stages:
            for name, expected in self.manifest.stages[stage].files.items():
                path = self.path / name
                if name not in STAGES[stage]:
                    raise UserError(f"{self.path / MANIFEST} is damaged ({name}): train anew")
                again = f"run again: ccdcgan train {stage} DATA --out {self.path}"
                if not path.is_file():
                    raise UserError(f"{path} is missing: {again}")
                found[name] = path.read_bytes()
                if digest(found[name]) != expected:
                    raise UserError(f"{path} is damaged or exchanged (SHA-256 differs): {again}")
        return found

    def has(self, stage: str, key: str) -> bool:
        """Whether a stage is there, whole, and came from what `key` is the hash of."""
        done = self.manifest.stages.get(stage)
        if done is None or done.key != key:
            return False
        try:
            self.files([stage])
        except UserError:
            return False
        return True

    def write(self, stage: str, files: Mapping[str, bytes], record: Stage) -> None:
        """Put the files of a stage into the folder; what was built on its last ones goes."""
        later = list(STAGES)[list(STAGES).index(stage) :]
        for name in later:
            self.manifest.stages.pop(name, None)
        # The manifest never names a file that it is not sure of.
        self._write_manifest()
        for name in [file for one in later for file in STAGES[one]]:
            (self.path / name).unlink(missing_ok=True)
        for name in later[1:]:
            shutil.rmtree(self.path / "log" / name, ignore_errors=True)
        for name, content in files.items():
            write_atomically(self.path / name, content)
        hashes = {name: digest(content) for name, content in files.items()}
        self.manifest.stages[stage] = record.model_copy(
            update={"files": hashes, "figures": without_nan(record.figures)}
        )
        self.manifest.seed, self.manifest.ccdcgan = record.seed, metadata.version("ccdcgan")
        self._write_manifest()

    def _write_manifest(self) -> None:
        text = to_json(self.manifest.model_dump(mode="json"), indent=2)
        write_atomically(self.path / MANIFEST, text + "\n")


@contextlib.contextmanager
def explained(folder: Path, files: Mapping[str, bytes]) -> Iterator[None]:
    """Turn what networks raise into one line; a file that cannot be loaded is named."""
    try:
        yield
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        for name, content in files.items():
            load: Any = load_space if name == SPACE else model_from_bytes
            try:
                load(content)
            except Exception:  # noqa: BLE001  NumPy and zipfile signal a wrong file in many ways
                raise UserError(
                    f"{folder / name} cannot be read as a network of this ccdcgan: train it anew"
                ) from error
        if isinstance(error, KeyError):
            raise UserError(
                f"{folder} holds networks of another ccdcgan: train them anew"
            ) from error
        raise UserError(" ".join(str(error).split())[:300]) from error
