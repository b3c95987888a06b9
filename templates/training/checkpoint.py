"""Checkpoints: the state of a training, with the best model so far, in a file.

The file is a NumPy archive (.npz) without pickled objects, so reading one runs no code.
The README describes its arrays.
"""

import errno
import hashlib
import io
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FORMAT = 1  # increase it when the arrays change, and say what to do with older files

# The data type and the number of dimensions of each array. Those of texts have any
# length.
ARRAYS = {
    "format": ("int64", 0),
    "seed": ("int64", 0),
    "batch_size": ("int64", 0),
    "classes": ("str", 1),
    "features": ("str", 1),
    "data_digest": ("str", 0),
    "split": ("uint8", 1),
    "mean": ("float64", 1),
    "deviation": ("float64", 1),
    "history": ("float64", 2),
    "test_accuracy": ("float64", 0),
    "digest": ("str", 0),
}


@dataclass(frozen=True, slots=True)
class Epoch:
    """The results of one epoch. Accuracies are between 0 and 1."""

    training_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The state of a training after some epochs: all that is needed to continue.

    `weights` are those after the last epoch, `best_weights` those after the epoch with
    the lowest validation loss, which are the model. `test_accuracy` is the accuracy of
    the best weights on the test set; no decision depends on it.
    """

    seed: int
    batch_size: int
    classes: list[str]
    features: list[str]
    data_digest: str
    split: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    history: list[Epoch]
    weights: list[np.ndarray]
    best_weights: list[np.ndarray]
    test_accuracy: float

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest validation loss, from 1 on; 0 before the first."""
        if not self.history:
            return 0
        losses = [epoch.validation_loss for epoch in self.history]
        return losses.index(min(losses)) + 1

    def is_finished(self, epochs: int, patience: int) -> bool:
        """Return whether there is no epoch left to train.

        With a `patience` of n, training also ends after n epochs without a lower
        validation loss. 0 is no such limit.
        """
        done = len(self.history)
        if done >= epochs:
            return True
        return patience > 0 and done - self.best_epoch >= patience


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file with this checkpoint.

    Raises OSError if that fails, and ValueError if the checkpoint is not sound. The
    file then stays as it was.
    """
    replace_file(path, encode(checkpoint))


def load(path: Path) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises OSError if the file cannot be read, and ValueError if it is not a checkpoint
    of this format, is damaged, or has been changed. The file is left as it is.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file")
    data = path.read_bytes()
    try:
        return decode(data)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as a checkpoint: {error}") from error


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of a file as a whole, or raise OSError and leave it as it is.

    The data is written to a file beside it, which then gets its name. On a full disk a
    write can store a part of the data and report that as success, so what was written
    is read back first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            # Without this, a power failure could leave the new name without its data.
            os.fsync(file.fileno())
        if part.read_bytes() != data:
            message = "The file system has not stored all data"
            raise OSError(errno.EIO, message, str(path))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# --- The format


def encode(checkpoint: Checkpoint) -> bytes:
    """Return the content of a checkpoint's file: the same bytes for the same state.

    Raises ValueError if `decode` would refuse it, for example because of a NaN.
    """
    history = [
        [epoch.training_loss, epoch.validation_loss, epoch.validation_accuracy]
        for epoch in checkpoint.history
    ]
    arrays = {
        "format": np.array(FORMAT, np.int64),
        "seed": np.array(checkpoint.seed, np.int64),
        "batch_size": np.array(checkpoint.batch_size, np.int64),
        "classes": np.array(checkpoint.classes, np.str_),
        "features": np.array(checkpoint.features, np.str_),
        "data_digest": np.array(checkpoint.data_digest, np.str_),
        "split": checkpoint.split,
        "mean": checkpoint.mean,
        "deviation": checkpoint.deviation,
        "history": np.array(history, np.float64).reshape(-1, 3),
        "test_accuracy": np.array(checkpoint.test_accuracy, np.float64),
    }
    for number, weights in enumerate(checkpoint.weights):
        arrays[f"weights_{number}"] = weights
    for number, weights in enumerate(checkpoint.best_weights):
        arrays[f"best_weights_{number}"] = weights
    arrays["digest"] = np.array(digest(arrays), np.str_)
    # What could not be loaded must not replace a checkpoint that can.
    check(arrays)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def decode(data: bytes) -> Checkpoint:
    """Return the checkpoint whose file has this content.

    Raises ValueError, with the reason, if the content is not what `encode` returns.
    """
    arrays = read_arrays(data)
    check(arrays)
    count = sum(name.startswith("weights_") for name in arrays)
    history = [
        Epoch(float(training_loss), float(validation_loss), float(accuracy))
        for training_loss, validation_loss, accuracy in arrays["history"]
    ]
    return Checkpoint(
        seed=int(arrays["seed"]),
        batch_size=int(arrays["batch_size"]),
        classes=[str(name) for name in arrays["classes"]],
        features=[str(name) for name in arrays["features"]],
        data_digest=str(arrays["data_digest"]),
        split=arrays["split"],
        mean=arrays["mean"],
        deviation=arrays["deviation"],
        history=history,
        weights=[arrays[f"weights_{number}"] for number in range(count)],
        best_weights=[arrays[f"best_weights_{number}"] for number in range(count)],
        test_accuracy=float(arrays["test_accuracy"]),
    )


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, or raise ValueError."""
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        return dict(archive)
    except Exception as error:
        # Damaged archives raise exceptions of nearly every type.
        raise ValueError("it is damaged, or not an .npz file") from error


