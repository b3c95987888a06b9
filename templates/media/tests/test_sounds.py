"""Sounds: loudness, true peak and tags, on real files."""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import pyloudnorm  # type: ignore[import-untyped]
import pytest
import scipy.signal  # type: ignore[import-untyped]
import soundfile  # type: ignore[import-untyped]

from media import loudness, sounds
from media.loudness import (
    integrated_loudness,
    measure,
    to_decibels,
)
from media.plan import Settings
from media.sounds import convert, write_checked

Make = Callable[..., Path]

# mutagen's classes have annotations for only some of their methods.
flac: Any = importlib.import_module("mutagen.flac")
id3: Any = importlib.import_module("mutagen.id3")


def convert_sound(path: Path, target: float = -16.0) -> tuple[Path, dict[str, Any]]:
    """Return the path of the converted sound, and the details."""
    draft = path.with_name(f"draft{path.suffix}")
    details = convert(path, [draft], Settings(loudness=target))
    return draft, details


def true_peak(path: Path) -> float:
    """Return the true peak of a whole sound, in dBTP."""
    samples, _ = soundfile.read(path, always_2d=True)
    return to_decibels(np.abs(scipy.signal.resample_poly(samples, 4, 1)).max())


def program_loudness(path: Path) -> float:
    """Return the loudness of a whole sound as pyloudnorm measures it, in LUFS."""
    samples, rate = soundfile.read(path, always_2d=True)
    return float(pyloudnorm.Meter(rate).integrated_loudness(samples))


# --- Loudness

FORMATS = [
    ("wav", {"subtype": "PCM_16"}, 0.02),
    ("wav", {"subtype": "FLOAT"}, 0.02),
    ("wav", {"subtype": "MS_ADPCM"}, 0.3),
    ("aiff", {"subtype": "PCM_24"}, 0.02),
    ("flac", {"subtype": "PCM_24"}, 0.02),
    ("ogg", {"subtype": "VORBIS"}, 0.3),
    ("oga", {"subtype": "VORBIS", "format": "OGG"}, 0.3),
    ("opus", {"subtype": "OPUS", "format": "OGG"}, 0.3),
    ("mp3", {"subtype": "MPEG_LAYER_III"}, 0.5),
]
IDS = [f"{suffix}-{options['subtype']}" for suffix, options, _ in FORMATS]


@pytest.mark.parametrize(("suffix", "options", "tolerance"), FORMATS, ids=IDS)
@pytest.mark.parametrize("peak", [0.02, 0.9])
def test_every_sound_gets_the_same_loudness_and_keeps_its_format(
    play: Make, suffix: str, options: dict[str, str], tolerance: float, peak: float
) -> None:
    path = play(f"tone.{suffix}", peak, **options)
    result, details = convert_sound(path)
    assert program_loudness(result) == pytest.approx(-16, abs=tolerance)
    assert details["loudness"] == pytest.approx(program_loudness(result), abs=0.05)
    before = soundfile.info(path)
    after = soundfile.info(result)
    assert after.samplerate == before.samplerate
    assert after.channels == before.channels
    assert after.subtype == before.subtype
    assert after.format == before.format
    assert after.frames >= before.frames


def test_the_loudness_is_a_setting(play: Make) -> None:
    result, _ = convert_sound(play("tone.wav"), target=-23.0)
    assert program_loudness(result) == pytest.approx(-23, abs=0.02)


def test_a_stereo_sine_has_the_loudness_of_the_standard(source: Path) -> None:
    # EBU Tech 3341, test 1: -23 dBFS in both channels at 1 kHz measures -23 LUFS.
    time = np.arange(20 * 48_000) / 48_000
    tone = 10 ** (-23 / 20) * np.sin(2 * np.pi * 1_000 * time)
    path = source / "tone.wav"
    soundfile.write(path, np.column_stack([tone, tone]), 48_000, subtype="FLOAT")
    assert measure(path).loudness == pytest.approx(-23, abs=0.1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100])
def test_a_sound_measured_in_pieces_is_as_loud_as_in_one(
    source: Path, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loudness, "PIECE_STEPS", 20)
    random = np.random.default_rng(1)
    samples = random.normal(0, 0.1, (7 * rate + 123, 2))
    samples[2 * rate : 4 * rate] *= 0.05  # quieter, so the gates matter
    samples[5 * rate : 6 * rate] = 0
    path = source / "noise.wav"
    soundfile.write(path, samples, rate, subtype="DOUBLE")
    measured = measure(path)
    assert measured.frames == len(samples)
    assert measured.loudness == pytest.approx(program_loudness(path), abs=0.1)
    assert to_decibels(measured.true_peak) == pytest.approx(true_peak(path), abs=0.01)


