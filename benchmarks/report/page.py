"""The content of a report as sections of text, tables and figures, with every number as it is read.

    page = make_page(read_sources([Path("bundles/first")]))

The templates only write this down, so HTML and Markdown say the same. What is missing stands as a `Missing`, with the
command that would give it.
"""

import shlex
from dataclasses import dataclass

from tinyscene.benchmarks.report.blocks import (
    NOTHING,
    Block,
    Content,
    Figure,
    Missing,
    Section,
    Table,
    Text,
    count,
    evaluate_command,
    millions,
    milliseconds,
    percent,
)
from tinyscene.benchmarks.report.bundle import NO_BENCH, ORIENTATION, bundle_section, comparison, first_device
from tinyscene.benchmarks.report.plots import curves_plot, frontier_plot, split_name, splits_plot
from tinyscene.benchmarks.report.sources import ReportedSweep, Sources
from tinyscene.train.sweep.published import PUBLISHED_SOURCE
from tinyscene.train.sweep.report import details, not_done, overview, split_title

MOST_NAMED = 4  # sources in the title, before it only counts them
MOST_SAID = 12  # points that the text in place of a figure says, before it leaves them to the table
MEANING = """\
Macro-average accuracy is the mean over the classes of the share of their recordings that were classified correctly. Log
loss is the mean negative natural logarithm of the probability of the true class.

MACs are multiply-accumulate operations for one second of audio; parameters and MACs are counted as NeSsi and
torchinfo count them, before BatchNorm is folded.

Instructions were counted by emulators, which do not model pipelines or flash: they are not cycles. RAM is the memory of
an instance of the C library, without its stack; flash is code, weights and tables.

Latency on the host is that of one clip at a time.
"""


@dataclass(frozen=True)
class Page:
    title: str
    sections: list[Section]


def make_page(sources: Sources) -> Page:
    """All sections of a report."""
    bundles, sweeps = sources.bundles, sources.sweeps
    sections = [Section("overview", "Overview", _overview(bundles, sweeps))]
    sections.append(Section("frontier", "Accuracy against size", _frontier(sources)))
    sections += [
        bundle_section(bundle, f"bundle-{number}", PUBLISHED_SOURCE) for number, bundle in enumerate(bundles, 1)
    ]
    sections += [_sweep(sweep, f"sweep-{number}") for number, sweep in enumerate(sweeps, 1)]
    sections.append(
        Section(
            "meaning",
            "What the figures mean",
            [Text(" ".join(paragraph.split())) for paragraph in MEANING.split("\n\n")],
        )
    )
    return Page(_title(bundles, sweeps), sections)


def _title(bundles: list[Content], sweeps: list[ReportedSweep]) -> str:
    names = [*(bundle["name"] for bundle in bundles), *(sweep.name for sweep in sweeps)]
    counts = [
        f"{len(group)} {kind}{'s' * (len(group) > 1)}"
        for group, kind in ((bundles, "bundle"), (sweeps, "sweep"))
        if group
    ]
    return ", ".join(names) if len(names) <= MOST_NAMED else " and ".join(counts)


def _overview(bundles: list[Content], sweeps: list[ReportedSweep]) -> list[Block]:
    blocks: list[Block] = []
    if bundles:
        header = ["bundle", "macro-average accuracy, %", "MACs", "bytes", "RAM, bytes"]
        header += ["flash, bytes", "fastest latency, ms", "instructions, millions"]
        note = (
            "Bytes are those of weights and biases. Flash and instructions are of the first microcontroller that was "
            f"measured; latency is of the fastest runner on the host. {NOTHING}: not measured yet."
        )
        blocks.append(Table("Bundles", [header, *map(_overview_row, bundles)], note))
    if sweeps:
        rows = [
            [
                sweep.name,
                str(len(sweep.summary.runs)),
                ", ".join(split_name(split) for split in sweep.summary.splits),
                str(len(sweep.summary.not_done)),
                f"{sweep.summary.test_clips:,}",
            ]
            for sweep in sweeps
        ]
        blocks.append(Table("Sweeps", [["sweep", "runs", "splits", "not done", "test recordings"], *rows]))
    return blocks


