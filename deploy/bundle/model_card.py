"""The model card of a bundle: `MODEL_CARD.md`, written from the bundle's index.

    card = model_card(bundle.content)        # Markdown

The text is the template `model_card.md.j2`; this file computes what it prints. Every number is from the index. Where
the index lacks a figure, the card names the command that measures it. The sections are those of M. Mitchell et al.,
"Model Cards for Model Reporting", FAT* 2019; the YAML header is the one that model hubs read.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyscene.deploy.bundle.decision import NEVER, UNKNOWN_LABEL, DecisionRule
from tinyscene.deploy.frontend.audio import describe_seconds
from tinyscene.deploy.frontend.log_mel import FrontEnd

Content = Mapping[str, Any]
Rows = list[tuple[str, ...]]

TEMPLATE = "model_card.md.j2"
MEASURES = (
    ("clips", "recordings", "{clips:,}"),
    ("macro_accuracy", "macro-average accuracy, over the classes", "{macro_accuracy:.1%}"),
    ("accuracy", "accuracy", "{accuracy:.1%} ({correct:,} of {clips:,})"),
    ("log_loss", "log loss", "{log_loss:.3f}"),
)
LATENCY_KEYS = ("median_ms", "p25_ms", "p75_ms", "rounds")
TARGET_KEYS = ("instructions", "frontend_instructions", "arena_bytes", "state_bytes", "flash_bytes")


def model_card(content: Content) -> str:
    """Markdown for a bundle with this index. Raises KeyError, TypeError or ValueError where the index is not one."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError  # only those who write need it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown; what comes from outside goes through `plain` or `code`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    filters = (("plain", _plain), ("code", _code), ("number", _number))
    environment.filters.update(filters, split_rows=_split_rows, group_rows=_group_rows)
    try:
        return environment.get_template(TEMPLATE).render(_facts(content))
    except UndefinedError as error:
        raise ValueError(str(error)) from None


def _facts(content: Content) -> dict[str, Any]:
    """The variables of the template."""
    trained, quantized = content["trained"], content["quantized"]
    metrics, bench = content.get("metrics") or {}, content.get("bench") or {}
    training_data = _training_data(content)
    tunes_on_other = quantized["training"] and training_data and quantized["data_hash"] != trained["data_hash"]
    target_columns, targets = _targets(bench)
    features = FrontEnd(**content["front_end"])
    return {
        "name": _name(content),
        "header": _header(content, training_data),
        "labels": content["labels"],
        "recipe": content["recipe"],
        "budget": content["budget"],
        "features": features,
        "clip": describe_seconds(features.clip_seconds),
        "variants": content.get("variants"),
        "trained": trained,
        "quantized": quantized,
        "training_data": training_data,
        "fine_tuned_on": quantized.get("data") if tunes_on_other else None,
        "attribution": (content.get("attribution") or {}).get("lines", []),
        "metrics": metrics,
        "measures": _measures(metrics, len(content["labels"])),
        "unseen": _unseen(metrics),
        "decision": decision_lines(content),
        "knows_strangers": "decision" in content and content["decision"]["unknown"] is not None,
        "bench": bench,
        "machine": _machine(bench),
        "latency": _latency(bench),
        "target_columns": target_columns,
        "targets": targets,
        "logits_sqnr_db": content["errors"][list(content["errors"])[-1]]["sqnr_db"],
        "provenance": _provenance(trained, quantized),
        "weights_sha256": content["files"]["graph.safetensors"],
        "version": quantized["made_by"]["versions"].get("tinyscene", "unknown"),
    }


def _name(content: Content) -> str:
    return content.get("name", f"{content['recipe']['name']} network")


def _training_data(content: Content) -> Content:
    """What is known of the data that the weights were trained on; empty if nothing is."""
    trained, quantized = content["trained"], content["quantized"]
    same = trained["data_hash"] is not None and trained["data_hash"] == quantized["data_hash"]
    return trained.get("data") or (quantized.get("data") if same else None) or {}


def _header(content: Content, data: Content) -> dict[str, str]:
    """Keys of the YAML header and their values as JSON, which is YAML whatever a name contains."""
    licence: dict[str, Any] = {"license": "unknown"}
    if data.get("licence"):
        licence = {"license": "other", "license_name": "as-the-dataset"}
    elif data.get("layout") == "tau":
        licence = {
            "license": "other",
            "license_name": "tau-urban-acoustic-scenes",
            "license_link": "https://zenodo.org/records/6337421",
        }
    entries = licence | {
        "library_name": "tinyscene",
        "pipeline_tag": "audio-classification",
        "tags": ["acoustic-scene-classification", "audio", "int8", "microcontroller", "tinyml"],
    }
    metrics = content.get("metrics") or {}
    if "accuracy" in metrics:
        results = {
            "task": {"type": "audio-classification"},
            "dataset": {"name": f"test list of split {metrics.get('split')}", "type": str(metrics.get("data_hash"))},
            "metrics": [{"type": "accuracy", "value": metrics["accuracy"]}],
        }
        entries["model-index"] = [{"name": _name(content), "results": [results]}]
    return {key: json.dumps(value) for key, value in entries.items()}


