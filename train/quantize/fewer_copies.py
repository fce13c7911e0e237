"""A float graph that computes the same values and copies fewer of them.

    graph = with_fewer_copies(graph)

Channels are joined behind what leaves fewer bands or frames of them, and what is taken of joined channels is taken of
the parts that it is in. So the shuffle of halves in TF-SepNet's blocks copies each value twice, not six times.
"""

import math
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operators import AveragePool2D, Channels, Concat, DepthwiseConv2D, Kind, MaxPool2D, Mean
from tinyscene.deploy.graph.tensor import Tensor

ByChannel = DepthwiseConv2D | MaxPool2D | AveragePool2D


class _Part(NamedTuple):
    """Channels of a tensor: how many, from the first on."""

    source: str
    first: int
    channels: int


def with_fewer_copies(graph: Graph) -> Graph:
    """The graph with the same input, output and values; a tensor that it keeps has the name it had."""
    for rewritten in (_joined_late, _taken_of_parts):
        graph = Graph(graph.input, _read(rewritten(graph), graph.output.name))
    return graph


def _read(operators: list[Kind], output: str) -> tuple[Kind, ...]:
    """The operators that the output needs, in order."""
    needed, kept = {output}, []
    for operator in reversed(operators):
        if operator.output.name in needed:
            needed |= {*operator.inputs}
            kept.append(operator)
    return tuple(kept[::-1])


def _joined_late(graph: Graph) -> list[Kind]:
    """Pooling and depthwise convolutions that make a tensor smaller, of each part of what is joined for them alone."""
    readers = Counter(name for operator in graph.operators for name in operator.inputs)
    joins = {each.output.name: each for each in graph.operators if isinstance(each, Concat)}
    taken, operators, waiting = {*graph.tensors}, [], [*reversed(graph.operators)]
    while waiting:
        operator = waiting.pop()
        join = joins.get(operator.inputs[0])
        is_smaller = join and math.prod(operator.output.shape) < math.prod(join.output.shape)
        if join and is_smaller and readers[join.output.name] == 1 and isinstance(operator, ByChannel):
            first, second = graph.sources(join)
            parts = [_of_channels(operator, first, 0, taken), _of_channels(operator, second, first.shape[3], taken)]
            names = tuple(part.output.name for part in parts)
            waiting += [Concat(inputs=names, output=operator.output), *reversed(parts)]
        else:
            operators.append(operator)
    return operators


def _of_channels(operator: ByChannel, source: Tensor, first: int, taken: set[str]) -> Kind:
    """What an operator does with the channels that are `source`, from the first on, by itself."""
    count = source.shape[3]
    output = Tensor(_new_name(operator.output.name, taken), (*operator.output.shape[:3], count))
    if not isinstance(operator, DepthwiseConv2D):
        return replace(operator, inputs=(source.name,), output=output)
    part = slice(first, first + count)
    weights, bias = operator.weights[..., part], operator.bias[part]
    return replace(operator, inputs=(source.name,), output=output, weights=weights, bias=bias)


def _taken_of_parts(graph: Graph) -> list[Kind]:
    """Channels of the tensors that they are taken of in the end, which are read themselves where they are whole."""
    makers = {operator.output.name: operator for operator in graph.operators}
    taken, names, operators = {*graph.tensors}, {}, []
    for operator in graph.operators:
        parts = _parts(operator, graph, makers) if isinstance(operator, Channels) else []
        sources = [graph.tensors[names.get(part.source, part.source)] for part in parts]
        whole = all(part.channels == source.shape[3] for part, source in zip(parts, sources, strict=True))
        if len(parts) == 1 and not whole:
            operators.append(replace(operator, inputs=(sources[0].name,), first=parts[0].first))
        elif parts and whole:
            joins = _join(sources, operator.output, taken)
            operators += joins
            names |= {} if joins else {operator.output.name: sources[0].name}
        else:
            operators.append(replace(operator, inputs=tuple(names.get(name, name) for name in operator.inputs)))
    return operators


def _parts(operator: Channels, graph: Graph, makers: dict[str, Kind]) -> list[_Part]:
    """Whole tensors, or channels of what was neither taken of another nor joined; none where they are better left."""
    if operator.output.name == graph.output.name:
        return []
    waiting, found = [_Part(operator.inputs[0], operator.first, operator.output.shape[3])], []
    while waiting:
        part = waiting.pop()
        maker = makers.get(part.source)
        if isinstance(maker, Mean):  # which not every operator may read
            return []
        if part.channels == graph.tensors[part.source].shape[3] or not isinstance(maker, Channels | Concat):
            found.append(part)
        elif isinstance(maker, Channels):
            waiting.append(_Part(maker.inputs[0], maker.first + part.first, part.channels))
        else:
            border = graph.sources(maker)[0].shape[3]
            left = min(max(border - part.first, 0), part.channels)
            right = _Part(maker.inputs[1], max(part.first - border, 0), part.channels - left)
            both = right, _Part(maker.inputs[0], part.first, left)
            waiting += [each for each in both if each.channels]
    return found


def _join(sources: list[Tensor], output: Tensor, taken: set[str]) -> list[Kind]:
    """Operators that join the channels of tensors, two at a time; none for one."""
    joined, operators = sources[0], []
    for source in sources[1:]:
        channels = joined.shape[3] + source.shape[3]
        last = channels == output.shape[3]
        made = output if last else Tensor(_new_name(output.name, taken), (*output.shape[:3], channels))
        operators.append(Concat(inputs=(joined.name, source.name), output=made))
        joined = made
    return operators


def _new_name(name: str, taken: set[str]) -> str:
    """A name that no tensor has, which is taken from now on."""
    found = next(each for count in range(2, len(taken) + 3) if (each := f"{name}_{count}") not in taken)
    taken.add(found)
    return found
