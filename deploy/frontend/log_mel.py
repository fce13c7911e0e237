"""The front end: every feature constant, named once, and the log-mel in floating point by numpy alone.

A clip of `clip_seconds` at `sample_rate` becomes a log-mel of `n_mels` bands by `frames` frames:
reflect-padded and centred frames, periodic Hann window, power spectrum, HTK mel triangles without
normalisation, log(x + log_offset). These are the settings of the DCASE 2024 Task 1 baseline and the
definitions of torchaudio's `MelSpectrogram`, to which the tests hold them. With `edges: none` all frames lie within
the clip, so that a frame is the same in every clip that holds its samples.

The log-mel in floating point is what float ONNX models take. Its last bits depend on the processor, because numpy's
FFT, matrix product and logarithm do. Bundles take that of `fixed_point.py`, which is the same everywhere.
"""

import math
from dataclasses import InitVar, asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError

Float32 = NDArray[np.float32]
Sample = TypeVar("Sample", np.float32, np.int16)

CLIP_SECONDS = (0.25, 10.0)  # least and most
Edges = Literal["reflect", "none"]

ONE_SECOND = 1.0  # the length of a clip that is not written down
WINDOW_SECONDS, HOP_SECONDS = 0.096, 0.015625  # 3072 and 500 samples at 32 kHz
LEAST_FFT = 64  # that is chosen for a window; the least that the fixed-point front end has
MAX_SPECTRUM = 2**22  # values of a clip's spectrum: sixteen times the baseline's for a second
MAX_FILTERBANK = 2**23  # values: eight times the baseline's
MAX_FEATURES = 2**19  # values of a clip's log-mel: thirty times the baseline's
PCM_SCALE = np.float32(32768.0)  # int16 full scale; a float waveform is PCM / PCM_SCALE


