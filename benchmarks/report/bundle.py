"""The sections of a bundle: accuracy, budget, layers, memory, latency, devices, and what made it."""

from markupsafe import Markup

from tinyscene.benchmarks.report.blocks import (
    NOTHING,
    TIMES,
    Block,
    Content,
    Facts,
    Figure,
    Missing,
    Section,
    Table,
    Text,
    bench_command,
    count,
    evaluate_command,
    flat,
    millions,
    milliseconds,
    percent,
)
from tinyscene.benchmarks.report.plots import groups_plot, latency_plot
from tinyscene.benchmarks.report.stages import stages
from tinyscene.train.sweep.status import GROUPS

NO_BENCH: Content = {"latency": {}, "targets": {}, "accuracy": None}
UNKNOWN = "unknown: the weights were imported"
ORIENTATION = (
    "The published figures are listed for orientation only: they were measured on the full test list of TAU, and not "
    "all of ours were."
)


def bundle_section(bundle: Content, ident: str, source: str) -> Section:
    bench, parts = bundle["bench"] or NO_BENCH, []
    for name, title, blocks in (
        ("accuracy", "Accuracy", [*_accuracy(bundle, source), *_intervals(bench["accuracy"])]),
        ("confusion", "Confusion", _confusion(bundle)),
        ("decision", "Decision rule", _decision(bundle)),
        ("budget", "Budget", _budget(bundle)),
        ("layers", "Layers", _layers(bundle)),
        ("memory", "Memory", _memory(bundle)),
        ("latency", "Latency", _latency(bundle, bench)),
        ("devices", "Targets", _devices(bundle, bench["targets"])),
        ("provenance", "Provenance", _provenance(bundle)),
    ):
        if blocks:
            parts.append(Section(f"{ident}-{name}", title, blocks))
    return Section(ident, f"Bundle {bundle['name']}", [_facts(bundle)], parts)


def _facts(bundle: Content) -> Facts:
    metrics, budget, memory, device = bundle["metrics"], bundle["budget"], bundle["memory"], first_device(bundle)
    facts = [
        ("MACs for one second", f"{budget['macs'] / 1e6:.2f} M", f"of {budget['limits']['max_macs'] / 1e6:g} M"),
        ("weights and biases", f"{budget['deployed_bytes'] / 1e3:.1f} kB", f"{budget['parameters']:,} parameters"),
        ("RAM", f"{memory['memory_bytes'] / 1e3:.1f} kB", "front end, network and state"),
    ]
    if metrics:
        what = f"of {metrics['clips']:,} recordings, split {metrics['split']}"
        facts.insert(0, ("macro-average accuracy", f"{percent(metrics['macro_accuracy'])} %", what))
    if device:
        facts.append(("instructions", f"{millions(device['instructions'])} M", f"an inference on {device['target']}"))
    return Facts(facts)


def _decision(bundle: Content) -> list[Block]:
    return [Text(line) for line in bundle["decision"]]


def first_device(bundle: Content) -> Content | None:
    """The first target that was counted, or none."""
    targets = (bundle["bench"] or NO_BENCH)["targets"]
    return next(({"target": name, **row} for name, row in targets.items() if row["instructions"] is not None), None)


def _accuracy(bundle: Content, source: str) -> list[Block]:
    metrics, published = bundle["metrics"], bundle["published"]
    if metrics is None:
        return [Missing("Accuracy was not measured yet.", evaluate_command(bundle))]
    rows = [["all, macro-average", count(metrics["clips"]), "", percent(metrics["macro_accuracy"])]]
    rows.append(["all", count(metrics["clips"]), count(metrics["correct"]), percent(metrics["accuracy"])])
    rows[0].append("")
    rows[1].append(f"{metrics['log_loss']:.3f}")
    names: list[tuple[str, str] | None] = [("", "macro_accuracy"), None]
    for key, title in GROUPS.items():
        for name, group in metrics[key].items():
            figures = [count(group["clips"]), count(group["correct"]), percent(group["accuracy"])]
            rows.append([f"{title} {name}", *figures, f"{group['log_loss']:.3f}"])
            names.append((key, name))
    header = ["", "recordings", "correct", "accuracy, %", "log loss"]
    if published:
        header.append("published baseline, %")
        for row, name in zip(rows, names, strict=True):
            row.append(_published(published, name))
    origin = f"runner {metrics['runner']}, test list of split {metrics['split']}, data {metrics['data_hash'][:16]}"
    blocks: list[Block] = [Text(comparison(published["comparable"], source))] if published else []
    if metrics["by_class"]:
        blocks.append(_groups_figure(bundle))
    else:
        blocks.append(Missing("Accuracy by class and recording device was not recorded.", evaluate_command(bundle)))
    return [*blocks, Table(f"Accuracy by class and recording device: {origin}", [header, *rows])]


