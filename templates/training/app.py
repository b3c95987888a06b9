"""Train a classifier in a worker process: watch it, stop it, resume it, use it.

trainer.py runs the worker, model.py has what it computes, and checkpoint.py saves it.
For a model of your own, change model.py and `predict` in predict.py.
"""

import asyncio
import logging
import sys
from contextlib import aclosing
from dataclasses import asdict
from json import dumps
from pathlib import Path

from cyclopts.types import NonNegativeInt, Port, PositiveInt, UInt32

from .checkpoint import Checkpoint, load
from .predict import Prediction, predict_file
from .progress import Progress
from .status import Status, serve
from .text import printable
from .trainer import Settings, train

log = logging.getLogger(__name__)


async def main(
    *,
    epochs: PositiveInt = 20,
    patience: NonNegativeInt = 0,
    batch_size: UInt32 = 32,
    seed: UInt32 = 0,
    data: Path | None = None,
    label: str = "label",
    checkpoint: Path = Path("model.npz"),
    predict: Path | None = None,
    json: bool = False,
    port: Port = 0,
) -> int:
    """Train a classifier, of handwritten digits by default.

    After a stop, the next run continues where it stopped.

    Args:
        epochs: Number of passes over the training data, earlier runs included.
        patience: Stop after this many epochs without a lower validation loss; 0 =
            never.
        batch_size: Mini-batch size; 0 = full batch.
        seed: Random seed.
        data: CSV file to learn from, in place of the digits. It has a header, and all
            columns but the label are numbers.
        label: Column of the CSV file with the class of each row.
        checkpoint: File with the model and the state of the training. The loss curve
            and the history are written beside it.
        predict: Do not train: print the classes of the examples in this file, a CSV
            file or an .npy array.
        json: Print the results as JSON, one object per line.
        port: Port to listen on; 0 picks a free one. It serves /status and /healthz on
            the loopback interface.
    """
    try:
        if predict is not None:
            predictions = await asyncio.to_thread(predict_file, checkpoint, predict)
            print_predictions(predictions, json)
        else:
            settings = Settings(epochs, patience, batch_size, seed, data, label)
            start = await asyncio.to_thread(load_start, checkpoint, settings)
            result = await run_training(settings, start, checkpoint, port, json)
            print_result(result, checkpoint, json)
    except BrokenPipeError:
        # The reader of stdout has left, as `| head` does. __main__.py reports nothing.
        raise
    except (OSError, ValueError) as error:
        print(printable(error), file=sys.stderr)
        return 1
    return 0


def load_start(path: Path, settings: Settings) -> Checkpoint | None:
    """Return the checkpoint from which to continue, or None if there is no file.

    Raises OSError if the file cannot be read, and ValueError if it is not a checkpoint,
    or one of a training with other settings.
    """
    try:
        start = load(path)
    except FileNotFoundError:
        return None
    if (start.seed, start.batch_size) != (settings.seed, settings.batch_size):
        raise ValueError(
            f"{path} is of a training with --seed {start.seed} "
            f"--batch-size {start.batch_size}"
        )
    if len(start.history) > settings.epochs:
        raise ValueError(
            f"{path} has {len(start.history)} epochs, more than --epochs "
            f"{settings.epochs}"
        )
    return start


async def run_training(
    settings: Settings, start: Checkpoint | None, path: Path, port: int, json: bool
) -> Checkpoint:
    """Train, and report each epoch on stdout and at the status URL.

    Returns the last checkpoint.
    """
    status = Status(epochs=settings.epochs)
    async with (
        serve(status, port) as url,
        aclosing(train(settings, start, path)) as checkpoints,
    ):
        log.info("status: %s/status", url)
        reported = 0 if start is None else len(start.history)
        with Progress("epochs", settings.epochs) as progress:
            progress.advance(reported)
            async for checkpoint in checkpoints:
                status.update(checkpoint)
                if len(checkpoint.history) > reported:
                    reported = len(checkpoint.history)
                    print_epoch(checkpoint, settings.epochs, json)
                    progress.advance()
    return checkpoint


# --- Output


def print_epoch(checkpoint: Checkpoint, epochs: int, json: bool) -> None:
    """Print the results of the last epoch."""
    number = len(checkpoint.history)
    epoch = checkpoint.history[-1]
    if json:
        print(dumps({"epoch": number, **asdict(epoch)}))
    else:
        print(
            f"epoch {number:3}/{epochs}  loss {epoch.training_loss:.4f}"
            f"  validation loss {epoch.validation_loss:.4f}"
            f"  validation accuracy {epoch.validation_accuracy:.4f}"
        )


def print_result(checkpoint: Checkpoint, path: Path, json: bool) -> None:
    """Print how good the model of the best epoch is."""
    accuracy = checkpoint.test_accuracy
    if json:
        result = {"best_epoch": checkpoint.best_epoch, "test_accuracy": accuracy}
        print(dumps(result))
    else:
        print(
            f"test accuracy {accuracy:.4f}, with the model of epoch "
            f"{checkpoint.best_epoch} of {len(checkpoint.history)}, in {path}"
        )


def print_predictions(predictions: list[Prediction], json: bool) -> None:
    """Print the class of each example, with its probability or those of all classes."""
    for number, prediction in enumerate(predictions, start=1):
        if json:
            print(dumps({"example": number, **asdict(prediction)}))
        else:
            probability = max(prediction.probabilities.values())
            name = printable(prediction.name)
            print(f"example {number}: {name} (probability {probability:.4f})")
