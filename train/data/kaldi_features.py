"""The features that published teachers were trained on, in torch, with the interface of `train/data/features.py`.

Both follow Kaldi: triangles that are straight in mel rather than in Hz, pre-emphasis, a symmetric Hann window.
Constants that a recipe's `features` have are taken from there, the others are here. A second has fewer frames than
`FrontEnd.frames` says, 100 and 98 of 101: pre-emphasis costs PaSST's a sample, and AST's lie within the clip.

`PasstMel` is what K. Koutini et al. (arXiv 2110.05069) evaluate on: 128 mels, 0 to 15 kHz, hop 10 ms at 32 kHz.
`AstMel` is `torchaudio.compliance.kaldi.fbank` as called by Y. Gong et al., "AST: Audio Spectrogram Transformer",
Interspeech 2021: 128 mels, 20 Hz to 8 kHz, hop 10 ms at 16 kHz.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.features import framed_spectrum

PREEMPHASIS = 0.97  # share of the sample before that is taken off
PASST_MEAN, PASST_DEVIATION = -4.5, 5.0  # of log-mels, as assumed by its authors
AST_MEAN, AST_DEVIATION = -4.2677393, 4.5689974  # of AudioSet's log-mels
AST_FLOOR = 2.0**-23  # of mel power; Kaldi has a floor under the logarithm in place of an offset


class KaldiMel(nn.Module, ABC):
    """Clips -> normalised log-mel. `power` and `log` are apart because augmentation goes between them.

    Masks come after the logarithm, as the authors have them: they put zeros into the log-mel before it is normalised,
    which is `mask_value` then.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        window = torch.hann_window(front_end.win_length, periodic=False, dtype=torch.float64).float()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filterbank", kaldi_filterbank(front_end), persistent=False)

    @property
    @abstractmethod
    def mask_value(self) -> float:
        """What a masked value of the normalised log-mel is."""

    def power(self, clips: Tensor, f_max: float | None = None) -> Tensor:
        """Clips (batch, samples) within +-1 -> mel power (batch, 1, mel, frame), up to `f_max` in place of its own."""
        spectrum = self._spectrum(clips)  # (batch, bin, frame)
        filterbank = self.filterbank
        if f_max is not None:
            filterbank = kaldi_filterbank(replace(self.front_end, f_max=f_max)).to(filterbank.device)
        return (filterbank @ (spectrum.real.square() + spectrum.imag.square())).unsqueeze(1)

    @abstractmethod
    def log(self, power: Tensor) -> Tensor:
        """Mel power -> normalised log-mel, of any shape."""

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (batch, samples) within +-1 -> normalised log-mel (batch, 1, mel, frame)."""
        return self.log(self.power(clips))

    @abstractmethod
    def _spectrum(self, clips: Tensor) -> Tensor:
        """Complex, (batch, bin, frame)."""


class PasstMel(KaldiMel):
    """PaSST's: pre-emphasis of the clip, reflect-padded and centred frames, an offset before the logarithm."""

    @property
    def mask_value(self) -> float:
        return -PASST_MEAN / PASST_DEVIATION

    def _spectrum(self, clips: Tensor) -> Tensor:
        return framed_spectrum(clips[:, 1:] - PREEMPHASIS * clips[:, :-1], self.front_end, self.window)

    def log(self, power: Tensor) -> Tensor:
        return ((power + self.front_end.log_offset).log() - PASST_MEAN) / PASST_DEVIATION


class AstMel(KaldiMel):
    """AST's: frames within the clip, the mean taken off and pre-emphasis made in each, a floor under the logarithm."""

    @property
    def mask_value(self) -> float:
        return -AST_MEAN / (2 * AST_DEVIATION)

    def _spectrum(self, clips: Tensor) -> Tensor:
        settings = self.front_end
        frames = clips.unfold(1, settings.win_length, settings.hop_length)  # (batch, frame, sample)
        frames = frames - frames.mean(2, keepdim=True)
        frames = frames - PREEMPHASIS * frames.roll(1, 2)  # what the first gets of the last, the window takes away
        return torch.fft.rfft(frames * self.window, settings.n_fft).transpose(1, 2)

    def log(self, power: Tensor) -> Tensor:
        return (power.clamp(min=AST_FLOOR).log() - AST_MEAN) / (2 * AST_DEVIATION)


def kaldi_filterbank(front_end: FrontEnd) -> Tensor:
    """Weights of the power spectrum, (mel, bin): triangles of height one, equally wide and straight in mel."""
    bins = _mel(torch.linspace(0, front_end.sample_rate / 2, front_end.n_fft // 2 + 1, dtype=torch.float64))
    bottom, top = _mel(torch.tensor([front_end.f_min, front_end.top_frequency], dtype=torch.float64)).tolist()
    spacing = (top - bottom) / (front_end.n_mels + 1)
    peaks = bottom + spacing * torch.arange(1, front_end.n_mels + 1, dtype=torch.float64)
    return (1 - (bins[None] - peaks[:, None]).abs() / spacing).clamp(min=0).float()


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * (hertz / 700.0).log1p()
