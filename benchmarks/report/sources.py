"""What a report is made of: bundles and sweeps, read from their folders into one content, which is report.json.

A bundle's index may come from anywhere. What its owner recorded there is read by the types below, and anything that
is not of them is refused by name.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from tinyscene.benchmarks.accuracy import Accuracy
from tinyscene.benchmarks.bench import Bench
from tinyscene.benchmarks.measured import Amount, Count, Share
from tinyscene.benchmarks.report.curves import Curves, read_curves
from tinyscene.deploy.bundle.bundle import Bundle, open_bundle
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.bundle.inspection import inspect_graph
from tinyscene.deploy.bundle.model_card import decision_lines
from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.report import plan_picture, plan_rows
from tinyscene.train.data.datasets import SCENES
from tinyscene.train.runs.budget import count_bundle
from tinyscene.train.sweep.published import PUBLISHED_MACRO, PUBLISHED_SOURCE, published_baseline
from tinyscene.train.sweep.report import PUBLISHED
from tinyscene.train.sweep.status import RESULTS
from tinyscene.train.sweep.summary import TAU_TEST_CLIPS, SweepSummary, read_summary
from tinyscene.train.training_settings import Budget

Content = dict[str, Any]


class Recorded(BaseModel):
    """What a command wrote into an index; of later versions of it, what is known here."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Group(Recorded):
    """The clips of a class or device."""

    clips: Count
    correct: Count
    accuracy: Share
    log_loss: Amount


class Metrics(Group):
    """What `evaluate` recorded; before it recorded them, nothing by class and device."""

    macro_accuracy: Share
    split: str
    runner: str
    data_hash: str
    by_class: dict[str, Group] = {}
    by_device: dict[str, Group] = {}
    by_device_group: dict[str, Group] = {}
    confusion: list[list[int]] | None = None  # rows: true class


class Target(Recorded):
    """A target: as emulate.py measured it, or with the other keys of a board or an estimate."""

    model_config = ConfigDict(extra="allow")

    missing: str | None = None  # why there is nothing else
    toolchain: str | None = None
    emulator: str | None = None
    optimize: str | None = None
    kernels: str | None = None
    clips: int | None = None
    equal: bool | None = None
    instructions: int | None = None
    instructions_per_mac: float | None = None
    frontend_instructions: int | None = None
    layers: list[int] | None = None  # instructions by operator
    profile: list[dict[str, str | int]] | None = None  # instructions by layer and by function of the front end
    memory_bytes: int | None = None
    stack_bytes: int | None = None
    flash_bytes: int | None = None


class Git(Recorded):
    """The source checkout that made something."""

    commit: str
    dirty: bool


class MadeBy(Recorded):
    """As provenance.py records it."""

    python: str
    machine: str
    versions: dict[str, str]
    git: Git | None


class Trained(Recorded):
    """The training of the float network; its data are not known where weights were imported."""

    made_by: MadeBy
    split: str | None
    data_hash: str | None
    source: str | None


class Quantized(Recorded):
    """The making of the integers."""

    made_by: MadeBy
    split: str
    data_hash: str
    calibration_clips: Count
    training: list[Any]


class RecipeHead(Recorded):
    """What a recipe is called, and its other settings."""

    model_config = ConfigDict(extra="allow")

    name: str
    seed: int


@dataclass(frozen=True)
class RecordedBench(Bench):
    """What `bench` recorded."""

    targets: dict[str, Target] = field(default_factory=dict)
    accuracy: Annotated[
        Accuracy | None, BeforeValidator(lambda accuracy: accuracy if _has_intervals(accuracy) else None)
    ] = None


@dataclass(frozen=True)
class ReportedSweep:
    """A sweep of a report."""

    name: str
    folder: str
    summary: SweepSummary
    curves: Curves

    def as_dict(self) -> Content:
        return {"name": self.name, "folder": self.folder, **self.summary.as_dict(), "curves": self.curves}


@dataclass(frozen=True)
class Sources:
    """All that a report shows."""

    bundles: list[Content]
    sweeps: list[ReportedSweep]
    frontier: list[Content]

    def as_dict(self) -> Content:
        """The content of report.json."""
        sweeps = [sweep.as_dict() for sweep in self.sweeps]
        return {"bundles": self.bundles, "sweeps": sweeps, "frontier": self.frontier, "source": PUBLISHED_SOURCE}


def _has_intervals(accuracy: object) -> bool:
    """Whether an accuracy was measured by `bench` itself, and is not what `evaluate` recorded before."""
    return isinstance(accuracy, dict) and "difference" in accuracy


def read_sources(folders: list[Path]) -> Sources:
    """What a report is made of. Raises InputError for a folder that is neither a bundle nor a sweep with results."""
    bundles, sweeps = [], []
    for folder, name in zip(folders, _names(folders), strict=True):
        if (folder / INDEX).is_file():
            bundles.append(read_bundle(folder, name))
        elif (folder / RESULTS).is_file():
            sweeps.append(ReportedSweep(name, str(folder), read_summary(folder), read_curves(folder)))
        else:
            raise InputError(f"{folder}: neither a bundle (with {INDEX}) nor a sweep (with {RESULTS})")
    return Sources(bundles, sweeps, frontier(bundles, sweeps))


