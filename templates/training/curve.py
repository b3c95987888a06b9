"""The history of a training for people: a curve as SVG, and a table as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from .checkpoint import Checkpoint, Epoch, replace_file

WIDTH = 500
HEIGHT = 300
MARGIN = 60

PAGE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
 font-family="sans-serif" font-size="14">
<rect width="100%" height="100%" fill="white"/>
<g transform="translate({margin}, {margin})">
{content}
</g>
</svg>
"""


def save_history(path: Path, checkpoint: Checkpoint) -> None:
    """Write the curve and the table beside the checkpoint in `path`.

    They are named like it, with .svg and .history.csv at the end. Raises OSError.
    """
    curve = draw_curve(checkpoint.history, checkpoint.best_epoch)
    table = write_table(checkpoint.history)
    replace_file(path.with_name(f"{path.name}.svg"), curve.encode())
    replace_file(path.with_name(f"{path.name}.history.csv"), table.encode())


def write_table(history: Sequence[Epoch]) -> str:
    """Return the history as CSV with a header, one line per epoch."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["epoch", "training_loss", "validation_loss", "validation_accuracy"]
    )
    for number, epoch in enumerate(history, start=1):
        writer.writerow(
            [
                number,
                epoch.training_loss,
                epoch.validation_loss,
                epoch.validation_accuracy,
            ]
        )
    return file.getvalue()


def draw_curve(history: Sequence[Epoch], best_epoch: int) -> str:
    """Return an SVG image of the losses by epoch, with a line at the best epoch."""
    training_losses = [epoch.training_loss for epoch in history]
    validation_losses = [epoch.validation_loss for epoch in history]
    highest = max(training_losses + validation_losses, default=0.0)
    if highest == 0:
        highest = 1.0
    content = [
        line(0, HEIGHT, WIDTH, HEIGHT),
        line(0, 0, 0, HEIGHT),
        text(-45, 5, f"{highest:.2f}"),
        text(-20, HEIGHT + 5, "0"),
        text(0, HEIGHT + 20, "epoch 1"),
        text(WIDTH - 20, HEIGHT + 20, str(len(history))),
    ]
    if history:
        x = x_of(best_epoch, len(history))
        content.append(line(x, 0, x, HEIGHT, color="lightgray"))
        content.append(text(0, -15, f"lowest validation loss: epoch {best_epoch}"))
    content.append(curve(training_losses, highest, "steelblue"))
    content.append(text(WIDTH - 150, -35, "training loss", "steelblue"))
    content.append(curve(validation_losses, highest, "darkorange"))
    content.append(text(WIDTH - 150, -15, "validation loss", "darkorange"))
    return PAGE.format(
        width=WIDTH + 2 * MARGIN,
        height=HEIGHT + 2 * MARGIN,
        margin=MARGIN,
        content="\n".join(content),
    )


def x_of(epoch: int, epochs: int) -> float:
    """Return the horizontal position of an epoch: the first is at the left edge."""
    if epochs < 2:
        return 0.0
    return WIDTH * (epoch - 1) / (epochs - 1)


def curve(losses: Sequence[float], highest: float, color: str) -> str:
    """Return a line through all losses. The loss `highest` is at the upper edge."""
    points = []
    for epoch, loss in enumerate(losses, start=1):
        x = x_of(epoch, len(losses))
        y = HEIGHT - HEIGHT * loss / highest
        points.append(f"{x:.1f},{y:.1f}")
    return (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" '
        'stroke-width="2"/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, color: str = "black") -> str:
    """Return a straight line between two points."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{color}"/>'
    )


def text(x: float, y: float, content: str, color: str = "black") -> str:
    """Return a text that begins at this point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}">{content}</text>'
