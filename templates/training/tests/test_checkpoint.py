"""Checkpoints: saved as a whole or not at all, and refused if anything is wrong."""

import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.checkpoint import (
    FORMAT,
    Checkpoint,
    decode,
    digest,
    encode,
    load,
    replace_file,
    save,
)

Make = Callable[..., Checkpoint]


def repack(data: bytes, **changes: Any) -> bytes:
    """Return an .npz file with some arrays replaced, and a digest that fits."""
    arrays = dict(np.load(io.BytesIO(data)))
    arrays |= {name: np.array(value) for name, value in changes.items()}
    arrays["digest"] = np.array(digest(arrays))
    return pack(arrays)


def pack(arrays: dict[str, Any]) -> bytes:
    """Return an .npz file."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


# --- Saving


def test_a_loaded_checkpoint_equals_the_saved_one(
    path: Path, finished: Checkpoint
) -> None:
    save(path, finished)
    loaded = load(path)
    assert loaded.history == finished.history
    assert loaded.classes == finished.classes
    assert loaded.features == finished.features
    assert loaded.test_accuracy == finished.test_accuracy
    assert encode(loaded) == encode(finished)


def test_saving_creates_the_folder_and_leaves_no_other_file(
    tmp_path: Path, make_checkpoint: Make
) -> None:
    path = tmp_path / "runs" / "today" / "model"
    save(path, make_checkpoint([1.0]))
    save(path, make_checkpoint([1.0, 0.5]))
    assert list(path.parent.iterdir()) == [path]
    assert len(load(path).history) == 2


def test_what_could_not_be_loaded_is_not_saved(
    path: Path, make_checkpoint: Make
) -> None:
    save(path, make_checkpoint([1.0]))
    with pytest.raises(ValueError, match="'history' has numbers that are not finite"):
        save(path, make_checkpoint([1.0, float("nan")]))
    assert len(load(path).history) == 1


class ShortFile(io.FileIO):
    """A file on a disk that runs full: it stores a part of what is written.

    The result of `write` claims that all was stored.
    """

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: len(data) // 2])
        return len(data)


def open_short(path: Path, mode: str, **_options: Any) -> ShortFile:
    """Open a file in place of `Path.open`."""
    return ShortFile(path, mode)


def test_a_short_write_that_reports_success_leaves_the_last_file(
    path: Path, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(path, make_checkpoint([1.0]))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_short)
        with pytest.raises(OSError, match="has not stored all data"):
            replace_file(path, b"0123456789" * 1000)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_is_full_at_the_end_leaves_the_last_file(
    path: Path, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(path, make_checkpoint([1.0]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(path, make_checkpoint([1.0, 0.5]))
    assert len(load(path).history) == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skips the test where it cannot be mounted."""
    if sys.platform == "win32":
        pytest.skip("needs Linux")
    make, mount, unmount = map(shutil.which, ["mkfs.ext4", "mount", "umount"])
    if make is None or mount is None or unmount is None or os.geteuid() != 0:
        pytest.skip("needs root, mkfs.ext4 and mount")
    image = tmp_path / "disk.img"
    folder = tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(2**20)
    options = ["-q", "-F", "-O", "^has_journal", "-m", "0"]
    subprocess.run([make, *options, image], check=True)
    mounted = subprocess.run([mount, "-o", "loop", image, folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mount: {mounted.stderr.decode()}")
    yield folder
    subprocess.run([unmount, folder], check=True)


def test_no_amount_of_free_space_lets_a_bad_file_replace_a_good_one(
    small_disk: Path, make_checkpoint: Make
) -> None:
    path = small_disk / "model.npz"
    first = make_checkpoint([1.0])
    first.weights[0] = np.random.default_rng(0).random((64, 64))
    first.best_weights[0] = first.weights[0]
    second = replace(first, history=first.history * 2)
    results = set()
    for free in range(0, 96 * 1024, 3072):
        path.unlink(missing_ok=True)
        save(path, first)
        fill(small_disk, free)
        expected = 1
        with suppress(OSError):
            save(path, second)
            expected = 2
        assert len(load(path).history) == expected
        results.add(expected)
    assert results == {1, 2}


def fill(folder: Path, free: int) -> None:
    """Leave about this many bytes free on a file system."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    size = max(0, shutil.disk_usage(folder).free - free)
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        file.write(bytes(size))
        os.fsync(file.fileno())


def test_two_programs_that_save_at_the_same_time_do_not_mix_their_files(
    path: Path, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_another(_descriptor: int) -> None:
        monkeypatch.undo()
        save(path, make_checkpoint([1.0, 0.5]))

    monkeypatch.setattr(os, "fsync", save_another)
    save(path, make_checkpoint([1.0]))
    assert len(load(path).history) == 1


# --- Loading


class Exploit:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_loading_never_unpickles(path: Path, make_checkpoint: Make) -> None:
    path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(ValueError, match="damaged"):
        load(path)
    arrays = dict(np.load(io.BytesIO(encode(make_checkpoint([1.0])))))
    arrays["history"] = np.array([Exploit()], dtype=object)
    path.write_bytes(pack(arrays))
    with pytest.raises(ValueError, match="damaged"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"Dear diary,", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_not_a_checkpoint_is_refused_and_kept(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.npz cannot be used as a checkpoint"):
        load(path)
    assert path.read_bytes() == content


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "float32 weights": (
        {"weights_0": np.eye(2, dtype=np.float32)},
        "'weights_0' has 2 dimensions of float32, not 2 of float64",
    ),
    "NaN in the weights": (
        {"best_weights_1": np.full((2, 2), np.nan)},
        "'best_weights_1' has numbers that are not finite",
    ),
    "infinite loss": ({"history": [[1.0, np.inf, 1.0]]}, "'history' has numbers"),
    "flat history": ({"history": [1.0, 1.0, 1.0]}, "'history' has 1 dimensions"),
    "wide history": ({"history": [[1.0, 1.0, 1.0, 1.0]]}, "3 columns"),
    "integer history": ({"history": [[1, 1, 1]]}, "'history' has 2 dimensions of int"),
    "text as seed": ({"seed": "zero"}, "'seed' has 0 dimensions of <U4"),
    "means of fewer features": ({"mean": [0.0]}, "'mean' has 1 numbers, not 2"),
    "weights without best weights": (
        {"weights_4": [1.0]},
        "'weights_4' and 'best_weights_4'",
    ),
    "best weights of another shape": (
        {"best_weights_2": [1.0]},
        "'weights_2' and 'best_weights_2'",
    ),
    "newer format": ({"format": FORMAT + 1}, "its format is 2, not 1"),
    "format that is not a number": ({"format": [1, 1]}, "its format is"),
}


@pytest.mark.parametrize(("changes", "reason"), CHANGES.values(), ids=CHANGES)
def test_a_checkpoint_of_another_form_is_refused_with_the_reason(
    make_checkpoint: Make, changes: dict[str, Any], reason: str
) -> None:
    data = encode(make_checkpoint([1.0]))
    decode(repack(data))
    with pytest.raises(ValueError, match=reason):
        decode(repack(data, **changes))


def test_a_checkpoint_without_one_of_its_arrays_is_refused(
    make_checkpoint: Make,
) -> None:
    arrays = dict(np.load(io.BytesIO(encode(make_checkpoint([1.0])))))
    for name in arrays:
        others = {key: array for key, array in arrays.items() if key != name}
        if name != "digest":
            others["digest"] = np.array(digest(others))
        with pytest.raises(ValueError, match=name):
            decode(pack(others))


def test_a_history_that_was_cut_is_refused(make_checkpoint: Make) -> None:
    arrays = dict(np.load(io.BytesIO(encode(make_checkpoint([1.0, 0.5, 0.4])))))
    arrays["history"] = arrays["history"][:2]
    with pytest.raises(ValueError, match="changed by another program"):
        decode(pack(arrays))


def test_no_flipped_bit_goes_unnoticed(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint([1.0, 0.5])
    sound = encode(checkpoint)
    refused = 0
    for position in range(0, len(sound), 7):
        data = bytearray(sound)
        data[position] ^= 16
        try:
            decoded = decode(bytes(data))
        except ValueError:
            refused += 1
        else:
            # The bit was in a part of the archive without meaning, such as a date.
            assert encode(decoded) == sound
    assert refused > len(sound) / 7 / 4


@pytest.mark.parametrize("place", [".", os.devnull], ids=["folder", "device"])
def test_a_folder_or_a_device_is_not_read(path: Path, place: str) -> None:
    path.symlink_to(place)
    with pytest.raises(ValueError, match="is not a file"):
        load(path)


# --- The best epoch, and the end


@pytest.mark.parametrize(
    ("losses", "best"), [([], 0), ([1.0], 1), ([3.0, 1.0, 2.0], 2), ([1.0, 1.0], 1)]
)
def test_the_best_epoch_is_the_first_with_the_lowest_validation_loss(
    make_checkpoint: Make, losses: list[float], best: int
) -> None:
    assert make_checkpoint(losses).best_epoch == best


@pytest.mark.parametrize(
    ("losses", "epochs", "patience", "finished"),
    [
        ([], 1, 1, False),
        ([1.0], 1, 0, True),
        ([1.0, 2.0, 3.0], 9, 0, False),
        ([1.0, 2.0, 3.0], 9, 3, False),
        ([1.0, 2.0, 3.0], 9, 2, True),
        ([1.0, 2.0, 0.5], 9, 2, False),
    ],
)
def test_training_ends_after_all_epochs_or_when_patience_is_exhausted(
    make_checkpoint: Make,
    losses: list[float],
    epochs: int,
    patience: int,
    finished: bool,
) -> None:
    assert make_checkpoint(losses).is_finished(epochs, patience) is finished
