"""Results as a person reads them on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from tinyscene.deploy.frontend.audio import describe_seconds
from tinyscene.train.recipe_list import RecipeSummary
from tinyscene.train.runs.count import Count
from tinyscene.train.runs.evaluate import Evaluation
from tinyscene.train.runs.listening import Listening
from tinyscene.train.sweep.cost import SweepCost
from tinyscene.train.training_settings import Budget


def evaluation_tables(evaluation: Evaluation, unknown: Mapping[str, Any] | None = None) -> Group:
    """The summary line, the accuracies by class, device and device group, and what a decision rule keeps."""
    summary = (
        f"macro-average accuracy {evaluation.macro_accuracy:.2%}, accuracy {evaluation.accuracy:.2%} "
        f"({evaluation.correct} of {evaluation.clips}), log loss {evaluation.log_loss:.3f}"
    )
    table = Table("", "", "clips", "accuracy", "log loss")
    parts = {"class": evaluation.by_class, "device": evaluation.by_device, "group": evaluation.by_device_group}
    for title, scores in parts.items():
        for name, score in scores.items():
            table.add_row(title, name, str(score.clips), f"{score.accuracy:.1%}", f"{score.log_loss:.3f}")
        table.add_section()
    return Group(summary, table, *_kept_lines(unknown))


def _kept_lines(unknown: Mapping[str, Any] | None) -> Iterator[str]:
    """The shares that a decision rule keeps and refuses, clip by clip."""
    if unknown:
        yield f"kept by the decision rule: {unknown['kept']:.1%} of {unknown['clips']:,} clips"
    if unknown and "refused" in unknown:
        yield f"refused of strangers: {unknown['refused']:.1%} of {unknown['strangers_clips']:,} clips"


def budget_tables(count: Count, limits: Budget) -> Group:
    """Layers, totals, the verdict on each limit and, for a network, what is left of it when deployed."""
    layers = Table(title=count.source)
    for column in ("layer", "kind", "output", "parameters", "MACs"):
        layers.add_column(column, overflow="fold")
    for layer in count.layers:
        if layer.parameters or layer.macs:
            shape = " x ".join(str(size) for size in layer.output)
            layers.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.macs:,}")
    layers.add_section()
    layers.add_row("total", "", "", f"{count.parameters:,}", f"{count.macs:,}")
    verdicts = Table("", "counted", "limit", "")
    for what, value, most in (
        (f"bytes ({count.precision})", count.bytes, limits.max_bytes),
        ("MACs", count.macs, limits.max_macs),
    ):
        verdicts.add_row(what, f"{value:,}", f"{most:,}", "pass" if value <= most else "FAIL")
    if count.nessi_macs is not None:
        nessi = f"NeSsi counts {count.nessi_macs:,} MACs of a .tflite: values that are added or averaged, too"
        return Group(layers, verdicts, nessi)
    if not count.deployed:
        return Group(layers, verdicts)
    listening = [_listening_table(count.listening)] if count.listening else []
    clip = f", for {describe_seconds(count.clip_seconds)}" if count.clip_macs is not None else ""
    deployed = (
        f"as deployed, BatchNorm folded: {count.deployed.parameters:,} parameters, "
        f"{count.deployed.int8_bytes:,} bytes in int8 with int32 biases, {count.deployed.macs:,} MACs{clip}"
    )
    if count.clip_macs is not None:
        second = f"MACs are counted for one second; a clip of {count.clip_seconds:g} seconds has {count.clip_macs:,}"
        return Group(layers, verdicts, second, deployed, *listening)
    return Group(layers, verdicts, deployed, *listening)


def _listening_table(listening: Listening) -> Table:
    """MACs of a second by decisions a second."""
    how = "each column computed once" if listening.streams else "each window computed anew"
    table = Table(title=f"MACs of a second of listening, {how}, without the front end")
    table.add_column("decisions a second")
    for decisions in listening.macs:
        table.add_column(str(decisions), justify="right")
    table.add_row("MACs", *(f"{macs:,}" for macs in listening.macs.values()))
    return table


def recipes_table(recipes: Sequence[RecipeSummary]) -> Group:
    """The recipes with their sizes."""
    table = Table("recipe", "parameters", "MACs", "purpose")
    for recipe in recipes:
        sizes = ("" if size is None else f"{size:,}" for size in (recipe.parameters, recipe.macs))
        table.add_row(recipe.name, *sizes, recipe.purpose)
    return Group(table)


def cost_table(cost: SweepCost) -> Group:
    """What is left of a sweep costs, a row a stage."""
    table = Table("stage", "jobs", "clips to train on", "clips/s", "hours")
    for stage in cost.stages:
        rate = "" if stage.clips_per_second is None else f"{stage.clips_per_second:,.0f}"
        table.add_row(
            stage.stage, str(stage.jobs), f"{stage.clips:,}" if stage.clips else "", rate, _hours(stage.hours)
        )
    known = [stage.hours for stage in cost.stages if stage.hours is not None]
    table.add_section()
    table.add_row("all", str(sum(stage.jobs for stage in cost.stages)), "", "", _hours(sum(known)))
    whole = f"{_hours(cost.hours)} hours with {cost.slots} at a time, on {cost.torch_device}"
    return Group(table, whole if cost.hours is not None else f"{whole}: what is unknown could not be measured")


def _hours(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:,.2f}"
