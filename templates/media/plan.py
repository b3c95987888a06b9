"""Decide what to do: find the files, name their outputs, compare the times.

To support another kind of file, write a module with a function `convert` as in
pictures.py and add a `Kind` to `KINDS`. This module runs in the program itself, so it
imports no library that decodes pictures or sounds.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# File systems store modification times with different precision. FAT rounds to 2 s.
FINE_TIME_NS = 10_000_000
COARSE_TIME_NS = 2_000_000_000


@dataclass(frozen=True)
class Settings:
    """What the outputs should be like. Raises ValueError if a value makes no sense.

    `size` is the maximum width and height of a thumbnail, in pixels. `loudness` is the
    loudness of the sounds in LUFS. Pictures with more than `max_megapixels` are
    refused. `vision` adds the edges, the sharpness and the QR codes of the pictures.
    """

    size: int = 512
    loudness: float = -16.0
    max_megapixels: float = 250.0
    vision: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 16_383:  # the largest WebP picture
            raise ValueError(f"the size must be 1 to 16383 pixels, not {self.size}")
        if not -70 <= self.loudness <= 0:
            raise ValueError(
                f"the loudness must be -70 to 0 LUFS, not {self.loudness:g}"
            )
        if not self.max_megapixels > 0:
            raise ValueError("the maximum number of pixels must be positive")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    `module` is the module of this package whose `convert` handles the files with one of
    the `suffixes`. `outputs` are the names of what it makes, and `vision_outputs` those
    that computer vision adds. A name may contain {name} and {suffix} of the source, and
    {size} and {loudness} of the settings: other settings make other files.
    """

    module: str
    suffixes: frozenset[str]
    outputs: tuple[str, ...]
    vision_outputs: tuple[str, ...] = ()


