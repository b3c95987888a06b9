"""What the program promises, on real pictures and sounds, and with real worker
processes.
"""

import asyncio
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from PIL import Image, ImageCms
from pytest_mock import MockerFixture

from media.app import (
    KINDS,
    convert,
    main,
    picture,
    plan,
    set_up,
    sound,
    work,
    worker,
)

Make = Callable[..., Path]
Start = Callable[[], AbstractAsyncContextManager[Executor]]


def made_of(path: Path, size: int = 40) -> tuple[Image.Image, Image.Image]:
    """Return the thumbnail and the edge map that `picture` makes."""
    drafts = [path.with_name("thumbnail.webp"), path.with_name("edges.png")]
    picture(path, drafts, size)
    with Image.open(drafts[0]) as thumbnail, Image.open(drafts[1]) as edges:
        return thumbnail.copy(), edges.copy()


def colour(image: Image.Image, x: int, y: int) -> str:
    """Return the pure colour that a pixel is near to, if any."""
    names = {(255, 0, 0): "red", (0, 0, 255): "blue"}
    pixel = np.asarray(image.convert("RGB"), int)[y, x]
    return next(
        (name for pure, name in names.items() if abs(pixel - pure).max() < 15),
        str(pixel),
    )


def levelled(path: Path) -> tuple[Any, Any]:
    """Return what `sound` makes: the samples, and what soundfile knows about the
    file.
    """
    draft = path.with_name(f"levelled{path.suffix}")
    sound(path, [draft], 0)
    return soundfile.read(draft)[0], soundfile.info(draft)


