"""The program: files in, outputs and a report out."""

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cyclopts
import pytest

from media import app, plan
from media.app import convert_all, main
from media.plan import (
    PICTURE,
    Job,
    Settings,
    make_plan,
)
from media.report import Result
from media.worker import Worker

Make = Callable[..., Path]

# Processes start slowly on a busy machine.
pytestmark = pytest.mark.deadline(60)

JOBS = [Job(PICTURE, Path(name), []) for name in ("a", "b", "c")]
DIED = "the worker process was ended by SIGKILL"


async def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder, hidden ones too."""
    paths = await asyncio.to_thread(lambda: list(folder.rglob("*")))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


async def run(
    stub: Worker,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109 - passed on
    attempts: int = 2,
) -> list[Result]:
    """Convert `JOBS` with one stub worker; return the results."""
    results: list[Result] = []
    await convert_all(
        JOBS,
        lambda: stub,
        results.append,
        workers=1,
        timeout=timeout,
        attempts=attempts,
    )
    return results


# --- Attempts, with stub workers


@pytest.mark.asyncio
async def test_each_file_is_reported_before_the_next_one_begins(
    stub_worker: type[Any],
) -> None:
    log: list[str] = []
    await convert_all(
        JOBS,
        lambda: stub_worker(log=log),
        lambda result: log.append(f"{result.source} done"),
        workers=1,
    )
    assert log == ["start", "a", "a done", "b", "b done", "c", "c done", "close"]


@pytest.mark.asyncio
async def test_a_file_is_attempted_again_in_a_new_process(
    stub_worker: type[Any],
) -> None:
    stub = stub_worker("die")
    results = await run(stub)
    assert [result.error for result in results] == [None, None, None]
    assert stub.log == ["start", "a", "kill", "start", "a", "b", "c", "close"]


@pytest.mark.asyncio
async def test_a_file_that_kills_two_processes_is_reported(
    stub_worker: type[Any],
) -> None:
    stub = stub_worker("die", "die")
    results = await run(stub)
    assert [result.error for result in results] == [DIED, None, None]
    assert stub.log.count("start") == 3


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_file_that_takes_too_long_is_reported(stub_worker: type[Any]) -> None:
    stub = stub_worker("hang", "hang", "hang")
    results = await run(stub, timeout=300, attempts=3)
    assert asyncio.get_running_loop().time() == 900
    assert [result.error for result in results] == [
        "not finished within 300 s",
        None,
        None,
    ]
    assert stub.log.count("kill") == 3


@pytest.mark.asyncio
async def test_cancelled_anywhere_no_worker_is_left(
    stub_worker: type[Any], cancel_everywhere: Callable[..., Any]
) -> None:
    stubs: list[Any] = []

    def new_stub() -> Any:
        stubs.append(stub_worker("die"))
        return stubs[-1]

    def convert() -> Any:
        return convert_all(JOBS, new_stub, lambda _: None, workers=2)

    def check() -> None:
        assert not any(stub.running for stub in stubs)

    assert await cancel_everywhere(convert, check) > 0
    assert len(stubs) > 2


@pytest.mark.parametrize(
    ("given", "expected"), [(2, 2), (None, 3), (9, 5)], ids=["two", "cores", "files"]
)
@pytest.mark.asyncio
async def test_there_are_never_more_workers_than_files(
    draw: Make,
    source: Path,
    to: Path,
    stub_worker: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    given: int | None,
    expected: int,
) -> None:
    for name in "abcde":
        await asyncio.to_thread(draw, f"{name}.png")
    stubs: list[Any] = []

    def new_stub(folder: Path, settings: Settings, modules: list[str]) -> Any:
        assert modules == ["pictures"]
        stubs.append(stub_worker())
        return stubs[-1]

    monkeypatch.setattr(app, "Worker", new_stub)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert await main(source, to=to, workers=given) == 0
    assert len(stubs) == expected
    assert not any(stub.running for stub in stubs)


# --- The whole program, with real processes


@pytest.mark.asyncio
async def test_good_files_are_converted_and_bad_ones_are_named(
    draw: Make,
    play: Make,
    bomb: Path,
    source: Path,
    to: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    cat = await asyncio.to_thread(draw, "holiday/cat.jpg")
    tone = await asyncio.to_thread(play, "talk/tone.ogg")
    await asyncio.to_thread((source / "broken.png").write_bytes, b"no picture")
    await asyncio.to_thread((source / "notes.pdf").touch)
    assert await main(source, to=to, size=40, workers=2) == 1

    stdout, stderr = capsys.readouterr()
    of_cat, of_tone = sorted(stdout.splitlines())
    assert of_cat.startswith(f"{cat}: width=40 height=30 sharpness=")
    assert of_tone.startswith(f"{tone}: seconds=1.0 loudness_before=")
    of_bomb, of_broken = sorted(stderr.splitlines())
    assert of_bomb.startswith(f"{bomb}: 40000 x 25000 pixels are 1000.0 megapixels")
    assert of_broken.startswith(f"{source / 'broken.png'}: ")
    assert caplog.messages[-1] == "2 made, 0 up to date, 2 failed, 1 skipped (1 .pdf)"
    assert await names_in(to) == [
        "holiday",
        "holiday/cat.jpg.40.edges.png",
        "holiday/cat.jpg.40.webp",
        "talk",
        "talk/tone.ogg.-16lufs.ogg",
    ]


@pytest.mark.asyncio
async def test_a_second_run_has_nothing_to_do_and_starts_no_process(
    draw: Make,
    source: Path,
    to: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await asyncio.to_thread(draw, "cat.png")
    assert await main(source, to=to) == 0
    capsys.readouterr()
    monkeypatch.delattr(app, "Worker")
    assert await main(source, to=to) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.asyncio
async def test_results_can_be_read_as_json(
    draw: Make, source: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cat = await asyncio.to_thread(draw, "cat.png")
    assert await main(source, to=to, size=40, json=True) == 0
    [line] = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["file"] == str(cat)
    assert result["status"] == "made"
    assert result["width"] == 40
    assert result["qr_codes"] == []
    assert result["outputs"] == [
        str(to / "cat.png.40.webp"),
        str(to / "cat.png.40.edges.png"),
    ]


@pytest.mark.asyncio
async def test_a_killed_worker_is_replaced_and_its_file_attempted_again(
    gate: Any, draw: Make, source: Path, to: Path
) -> None:
    settings = Settings(size=40)
    plan = await asyncio.to_thread(make_plan, source, to, settings)
    scratch = to / "scratch"
    await asyncio.to_thread(scratch.mkdir, parents=True)
    worker = Worker(scratch, settings, ["pictures"])
    results: list[Result] = []
    async with asyncio.TaskGroup() as group:
        work = group.create_task(
            convert_all(plan.jobs, lambda: worker, results.append, workers=1)
        )
        async with gate(work) as path:
            await asyncio.to_thread(path.unlink)
            await asyncio.to_thread(draw, path.name)
            worker.process.kill()
    assert [result.error for result in results] == [None]
    assert not worker.is_running


@pytest.mark.asyncio
async def test_a_cancelled_run_leaves_no_process_and_no_incomplete_file(
    gate: Any, source: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[Worker] = []

    class KeptWorker(Worker):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            workers.append(self)

    monkeypatch.setattr(app, "Worker", KeptWorker)
    task = asyncio.create_task(main(source, to=to))
    async with gate(task):
        [worker] = workers
        process = worker.process
        # A folder for the run, in it one for the worker, and in it one for the file.
        assert len(await names_in(to)) == 3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert process.returncode is not None
    assert await names_in(to) == []


@pytest.mark.asyncio
async def test_unfinished_files_of_another_run_are_left_alone(
    draw: Make, source: Path, to: Path, stub_worker: type[Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(app, "Worker", lambda *_: stub_worker())
    other = to / ".unfinished-1"
    await asyncio.to_thread(other.mkdir, parents=True)
    await asyncio.to_thread(draw, "cat.png")
    assert await main(source, to=to) == 0
    assert await names_in(to) == [".unfinished-1"]


# --- Options


@pytest.mark.asyncio
async def test_prune_deletes_the_outputs_of_deleted_files(
    draw: Make,
    source: Path,
    to: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    await asyncio.to_thread(draw, "dog.png")
    cat = await asyncio.to_thread(draw, "cat.png")
    assert await main(source, to=to, size=40) == 0
    await asyncio.to_thread(cat.unlink)
    assert await main(source, to=to, size=40) == 0
    assert len(await names_in(to)) == 4
    capsys.readouterr()
    assert await main(source, to=to, size=40, prune=True) == 0
    assert await names_in(to) == ["dog.png.40.edges.png", "dog.png.40.webp"]
    assert capsys.readouterr().out.splitlines() == [
        f"{to / 'cat.png.40.edges.png'}: deleted",
        f"{to / 'cat.png.40.webp'}: deleted",
    ]
    assert caplog.messages[-1].endswith("1 up to date, 0 failed, 0 skipped, 2 deleted")


@pytest.mark.asyncio
async def test_without_vision_only_the_thumbnail_is_made(
    draw: Make, source: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cat = await asyncio.to_thread(draw, "cat.png")
    assert await main(source, to=to, size=40, vision=False) == 0
    assert await names_in(to) == ["cat.png.40.webp"]
    assert capsys.readouterr().out == f"{cat}: width=40 height=30\n"


@pytest.mark.parametrize("wrong", ["source", "to"])
@pytest.mark.asyncio
async def test_a_file_in_place_of_a_folder_is_one_line(
    draw: Make, source: Path, to: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cat = await asyncio.to_thread(draw, "cat.png")
    if wrong == "source":
        status = await main(cat, to=to)
    else:
        status = await main(source, to=cat)
    assert status == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert "cat.png" in stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loudness": 3.0}, "the loudness must be -70 to 0 LUFS, not 3"),
        ({"size": 99_999}, "the size must be 1 to 16383 pixels, not 99999"),
        # The current folder, which contains the source.
        ({"to": Path()}, "the source must not be in the folder for the outputs"),
        ({"prune": True}, "--prune deletes nothing, as there is no file in"),
    ],
)
@pytest.mark.asyncio
async def test_a_bad_option_is_one_line(
    source: Path,
    to: Path,
    current_folder: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    reason: str,
) -> None:
    assert current_folder == source.parent
    assert await main(source, **{"to": to, **options}) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith(reason)
    assert stderr.count("\n") == 1


@pytest.mark.asyncio
async def test_no_name_of_a_file_controls_the_terminal(
    source: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(source / "\x1b[2J\n", to=to) == 1
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert "\x1b" not in stderr


@pytest.mark.asyncio
async def test_a_bar_on_the_terminal_does_not_change_piped_results(
    draw: Make,
    source: Path,
    to: Path,
    stub_worker: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(app, "Worker", lambda *_: stub_worker())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cat = await asyncio.to_thread(draw, "cat.png")
    assert await main(source, to=to) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == f"{cat}: \n"
    assert "files" in stderr
    assert "100%" in stderr


# --- The README

README = Path(__file__).parents[1] / "README.md"


def commands() -> list[str]:
    """Return the commands of the README that convert files."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).splitlines()
    return [line for line in lines if " --to " in line]


