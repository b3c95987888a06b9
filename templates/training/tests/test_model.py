"""The model: it learns, and its result depends on seed and data only."""

from dataclasses import replace

import numpy as np
import pytest

from training.checkpoint import (
    Checkpoint,
    decode,
    encode,
)
from training.data import Dataset, Part, load_data
from training.model import start_training, train_epochs
from training.trainer import Settings


@pytest.fixture
def data(settings: Settings) -> Dataset:
    """The data of the `finished` training."""
    return load_data(settings.data, settings.label)


def last(
    start: Checkpoint, data: Dataset, epochs: int, patience: int = 0
) -> Checkpoint:
    """Return the last checkpoint of a training."""
    *_, checkpoint = train_epochs(start, data, epochs, patience)
    return checkpoint


def test_the_loss_falls(finished: Checkpoint) -> None:
    losses = [epoch.training_loss for epoch in finished.history]
    assert losses == sorted(losses, reverse=True)
    assert finished.test_accuracy == 1.0


def test_the_digits_are_recognized_with_the_default_settings() -> None:
    data = load_data(None, "label")
    checkpoint = last(start_training(data, seed=0, batch_size=32), data, 5)
    assert checkpoint.test_accuracy >= 0.93


@pytest.mark.parametrize("stop", range(6))
def test_a_resumed_training_ends_with_the_same_bytes(
    data: Dataset, finished: Checkpoint, stop: int
) -> None:
    start = start_training(data, finished.seed, finished.batch_size)
    stopped = last(start, data, stop)
    assert len(stopped.history) == stop
    resumed = last(decode(encode(stopped)), data, 5)
    assert encode(resumed) == encode(finished)


@pytest.mark.parametrize(("seed", "batch_size"), [(1, 8), (0, 9), (0, 0)])
def test_another_seed_or_batch_size_gives_another_model(
    data: Dataset, finished: Checkpoint, seed: int, batch_size: int
) -> None:
    other = last(start_training(data, seed, batch_size), data, 1)
    assert other.history[0] != finished.history[0]


def test_the_best_weights_are_those_of_the_best_epoch(
    data: Dataset, finished: Checkpoint
) -> None:
    # Classes at random cannot be learned: the validation loss soon rises.
    random = np.random.default_rng(0)
    noise = replace(data, targets=random.integers(0, 3, len(data.targets)))
    checkpoints = list(train_epochs(start_training(noise, 0, 8), noise, 40, 0))
    end = checkpoints[-1]
    assert 0 < end.best_epoch < 40
    best = checkpoints[end.best_epoch]
    for weights, expected in zip(end.best_weights, best.weights, strict=True):
        assert np.array_equal(weights, expected)
    assert not np.array_equal(end.best_weights[0], end.weights[0])
    assert end.test_accuracy == best.test_accuracy


def test_patience_ends_a_training_that_no_longer_improves(data: Dataset) -> None:
    random = np.random.default_rng(0)
    noise = replace(data, targets=random.integers(0, 3, len(data.targets)))
    end = last(start_training(noise, 0, 8), noise, 1000, patience=3)
    assert len(end.history) == end.best_epoch + 3
    # A second run has nothing left to do.
    assert last(end, noise, 1000, patience=3) is end


def test_nothing_is_learned_from_validation_and_test_rows(
    data: Dataset, finished: Checkpoint
) -> None:
    start = start_training(data, finished.seed, finished.batch_size)
    inputs = data.inputs.copy()
    inputs[start.split != Part.TRAINING] = 99.0
    changed = replace(data, inputs=inputs)
    end = last(start_training(changed, finished.seed, finished.batch_size), changed, 5)
    assert np.array_equal(end.mean, finished.mean)
    for weights, expected in zip(end.weights, finished.weights, strict=True):
        assert np.array_equal(weights, expected)


def test_a_checkpoint_of_other_data_is_refused(
    data: Dataset, finished: Checkpoint
) -> None:
    other = replace(data, inputs=data.inputs + 1)
    with pytest.raises(ValueError, match="of a training with other data"):
        last(finished, other, 9)


@pytest.mark.parametrize(
    "weights",
    [[], [np.ones((2, 64))], [np.ones((1, 1))] * 4],
    ids=["none", "one", "other shapes"],
)
def test_weights_of_another_model_are_refused(
    data: Dataset, finished: Checkpoint, weights: list[np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=r"weights .* are of another model"):
        last(replace(finished, weights=weights), data, 9)


def test_a_training_that_diverges_is_an_error(data: Dataset) -> None:
    start = start_training(data, 0, 8)
    huge = replace(start, weights=[weights * 1e200 for weights in start.weights])
    with pytest.raises(ValueError, match="epoch 1: the training diverged"):
        last(huge, data, 9)