def _measures(metrics: Content, classes: int) -> Rows:
    """The figures of a test list, of those that were recorded, and that of guessing."""
    recorded = [
        (title, form.format(**metrics))
        for key, title, form in MEASURES
        if isinstance(metrics.get(key), int | float) and {"clips", "correct"} <= metrics.keys()
    ]
    return [*recorded, ("accuracy of a random guess", f"{1 / classes:.1%}")]


def _group_rows(groups: Content) -> Rows:
    """The metrics of each class or recording device."""
    return [
        (_plain(name), f"{group['clips']:,}", f"{group['accuracy']:.1%}", f"{group['log_loss']:.3f}")
        for name, group in groups.items()
    ]


def _split_rows(data: Content, key: str) -> Rows:
    """The number of recordings of each class or recording device in the training and the test list."""
    lists = [data["training"][key], data["test"][key]]
    return [(_plain(name), *(f"{part.get(name, 0):,}" for part in lists)) for name in sorted(set().union(*lists))]


def _unseen(metrics: Content) -> str | None:
    """Accuracy on recording devices outside the training data beside that on those in it."""
    groups = metrics.get("by_device_group", {})
    if not {"unseen", "real"} <= groups.keys():
        return None
    return (
        f"{groups['unseen']['accuracy']:.1%} on simulated devices that were not in the training data, "
        f"{groups['real']['accuracy']:.1%} on the real devices"
    )


def decision_lines(content: Content) -> list[str]:
    """What the decision rule does, a sentence each; none where there is no rule."""
    if "decision" not in content:
        return []
    rule = DecisionRule.read(content["decision"])
    lines = []
    if rule.average > 1:
        lines.append(f"Decisions are by the mean logits of the last {rule.average} decisions.")
    if rule.margin or rule.patience:
        ways = [f"another leads by {rule.margin} steps of the logits"] if rule.margin < NEVER else []
        ways += [f"another led in {rule.patience} decisions in a row"] if rule.patience else []
        lines.append(f"The scene changes where {' or '.join(ways)}." if ways else "The scene never changes.")
    if rule.unknown is not None:
        known = rule.unknown
        lines.append(
            f'A sound is "{UNKNOWN_LABEL}" where its likeness to the known classes is below {known.threshold}'
            + (", or where it is nearer to digital silence than to any of them." if known.silence else ".")
        )
        lines.append(
            f"The threshold was chosen to keep {known.keep:.1%} of {known.clips:,} calibration clips, each decided on "
            f"by itself{', but for those nearest to silence' if known.silence else ''}; "
            f"the rule keeps {known.kept:.1%} of them all."
        )
    return [*lines, *_measured_refusals((content.get("metrics") or {}).get("unknown"))]


def _measured_refusals(measured: Content | None) -> Iterator[str]:
    """What `evaluate` measured of the threshold, second by second."""
    if not measured:
        return
    yield f"It keeps {measured['kept']:.1%} of {measured['clips']:,} seconds of the test list."
    if "refused" in measured:
        yield (
            f"It refuses {measured['refused']:.1%} of {measured['strangers_clips']:,} seconds of strangers, "
            f"`{_code(measured['strangers'])}`."
        )


def _machine(bench: Content) -> str:
    facts = bench.get("machine", {}).items()
    return ", ".join(f"{key} {value}" for key, value in facts if isinstance(value, str | int))


def _latency(bench: Content) -> Rows:
    return [
        (_plain(name), *(_number(row[key]) for key in LATENCY_KEYS))
        for name, row in bench.get("latency", {}).items()
        if row.keys() >= set(LATENCY_KEYS)
    ]


def _targets(bench: Content) -> tuple[tuple[str, ...], Rows]:
    """Header and rows of the emulated targets, with the columns that any of them has."""
    emulated = {name: row for name, row in bench.get("targets", {}).items() if row.get("kind") == "instructions"}
    keys = [key for key in TARGET_KEYS if any(key in row for row in emulated.values())]
    rows = [(_plain(name), *(_number(row.get(key)) for key in keys)) for name, row in emulated.items()]
    return ("target", *(key.replace("_", " ") for key in keys)), rows if keys else []


def _provenance(trained: Content, quantized: Content) -> Rows:
    steps = (("imported" if trained["split"] is None else "trained", trained), ("quantized", quantized))
    return [(title, *_made_by(step["made_by"])) for title, step in steps]


def _made_by(made_by: Content) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in made_by["versions"].items())
    yield f"{made_by['machine']}, Python {made_by['python']}, {_plain(versions)}"
    git = made_by["git"]
    yield f"`{git['commit']}`{' with changes' if git['dirty'] else ''}" if git else "installed from a package"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _plain(text: object) -> str:
    """Text from outside as Markdown shows it unchanged, on one line."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _code(text: object) -> str:
    """The same between backticks, where nothing can be escaped."""
    return " ".join(str(text).replace("`", "'").split())
