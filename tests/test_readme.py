"""The README's figures are those that the commands and the measured tables give."""

import json
from statistics import mean, stdev
from typing import Any

import pytest

from tests import ROOT
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.exports import export
from tinyscene.train.budget import count_recipe
from tinyscene.train.recipe import load_recipe, recipe_names
from tinyscene.train.sweep.report import ALL_FOLDS

README = (ROOT / "README.md").read_text(encoding="utf-8")


def measured(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", recipe_names("cp_mobile"))
def test_the_recipe_table_is_what_the_budget_counts(name: str) -> None:
    count = count_recipe(load_recipe(name))
    assert f"| `{name}` | {count.parameters:,} | {count.macs:,} |" in README


@pytest.mark.parametrize("row", ["baseline", "without_freq_mixstyle"])
def test_the_table_from_scratch_is_what_was_measured(row: str) -> None:
    summary = measured("from_scratch_tau_mini")["summary"][row]
    accuracy, loss = summary["macro_accuracy"], summary["log_loss"]
    assert (
        f"| {100 * accuracy['mean']:.2f} ± {100 * accuracy['sd']:.2f} | {loss['mean']:.3f} ± {loss['sd']:.3f} |"
        in README
    )


def test_the_table_of_splits_is_what_was_measured() -> None:
    found = {(row["run"], row["split"]): row for row in measured("splits")["results"]}
    for split in ("5", "10", "25", "50", "100"):
        rows = [found[run, split] for run in ("baseline", "student")]
        figures = [row["macro_accuracy"] for row in rows] + [row["by_device_group"]["unseen"] for row in rows]
        assert {row["done"] for row in rows} == {3}
        cells = " | ".join(f"{100 * figure['mean']:.1f} ± {100 * figure['sd']:.1f}" for figure in figures)
        assert f"| {split} | {cells} |" in README


@pytest.mark.parametrize("split", ["25", "100"])
def test_the_ladder_is_what_was_measured(split: str) -> None:
    table = README.partition(f"| split {split} |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [row for row in measured("ladder")["rows"] if row["split"] == split]
    assert len(table) == len(rows)
    for row in rows:
        assert row["seeds"] == 3
        means = {
            group: f"{row[f'{group}_mean']:.1f} ± {row[f'{group}_sd']:.1f}" for group in ("macro", "seen", "unseen")
        }
        gains = {group: _gain(row, group) for group in ("macro", "unseen")}
        cells = [means["macro"], gains["macro"], means["seen"], means["unseen"], gains["unseen"]]
        assert f"| `{row['rung']}` | {' | '.join(cells)} |".replace("|  |", "| |") in table


def test_only_what_is_written_gains_on_the_ladder() -> None:
    rows = [row for row in measured("ladder")["rows"] if row["rung"] != "baseline"]
    gains = {
        group: {(row["split"], row["rung"]) for row in rows if row[f"{group}_interval"][0] > 0}
        for group in ("macro", "unseen")
    }
    added_up = ("to_pretraining", "to_distillation", "to_ema")
    assert gains == {"macro": set(), "unseen": {("100", rung) for rung in ("responses", *added_up, "teacher")}}
    assert f"of the {2 * len(rows)} about" in " ".join(README.split())


def _gain(row: dict[str, Any], group: str) -> str:
    """Over the baseline, with its interval; nothing for the baseline itself."""
    low, high = row[f"{group}_interval"]
    return "" if row["rung"] == "baseline" else f"{row[f'{group}_gain']:+.1f} [{low:+.1f}, {high:+.1f}]"


@pytest.mark.parametrize("goal", ["whole", "11 M", "4.5 M"])
def test_the_frontier_is_what_was_measured(goal: str) -> None:
    rows = [row for row in measured("frontier")["rows"] if row["goal"] == goal]
    assert {row["seed"] for row in rows} == {0, 1, 2}
    sizes = f"{mean(row['macs'] for row in rows) / 1e6:.1f} | {mean(row['int8_bytes'] for row in rows):,.0f}"
    accuracies = [[100 * row[kind]["macro_accuracy"] for row in rows] for kind in ("float", "int8")]
    cells = " | ".join(f"{mean(each):.1f} ± {stdev(each):.1f}" for each in accuracies)
    difference = mean(accuracies[1]) - mean(accuracies[0])
    assert f"| {goal} | {sizes} | {cells} | {difference:+.1f} |" in README
    assert abs(difference) <= 0.5


def test_single_seeds_lose_and_gain_by_integers_what_is_written() -> None:
    rows = measured("frontier")["rows"]
    most = max(abs(row["int8"]["macro_accuracy"] - row["float"]["macro_accuracy"]) for row in rows)
    assert f"single ones differ by up to {100 * most:.1f}." in README


def test_the_table_of_the_choice_is_what_was_measured() -> None:
    choice = measured("choice")
    baseline, *others = choice["rows"]
    assert choice["folds"] == 6
    assert f"| baseline | {baseline['macro_mean']:.1f} | | {baseline['unseen_mean']:.1f} | |" in README
    for row in others:
        cells = [
            f"{row[f'{group}_mean']:.1f} | {row[f'{group}_gain']:+.1f} ± {row[f'{group}_error']:.1f}"
            for group in ("macro", "unseen")
        ]
        assert f"| {row['run']} | {' | '.join(cells)} |" in README
    assert all(max(others, key=lambda row: row[measure])["run"] == "every" for measure in ("macro_mean", "unseen_mean"))


def test_the_student_is_trained_as_was_chosen() -> None:
    chosen = measured("choice")["sweep"]["runs"]["every"]["set"]
    assert load_recipe("student").augment == load_recipe("baseline", chosen).augment


def test_the_table_of_esc10_is_what_was_measured() -> None:
    found = {row["run"]: row for row in measured("esc10")["results"] if row["split"] == ALL_FOLDS}
    macs = {run: row["macs"] for run, row in found.items()} | {"sounds": count_recipe(load_recipe("sounds")).macs}
    accuracies = {run: row["accuracy"] for run, row in found.items()}
    accuracies["sounds"] = measured("from_scratch_esc10")["summary"]["sounds"]["accuracy"]
    assert {*accuracies} == {"sounds", "baseline", "student"}
    for run, accuracy in accuracies.items():
        figures = f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['sd']:.2f}"
        assert f"| `{run}` | {macs[run] / 1e6:.1f} | {figures} |" in README


def test_the_training_speed_is_what_was_measured() -> None:
    speed = measured("training_speed")
    ours, published = (speed["clips_per_second"][name] for name in ("ours", "published"))
    assert f"{ours:.0f} clips a second against {published:.0f}: **{speed['ratio']:.2f} times**" in README
    assert speed["ratio"] >= 2.5


@pytest.mark.parametrize("name", ["imported", "scratch"])
def test_the_tables_of_quantization_are_what_was_measured(name: str) -> None:
    for way, row in measured(f"quantization_{name}")["ways"].items():
        figures = f"{100 * row['same_scene']:.2f} | {row['mean_error']:.3f} | {100 * row['accuracy']:.2f}"
        assert f"| {way} | {figures} |" in README


def test_int8_costs_the_imported_baseline_at_most_half_a_point_and_keeps_96_percent_of_the_scenes() -> None:
    result = measured("quantization_imported")
    assert result["ways"]["default"]["accuracy"] >= 0.594
    assert result["ways"]["default"]["accuracy"] >= result["float"]["accuracy"] - 0.005
    assert result["ways"]["default"]["same_scene"] >= 0.96


@pytest.mark.parametrize("gain", ["device gain 1", "-40 dB", "full scale"])
def test_the_table_of_fixed_point_features_is_what_was_measured(gain: str) -> None:
    row = measured("fixed_point_features")["gains"][gain]
    shares = f"{100 * row['equal']:.2f} | {100 * row['within_1']:.5f}"
    assert f"| {gain} | {shares} | {row['max']} | {row['max_with_signal']} |" in README
    assert row["within_1"] >= 0.995
    assert row["max_with_signal"] <= 2


@pytest.mark.parametrize("runner", ["reference", "litert-reference", "tflite-micro", "litert", "onnxruntime"])
def test_the_table_of_runtimes_is_what_was_measured(runner: str) -> None:
    row = measured("runtimes")["runners"][runner]
    shares = f"{100 * row['equal']:.2f} | {100 * row['same_scene']:.2f} | {100 * row['accuracy']:.2f}"
    assert f"| {runner} | {row['max_lsb']} | {shares} |" in README


def test_the_table_of_devices_is_what_was_measured() -> None:
    rows = [row for row in measured("firmware")["devices"].values() if row["optimize"] == "O2"]
    assert len(rows) >= 15
    for row in rows:
        assert row["equal"]
        sizes = (row["memory_bytes"], row["stack_bytes"], row["flash_bytes"])
        counts = (row["instructions"], row["frontend_instructions"])
        cells = [
            f"{row['target']} | {row['toolchain']} | {row['kernels']} | {row['clips']:,}",
            *("" if count is None else f"{count / 1e6:.1f} M" for count in counts),
            "" if row["instructions_per_mac"] is None else f"{row['instructions_per_mac']:.2f}",
            *("" if size is None else f"{size:,}" for size in sizes),
        ]
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") in README


def test_every_compiler_and_level_was_equal_on_every_device() -> None:
    rows = measured("firmware")["devices"].values()
    assert all(row["equal"] for row in rows)
    assert {row["optimize"] for row in rows} == {"O0", "O2", "O3", "Os"}
    assert {row["kernels"] for row in rows} == {"plain", "dsp", "mve", "simd"}


def test_the_firmware_keeps_its_limits() -> None:
    result = measured("firmware")
    m4 = result["devices"]["cortex-m4 zig O2 dsp"]
    assert m4["arena_bytes"] <= 43_000
    assert m4["memory_bytes"] <= 56_000
    assert m4["flash_bytes"] <= 100_000
    assert m4["instructions"] <= 50e6
    assert m4["frontend_instructions"] <= 25e6
    assert result["devices"]["cortex-m55 zig O2 mve"]["instructions"] <= 14e6


def test_the_memory_by_hop_is_what_was_measured() -> None:
    for hop, size in measured("firmware")["memory"]["bytes_by_hop"].items():
        assert f"| {float(hop):g} s | {size:,} |" in README


def test_the_latencies_are_what_was_measured() -> None:
    result = measured("latency")
    for name, row in result["latency"].items():
        assert row["rounds"] >= 200
        assert f"| {name} | {row['p25_ms']:.3f} | {row['median_ms']:.3f} | {row['p75_ms']:.3f} |" in README
    assert f"**{result['ratio']:.2f}** of the best other" in README
    assert not result["warnings"]
    assert result["ratio"] <= 0.7


def test_the_front_ends_are_what_was_measured() -> None:
    for name, row in measured("latency")["front_end"].items():
        assert f"| {name} | {row['p25_ms']:.3f} | {row['median_ms']:.3f} | {row['p75_ms']:.3f} |" in README


def test_the_growth_of_cost_is_what_was_measured() -> None:
    names = {"width": "base channels", "seconds": "seconds of sound", "mels": "mel bands"}
    rows = measured("growth")["inference"]
    assert {row["setting"] for row in rows} == set(names)
    for row in rows:
        cost = f"{row['macs'] / 1e6:.1f} M | {row['arena_bytes']:,} | {row['median_ms']:.3f}"
        assert f"| {row['value']:g} {names[row['setting']]} | {cost} |" in README


def test_the_clips_a_second_of_each_batch_are_what_was_measured() -> None:
    rates = measured("growth")["training"]["clips_per_second"]
    assert len(rates) >= 5
    for row in rates:
        assert f"| {row['batch']} | {row['micro_batches']:.0f} | {row['whole']:.0f} |" in README


def test_the_sizes_of_the_baselines_tflite_are_what_is_written(imported_bundle: Bundle) -> None:
    lean, full = (len(export(imported_bundle, "tflite", names)) for names in (False, True))
    assert f"The baseline's `.tflite` is {lean / 1e3:.0f} kB" in README
    assert f"({full / 1e3:.0f} kB), without which" in README
