"""Teachers' logits: what a file holds, what an ensemble is, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.train.test_export import TINY, run_of
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import PCM_SCALE
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import SCENES, Dataset
from tinyscene.train.data.features import LogMel
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.run import load_model
from tinyscene.train.teachers.logits import make_logits, read_logits

SPLIT = "5"
NAMES = ["audio/a.wav", "audio/b.wav", "audio/c.wav"]


def header(**changes: Any) -> dict[str, str]:
    lists = {"clips": NAMES, "labels": SCENES, **changes}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in lists.items()}


def file_of(folder: Path, logits: torch.Tensor, name: str = "given", **changes: Any) -> Path:
    save_file({"logits": logits.contiguous()}, folder / f"{name}.safetensors", header(**changes))
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of networks that were not trained."""
    folders = [tmp_path_factory.mktemp("teacher") for _ in range(2)]
    return [run_of(folder, "nano", TINY, seed=seed)[0] for seed, folder in enumerate(folders)]


@torch.inference_mode()
def answers(run: Path, pcm: np.ndarray) -> np.ndarray:
    """A run's logits for int16 clips, one at a time."""
    network, card = load_model(run)
    log_mel = LogMel(card.parsed_recipe.features)
    clips = torch.from_numpy(pcm.astype(np.float32) / PCM_SCALE)
    return torch.cat([network(log_mel(clip[None])) for clip in clips]).numpy()


