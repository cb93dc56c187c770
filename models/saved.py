"""Networks as bytes, in Keras's own format, and back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras

# Keras finds the project's own layers in a file only once they are registered.
import ccdcgan.models.energy.constraint
import ccdcgan.models.gan.generators
import ccdcgan.models.representation.autoencoder  # noqa: F401


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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(data)
        try:
            return keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise ValueError(f"the weights cannot be read: {type(error).__name__}") from error