def check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if these are not the arrays of a checkpoint, or were changed."""
    if "format" not in arrays:
        raise ValueError("it has no array 'format'")
    if arrays["format"].shape != () or arrays["format"] != FORMAT:
        raise ValueError(f"its format is {arrays['format']}, not {FORMAT}")
    for name, (dtype, dimensions) in ARRAYS.items():
        if name not in arrays:
            raise ValueError(f"it has no array {name!r}")
        check_array(name, arrays[name], dtype, dimensions)
    check_lengths(arrays)
    check_weights(arrays)
    # The digest reveals every other change, for example a history cut short.
    if str(arrays["digest"]) != digest(arrays):
        raise ValueError("its content was changed by another program")


def check_lengths(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if arrays do not fit to each other."""
    if arrays["history"].shape[1] != 3:
        raise ValueError("its array 'history' does not have 3 columns")
    for name in ("mean", "deviation"):
        features = len(arrays["features"])
        if len(arrays[name]) != features:
            raise ValueError(
                f"its array {name!r} has {len(arrays[name])} numbers, not {features}"
            )


def check_weights(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if the weights, or those of the best epoch, are not sound."""
    for number in range((len(arrays) - len(ARRAYS) + 1) // 2):
        name = f"weights_{number}"
        best_name = f"best_weights_{number}"
        if name not in arrays or best_name not in arrays:
            raise ValueError(f"it lacks one of {name!r} and {best_name!r}")
        check_array(name, arrays[name], "float64", arrays[name].ndim)
        check_array(best_name, arrays[best_name], "float64", arrays[best_name].ndim)
        if arrays[name].shape != arrays[best_name].shape:
            raise ValueError(
                f"its arrays {name!r} and {best_name!r} differ in their shapes"
            )


def check_array(name: str, array: np.ndarray, dtype: str, dimensions: int) -> None:
    """Raise ValueError if the type differs, or a number is not finite."""
    is_of_type = array.dtype == dtype
    if dtype == "str":
        is_of_type = array.dtype.kind == "U"
    if not is_of_type or array.ndim != dimensions:
        raise ValueError(
            f"its array {name!r} has {array.ndim} dimensions of {array.dtype}, not "
            f"{dimensions} of {dtype}"
        )
    if dtype == "float64" and not np.isfinite(array).all():
        raise ValueError(f"its array {name!r} has numbers that are not finite")


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a checksum of all arrays but `digest`."""
    checksum = hashlib.sha256()
    for name in sorted(arrays):
        if name != "digest":
            array = arrays[name]
            description = f"{name} {array.dtype.str} {array.shape}\n"
            checksum.update(description.encode())
            checksum.update(array.tobytes())
    return checksum.hexdigest()
