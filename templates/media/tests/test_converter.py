"""The program of a worker process, run in this process."""

import io
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from media import converter, pictures
from media.converter import convert, read_jobs
from media.plan import Settings, make_plan

Make = Callable[..., Path]
Message = dict[str, Any]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The folder for unfinished files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def messages(source: Path, to: Path) -> list[Message]:
    """Return the jobs for a folder in the form in which a process gets them."""
    settings = Settings(size=40)
    return [
        {
            "module": job.kind.module,
            "source": str(job.source),
            "outputs": [str(output) for output in job.outputs],
            "settings": asdict(settings),
        }
        for job in make_plan(source, to, settings).jobs
    ]


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# --- One file


def test_all_outputs_are_made_with_the_time_of_the_source(
    draw: Make, play: Make, source: Path, to: Path, scratch: Path
) -> None:
    cat = draw("holiday/cat.jpg")
    play("tone.ogg")
    for message in messages(source, to):
        result = convert(message, scratch)
        assert "error" not in result
        assert result["warnings"] == []
    names = ["holiday/cat.jpg.40.edges.png", "holiday/cat.jpg.40.webp"]
    assert names_in(to) == ["holiday", *names, "tone.ogg.-16lufs.ogg"]
    for name in names:
        assert (to / name).stat().st_mtime_ns == cat.stat().st_mtime_ns
    assert make_plan(source, to, Settings(size=40)).jobs == []
    assert names_in(scratch) == []


def test_a_broken_file_makes_no_output_and_keeps_the_old_one(
    draw: Make, play: Make, source: Path, to: Path, scratch: Path
) -> None:
    draw("cat.jpg", size=(400, 300))
    play("tone.flac")
    jobs = messages(source, to)
    for job in jobs:
        convert(job, scratch)
    before = {path: path.read_bytes() for path in to.iterdir()}
    for job in jobs:
        path = Path(job["source"])
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert ["error" in convert(job, scratch) for job in jobs] == [True, True]
    assert {path: path.read_bytes() for path in to.iterdir()} == before
    assert names_in(scratch) == []