@pytest.mark.parametrize("command", commands())
@pytest.mark.asyncio
async def test_the_commands_of_the_readme_work(
    draw: Make,
    play: Make,
    current_folder: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    photo = await asyncio.to_thread(draw, "holiday/cat.jpg")
    sound = await asyncio.to_thread(play, "talk/hello.flac")
    for folder, file in (("photos", photo), ("recordings", sound)):
        place = current_folder / folder / file.parent.name
        await asyncio.to_thread(place.mkdir, parents=True)
        await asyncio.to_thread(shutil.copy, file, place)

    arguments = shlex.split(command.partition("|")[0])
    assert arguments[:2] == ["uv", "run"]
    program = cyclopts.App(result_action="return_value")
    program.default(main)
    function, bound, _ = program.parse_args(arguments[3:])
    assert await function(*bound.args, **bound.kwargs) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 4


def test_the_steps_of_the_readme_add_a_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.read_text(encoding="utf-8").partition("### Make it yours")[2]
    section = section.partition("\n## ")[0]
    found = re.findall(
        r"^   ```python\n(.*?)^   ```", section, re.DOTALL | re.MULTILINE
    )
    module, kinds, test = [textwrap.dedent(block) for block in found]
    package = main.__module__.partition(".")[0]
    words = ModuleType(f"{package}.words")
    words.__package__ = package
    exec(module, vars(words))  # noqa: S102
    monkeypatch.setitem(sys.modules, f"{package}.words", words)

    names = dict(vars(plan))
    exec(kinds, names)  # noqa: S102
    assert names["KINDS"][-1].module == "words"
    exec(test.replace("PACKAGE", package), names)  # noqa: S102
    names["test_the_words_are_counted"](tmp_path)