def _intervals(accuracy: Content | None) -> list[Block]:
    """What the integers cost, if `bench` measured it."""
    if accuracy is None:
        return []
    rows = [
        [title, percent(row["macro_accuracy"]), *map(percent, row["macro_interval"])]
        for title, row in (
            ("float", accuracy["float"]),
            ("int8", accuracy["int8"]),
            ("int8 - float", accuracy["difference"]),
        )
    ]
    note = (
        f"{accuracy['clips']:,} clips of {accuracy['recordings']:,} recordings. Intervals of {accuracy['coverage']:g} %"
        " by a bootstrap over recordings, not clips."
    )
    header = ["", "macro-average accuracy, %", "interval from", "to"]
    return [Table("Float and int8", [header, *rows], note)]


def _published(published: Content, name: tuple[str, str] | None) -> str:
    if name is None:
        return NOTHING
    key, member = name
    statistic = published[key].get(member) if key else published[member]
    if statistic is None:
        return NOTHING
    deviation = "" if statistic["sd"] is None else f" ± {percent(statistic['sd'])}"
    return f"{percent(statistic['mean'])}{deviation}"


def comparison(comparable: bool, source: str) -> str:
    if comparable:
        return f"Published: {source}."
    return f"{ORIENTATION} Published: {source}."


def _groups_figure(bundle: Content) -> Figure:
    metrics, published = bundle["metrics"], bundle["published"]
    parts = []
    for key in ("by_class", "by_device"):
        for name, group in metrics[key].items():
            known = f" (published {_published(published, (key, name))})" if published else ""
            parts.append(f"{name} {percent(group['accuracy'])}{known}")
    alt = f"Accuracy in per cent: {', '.join(parts)}"
    beside = ", beside the published baseline's" if published else ""
    return Figure(groups_plot(metrics, published), alt, f"Accuracy of each class and recording device{beside}.")


def _confusion(bundle: Content) -> list[Block]:
    metrics, labels = bundle["metrics"], bundle["labels"]
    if metrics is None or metrics["confusion"] is None:
        return [Missing("The confusion matrix was not recorded.", evaluate_command(bundle))]
    counts = metrics["confusion"]
    shades = [[count / max(sum(row), 1) for count in row] for row in counts]
    rows = [[label, *map(count, row)] for label, row in zip(labels, counts, strict=True)]
    caption = "Recordings by true class (rows) and predicted class (columns)"
    note = "Shades: share of the true class."
    return [Table(caption, [["true class", *labels], *rows], note, shades, look="matrix")]


def _budget(bundle: Content) -> list[Block]:
    budget, limits = bundle["budget"], bundle["budget"]["limits"]
    rows = []
    for what, value, most in (
        ("bytes of weights and biases", budget["deployed_bytes"], limits["max_bytes"]),
        ("MACs for one second", budget["macs"], limits["max_macs"]),
    ):
        verdict = "holds" if value <= most else "EXCEEDED"
        rows.append([what, count(value), count(most), f"{100 * value / most:.1f}", verdict])
    clip = f" in a clip, for which the same count is {budget['clip_macs']:,}" if "clip_macs" in budget else ""
    note = (
        f"{budget['parameters']:,} parameters and the MACs are counted before BatchNorm is folded, as the challenge "
        f"counts them; the deployed network has {budget['deployed_macs']:,} MACs{clip}."
    )
    return [Table("Budget", [["", "counted", "limit", "share, %", ""], *rows], note)]