def test_cutting_a_sound_into_pieces_adds_no_peaks(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loudness, "PIECE_STEPS", 5)
    # The cuts are in the middle of a wave, where a sudden end would overshoot.
    wave = 0.5 * np.cos(2 * np.pi * 10 * np.arange(3 * 8_000) / 8_000)
    fade = np.minimum(1, np.arange(len(wave)) / 2_000)
    path = source / "wave.wav"
    soundfile.write(path, wave * fade * fade[::-1], 8_000, subtype="DOUBLE")
    assert measure(path).true_peak == pytest.approx(0.5, abs=0.001)


def test_pauses_do_not_make_a_sound_quieter() -> None:
    assert integrated_loudness([-20.0] * 10 + [-75.0] * 90) == pytest.approx(-20)
    assert integrated_loudness([-20.0] * 10 + [-60.0] * 90) == pytest.approx(-20)


def test_silence_and_very_short_sounds_have_no_loudness(
    play: Make, source: Path
) -> None:
    assert measure(play("silence.wav", 0.0)).loudness is None
    assert measure(play("click.wav", seconds=0.1)).loudness is None


def test_silence_stays_silent(play: Make) -> None:
    result, details = convert_sound(play("silence.wav", 0.0))
    assert not soundfile.read(result)[0].any()
    assert details["loudness"] is None


def test_a_very_short_sound_is_not_made_louder(play: Make) -> None:
    path = play("click.wav", 0.25, seconds=0.1, subtype="FLOAT")
    result, _ = convert_sound(path)
    assert np.allclose(soundfile.read(result)[0], soundfile.read(path)[0], atol=1e-6)


def test_the_low_frequency_channel_of_surround_sound_does_not_count(
    source: Path,
) -> None:
    tone = 0.1 * np.sin(np.arange(48_000) / 10)
    quiet = np.column_stack([tone] * 6)
    loud = quiet.copy()
    loud[:, 3] *= 5
    for name, samples in (("quiet", quiet), ("loud", loud)):
        soundfile.write(source / f"{name}.wav", samples, 48_000, subtype="FLOAT")
    assert measure(source / "loud.wav").loudness == pytest.approx(
        measure(source / "quiet.wav").loudness
    )


def test_more_channels_than_surround_sound_are_an_error(source: Path) -> None:
    path = source / "many.wav"
    soundfile.write(path, np.ones((48_000, 8)) / 10, 48_000)
    with pytest.raises(ValueError, match="8 channels are more"):
        convert_sound(path)


# --- True peak


@pytest.mark.parametrize(("suffix", "options", "_tolerance"), FORMATS, ids=IDS)
def test_the_true_peak_limit_holds_in_every_format(
    source: Path, suffix: str, options: dict[str, str], _tolerance: float
) -> None:
    # Clicks between quiet noise: loudness would allow a gain that the peaks do not.
    random = np.random.default_rng(1)
    samples = random.normal(0, 0.01, 48_000)
    samples[::6_000] = 0.9
    path = source / f"clicks.{suffix}"
    soundfile.write(path, samples, 48_000, **options)
    result, details = convert_sound(path)
    assert true_peak(result) <= -0.9
    assert true_peak(result) > -4
    assert details["true_peak"] == pytest.approx(true_peak(result), abs=0.05)
    assert details["loudness"] < -16


def test_peaks_between_the_samples_count(source: Path) -> None:
    # At a quarter of the rate and this phase, all samples are 3 dB below the peak.
    wave = np.sin(np.pi / 2 * np.arange(48_000) + np.pi / 4)
    path = source / "wave.wav"
    soundfile.write(path, 0.9 * wave, 48_000, subtype="FLOAT")
    assert measure(path).true_peak == pytest.approx(0.9, rel=0.05)


# --- Sounds that are unusual or broken


def test_a_sound_that_cannot_be_rewound_is_converted(source: Path) -> None:
    path = source / "phone.wav"
    tone = 0.1 * np.sin(np.arange(16_000) / 3)
    with soundfile.SoundFile(path, "w", 8_000, 1, "GSM610") as sound:
        sound.buffer_write(tone.tobytes(), "float64")
    result, details = convert_sound(path)
    assert soundfile.info(result).subtype == "GSM610"
    assert details["seconds"] == pytest.approx(2, abs=0.1)
    assert details["loudness"] == pytest.approx(-16, abs=0.5)


