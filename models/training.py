"""What all trainings share: determinism, logs, checkpoints after which a killed one goes on."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import write_atomically, writing
from ccdcgan.models.backend import use_deterministic_kernels


class DivergedError(UserError, ValueError):
    """A training whose numbers are no longer finite."""


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and Keras's backend, which uses deterministic kernels from now on."""
    keras.utils.set_random_seed(seed)
    use_deterministic_kernels()


def save_checkpoint(path: Path, variables: Sequence[Any], **scalars: Any) -> None:
    """Write variables and a few numbers or arrays in one piece: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"v{i}": np.asarray(v) for i, v in enumerate(variables)}
    arrays |= {k: np.asarray(v) for k, v in scalars.items()}
    with writing(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # no array is named allow_pickle


def load_checkpoint(path: Path, variables: Sequence[Any]) -> Mapping[str, Any] | None:
    """Restore variables from a checkpoint and return its other values; None if there is none.

    A file that is broken, belongs to other networks, or holds NaN counts as none: training starts
    anew.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if f"v{len(variables)}" in data:
                return None
            arrays = [data[f"v{i}"] for i in range(len(variables))]
            if any(a.shape != tuple(v.shape) for a, v in zip(arrays, variables, strict=True)):
                return None
            if not all_finite(*arrays):
                return None
            rest = {k: data[k] for k in data.files if not (k[0] == "v" and k[1:].isdigit())}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return rest


def all_finite(*arrays: NDArray[Any]) -> bool:
    """Whether all numbers of all arrays are finite."""
    return all(np.isfinite(array).all() for array in arrays)


class TrainingLog:
    """Numbers along a training: rows of ``log.csv``, and TensorBoard's files if it is installed.

    Parameters
    ----------
    folder
        Where the files go. A log that is there already is continued.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.csv"
        self._board: Any = None
        try:
            from tensorboard.summary import Writer
        except ImportError:
            return
        self._board = Writer(str(folder))

    def resume(self, step: int) -> None:
        """Drop the rows past a step: a training that goes on from there writes them again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
        # A killed process may have left half a row.
        kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= step]
        table = io.StringIO()
        csv.writer(table).writerows([header, *kept] if kept else [])
        write_atomically(self.path, table.getvalue())

    def write(self, step: int, **numbers: float) -> None:
        """Append a row; the first one of a log names the columns."""
        new = not self.path.exists() or self.path.stat().st_size == 0
        with self.path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(["step", *numbers])
            writer.writerow([step, *numbers.values()])
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)
            self._board.flush()


def watchers(
    epochs: int,
    progress: Callable[[int, int], None] | None,
    log: TrainingLog | None,
    done: int = 0,
) -> list[keras.callbacks.Callback]:
    """Callbacks of `fit` that report and log each epoch, the first being number `done` + 1.

    Parameters
    ----------
    epochs
        Epochs in all.
    progress
        Called with (epochs done, epochs).
    log
        Gets the losses, ``training`` and, if there is one, ``test``.
    """

    def end(epoch: int, logs: dict[str, float]) -> None:
        number = done + epoch + 1
        if progress is not None:
            progress(number, epochs)
        if log is not None:
            test = {"test": logs["val_loss"]} if "val_loss" in logs else {}
            log.write(number, training=logs["loss"], **test)

    return [keras.callbacks.LambdaCallback(on_epoch_end=end)]