def _overview_row(bundle: Content) -> list[str]:
    metrics, bench = bundle["metrics"], bundle["bench"] or NO_BENCH
    fastest = min((row["median_ms"] for row in bench["latency"].values()), default=None)
    device = first_device(bundle) or {"flash_bytes": None, "instructions": None}
    return [
        bundle["name"],
        NOTHING if metrics is None else percent(metrics["macro_accuracy"]),
        count(bundle["budget"]["macs"]),
        count(bundle["budget"]["deployed_bytes"]),
        count(bundle["memory"]["memory_bytes"]),
        count(device["flash_bytes"]),
        milliseconds(fastest),
        millions(device["instructions"]),
    ]


def _frontier(sources: Sources) -> list[Block]:
    points = sources.frontier
    blocks: list[Block] = [
        Missing(f"{bundle['name']} was not evaluated yet and is left out.", evaluate_command(bundle))
        for bundle in sources.bundles
        if bundle["metrics"] is None
    ]
    if not points:
        return blocks
    named = points if len(points) <= MOST_SAID else sorted(points, key=lambda point: -point["mean"])[:1]
    alt = "; ".join(
        f"{point['name']} on {split_name(point['split'])}: {percent(point['mean'])} % "
        f"at {point['macs'] / 1e6:.2f} M MACs"
        for point in named
    )
    if named is not points:
        alt = f"{len(points)} points, all in the table below; the most accurate is {alt}"
    caption = (
        "Macro-average accuracy against MACs, one panel per split. The dotted line joins our networks on the Pareto "
        "frontier. Bars: sample standard deviations over seeds."
    )
    rows = [
        [
            point["name"],
            split_name(point["split"]),
            f"{point['macs']:,.0f}",
            percent(point["mean"]),
            percent(point["sd"]),
        ]
        for point in points
    ]
    header = ["network", "split", "MACs", "macro-average accuracy, %", "standard deviation"]
    table = Table("Accuracy against MACs", [header, *rows], is_folded=len(rows) > MOST_SAID)
    comparable = [bundle["published"]["comparable"] for bundle in sources.bundles if bundle["published"]]
    comparable += [sweep.summary.published.comparable for sweep in sources.sweeps]
    text = Text(f"Published: {PUBLISHED_SOURCE}." if all(comparable) else ORIENTATION)
    return [*([text] if comparable else []), Figure(frontier_plot(points), alt, caption), table, *blocks]


def _curves(sweep: ReportedSweep) -> list[Block]:
    """The training curves of a sweep, where a run has more than one epoch."""
    if not sweep.curves:
        return []
    ends = (f"{run}: {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)}" for run, losses in sweep.curves.items())
    caption = (
        "Training loss after each epoch, the mean over splits and seeds. Losses of runs with teachers, or with other "
        "augmentation, are of another kind and cannot be compared."
    )
    return [Figure(curves_plot(sweep.curves), f"Training loss, first to last epoch; {'; '.join(ends)}", caption)]


def _sweep(sweep: ReportedSweep, ident: str) -> Section:
    summary = sweep.summary
    published = summary.published
    notes = "Mean ± sample standard deviation over the runs that are done."
    if published.splits:
        notes += " " + comparison(published.comparable, published.source)
        notes += "".join(f" {system.name}: {system.source}." for system in published.systems)
    best: dict[str, list[str]] = {}
    for result in summary.results:
        best.setdefault(result.split, []).append(f"{result.run} {percent(result.statistics.macro_accuracy.mean)}")
    alt = "Macro-average accuracy in per cent; " + "; ".join(
        f"{split_name(split)}: {', '.join(sentences)}" for split, sentences in best.items()
    )
    caption = "Macro-average accuracy by split; bars: standard deviation over seeds."
    blocks: list[Block] = [
        Text(notes),
        *([Figure(splits_plot(summary), alt, caption)] if len(best) > 1 else []),
        Table("Macro-average accuracy, %", overview(summary)),
        *_curves(sweep),
    ]
    parts = [
        Section(
            f"{ident}-{number}",
            split_title(split),
            [Table(f"{split_title(split)}: accuracy and log loss", details(summary, split), look="dense")],
        )
        for number, split in enumerate(best, 1)
    ]
    if summary.not_done:
        text = Missing(
            "These runs are not done; the command that started the sweep continues it.",
            f"tinyscene sweep ... --out {shlex.quote(sweep.folder)}",
        )
        parts.append(
            Section(
                f"{ident}-rest",
                "Not done",
                [
                    text,
                    Table(
                        "Runs that are not done",
                        not_done(summary),
                        look="list",
                        is_folded=len(summary.not_done) > MOST_SAID,
                    ),
                ],
            )
        )
    return Section(ident, f"Sweep {sweep.name}", blocks, parts)
