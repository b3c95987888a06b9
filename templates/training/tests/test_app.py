"""The program: its commands, its output, and the status that it serves."""

import asyncio
import json
import re
import shlex
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import aiohttp
import cyclopts
import numpy as np
import pytest

import training.app as app
import training.trainer as trainer
from training.checkpoint import Checkpoint, load, save
from training.status import Status, serve
from training.trainer import Settings

Make = Callable[..., Checkpoint]
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def fast_worker(monkeypatch: pytest.MonkeyPatch, thread_worker: Any) -> None:
    """Trains in a thread, which starts faster than a process."""
    monkeypatch.setattr(app, "train", partial(trainer.train, make_worker=thread_worker))


async def run(path: Path, settings: Settings, **options: Any) -> int:
    """Run the program with these settings, and return its exit status."""
    return await app.main(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=settings.seed,
        data=settings.data,
        label=settings.label,
        checkpoint=path,
        **options,
    )


# --- Output


@pytest.mark.asyncio
async def test_every_epoch_is_one_line_and_the_last_line_is_the_test_accuracy(
    path: Path,
    settings: Settings,
    finished: Checkpoint,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await run(path, settings) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    number = r"\d\.\d{4}"
    assert re.fullmatch(
        rf"epoch   1/5  loss {number}  validation loss {number}"
        rf"  validation accuracy {number}",
        lines[0],
    )
    assert lines[5] == (
        f"test accuracy {finished.test_accuracy:.4f}, with the model of epoch "
        f"{finished.best_epoch} of 5, in {path}"
    )


@pytest.mark.asyncio
async def test_epoch_lines_reach_a_file_while_the_bar_is_on_a_terminal(
    path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    file = StringIO()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert await run(path, settings) == 0
    assert file.getvalue().count("epoch ") == 6
    assert "epochs" in terminal.getvalue()
    assert "validation loss" not in terminal.getvalue()


@pytest.mark.asyncio
async def test_with_json_every_line_is_an_object(
    path: Path,
    settings: Settings,
    flowers: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await run(path, settings, json=True) == 0
    assert await run(path, settings, json=True, predict=flowers) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["epoch"] for result in results[:5]] == [1, 2, 3, 4, 5]
    assert results[5].keys() == {"best_epoch", "test_accuracy"}
    assert len(results) == 6 + 90
    assert results[6]["example"] == 1
    assert results[6]["name"] == "daisy"
    assert results[6]["probabilities"].keys() == {"daisy", "rose", "tulip"}


@pytest.mark.asyncio
async def test_a_prediction_is_a_line_with_class_and_probability(
    path: Path,
    settings: Settings,
    finished: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await asyncio.to_thread(save, path, finished)
    file = tmp_path / "new.csv"
    await asyncio.to_thread(file.write_text, "length,width\n3,2\n")
    assert await run(path, settings, predict=file) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"example 1: tulip \(probability 0\.\d{4}\)\n", out)
    assert err == ""


@pytest.mark.asyncio
async def test_a_second_run_continues_and_reports_only_its_own_epochs(
    path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(path, replace(settings, epochs=3)) == 0
    capsys.readouterr()
    assert await run(path, settings) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines[:-1]] == ["epoch   4", "epoch   5"]
    assert await run(path, settings) == 0
    assert capsys.readouterr().out.splitlines() == lines[-1:]


@pytest.mark.asyncio
async def test_patience_ends_a_run_early(
    path: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    lines = ["x,label"]
    for label in "ab" * 50:
        lines.append(f"{random.random()},{label}")
    file = tmp_path / "noise.csv"
    await asyncio.to_thread(file.write_text, "\n".join(lines))
    noise = replace(settings, data=file, label="label", epochs=1000)
    assert await run(path, noise, patience=2) == 0
    saved = await asyncio.to_thread(load, path)
    assert len(saved.history) == saved.best_epoch + 2
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"epoch {saved.best_epoch} of {len(saved.history)}" in last


# --- Failures


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 7}, r"is of a training with --seed 0 --batch-size 8"),
        ({"batch_size": 9}, r"is of a training with --seed 0 --batch-size 8"),
        ({"epochs": 4}, r"has 5 epochs, more than --epochs 4"),
        ({"data": None}, r"is of a training with other data"),
        ({"label": "colour"}, r"has no column 'colour': see --label"),
    ],
    ids=["seed", "batch size", "epochs", "data", "label"],
)
@pytest.mark.asyncio
async def test_settings_that_do_not_fit_the_checkpoint_are_refused(
    path: Path,
    settings: Settings,
    finished: Checkpoint,
    options: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await asyncio.to_thread(save, path, finished)
    before = await asyncio.to_thread(path.read_bytes)
    assert await run(path, replace(settings, **options)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f".*{message}\n", err)
    assert await asyncio.to_thread(path.read_bytes) == before


@pytest.mark.asyncio
async def test_a_failure_is_one_line(
    path: Path, failing_args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert failing_args == ["--checkpoint", str(path)]
    assert await app.main(checkpoint=path) == 1
    assert await app.main(checkpoint=path, predict=path) == 1
    await asyncio.to_thread(path.unlink)
    assert await app.main(checkpoint=path, predict=path) == 1
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert await app.main(checkpoint=path, port=other.getsockname()[1]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"(.* cannot be used as a checkpoint: it is damaged, .*\n){2}"
        r".* No such file .*\n"
        r".* address already in use\n",
        err,
    )


@pytest.mark.asyncio
async def test_a_reader_that_leaves_is_not_reported_as_a_failure(
    path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def print_to_a_closed_pipe(*_results: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(app, "print_epoch", print_to_a_closed_pipe)
    with pytest.raises(BrokenPipeError):
        await run(path, settings)
    assert capsys.readouterr().err == ""
    saved = await asyncio.to_thread(load, path)
    assert len(saved.history) == 1


# --- Status


@pytest.mark.asyncio
async def test_the_status_shows_the_last_epoch(
    make_checkpoint: Make, session: aiohttp.ClientSession
) -> None:
    status = Status(epochs=9)
    async with serve(status, 0) as url:
        async with session.get(f"{url}/healthz") as response:
            assert await response.json() == {"state": "starting"}
        status.update(make_checkpoint([]))
        async with session.get(f"{url}/status") as response:
            assert (await response.json())["validation_loss"] is None
        status.update(make_checkpoint([0.5, 1.0]))
        async with session.get(f"{url}/status") as response:
            assert await response.json() == {
                "state": "training",
                "epochs": 9,
                "epoch": 2,
                "best_epoch": 1,
                "training_loss": 0.5,
                "validation_loss": 1.0,
                "validation_accuracy": 0.75,
            }
        async with session.get(f"{url}/") as response:
            assert response.status == 404
        async with session.post(f"{url}/status") as response:
            assert response.status == 405
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get(f"{url}/status")


@pytest.mark.asyncio
async def test_the_status_is_served_while_a_training_runs_and_stops(
    path: Path,
    settings: Settings,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    trained = asyncio.Event()
    print_epoch = app.print_epoch

    def print_and_report(checkpoint: Checkpoint, epochs: int, json: bool) -> None:
        print_epoch(checkpoint, epochs, json)
        trained.set()

    monkeypatch.setattr(app, "print_epoch", print_and_report)
    task = asyncio.create_task(run(path, replace(settings, epochs=1000)))
    await trained.wait()
    url = caplog.messages[0].removeprefix("status: ")
    async with session.get(url) as response:
        status = await response.json()
    assert status["state"] == "training"
    assert status["epoch"] >= 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    saved = await asyncio.to_thread(load, path)
    assert len(saved.history) >= status["epoch"]
    assert f"{len(saved.history)} of 1000 epochs are in {path}" in caplog.messages


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has more than one loopback address"
)
@pytest.mark.asyncio
async def test_other_addresses_than_the_loopback_are_not_served() -> None:
    async with serve(Status(epochs=1), 0) as url:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", int(url.rpartition(":")[2]))


@pytest.mark.asyncio
async def test_idle_clients_do_not_delay_others_or_the_end() -> None:
    async with serve(Status(epochs=1), 0) as url:
        host, port = url.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
        idle[0][1].write(b"GET /status HTTP/1.1\r\n")
        async with aiohttp.request("GET", f"{url}/healthz") as response:
            assert response.status == 200
    for reader, writer in idle:
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


# --- The README


def readme_of_the_program() -> str:
    """Return the part of the README that describes this program."""
    text = README.read_text(encoding="utf-8")
    return text.rpartition("## The program\n")[2].partition("### Make it yours")[0]


@pytest.fixture
def folder_with_data(
    tmp_path: Path, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder is one with the files that the README's commands read."""
    monkeypatch.chdir(tmp_path)
    text = flowers.read_text(encoding="utf-8")
    Path("flowers.csv").write_text(text, encoding="utf-8")
    Path("new.csv").write_text("length,width\n1,4\n3,2\n", encoding="utf-8")


@pytest.mark.deadline(60)
@pytest.mark.usefixtures("folder_with_data")
@pytest.mark.asyncio
async def test_the_commands_of_the_readme_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command_line = cyclopts.App(print_error=False, exit_on_error=False)
    command_line.default(app.main)
    text = await asyncio.to_thread(readme_of_the_program)
    commands = re.findall(r"^uv run (\S+)(.*)$", text, re.MULTILINE)
    assert len(commands) >= 7
    for program, command in commands:
        arguments = shlex.split(command, comments=True)
        if program == "python":
            await asyncio.to_thread(exec, arguments[1], {})
            continue
        # Two epochs instead of 20 or more: the test is about the options.
        for number, argument in enumerate(arguments):
            if argument == "--epochs":
                arguments[number + 1] = "2"
        if "--epochs" not in arguments:
            arguments += ["--epochs", "2"]
        main, bound, _ = command_line.parse_args(arguments)
        assert await main(*bound.args, **bound.kwargs) == 0, command
    [script] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    capsys.readouterr()
    await asyncio.to_thread(exec, script, {})
    digits = [int(line) for line in capsys.readouterr().out.split()]
    assert len(digits) == 20


def test_the_readme_describes_every_array_of_the_format(
    path: Path, finished: Checkpoint
) -> None:
    save(path, finished)
    text = readme_of_the_program()
    with np.load(path) as arrays:
        for name in arrays:
            assert f"`{re.sub('[0-9]+$', '', name)}" in text