PICTURE = Kind(
    module="pictures",
    suffixes=frozenset(
        {
            ".avif",
            ".bmp",
            ".gif",
            ".heic",
            ".heif",
            ".jpeg",
            ".jpg",
            ".png",
            ".tif",
            ".tiff",
            ".webp",
        }
    ),
    outputs=("{name}.{size}.webp",),
    vision_outputs=("{name}.{size}.edges.png",),
)
SOUND = Kind(
    module="sounds",
    suffixes=frozenset(
        {".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}
    ),
    outputs=("{name}.{loudness}lufs{suffix}",),
)
KINDS = (PICTURE, SOUND)


@dataclass(frozen=True)
class Job:
    """A file to convert, and the paths of its outputs in the order of the names."""

    kind: Kind
    source: Path
    outputs: list[Path]


@dataclass(frozen=True)
class Problem:
    """A file or folder that cannot be handled, and the reason."""

    path: Path
    reason: str


@dataclass
class Plan:
    """What to do for a folder."""

    jobs: list[Job] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    up_to_date: int = 0
    # How many files have a suffix that no kind has.
    skipped: Counter[str] = field(default_factory=Counter)


def make_plan(source: Path, to: Path, settings: Settings) -> Plan:
    """Return what to do for the files in `source` and its subfolders.

    Raises ValueError if the outputs could become sources, and OSError if `source` is
    not a folder that can be read.
    """
    if source.resolve().is_relative_to(to.resolve()):
        raise ValueError(
            f"the source must not be in the folder for the outputs: {source}"
        )
    os.listdir(source)
    plan = Plan()
    for path in find_files(source, to, plan.problems):
        kind = kind_of(path)
        if kind is None:
            plan.skipped[path.suffix.lower() or "no suffix"] += 1
            continue
        folder = to / path.parent.relative_to(source)
        outputs = outputs_for(path, folder, kind, settings)
        # The system refuses, for example, to look up a name that is too long.
        try:
            done = is_up_to_date(path, outputs)
        except OSError as error:
            plan.problems.append(Problem(path, error.strerror or str(error)))
            continue
        if done:
            plan.up_to_date += 1
        else:
            plan.jobs.append(Job(kind, path, outputs))
    return plan


def find_files(folder: Path, to: Path, problems: list[Problem]) -> Iterator[Path]:
    """Yield the files in `folder` and its subfolders, in the order of their names.

    Leaves out hidden files, hidden folders and the folder `to`. A subfolder that cannot
    be read is added to `problems`.
    """

    def add_problem(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        problems.append(Problem(path, error.strerror or str(error)))

    outputs_folder = to.resolve()
    for parent, folders, names in os.walk(folder, onerror=add_problem):
        here = Path(parent)
        # os.walk goes into the folders that are left in its list.
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and (here / name).resolve() != outputs_folder
        ]
        for name in sorted(names):
            if not name.startswith("."):
                yield here / name


def kind_of(path: Path) -> Kind | None:
    """Return the kind of the files with this suffix, or None."""
    suffix = path.suffix.lower()
    for kind in KINDS:
        if suffix in kind.suffixes:
            return kind
    return None


def outputs_for(
    source: Path, folder: Path, kind: Kind, settings: Settings
) -> list[Path]:
    """Return the paths of what is made of `source`, in `folder`."""
    names = list(kind.outputs)
    if settings.vision:
        names += kind.vision_outputs
    values = {
        "name": source.name,
        "suffix": source.suffix,
        "size": settings.size,
        "loudness": f"{settings.loudness:g}",
    }
    return [folder / name.format_map(values) for name in names]


def is_up_to_date(source: Path, outputs: list[Path]) -> bool:
    """Return whether all outputs exist and were made of this version of the source.

    An output has the modification time of the source that it was made of. Raises
    OSError if a file cannot be looked up.
    """
    made_of = source.stat().st_mtime_ns
    for output in outputs:
        try:
            time = output.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if not is_same_time(time, made_of):
            return False
    return True


def is_same_time(one: int, other: int) -> bool:
    """Return whether two times in nanoseconds are equal, allowing for rounding."""
    has_whole_seconds = one % 10**9 == 0 or other % 10**9 == 0
    precision = COARSE_TIME_NS if has_whole_seconds else FINE_TIME_NS
    return abs(one - other) < precision


# --- Outputs whose sources have been deleted


def find_leftovers(source: Path, to: Path, problems: list[Problem]) -> list[Path]:
    """Return the outputs in `to` whose files in `source` do not exist any more.

    Only a file with the name of an output counts, so other files in `to` are safe.
    """
    leftovers: list[Path] = []
    if not to.exists():
        return leftovers
    for path in find_files(to, source, problems):
        name = name_of_source(path.name)
        if name is None:
            continue
        original = source / path.parent.relative_to(to) / name
        if is_missing(original):
            leftovers.append(path)
    return leftovers


def delete_leftovers(source: Path, to: Path, plan: Plan) -> list[Path]:
    """Delete the outputs whose sources do not exist any more; return their paths.

    Those that cannot be deleted are added to the problems of the plan. Raises
    ValueError if there is no source at all: it is more likely that a disk is not
    mounted than that all files were deleted.
    """
    if not (plan.jobs or plan.up_to_date or plan.problems or plan.skipped):
        raise ValueError(f"--prune deletes nothing, as there is no file in {source}")
    deleted: list[Path] = []
    for path in find_leftovers(source, to, plan.problems):
        try:
            path.unlink()
        except OSError as error:
            plan.problems.append(Problem(path, error.strerror or str(error)))
        else:
            deleted.append(path)
    return deleted


def name_of_source(name: str) -> str | None:
    """Return the name of the file that an output with this name was made of, or None.

    None means that no kind of file has such an output.
    """
    for kind in KINDS:
        for template in kind.outputs + kind.vision_outputs:
            match = name_pattern(template).fullmatch(name)
            if match is None:
                continue
            source = match["name"]
            if Path(source).suffix.lower() in kind.suffixes:
                return source
    return None


def name_pattern(template: str) -> re.Pattern[str]:
    """Return a pattern of the names that can be made of a template."""
    pattern = re.escape(template)
    pattern = pattern.replace(r"\{name\}", r"(?P<name>.+?)")
    pattern = pattern.replace(r"\{suffix\}", r"\.\w+")
    pattern = pattern.replace(r"\{size\}", r"\d+")
    pattern = pattern.replace(r"\{loudness\}", r"-?[\d.]+")
    return re.compile(pattern, re.DOTALL)


def is_missing(path: Path) -> bool:
    """Return whether a file does not exist. False if that cannot be found out."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