def everything_in(folder: Path) -> list[str]:
    """Return the names of all files and folders, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Pictures


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_a_picture_shrinks_into_the_box_and_keeps_shape_and_colours(
    draw: Make, suffix: str
) -> None:
    thumbnail, _ = made_of(draw(f"cat.{suffix}", size=(800, 600)))
    assert thumbnail.size == (40, 30)
    assert (colour(thumbnail, 3, 15), colour(thumbnail, 36, 15)) == ("red", "blue")


def test_a_small_picture_does_not_grow(draw: Make) -> None:
    assert made_of(draw("cat.png"), 512)[0].size == (80, 60)


def test_a_picture_stands_upright_and_its_metadata_are_gone(draw: Make) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turn it right; the maker
    thumbnail, edges = made_of(draw("cat.jpg", exif=exif, comment=b"at home"))
    assert thumbnail.size == edges.size == (30, 40)
    assert (colour(thumbnail, 15, 3), colour(thumbnail, 15, 36)) == ("red", "blue")
    for image in (thumbnail, edges):
        assert not image.getexif()
        assert not {"exif", "xmp", "comment", "icc_profile"} & set(image.info)


def test_the_colour_profile_is_kept_where_it_still_fits(draw: Make) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (
        made_of(draw("cat.png", icc_profile=profile))[0].info["icc_profile"] == profile
    )
    assert (
        made_of(draw("few.png", "P", icc_profile=profile))[0].info["icc_profile"]
        == profile
    )
    assert (
        "icc_profile"
        not in made_of(draw("cat.jpg", "CMYK", icc_profile=profile))[0].info
    )


def test_a_transparent_picture_stays_transparent(source: Path) -> None:
    Image.new("LA", (80, 60), (200, 0)).save(source / "ghost.png")
    assert made_of(source / "ghost.png")[0].getchannel("A").getextrema() == (0, 0)


def test_sixteen_bits_of_grey_keep_their_greys(source: Path) -> None:
    Image.fromarray(np.full((60, 80), 0x8000, np.uint16)).save(source / "depth.png")
    assert np.allclose(np.asarray(made_of(source / "depth.png")[0]), 128, atol=3)


def test_of_an_animation_the_first_frame_counts(source: Path) -> None:
    frames = [Image.new("RGB", (80, 60), name) for name in ("red", "blue")]
    frames[0].save(source / "cat.gif", save_all=True, append_images=frames[1:])
    assert colour(made_of(source / "cat.gif")[0], 20, 15) == "red"


def test_edges_are_bright_where_the_picture_changes_and_black_elsewhere(
    source: Path,
) -> None:
    image = Image.new("L", (80, 60))
    image.paste(255, (40, 30, 80, 60))
    image.save(source / "corner.png")
    edges = np.asarray(made_of(source / "corner.png", 80)[1])
    assert edges.shape == (60, 80)
    assert (edges[35:, 39:41] > 200).all()  # from the left to the right
    assert (edges[29:31, 45:] > 200).all()  # from above to below
    assert edges[30, 40] == 255  # both
    for flat in (edges[:25], edges[:, :35], edges[35:, 45:]):
        assert not flat.any()


def test_a_picture_of_one_pixel_has_no_edges(draw: Make) -> None:
    assert made_of(draw("dot.png", size=(1, 1)))[1].getextrema() == (0, 0)


# Sounds


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("wav", "PCM_16"),
        ("wav", "FLOAT"),
        ("flac", "PCM_24"),
        ("ogg", "VORBIS"),
        ("ogg", "OPUS"),
    ],
)
@pytest.mark.parametrize("peak", [0.01, 0.25, 1.0])
def test_every_sound_comes_out_equally_loud_and_else_unchanged(
    play: Make, suffix: str, kind: str, peak: float
) -> None:
    path = play(f"tone.{suffix}", peak, subtype=kind)
    samples, info = levelled(path)
    decibels = 20 * np.log10(np.abs(samples).max())
    assert decibels == pytest.approx(-1.0, abs=0.6 if suffix == "ogg" else 0.05)
    assert (info.samplerate, info.channels, info.subtype) == (48_000, 2, kind)
    assert samples.shape == (4_800, 2)


def test_a_sound_longer_than_a_block_is_levelled_by_its_loudest_block(
    play: Make,
) -> None:
    path = play("tone.wav", frames=150_000)
    samples, rate = soundfile.read(path)
    samples[140_000:] *= 2
    soundfile.write(path, samples, rate)
    result, _ = levelled(path)
    assert len(result) == 150_000
    assert np.abs(result).max() == pytest.approx(10 ** (-1 / 20), abs=0.001)
    assert np.abs(result[:140_000]).max() == pytest.approx(
        10 ** (-1 / 20) / 2, abs=0.001
    )


def test_silence_stays_silent(play: Make) -> None:
    assert not levelled(play("silence.wav", 0.0))[0].any()


@pytest.mark.parametrize(
    "samples", [[], [0.0, np.nan], [np.inf, 0.5]], ids=["none", "nan", "inf"]
)
def test_what_is_no_sound_is_an_error(source: Path, samples: list[float]) -> None:
    soundfile.write(source / "odd.wav", np.array(samples), 8_000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not a whole sound"):
        levelled(source / "odd.wav")


@pytest.mark.parametrize("missing", [10, 10_000])
def test_a_sound_that_the_disk_has_no_room_for_is_an_error(
    play: Make, missing: int
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows cannot limit the size of files")
    import resource

    path = play("tone.flac", frames=48_000)
    levelled(path)
    room = path.with_name("levelled.flac").stat().st_size - missing
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises((ValueError, soundfile.LibsndfileError)):
            sound(path, [path.with_name("levelled.flac")], 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The plan


def test_outputs_get_the_folders_of_their_sources(
    draw: Make, play: Make, to: Path
) -> None:
    cat, tone = draw("holiday/day 1/cat.JPG"), play("tone.wav")
    jobs, errors = plan(cat.parents[2], to, 99)
    place = to / "holiday" / "day 1"
    assert errors == []
    assert jobs == [
        (cat, [place / "cat.JPG.99.webp", place / "cat.JPG.99.edges.png"], 99),
        (tone, [to / "tone.wav"], 99),
    ]


def test_hidden_and_other_files_and_the_outputs_are_no_sources(
    draw: Make, source: Path
) -> None:
    for name in (".cat.png", ".hidden/cat.png", "made/cat.png"):
        draw(name)
    (source / "notes.txt").write_text("not for us")
    assert plan(source, source / "made", 40) == ([], [])


def test_outputs_around_the_source_are_refused(source: Path) -> None:
    for to in (source, source.parent):
        with pytest.raises(ValueError, match="must not be in"):
            plan(source, to, 40)


def test_a_folder_that_cannot_be_read_is_told(source: Path, to: Path) -> None:
    jobs, errors = plan(source / "nowhere", to, 40)
    assert (jobs, [Path(error.filename).name for error in errors]) == ([], ["nowhere"])


def test_what_is_finished_is_done_again_only_if_something_has_changed(
    draw: Make, source: Path, to: Path
) -> None:
    cat = draw("cat.png")
    os.utime(cat, (1_000, 1_000))
    [job] = plan(source, to, 40)[0]
    assert convert(job) == (True, "40 x 30 pixels")
    assert plan(source, to, 40)[0] == []
    assert len(plan(source, to, 41)[0]) == 1  # another size
    os.utime(cat, ns=(10**12 + 10**8 * 21, 10**12 + 10**8 * 21))  # 2.1 s later
    assert plan(source, to, 40)[0] == [job]
    os.utime(cat, (1, 1))  # another file in its place, and be it older
    assert plan(source, to, 40)[0] == [job]
    assert convert(job)[0]
    job[1][1].unlink()  # one output is missing
    assert plan(source, to, 40)[0] == [job]


@pytest.mark.parametrize(
    "unit", [10**7, 10**9, 2 * 10**9], ids=["exFAT", "HFS+", "FAT"]
)
def test_a_file_system_that_rounds_times_does_not_make_a_file_look_new(
    draw: Make, source: Path, to: Path, unit: int
) -> None:
    cat, time = draw("cat.png"), 1_699_999_999_987_654_321
    os.utime(cat, ns=(time, time))
    [job] = plan(source, to, 40)[0]
    assert convert(job)[0]
    for stored in (time // unit * unit, -(-time // unit) * unit):  # Windows rounds up
        for output in job[1]:
            os.utime(output, ns=(stored, stored))
        assert plan(source, to, 40)[0] == []


def test_a_change_soon_after_is_seen_where_times_are_exact(
    draw: Make, source: Path, to: Path
) -> None:
    cat, time = draw("cat.png"), 1_699_999_999_987_654_321
    os.utime(cat, ns=(time, time))
    [job] = plan(source, to, 40)[0]
    assert convert(job)[0]
    os.utime(cat, ns=(time + 2 * 10**7, time + 2 * 10**7))
    assert plan(source, to, 40)[0] == [job]


# One file


def test_a_broken_file_makes_no_output_and_leaves_the_old_one(
    draw: Make, play: Make, source: Path, to: Path, mocker: MockerFixture
) -> None:
    draw("cat.jpg", size=(400, 300))
    play("tone.flac", frames=48_000)
    jobs, _ = plan(source, to, 40)
    assert all(convert(job)[0] for job in jobs)
    before = {path: path.read_bytes() for path in to.iterdir()}
    scratch = to.parent / "scratch"
    scratch.mkdir()
    mocker.patch.object(tempfile, "tempdir", str(scratch))
    for path, _, _ in jobs:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert [convert(job)[0] for job in jobs] == [False, False]
    assert {path: path.read_bytes() for path in to.iterdir()} == before
    assert everything_in(scratch) == []


def test_a_file_of_two_outputs_makes_none_if_the_second_fails(
    draw: Make, source: Path, to: Path, mocker: MockerFixture
) -> None:
    def half(source: Path, drafts: list[Path], size: int) -> str:
        drafts[0].write_text("done")
        raise RuntimeError("no more")

    mocker.patch.dict(KINDS, {".png": (half, [".one", ".two"])})
    draw("cat.png")
    assert convert(plan(source, to, 40)[0][0]) == (False, "RuntimeError: no more")
    assert not to.exists()


def test_a_file_that_has_gone_in_the_meantime_is_told(
    draw: Make, source: Path, to: Path
) -> None:
    cat = draw("cat.png")
    [job] = plan(source, to, 40)[0]
    cat.unlink()
    done, text = convert(job)
    assert not done
    assert text.startswith("FileNotFoundError")


# One worker


JOBS = [(Path(name), list[Path](), 40) for name in "abc"]
CRASH = BrokenProcessPool("it died")


@pytest.mark.asyncio
async def test_a_broken_file_does_not_stop_the_others(
    draw: Make, source: Path, to: Path, in_a_thread: Start
) -> None:
    good, bad = draw("a.png"), source / "b.png"
    bad.write_bytes(b"no picture")
    jobs, _ = await asyncio.to_thread(plan, source, to, 40)
    seen: list[tuple[Path, bool]] = []
    await work(
        iter([*jobs, jobs[0]]), lambda *result: seen.append(result[:2]), in_a_thread, 5
    )
    assert seen == [(good, True), (bad, False), (good, True)]


@pytest.mark.asyncio
async def test_each_file_is_reported_before_the_next_begins(
    process: Callable[..., Any],
) -> None:
    stub, asked = process(), list[int]()
    await work(iter(JOBS), lambda *_: asked.append(stub.asked), stub.start, 5)
    assert asked == [1, 2, 3]


@pytest.mark.asyncio
async def test_a_file_whose_process_dies_gets_a_new_one(
    process: Callable[..., Any],
) -> None:
    stub, seen = process(CRASH), list[tuple[Any, ...]]()
    await work(iter(JOBS), lambda *result: seen.append(result), stub.start, 5)
    assert seen == [(Path(name), True, "done") for name in "abc"]
    assert (stub.started, stub.ended, stub.most, stub.asked) == (2, 2, 1, 4)


@pytest.mark.asyncio
async def test_a_file_that_kills_two_processes_is_reported(
    process: Callable[..., Any],
) -> None:
    stub, seen = process(CRASH, CRASH), list[tuple[Any, ...]]()
    await work(iter(JOBS), lambda *result: seen.append(result), stub.start, 5)
    assert seen[0] == (Path("a"), False, "it died")
    assert [done for _, done, _ in seen[1:]] == [True, True]
    assert (stub.started, stub.ended, stub.asked) == (3, 3, 4)


@pytest.mark.virtual_clock
@pytest.mark.asyncio
async def test_a_file_that_takes_too_long_is_reported(
    process: Callable[..., Any],
) -> None:
    stub, seen = process("hang", "hang"), list[tuple[Any, ...]]()
    await work(iter(JOBS), lambda *result: seen.append(result), stub.start, 300)
    assert asyncio.get_running_loop().time() == 600
    assert [(done, text) for _, done, text in seen] == [
        (False, "not done in 300 s"),
        (True, "done"),
        (True, "done"),
    ]
    assert stub.started == stub.ended == 3


@pytest.mark.asyncio
async def test_cancelled_anywhere_it_ends_its_process(
    process: Callable[..., Any], cancel_everywhere: Callable[..., Any]
) -> None:
    stub = process()

    def run() -> Any:
        stub.script = [CRASH]
        return work(iter(JOBS), lambda *_: None, stub.start, 5)

    def check() -> None:
        assert stub.started == stub.ended

    assert await cancel_everywhere(run, check) > 5


# The process itself


def test_a_worker_ends_and_cleans_up_when_its_program_has_gone(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    gone, ended = threading.Event(), threading.Event()
    leave = mocker.patch.object(os, "_exit", side_effect=lambda _: ended.set())
    ignore = mocker.patch.object(signal, "signal", autospec=True)
    program = mocker.patch.object(
        sys.modules[set_up.__module__], "parent_process", autospec=True
    )
    program.return_value.join.side_effect = (
        gone.wait
    )  # as for a real one: until it has ended
    mocker.patch.object(tempfile, "tempdir", None)
    folder = tmp_path / "worker"
    folder.mkdir()
    set_up(str(folder))
    ignore.assert_called_once_with(signal.SIGINT, signal.SIG_IGN)
    Path(tempfile.mkdtemp(), "half.png").touch()
    assert [path.name for path in folder.rglob("*.png")] == ["half.png"]
    gone.set()
    assert ended.wait(5)
    leave.assert_called_once_with(1)
    assert everything_in(tmp_path) == []


HOLD = """
import pathlib, re, tempfile
pathlib.Path(tempfile.gettempdir(), "draft").touch()
pathlib.Path({opens!r}).write_text("now")
re.match(r"(a+)+$", "a" * 40 + "b")  # takes years, and Python's lock
"""


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_no_ctrl_c_ends_a_worker_but_its_program_does_whatever_it_runs(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has neither named pipes nor a Ctrl-C for one process")
    os.mkfifo(opens := tmp_path / "opens")
    submit = ProcessPoolExecutor.submit

    def interrupt(
        *args: Any,
    ) -> "Future[Any]":  # in its first moment, when it is not set up
        future = submit(*args)
        [child] = active_children()
        assert child.pid
        os.kill(child.pid, signal.SIGINT)
        return future

    mocker.patch.object(
        ProcessPoolExecutor, "submit", autospec=True, side_effect=interrupt
    )
    async with worker(tmp_path) as pool:
        pool.submit(exec, HOLD.format(opens=str(opens)))
        assert await asyncio.to_thread(opens.read_text) == "now"
    assert active_children() == []
    assert everything_in(tmp_path) == ["opens"]


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.asyncio
async def test_a_worker_has_begun_when_it_is_up_or_dead(
    tmp_path: Path, mocker: MockerFixture, dies: bool
) -> None:
    app = sys.modules[worker.__module__]
    pools = mocker.patch.object(app, "ProcessPoolExecutor", autospec=True)
    children = mocker.patch.object(app, "active_children", autospec=True)
    others, ours = (
        create_autospec(BaseProcess, instance=True, pid=pid) for pid in (1, 2)
    )
    children.return_value = [others, ours]
    submit = pools.return_value.__enter__.return_value.submit
    submit.return_value = up = Future[int]()
    async with AsyncExitStack() as stack:
        begun = asyncio.create_task(stack.enter_async_context(worker(tmp_path)))
        assert await asyncio.wait([begun], timeout=0.02) == (
            set(),
            {begun},
        )  # it imports
        up.set_exception(CRASH) if dies else up.set_result(2)
        await begun
        submit.assert_called_once_with(os.getpid)
    assert (others.kill.call_count, ours.kill.call_count) == (0, 0 if dies else 1)
    assert everything_in(tmp_path) == []


@pytest.mark.asyncio
async def test_cancelled_while_it_starts_or_ends_a_worker_is_ended(
    tmp_path: Path, mocker: MockerFixture, cancel_everywhere: Callable[..., Any]
) -> None:
    end = create_autospec(ExitStack, instance=True)
    begin = mocker.patch.object(sys.modules[worker.__module__], "begin", autospec=True)
    begin.return_value = create_autospec(Executor, instance=True), end

    async def run() -> None:
        async with worker(tmp_path):
            await asyncio.sleep(0)

    assert await cancel_everywhere(run) >= 3
    await asyncio.get_running_loop().shutdown_default_executor()
    assert end.close.call_count == begin.call_count > 3


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_a_killed_worker_is_replaced_and_its_file_tried_again(
    draw: Make, gate: Any, source: Path, to: Path
) -> None:
    scratch, seen = to / "scratch", list[tuple[Any, ...]]()
    scratch.mkdir(parents=True)
    jobs, _ = await asyncio.to_thread(plan, source, to, 40)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(
            work(
                iter(jobs),
                lambda *result: seen.append(result),
                lambda: worker(scratch),
                60,
            )
        )
        async with gate(run) as path:
            path.unlink()
            draw(path.name)
            [child] = active_children()
            child.kill()
    assert seen == [(path, True, "40 x 30 pixels")]
    assert active_children() == []


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_a_cancelled_run_leaves_no_worker_and_no_half_file(
    gate: Any, source: Path, to: Path
) -> None:
    run = asyncio.create_task(main(source, to=to))
    async with gate(run):
        assert len(active_children()) == 1
        assert (
            len(everything_in(to)) == 3
        )  # a folder for the run, the worker and the picture
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert active_children() == []
    assert everything_in(to) == []


# The whole program


@pytest.mark.deadline(30)
@pytest.mark.asyncio
async def test_the_good_files_are_converted_and_the_bad_ones_named(
    draw: Make,
    play: Make,
    bomb: Path,
    source: Path,
    to: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cat, tone = draw("holiday/cat.jpg"), play("talk/tone.ogg")
    (source / "broken.png").write_bytes(b"no picture")
    assert await main(source, to=to, size=40, workers=2) == 1
    told = capsys.readouterr()
    assert sorted(told.out.splitlines())[0] == f"{cat}: 40 x 30 pixels"
    assert sorted(told.out.splitlines())[1].startswith(f"{tone}: +")
    refused, broken = sorted(told.err.splitlines())
    assert refused.startswith(f"{bomb}: DecompressionBombWarning")
    assert broken.startswith(f"{source / 'broken.png'}: UnidentifiedImageError")
    names = ["holiday/cat.jpg.40.edges.png", "holiday/cat.jpg.40.webp", "talk/tone.ogg"]
    assert everything_in(to) == sorted(["holiday", "talk", *names])


@pytest.mark.asyncio
async def test_with_nothing_left_to_do_no_process_starts(
    draw: Make, source: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw("cat.png")
    [job], _ = await asyncio.to_thread(plan, source, to, 512)
    assert (await asyncio.to_thread(convert, job))[0]
    assert await main(source, to=to) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("given", "workers"), [(2, 2), (None, 3), (9, 5)])
@pytest.mark.asyncio
async def test_there_are_as_many_workers_as_asked_for_or_cores_but_not_more_than_files(
    draw: Make,
    source: Path,
    to: Path,
    process: Callable[..., Any],
    mocker: MockerFixture,
    given: int | None,
    workers: int,
) -> None:
    stub = process()
    start = mocker.patch.object(sys.modules[main.__module__], "worker", autospec=True)
    start.side_effect = lambda _: stub.start()
    mocker.patch.object(os, "cpu_count", autospec=True, return_value=3)
    for name in "abcde":
        draw(f"{name}.png")
    assert await main(source, to=to, workers=given) == 0
    assert (stub.asked, stub.most, stub.ended) == (5, workers, workers)


@pytest.mark.asyncio
async def test_a_bar_on_the_terminal_leaves_piped_results_alone(
    draw: Make,
    source: Path,
    to: Path,
    process: Callable[..., Any],
    mocker: MockerFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = mocker.patch.object(sys.modules[main.__module__], "worker", autospec=True)
    start.return_value = process().start()
    mocker.patch.object(sys.stderr, "isatty", autospec=True, return_value=True)
    cat = draw("cat.png")
    assert await main(source, to=to) == 0
    told = capsys.readouterr()
    assert told.out == f"{cat}: done\n"
    assert "files" in told.err
    assert "100%" in told.err


@pytest.mark.asyncio
async def test_the_unfinished_files_of_another_run_are_left_alone(
    draw: Make,
    source: Path,
    to: Path,
    process: Callable[..., Any],
    mocker: MockerFixture,
) -> None:
    start = mocker.patch.object(sys.modules[main.__module__], "worker", autospec=True)
    start.return_value = process().start()
    other = (
        to / f".unfinished-{os.getpid()}"
    )  # in a container every run has the same number
    other.mkdir(parents=True)
    draw("cat.png")
    assert await main(source, to=to) == 0
    assert everything_in(to) == [other.name]


@pytest.mark.parametrize("wrong", ["source", "to"])
@pytest.mark.asyncio
async def test_a_wrong_folder_is_told_in_one_line(
    draw: Make, source: Path, to: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cat = draw("cat.png")
    assert (
        await main(
            cat if wrong == "source" else source, to=to if wrong == "source" else cat
        )
        == 1
    )
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)
    assert "cat.png" in told.err


@pytest.mark.asyncio
async def test_outputs_among_the_sources_are_refused_in_one_line(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(source, to=source) == 1
    told = capsys.readouterr()
    assert (told.out, len(told.err.splitlines())) == ("", 1)
    assert everything_in(source) == []


@pytest.mark.asyncio
async def test_no_name_of_a_file_sends_commands_to_the_terminal(
    source: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await main(source / "\x1b[2J\n", to=to) == 1
    told = capsys.readouterr().err
    assert (told.count("\n"), told.count("\x1b")) == (1, 0)
    assert "?[2J?: No such file" in told