def _layers(bundle: Content) -> list[Block]:
    layers = bundle["layers"]
    counted = {name: target["layers"] or [] for name, target in (bundle["bench"] or NO_BENCH)["targets"].items()}
    counted = {name: target for name, target in counted.items() if len(target) == len(layers) - 1}  # the input has none
    header = ["layer", "operator", "shape", "MACs", "bytes"]
    header += [f"instructions, {name}" for name in counted]
    header += ["SQNR, dB", "error alone"]
    rows, shades = [], []
    most = [max(layer["macs"] for layer in layers) or 1, *(max(layer) or 1 for layer in counted.values())]
    for number, layer in enumerate(layers):
        counts = [counts_of[number - 1] if number else 0 for counts_of in counted.values()]
        shape = f" {TIMES} ".join(map(str, layer["shape"][1:]))
        row = [layer["name"], layer["kind"], shape, count(layer["macs"]), count(layer["bytes"])]
        rows.append([*row, *map(count, counts), f"{layer['sqnr_db']:.1f}", f"{layer['alone']:.4f}"])
        shares = [part / whole for part, whole in zip((layer["macs"], *counts), most, strict=True)]
        shades.append([0, 0, shares[0], 0, *shares[1:], 0, 0])
    sums = map(sum, counted.values())
    total = [sum(layer[key] for layer in layers) for key in ("macs", "bytes")]
    rows.append(["total", "", "", *map(count, (*total, *sums)), "", ""])
    shades.append([0] * (len(header) - 1))
    note = (
        "SQNR: signal to quantization noise ratio, with the noise accumulated from the input on. Error alone: mean "
        "absolute error of the logits when only this layer is quantized. Shades: share of the largest value."
    )
    blocks: list[Block] = [Table("Layers", [header, *rows], note, shades, look="dense", has_total=True)]
    if not counted:
        blocks.append(Missing("Instructions by layer were not counted yet.", bench_command(bundle)))
    return blocks


def _memory(bundle: Content) -> list[Block]:
    memory = bundle["memory"]
    largest = sorted(memory["plan"], key=lambda row: -row["bytes"])[:3]
    summary = ", ".join(f"{row['block']} {row['bytes']:,}" for row in largest)
    alt = (
        f"Arena of {memory['arena_bytes']:,} bytes over {memory['steps']:,} steps, {len(memory['plan'])} blocks; "
        f"the largest in bytes: {summary}"
    )
    caption = (
        "The arena: memory upwards, time to the right. Each block is drawn row by row, over the live range of the row; "
        "blocks share memory where no two rows are live at the same time."
    )
    header = ["block", "offset", "bytes", "rows held", "from step", "to step"]
    rows = [
        [row["block"], count(row["offset"]), count(row["bytes"]), row["rows"], count(row["from"]), count(row["to"])]
        for row in memory["plan"]
    ]
    text = (
        f"{memory['memory_bytes']:,} bytes of RAM are needed by an instance: an arena of "
        f"{memory['arena_bytes']:,}, which front end and network share, and a state of {memory['state_bytes']}."
    )
    picture = Markup(memory["picture"])  # noqa: S704 - written by an XML library
    return [
        Text(text),
        Figure(picture, alt, caption, look="wide"),
        Table("Blocks of the arena", [header, *rows], "Step -1 is the front end.", is_folded=True),
    ]


def _latency(bundle: Content, bench: Content) -> list[Block]:
    latency = bench["latency"]
    if not latency:
        return [Missing("Latency was not measured yet.", bench_command(bundle))]
    ordered = _by_median(latency)
    alt = "Median milliseconds: " + ", ".join(f"{name} {milliseconds(row['median_ms'])}" for name, row in ordered)
    blocks: list[Block] = [Text(f"Warning: {warning}") for warning in bench["warnings"]]
    if decisions := bench["decision"]:
        blocks.append(_latency_table("Latency of a decision on the host", _by_median(decisions)))
    blocks.append(Figure(latency_plot(latency), alt, "Median latency of the network on the host; whiskers: quartiles."))
    blocks.append(_latency_table("Latency of the network on the host", ordered))
    if bench["front_end"]:
        blocks.append(_latency_table("Latency of the front end on the host", _by_median(bench["front_end"])))
    if energy := bench["energy"]:
        figures = f"at most {energy['network_mj']:.3f} mJ per inference; {energy['idle_watts']:.1f} W when idle"
        blocks.append(Text(f"Energy, by {energy['by']}: {figures}."))
    blocks += _left_out("Runtimes not measured", bench["missing"])
    if bench["machine"]:
        blocks.append(Table("The machine", [["key", "value"], *flat(bench["machine"])], look="list", is_folded=True))
    return blocks


def _by_median(latency: dict[str, Content]) -> list[tuple[str, Content]]:
    return sorted(latency.items(), key=lambda item: item[1]["median_ms"])


