"""The page of mistakes: which, in what order, what is played, and that no name in it becomes HTML."""

import base64
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyscene.benchmarks.report.mistakes import confident_mistakes, write_mistakes
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import open_dataset

FRONT_END = FrontEnd(sample_rate=4_000, n_fft=256, win_length=256, hop_length=100, n_mels=16)
SECONDS = {"bus/1-<i>.wav": 12, "bus/1-a.wav": 1, "tram/1-c.wav": 2, "tram/1-d.wav": 1}
BUS = {"bus/1-<i>.wav": 0.3, "bus/1-a.wav": 0.6, "tram/1-c.wav": 0.95, "tram/1-d.wav": 0.1}  # probabilities
ABOUT = {"model": "<b>model</b>", "split": "fold1", "clips": 4}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, seconds in {**SECONDS, "tram/2-train.wav": 1}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, rng.integers(-9000, 9000, 4_000 * seconds).astype(np.int16), 4_000)
    return prepare(open_dataset(folder), FRONT_END.sample_rate, tmp_path_factory.mktemp("cache"))


def pages(clips: Clips, path: Path) -> str:
    recordings = [item for item in clips.recordings if item.path in BUS]
    probabilities = np.array([[BUS[item.path], 1 - BUS[item.path]] for item in recordings])  # (recording, class)
    write_mistakes(path, confident_mistakes(recordings, probabilities, clips.labels), clips, FRONT_END, ABOUT)
    return path.read_text(encoding="utf-8")


def test_mistakes_alone_are_shown_and_the_most_confident_first(clips: Clips, tmp_path: Path) -> None:
    titles = re.findall(r"<h2>(.*)</h2>", pages(clips, tmp_path / "page.html"))
    assert titles == ["1. tram, taken for bus", "2. bus, taken for tram"]


def test_a_mistake_is_played_sample_by_sample_as_the_model_hears_it(clips: Clips, tmp_path: Path) -> None:
    first, second = re.findall(r"data:audio/flac;base64,([^\"]+)", pages(clips, tmp_path / "page.html"))
    pcm, rate = soundfile.read(io.BytesIO(base64.b64decode(first)), dtype="int16")
    assert rate == 4_000
    assert pcm.tolist() == clips.pcm[clips.select(("tram/1-c.wav",))].ravel().tolist()
    assert soundfile.info(io.BytesIO(base64.b64decode(second))).duration == 10  # of 12 seconds


def test_names_are_text_and_the_page_loads_nothing(clips: Clips, tmp_path: Path) -> None:
    page = pages(clips, tmp_path / "page.html")
    assert "1-&lt;i&gt;.wav" in page
    assert not re.search(r"<i>|<b>model|<script|https?:", page)


def test_evaluate_writes_the_page_it_is_asked_for(
    run_cli: Callable[..., tuple[int, str, str]], bundle: Bundle, sample: Path, tmp_path: Path
) -> None:
    page, folder = tmp_path / "mistakes.html", shutil.copytree(bundle.folder, tmp_path / "bundle")
    code, _, stderr = run_cli("evaluate", folder, "--data", sample, "--split", "5", "--listen", page)
    assert code == 0
    shown = page.read_text(encoding="utf-8").count("<audio")
    assert shown
    assert f"{shown} of " in stderr
