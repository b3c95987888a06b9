"""Measure the loudness and the true peak of a sound by EBU R 128, piece by piece.

pyloudnorm weights and measures the blocks of 0.4 s that the standard (ITU-R BS.1770)
uses. It needs the whole sound in memory, and an hour would take gigabytes. So it gets
pieces of half a minute, and `integrated_loudness` combines what it measures in them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm  # type: ignore[import-untyped]
import scipy.signal  # type: ignore[import-untyped]
import soundfile  # type: ignore[import-untyped]

# Measured blocks are 4 steps long, and one begins at each step.
STEP_SECONDS = 0.1
STEPS_PER_BLOCK = 4
PIECE_STEPS = 300
# A piece repeats the last second of the piece before, so that the filters settle and
# the blocks overlap.
LEAD_STEPS = 10

SILENCE_LUFS = -70.0  # blocks below this do not count
RELATIVE_GATE = 0.1  # nor do blocks 10 dB below the mean of the others

# The signal between the samples may be higher than the samples. The standard computes
# four times as many samples to find its peak.
OVERSAMPLING = 4
# So many samples at the end of a piece cannot be computed without the next piece.
MARGIN = 32

SURROUND_CHANNELS = 6
LOW_FREQUENCY_CHANNEL = 3  # does not count by the standard


@dataclass(frozen=True)
class Measurement:
    """What a sound is like.

    `loudness` is in LUFS, and None if the sound is silent or shorter than 0.4 s.
    `true_peak` is the highest value of the signal, where 1.0 is full scale.
    """

    frames: int
    loudness: float | None
    true_peak: float


@dataclass(frozen=True)
class Piece:
    """Samples of a sound, one row per frame.

    The first `lead` frames are the last ones of the piece before.
    """

    samples: Any
    lead: int
    is_last: bool


def measure(path: Path) -> Measurement:
    """Measure the sound in a file.

    Raises ValueError if it has samples that are not finite numbers or too many
    channels, and soundfile.LibsndfileError if it cannot be decoded.
    """
    frames = 0
    true_peak = 0.0
    blocks: list[float] = []
    with soundfile.SoundFile(path) as sound:
        rate = sound.samplerate
        meter = pyloudnorm.Meter(rate)
        for piece in read_pieces(sound):
            if not np.isfinite(piece.samples).all():
                raise ValueError("the sound has samples that are not finite numbers")
            frames += len(piece.samples) - piece.lead
            true_peak = max(true_peak, true_peak_of(piece))
            blocks += loudness_of_blocks(piece, meter)
    return Measurement(frames, integrated_loudness(blocks), true_peak)


def read_pieces(sound: Any) -> Iterator[Piece]:
    """Yield the pieces of a sound file."""
    step = steps_to_frames(1, sound.samplerate)
    lead = np.zeros((0, sound.channels), np.float32)
    chunk = read_chunk(sound, PIECE_STEPS * step)
    while len(chunk) > 0:
        # GSM files do not say how long they are. So read ahead to know the last piece.
        next_chunk = read_chunk(sound, PIECE_STEPS * step)
        samples = np.concatenate([lead, chunk])
        yield Piece(samples, len(lead), is_last=len(next_chunk) == 0)
        lead = samples[-LEAD_STEPS * step :]
        chunk = next_chunk


def read_chunk(sound: Any, frames: int) -> Any:
    """Return the next frames of a sound file; none at its end."""
    return sound.read(frames, dtype="float32", always_2d=True)


def steps_to_frames(steps: int, rate: int) -> int:
    """Return how many frames a number of steps has."""
    return max(1, round(steps * STEP_SECONDS * rate))


def true_peak_of(piece: Piece) -> float:
    """Return the highest value of the signal in a piece, where 1.0 is full scale."""
    # SciPy is faster with one row per channel.
    channels = np.ascontiguousarray(piece.samples.T)
    signal = scipy.signal.resample_poly(channels, OVERSAMPLING, 1, axis=1)
    # Where a piece was cut, the filter sees a jump that is not in the sound.
    first = 0
    last = signal.shape[1]
    if piece.lead > MARGIN:
        first = MARGIN * OVERSAMPLING
    if not piece.is_last:
        last -= MARGIN * OVERSAMPLING
    return float(np.abs(signal[:, first:last]).max())


def loudness_of_blocks(piece: Piece, meter: Any) -> list[float]:
    """Return the loudness in LUFS of the blocks that end in the new part of a piece."""
    samples = without_low_frequency_channel(piece.samples)
    if len(samples) < meter.block_size * meter.rate:
        return []
    meter.integrated_loudness(samples)
    blocks: list[float] = meter.blockwise_loudness
    if piece.lead == 0:
        return blocks
    return blocks[LEAD_STEPS - STEPS_PER_BLOCK + 1 :]


def without_low_frequency_channel(samples: Any) -> Any:
    """Return the channels that count. Raises ValueError if there are too many."""
    channels = samples.shape[1]
    if channels > SURROUND_CHANNELS:
        raise ValueError(f"{channels} channels are more than 5.1")
    if channels == SURROUND_CHANNELS:
        return np.delete(samples, LOW_FREQUENCY_CHANNEL, axis=1)
    return samples


def integrated_loudness(blocks: list[float]) -> float | None:
    """Return the loudness of a sound from that of its blocks, in LUFS.

    Quiet blocks do not count, so pauses between words do not make a speech quieter.
    Returns None if there is no block that counts.
    """
    audible = [loudness for loudness in blocks if loudness >= SILENCE_LUFS]
    if not audible:
        return None
    power = np.power(10, np.array(audible) / 10)
    gate = power.mean() * RELATIVE_GATE
    return 10 * math.log10(power[power > gate].mean())


def to_decibels(ratio: float) -> float:
    """Return a ratio of amplitudes in decibels; minus infinity for 0."""
    if ratio == 0:
        return -math.inf
    return 20 * math.log10(ratio)
