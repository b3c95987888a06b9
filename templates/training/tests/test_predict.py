"""Predictions: the same as scikit-learn's, for every form of input file."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.checkpoint import Checkpoint, save
from training.data import load_data
from training.model import (
    create_model,
    set_weights,
    start_training,
)
from training.predict import predict, predict_file


@pytest.fixture
def trained(path: Path, finished: Checkpoint) -> Path:
    """The file of a model that knows three kinds of flowers."""
    save(path, finished)
    return path


def write(folder: Path, text: str) -> Path:
    """Return a CSV file with this text."""
    path = folder / "new.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_probabilities_equal_those_of_scikit_learn(flowers: Path) -> None:
    data = load_data(flowers, "kind")
    checkpoint = start_training(data, seed=3, batch_size=8)
    model = create_model(data, seed=3)
    scaled = (data.inputs - checkpoint.mean) / checkpoint.deviation
    expected = model.predict_proba(scaled)
    np.testing.assert_allclose(predict(checkpoint, data.inputs), expected, rtol=1e-12)


def test_probabilities_of_two_classes_equal_those_of_scikit_learn(
    tmp_path: Path,
) -> None:
    lines = ["x,y,label"] + [f"{n},{n % 7},{'ab'[n % 2]}" for n in range(40)]
    data = load_data(write(tmp_path, "\n".join(lines)), "label")
    checkpoint = start_training(data, seed=0, batch_size=8)
    model = create_model(data, seed=0)
    set_weights(model, checkpoint.weights)
    scaled = (data.inputs - checkpoint.mean) / checkpoint.deviation
    expected = model.predict_proba(scaled)
    np.testing.assert_allclose(predict(checkpoint, data.inputs), expected, rtol=1e-12)


def test_the_examples_of_a_csv_file_are_classified(
    trained: Path, tmp_path: Path
) -> None:
    text = "colour,width,length\nred,4,1\nblue,2,3\n"
    predictions = predict_file(trained, write(tmp_path, text))
    assert [prediction.name for prediction in predictions] == ["daisy", "tulip"]
    for prediction in predictions:
        assert list(prediction.probabilities) == ["daisy", "rose", "tulip"]
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.probabilities[prediction.name] > 0.5


def test_a_csv_file_without_a_header_has_the_columns_of_the_training_data(
    trained: Path, tmp_path: Path
) -> None:
    [prediction] = predict_file(trained, write(tmp_path, "3,2\n"))
    assert prediction.name == "tulip"


@pytest.mark.parametrize(
    "array",
    [[1.0, 4.0], [[1, 4]], np.array([[[1.0], [4.0]]], np.float32), [[[1, 4]]]],
    ids=["one", "list of one", "column vectors", "row vectors"],
)
def test_an_npy_file_has_examples_of_any_shape(
    trained: Path, tmp_path: Path, array: Any
) -> None:
    file = tmp_path / "new.npy"
    np.save(file, np.array(array))
    [prediction] = predict_file(trained, file)
    assert prediction.name == "daisy"


REFUSED_TEXTS = {
    "empty": ("", "is empty"),
    "header only": ("length,width\n", "no rows below a header"),
    "column missing": ("length\n1\n", "no column 'width'"),
    "too few numbers": ("1\n", "1 columns and no header: the model needs 2"),
    "no number": ("1,4\n1,red\n", "line 2, column 'width': 'red' is not"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED_TEXTS.values(), ids=REFUSED_TEXTS)
def test_a_csv_file_that_does_not_fit_is_refused(
    trained: Path, tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        predict_file(trained, write(tmp_path, text))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\): the model needs 2 numbers"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
        (np.array([[1, np.nan]]), "not finite"),
        (np.array([["1", "2"]]), "not an .npy file of numbers"),
        (np.array([[None, None]]), "not an .npy file of numbers"),
    ],
    ids=["wide", "flat", "no examples", "NaN", "texts", "objects"],
)
def test_an_npy_file_that_does_not_fit_is_refused(
    trained: Path, tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    file = tmp_path / "new.npy"
    np.save(file, array, allow_pickle=True)
    with pytest.raises(ValueError, match=reason):
        predict_file(trained, file)


@pytest.mark.parametrize(
    "content", [b"", b"1,2", pickle.dumps([1, 2])], ids=["empty", "text", "pickle"]
)
def test_another_file_named_npy_is_refused(
    trained: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "new.npy"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"not an \.npy file of numbers"):
        predict_file(trained, file)


def test_a_model_that_is_not_trained_yet_is_refused(path: Path, flowers: Path) -> None:
    save(path, start_training(load_data(flowers, "kind"), seed=0, batch_size=8))
    with pytest.raises(ValueError, match="is not trained yet"):
        predict_file(path, flowers)