def float_pcm(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """int16 PCM of any shape as float samples within +-1."""
    return pcm.astype(np.float32) / PCM_SCALE


_BY_SECONDS: Any = None  # the default of lengths that `FrontEnd.__post_init__` finds


@dataclass(frozen=True)
class FrontEnd:
    """Feature settings. The defaults are the DCASE 2024 Task 1 baseline's: 256 mel x 65 frames at 32 kHz.

    Window and hop may be given in seconds or in samples. What is not given has its default in seconds, so that at
    another sample rate it is as long as at 32 kHz.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True, "use_attribute_docstrings": True}

    sample_rate: int = 32_000
    """Sample rate of the audio, in Hz."""
    n_fft: int = _BY_SECONDS
    """Length of the FFT, in samples; by default the least power of two that holds the window."""
    win_length: int = _BY_SECONDS
    """Length of the Hann window, in samples; by default `window_seconds` times the sample rate, rounded."""
    hop_length: int = _BY_SECONDS
    """Samples from one frame to the next; by default `hop_seconds` times the sample rate, rounded."""
    n_mels: int = 256
    """Number of mel bands."""
    f_min: float = 0.0
    """Lower edge of the first mel band, in Hz."""
    f_max: float | None = None
    """Upper edge of the last mel band, in Hz; null is half the sample rate."""
    log_offset: float = 1e-5
    """Added to the power before the logarithm."""
    clip_seconds: float = ONE_SECOND
    """Length of the clips that are classified, in seconds, 0.25 to 10. Recordings are cut into such clips."""
    edges: Edges = "reflect"
    """What lies beyond a clip's ends. reflect: frames are centred on multiples of the hop, and the clip is reflected at
    its ends. none: frames begin at multiples of the hop and lie within the clip, for networks that stream."""
    window_seconds: InitVar[float | None] = None
    """Length of the Hann window, in seconds, in place of `win_length`; 0.096 if neither is given."""
    hop_seconds: InitVar[float | None] = None
    """Time from one frame to the next, in seconds, in place of `hop_length`; 0.015625 if neither is given."""

    def __post_init__(self, window_seconds: float | None, hop_seconds: float | None) -> None:
        self._require_whole("sample_rate")
        self._require_within({"sample_rate": (4_000, 192_000)})
        self._find_length("win_length", "window_seconds", window_seconds, WINDOW_SECONDS)
        self._find_length("hop_length", "hop_seconds", hop_seconds, HOP_SECONDS)
        if self.n_fft is None:
            object.__setattr__(self, "n_fft", max(LEAST_FFT, 1 << max(0, self.win_length - 1).bit_length()))
        for name in ("n_fft", "n_mels"):
            self._require_whole(name)
        if type(self.clip_seconds) not in (int, float):
            raise InputError(f"features.clip_seconds is {self.clip_seconds!r}: it must be a number")
        if self.edges not in get_args(Edges):
            raise InputError(f"features.edges is {self.edges!r}: it must be one of {', '.join(get_args(Edges))}")
        self._require_within({"clip_seconds": CLIP_SECONDS})
        object.__setattr__(self, "clip_seconds", float(self.clip_seconds))
        self._require_within(
            {
                "n_fft": (16, 65_536),
                "win_length": (1, self.n_fft),
                "hop_length": (1, min(self.sample_rate, self.clip_samples)),
                "n_mels": (1, 1024),
                "log_offset": (1e-20, 1.0),
                "top_frequency": (1.0, self.sample_rate / 2),
                "f_min": (0.0, self.top_frequency - 1.0),
            }
        )
        self._check_sizes()

    def _require_whole(self, name: str) -> None:
        if type(getattr(self, name)) is not int:
            raise InputError(f"features.{name} is {getattr(self, name)!r}: it must be a whole number")

    def _require_within(self, limits: dict[str, tuple[float, float]]) -> None:
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                key = "f_max" if name == "top_frequency" else name
                raise InputError(f"features.{key} is {getattr(self, name)}: it must lie in {low:g} to {high:g}")

    def _find_length(self, name: str, name_in_seconds: str, seconds: float | None, default: float) -> None:
        """Set a length in samples that was not given, from the one in seconds or its default."""
        if seconds is not None:
            if getattr(self, name) is not None:
                raise InputError(
                    f"features.{name_in_seconds} and features.{name} are the same length: give one of them"
                )
            if type(seconds) not in (int, float) or not 0 < seconds <= CLIP_SECONDS[1]:
                raise InputError(f"features.{name_in_seconds} is {seconds!r}: it must be above 0 and at most 10")
        if getattr(self, name) is None:
            object.__setattr__(self, name, round((default if seconds is None else seconds) * self.sample_rate))
        self._require_whole(name)

    def _check_sizes(self) -> None:
        shortest = min(self.clip_samples, self.sample_rate)  # also of the second for which MACs are counted
        longest = 2 * shortest - 1 if self.edges == "reflect" else self.n_fft
        if self.n_fft % 2 or self.n_fft > longest:
            raise InputError(
                f"features.n_fft is {self.n_fft}: it must be even and less than {2 * shortest:,} samples, two clips or "
                "two seconds"
            )
        if self.edges == "none" and self.win_length > shortest:
            raise InputError(
                f"features.win_length is {self.win_length}: without edges it must be at most {shortest:,} samples, a "
                "clip or a second"
            )
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
        """Samples in a clip."""
        return clip_samples(self.sample_rate, self.clip_seconds)

    @property
    def frames(self) -> int:
        """Frames of a clip's log-mel."""
        return 1 + (self.clip_samples + sum(self.padding) - self.n_fft) // self.hop_length

    def seconds_of(self, frames: int) -> float:
        """The shortest clip of so many frames, in seconds."""
        samples = self.n_fft - sum(self.padding) + (frames - 1) * self.hop_length
        return samples / self.sample_rate

    @property
    def padding(self) -> tuple[int, int]:
        """Samples that the first and last frame of n_fft reach beyond a clip; their windows do only with edges."""
        if self.edges == "reflect":
            return self.n_fft // 2, self.n_fft // 2
        beside = self.n_fft - self.win_length
        return beside // 2, beside - beside // 2

    @property
    def shape(self) -> tuple[int, int]:
        """(mel, frame) of a clip's log-mel."""
        return self.n_mels, self.frames

    def as_dict(self) -> dict[str, float | int | str | None]:
        """The settings in samples. Files leave out a clip of one second and reflected edges, as older files do."""
        settings = asdict(self)
        if self.clip_seconds == ONE_SECOND:
            del settings["clip_seconds"]
        if self.edges == "reflect":
            del settings["edges"]
        return settings

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
        """Log-mel of clips within +-1: (batch, samples) -> (batch, mel, frame)."""
        window, filterbank = _constants(self)
        features = np.empty((len(clips), *self.shape), np.float32)
        for feature, clip in zip(features, clips, strict=True):
            spectrum = np.fft.rfft(self.framed(clip) * window)  # (frame, bin)
            power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
            feature[:] = np.log(filterbank @ power.T + np.float32(self.log_offset))  # (mel, frame)
        return features

    def framed(self, clip: NDArray[Sample]) -> NDArray[Sample]:
        """The frames of a clip (samples,), before the window: (frame, n_fft)."""
        padded = np.pad(clip, self.padding, mode="reflect" if self.edges == "reflect" else "constant")
        return np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop_length]


def clip_samples(sample_rate: int, clip_seconds: float) -> int:
    """Samples in a clip of so many seconds, a half rounded up."""
    return math.floor(clip_seconds * sample_rate + 0.5)


def _hertz_to_mel(frequency: float) -> float:
    return 2595.0 * math.log10(1.0 + frequency / 700.0)


@lru_cache(maxsize=8)
def _constants(front_end: FrontEnd) -> tuple[Float32, Float32]:
    """The window, zero-padded on both sides to n_fft, and the filterbank."""
    left = (front_end.n_fft - front_end.win_length) // 2
    padded = np.zeros(front_end.n_fft, np.float32)
    padded[left : left + front_end.win_length] = front_end.window()
    return padded, front_end.filterbank()
