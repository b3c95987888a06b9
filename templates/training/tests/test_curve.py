"""The curve and the table beside a checkpoint."""

import csv
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from training.checkpoint import Checkpoint
from training.curve import (
    MARGIN,
    WIDTH,
    draw_curve,
    save_history,
)

Make = Callable[..., Checkpoint]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, 1.0, 1.5], [0.0, 0.0]], ids=str)
def test_the_curve_has_a_point_per_epoch(
    make_checkpoint: Make, losses: list[float]
) -> None:
    checkpoint = make_checkpoint(losses)
    image = draw_curve(checkpoint.history, checkpoint.best_epoch)
    root = ElementTree.fromstring(image)  # noqa: S314 - our own
    curves = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    assert [len(points) for points in curves] == [len(losses), len(losses)]
    texts = " ".join(root.itertext())
    assert (f"loss: epoch {checkpoint.best_epoch}" in texts) == bool(losses)


def test_no_text_is_cut_off_at_the_right_edge(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint([float(loss) for loss in range(1000, 0, -1)])
    image = draw_curve(checkpoint.history, checkpoint.best_epoch)
    root = ElementTree.fromstring(image)  # noqa: S314 - our own
    for text in root.iter(f"{SVG}text"):
        width = 8 * len(text.text or "")
        assert float(text.attrib["x"]) + width <= WIDTH + MARGIN


def test_the_highest_loss_is_at_the_upper_edge(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint([2.0, 1.0, 0.5])
    image = draw_curve(checkpoint.history, checkpoint.best_epoch)
    assert 'points="0.0,0.0 250.0,150.0 500.0,225.0"' in image  # validation
    assert 'points="0.0,150.0 250.0,225.0 500.0,262.5"' in image  # training


def test_the_table_has_a_line_per_epoch_with_all_digits(
    path: Path, make_checkpoint: Make
) -> None:
    save_history(path, make_checkpoint([1 / 3, 0.1]))
    assert path.with_name("model.npz.svg").exists()
    table = path.with_name("model.npz.history.csv")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["validation_loss"]) for row in rows] == [1 / 3, 0.1]
    assert [float(row["training_loss"]) for row in rows] == [1 / 6, 0.05]
    assert [float(row["validation_accuracy"]) for row in rows] == [0.75, 0.75]