@pytest.mark.parametrize("samples", [[0.0, np.nan], [np.inf, 0.5]], ids=["nan", "inf"])
def test_samples_that_are_no_numbers_are_an_error(
    source: Path, samples: list[float]
) -> None:
    path = source / "odd.wav"
    soundfile.write(path, np.array(samples), 8_000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite numbers"):
        convert_sound(path)


def test_an_empty_sound_is_an_error(source: Path) -> None:
    soundfile.write(source / "empty.wav", np.array([]), 8_000)
    with pytest.raises(ValueError, match="the sound is empty"):
        convert_sound(source / "empty.wav")


def test_a_sound_that_was_cut_short_is_an_error(source: Path) -> None:
    path = source / "noise.flac"
    noise = np.random.default_rng(1).normal(0, 0.1, 48_000)
    soundfile.write(path, noise, 48_000)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises((ValueError, soundfile.LibsndfileError)):
        convert_sound(path)


# --- Writing


@pytest.mark.parametrize("missing", [10, 10_000])
@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg", "mp3", "aiff"])
def test_a_sound_that_does_not_fit_on_the_disk_is_an_error(
    source: Path, suffix: str, missing: int
) -> None:
    """A limit for the size of files stops a write in the middle, like a full disk."""
    if sys.platform == "win32":
        pytest.skip("Windows cannot limit the size of files")
    import resource

    path = source / f"noise.{suffix}"
    soundfile.write(path, np.random.default_rng(1).normal(0, 0.1, 48_000), 48_000)
    result, _ = convert_sound(path)
    room = result.stat().st_size - missing
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="bytes free"):
            convert_sound(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_frames_that_are_missing_in_the_output_are_an_error(
    play: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = play("tone.wav")
    before = measure(path)
    monkeypatch.setattr(sounds, "BLOCK_FRAMES", 0)  # copies nothing
    with pytest.raises(OSError, match="only 0 of 48000 frames were written"):
        write_checked(path, path.with_name("draft.wav"), before, gain=0.0)


# --- Tags

TAGS = {"artist": ["Ada"], "title": ["猫"], "replaygain_track_gain": ["-3 dB"]}


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("flac", {}),
        ("ogg", {}),
        ("oga", {"format": "OGG"}),
        ("opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_tags_are_copied_except_those_for_the_gain(
    play: Make, suffix: str, options: dict[str, str]
) -> None:
    path = play(f"song.{suffix}", **options)
    original: Any = mutagen.File(path)
    original.update(TAGS)
    original.save()
    result, _ = convert_sound(path)
    copy: Any = mutagen.File(result)
    assert copy["artist"] == ["Ada"]
    assert copy["title"] == ["猫"]
    assert "replaygain_track_gain" not in copy


@pytest.mark.parametrize("suffix", ["mp3", "wav", "aiff"])
def test_id3_tags_are_copied_except_those_for_the_gain(play: Make, suffix: str) -> None:
    path = play(f"song.{suffix}")
    original: Any = mutagen.File(path)
    if original.tags is None:
        original.add_tags()
    original.tags.add(id3.TPE1(encoding=3, text=["Ada"]))
    gain = id3.TXXX(encoding=3, desc="REPLAYGAIN_TRACK_GAIN", text=["-3 dB"])
    original.tags.add(gain)
    original.save()
    result, _ = convert_sound(path)
    copy: Any = mutagen.File(result)
    assert copy.tags["TPE1"].text == ["Ada"]
    assert not copy.tags.getall("TXXX:REPLAYGAIN_TRACK_GAIN")


def test_the_texts_of_a_wav_are_copied(source: Path) -> None:
    path = source / "song.wav"
    with soundfile.SoundFile(path, "w", 8_000, 1) as sound:
        sound.artist = "Ada"
        sound.write(np.ones(8_000) / 10)
    result, _ = convert_sound(path)
    with soundfile.SoundFile(result) as sound:
        assert sound.artist == "Ada"


def test_the_cover_of_a_flac_is_copied(play: Make) -> None:
    path = play("song.flac")
    original = flac.FLAC(path)
    cover = flac.Picture()
    cover.data = b"a picture"
    original.add_picture(cover)
    original["artist"] = "Ada"
    original.save()
    result, _ = convert_sound(path)
    assert [p.data for p in flac.FLAC(result).pictures] == [b"a picture"]


def test_tags_that_cannot_be_read_are_left_out_with_a_warning(
    play: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = play("song.flac")
    open_file = mutagen.File

    def refuse_source(file: Path) -> Any:
        if file == path:
            raise mutagen.MutagenError("bad frame")
        return open_file(file)

    monkeypatch.setattr(mutagen, "File", refuse_source)
    with pytest.warns(UserWarning, match="the tags are left out: bad frame"):
        result, _ = convert_sound(path)
    assert program_loudness(result) == pytest.approx(-16, abs=0.02)


def test_decibels_of_nothing_are_minus_infinity() -> None:
    assert to_decibels(0.0) == -math.inf
    assert to_decibels(1.0) == 0
