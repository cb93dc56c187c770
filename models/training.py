"""What all trainings share: determinism, and checkpoints after which a killed one goes on."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and let TensorFlow use deterministic kernels only."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def save_checkpoint(path: Path, variables: Sequence[Any], **scalars: Any) -> None:
    """Write variables and a few numbers or arrays in one piece: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(variables)}
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
        arrays |= {k: np.asarray(v) for k, v in scalars.items()}
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # no array is named allow_pickle
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(stream.name, path)


def load_checkpoint(path: Path, variables: Sequence[Any]) -> Mapping[str, Any] | None:
    """Restore variables from a checkpoint and return its other values; None if there is none.

    A file that is broken or belongs to other networks counts as none: training starts anew.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if f"v{len(variables)}" in data:
                return None
            arrays = [data[f"v{i}"] for i in range(len(variables))]
            if any(a.shape != tuple(v.shape) for a, v in zip(arrays, variables, strict=True)):
                return None
            rest = {k: data[k] for k in data.files if not (k[0] == "v" and k[1:].isdigit())}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return rest


def model_bytes(model: keras.Model) -> bytes:
    """The model in Keras's own format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def model_from_bytes(data: bytes) -> keras.Model:
    """A model from `model_bytes`, loaded in Keras's safe mode: no code from the file runs.

    Raises
    ------
    ValueError
        The data are no model of this project or are damaged.
    """
    # Keras finds the project's own layers in a file only once they are registered; they are
    # imported here because their modules import this one.
    import ccdcgan.models.autoencoder
    import ccdcgan.models.constraint
    import ccdcgan.models.gan  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise ValueError(f"the weights cannot be read: {type(error).__name__}") from error
