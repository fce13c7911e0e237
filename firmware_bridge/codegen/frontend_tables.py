"""Constants and tables for `runtime/tinyscene_frontend*.c`."""

import textwrap

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.deploy.frontend.frame_spans import frame_spans


def frontend_config(log_mel: FixedPointLogMel) -> dict[str, int]:
    """The constants for `tinyscene_layout.h`, under their names there without TINYSCENE_.

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
        "LEAD": -spans[0].at,  # samples of the first frame before the clip
        "FRACTION_BITS": log_mel.fraction_bits,
        "POWER_SHIFT": log_mel.power_shift,
        "MEL_BINS": len(_mel_weights(log_mel)),
        "RADIX": _radix(log_mel),
        "SEGMENTS": _segments(log_mel),
        "RING_SAMPLES": int((arrived - [span.first for span in spans]).max()),
        "START_FRAMES": sum(span.at < 0 for span in spans),  # those that are reflected at the clip's start
        "END_FRAME": sum(span.at + front_end.win_length <= front_end.clip_samples for span in spans),  # at its end
    }


def frontend_tables(log_mel: FixedPointLogMel) -> str:
    """The content of `tinyscene_tables.c`."""
    quarter = log_mel.twiddles[: log_mel.front_end.n_fft // 4 + 1, 0]
    thresholds, cell_counts = [*log_mel.thresholds.tolist(), 2**64 - 1], cells(log_mel)
    vectors = "the {}, Q31, in vectors of four"
    tables = [
        "#if defined(TINYSCENE_FRONTEND_MVE)\n",
        table("int32_t", "window", vectors.format("window"), _window_vectors(log_mel)),
        table("int32_t", "twiddles", vectors.format("rotations of all passes"), _twiddle_vectors(log_mel)),
        "#else\n",
        table("int32_t", "window", "the window's rising half, Q31", _window(log_mel)),
        table("int32_t", "twiddles", "rotations of the last pass, Q31", _twiddles(log_mel)),
        "#endif\n",
        table("uint16_t", "order", "the transform's order", _order(log_mel)),
        table("int32_t", "cosine", "a quarter of the circle, Q31", quarter.tolist()),
        table("uint16_t", "segments", "the first bin of each mel segment", log_mel.segment_starts.tolist()),
        table("uint16_t", "mel_weights", "each bin's rising weight, Q16", _mel_weights(log_mel).tolist()),
        table("uint64_t", "thresholds", "the least energy for each feature above -128, and beyond all", thresholds),
        table("uint8_t", "cells", "how many of them are below each cell of energies", cell_counts),
    ]
    return '#include "tinyscene_frontend_stages.h"\n\n' + "\n".join(tables)


def _radix(log_mel: FixedPointLogMel) -> int:
    """Points of the first pass: so many that passes of four follow."""
    return 8 if len(log_mel.order).bit_length() % 2 == 0 else 4


def _segments(log_mel: FixedPointLogMel) -> int:
    """How many of the `_radix` parts of a frame have a weight other than zero, those in the middle: all or 6 of 8."""
    radix, front_end = _radix(log_mel), log_mel.front_end
    return 6 if radix == 8 and 4 * front_end.win_length <= 3 * front_end.n_fft else radix


def _window(log_mel: FixedPointLogMel) -> list[int]:
    """The weights of each place in a segment, and of the place after the last, of all rising segments."""
    size = log_mel.front_end.n_fft // _radix(log_mel)
    starts = _segment_starts(log_mel)
    return _frame_window(log_mel)[np.arange(size + 1)[:, None] + starts[: len(starts) // 2]].ravel().tolist()


def _window_vectors(log_mel: FixedPointLogMel) -> list[int]:
    """The weights of each four points, of all segments: those of the four real parts, then of the imaginary ones."""
    starts, firsts = _segment_starts(log_mel), np.arange(0, log_mel.front_end.n_fft // _radix(log_mel), 8)
    samples = firsts[:, None, None, None] + starts[:, None, None] + [[0], [1]] + 2 * np.arange(4)
    return _frame_window(log_mel)[samples].ravel().tolist()  # (four points, segment, re and im, 4)


def _frame_window(log_mel: FixedPointLogMel) -> NDArray[np.int64]:
    """The window within its frame, and a zero after that, (n_fft + 1,)."""
    front_end = log_mel.front_end
    left = (front_end.n_fft - front_end.win_length) // 2
    frame = np.zeros(front_end.n_fft + 1, np.int64)
    frame[left : left + front_end.win_length] = log_mel.window_table
    return frame


def _segment_starts(log_mel: FixedPointLogMel) -> NDArray[np.int64]:
    """The first sample of each segment that has weights."""
    n_fft, segments = log_mel.front_end.n_fft, _segments(log_mel)
    return n_fft // 2 + n_fft // _radix(log_mel) * np.arange(-segments // 2, segments // 2)


def _order(log_mel: FixedPointLogMel) -> list[int]:
    """Which block of the work area begins with each point."""
    return np.argsort(log_mel.order[:: _radix(log_mel)]).tolist()


def _twiddles(log_mel: FixedPointLogMel) -> list[int]:
    """Rotations of d, b and c in the last pass for k from 1 to the middle; those after it follow by symmetry."""
    n_fft = log_mel.front_end.n_fft
    angles = np.arange(1, n_fft // 16 + 1)[:, None] * (2 * np.array([3, 1, 2]))  # of n_fft to the circle
    return log_mel.twiddles[angles].ravel().tolist()


def _twiddle_vectors(log_mel: FixedPointLogMel) -> list[int]:
    """Rotations of d, b and c in every pass for k from 1 on, as four cosines and four sines for each four of k."""
    n_fft, values, length = log_mel.front_end.n_fft, [], _radix(log_mel)
    while length < n_fft // 2:
        angles = (np.arange(length) + 1) * (
            n_fft // 4 // length
        )  # of n_fft to the circle; one for the last is not used
        angles[-1] = 0
        turns = angles.reshape(-1, 1, 4) * np.array([3, 1, 2])[:, None]  # (vector, point, 4)
        values += log_mel.twiddles[turns].transpose(0, 1, 3, 2).ravel().tolist()
        length *= 4
    return values


def cells(log_mel: FixedPointLogMel) -> list[int]:
    """How many thresholds do not exceed the least energy of each cell, see tinyscene_feature.

    A cell is the place of the leading bit, 5 to 62, with the four bits after it. Energies below 32 are in the first.
    """
    least = [0] * 16 + [(16 + fraction << place) >> 4 for place in range(5, 63) for fraction in range(16)]
    return np.searchsorted(log_mel.thresholds, least, side="right").tolist()


def _mel_weights(log_mel: FixedPointLogMel) -> NDArray[np.uint16]:
    """At least one: C has no array of nothing, and bands between two bins have no weights."""
    return log_mel.mel_weights if len(log_mel.mel_weights) else np.zeros(1, np.uint16)


def table(kind: str, name: str, meaning: str, values: list[int]) -> str:
    """One constant array of C, after a comment that says what it holds and in how many bytes."""
    bytes_each = {"uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint64_t": 8}[kind]
    literal = "UINT64_C({})" if kind == "uint64_t" else "{}"
    body = textwrap.fill(", ".join(literal.format(value) for value in values), 116)
    return (
        f"/* {meaning[0].upper()}{meaning[1:]}: {bytes_each * len(values):,} bytes. */\n"
        f"TINYSCENE_TABLES const {kind} tinyscene_{name}[{len(values)}] = {{\n{textwrap.indent(body, '    ')}\n}};\n"
    )
