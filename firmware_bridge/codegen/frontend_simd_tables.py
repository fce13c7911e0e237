"""Constants and tables for `runtime/tinyscene_frontend_simd.c`: the front end of hosts, in vectors."""

import numpy as np

from tinyscene.deploy.frontend.fixed_point import FixedPointLogMel
from tinyscene.firmware_bridge.codegen.frontend_tables import cells, table

ROW = 16  # points of a row where rows and columns are exchanged: at most as many as there are rows then
LOWEST_FFT, HIGHEST_FFT = 2 * ROW**2, 32_768  # other sizes are left to the plain front end


def simd_config(log_mel: FixedPointLogMel) -> dict[str, int]:
    """The constants for `tinyscene_layout.h`; none if vectors cannot compute this front end."""
    if not LOWEST_FFT <= log_mel.front_end.n_fft <= HIGHEST_FFT or log_mel.fraction_bits < 1:
        return {}
    return {"ROTATIONS": len(_rotations(log_mel)), "CELL_THRESHOLDS": _most_in_a_cell(log_mel)}


def simd_tables(log_mel: FixedPointLogMel) -> str:
    """The content of `tinyscene_tables_simd.c`, if `simd_config` gives any constants."""
    high, low = _window_halves(log_mel)
    tables = "\n".join(
        [
            table("int16_t", "window_high", "the negative window of a whole frame, Q15, rounded to nearest", high),
            table("int16_t", "window_low", "what is left of it, Q31", low),
            table("int32_t", "rotations", "rotations in the order in which the passes use them", _rotations(log_mel)),
            table("uint16_t", "row_weights", "mel weights of the bins of each row of powers", _row_weights(log_mel)),
        ]
    )
    return f'#include "tinyscene_frontend_stages.h"\n\n#if defined(TINYSCENE_FRONTEND_SIMD)\n\n{tables}\n#endif\n'


def _window_halves(log_mel: FixedPointLogMel) -> tuple[list[int], list[int]]:
    """Each weight as -(high * 2**16 + low): the negative of the largest one fits 16 bits, too."""
    n_fft, win_length = log_mel.front_end.n_fft, log_mel.front_end.win_length
    window = np.zeros(n_fft, np.int64)
    left = (n_fft - win_length) // 2
    window[left : left + win_length] = log_mel.window_table
    high = (-window + 2**15) >> 16
    return high.tolist(), (-window - (high << 16)).tolist()


def _rotations(log_mel: FixedPointLogMel) -> list[int]:
    """By pass. Of those along rows: for each k from 1 on, cosine and sine of the three rotations. Of the last two, for
    each rotation, the cosines of all k, then the sines."""
    points = log_mel.front_end.n_fft // 2
    length = 4 if points.bit_length() % 2 else 8  # of the transforms after the first pass
    parts = []
    while length < points:
        angles = np.arange(length)[:, None] * [1, 2, 3] * (points // 2 // length)  # (k, rotation)
        rotations = log_mel.twiddles[angles]  # (k, rotation, cosine and sine)
        parts.append(rotations[1:] if length < points // ROW else rotations.transpose(1, 2, 0))
        length *= 4
    return np.concatenate([part.reshape(-1) for part in parts]).tolist()


def _most_in_a_cell(log_mel: FixedPointLogMel) -> int:
    """The most thresholds that a cell of energies has."""
    return int(np.diff(cells(log_mel), append=len(log_mel.thresholds)).max())


def _row_weights(log_mel: FixedPointLogMel) -> list[int]:
    """The rising weights of bins k, half - k, half + k and twice half - k, for k up to half of half."""
    half, starts = log_mel.front_end.n_fft // 4, log_mel.segment_starts
    weights = np.zeros(2 * half + 1, np.int64)
    weights[starts[0] : starts[-1]] = log_mel.mel_weights
    k = np.arange(half // 2 + 1)
    return weights[np.stack([k, half - k, half + k, 2 * half - k], axis=1)].reshape(-1).tolist()
