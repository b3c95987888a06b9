"""The plan: which files there are, and what is to be done with them."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media.plan import (
    PICTURE,
    SOUND,
    Job,
    Plan,
    Problem,
    Settings,
    delete_leftovers,
    is_up_to_date,
    kind_of,
    make_plan,
    name_of_source,
    outputs_for,
)

Make = Callable[..., Path]

SETTINGS = Settings(size=40)


def make_outputs(job: Job) -> None:
    """Make empty outputs that have the time of the source, as a worker sets it."""
    time = job.source.stat().st_mtime_ns
    for output in job.outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
        os.utime(output, ns=(time, time))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- Files and outputs


def test_outputs_have_the_folders_of_their_sources(
    draw: Make, play: Make, source: Path, to: Path
) -> None:
    cat = draw("holiday/day 1/cat.JPG", format="jpeg")
    tone = play("tone.wav")
    plan = make_plan(source, to, SETTINGS)
    place = to / "holiday" / "day 1"
    assert plan.problems == []
    assert plan.jobs == [
        Job(SOUND, tone, [to / "tone.wav.-16lufs.wav"]),
        Job(PICTURE, cat, [place / "cat.JPG.40.webp", place / "cat.JPG.40.edges.png"]),
    ]


def test_without_vision_there_are_no_edges(to: Path) -> None:
    settings = Settings(size=40, vision=False)
    outputs = outputs_for(Path("cat.png"), to, PICTURE, settings)
    assert outputs == [to / "cat.png.40.webp"]


@pytest.mark.parametrize(
    "name",
    [
        "a.avif",
        "a.bmp",
        "a.gif",
        "a.heic",
        "a.heif",
        "a.jpeg",
        "a.JPG",
        "a.png",
        "a.tif",
        "a.tiff",
        "a.webp",
    ],
)
def test_pictures_are_known_by_their_suffix(name: str) -> None:
    assert kind_of(Path(name)) is PICTURE


@pytest.mark.parametrize(
    "name", ["a.aif", "a.aiff", "a.flac", "a.mp3", "a.oga", "a.ogg", "a.opus", "a.WAV"]
)
def test_sounds_are_known_by_their_suffix(name: str) -> None:
    assert kind_of(Path(name)) is SOUND


def test_files_with_other_suffixes_are_counted(source: Path, to: Path) -> None:
    for name in ("a.pdf", "b.PDF", "c.mov", "README"):
        (source / name).touch()
    plan = make_plan(source, to, SETTINGS)
    assert plan.jobs == []
    assert plan.skipped == {".pdf": 2, ".mov": 1, "no suffix": 1}


def test_hidden_files_and_the_outputs_are_no_sources(draw: Make, source: Path) -> None:
    for name in (".cat.png", ".hidden/cat.png", "made/cat.png"):
        draw(name)
    assert make_plan(source, source / "made", SETTINGS) == Plan()


def test_a_source_in_the_folder_for_the_outputs_is_refused(source: Path) -> None:
    for to in (source, source.parent):
        with pytest.raises(ValueError, match="must not be in"):
            make_plan(source, to, SETTINGS)


def test_a_source_that_does_not_exist_is_an_error(source: Path, to: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make_plan(source / "nowhere", to, SETTINGS)


def test_a_subfolder_that_cannot_be_read_is_a_problem(
    draw: Make, source: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cat = draw("cat.png")
    folder = draw("secret/dog.png").parent
    scandir = os.scandir

    def refuse_secret(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_secret)
    plan = make_plan(source, to, SETTINGS)
    assert [job.source for job in plan.jobs] == [cat]
    assert plan.problems == [Problem(folder, "Permission denied")]


@pytest.mark.skipif(sys.platform == "win32", reason="names are shorter there")
def test_a_name_too_long_for_an_output_does_not_stop_the_others(
    draw: Make, source: Path, to: Path
) -> None:
    good = draw("z.png")
    bad = draw("猫" * 83 + ".png")
    plan = make_plan(source, to, SETTINGS)
    make_outputs(Job(PICTURE, good, outputs_for(good, to, PICTURE, SETTINGS)))
    # The outputs exist from now on, so their names are looked up.
    plan = make_plan(source, to, SETTINGS)
    assert plan.up_to_date == 1
    assert [problem.path for problem in plan.problems] == [bad]
    assert plan.problems[0].reason == "File name too long"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"size": 0}, "1 to 16383 pixels"),
        ({"size": 20_000}, "1 to 16383 pixels"),
        ({"loudness": 1.0}, "-70 to 0 LUFS"),
        ({"loudness": math.nan}, "-70 to 0 LUFS"),
        ({"max_megapixels": 0.0}, "must be positive"),
        ({"max_megapixels": math.nan}, "must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    options: dict[str, float], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings(**options)  # type: ignore[arg-type]


# --- What is up to date


def test_only_new_and_changed_files_are_converted(
    draw: Make, source: Path, to: Path
) -> None:
    cat = draw("cat.png")
    os.utime(cat, (1_000, 1_000))
    [job] = make_plan(source, to, SETTINGS).jobs
    make_outputs(job)
    plan = make_plan(source, to, SETTINGS)
    assert (plan.jobs, plan.up_to_date) == ([], 1)

    os.utime(cat, (1_003, 1_003))
    assert make_plan(source, to, SETTINGS).jobs == [job]
    os.utime(cat, (1, 1))  # replaced by an older file
    assert make_plan(source, to, SETTINGS).jobs == [job]


def test_other_settings_make_other_outputs(draw: Make, source: Path, to: Path) -> None:
    draw("cat.png")
    [job] = make_plan(source, to, SETTINGS).jobs
    make_outputs(job)
    assert len(make_plan(source, to, Settings(size=41)).jobs) == 1


def test_a_file_with_a_missing_output_is_converted_again(
    draw: Make, source: Path, to: Path
) -> None:
    draw("cat.png")
    [job] = make_plan(source, to, SETTINGS).jobs
    make_outputs(job)
    job.outputs[1].unlink()
    assert make_plan(source, to, SETTINGS).jobs == [job]


@pytest.mark.parametrize(
    "unit", [10**7, 10**9, 2 * 10**9], ids=["exFAT", "HFS+", "FAT"]
)
def test_rounded_times_do_not_make_a_file_look_changed(
    draw: Make, source: Path, to: Path, unit: int
) -> None:
    cat = draw("cat.png")
    time = 1_699_999_999_987_654_321
    os.utime(cat, ns=(time, time))
    [job] = make_plan(source, to, SETTINGS).jobs
    make_outputs(job)
    rounded_down = time // unit * unit
    for stored in (rounded_down, rounded_down + unit):
        for output in job.outputs:
            os.utime(output, ns=(stored, stored))
        assert is_up_to_date(cat, job.outputs)


def test_a_change_within_a_second_is_seen_where_times_are_exact(
    draw: Make, source: Path, to: Path
) -> None:
    cat = draw("cat.png")
    time = 1_699_999_999_987_654_321
    os.utime(cat, ns=(time, time))
    [job] = make_plan(source, to, SETTINGS).jobs
    make_outputs(job)
    os.utime(cat, ns=(time + 20_000_000, time + 20_000_000))
    assert not is_up_to_date(cat, job.outputs)


# --- Outputs whose sources have been deleted


def test_prune_deletes_only_outputs_of_deleted_sources(
    draw: Make, play: Make, source: Path, to: Path
) -> None:
    draw("cat.png")
    dog = draw("pets/dog.jpg")
    tone = play("pets/tone.flac")
    for job in make_plan(source, to, SETTINGS).jobs:
        make_outputs(job)
    for name in ("notes.pdf", "photo.webp", "dog.jpg.large.webp", "my.40.webp"):
        (to / "pets" / name).touch()
    dog.unlink()
    tone.unlink()

    deleted = delete_leftovers(source, to, make_plan(source, to, SETTINGS))
    assert [path.name for path in deleted] == [
        "dog.jpg.40.edges.png",
        "dog.jpg.40.webp",
        "tone.flac.-16lufs.flac",
    ]
    assert names_in(to) == [
        "cat.png.40.edges.png",
        "cat.png.40.webp",
        "dog.jpg.large.webp",
        "my.40.webp",
        "notes.pdf",
        "photo.webp",
    ]


def test_prune_deletes_outputs_of_other_settings_too(
    draw: Make, source: Path, to: Path
) -> None:
    draw("dog.png")
    cat = draw("cat.png")
    for size in (40, 99):
        for job in make_plan(source, to, Settings(size=size)).jobs:
            make_outputs(job)
    cat.unlink()
    delete_leftovers(source, to, make_plan(source, to, SETTINGS))
    assert {name.split(".")[0] for name in names_in(to)} == {"dog"}


def test_prune_deletes_nothing_if_there_is_no_source_at_all(
    draw: Make, source: Path, to: Path
) -> None:
    cat = draw("cat.png")
    [job] = make_plan(source, to, SETTINGS).jobs
    make_outputs(job)
    cat.unlink()  # or its disk is not mounted
    with pytest.raises(ValueError, match="deletes nothing"):
        delete_leftovers(source, to, make_plan(source, to, SETTINGS))
    assert len(names_in(to)) == 2


def test_an_output_that_cannot_be_deleted_is_a_problem(
    draw: Make, source: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("dog.png")
    cat = draw("cat.png")
    for job in make_plan(source, to, SETTINGS).jobs:
        make_outputs(job)
    cat.unlink()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    plan = make_plan(source, to, SETTINGS)
    assert delete_leftovers(source, to, plan) == []
    assert {problem.reason for problem in plan.problems} == {"Permission denied"}
    assert len(plan.problems) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat.png.512.webp", "cat.png"),
        ("cat.png.512.edges.png", "cat.png"),
        ("a.b.JPG.1.webp", "a.b.JPG"),
        ("two\nlines.gif.1.webp", "two\nlines.gif"),
        ("tone.flac.-16lufs.flac", "tone.flac"),
        ("tone.flac.-16.5lufs.flac", "tone.flac"),
        ("cat.webp", None),
        ("cat.512.webp", None),
        ("tone.flac", None),
        ("notes.pdf.512.webp", None),
    ],
)
def test_the_name_of_an_output_tells_the_source(
    name: str, expected: str | None
) -> None:
    assert name_of_source(name) == expected
