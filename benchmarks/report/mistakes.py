"""The most confident mistakes of a model on one page: each can be heard and seen.

    tinyscene evaluate bundles/first --data data/sample --listen mistakes.html

The page opens from disk, runs no script and needs no network: sounds and pictures are in it. Sounds are as the model
hears them, resampled and mixed to one channel.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from matplotlib.image import imsave
from numpy.typing import NDArray

from tinyscene.benchmarks.report.render import render
from tinyscene.deploy.common.files import write_whole
from tinyscene.deploy.common.provenance import provenance
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.cache_index import CachedRecording
from tinyscene.train.data.features import LogMel, waveform

MOST = 40  # mistakes on a page
LONGEST = 10  # clips of a recording that are played; a page of 40 has at most 25 MB of sound at 32 kHz
LEVELS = (1, 99)  # percentiles of log-mel that are the darkest and the brightest colour


@dataclass(frozen=True)
class Mistake:
    """A recording with a wrong answer; probabilities are means over its clips."""

    recording: CachedRecording
    answer: str
    confidence: float  # probability of the answer
    truth: float  # probability of the true class


def confident_mistakes(
    recordings: list[CachedRecording], probabilities: NDArray[np.float64], labels: tuple[str, ...]
) -> list[Mistake]:
    """All wrong answers, the most confident first. `probabilities`: (recording, class)."""
    mistakes = []
    for recording, row in zip(recordings, probabilities, strict=True):
        answer = int(row.argmax())
        if labels[answer] != recording.label:
            truth = float(row[labels.index(recording.label)])
            mistakes.append(Mistake(recording, labels[answer], float(row[answer]), truth))
    return sorted(mistakes, key=lambda mistake: (-mistake.confidence, mistake.recording.path))


def write_mistakes(
    path: Path, mistakes: list[Mistake], clips: Clips, front_end: FrontEnd, about: dict[str, Any]
) -> int:
    """Write the page of the first `MOST` mistakes; how many those are.

    `about` holds model, split and clips, the number of recordings.
    """
    features = LogMel(front_end)
    shown = []
    for mistake in mistakes[:MOST]:
        pcm = _sound(clips, mistake.recording)  # (clip, sample)
        log_mel = features(waveform(torch.from_numpy(pcm)))[:, 0].numpy()  # (clip, mel, frame)
        picture = _picture(np.concatenate(list(log_mel), axis=1))
        shown.append((mistake, _audio(pcm.ravel(), front_end.sample_rate), picture))
    values = {"shown": shown, "found": len(mistakes), "longest": LONGEST, "about": about, "made_by": provenance()}
    write_whole(path, render("mistakes.html.j2", **values))
    return len(shown)


def _sound(clips: Clips, recording: CachedRecording) -> NDArray[np.int16]:
    """The clips of a recording that are used, at most `LONGEST`: (clip, sample)."""
    return np.array(clips.pcm[clips.select((recording.path,))[:LONGEST]])


def _audio(pcm: NDArray[np.int16], sample_rate: int) -> str:
    """PCM (sample,) as a URL of FLAC, which all browsers play."""
    content = io.BytesIO()
    soundfile.write(content, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return _url("audio/flac", content.getvalue())


def _picture(log_mel: NDArray[np.float32]) -> str:
    """Log-mel (mel, frame) as a URL of a PNG, low bands below, as bright as its own range allows."""
    content, (darkest, brightest) = io.BytesIO(), np.percentile(log_mel, LEVELS)
    imsave(content, log_mel, cmap="magma", vmin=darkest, vmax=max(brightest, darkest + 1e-6), origin="lower")
    return _url("image/png", content.getvalue())


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
