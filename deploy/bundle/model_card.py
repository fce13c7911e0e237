"""The model card of a bundle: what it is, for whom, on what data, how well, and where it ends.

    card = model_card(bundle.content)        # Markdown

Written from the bundle's index alone, with the index, and anew whenever something measured is
recorded there: every number is one of its facts, and a fact that is missing is said to be missing, with the command
that gives it. Its sections are those of M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, under the
header in YAML that hubs of models read.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tinyscene.deploy.frontend.log_mel import FrontEnd

TAU_LICENCE = """\
The dataset has the layout of TAU Urban Acoustic Scenes 2022 Mobile (https://zenodo.org/records/6337421), whose
recordings may be used for experiments and non-commercial purposes only, with their copyright notice and an
acknowledgement of the Audio Research Group, Tampere University. Weights trained on them are taken to be under the
same terms."""
USE = """\
For telling, on a device or a host, which of its labels a second of sound is most like: research on acoustic scene
classification, and products that adapt to where they are and do no harm when they are wrong, such as a hearing
aid's or a phone's choice of settings.

### Out of scope

- **Surveillance**: following people, or concluding from sound where somebody is or what they do.
- **Safety**: any decision from which harm may follow, such as alarms, driving or medical ones.
- Speech, speakers, and single events: it names whole scenes.
- Anything but its labels: it cannot answer "none of these", and every sound is given one of them."""
GROUPS = (("by_class", "Class"), ("by_device", "Device"), ("by_device_group", "Device group"))
MEASURES = (
    ("clips", "recordings", "{clips:,}"),
    ("macro_accuracy", "macro-average accuracy, over the classes", "{macro_accuracy:.1%}"),
    ("accuracy", "accuracy", "{accuracy:.1%} ({correct:,} of {clips:,})"),
    ("log_loss", "log loss", "{log_loss:.3f}"),
)
LATENCY_COLUMNS = {
    "median_ms": "median, ms",
    "p25_ms": "lower quartile",
    "p75_ms": "upper quartile",
    "rounds": "rounds",
}
TARGET_COLUMNS = ("instructions", "frontend_instructions", "arena_bytes", "state_bytes", "flash_bytes")
NOT_MEASURED = "Not measured yet: `{}` does, and writes it here."


def model_card(content: Mapping[str, Any]) -> str:
    """Markdown for a bundle with this index. Raises KeyError, TypeError or ValueError where the index is not one."""
    sections = {
        "Model details": _details(content),
        "Intended use": USE,
        "Training data": _training_data(content),
        "Licence": _licence(content),
        "Metrics": _metrics(content),
        "Speed and memory": _measured(content.get("bench")),
        "Quantization": _quantization(content),
        "Limits": _limits(content),
        "Provenance": _provenance(content),
        "How to use and cite": _usage(content),
    }
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items())
    return f"{_header(content)}\n# {_plain(_name(content))}\n\n{_summary(content)}\n\n{body}"


def _header(content: Mapping[str, Any]) -> str:
    """The part that hubs read. JSON is YAML, whatever a name holds."""
    data = _data(content)
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
    measured = content.get("metrics") or {}
    if "accuracy" in measured:
        results = {
            "task": {"type": "audio-classification"},
            "dataset": {"name": f"test list of split {measured.get('split')}", "type": str(measured.get("data_hash"))},
            "metrics": [{"type": "accuracy", "value": measured["accuracy"]}],
        }
        entries["model-index"] = [{"name": _name(content), "results": [results]}]
    return "".join(["---\n", *(f"{key}: {json.dumps(value)}\n" for key, value in entries.items()), "---\n"])


def _summary(content: Mapping[str, Any]) -> str:
    labels = content["labels"]
    return (
        f"An acoustic scene classifier: one second of sound in, one of {len(labels)} labels out. Integers only: int16\n"
        f"PCM, int8 features, int8 network.\n\nLabels: {', '.join(map(_plain, labels))}."
    )


def _details(content: Mapping[str, Any]) -> str:
    budget, features = content["budget"], FrontEnd(**content["front_end"])
    table = _table(
        ("", "figure"),
        [
            ("parameters, as the challenge counts them", f"{budget['parameters']:,}"),
            ("MACs for one second, as the challenge counts them", f"{budget['macs']:,}"),
            ("bytes of weights and biases, as deployed", f"{budget['deployed_bytes']:,}"),
            ("MACs for one second, as deployed", f"{budget['deployed_macs']:,}"),
            ("sample rate", f"{features.sample_rate:,} Hz, mono"),
            ("features", f"{features.n_mels} mel x {features.shape[1]} frames"),
        ],
    )
    recipe = content["recipe"]
    family = f", network `{_code(recipe['model']['family'])}`" if "model" in recipe else ""
    parts = [f"Recipe `{_code(recipe['name'])}`{family}.", table]
    if devices := content.get("variants"):
        parts.append(
            f"Networks fine-tuned for single recording devices are in `variants`: {', '.join(map(_plain, devices))}. "
            "This one is for every\nother device; each has a card of its own."
        )
    return "\n\n".join(parts)


def _training_data(content: Mapping[str, Any]) -> str:
    trained, quantized = content["trained"], content["quantized"]
    parts = []
    if trained["split"] is None:
        parts.append("The weights were imported: what they were trained on, and how, is not recorded.")
    else:
        settings = content["recipe"].get("train", {})
        how = f" {settings['epochs']} epochs in batches of {settings['batch_size']}," if settings else ""
        parts.append(
            f"Split `{_code(trained['split'])}` of data with the hash `{trained['data_hash']}`;{how} seed "
            f"{content['recipe']['seed']}."
        )
    if trained["source"]:
        verb = "come" if trained["split"] is None else "started"
        parts.append(f"They {verb} from `{_code(trained['source'])}`.")
    if trained.get("data"):
        parts.append(_counts(trained["data"]))
    elif trained["split"] is not None:
        parts.append("How many recordings those are is not recorded; `tinyscene train` of this version records it.")
    if (quantized["split"], quantized["data_hash"]) != (trained["split"], trained["data_hash"]):
        parts.append(
            f"Quantized with split `{_code(quantized['split'])}` of data with the hash `{quantized['data_hash']}`."
        )
        if data := quantized.get("data"):
            parts.append(_counts(data))
    return "\n\n".join(parts)


def _counts(data: Mapping[str, Any]) -> str:
    """How many recordings are in a split, by class and device."""
    training, test = (data[part]["recordings"] for part in ("training", "test"))
    parts = [f"`{_code(data['name'])}`: {training:,} recordings to train on, {test:,} to test on."]
    for key, title in (("by_class", "class"), ("by_device", "device")):
        names = sorted(set(data["training"][key]) | set(data["test"][key]))
        if names:
            rows = [
                (_plain(name), *(f"{data[part][key].get(name, 0):,}" for part in ("training", "test")))
                for name in names
            ]
            parts.append(_table((title, "training", "test"), rows))
    return "\n\n".join(parts)


def _licence(content: Mapping[str, Any]) -> str:
    trained, quantized, data = content["trained"], content["quantized"], _data(content)
    if data:
        parts = [_terms(data)]
    else:
        origin = "imported" if trained["split"] is None else "trained by an earlier version of tinyscene"
        parts = [f"Not known: the weights were {origin}, and the terms of what they were trained on are not recorded."]
    if quantized["training"] and quantized.get("data") and quantized["data_hash"] != trained["data_hash"]:
        parts.append(f"Fine-tuned with rounding on other data, whose terms hold as well. {_terms(quantized['data'])}")
    return "\n\n".join(parts)


def _terms(data: Mapping[str, Any]) -> str:
    """What is known of the terms of a dataset."""
    if data["licence"]:
        own = f"The dataset comes with `{_code(data['licence'])}`, whose terms hold for weights trained on it, too."
        return f"{own} {TAU_LICENCE}" if data["layout"] == "tau" else own
    if data["layout"] == "tau":
        return TAU_LICENCE
    return (
        "Not known: the dataset, a folder for each class, holds no LICENSE file. Weights take over the terms of the\n"
        "recordings they were trained on; ask who made them."
    )


def _metrics(content: Mapping[str, Any]) -> str:
    measured = content.get("metrics")
    if not measured:
        return NOT_MEASURED.format("tinyscene evaluate BUNDLE --data DATA")
    split, data_hash, runner = (_code(measured.get(key, "unknown")) for key in ("split", "data_hash", "runner"))
    figures = [
        (title, form.format(**measured))
        for key, title, form in MEASURES
        if isinstance(measured.get(key), int | float) and {"clips", "correct"} <= measured.keys()
    ]
    parts = [
        f"The test list of split `{split}` of data with the hash `{data_hash}`, run by `{runner}`:",
        _table(("measure", "figure"), [*figures, ("accuracy of a guess", f"{1 / len(content['labels']):.1%}")]),
    ]
    if content["trained"]["data_hash"] != measured.get("data_hash"):
        parts.append(
            "The weights were trained on other data, or on data that is not known: recordings of this test, or of the\n"
            "same places, may have been among them."
        )
    for key, title in GROUPS:
        if groups := measured.get(key):
            rows = [
                (_plain(name), f"{each['clips']:,}", f"{each['accuracy']:.1%}", f"{each['log_loss']:.3f}")
                for name, each in groups.items()
            ]
            parts.append(_table((title, "recordings", "accuracy", "log loss"), rows))
        elif key == "by_class":
            parts.append("By class and device: " + NOT_MEASURED.format("tinyscene evaluate BUNDLE --data DATA"))
    return "\n\n".join(parts)


def _measured(bench: Mapping[str, Any] | None) -> str:
    """What `tinyscene bench` measured, and on which machine."""
    if not bench:
        return NOT_MEASURED.format("tinyscene bench BUNDLE")
    facts = bench.get("machine", {}).items()
    machine = ", ".join(f"{key} {value}" for key, value in facts if isinstance(value, str | int))
    parts = [f"Measured by `tinyscene bench` on this machine: {_plain(machine)}."]
    latency = [
        (_plain(name), *(_figure(each[key]) for key in LATENCY_COLUMNS))
        for name, each in bench.get("latency", {}).items()
        if LATENCY_COLUMNS.keys() <= each.keys()
    ]
    if latency:
        parts.append(_table(("runner, for a second of sound", *LATENCY_COLUMNS.values()), latency))
    counted = {name: row for name, row in bench.get("targets", {}).items() if row.get("kind") == "instructions"}
    found = [key for key in TARGET_COLUMNS if any(key in row for row in counted.values())]
    if found:
        rows = [(_plain(name), *(_figure(row.get(key)) for key in found)) for name, row in counted.items()]
        parts.append(_table(("device", *(key.replace("_", " ") for key in found)), rows))
        parts.append("Instructions were counted on emulators; they are not cycles.")
    return "\n\n".join(parts)


def _quantization(content: Mapping[str, Any]) -> str:
    quantized, settings = content["quantized"], content["recipe"]["quantize"]
    text = (
        f"Weights int8 with a scale for each output channel, activations int8 with one for each tensor. Calibrated on\n"
        f"{quantized['calibration_clips']} training clips ({settings['calibration']}), biases "
        f"{'corrected' if settings['bias_correction'] else 'left as they were'}."
    )
    if training := quantized["training"]:
        text += f" Fine-tuned with rounding for {len(training)} epochs" + (
            f", {settings['distill']:.0%} distilled from the float network." if settings["distill"] else "."
        )
    output = list(content["errors"])[-1]
    return (
        f"{text}\nThe integers' logits have a signal-to-noise ratio of {content['errors'][output]['sqnr_db']:.1f} dB "
        "against the float network's on training clips;\n`tinyscene inspect BUNDLE` has it for every tensor."
    )


def _limits(content: Mapping[str, Any]) -> str:
    groups = (content.get("metrics") or {}).get("by_device_group", {})
    unseen = ""
    if {"unseen", "real"} <= groups.keys():
        unseen = (
            f" Here: {groups['unseen']['accuracy']:.1%} on simulated devices that were not in training, "
            f"{groups['real']['accuracy']:.1%} on the real ones."
        )
    return "\n".join(
        [
            "- **Other microphones** than it was trained on are heard less well, as are other places, cities and",
            f"  seasons.{unseen}",
            "- **Not calibrated**: its scores are a softmax over its logits, not the probability of being right.",
            "- **Always one of its labels**, for silence, speech and music as for any other sound.",
            "- A decision is about one second; what a second of sound does not tell, the network cannot know.",
            "- Recordings of one place resemble each other: the figures above count recordings, not places, and say",
            "  less than their number suggests.",
            "- A microphone that listens all the time hears people. What runs here keeps no sound beyond the last",
            "  second, and needs no network; whoever builds on it answers for the rest.",
        ]
    )


def _provenance(content: Mapping[str, Any]) -> str:
    rows = []
    for title, made in (("trained", content["trained"]["made_by"]), ("quantized", content["quantized"]["made_by"])):
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        git = made["git"]
        commit = f"`{git['commit']}`{' with changes' if git['dirty'] else ''}" if git else "installed from a package"
        rows.append((title, f"{made['machine']}, Python {made['python']}, {_plain(versions)}", commit))
    rows[0] = ("imported", *rows[0][1:]) if content["trained"]["split"] is None else rows[0]
    table = _table(("step", "with", "commit of tinyscene"), rows, "---")
    return (
        f"{table}\n\nSHA-256 of the integer weights: `{content['files']['graph.safetensors']}`.\n"
        "`bundle.json` has that of every file, the whole recipe and the front end."
    )


def _usage(content: Mapping[str, Any]) -> str:
    version = content["quantized"]["made_by"]["versions"].get("tinyscene", "unknown")
    return f"""\
    tinyscene classify BUNDLE recording.wav
    tinyscene listen BUNDLE
    tinyscene firmware BUNDLE --out fw
    tinyscene verify BUNDLE

Cite this model by its name and the SHA-256 of its weights, above; tinyscene {_plain(version)} as its `CITATION.cff`
says; and the dataset as its authors ask."""


def _data(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is known of the data that the weights were trained on."""
    trained, quantized = content["trained"], content["quantized"]
    same = trained["data_hash"] is not None and trained["data_hash"] == quantized["data_hash"]
    return trained.get("data") or (quantized.get("data") if same else None) or {}


def _name(content: Mapping[str, Any]) -> str:
    return content.get("name", f"{content['recipe']['name']} network")


def _table(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]], others: str = "---:") -> str:
    """Markdown; all columns but the first are set right, unless told otherwise."""
    rule = ("---", *(others for _ in columns[1:]))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (columns, rule, *rows))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _plain(text: object) -> str:
    """Text that comes from outside, shown as it is and on one line."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _code(text: object) -> str:
    """The same between backticks, where nothing can be escaped."""
    return " ".join(str(text).replace("`", "'").split())
