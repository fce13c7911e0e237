"""The windows of a stream, of which no column is computed twice. Integers only.

    values = run_next(graph, features)                     # every tensor by name, as `run_all` gives them
    values = run_next(graph, features, values, advance)    # of the window that begins `advance` frames later

A column is what a tensor holds at one place in time. It follows from those columns of an operator's inputs that lie
under its window, and from nothing else. Where they are the same as in the former window, and none of them is padding,
the column is that of the former window. Which frames of the input are the same is found by comparing them. So the
values are those of `run_all`, whatever the graph and the features are: they only take less time.

Without padding over time (`model.time_padding: none`), windows that lie a whole number of columns of the last layer
apart cost what their new frames do. With padding it is the columns away from the window's ends that are kept.

What goes on from one window to the next is the values alone, which are never changed: whoever keeps them can go back.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import Window
from tinyscene.deploy.graph.operators import Add, Channels, Concat, Crop, Kind, Mean, Repeat
from tinyscene.deploy.graph.reference import Values, require_features, run_integer
from tinyscene.deploy.graph.tensor import Tensor

Run = tuple[int, int]  # of columns: the first, and the one after the last


class Reach(NamedTuple):
    """Which columns of its inputs an operator makes a column from: that of number t from `size`, from t * stride -
    before on. Beyond the first and the last there are `before` and `after` of padding."""

    size: int = 1
    stride: int = 1
    before: int = 0
    after: int = 0


def reach_of(operator: Kind) -> Reach | None:
    """The reach over time of an operator; none of a mean, which reads all columns, or of a frame that is repeated."""
    match operator:
        case Window():
            return Reach(operator.size[1], operator.stride[1], *operator.padding[2:])
        case Crop():
            return Reach(sum(operator.crop[2:]) + 1)
        case Add() | Channels() | Concat():
            return Reach()
        case Repeat():
            return None if operator.times[1] > 1 else Reach()
        case Mean():
            return None


def column_steps(graph: Graph) -> dict[str, int]:
    """Frames from one column to the next, by tensor; without those that a mean over frames goes into."""
    steps = {graph.input.name: 1}
    for operator in graph.operators:
        before, reach = {steps.get(name, 0) for name in operator.inputs}, reach_of(operator)
        if reach is not None and len(before) == 1 and 0 not in before:
            steps[operator.output.name] = before.pop() * reach.stride
    return steps


def run_next(
    graph: Graph, features: Values, former: Mapping[str, Values] | None = None, advance: int = 0
) -> dict[str, Values]:
    """Every tensor of a window by name, given those of the window that began `advance` frames before it.

    Features are int8 (batch, mel, frame, channels). Raises InputError as `run` does.
    """
    require_features(graph, features)
    steps, values = column_steps(graph), {graph.input.name: features}
    earlier = None if former is None else former[graph.input.name]
    changed = {graph.input.name: _changed_frames(features, earlier, advance)}
    for operator in graph.operators:
        sources, output = graph.sources(operator), operator.output
        arguments, reach = [values[name] for name in operator.inputs], reach_of(operator)
        if former is None or reach is None or output.name not in steps or advance % steps[output.name]:
            values[output.name] = run_integer(operator, sources, arguments)
            changed[output.name] = [(0, output.shape[-2])]
            continue
        runs = [run for name in operator.inputs for run in changed[name]]
        changed[output.name] = _merged(_under_window(reach, runs, sources[0].shape[2]))
        made, places = np.empty_like(former[output.name]), advance // steps[output.name]
        made[:, :, : max(0, output.shape[2] - places)] = former[output.name][:, :, places:]
        values[output.name] = made
        for first, end in changed[output.name]:
            made[:, :, first:end] = _columns(operator, reach, (first, end), sources, arguments)
    return values


def _columns(operator: Kind, reach: Reach, run: Run, sources: list[Tensor], arguments: list[Values]) -> Values:
    """A run of an operator's columns, of no more columns of its inputs than it reads."""
    first, end = run
    start = max(0, first - -(-reach.before // reach.stride))  # of the column whose window has no padding before it
    span = slice(start * reach.stride, (end - 1) * reach.stride - reach.before + reach.size)
    made = run_integer(operator, sources, [argument[:, :, span] for argument in arguments])
    return made[:, :, first - start : end - start]  # what pads the inputs there is no padding of theirs


def _changed_frames(features: Values, former: Values | None, advance: int) -> list[Run]:
    """The frames that are not the same as in a former window."""
    frames = features.shape[2]
    if former is None:
        return [(0, frames)]
    shared = max(0, frames - advance)
    differ = (features[:, :, :shared] != former[:, :, advance:]).any((0, 1, 3))
    return _merged([*((frame, frame + 1) for frame in np.flatnonzero(differ).tolist()), (shared, frames)])


def _under_window(reach: Reach, changed: Sequence[Run], width: int) -> list[Run]:
    """The columns that an operator makes of changed columns, of so many in all, or of padding before them.

    New ones are among them, as the last column that each reads is new; so are those that read padding after the last.
    """
    size, stride, before, after = reach
    last = (width + before + after - size) // stride
    runs = [(-before, 0), *changed]
    return [
        (max(0, -(-(first + before - size + 1) // stride)), min(last, (end - 1 + before) // stride) + 1)
        for first, end in runs
        if first < end
    ]


def _merged(runs: Sequence[Run]) -> list[Run]:
    """The same columns in order, in as few runs as there can be; none of them is empty."""
    merged: list[Run] = []
    for first, end in sorted(run for run in runs if run[0] < run[1]):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((first, end))
    return merged