def test_an_ensemble_is_the_mean_of_its_teachers_logits(
    teachers: list[Path], sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    written = read_logits(make_logits(teachers, sample_dataset, sample_clips, SPLIT, tmp_path / "l.safetensors"))
    chosen = sample_clips.select(sample_dataset.split(SPLIT)[0])
    assert written.clips == tuple(sample_clips.names(chosen))
    some = np.arange(0, len(chosen), 17)
    expected = np.mean([answers(run, sample_clips.pcm[chosen[some]]) for run in teachers], axis=0)
    np.testing.assert_allclose(written.values[0, some], expected, atol=1e-4)


def test_a_bayesian_average_weighs_probabilities_by_the_likelihood_of_a_mean_clip(
    sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    chosen = sample_clips.select(sample_dataset.split(SPLIT)[0])
    names, truth = sample_clips.names(chosen), sample_clips.label[chosen]
    logits = torch.randn(2, len(chosen), 10, generator=torch.Generator().manual_seed(0))
    logits[1, torch.arange(len(chosen)), torch.from_numpy(truth)] += 2  # the better of the two
    files = [file_of(tmp_path, each, str(number), clips=names) for number, each in enumerate(logits)]
    out = make_logits(files, sample_dataset, sample_clips, SPLIT, tmp_path / "l.safetensors", "bayesian")
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    likelihood = np.exp(np.log(p[:, np.arange(len(truth)), truth]).mean(1))  # geometric mean over the clips
    expected = np.einsum("t,tcl->cl", likelihood / likelihood.sum(), p)
    found = read_logits(out).values[0].softmax(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_each_view_is_the_clip_as_a_response_colours_it(
    teachers: list[Path], sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    (tmp_path / "ir").mkdir()
    response = np.zeros(64, np.float32)
    response[[0, 40]] = 0.8, -0.6  # of unit energy already
    soundfile.write(tmp_path / "ir" / "echo.wav", response, 32_000, "FLOAT")
    made = make_logits(teachers[:1], sample_dataset, sample_clips, SPLIT, tmp_path / "l", responses=tmp_path / "ir")
    written = read_logits(made.rename(tmp_path / "l.safetensors"))
    assert written.views == ("", "echo.wav")
    chosen = sample_clips.select(sample_dataset.split(SPLIT)[0])[:3]
    coloured = np.stack([np.convolve(clip / PCM_SCALE, response)[:32_000] for clip in sample_clips.pcm[chosen]])
    network, card = load_model(teachers[0])
    with torch.inference_mode():
        expected = network(LogMel(card.parsed_recipe.features)(torch.from_numpy(coloured).float()))
    np.testing.assert_allclose(written.values[1, :3], expected, atol=0.02)  # the response is kept in 16 bits


def test_a_file_remembers_its_teachers_and_what_they_were_asked(
    teachers: list[Path], sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path
) -> None:
    out = make_logits(teachers, sample_dataset, sample_clips, SPLIT, tmp_path / "l.safetensors")
    with safe_open(out, "pt") as handle:
        found = handle.metadata()
    assert [each.split()[0] for each in json.loads(found["teachers"])] == [str(run) for run in teachers]
    assert (found["split"], found["data_hash"]) == (SPLIT, sample_clips.data_hash)


def test_the_clips_of_a_longer_recording_are_named_by_their_second(sample_clips: Clips) -> None:
    item = sample_clips.recordings[0].model_copy(update={"path": "rain/1.ogg", "clips": 3})
    clips = replace(sample_clips, recordings=(item,), recording=np.zeros(3, np.int64))
    assert clips.names(np.array([0, 2])) == ["rain/1.ogg#0", "rain/1.ogg#2"]


def test_a_pickled_dictionary_from_recording_to_logits_is_read(tmp_path: Path) -> None:
    values = torch.randn(3, 10)
    torch.save(dict(zip(NAMES, values, strict=True)), tmp_path / "x.pt")
    found = read_logits(tmp_path / "x.pt")
    assert (found.clips, found.labels) == (tuple(NAMES), SCENES)
    torch.testing.assert_close(found.values[0], values)


def test_a_pickled_dictionary_with_lists_is_read(tmp_path: Path) -> None:
    torch.save({"logits": torch.zeros(2, 3), "clips": ["a", "b"], "labels": ["x", "y", "z"]}, tmp_path / "x.pt")
    assert read_logits(tmp_path / "x.pt").labels == ("x", "y", "z")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"logits": Bomb(tmp_path / "executed")}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="only plain data and plain tensors"):
        read_logits(tmp_path / "x.pt")
    assert not (tmp_path / "executed").exists()


ZEROS = torch.zeros(3, 10)


@pytest.mark.parametrize(
    ("logits", "changes", "reason"),
    [
        (torch.zeros(2, 10), {}, "do not fit 1 views, 3 clips and 10 labels"),
        (torch.zeros(3, 9), {}, "do not fit"),
        (torch.full((3, 10), torch.nan), {}, "NaN"),
        (ZEROS.int(), {}, "floats"),
        (ZEROS, {"clips": ["a", "a", "b"]}, "twice"),
        (ZEROS, {"clips": "no JSON"}, "JSON"),
        (ZEROS, {"clips": 100_000 * "["}, "JSON"),
        (ZEROS, {"clips": [1, 2, 3]}, "`clips`"),
        (ZEROS, {"labels": {}}, "`labels`"),
        (ZEROS, {"views": ["", "ir.wav"]}, "do not fit 2 views"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(
    logits: torch.Tensor, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        read_logits(file_of(tmp_path, logits, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"views": 3}, "`views`"), ({"split": {"x": 1}}, "`split`"), ({"logits": 5}, "floats"), ({}, "")],
)
def test_fields_of_a_pickled_file_have_the_types_that_are_read(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    torch.save({"logits": ZEROS, "clips": NAMES, "labels": list(SCENES), **changes}, tmp_path / "x.pt")
    if not reason:
        assert read_logits(tmp_path / "x.pt").clips == tuple(NAMES)
        return
    with pytest.raises(InputError, match=reason):
        read_logits(tmp_path / "x.pt")


def test_a_file_with_other_tensors_is_refused(tmp_path: Path) -> None:
    save_file({"weight": ZEROS}, tmp_path / "x.safetensors", header())
    with pytest.raises(InputError, match="one tensor, `logits`"):
        read_logits(tmp_path / "x.safetensors")


def test_logits_of_other_clips_or_labels_are_refused(tmp_path: Path) -> None:
    given = read_logits(file_of(tmp_path, ZEROS))
    with pytest.raises(InputError, match=r"no logits for audio/d\.wav"):
        given.of(["audio/a.wav", "audio/d.wav"], SCENES)
    with pytest.raises(InputError, match="is for airport"):
        given.of(NAMES, ("rain", "dog"))


def test_rows_are_found_by_name_whatever_their_order(tmp_path: Path) -> None:
    logits = torch.arange(30.0).view(3, 10)
    found = read_logits(file_of(tmp_path, logits)).of(NAMES[::-1], SCENES)
    torch.testing.assert_close(found[0], logits.flip(0))


def test_a_teacher_of_another_split_is_refused(sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> None:
    names = sample_clips.names(sample_clips.select(sample_dataset.split(SPLIT)[0]))
    given = file_of(tmp_path, torch.zeros(len(names), 10), clips=names, split="100")
    with pytest.raises(InputError, match="is of split 100"):
        make_logits([given], sample_dataset, sample_clips, SPLIT, tmp_path / "l.safetensors")
    assert not (tmp_path / "l.safetensors").exists()


def test_a_file_cannot_answer_to_responses(
    sample_dataset: Dataset, sample_clips: Clips, sample: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cannot answer to --responses"):
        make_logits(
            [file_of(tmp_path, ZEROS)],
            sample_dataset,
            sample_clips,
            SPLIT,
            tmp_path / "l.safetensors",
            responses=sample / "audio",
        )


def test_a_teacher_hears_at_its_own_sample_rate(sample_dataset: Dataset, sample_clips: Clips, tmp_path: Path) -> None:
    rate = ["features.sample_rate=16000", "features.n_fft=1024", "features.win_length=800", "features.hop_length=320"]
    run, _ = run_of(tmp_path, "nano", [*TINY, *rate])
    assert load_model(run)[1].parsed_recipe.features.sample_rate == 16_000
    written = read_logits(make_logits([run], sample_dataset, sample_clips, SPLIT, tmp_path / "l.safetensors"))
    assert len(written.clips) == len(sample_dataset.split(SPLIT)[0])
    assert load_recipe("nano").features.sample_rate == 32_000