def test_no_output_is_made_if_the_second_one_fails(
    draw: Make, source: Path, to: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_half(source: Path, drafts: list[Path], settings: Settings) -> Message:
        drafts[0].write_text("done")
        raise RuntimeError("no more")

    draw("cat.png")
    monkeypatch.setattr(pictures, "convert", make_half)
    [job] = messages(source, to)
    assert convert(job, scratch) == {"error": "RuntimeError: no more"}
    assert not to.exists()


def test_a_draft_that_cannot_be_forced_to_the_disk_is_not_published(
    draw: Make, source: Path, to: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems find out that the disk is full only at this point."""

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    draw("cat.png")
    [job] = messages(source, to)
    monkeypatch.setattr(os, "fsync", fail)
    assert convert(job, scratch) == {"error": "No space left on device"}
    assert not to.exists()


def test_a_file_that_was_deleted_meanwhile_is_an_error(
    draw: Make, source: Path, to: Path, scratch: Path
) -> None:
    cat = draw("cat.png")
    [job] = messages(source, to)
    cat.unlink()
    assert convert(job, scratch) == {"error": "No such file or directory"}


def test_warnings_are_collected_once_each_and_not_printed(
    draw: Make,
    source: Path,
    to: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def warn(source: Path, drafts: list[Path], settings: Settings) -> Message:
        for number in range(20):
            warnings.warn("odd chunk", stacklevel=1)
            logging.getLogger("decoder").warning("odd %s", "tag")
            warnings.warn(f"{number}", stacklevel=1)
        for draft in drafts:
            draft.touch()
        return {"width": 1}

    draw("cat.png")
    monkeypatch.setattr(pictures, "convert", warn)
    [job] = messages(source, to)
    result = convert(job, scratch)
    assert result["details"] == {"width": 1}
    assert result["warnings"] == ["odd tag", "odd chunk", "0", "1", "2"]
    assert capsys.readouterr() == ("", "")


# --- A file system that is full in the middle


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    unmount = shutil.which("umount")
    if sys.platform != "linux" or mount is None or unmount is None:
        pytest.skip("needs Linux and its command `mount`")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr}")
    try:
        yield folder
    finally:
        subprocess.run([unmount, str(folder)], check=True)


@pytest.mark.parametrize("free_kib", range(0, 64, 4))
def test_on_a_full_disk_the_output_is_whole_or_the_old_one(
    draw: Make, play: Make, source: Path, small_disk: Path, free_kib: int
) -> None:
    """The disk is full at a different point of the work each time."""
    to = small_disk / "to"
    scratch = small_disk / "scratch"
    scratch.mkdir()
    to.mkdir()
    draw("cat.jpg", size=(300, 200))
    for suffix in ("wav", "flac", "ogg", "mp3"):
        play(f"tone.{suffix}", seconds=0.1)
    jobs = messages(source, to)
    old: dict[Path, bytes] = {}
    for job in jobs:
        for output in map(Path, job["outputs"]):
            output.write_bytes(b"old")
            old[output] = b"old"
    fill_disk(small_disk / "ballast", free_kib)
    for job in jobs:
        outputs = [Path(output) for output in job["outputs"]]
        result = convert(job, scratch)
        contents = [output.read_bytes() for output in outputs]
        if "error" in result:
            assert contents == [b"old"] * len(outputs)
        else:
            assert_readable(job, outputs, scratch)
    assert names_in(scratch) == []


def fill_disk(ballast: Path, free_kib: int) -> None:
    """Write a file that leaves this much space free on its file system."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            pass
    size = max(0, ballast.stat().st_size - free_kib * 1024)
    os.truncate(ballast, size)


def assert_readable(job: Message, outputs: list[Path], scratch: Path) -> None:
    """Assert that each output can be decoded to its end."""
    module = converter.import_module(job["module"])
    for output in outputs:
        if job["module"] == "sounds":
            assert module.measure(output).frames >= 4_800
        else:
            image = module.pyvips.Image.new_from_file(str(output), fail_on="error")
            image.copy_memory()


# --- The process


def run_main(scratch: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[Any]:
    """Run the program of the process with these lines on stdin; return its messages."""
    results = io.BytesIO()
    stdin = io.BytesIO("".join(lines).encode())
    monkeypatch.setattr(converter, "open_stdin", lambda: stdin)
    monkeypatch.setattr(converter, "take_stdout", lambda: results)
    monkeypatch.setattr(converter, "lower_priority", lambda: None)
    monkeypatch.setattr(converter, "GRACE", 60.0)
    converter.main([str(scratch), "pictures"])
    return [json.loads(line) for line in results.getvalue().splitlines()]


def test_it_converts_the_jobs_on_stdin_and_cleans_up(
    draw: Make,
    source: Path,
    to: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw("cat.png")
    (source / "dog.png").write_bytes(b"no picture")
    lines = [json.dumps(message) + "\n" for message in messages(source, to)]
    ready, cat, dog = run_main(scratch, monkeypatch, *lines)
    assert ready == {"ready": True}
    assert cat["details"]["width"] == 40
    assert "not in a known format" in dog["error"]
    assert names_in(scratch) == []


def test_when_stdin_ends_in_the_middle_of_a_file_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(converter, "GRACE", 0.0)
    folder = tmp_path / "draft"
    folder.mkdir()
    (folder / "half.webp").touch()
    jobs: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    stdin = io.BytesIO(b'{"source": 1}\n')
    read_jobs(stdin, jobs, threading.Event(), folder)
    assert jobs.get() == {"source": 1}
    assert jobs.get() is None
    assert statuses == [1]
    assert not folder.exists()


def test_what_a_library_prints_is_no_result(tmp_path: Path) -> None:
    program = (
        f"import os; from {converter.__package__}.converter import send, take_stdout; "
        "results = take_stdout(); os.write(1, b'noise'); print('noise', flush=True); "
        "send(results, {'ready': True})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert json.loads(done.stdout) == {"ready": True}
    assert done.stderr.count(b"noise") == 2
