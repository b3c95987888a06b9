"""The model: a small neural network of scikit-learn, trained epoch by epoch.

Importing this module imports scikit-learn, which takes a second or more. Only the
worker process does that.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sklearn.metrics import log_loss  # type: ignore[import-untyped]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]

from .checkpoint import Checkpoint, Epoch
from .data import Dataset, Part, scaling, split

HIDDEN_UNITS = 64
LEARNING_RATE = 0.1


def start_training(data: Dataset, seed: int, batch_size: int) -> Checkpoint:
    """Return the checkpoint before the first epoch, with random weights."""
    parts = split(data.targets)
    mean, deviation = scaling(data.inputs[parts == Part.TRAINING])
    model = create_model(data, seed)
    weights = copy_weights(model)
    return Checkpoint(
        seed=seed,
        batch_size=batch_size,
        classes=data.classes,
        features=data.features,
        data_digest=data.digest(),
        split=parts,
        mean=mean,
        deviation=deviation,
        history=[],
        weights=weights,
        best_weights=weights,
        test_accuracy=0.0,
    )


def train_epochs(
    start: Checkpoint, data: Dataset, epochs: int, patience: int
) -> Iterator[Checkpoint]:
    """Train until `epochs` or `patience` is reached.

    Yields `start` when ready to train, then the state after each epoch. The result
    depends on `start` and `data` only: it does not matter where an earlier training was
    stopped. Raises ValueError if `start` is of another model or other data, or if the
    training diverges.
    """
    if start.data_digest != data.digest():
        raise ValueError("the checkpoint is of a training with other data")
    model = create_model(data, start.seed)
    set_weights(model, start.weights)
    inputs = (data.inputs - start.mean) / start.deviation
    yield start
    checkpoint = start
    while not checkpoint.is_finished(epochs, patience):
        train_epoch(model, inputs, data.targets, checkpoint)
        checkpoint = evaluate(model, inputs, data.targets, checkpoint)
        yield checkpoint


def create_model(data: Dataset, seed: int) -> MLPClassifier:
    """Return a model with random weights, which depend on the seed only."""
    # Without momentum, with a constant learning rate and with an order of our own, the
    # weights are the whole state: a checkpoint needs nothing else.
    model = MLPClassifier(
        HIDDEN_UNITS,
        solver="sgd",
        momentum=0,
        learning_rate_init=LEARNING_RATE,
        shuffle=False,
        batch_size=1,
        random_state=seed,
    )
    # The first call creates the weights, whatever its arguments are.
    one_input = np.zeros((1, len(data.features)))
    classes = range(len(data.classes))
    model.partial_fit(one_input, [0], classes=classes)
    return model


def copy_weights(model: MLPClassifier) -> list[np.ndarray]:
    """Return copies of the model's weights: the matrices, then the biases."""
    return [np.copy(weights) for weights in model.coefs_ + model.intercepts_]


def set_weights(model: MLPClassifier, weights: list[np.ndarray]) -> None:
    """Set the model's weights, or raise ValueError if they are of another model."""
    targets = model.coefs_ + model.intercepts_
    shapes = [array.shape for array in targets]
    if [array.shape for array in weights] != shapes:
        raise ValueError("the weights in the checkpoint are of another model")
    for target, source in zip(targets, weights, strict=True):
        # In place: the optimizer of scikit-learn refers to these arrays.
        np.copyto(target, source)


def train_epoch(
    model: MLPClassifier,
    inputs: np.ndarray,
    targets: np.ndarray,
    checkpoint: Checkpoint,
) -> None:
    """Train with each training row once, in an order given by seed and epoch."""
    random = np.random.default_rng([checkpoint.seed, len(checkpoint.history)])
    rows = random.permutation(np.flatnonzero(checkpoint.split == Part.TRAINING))
    batch_size = checkpoint.batch_size
    if batch_size == 0:
        batch_size = len(rows)
    batches = np.array_split(rows, math.ceil(len(rows) / batch_size))
    for batch in batches:
        model.batch_size = len(batch)
        try:
            # The error is enough: NumPy need not warn as well.
            with np.errstate(all="ignore"):
                model.partial_fit(inputs[batch], targets[batch])
        except ValueError as error:
            number = len(checkpoint.history) + 1
            raise ValueError(f"epoch {number}: the training diverged") from error


def evaluate(
    model: MLPClassifier,
    inputs: np.ndarray,
    targets: np.ndarray,
    checkpoint: Checkpoint,
) -> Checkpoint:
    """Return the checkpoint after one more epoch, with its results.

    If the validation loss is the lowest so far, the weights are kept as the best ones.
    """
    training = checkpoint.split == Part.TRAINING
    validation = checkpoint.split == Part.VALIDATION
    test = checkpoint.split == Part.TEST
    classes = range(len(checkpoint.classes))
    epoch = Epoch(
        training_loss=log_loss(
            targets[training], model.predict_proba(inputs[training]), labels=classes
        ),
        validation_loss=log_loss(
            targets[validation], model.predict_proba(inputs[validation]), labels=classes
        ),
        validation_accuracy=model.score(inputs[validation], targets[validation]),
    )
    weights = copy_weights(model)
    checkpoint = replace(
        checkpoint, history=[*checkpoint.history, epoch], weights=weights
    )
    if checkpoint.best_epoch < len(checkpoint.history):
        return checkpoint
    return replace(
        checkpoint,
        best_weights=weights,
        test_accuracy=model.score(inputs[test], targets[test]),
    )
