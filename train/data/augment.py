"""Augmentation of a batch, each a recipe key under `augment`, all batched on the torch device of the model.

Order: device impulse response and time roll on the waveform; level and frequency response, then masks, on the
mel power (masks as the DCASE 2024 baseline has them: masked values become the logarithm's floor); Freq-MixStyle
and mixup on the log-mel. Kaldi features have their masks after the logarithm, with a value of their own.

The transforms are pure functions of explicit numbers. `draw` makes those numbers with numpy on the CPU,
from a generator seeded by run, epoch and step: the same on every torch device, and a resumed run repeats them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.frontend.sound_files import SUFFIXES
from tinyscene.train.data.features import LogMel
from tinyscene.train.data.kaldi_features import KaldiMel
from tinyscene.train.training_settings import Augment

Features = LogMel | KaldiMel

MIXSTYLE_EPSILON = 1e-6  # of the variance, as published
FILTER_KNOTS = (4, 7)  # of a random frequency response, least and most, its ends included


@dataclass(frozen=True)
class Draw:
    """The random numbers of one batch. None where an augmentation is off or not drawn."""

    shift: Tensor | None = None  # (batch,) samples to roll by
    response: Tensor | None = None  # (batch,) index of an impulse response, -1 for none
    gain: Tensor | None = None  # (batch, mel) factors of the power
    freq_mask: tuple[Tensor, Tensor] | None = None  # first band and number of bands, (batch,) each
    time_mask: tuple[Tensor, Tensor] | None = None  # first frame and number of frames, (batch,) each
    mixstyle: tuple[Tensor, Tensor] | None = None  # own share and partner, (batch,) each
    mixup: tuple[Tensor, Tensor] | None = None  # own share and partner, (batch,) each
    f_max: float | None = None  # Hz

    def at_rate(self, ratio: float) -> "Draw":
        """The same draw for the same clips at `ratio` times the sample rate; a shift is rounded to whole samples."""
        return self if self.shift is None else replace(self, shift=(self.shift * ratio).round().long())


def draw(
    settings: Augment,
    front_end: FrontEnd,
    recording_devices: NDArray[np.str_],
    responses: int,
    rng: np.random.Generator,
    torch_device: torch.device,
) -> Draw:
    """Draw a batch's random numbers.

    `recording_devices` (batch,) names each clip's; `responses` counts the impulse responses.
    """
    batch = len(recording_devices)

    def send(values: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(values)
        return (tensor.float() if tensor.is_floating_point() else tensor).to(torch_device)

    def mask(most: int, size: int) -> tuple[Tensor, Tensor]:
        width = rng.uniform(0, 1, batch) * min(most, size)
        first = rng.uniform(0, 1, batch) * (size - width)
        return send(first.astype(np.int64)), send(width.astype(np.int64))

    def mix(alpha: float) -> tuple[Tensor, Tensor]:
        return send(rng.beta(alpha, alpha, batch)), send(rng.permutation(batch))

    roll = int(settings.roll_seconds * front_end.sample_rate)
    shift = send(rng.integers(-roll, roll, batch, endpoint=True)) if roll else None
    response = None
    if responses and settings.dir_p:
        indices = rng.integers(0, responses, batch)
        applies = rng.uniform(0, 1, batch) < settings.dir_p
        if settings.dir_devices:
            applies &= np.isin(recording_devices, settings.dir_devices)
        response = send(np.where(applies, indices, -1))
    return Draw(
        shift=shift,
        response=response,
        gain=send(_gains(settings, front_end.n_mels, batch, rng)) if settings.gain_db or settings.filter_db else None,
        freq_mask=mask(settings.freq_mask, front_end.n_mels) if settings.freq_mask else None,
        time_mask=mask(settings.time_mask, front_end.frames) if settings.time_mask else None,
        mixstyle=mix(settings.mixstyle_alpha) if rng.uniform() < settings.mixstyle_p else None,
        mixup=mix(settings.mixup_alpha) if settings.mixup_alpha else None,
        f_max=_f_max(settings.f_max_jitter, front_end, rng) if settings.f_max_jitter else None,
    )


def _f_max(jitter: float, front_end: FrontEnd, rng: np.random.Generator) -> float:
    """The highest frequency of the batch's mel bands, in whole Hz up to half the sample rate."""
    highest = front_end.top_frequency + jitter / 2 - int(rng.uniform(0, jitter))
    return min(highest, front_end.sample_rate / 2)


