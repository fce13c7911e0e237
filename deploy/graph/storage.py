"""Graphs on disk: `NAME.json` for the structure, `NAME.safetensors` for the weights.

    save_graph(graph, folder, "graph")
    graph = load_graph(folder, "graph")

The structure is the fields of the operators (`deploy/graph/operators.py`), by name; an array is `TENSOR/FIELD`. A file
is parsed, never executed, and what comes out has passed every check of the Graph.
"""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import write_whole
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.operator import ARRAYS, Operator
from tinyscene.deploy.graph.operators import Kind
from tinyscene.deploy.graph.tensor import Quantization, Tensor

FORMAT = 1
MAX_BYTES = {".json": 2**22, ".safetensors": 2**26}
KINDS: dict[str, type[Kind]] = {kind.__name__: kind for kind in get_args(Kind)}


def save_graph(graph: Graph, folder: Path, stem: str) -> None:
    """Write `stem.json` and `stem.safetensors`."""
    arrays = dict(_arrays(graph))
    operators = [{"kind": operator.kind, **_plain(operator)} for operator in graph.operators]
    content = {"format": FORMAT, "input": _plain(graph.input), "operators": operators}
    write_whole(folder / f"{stem}.json", json.dumps(content, indent=1) + "\n")
    write_whole(folder / f"{stem}.safetensors", safetensors.numpy.save(arrays))


def load_graph(folder: Path, stem: str) -> Graph:
    """Read and check a graph. Raises InputError, naming the file, for anything that is not one."""
    path = folder / f"{stem}.json"
    try:
        content = json.loads(_read(path))
        arrays = safetensors.numpy.load(_read(path.with_suffix(".safetensors")))
        if content["format"] != FORMAT:
            raise InputError(f"format {content['format']!r}: this tinyscene reads {FORMAT}; upgrade it")
        operators = tuple(_operator(operator, arrays) for operator in content["operators"])
        if arrays:
            raise InputError(f"no operator has the array {min(arrays)!r}")
        return Graph(_tensor(content["input"]), operators)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a graph ({type(error).__name__}: {ascii(str(error))[:200]})") from None


def _arrays(graph: Graph) -> Iterator[tuple[str, NDArray[Any]]]:
    for operator in graph.operators:
        for array in ARRAYS:
            if (value := getattr(operator, array, None)) is not None:
                yield f"{operator.output.name}/{array}", value


def _plain(item: Operator | Tensor | Quantization) -> dict[str, Any]:
    """The fields of a dataclass as plain data, without its arrays."""
    values = {member.name: getattr(item, member.name) for member in fields(item)}
    return {
        name: _plain(value) if isinstance(value, Tensor | Quantization) else value
        for name, value in values.items()
        if value is not None and not isinstance(value, np.ndarray)
    }


def _tensor(content: dict[str, Any]) -> Tensor:
    quantization = Quantization(**content["quantization"]) if "quantization" in content else None
    return Tensor(**{**content, "shape": tuple(content["shape"]), "quantization": quantization})


def _operator(content: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Kind:
    """Make an operator of its plain data and of its arrays, which are taken out of `arrays`."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    kind, output = settings.pop("kind"), _tensor(settings.pop("output"))
    if kind not in KINDS:
        raise InputError(f"operator {kind!r} is unknown: known are {', '.join(KINDS)}")
    for array in ARRAYS:
        if (name := f"{output.name}/{array}") in arrays:
            settings[array] = arrays.pop(name)
    return KINDS[kind](output=output, **settings)


def _read(path: Path) -> bytes:
    if path.stat().st_size > (most := MAX_BYTES[path.suffix]):
        raise InputError(f"{path.name} is larger than {most >> 20} MB")
    return path.read_bytes()
