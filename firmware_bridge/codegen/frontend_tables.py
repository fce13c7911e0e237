"""Constants and tables for `runtime/tinyscene_frontend.c`."""

import textwrap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.log_mel import FrontEnd


class FrameSpan(NamedTuple):
    """The samples of the clip that a frame needs; its window may begin before the clip and end beyond it."""

    at: int  # where the window begins
    first: int  # the earliest sample that it needs, after reflection
    due: int  # one more than the last: so many samples of the clip must have arrived


def frame_spans(front_end: FrontEnd) -> list[FrameSpan]:
    """The span of every frame of a clip, in order. In closed form `due` is min(max(at + win, 1 - at), clip)."""
    left = (front_end.n_fft - front_end.win_length) // 2 - front_end.n_fft // 2
    spans = []
    for at in range(left, left + front_end.frames * front_end.hop_length, front_end.hop_length):
        samples = np.abs(np.arange(at, at + front_end.win_length))
        samples = np.minimum(samples, 2 * (front_end.clip_samples - 1) - samples)
        spans.append(FrameSpan(at, int(samples.min()), int(samples.max()) + 1))
    return spans


def frontend_config(log_mel: FixedPointLogMel) -> dict[str, int]:
    """The constants for `tinyscene_config.h`, under their names there without TINYSCENE_.

    RING_SAMPLES is the least ring from which every frame can be computed when its last sample has arrived, in order.
    """
    front_end = log_mel.front_end
    spans = frame_spans(front_end)
    arrived = np.maximum.accumulate([span.due for span in spans])  # a frame also waits for the one before it
    return {
        "SAMPLE_RATE": front_end.sample_rate,
        "CLIP_SAMPLES": front_end.clip_samples,
        "N_FFT": front_end.n_fft,
        "WIN_LENGTH": front_end.win_length,
        "HOP_LENGTH": front_end.hop_length,
        "MELS": front_end.n_mels,
        "FRAMES": front_end.frames,
        "FRACTION_BITS": log_mel.fraction_bits,
        "POWER_SHIFT": log_mel.power_shift,
        "MEL_BINS": len(_mel_weights(log_mel)),
        "PLACE_LOW": _place_low(front_end.n_fft),
        "RING_SAMPLES": int((arrived - [span.first for span in spans]).max()),
        "START_FRAMES": sum(span.at < 0 for span in spans),  # those that are reflected at the clip's start
        "END_FRAME": sum(span.at + front_end.win_length <= front_end.clip_samples for span in spans),  # at its end
    }


def frontend_tables(log_mel: FixedPointLogMel) -> str:
    """The content of `tinyscene_tables.c`."""
    n_fft, win_length = log_mel.front_end.n_fft, log_mel.front_end.win_length
    places, low = _places(log_mel), _place_low(n_fft)
    tables = [
        _table(
            "int32_t",
            "window",
            "WIN_LENGTH / 2 + 1",
            "the window's rising half, Q31",
            log_mel.window_table[: win_length // 2 + 1],
        ),
        _table(
            "int32_t", "cosine", "N_FFT / 4 + 1", "a quarter of the circle, Q31", log_mel.twiddles[: n_fft // 4 + 1, 0]
        ),
        _table("uint16_t", "place_low", "PLACE_LOW", "the transform's order: by a sample's lower digits", places[:low]),
        _table("uint16_t", "place_high", "N_FFT / TINYSCENE_PLACE_LOW", "the same: by its upper digits", places[::low]),
        _table("uint16_t", "segments", "MELS + 2", "the first bin of each mel segment", log_mel.segment_starts),
        _table("uint16_t", "mel_weights", "MEL_BINS", "each bin's rising weight, Q16", _mel_weights(log_mel)),
        _table("int64_t", "thresholds", None, "the least energy for each feature above -128", log_mel.thresholds),
    ]
    return '#include "tinyscene_frontend.h"\n\n' + "\n".join(tables)


def _place_low(n_fft: int) -> int:
    """How many of `place_low` there are: about as many as of `place_high`."""
    return 1 << (n_fft.bit_length() - 1) // 2


def _places(log_mel: FixedPointLogMel) -> NDArray[np.int64]:
    """The word of the work area that each sample of a frame is loaded to, (n_fft,).

    Sums of the digits' own places, as reversing digits is: places[i + j] is places[i] + places[j] if they share none.
    """
    points = np.empty(len(log_mel.order), np.int64)
    points[log_mel.order] = np.arange(len(points))
    return (2 * points[:, None] + [0, 1]).reshape(-1)


def _mel_weights(log_mel: FixedPointLogMel) -> NDArray[np.uint16]:
    """At least one: C has no array of nothing, and bands between two bins have no weights."""
    return log_mel.mel_weights if len(log_mel.mel_weights) else np.zeros(1, np.uint16)


def _table(kind: str, name: str, length: str | None, meaning: str, values: NDArray[np.integer]) -> str:
    """One constant array of C, after a comment that says what it holds and in how many bytes."""
    bytes_each = {"uint16_t": 2, "int32_t": 4, "int64_t": 8}[kind]
    size = f"TINYSCENE_{length}" if length else str(len(values))
    literal = "INT64_C({})" if kind == "int64_t" else "{}"
    body = textwrap.fill(", ".join(literal.format(value) for value in values.tolist()), 116)
    return (
        f"/* {meaning[0].upper()}{meaning[1:]}: {bytes_each * len(values):,} bytes. */\n"
        f"const {kind} tinyscene_{name}[{size}] = {{\n{textwrap.indent(body, '    ')}\n}};\n"
    )
