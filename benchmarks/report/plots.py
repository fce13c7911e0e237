"""The figures of the report: SVG to be set into its page, whose colours and typeface they take up.

Each is drawn in stand-in colours, which then become CSS variables: so one drawing serves light, dark and print. Text
stays text. Nothing in them is random, and no two share an id.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from tinyscene.train.runs.figures import figure_style, figure_text
from tinyscene.train.sweep.report import PUBLISHED
from tinyscene.train.sweep.statistic import Statistic
from tinyscene.train.sweep.summary import SweepSummary

Content = dict[str, Any]

WIDTH = 4.6  # inches: on a phone its text is as tall as it is drawn, on a desk as tall as the page's
LONGEST = 28  # characters of a name
INK, MUTED, RULE = "#010100", "#010101", "#010102"  # stand-ins
SERIES = tuple(f"#0102{number:02x}" for number in range(6))
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES)
}
MARKERS = "osv^Pp"
PUBLISHED_LOOK = {"color": MUTED, "marker": "D", "markerfacecolor": "none"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tinyscene",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
}


def frontier_plot(points: list[Content]) -> Markup:
    """Macro-average accuracy against MACs: a panel a split, with a line along the best of ours."""
    splits = list(dict.fromkeys(point["split"] for point in points))
    names = list(dict.fromkeys(point["name"] for point in points if point["kind"] != "published"))
    columns = min(2, len(splits))
    rows = -(-len(splits) // columns)
    with figure_style(STYLE):
        figure = Figure((WIDTH, 0.6 + 2.1 * rows + 0.16 * len(names)), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, split in zip(grid.flat, splits, strict=False):
            members = [point for point in points if point["split"] == split]
            _pareto(axes, [point for point in members if point["kind"] != "published"])
            for point in members:
                style = PUBLISHED_LOOK if point["kind"] == "published" else _series(names.index(point["name"]))
                _point(axes, point["macs"] / 1e6, point, label=short(point["name"]), **style)
            _log_axis(axes, [point["macs"] / 1e6 for point in points])
            axes.set_title(split_name(split))
            axes.grid()
        for axes in grid.flat[len(splits) :]:
            axes.set_axis_off()
        for axes in grid.flat[max(len(splits) - columns, 0) : len(splits)]:  # the lowest of each column
            axes.set_xlabel("million MACs")
            axes.tick_params(labelbottom=True)
        figure.supylabel("macro-average accuracy, %", fontsize=9)
        _legend(figure, grid.flat)
        return _svg(figure)


def splits_plot(summary: SweepSummary) -> Markup:
    """Macro-average accuracy of each run of a sweep over the splits, beside the published."""
    splits, runs = summary.splits, summary.runs
    with figure_style(STYLE):
        figure = Figure((WIDTH, 2.8 + 0.16 * len(runs)), layout="constrained")
        axes = figure.subplots()
        for number, run in enumerate(runs):
            mine = {result.split: result.statistics.macro_accuracy for result in summary.results if result.run == run}
            _line(axes, splits, mine, label=short(run), **_series(number))
        theirs = {split: known.macro_accuracy for split, known in summary.published.splits.items()}
        _line(axes, splits, theirs, PUBLISHED, **PUBLISHED_LOOK, linestyle="--")
        axes.set_xticks(range(len(splits)), [split_name(split) for split in splits])
        axes.set_xlim(-0.3, len(splits) - 0.7)
        axes.set_ylabel("macro-average accuracy, %")
        axes.grid(axis="y")
        _legend(figure, [axes])
        return _svg(figure)


def curves_plot(curves: dict[str, list[float]]) -> Markup:
    """The training loss of each run of a sweep over its epochs."""
    with figure_style(STYLE):
        figure = Figure((WIDTH, 2.4 + 0.16 * len(curves)), layout="constrained")
        axes = figure.subplots()
        for number, (run, losses) in enumerate(curves.items()):
            colour, line = SERIES[number % len(SERIES)], ("-", "--", ":")[number // len(SERIES) % 3]
            axes.plot(range(1, len(losses) + 1), losses, line, color=colour, linewidth=1.2, label=short(run))
        axes.set(xlabel="epoch", ylabel="training loss")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        _legend(figure, [axes])
        return _svg(figure)


def groups_plot(metrics: Content, published: Content | None) -> Markup:
    """Accuracy of each class and each device, beside the published."""
    parts = [(key, title) for key, title in (("by_class", "class"), ("by_device", "device")) if metrics[key]]
    counts = [len(metrics[key]) for key, _ in parts]
    with figure_style(STYLE):
        figure = Figure((WIDTH, 0.9 + 0.2 * sum(counts) + 0.35 * len(parts)), layout="constrained")
        grid = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
        for axes, (key, title) in zip(grid, parts, strict=True):
            names = list(metrics[key])
            values = [100 * metrics[key][name]["accuracy"] for name in names]
            known = {} if published is None else published[key]
            for place, (name, value) in enumerate(zip(names, values, strict=True)):
                if name in known:
                    axes.plot([value, 100 * known[name]["mean"]], [place, place], color=RULE, zorder=1)
            axes.plot(values, range(len(names)), "o", color=SERIES[0], label="this bundle")
            places = [place for place, name in enumerate(names) if name in known]
            if places:
                theirs = [100 * known[names[place]]["mean"] for place in places]
                axes.plot(theirs, places, linestyle="none", label=PUBLISHED, **PUBLISHED_LOOK)
            axes.set_yticks(range(len(names)), [short(name) for name in names])
            axes.set(title=f"by {title}", xlim=(-2, 102), ylim=(len(names) - 0.4, -0.6))
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        grid[-1].set_xlabel("accuracy, %")
        _legend(figure, grid)
        return _svg(figure)


def latency_plot(latency: dict[str, Content]) -> Markup:
    """Median latency of each runner, the fastest first, and its quartiles."""
    ordered = sorted(latency.items(), key=lambda item: item[1]["median_ms"])
    medians = [row["median_ms"] for _, row in ordered]
    spread = [
        [row["median_ms"] - row["p25_ms"] for _, row in ordered],
        [row["p75_ms"] - row["median_ms"] for _, row in ordered],
    ]
    colours = [SERIES[0], *[MUTED] * (len(ordered) - 1)]
    with figure_style(STYLE):
        figure = Figure((WIDTH, 0.7 + 0.32 * len(ordered)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(ordered)), medians, 0.55, color=colours)
        axes.errorbar(medians, range(len(ordered)), xerr=spread, fmt="none", ecolor=INK, elinewidth=0.9)
        end = max(row["p75_ms"] for _, row in ordered) or 1
        for place, (_, row) in enumerate(ordered):
            axes.text(row["p75_ms"] + 0.02 * end, place, f"{row['median_ms']:.3f}", va="center")
        axes.set_yticks(range(len(ordered)), [short(name) for name, _ in ordered])
        axes.set(xlabel="milliseconds", xlim=(0, 1.2 * end), ylim=(len(ordered) - 0.4, -0.6))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        return _svg(figure)


def short(name: str) -> str:
    """A name that leaves room for the plot."""
    return figure_text(name, LONGEST)


def split_name(split: str) -> str:
    """A split as a reader knows it: TAU's are shares of the training recordings."""
    return f"{split} %" if split.isdecimal() else short(split)


