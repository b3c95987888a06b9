"""The data: what is read from a CSV file, and what is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from training.data import (
    Part,
    load_data,
    scaling,
    split,
)


def write(folder: Path, text: str) -> Path:
    """Return a CSV file with this text."""
    path = folder / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_digits_are_the_default() -> None:
    data = load_data(None, "label")
    assert data.inputs.shape == (1797, 64)
    assert data.classes == list("0123456789")
    assert data.features[0] == "pixel_0_0"


def test_a_csv_file_has_a_label_and_numbers(tmp_path: Path) -> None:
    text = '\ufeffx,kind,"y, in m"\r\n1,rose,2e3\r\n\r\n-0.5, daisy ,0\r\n'
    data = load_data(write(tmp_path, text), "kind")
    assert data.features == ["x", "y, in m"]
    assert data.classes == ["daisy", "rose"]
    assert data.inputs.tolist() == [[1.0, 2000.0], [-0.5, 0.0]]
    assert data.targets.tolist() == [1, 0]


REFUSED = {
    "empty file": ("", "no rows below a header"),
    "header only": ("x,label\n", "no rows below a header"),
    "no label": ("x,y\n1,2\n", "no column 'label': see --label"),
    "empty label": ("x,label\n1,a\n2, \n", "line 3: the column 'label' is empty"),
    "one class": ("x,label\n1,a\n2,a\n", "at least two classes"),
    "only labels": ("label\na\nb\n", "no column of numbers"),
    "text": ("x,label\n1,a\nred,b\n", "line 3, column 'x': 'red' is not a finite"),
    "empty cell": ("x,label\n1,a\n,b\n", "line 3, column 'x': '' is not a finite"),
    "NaN": ("x,label\nnan,a\n1,b\n", "'nan' is not a finite number"),
    "infinity": ("x,label\ninf,a\n1,b\n", "'inf' is not a finite number"),
    "short row": ("x,label\n1,a\n2\n", "line 3: there are 1 values for 2 columns"),
    "twice": ("x,x,label\n1,2,a\n1,2,b\n", "more than one column 'x'"),
    "open quote": ('x,label\n"1,a\n', "not a CSV file in UTF-8"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_file_of_another_form_is_refused_with_line_and_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=reason) as refusal:
        load_data(path, "label")
    assert str(refusal.value).startswith(str(path))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"x,label\n\xff,a\n")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        load_data(path, "label")


def test_other_data_has_another_digest(tmp_path: Path) -> None:
    texts = ["x,label\n1,a\n2,b\n", "x,label\n1,a\n3,b\n", "x,label\n1,a\n2,c\n"]
    texts += ["y,label\n1,a\n2,b\n", "x,label\n1,b\n2,a\n"]
    digests = {load_data(write(tmp_path, text), "label").digest() for text in texts}
    assert len(digests) == len(texts)


def test_each_class_is_split_into_three_parts() -> None:
    targets = np.array([0] * 100 + [1] * 10 + [2] * 2)
    parts = split(targets)
    counts = [Counter(parts[targets == target].tolist()) for target in range(3)]
    assert counts == [
        {Part.TRAINING: 60, Part.VALIDATION: 20, Part.TEST: 20},
        {Part.TRAINING: 6, Part.VALIDATION: 2, Part.TEST: 2},
        {Part.TRAINING: 2},
    ]
    assert np.array_equal(split(targets), parts)


def test_too_few_rows_to_split_are_refused() -> None:
    with pytest.raises(ValueError, match="too few rows"):
        split(np.array([0, 0, 1, 1]))


def test_scaling_gives_columns_of_similar_size() -> None:
    inputs = np.array([[1.0, 1000.0, 7.0], [3.0, 5000.0, 7.0]])
    mean, deviation = scaling(inputs)
    assert ((inputs - mean) / deviation).tolist() == [[-1, -1, 0], [1, 1, 0]]


def test_numbers_too_large_to_scale_are_refused() -> None:
    inputs = np.array([[1.0, 1e308], [1.0, -1e308], [1.0, 1e308]])
    with pytest.raises(ValueError, match="too large"):
        scaling(inputs)
