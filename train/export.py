"""Export of a trained run to float ONNX: log-mel (batch, 1, mel, frame) -> logits (batch, classes).

    tinyscene export RUN --to onnx

The file carries, as metadata, the labels and front end needed to classify with it, the run's card and the
hash of the weights it was made from, so `deploy/runners.py` needs nothing else and notices a stale export.
"""

import json
import logging
import warnings
from pathlib import Path

import torch

from deploy.errors import InputError
from deploy.files import sha256, write_whole
from deploy.runners import CARD_KEY
from train.budget import count_network
from train.run import load_model, model_path

ONNX_OPSET = 18


def export_onnx(run: Path, out: Path | None = None, allow_over_budget: bool = False) -> Path:
    """Write `model.onnx` beside the run's model, or to `out`. Refuses a network over its budget."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise InputError("export to ONNX needs onnx and onnxscript: pip install 'tinyscene[train,onnx]'") from None
    network, card = load_model(run)
    recipe = card.parsed_recipe
    count_network(network, recipe).require(recipe.budget, allow_over_budget)
    example = torch.zeros(2, 1, *recipe.features.shape)  # (batch, 1, mel, frame)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about libraries that are not used
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["log_mel"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=ONNX_OPSET,
            verbose=False,
        )
    if program is None:
        raise InputError(f"{run}: torch could not export the network")
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of the exporting machine
    weights = model_path(run)
    content = card.model_dump(mode="json") | {
        "front_end": recipe.features.as_dict(),
        "weights_sha256": sha256(weights),
    }
    onnx.helper.set_model_props(model, {CARD_KEY: json.dumps(content)})
    onnx.checker.check_model(model)
    out = out or weights.with_name("model.onnx")
    write_whole(out, model.SerializeToString())
    return out