def _series(number: int) -> Content:
    """The look of a series: no two of the first 36 share both colour and marker."""
    return {"color": SERIES[number % len(SERIES)], "marker": MARKERS[(number + number // len(SERIES)) % len(MARKERS)]}


def _point(axes: Axes, x: float, statistic: Content, **style: Any) -> None:
    axes.errorbar(x, 100 * statistic["mean"], 100 * (statistic["sd"] or 0), linestyle="none", **style)


def _line(axes: Axes, splits: Sequence[str], statistics: dict[str, Statistic], label: str, **style: Any) -> None:
    places = [place for place, split in enumerate(splits) if split in statistics]
    members = [statistics[splits[place]] for place in places]
    if members:
        means, deviations = ([100 * (getattr(member, key) or 0) for member in members] for key in ("mean", "sd"))
        axes.errorbar(places, means, deviations, label=label, linewidth=1.2, **style)


def _pareto(axes: Axes, points: list[Content]) -> None:
    """A line through the points that are better than all that need no more MACs."""
    best: list[Content] = []
    for point in sorted(points, key=lambda point: (point["macs"], -point["mean"])):
        if not best or point["mean"] > best[-1]["mean"]:
            best.append(point)
    places = ([point["macs"] / 1e6 for point in best], [100 * point["mean"] for point in best])
    axes.step(*places, where="post", color=MUTED, linewidth=0.8, linestyle=":", zorder=1)


def _log_axis(axes: Axes, values: list[float]) -> None:
    axes.set(xscale="log", xlim=(min(values) / 2, max(values) * 2))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _legend(figure: Figure, grid: Any) -> None:
    entries = {label: mark for axes in grid for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if len(entries) > 1:
        columns = 2 if max(map(len, entries)) < 28 else 1
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def _svg(figure: Figure) -> Markup:
    """A figure as an element of a page: no size of its own, no stand-in colours, no ids but those it refers to."""
    out = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=empty)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    return Markup(re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], mark), svg))  # noqa: S704 - text between tags stays


def _tag(tag: str, mark: str) -> str:
    """A tag without size and needless id, its stand-in colours as CSS variables and its ids made unique by `mark`."""
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height)="[^"]*"', "", tag)
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r'(id="|#)(?=[mp][0-9a-f]{10}\b)', rf"\g<1>f{mark}", tag)
    return re.sub("#010[12][0-9a-f]{2}", lambda match: f"var({VARIABLES[match[0]]})", tag)
