"""Bring sounds to the same loudness with libsndfile, and copy their tags with mutagen.

Runs in a worker process. Each sound gets one gain from its beginning to its end, so the
differences between its loud and quiet parts stay. The format stays, too.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import mutagen
import mutagen.flac
import numpy as np
import soundfile  # type: ignore[import-untyped]

from .loudness import Measurement, measure, to_decibels
from .plan import Settings

TRUE_PEAK_LIMIT = -1.0  # dBTP, the limit of EBU R 128
# An encoder such as MP3 changes the signal a little, and its peaks too.
MAX_ENCODINGS = 5
TOLERANCE = 0.05  # dB
BLOCK_FRAMES = 65_536
# libsndfile reports a number above this if a file does not say how long it is.
UNKNOWN_FRAMES = 2**62

# Tags that say how much louder a player shall play the sound. They are wrong once its
# loudness has changed.
GAIN_TAGS = ("replaygain", "r128_", "rva2", "txxx:replaygain")


def convert(source: Path, drafts: list[Path], settings: Settings) -> dict[str, Any]:
    """Write the sound with another loudness, and its tags.

    Returns what was measured. Raises ValueError if the sound is broken, OSError if the
    draft cannot be written, and soundfile.LibsndfileError if it cannot be decoded.
    """
    before = measure(source)
    check_is_complete(source, before)
    gain = choose_gain(before, settings.loudness)
    after = write_checked(source, drafts[0], before, gain)
    return {
        "seconds": round(before.frames / soundfile.info(source).samplerate, 3),
        "loudness_before": rounded(before.loudness),
        "loudness": rounded(after.loudness),
        "true_peak": rounded(to_decibels(after.true_peak)),
    }


def check_is_complete(source: Path, measured: Measurement) -> None:
    """Raise ValueError if a sound has no samples, or fewer than the file claims."""
    claimed = soundfile.info(source).frames
    if measured.frames == 0:
        raise ValueError("the sound is empty")
    if measured.frames < claimed and claimed < UNKNOWN_FRAMES:
        raise ValueError(f"the sound ends after {measured.frames} of {claimed} frames")


def choose_gain(sound: Measurement, loudness: float) -> float:
    """Return the gain in dB that brings a sound to a loudness in LUFS.

    The gain is lower if the true peak would exceed its limit. A sound whose loudness is
    not defined (silent, or shorter than 0.4 s) is not made louder.
    """
    gain = 0.0
    if sound.loudness is not None:
        gain = loudness - sound.loudness
    if sound.true_peak == 0:
        return gain
    return min(gain, TRUE_PEAK_LIMIT - to_decibels(sound.true_peak))


def write_checked(
    source: Path, draft: Path, before: Measurement, gain: float
) -> Measurement:
    """Write `draft`, read it back and check it; return what it is like.

    If encoding has raised the true peak above the limit, the sound is encoded again
    with a lower gain.
    """
    for _ in range(MAX_ENCODINGS):
        write_sound(source, draft, gain)
        copy_tags(source, draft)
        after = measure_draft(draft)
        if after.frames < before.frames:
            raise OSError(
                f"only {after.frames} of {before.frames} frames were written "
                f"({free_space(draft)})"
            )
        excess = to_decibels(after.true_peak) - TRUE_PEAK_LIMIT
        if excess <= TOLERANCE:
            return after
        gain -= excess + TOLERANCE
    raise ValueError(f"the true peak stays above {TRUE_PEAK_LIMIT:g} dBTP")


def measure_draft(draft: Path) -> Measurement:
    """Measure a sound that was just written. Raises OSError if it cannot be read."""
    try:
        return measure(draft)
    except soundfile.LibsndfileError as error:
        raise OSError(
            f"the sound was not written completely: {error} ({free_space(draft)})"
        ) from None


def write_sound(source: Path, draft: Path, gain: float) -> None:
    """Write a sound with a gain in dB, in the same format.

    Raises OSError if the draft cannot be written.
    """
    factor = 10 ** (gain / 20)
    with soundfile.SoundFile(source) as sound:
        try:
            with soundfile.SoundFile(
                draft,
                "w",
                samplerate=sound.samplerate,
                channels=sound.channels,
                subtype=sound.subtype,
                endian=sound.endian,
                format=sound.format,
            ) as output:
                # The texts that libsndfile knows. Of a WAV, mutagen does not know them.
                for name, text in sound.copy_metadata().items():
                    setattr(output, name, text)
                copy_samples(sound, output, factor)
        except soundfile.LibsndfileError as error:
            raise OSError(
                f"the sound cannot be written: {error} ({free_space(draft)})"
            ) from None


def copy_samples(sound: Any, output: Any, factor: float) -> None:
    """Multiply the samples by a factor and write them, block by block."""
    while True:
        block = sound.read(BLOCK_FRAMES, always_2d=True)
        if len(block) == 0:
            return
        output.write(np.multiply(block, factor))


def free_space(path: Path) -> str:
    """Return how much space is left where a file is."""
    return f"{shutil.disk_usage(path.parent).free:,} bytes free"


def rounded(value: float | None) -> float | None:
    """Return a number of decibels for people, or None if it is not a finite number."""
    if value is None or not np.isfinite(value):
        return None
    return round(value, 2)


# --- Tags


def copy_tags(source: Path, draft: Path) -> None:
    """Copy title, artist, cover and so on. Raises OSError if they cannot be written.

    Tags that cannot be read are left out with a warning: the sound may still be good.
    """
    try:
        original = open_tags(source)
    except mutagen.MutagenError as error:
        warnings.warn(f"the tags are left out: {error}", stacklevel=2)
        return
    if original is None or not original.tags:
        return
    try:
        write_tags(original, draft)
    except mutagen.MutagenError as error:
        raise OSError(
            f"the tags cannot be written: {error} ({free_space(draft)})"
        ) from None


def write_tags(original: Any, draft: Path) -> None:
    """Write the tags of another file into a draft."""
    copy = open_tags(draft)
    if copy is None:
        return
    if copy.tags is None:
        copy.add_tags()
    for name, value in original.tags.items():
        if not name.lower().startswith(GAIN_TAGS):
            copy.tags[name] = value
    # FLAC stores covers apart from the other tags.
    if isinstance(original, mutagen.flac.FLAC):
        for picture in original.pictures:
            copy.add_picture(picture)
    copy.save()


def open_tags(path: Path) -> Any:
    """Return mutagen's view of a file, or None if it has no tags that mutagen knows."""
    return mutagen.File(path)
