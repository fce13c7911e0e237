"""Rounding of a convolution's weights for the least error of its output, rather than of each weight to the nearest.

    integers, scales = round_weights(weights, covariance, scales)

Rounding errors e of an output channel's weights change its output by e . x, x the inputs that the weights meet. Biases
take back the mean of that change (`train/quantize/correct.py`), so that e' C e is left, C the covariance of x. The
integers of least e' C e are sought as E. Frantar et al. do in "GPTQ", ICLR 2023: weight by weight, each rounded with
what the errors of those before it are worth to it; then weights that gain by one step more or less are moved, as long
as there are some. This is tried with several scales a channel, and the best is kept.

Every sum is taken in the order of its terms, so that every processor finds the same integers.
"""

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.graph.operator import WEIGHT_MAX

Float64 = NDArray[np.float64]

STRETCHES = np.linspace(1.0, 1.3, 7)  # of a scale, that are tried
DAMPING = 1e-4  # share of the mean variance that is added to each: for inputs that calibration clips do not tell apart
MAX_SWEEPS = 20
LEAST_GAIN = 1e-9  # of the variance, below which a step more or less is none


def round_weights(weights: Float64, covariance: Float64, scales: Float64) -> tuple[Float64, Float64]:
    """Integers (groups, outputs, weights) and scales (groups, outputs), at least those given.

    weights: (groups, outputs, weights); covariance of the inputs of a group: (groups, weights, weights); a scale:
    the step of an output's weights.
    """
    variance = covariance.trace(axis1=1, axis2=2) / covariance.shape[1]  # (groups,)
    damping = (DAMPING * variance + np.finfo(np.float32).tiny)[:, None, None]
    covariance = covariance + damping * np.eye(covariance.shape[1])
    unit = _factor(covariance)
    found, chosen = np.zeros_like(weights), scales
    least = np.full(scales.shape, np.inf)
    for stretch in STRETCHES:
        tried = scales * stretch
        exact = weights / tried[..., None]
        integers, error = _improved(exact, _one_by_one(exact, unit), covariance)
        error = error * tried**2
        better = error < least
        found = np.where(better[..., None], integers, found)
        least, chosen = np.where(better, error, least), np.where(better, tried, chosen)
    return found, chosen


def _factor(covariance: Float64) -> Float64:
    """L of C = L D L', unit lower triangular, D diagonal; (groups, weights, weights) each."""
    rest, lower = covariance.copy(), np.zeros_like(covariance)
    for index in range(covariance.shape[1]):
        column = rest[:, :, index] / rest[:, index, index, None]
        lower[:, :, index] = column
        rest = rest - column[:, :, None] * rest[:, index, None, :]
    return lower


def _one_by_one(exact: Float64, lower: Float64) -> Float64:
    """Integers near exact values (groups, outputs, weights): e' C e = sum of D_i (e_i + sum of L_ji e_j, j > i)^2."""
    integers, shift = np.zeros_like(exact), np.zeros_like(exact)
    for index in reversed(range(exact.shape[2])):
        wanted = np.rint(exact[..., index] - shift[..., index])
        integers[..., index] = np.clip(wanted, -WEIGHT_MAX, WEIGHT_MAX)
        error = integers[..., index] - exact[..., index]  # (groups, outputs)
        shift += error[..., None] * lower[:, None, index, :]
    return integers


def _improved(exact: Float64, integers: Float64, covariance: Float64) -> tuple[Float64, Float64]:
    """Integers (groups, outputs, weights) that no change of one of them makes better, and their e' C e."""
    error = integers - exact
    slope = np.zeros_like(error)  # C e
    for index in range(error.shape[2]):
        slope += error[..., index, None] * covariance[:, None, index, :]
    own = np.einsum("gii->gi", covariance)  # (groups, weights), a view
    for _ in range(MAX_SWEEPS):
        moved = False
        for index in range(error.shape[2]):
            best = np.rint(-slope[..., index] / own[:, None, index])
            best = np.clip(integers[..., index] + best, -WEIGHT_MAX, WEIGHT_MAX) - integers[..., index]
            gain = -best * (2 * slope[..., index] + best * own[:, None, index])
            step = np.where(gain > LEAST_GAIN * own[:, None, index], best, 0.0)  # (groups, outputs)
            if step.any():
                moved = True
                integers[..., index] += step
                slope += step[..., None] * covariance[:, None, index, :]
        if not moved:
            break
    error, total = integers - exact, np.zeros(integers.shape[:2])
    for index in range(error.shape[2]):
        total += error[..., index] * slope[..., index]
    return integers, total
