"""docs/results.md and the table at the head of README.md: the figures of `benchmarks/results/*.json`."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from docs.generator.templates import render
from tinyscene.train.recipe import load_recipe
from tinyscene.train.runs.budget import count_recipe
from tinyscene.train.sweep.published import PUBLISHED_MACRO
from tinyscene.train.sweep.summary import ALL_FOLDS

Content = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SOUNDS10 = ROOT / "tinyscene" / "bundled" / "sounds10" / "bundle.json"
CLOCK = 64e6  # Hz, of common boards with a Cortex-M4


def results_page() -> str:
    """The text of docs/results.md."""
    measured = read_results()
    return render(
        "results.md.j2",
        FILTERS,
        **measured,
        published=PUBLISHED_MACRO,
        split_rows=split_rows(measured["splits"]),
        esc10_rows=esc10_rows(measured),
        sounds10_rows=[row for row in measured["sounds10"]["results"] if row["split"] == ALL_FOLDS],
        sounds10_devices=sounds10_devices(),
        frontier_rows=frontier_rows(measured["frontier"]),
        calibration_rows=calibration_rows(measured["calibration"]),
        calibration_esc50_rows=calibration_rows(measured["calibration_esc50"]),
        decisions=decisions(measured),
        families={name: count_recipe(load_recipe(name)) for name in ("micro16k", "tf_sepnet16k")},
        tf_cost=measured["recipe_costs"]["recipes"]["tf_sepnet16k"],
        micro_cost=measured["recipe_costs"]["recipes"]["micro16k"],
        rest_rows=[row for row in measured["esc50_rest"]["rows"] if row["recipe"] == "micro16k"],
        origin=lambda name: origin(measured[name]["made_by"], name),
    )


def headline() -> str:
    """The table at the head of README.md."""
    measured = read_results()
    return render("headline.md.j2", FILTERS, **measured, m4=decisions(measured)[0])


def read_results() -> dict[str, Content]:
    """Every file of results by its name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def origin(made_by: Content, name: str) -> str:
    """Where figures come from: the file, and the machine, Python and commit that measured them."""
    host = f"{made_by['cpu']}, {made_by['cores']} cores, Python {made_by['python']}"
    return f"`benchmarks/results/{name}.json`; {host}; commit `{made_by['git']['commit'][:10]}`"


def calibration_rows(result: Content) -> list[Content]:
    """For each network, way and number of test clips, the least and the greatest of its draws."""
    rows = []
    for name, network in result["networks"].items():
        for way, by_clips in network["ways"].items():
            for clips, draws in by_clips.items():
                columns = {key: [draw[key] for draw in draws.values()] for key in ("sqnr_db", "same_scene", "correct")}
                columns["same_scene"] = [100 * share for share in columns["same_scene"]]
                row = {key: f"{min(each):.4g} to {max(each):.4g}" for key, each in columns.items()}
                about = {"network": name, "way": way, "clips": clips, "draws": len(draws)}
                rows.append(about | row | {"float": network["float"][clips]})
    return rows


def decisions(measured: dict[str, Content]) -> list[Content]:
    """For each target that others were quoted for: the instructions of a whole decision, theirs and ours."""
    rows = []
    for peer in measured["peers"]["decisions"]:
        devices = measured["firmware"]["devices"].values()
        ours = min(
            (row for row in devices if row["target"] == peer["target"] and row["optimize"] == "O2"),
            key=lambda row: row["instructions"] + row["frontend_instructions"],
        )
        total, peer_total = (row["frontend_instructions"] + row["instructions"] for row in (ours, peer))
        rows.append({"peer": peer, "ours": ours, "total": total, "peer_total": peer_total})
    return rows


def split_rows(splits: Content) -> list[Content]:
    """The results of both runs by split."""
    by_run = {(row["run"], row["split"]): row for row in splits["results"]}
    names = splits["sweep"]["splits"]
    return [{"split": name, "baseline": by_run["baseline", name], "student": by_run["student", name]} for name in names]


def esc10_rows(measured: dict[str, Content]) -> list[Content]:
    """Accuracy over the folds of ESC-10, by recipe."""
    scratch = measured["from_scratch_esc10"]["summary"]["sounds"]["accuracy"]
    rows = [{"run": "sounds", "macs": count_recipe(load_recipe("sounds")).macs, "accuracy": scratch}]
    folds = [row for row in measured["esc10"]["results"] if row["split"] == ALL_FOLDS]
    return rows + [{key: row[key] for key in ("run", "macs", "accuracy")} for row in folds]


def sounds10_devices() -> list[Content]:
    """What `bench` recorded in the bundle that comes along, for each processor."""
    targets = json.loads(SOUNDS10.read_text(encoding="utf-8"))["bench"]["targets"]
    return [
        {"target": name, "decision": decision, "share": decision / CLOCK, **row}
        for name, row in targets.items()
        if (decision := row["instructions"] + row["frontend_instructions"])
    ]


def frontier_rows(frontier: Content) -> list[Content]:
    """Size and accuracy of the pruned networks, over the seeds."""
    rows = []
    for goal in dict.fromkeys(row["goal"] for row in frontier["rows"]):
        members = [row for row in frontier["rows"] if row["goal"] == goal]
        accuracies = {kind: [row[kind]["macro_accuracy"] for row in members] for kind in ("float", "int8")}
        rows.append(
            {
                "goal": goal,
                "macs": mean(row["macs"] for row in members),
                "int8_bytes": mean(row["int8_bytes"] for row in members),
                **{kind: {"mean": mean(values), "sd": stdev(values)} for kind, values in accuracies.items()},
            }
        )
    return rows


def percent(share: float, digits: int = 2) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f}"


def spread(statistic: Content, digits: int = 1) -> str:
    """A share's mean and standard deviation, in per cent."""
    return f"{percent(statistic['mean'], digits)} ± {percent(statistic['sd'], digits)}"


def share(figure: Content) -> str:
    """A share with its interval, in per cent."""
    low, high = figure["interval"]
    return f"{percent(figure['value'], 1)} [{percent(low, 1)}, {percent(high, 1)}]"


def gained(figure: Content) -> str:
    """A gain with its interval, in points; nothing for what it is a gain over."""
    low, high = (100 * bound for bound in figure["interval"])
    return "" if low == high == 0 else f"{100 * figure['gain']:+.1f} [{low:+.1f}, {high:+.1f}]"


def gain(row: Content, group: str) -> str:
    """A difference to another rung with its interval; nothing for that one itself."""
    low, high = row[f"{group}_interval"]
    return "" if low == high == 0 else f"{row[f'{group}_gain']:+.1f} [{low:+.1f}, {high:+.1f}]"


def millions(count: float | None, digits: int = 1) -> str:
    """A count in millions; nothing where it was not counted."""
    return "" if count is None else f"{count / 1e6:.{digits}f} M"


def number(value: float | None, form: str = ",") -> str:
    """A number; nothing where it was not measured."""
    return "" if value is None else format(value, form)


FILTERS = {
    "percent": percent,
    "share": share,
    "spread": spread,
    "gain": gain,
    "gained": gained,
    "millions": millions,
    "number": number,
}
