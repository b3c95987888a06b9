"""Predictions with a trained model. They need NumPy only, not scikit-learn."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checkpoint import Checkpoint, load
from .data import Table, parse_number, read_lines, read_numbers, read_table


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable class of an example, and the probability of every class."""

    name: str
    probabilities: dict[str, float]


def predict_file(checkpoint_path: Path, path: Path) -> list[Prediction]:
    """Return one prediction for each example in a file, with the model in a checkpoint.

    Raises OSError if one of the files cannot be read, and ValueError if its content
    does not fit. This blocks: call it in a thread.
    """
    checkpoint = load(checkpoint_path)
    if not checkpoint.history:
        raise ValueError(f"{checkpoint_path} is not trained yet")
    if path.suffix == ".npy":
        inputs = read_npy(path, len(checkpoint.features))
    else:
        inputs = read_examples(path, checkpoint.features)
    predictions = []
    for probabilities in predict(checkpoint, inputs):
        best = int(probabilities.argmax())
        by_class = dict(zip(checkpoint.classes, probabilities.tolist(), strict=True))
        predictions.append(Prediction(checkpoint.classes[best], by_class))
    return predictions


def predict(checkpoint: Checkpoint, inputs: np.ndarray) -> np.ndarray:
    """Return the probability of each class (columns) for each example (rows).

    This computes what `MLPClassifier.predict_proba` of scikit-learn does.
    """
    weights = checkpoint.best_weights
    layers = len(weights) // 2
    values = (inputs - checkpoint.mean) / checkpoint.deviation
    for layer in range(layers):
        values = values @ weights[layer] + weights[layers + layer]
        if layer < layers - 1:
            values = np.maximum(values, 0)  # the activation function ReLU
    if len(checkpoint.classes) == 2:
        # For two classes there is one output: the score of the second class.
        values = np.hstack([np.zeros_like(values), values])
    # The softmax function. Without the subtraction, large scores would overflow.
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def read_npy(path: Path, features: int) -> np.ndarray:
    """Return the examples in an .npy file: one, or an array of them.

    Each has `features` numbers, in any shape: (1797, 8, 8) are 1797 examples of 64.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an .npy file of numbers") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufb":
        raise ValueError(f"{path} is not an .npy file of numbers")
    is_one_example = array.size == features
    examples = array.reshape(1, -1) if is_one_example else array
    if examples.ndim < 2 or examples[:1].size != features:
        raise ValueError(
            f"{path} has the shape {array.shape}: the model needs {features} numbers "
            "per example"
        )
    if not np.isfinite(examples).all():
        raise ValueError(f"{path} has numbers that are not finite")
    return examples.reshape(-1, features).astype(np.float64)


def read_examples(path: Path, features: list[str]) -> np.ndarray:
    """Return the examples in a CSV file.

    With a header, the columns may be in any order, and others are ignored. Without one,
    the columns are the features in the order of the training data.
    """
    lines = read_lines(path)
    if not lines:
        raise ValueError(f"{path} is empty")
    first_line = [parse_number(cell) for cell in lines[0].cells]
    if None in first_line:
        table = read_table(path)
    elif len(first_line) == len(features):
        table = Table(path, features, lines)
    else:
        raise ValueError(
            f"{path} has {len(first_line)} columns and no header: the model needs "
            f"{len(features)}"
        )
    return read_numbers(table, features)
