"""The front end: every feature constant, named once, and the log-mel in floating point by numpy alone.

One second of sound at `sample_rate` becomes a log-mel of `n_mels` bands by `frames` frames:
reflect-padded and centred frames, periodic Hann window, power spectrum, HTK mel triangles without
normalisation, log(x + log_offset). These are the settings of the DCASE 2024 Task 1 baseline and the
definitions of torchaudio's `MelSpectrogram`, to which the tests hold them.

The log-mel in floating point is what float ONNX models take. Its last bits depend on the processor, because numpy's
FFT, matrix product and logarithm do. Bundles take that of `fixed_point.py`, which is the same everywhere.
"""

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError

Float32 = NDArray[np.float32]

MAX_SPECTRUM = 2**21  # values of a clip's spectrum: eight times the baseline's
MAX_FILTERBANK = 2**23  # values: eight times the baseline's
MAX_FEATURES = 2**19  # values of a clip's log-mel: thirty times the baseline's
PCM_SCALE = np.float32(32768.0)  # int16 full scale; a float waveform is PCM / PCM_SCALE


def float_pcm(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """int16 PCM of any shape as float samples within +-1."""
    return pcm.astype(np.float32) / PCM_SCALE


@dataclass(frozen=True)
class FrontEnd:
    """Feature settings. The defaults are the DCASE 2024 Task 1 baseline's: 256 mel x 65 frames at 32 kHz."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True, "use_attribute_docstrings": True}

    sample_rate: int = 32_000
    """Sample rate of the audio, in Hz."""
    n_fft: int = 4096
    """Length of the FFT, in samples."""
    win_length: int = 3072
    """Length of the Hann window, in samples."""
    hop_length: int = 500
    """Samples from one frame to the next."""
    n_mels: int = 256
    """Number of mel bands."""
    f_min: float = 0.0
    """Lower edge of the first mel band, in Hz."""
    f_max: float | None = None
    """Upper edge of the last mel band, in Hz; null is half the sample rate."""
    log_offset: float = 1e-5
    """Added to the power before the logarithm."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels"):
            if type(getattr(self, name)) is not int:
                raise InputError(f"features.{name} is {getattr(self, name)!r}: it must be a whole number")
        limits = {
            "sample_rate": (4_000, 192_000),
            "n_fft": (16, 65_536),
            "win_length": (1, self.n_fft),
            "hop_length": (1, self.sample_rate),
            "n_mels": (1, 1024),
            "log_offset": (1e-20, 1.0),
            "top_frequency": (1.0, self.sample_rate / 2),
            "f_min": (0.0, self.top_frequency - 1.0),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                key = "f_max" if name == "top_frequency" else name
                raise InputError(f"features.{key} is {getattr(self, name)}: it must lie in {low:g} to {high:g}")
        if self.n_fft % 2 or self.n_fft // 2 >= self.clip_samples:
            raise InputError(f"features.n_fft is {self.n_fft}: it must be even and less than two seconds long")
        for what, size, most in (
            ("frames and n_fft", self.frames * self.n_fft, MAX_SPECTRUM),
            ("n_mels and n_fft", self.n_mels * self.n_fft, MAX_FILTERBANK),
            ("n_mels and frames", self.n_mels * self.frames, MAX_FEATURES),
        ):
            if size > most:
                raise InputError(
                    f"features: {what} multiply to {size:,}, more than {most:,} ({self.frames:,} frames of "
                    f"{self.n_mels} mel bands with an n_fft of {self.n_fft:,}); choose other sizes"
                )

    @property
    def top_frequency(self) -> float:
        """The upper edge of the last mel band, in Hz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def clip_samples(self) -> int:
        """Samples in a clip: one second."""
        return self.sample_rate

    @property
    def frames(self) -> int:
        """Frames of a clip's log-mel."""
        return 1 + self.clip_samples // self.hop_length

    @property
    def shape(self) -> tuple[int, int]:
        """(mel, frame) of a clip's log-mel."""
        return self.n_mels, self.frames

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)

    def window(self) -> Float32:
        """Periodic Hann window, (win_length,)."""
        n = np.arange(self.win_length, dtype=np.float64)
        return (0.5 - 0.5 * np.cos(2 * np.pi * n / self.win_length)).astype(np.float32)

    def mel_edges(self) -> NDArray[np.float64]:
        """Where the mel triangles begin, peak and end, in Hz, (n_mels + 2,): band m spans edges m to m + 2."""
        top, bottom = _hertz_to_mel(self.top_frequency), _hertz_to_mel(self.f_min)
        return 700.0 * (10.0 ** (np.linspace(bottom, top, self.n_mels + 2) / 2595.0) - 1.0)

    def filterbank(self) -> Float32:
        """Mel weights of the power spectrum, (n_mels, n_fft // 2 + 1): HTK scale, triangles of height one."""
        bins = np.linspace(0, self.sample_rate / 2, self.n_fft // 2 + 1)  # Hz
        edges = self.mel_edges()
        rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
        return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)

    def log_mel(self, clips: Float32) -> Float32:
        """Log-mel of one-second clips within +-1: (batch, samples) -> (batch, mel, frame)."""
        window, filterbank = _constants(self)
        edge = self.n_fft // 2
        signal = np.pad(clips, ((0, 0), (edge, edge)), mode="reflect")
        features = np.empty((len(clips), *self.shape), np.float32)
        for feature, samples in zip(features, signal, strict=True):
            framed = np.lib.stride_tricks.sliding_window_view(samples, self.n_fft)[:: self.hop_length]
            spectrum = np.fft.rfft(framed * window)  # (frame, bin)
            power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
            feature[:] = np.log(filterbank @ power.T + np.float32(self.log_offset))  # (mel, frame)
        return features


def _hertz_to_mel(frequency: float) -> float:
    return 2595.0 * math.log10(1.0 + frequency / 700.0)


@lru_cache(maxsize=8)
def _constants(front_end: FrontEnd) -> tuple[Float32, Float32]:
    """The window, zero-padded on both sides to n_fft, and the filterbank."""
    left = (front_end.n_fft - front_end.win_length) // 2
    padded = np.zeros(front_end.n_fft, np.float32)
    padded[left : left + front_end.win_length] = front_end.window()
    return padded, front_end.filterbank()