def _names(folders: list[Path]) -> list[str]:
    """The name of each folder, or its path where two share one."""
    resolved = [folder.resolve() for folder in folders]
    counts = Counter(folder.name for folder in resolved)
    for folder, count in Counter(resolved).items():
        if count > 1:
            raise InputError(f"{folder}: is named twice")
    return [
        folder.name if counts[folder.name] == 1 else str(path) for folder, path in zip(resolved, folders, strict=True)
    ]


def read_bundle(folder: Path, name: str) -> Content:
    """All that is known of a bundle."""
    bundle = open_bundle(folder)
    count, limits = count_bundle(folder), Budget()
    bench = _recorded(bundle, "bench", RecordedBench)
    metrics = _recorded(bundle, "metrics", Metrics)
    _check_confusion(bundle, metrics)
    return {
        "name": name,
        "folder": str(folder),
        "labels": list(bundle.labels),
        "budget": {
            "limits": limits.model_dump(),
            "deployed": count.deployed and asdict(count.deployed),
            **bundle.content["budget"],
        },
        "layers": _layers(bundle),
        "memory": _memory(bundle),
        "decision": decision_lines(bundle.content),
        "metrics": metrics,
        "published": _published(bundle.labels, metrics),
        "bench": bench,
        "provenance": _provenance(bundle),
    }


def _recorded(bundle: Bundle, kind: str, form: type) -> Content | None:
    """What was recorded under a key of the index, or none. Raises InputError where it is not what a command writes."""
    if kind not in bundle.content:
        return None
    adapter = TypeAdapter(form)
    try:
        result = adapter.validate_json(json.dumps(bundle.content[kind]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (kind, *first["loc"]))
        raise InputError(f"{bundle.folder / INDEX}: {where}: {first['msg']}; make it again") from None
    return adapter.dump_python(result, mode="json", by_alias=True)


def _check_confusion(bundle: Bundle, metrics: Content | None) -> None:
    if metrics is None or metrics["confusion"] is None:
        return
    classes = len(bundle.labels)
    if [len(row) for row in metrics["confusion"]] != [classes] * classes:
        raise InputError(f"{bundle.folder / INDEX}: metrics.confusion: must have {classes} rows and columns")


def _layers(bundle: Bundle) -> list[Content]:
    """Each activation and what makes it, with the errors that were measured when it was quantized."""
    return [asdict(cost) | asdict(bundle.errors[cost.name]) for cost in inspect_graph(bundle.graph)]


def _memory(bundle: Bundle) -> Content:
    """The arena as `tinyscene firmware` lays it out, by default."""
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, rule=bundle.rule)
    sizes = {key.lower(): library.config[key] for key in ("ARENA_BYTES", "STATE_BYTES")}
    return {
        "memory_bytes": library.config["BYTES"],
        **sizes,
        "steps": len(library.plan.schedule.order),
        "plan": [row.as_json() for row in plan_rows(library.plan)],
        "picture": plan_picture(library.plan),
    }


def _published(labels: tuple[str, ...], metrics: Content | None) -> Content | None:
    """The published baseline on the split of the metrics, where that is one of TAU, and whether they compare."""
    if metrics is None or metrics["split"] not in PUBLISHED_MACRO or set(labels) != set(SCENES):
        return None
    return published_baseline(metrics["split"]).as_dict() | {"comparable": metrics["clips"] >= TAU_TEST_CLIPS}


def _provenance(bundle: Bundle) -> Content:
    content = bundle.content
    return {
        "recipe": _recorded(bundle, "recipe", RecipeHead),
        "trained": _recorded(bundle, "trained", Trained),
        "quantized": _recorded(bundle, "quantized", Quantized),
        "front_end": bundle.front_end.as_dict(),
        "front_end_sha256": content["front_end_sha256"],
        "fingerprint": bundle.fingerprint,
        "variants": list(bundle.variants),
        "files": dict(content["files"]),
    }


def frontier(bundles: list[Content], sweeps: list[ReportedSweep]) -> list[Content]:
    """Macro-average accuracy against MACs: a point a bundle or run on a split, and the published on those splits."""
    points = []
    for bundle in bundles:
        if metrics := bundle["metrics"]:
            statistic = {"mean": metrics["macro_accuracy"], "sd": None, "count": 1}
            points.append(_point(bundle["name"], "bundle", metrics["split"], bundle["budget"]["macs"], statistic))
    for sweep in sweeps:
        for result in sweep.summary.results:
            name = result.run if len(sweeps) == 1 else f"{sweep.name}: {result.run}"
            points.append(
                _point(name, "run", result.split, result.statistics.macs, asdict(result.statistics.macro_accuracy))
            )
    known = {
        split: baseline.as_dict() for sweep in sweeps for split, baseline in sweep.summary.published.splits.items()
    }
    known |= {bundle["metrics"]["split"]: bundle["published"] for bundle in bundles if bundle["published"]}
    for split, baseline in known.items():
        points.append(_point(PUBLISHED, "published", split, baseline["macs"], baseline["macro_accuracy"]))
    return sorted(
        points, key=lambda point: (int(point["split"]) if point["split"].isdecimal() else 101, point["split"])
    )


def _point(name: str, kind: str, split: str, macs: float, statistic: Content) -> Content:
    return {"name": name, "kind": kind, "split": split, "macs": macs, **statistic}