def _latency_table(caption: str, ordered: list[tuple[str, Content]]) -> Table:
    fastest = ordered[0][1]["median_ms"]
    rows = [
        [
            name,
            *(milliseconds(row[key]) for key in ("median_ms", "p25_ms", "p75_ms")),
            f"{row['median_ms'] / fastest:.2f}" if fastest else NOTHING,
            count(row["rounds"]),
        ]
        for name, row in ordered
    ]
    header = ["runner", "median, ms", "lower quartile", "upper quartile", "times the fastest", "rounds"]
    return Table(caption, [header, *rows])


def _devices(bundle: Content, targets: dict[str, Content]) -> list[Block]:
    if not targets:
        return [Missing("No target was measured yet.", f"{bench_command(bundle)} --targets host,cortex-m4,cortex-m55")]
    missing = {name: row["missing"] for name, row in targets.items() if row["missing"]}
    emulated = {name: row for name, row in targets.items() if row["toolchain"]}
    blocks: list[Block] = [_emulated(emulated), *stages(emulated)] if emulated else []
    for name, row in targets.items():
        if name not in (*missing, *emulated):
            known = {key: value for key, value in row.items() if value is not None}
            blocks.append(Table(name, [["key", "value"], *flat(known)], look="list"))
    return [*blocks, *_left_out("Targets not measured", missing)]


def _left_out(caption: str, missing: dict[str, str]) -> list[Block]:
    lines = [[name, reason] for name, reason in missing.items()]
    return [Table(caption, [["name", "reason"], *lines], look="list")] if missing else []


def _emulated(targets: dict[str, Content]) -> Table:
    header = ["target", "compiler", "emulator", "clips", "equal", "inference, M", "per MAC"]
    header += ["front end, M", "RAM, bytes", "stack, bytes", "flash, bytes"]
    rows = [
        [
            name,
            f"{row['toolchain']} -{row['optimize']} {row['kernels']}",
            row["emulator"] or "none",
            count(row["clips"]),
            {True: "yes", False: "NO", None: NOTHING}[row["equal"]],
            millions(row["instructions"]),
            NOTHING if row["instructions_per_mac"] is None else f"{row['instructions_per_mac']:.2f}",
            millions(row["frontend_instructions"]),
            *(count(row[key]) for key in ("memory_bytes", "stack_bytes", "flash_bytes")),
        ]
        for name, row in targets.items()
    ]
    note = (
        "Equal: every activation of every clip equals the reference bit for bit. Inference, front end (millions) and "
        "per MAC are instructions counted by an emulator; they are not cycles."
    )
    return Table("Targets: instructions and memory", [header, *rows], note, look="dense")


def _provenance(bundle: Content) -> list[Block]:
    known = bundle["provenance"]
    trained, quantized, recipe = known["trained"], known["quantized"], known["recipe"]
    rows = [["recipe", recipe["name"]], ["seed", str(recipe["seed"])]]
    if trained:
        rows += [
            ["trained on split", trained["split"] or UNKNOWN],
            ["training data", trained["data_hash"] or UNKNOWN],
            ["weights from", trained["source"] or "training from scratch"],
            ["trained by", _made_by(trained["made_by"])],
        ]
    rows += [
        ["calibrated on", f"{quantized['calibration_clips']:,} clips of split {quantized['split']}"],
        ["calibration data", quantized["data_hash"]],
        ["fine-tuned with rounding", f"{len(quantized['training'])} epochs" if quantized["training"] else "no"],
        ["quantized by", _made_by(quantized["made_by"])],
        ["variants for devices", ", ".join(known["variants"]) or "none"],
        ["front end, SHA-256", known["front_end_sha256"]],
        ["bundle, SHA-256 of its index", known["fingerprint"]],
    ]
    files = [[name, str(value)] for name, value in known["files"].items()]
    settings = flat({"features": known["front_end"]} | {k: v for k, v in recipe.items() if k != "features"})
    return [
        Table("Provenance", [["key", "value"], *rows], look="list"),
        Table("Recipe", [["key", "value"], *settings], look="list", is_folded=True),
        Table("Files", [["file", "SHA-256"], *files], look="list", is_folded=True),
    ]


def _made_by(made_by: Content) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made_by["versions"].items())
    git = made_by["git"]
    commit = "no checkout" if git is None else f"commit {git['commit']}{' with changes' if git['dirty'] else ''}"
    return f"{versions}; Python {made_by['python']} on {made_by['machine']}; {commit}"
