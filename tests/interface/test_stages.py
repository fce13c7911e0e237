"""Each stage as a call: what it returns, and that the command does the same."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import tinyscene
from tests.train.test_export import TINY
from tests.train.test_loop import QUICK
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.training_data import TrainingData
from tinyscene.train.loop import loop
from tinyscene.train.runs.run import load_model

SETTINGS = [*QUICK, *TINY, "train.epochs=1"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tinyscene.Run:
    return tinyscene.train("nano", sample, "5", tmp_path_factory.mktemp("run") / "run", SETTINGS)


def test_train_is_a_call_and_a_package(run: tinyscene.Run) -> None:
    import tinyscene.train.loop

    assert tinyscene.train.loop.__name__ == "tinyscene.train.loop"
    assert callable(tinyscene.train)


def test_a_run_says_what_it_was_trained_on(run: tinyscene.Run) -> None:
    assert (run.recipe.name, run.recipe.train.epochs, run.card.split, len(run.labels)) == ("nano", 1, "5", 10)
    assert [row["epoch"] for row in run.metrics] == [1]
    network = load_model(run.folder)[0]
    assert run.budget().parameters == sum(parameter.numel() for parameter in network.parameters())


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        tinyscene.Run(tmp_path)


def test_an_evaluation_is_that_of_the_command(run: tinyscene.Run, small_dataset: Path, run_cli: Cli) -> None:
    evaluation = run.evaluate(small_dataset)
    assert evaluation.runner == "torch"
    assert json.loads((run.folder / "evaluation.json").read_text())["confusion"] == evaluation.confusion
    code, out, _ = run_cli("evaluate", run.folder, "--data", small_dataset, "--json")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(evaluation.as_dict()))


def test_a_run_is_quantized_to_a_bundle_that_lives_as_long_as_it_is_used(
    run: tinyscene.Run, small_dataset: Path, tmp_path: Path
) -> None:
    bundle = tinyscene.quantize(run, small_dataset, settings={"quantize.clips": 8})
    kept, folder = bundle.save(tmp_path / "kept"), bundle.folder
    assert (kept.fingerprint, kept.labels) == (bundle.fingerprint, run.labels)
    del bundle
    assert not folder.exists()
    assert open_bundle(kept.folder).fingerprint == kept.fingerprint


def test_an_attribution_is_taken_up_and_refused_before_the_work(
    run: tinyscene.Run, small_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "attribution.txt").write_text("Recorded by Ann.\n\nCC BY 3.0\n", encoding="utf-8")
    attribution = tmp_path / "attribution.txt"
    bundle = tinyscene.quantize(run, small_dataset, settings={"quantize.clips": 8}, attribution=attribution)
    assert bundle.content["attribution"] == {"lines": ["Recorded by Ann.", "CC BY 3.0"]}
    attribution.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        tinyscene.quantize(run, tmp_path / "no data", attribution=attribution)
    with pytest.raises(InputError, match="not a file"):
        tinyscene.quantize(run, tmp_path / "no data", attribution=tmp_path)


def test_a_bundle_of_clips_that_were_given_is_evaluated_on_the_default_split(
    bundle: Bundle, small_dataset: Path, tmp_path: Path
) -> None:
    given = tinyscene.Bundle(bundle.folder).save(tmp_path / "given")
    assert given.split == "5"
    content = json.loads((given.folder / "bundle.json").read_text())
    content["quantized"] |= {"data": None, "split": "given by the caller"}
    (given.folder / "bundle.json").write_text(json.dumps(content))
    assert tinyscene.Bundle(given.folder).split is None
    assert tinyscene.evaluate(given.folder, small_dataset, runner="reference", record=False).split == "5"


def test_training_on_folders_takes_the_first_fold_where_no_split_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 8_000)
    for name in ("rain/1-a", "rain/2-b", "dog/1-c", "dog/2-d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", noise, 8_000)

    def stop(_: object, data: TrainingData, *__: object) -> None:
        raise InputError(f"split {data.split}")

    monkeypatch.setattr(loop, "train", stop)
    with pytest.raises(InputError, match=r"^split fold1$"):
        tinyscene.train("nano", tmp_path, out=tmp_path / "run")


def test_a_bundle_is_not_saved_over_another(bundle: Bundle, tmp_path: Path) -> None:
    tinyscene.Bundle(bundle.folder).save(tmp_path / "kept")
    with pytest.raises(InputError, match="already exists"):
        tinyscene.Bundle(bundle.folder).save(tmp_path / "kept")


def test_a_bundle_verifies_and_exports_as_the_commands_do(bundle: Bundle, tmp_path: Path, run_cli: Cli) -> None:
    copy = tinyscene.Bundle(bundle.folder).save(tmp_path / "copy")
    path = copy.export("tflite")
    run_cli("export", bundle.folder, "--to", "tflite", "--out", tmp_path / "other.tflite")
    assert path.read_bytes() == (tmp_path / "other.tflite").read_bytes()
    result = tinyscene.Bundle(copy).verify()
    result.require()
    assert (result.golden_equal, result.exports) == (True, {"tflite": True})


def test_a_file_that_cannot_be_read_is_an_error_of_the_call(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.wav"):
        tinyscene.Bundle(bundle.folder).verify([tmp_path / "missing.wav"])


def test_one_path_is_not_taken_letter_by_letter(
    bundle: Bundle, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(files: Iterable[Path]) -> None:
        raise InputError(" ".join(map(str, files)))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tinyscene.interface.recordings.recordings_of", refuse)
    opened = tinyscene.Bundle(bundle.folder)
    calls: list[Callable[[Any], object]] = [
        opened.verify,
        opened.inspect,
        lambda path: opened.emulate("host", path),
        tinyscene.report,
        lambda path: tinyscene.logits(path, sample, tmp_path / "logits.safetensors", "5"),
    ]
    for call, one in [*((call, "missing.wav") for call in calls), (opened.inspect, Path("missing.wav"))]:
        with pytest.raises(InputError, match=r"^missing\.wav\b"):
            call(one)


def test_one_name_is_not_taken_letter_by_letter(bundle: Bundle, sample: Path, tmp_path: Path) -> None:
    opened = tinyscene.Bundle(bundle.folder)
    calls: list[Callable[[Any], object]] = [
        opened.export_all,
        lambda name: opened.firmware(tmp_path / "firmware", kernels=name),
        lambda name: opened.bench(name, record=False),
        lambda name: tinyscene.sweep("dcase2024", sample, tmp_path / "sweep", variants=name),
        lambda name: tinyscene.budget("nano", settings=name),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"\bnonsense\b"):
            call("nonsense")


def test_a_bundle_is_taken_where_its_path_is(bundle: Bundle, sample: Path) -> None:
    opened = tinyscene.Bundle(bundle.folder)
    recording = next((sample / "audio").iterdir())
    scores = tinyscene.load(opened, "reference").classify(recording)["scores"]
    assert np.isclose(sum(scores.values()), 1)
