"""The model card: that it tells the index's facts and no others, and changes with it, whoever is killed between."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tinyscene.deploy.bundle.bundle
from tinyscene.deploy.bundle.bundle import Bundle, BundleParts, open_bundle, write_bundle
from tinyscene.deploy.bundle.index import ATTRIBUTION
from tinyscene.deploy.bundle.model_card import model_card
from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.datasets import open_dataset

GROUP = {"clips": 40, "correct": 17, "accuracy": 0.425, "log_loss": 1.875}
METRICS = GROUP | {
    "macro_accuracy": 0.4125,
    "by_class": {"airport": GROUP | {"clips": 4321}, "bus": GROUP | {"accuracy": 0.0625}},
    "by_device": {"a": GROUP | {"log_loss": 0.123}, "s4": GROUP},
    "by_device_group": {"real": GROUP | {"accuracy": 0.777}, "unseen": GROUP | {"accuracy": 0.333}},
    "data_hash": "0123abcd",
    "split": "fold9",
    "runner": "litert",
}
BENCH = {
    "latency": {"native": {"median_ms": 0.4321, "p25_ms": 0.4, "p75_ms": 0.5, "rounds": 217}},
    "accuracy": {},
    "complexity": {},
    "targets": {
        "cortex-m4": {"kind": "instructions", "instructions": 51234567, "arena_bytes": 42992},
        "cortex-m55": {"missing": "no emulator"},
        "ethos-u55-128": {"kind": "estimate", "network_ms": 1.7},
    },
    "machine": {"cpu": "Some Processor 9000", "cores": 2, "flags": ["avx2"]},
}
SECTIONS = [
    *("Model details", "Intended use", "Training data", "Licence", "Metrics", "Speed and memory", "Quantization"),
    *("Limits", "Provenance", "How to use and cite"),
]


@pytest.fixture
def content(bundle: Bundle) -> dict[str, Any]:  # one to change
    return copy.deepcopy(bundle.content)


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:  # one to change
    return shutil.copytree(bundle.folder, tmp_path / "copy")


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def header(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


# What it tells


def test_it_has_the_sections_of_a_model_card(bundle: Bundle) -> None:
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS


def test_it_is_made_of_the_index_alone(bundle: Bundle) -> None:
    assert (bundle.folder / "MODEL_CARD.md").read_text() == model_card(json.loads(json.dumps(bundle.content)))


def test_what_is_not_measured_is_said_with_the_command_that_measures_it(content: dict[str, Any]) -> None:
    card = model_card(content)
    assert "`tinyscene evaluate BUNDLE --data DATA`" in section(card, "Metrics")
    assert "`tinyscene bench BUNDLE`" in section(card, "Speed and memory")
    assert not re.search(r"\d", section(card, "Metrics") + section(card, "Speed and memory"))


def test_metrics_are_told_by_class_device_and_group_with_their_recordings(content: dict[str, Any]) -> None:
    text = section(model_card(content | {"metrics": METRICS}), "Metrics")
    assert ["macro-average accuracy, over the classes", "41.2%"] in rows(text)
    assert ["accuracy", "42.5% (17 of 40)"] in rows(text)
    assert ["airport", "4,321", "42.5%", "1.875"] in rows(text)
    assert ["bus", "40", "6.2%", "1.875"] in rows(text)
    assert ["a", "40", "42.5%", "0.123"] in rows(text)
    assert ["unseen", "40", "33.3%", "1.875"] in rows(text)
    assert {"fold9", "0123abcd", "litert"} <= set(re.findall(r"`(.*?)`", text))


def test_a_guess_is_right_once_in_as_many_times_as_there_are_labels(content: dict[str, Any]) -> None:
    content |= {"labels": ["dog", "rain", "sea", "wind"], "metrics": METRICS}
    assert ["accuracy of a random guess", "25.0%"] in rows(section(model_card(content), "Metrics"))


def test_a_test_on_other_data_than_the_training_is_doubted(content: dict[str, Any]) -> None:
    content |= {"metrics": METRICS}
    assert "may have been among them" in section(model_card(content), "Metrics")
    content["trained"]["data_hash"] = METRICS["data_hash"]
    assert "may have been among them" not in section(model_card(content), "Metrics")


def test_a_teacher_and_external_data_are_told_where_there_were_any(content: dict[str, Any]) -> None:
    told = "Distilled from a teacher", "External data was used: `sounds: 3 clips`"
    assert not any(words in model_card(content) for words in told)
    content["trained"] |= {"teacher": "runs/any sha256:0", "external_data": "sounds: 3 clips"}
    assert all(words in section(model_card(content), "Training data") for words in told)


def test_the_limits_tell_what_was_measured_on_unseen_devices(content: dict[str, Any]) -> None:
    assert "33.3% on simulated devices" in section(model_card(content | {"metrics": METRICS}), "Limits")
    assert "%" not in section(model_card(content), "Limits")


def test_what_was_benchmarked_is_told_with_its_machine(content: dict[str, Any]) -> None:
    text = section(model_card(content | {"bench": BENCH}), "Speed and memory")
    assert "cpu Some Processor 9000, cores 2" in text
    assert ["native", "0.432", "0.400", "0.500", "217"] in rows(text)
    assert ["cortex-m4", "51,234,567", "42,992"] in rows(text)
    assert "not cycles" in text


@pytest.mark.parametrize("kind", ["metrics", "bench"])
def test_what_a_record_does_not_hold_is_left_out(kind: str, content: dict[str, Any]) -> None:
    card = model_card(content | {kind: {"another": 1}})
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS


def test_its_header_is_yaml_whatever_the_model_is_called(content: dict[str, Any]) -> None:
    name = 'my: "model"\n---\n# [x]'
    found = header(model_card(content | {"name": name, "metrics": METRICS}))
    assert (found["library_name"], found["pipeline_tag"]) == ("tinyscene", "audio-classification")
    assert found["model-index"][0]["name"] == name
    assert found["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.425}]


def test_a_label_stays_in_its_cell(content: dict[str, Any]) -> None:
    metrics = METRICS | {"by_class": {"a | b\n| c <img> `d`": GROUP}}
    lines = [line for line in model_card(content | {"metrics": metrics}).splitlines() if "img" in line]
    assert lines == [r"| a \| b \| c \<img\> \`d\` | 40 | 42.5% | 1.875 |"]


# Data and its licence


def data(layout: str, licence: str | None) -> dict[str, Any]:
    lists = {part: {"recordings": 1, "by_class": {}, "by_device": {}} for part in ("training", "test")}
    return {"name": "mine", "layout": layout, "licence": licence, **lists}


@pytest.mark.parametrize(
    ("trained", "told", "not_told", "identifier"),
    [
        (data("tau", None), "Tampere University", "Not known", "other"),
        (data("tau", "EULA.pdf"), "EULA.pdf", "Not known", "other"),
        (data("folders", "LICENSE.txt"), "`LICENSE.txt`", "TAU", "other"),
        (data("folders", None), "Not known", "TAU", "unknown"),
        (None, "Not known", "TAU", "unknown"),
    ],
    ids=["TAU", "TAU with its file", "a folder with a file", "a folder without", "imported"],
)
def test_the_licence_is_that_of_the_data(
    trained: dict[str, Any] | None, told: str, not_told: str, identifier: str, content: dict[str, Any]
) -> None:
    content["trained"] |= {"data": trained, "split": None, "data_hash": None}
    card = model_card(content)
    assert told in section(card, "Licence")
    assert not_told not in section(card, "Licence")
    assert header(card)["license"] == identifier


def test_an_older_run_has_the_licence_of_the_same_data_at_its_quantization(content: dict[str, Any]) -> None:
    content["trained"] |= {"data": None, "split": "5", "data_hash": content["quantized"]["data_hash"]}
    assert "LICENSE.txt" in section(model_card(content), "Licence")


def test_data_used_to_fine_tune_the_integers_has_its_licence_told_too(content: dict[str, Any]) -> None:
    content["quantized"] |= {"data": data("tau", None), "training": [{}]}
    content["trained"] |= {"data": data("folders", "COPYING"), "data_hash": "another"}
    text = section(model_card(content), "Licence")
    assert text.index("COPYING") < text.index("Tampere University")


def test_a_dataset_counts_its_lists_and_names_its_terms(sample: Path) -> None:
    found = open_dataset(sample).describe("5")
    lines = (sample / "evaluation_setup" / "split5.csv").read_text().splitlines()[1:]
    assert (found["name"], found["layout"], found["licence"]) == ("sample", "tau", "LICENSE.txt")
    assert found["training"]["recordings"] == len(lines) == sum(found["training"]["by_class"].values())
    assert found["training"]["by_device"]["s1"] == sum("-s1." in line for line in lines)
    assert found["test"]["by_device"].keys() == {"a", *(f"s{number}" for number in range(1, 7))}


@pytest.mark.parametrize("name", ["LICENSE", "licence.md", "COPYING.txt", "EULA.pdf"])
def test_a_folder_of_ones_own_may_hold_its_terms(name: str, tmp_path: Path) -> None:
    for path in ("dog/1-a.wav", "dog/2-a.wav", "rain/1-b.wav", "rain/2-b.wav"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert open_dataset(tmp_path).describe("fold1")["licence"] is None
    (tmp_path / name).touch()
    found = open_dataset(tmp_path).describe("fold1")
    assert (found["layout"], found["licence"]) == ("folders", name)
    assert found["training"] == {"recordings": 2, "left_out": 0, "by_class": {"dog": 1, "rain": 1}, "by_device": {}}


# With the index


def test_recording_writes_the_card_anew(folder: Path) -> None:
    open_bundle(folder).record("metrics", METRICS)
    again = open_bundle(folder)
    assert again.content["metrics"] == METRICS
    assert (folder / "MODEL_CARD.md").read_text() == model_card(again.content)
    assert "4,321" in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_kill_between_index_and_card_leaves_a_bundle_that_opens(
    written: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, left = open_bundle(folder), iter(range(written))
    real: Callable[..., None] = tinyscene.deploy.bundle.bundle.write_whole

    def killed(path: Path, text: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(tinyscene.deploy.bundle.bundle, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            opened.record("metrics", METRICS)
    again = open_bundle(folder)
    assert ("metrics" in again.content) == (written > 0)
    again.add_export("tflite", b"anything")
    open_bundle(folder).record("bench", BENCH)
    assert (folder / "MODEL_CARD.md").read_text() == model_card(open_bundle(folder).content)
    index = json.loads((folder / "bundle.json").read_text())
    assert not [key for key in index if "card" in key]


@pytest.mark.parametrize("kills", [2, 3])
def test_nor_do_several_kills(kills: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., None] = tinyscene.deploy.bundle.bundle.write_whole

    def killed(path: Path, text: str) -> None:
        real(path, text)
        raise KeyboardInterrupt

    for number in range(kills):
        with monkeypatch.context() as patch:
            patch.setattr(tinyscene.deploy.bundle.bundle, "write_whole", killed)
            with pytest.raises(KeyboardInterrupt):
                open_bundle(folder).record("metrics", METRICS | {"clips": number})
    assert open_bundle(folder).content["metrics"]["clips"] == kills - 1


def test_a_former_card_is_refused_once_the_new_one_is_written(folder: Path) -> None:
    former = (folder / "MODEL_CARD.md").read_text()
    open_bundle(folder).record("metrics", METRICS)
    (folder / "MODEL_CARD.md").write_text(former)
    with pytest.raises(InputError, match=r"MODEL_CARD\.md: was changed"):
        open_bundle(folder)


def test_an_attribution_stands_in_the_card_as_it_was_written(folder: Path) -> None:
    open_bundle(folder).record(ATTRIBUTION, {"lines": ["<b>dog</b> by *Ann*, CC BY 3.0"]})
    assert "### Attribution\n\n- \\<b\\>dog\\</b\\> by \\*Ann\\*, CC BY 3.0\n" in (folder / "MODEL_CARD.md").read_text()


def test_what_others_wrote_meanwhile_is_kept(folder: Path) -> None:
    slow, quick = open_bundle(folder), open_bundle(folder)
    quick.record("metrics", METRICS)
    quick.add_export("tflite", b"anything")
    slow.record("bench", BENCH)
    again = open_bundle(folder)
    assert (again.content["metrics"], again.content["bench"]) == (METRICS, BENCH)
    assert again.exported("tflite") == b"anything"
    assert slow.content == again.content


def test_another_bundle_in_its_place_is_left_alone(folder: Path) -> None:
    opened, path = open_bundle(folder), folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "another"}))
    before = path.read_bytes()
    with pytest.raises(InputError, match="replaced by another"):
        opened.record("metrics", METRICS)
    assert path.read_bytes() == before


def test_a_variant_that_was_measured_is_still_its_bundles(bundle: Bundle, tmp_path: Path) -> None:
    own = {"schema", "labels", "front_end", "front_end_sha256", "files"}
    content = {key: value for key, value in bundle.content.items() if key not in own}
    parts = BundleParts(bundle.graph, bundle.float_graph, bundle.front_end, bundle.labels, content)
    new = write_bundle(tmp_path / "new", parts, {"s1": parts})
    new.variant("s1").record("metrics", METRICS)
    new.record("metrics", METRICS)
    assert open_bundle(new.folder).variant("s1").content["metrics"] == METRICS
    assert "4,321" in (new.folder / "variants" / "s1" / "MODEL_CARD.md").read_text()
    assert "in `variants`: s1." in (new.folder / "MODEL_CARD.md").read_text()


def test_an_index_without_what_a_card_tells_is_refused_in_one_line(folder: Path) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "trained"}))
    with pytest.raises(InputError, match="lacks what a model card tells"):
        open_bundle(folder).record("metrics", METRICS)
    open_bundle(folder)


def test_evaluating_a_bundle_tells_the_card_its_classes_and_devices(
    folder: Path, small_dataset: Path, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = run_cli("evaluate", folder, "--data", small_dataset, "--runner", "litert", "--json")
    result, text = json.loads(out), section((folder / "MODEL_CARD.md").read_text(), "Metrics")
    assert code == 0
    for key in ("by_class", "by_device", "by_device_group"):
        for name, group in result[key].items():
            assert [name, str(group["clips"]), f"{group['accuracy']:.1%}", f"{group['log_loss']:.3f}"] in rows(text)
