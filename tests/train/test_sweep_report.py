"""The report of a sweep, against numpy and the published figures, on tables made by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.runs.budget import count_target
from tinyscene.train.sweep.published import PUBLISHED_CLASSES, PUBLISHED_DEVICES, PUBLISHED_MACRO
from tinyscene.train.sweep.report import report as write_report
from tinyscene.train.sweep.status import COLUMNS

SPLITS = ("5", "100")
GROUPED = ("class.airport", "class.tram", "device.a", "device.s4", "group.unseen")
MEASURED = ("accuracy", "macro_accuracy", "log_loss", *GROUPED)


def row(
    run: str, split: str, seed: int, values: dict[str, float], clips: int = 1088, macs: int = 1000
) -> dict[str, Any]:
    sizes = {"clips": clips, "parameters": 500, "macs": macs, "seconds": 3.5}
    head = {"run": run, "recipe": "nano", "split": split, "seed": seed, "state": "done", "reason": ""}
    return head | sizes | values


def failed(run: str, split: str, seed: int, reason: str, state: str = "failed") -> dict[str, Any]:
    return {"run": run, "recipe": "nano", "split": split, "seed": seed, "state": state, "reason": reason}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    with (folder / "results.csv").open("w", newline="") as handle:
        columns = list(dict.fromkeys([*COLUMNS, *(column for each in rows for column in each)]))
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def drawn(runs: tuple[str, ...], splits: tuple[str, ...], seeds: int, clips: int = 1088) -> list[dict[str, Any]]:
    """Rows of random results."""
    rng = np.random.default_rng(0)
    return [
        row(run, split, seed, {measure: float(rng.uniform()) for measure in MEASURED}, clips, 1000 * (1 + len(run)))
        for run in runs
        for split in splits
        for seed in range(seeds)
    ]


def report(folder: Path) -> dict[str, Any]:
    return write_report(folder).as_dict()


def result(content: dict[str, Any], run: str, split: str) -> dict[str, Any]:
    (found,) = [each for each in content["results"] if (each["run"], each["split"]) == (run, split)]
    return found


def section(text: str, title: str) -> dict[str, list[str]]:
    """The table under a title: cells by the first of each line."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n", maxsplit=1)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {each[0]: each[1:] for each in cells}


def test_means_and_deviations_over_seeds_are_numpys(tmp_path: Path) -> None:
    rows = drawn(("baseline", "student"), SPLITS, seeds=3)
    content = report(write(tmp_path, rows))
    for run in ("baseline", "student"):
        for split in SPLITS:
            found = result(content, run, split)
            named = found | {
                f"{prefix}.{name}": each
                for prefix, key in (("class", "by_class"), ("device", "by_device"), ("group", "by_device_group"))
                for name, each in found[key].items()
            }
            for measure in MEASURED:
                values = [each[measure] for each in rows if (each["run"], each["split"]) == (run, split)]
                assert named[measure]["mean"] == pytest.approx(np.mean(values))
                assert named[measure]["sd"] == pytest.approx(np.std(values, ddof=1))
                assert named[measure]["count"] == 3


def test_the_tables_show_what_the_json_holds(tmp_path: Path) -> None:
    content = report(write(tmp_path, drawn(("baseline", "student"), SPLITS, seeds=3)))
    assert json.loads((tmp_path / "report.json").read_text()) == content
    text = (tmp_path / "report.md").read_text()
    student = result(content, "student", "100")
    macro, loss, tram = student["macro_accuracy"], student["log_loss"], student["by_class"]["tram"]
    table = section(text, "Split 100")
    assert table[""] == ["baseline", "student", "published baseline (TAU)"]
    assert table["macro-average accuracy, %"][1] == f"{100 * macro['mean']:.2f} ± {100 * macro['sd']:.2f}"
    assert table["log loss"][1] == f"{loss['mean']:.3f} ± {loss['sd']:.3f}"
    assert table["class tram, %"][1] == f"{100 * tram['mean']:.2f} ± {100 * tram['sd']:.2f}"
    overview = section(text, "Macro-average accuracy, %")
    assert overview["run"] == ["MACs", "parameters", *SPLITS]
    assert overview["student"][3] == table["macro-average accuracy, %"][1]


def test_the_published_figures_stand_beside(tmp_path: Path) -> None:
    report(write(tmp_path, drawn(("baseline",), SPLITS, seeds=2)))
    text = (tmp_path / "report.md").read_text()
    published = {name: cells[-1] for name, cells in section(text, "Split 5").items()}
    assert published["macro-average accuracy, %"] == "42.40 ± 0.42"
    assert (published["class airport, %"], published["class tram, %"]) == ("34.77", "35.20")
    assert (published["device a, %"], published["device s4, %"]) == ("54.45", "38.90")
    assert published["group unseen, %"] == f"{(38.90 + 40.47 + 33.58) / 3:.2f}"
    assert published["accuracy, %"] == published["log loss"] == ""  # were not published
    overview = section(text, "Macro-average accuracy, %")
    assert overview["published baseline (TAU)"] == ["29,419,156", "61,148", "42.40 ± 0.42", "56.99 ± 1.11"]
    assert "github.com/CPJKU/dcase2024_task1_baseline" in text


def test_published_systems_with_the_baselines_network_stand_beside(tmp_path: Path) -> None:
    content = report(write(tmp_path, drawn(("student",), SPLITS, seeds=2)))
    text = (tmp_path / "report.md").read_text()
    rows = section(text, "Macro-average accuracy, %")
    student = rows["published student of 3 PaSST and 3 CNNs (TAU)"]
    assert student == ["29,419,156", "61,148", "47.97", "61.74"]
    narrow = rows["published width 24 without teachers (TAU)"]
    count = count_target("baseline", None, ["model.base_channels=24"])[0]
    assert narrow == [f"{count.macs:,}", f"{count.parameters:,}", "43.68", "57.59"]
    assert "arXiv:2409.11964" in text
    assert content["published"]["systems"][0]["accuracy"]["25"] == pytest.approx(0.5681)