def _gains(settings: Augment, n_mels: int, batch: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Factors of the power (batch, mel): a level for each clip, and a response that is linear in dB between knots.

    H. Nam et al., "FilterAugment: An Acoustic Environmental Data Augmentation Method", ICASSP 2022, linear type.
    """
    decibels = np.repeat(rng.uniform(-settings.gain_db, settings.gain_db, (batch, 1)), n_mels, axis=1)
    for clip in range(batch if settings.filter_db else 0):
        inner = rng.uniform(0, n_mels - 1, rng.integers(*FILTER_KNOTS, endpoint=True) - 2)
        knots = np.concatenate([[0], np.sort(inner), [n_mels - 1]])
        response = rng.uniform(-settings.filter_db, settings.filter_db, len(knots))
        decibels[clip] += np.interp(np.arange(n_mels), knots, response)
    return 10.0 ** (decibels / 10.0)


def log_mel(features: Features, signal: Tensor, drawn: Draw) -> Tensor:
    """Log-mel (batch, 1, mel, frame) of clips (batch, samples), with its bands amplified and masked."""
    if isinstance(features, LogMel):
        return features.log(on_power(features.power(signal), drawn))
    power = features.power(signal, drawn.f_max)  # (batch, 1, mel, frame)
    power = on_power(power, replace(drawn, freq_mask=None, time_mask=None))
    return masked(features.log(power), drawn, features.mask_value)


def on_waveform(clips: Tensor, drawn: Draw, responses: Tensor | None) -> Tensor:
    """Clips (batch, samples) with impulse responses (response, frequency) and rolls applied."""
    if drawn.response is not None and responses is not None:
        clips = convolve(clips, responses, drawn.response)
    return clips if drawn.shift is None else roll(clips, drawn.shift)


def on_power(power: Tensor, drawn: Draw) -> Tensor:
    """Mel power (batch, 1, mel, frame) with its bands amplified, then bands and frames masked."""
    if drawn.gain is not None:
        power = power * drawn.gain[:, None, :, None]
    return masked(power, drawn)


def masked(x: Tensor, drawn: Draw, value: float = 0.0) -> Tensor:
    """Bands and frames of (batch, 1, mel, frame) masked."""
    if drawn.freq_mask is not None:
        x = mask(x, *drawn.freq_mask, dim=2, value=value)
    return x if drawn.time_mask is None else mask(x, *drawn.time_mask, dim=3, value=value)


def on_log_mel(log_mel: Tensor, drawn: Draw) -> Tensor:
    """Log-mel (batch, 1, mel, frame) with Freq-MixStyle, then mixed."""
    if drawn.mixstyle is not None:
        log_mel = freq_mixstyle(log_mel, *drawn.mixstyle)
    return mixed(log_mel, drawn)


def mixed(x: Tensor, drawn: Draw) -> Tensor:
    """Examples or targets (batch, ...) mixed by the mixup that was drawn, if any."""
    return x if drawn.mixup is None else mixup(x, *drawn.mixup)


def roll(clips: Tensor, shift: Tensor) -> Tensor:
    """Roll each clip (batch, samples) by its own number of samples; what leaves at one end enters at the other."""
    samples = clips.shape[1]
    source = (torch.arange(samples, device=clips.device) - shift[:, None]) % samples  # (batch, samples)
    return clips.gather(1, source)


def convolve(clips: Tensor, responses: Tensor, indices: Tensor) -> Tensor:
    """Convolve clips (batch, samples) with impulse responses, cut to the clip; index -1 leaves a clip alone.

    `responses` (response, frequency) are spectra of twice a clip's length, so nothing wraps around.
    """
    selected = indices >= 0
    if not selected.any():
        return clips
    spectrum = torch.fft.rfft(clips[selected], n=2 * clips.shape[1])
    convolved = torch.fft.irfft(spectrum * responses[indices[selected]], n=2 * clips.shape[1])
    result = clips.clone()
    result[selected] = convolved[:, : clips.shape[1]]
    return result


def mask(x: Tensor, first: Tensor, width: Tensor, dim: int, value: float = 0.0) -> Tensor:
    """Set `width` neighbours from `first` on along `dim` to a value, a stretch of its own for each example."""
    shape = [1] * x.dim()
    shape[dim] = -1
    position = torch.arange(x.shape[dim], device=x.device).view(shape)
    first, width = (numbers.view(-1, *[1] * (x.dim() - 1)) for numbers in (first, width))
    return x.masked_fill((position >= first) & (position < first + width), value)


def freq_mixstyle(log_mel: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """Give each example (batch, channel, mel, frame) a mix of its own and its partner's statistics of each band.

    F. Schmid et al., "CP-JKU submission to DCASE22", 2022: mean and deviation over channel and time,
    gradients blocked, one share an example.
    """
    with torch.no_grad():
        mean = log_mel.mean((1, 3), keepdim=True)  # (batch, 1, mel, 1)
        deviation = (log_mel.var((1, 3), keepdim=True) + MIXSTYLE_EPSILON).sqrt()
        share = share.view(-1, 1, 1, 1)
        mixed_mean = share * mean + (1 - share) * mean[partner]
        mixed_deviation = share * deviation + (1 - share) * deviation[partner]
    return (log_mel - mean) / deviation * mixed_deviation + mixed_mean


def mixup(x: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """Mix each example or target (batch, ...) with its partner (H. Zhang et al., ICLR 2018)."""
    share = share.view(-1, *[1] * (x.dim() - 1))
    return share * x + (1 - share) * x[partner]


def response_paths(folder: Path) -> list[Path]:
    """The impulse responses in a folder, in the order of `load_responses`. Raises InputError if there are none."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: no such folder, or no impulse responses (audio files) in it")
    return paths


def load_responses(folder: Path, front_end: FrontEnd) -> Tensor:
    """Spectra (response, frequency) of a folder's impulse responses, for `convolve`.

    Each is resampled, cut to one second, or to a clip if that is shorter, in floating point and then scaled to unit
    energy, so that the level at which a response was recorded does not matter. Raises InputError if the folder holds
    none or a file cannot be read.
    """
    paths = response_paths(folder)
    signals = np.stack([Recording(path, front_end.sample_rate).first_second() for path in paths])
    signals = signals[:, : front_end.clip_samples]  # (response, samples)
    energy = np.sqrt((signals**2).sum(axis=1, keepdims=True))
    if not energy.all():
        raise InputError(f"{folder}: the impulse response {paths[int(energy.argmin())].name} is silent")
    scaled = torch.from_numpy((signals / energy).astype(np.float32))
    return torch.fft.rfft(scaled, n=2 * front_end.clip_samples)
