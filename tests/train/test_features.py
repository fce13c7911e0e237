"""Log-mel in torch, against torchaudio's golden values, the numpy front end and the dense filterbank."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.features import BAND, CPU_CHUNK, LogMel, waveform

SETTINGS = [
    FrontEnd(),
    FrontEnd(n_fft=2048, win_length=2048, n_mels=128),
    FrontEnd(n_mels=40, f_min=50.0, f_max=14_000.0),
    FrontEnd(sample_rate=16_000, n_fft=1024, win_length=641, hop_length=160, n_mels=BAND + 1),
    FrontEnd(sample_rate=22_050, hop_length=441, n_mels=1),
    FrontEnd(sample_rate=16_000, n_fft=1024, win_length=641, hop_length=160, n_mels=40, edges="none"),
    FrontEnd(n_fft=64, win_length=64, n_mels=256, log_offset=1e-3),  # the first bands fall between the bins
]


def clips(front_end: FrontEnd, batch: int = 3) -> Tensor:
    """Noise of falling level."""
    noise = torch.randn(batch, front_end.clip_samples, generator=torch.Generator().manual_seed(0))
    return (0.2 * noise * torch.logspace(0, -2, batch)[:, None]).clamp(-1, 1)


def test_log_mel_equals_torchaudio(golden: dict[str, np.ndarray]) -> None:
    log_mel = LogMel(FrontEnd())(torch.from_numpy(golden["r"]))
    np.testing.assert_allclose(log_mel[:, 0].numpy(), np.log(golden["m"] + 1e-5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("front_end", SETTINGS, ids=repr)
def test_log_mel_equals_the_numpy_front_end(front_end: FrontEnd) -> None:
    batch = clips(front_end)
    log_mel = LogMel(front_end)(batch)
    assert log_mel.shape == (3, 1, *front_end.shape)
    np.testing.assert_allclose(log_mel[:, 0].numpy(), front_end.log_mel(batch.numpy()), rtol=0, atol=1e-4)


@pytest.mark.parametrize("front_end", SETTINGS, ids=repr)
def test_the_banded_filterbank_equals_the_dense_product(front_end: FrontEnd) -> None:
    batch = clips(front_end)
    window = np.zeros(front_end.n_fft)
    start = (front_end.n_fft - front_end.win_length) // 2
    window[start : start + front_end.win_length] = np.hanning(front_end.win_length + 1)[:-1]
    edges = {"reflect": (front_end.n_fft // 2, front_end.n_fft // 2), "none": (start, front_end.n_fft)}
    mode = "reflect" if front_end.edges == "reflect" else "constant"
    padded = np.pad(batch.numpy().astype(np.float64), ((0, 0), edges[front_end.edges]), mode=mode)
    frames = [padded[:, at : at + front_end.n_fft] for at in front_end.hop_length * np.arange(front_end.frames)]
    spectrum = np.abs(np.fft.rfft(np.stack(frames, axis=1) * window)) ** 2  # (batch, frame, bin)
    dense = np.einsum("mb,ifb->imf", front_end.filterbank(), spectrum, optimize=True)
    power = LogMel(front_end).power(batch)[:, 0].numpy()
    np.testing.assert_allclose(power, dense, rtol=1e-3, atol=1e-6)


def test_a_batch_equals_its_clips_one_by_one() -> None:
    front_end = FrontEnd(n_mels=64)
    log_mel, batch = LogMel(front_end), clips(front_end, 5)
    torch.testing.assert_close(log_mel(batch), torch.cat([log_mel(clip[None]) for clip in batch]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [CPU_CHUNK - 1, CPU_CHUNK, CPU_CHUNK + 1, 2 * CPU_CHUNK + 3])
def test_chunks_do_not_show(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    front_end = FrontEnd(n_fft=1024, win_length=1024, n_mels=40)
    sounds = clips(front_end, batch)
    chunked = LogMel(front_end)(sounds)
    monkeypatch.setattr("tinyscene.train.data.features.CPU_CHUNK", batch)
    torch.testing.assert_close(chunked, LogMel(front_end)(sounds), rtol=0, atol=1e-5)


def test_a_clip_does_not_hear_its_neighbours_in_the_batch() -> None:
    front_end = FrontEnd(n_mels=40)
    batch = clips(front_end)
    batch[1] = 0
    log_mel = LogMel(front_end)(batch)
    torch.testing.assert_close(log_mel[1], torch.full_like(log_mel[1], float(np.log(np.float32(1e-5)))))


def test_a_masked_band_is_the_floor_of_the_logarithm() -> None:
    log_mel = LogMel(FrontEnd(log_offset=1e-4))
    assert log_mel.log(torch.zeros(1)).item() == pytest.approx(np.log(1e-4), abs=1e-5)


def test_the_constants_are_no_parameters_of_a_model() -> None:
    log_mel = LogMel(FrontEnd())
    assert list(log_mel.parameters()) == []
    assert log_mel.state_dict() == {}


def test_pcm_full_scale_is_one() -> None:
    pcm = torch.tensor([[-32768, -1, 0, 16384, 32767]], dtype=torch.int16)
    assert waveform(pcm).tolist() == [[-1.0, -(2.0**-15), 0.0, 0.5, 1 - 2.0**-15]]