@pytest.mark.parametrize("split", PUBLISHED_MACRO)
def test_the_published_figures_by_class_and_device_agree_with_the_published_mean(split: str) -> None:
    macro = PUBLISHED_MACRO[split][0]
    assert len(PUBLISHED_CLASSES[split]) == len(SCENES)
    assert np.mean(PUBLISHED_CLASSES[split]) == pytest.approx(macro, abs=0.01)
    assert np.mean(PUBLISHED_DEVICES[split]) == pytest.approx(macro, abs=0.03)  # not all devices have as many clips


@pytest.mark.parametrize(("clips", "comparable"), [(1088, False), (29_680, True)])
def test_a_sweep_on_other_data_than_taus_says_that_it_cannot_be_compared(
    clips: int, comparable: bool, tmp_path: Path
) -> None:
    content = report(write(tmp_path, drawn(("baseline",), SPLITS, 2, clips)))
    assert content["published"]["comparable"] == comparable
    assert ("cannot be compared" in (tmp_path / "report.md").read_text()) != comparable


def test_splits_that_are_not_published_stand_alone(tmp_path: Path) -> None:
    content = report(write(tmp_path, drawn(("baseline",), ("fold1",), 2)))
    assert content["published"]["splits"] == {}
    text = (tmp_path / "report.md").read_text()
    assert "published" not in text
    assert section(text, "Split fold1")[""] == ["baseline"]


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    content = report(write(tmp_path, drawn(("baseline",), ("5",), 1)))
    assert result(content, "baseline", "5")["accuracy"]["sd"] is None
    assert section((tmp_path / "report.md").read_text(), "Split 5")["accuracy, %"][0].endswith(" ± -")


def test_failed_and_missing_runs_are_listed_and_left_out_of_the_means(tmp_path: Path) -> None:
    rows = drawn(("baseline",), ("5",), 2)
    more = [
        failed("baseline", "5", 2, "killed by SIGKILL | out of memory"),
        failed("student", "5", 0, "needs runs/baseline-5-2", "skipped"),
    ]
    content = report(write(tmp_path, [*rows, *more]))
    assert result(content, "baseline", "5")["accuracy"]["count"] == 2
    assert [each["state"] for each in content["not_done"]] == ["failed", "skipped"]
    text = (tmp_path / "report.md").read_text()
    assert section(text, "Split 5")["runs done"][0] == "2 of 3"
    assert "| baseline | 5 | 2 | failed | killed by SIGKILL \\| out of memory |" in text
    assert "| student | 5 | 0 | skipped | needs runs/baseline-5-2 |" in text


def test_folds_are_summed_up_over_folds(tmp_path: Path) -> None:
    folds = tuple(f"fold{number}" for number in range(1, 6))
    rows = drawn(("sounds",), folds, 2)
    found = result(report(write(tmp_path, rows)), "sounds", "all folds")
    means = [np.mean([each["accuracy"] for each in rows if each["split"] == fold]) for fold in folds]
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(means))
    assert found["accuracy"]["sd"] == pytest.approx(np.std(means, ddof=1))
    assert (found["done"], found["of"]) == (10, 10)


def test_folds_are_summed_up_for_each_size_of_their_lists(tmp_path: Path) -> None:
    rows = drawn(("micro",), ("fold1-25", "fold2-25", "fold1-100", "fold2-100"), 1)
    content = report(write(tmp_path, rows))
    for size in ("25", "100"):
        found = result(content, "micro", f"all folds, split {size}")
        of_size = [each["accuracy"] for each in rows if each["split"].endswith(f"-{size}")]
        assert (found["accuracy"]["mean"], found["accuracy"]["count"]) == (pytest.approx(np.mean(of_size)), 2)


def test_data_without_devices_has_no_rows_of_them(tmp_path: Path) -> None:
    rows = [{key: value for key, value in each.items() if "." not in key} for each in drawn(("a",), ("fold1",), 2)]
    assert result(report(write(tmp_path, rows)), "a", "fold1")["by_device"] == {}


def test_the_picture_has_a_panel_a_split(tmp_path: Path) -> None:
    widths = []
    for splits in (("5",), SPLITS):
        report(write(tmp_path, drawn(("baseline", "student"), splits, 2)))
        pixels = image.imread(tmp_path / "accuracy_macs.png")
        assert pixels.std() > 0.05  # not blank
        widths.append(pixels.shape[1])
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "cannot be read; the folder of a sweep has it"),
        (f"run\n{200_000 * 'x'}\n", "cannot be read; the folder of a sweep has it"),  # a field beyond csv's limit
        ("", "lacks the column 'run'"),
        ("run,split\nbaseline,5\n", "lacks the column 'recipe'"),
    ],
)
def test_a_folder_without_a_table_is_refused(text: str | None, line: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match=line):
        report(tmp_path)


def test_a_table_without_results_or_with_broken_ones_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path, [failed("baseline", "5", 0, "crash")])
    with pytest.raises(InputError, match="none of the 1 runs of the sweep is done yet"):
        report(tmp_path)
    rows: list[dict[str, Any]] = drawn(("baseline",), ("5",), 2)
    rows[1]["log_loss"] = "low"
    with pytest.raises(InputError, match="run baseline, split 5, seed 1: could not convert"):
        report(write(tmp_path, rows))
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_a_report_that_cannot_be_drawn_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("tinyscene.train.sweep.report.picture", fail)
    with pytest.raises(MemoryError):
        report(write(tmp_path, drawn(("baseline",), ("5",), 2)))
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
