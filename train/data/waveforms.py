"""Waveforms of clips by position: of what a network is trained on, at its sample rate, as recorded and augmented."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data import augment
from tinyscene.train.data.features import waveform
from tinyscene.train.training_settings import Augment

RESIDENT_SHARE = 0.7  # of the GPU's free memory that the clips may fill


class Waveforms:
    """Clips of one or several memory maps, each part a map (clip, sample) and the indices that are used of it."""

    def __init__(
        self,
        parts: Sequence[tuple[NDArray[np.int16], NDArray[np.int64]]],
        settings: Augment,
        front_end: FrontEnd,
        torch_device: torch.device,
    ) -> None:
        self.parts, self.torch_device = parts, torch_device
        folder = settings.dir_folder
        self.responses = augment.load_responses(Path(folder), front_end).to(torch_device) if folder else None
        self.resident = self._resident()

    def augmented(self, positions: NDArray[np.int64], drawn: augment.Draw) -> Tensor:
        """Clips (batch, samples) within +-1, with impulse responses and rolls applied."""
        if self.resident is not None:
            pcm = self.resident[torch.from_numpy(positions).to(self.torch_device)]
        else:
            pcm = torch.from_numpy(self._read(positions)).to(self.torch_device)
        return augment.on_waveform(waveform(pcm), drawn, self.responses)

    def _read(self, positions: NDArray[np.int64]) -> NDArray[np.int16]:
        """int16 clips (batch, samples)."""
        pcm = np.empty((len(positions), self.parts[0][0].shape[1]), np.int16)
        first = 0
        for sound, indices in self.parts:
            inside = (positions >= first) & (positions < first + len(indices))
            pcm[inside] = sound[indices[positions[inside] - first]]
            first += len(indices)
        return pcm

    def _resident(self) -> Tensor | None:
        """All clips on the GPU, if there is one and they fit."""
        if self.torch_device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.torch_device)
        count = sum(len(indices) for _, indices in self.parts)
        needed = count * self.parts[0][0][:1].nbytes
        return (
            torch.from_numpy(self._read(np.arange(count))).to(self.torch_device)
            if needed < RESIDENT_SHARE * free
            else None
        )
