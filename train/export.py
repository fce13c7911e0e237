"""Export of a trained run to float ONNX: log-mel (batch, 1, mel, frame) -> logits (batch, classes).

    tinyscene export RUN --to onnx

The network is lowered to a graph and written by `deploy/graph/onnx_writer.py`, like every other export. The file
carries, as metadata, the labels and front end needed to classify with it, the run's card and the hash of the
weights it was made from, so `deploy/live/classifier.py` needs nothing else and notices a stale export.
"""

from pathlib import Path

from tinyscene.deploy.common.files import sha256, write_whole
from tinyscene.deploy.graph.onnx_writer import write_onnx
from tinyscene.train.quantize.lower import lower
from tinyscene.train.runs.budget import count_network
from tinyscene.train.runs.run import load_model, model_path


def export_onnx(run: Path, out: Path | None = None, allow_over_budget: bool = False, batch: int | None = None) -> Path:
    """Write `model.onnx` beside the run's model, or to `out`. Refuses a network over its budget."""
    network, card = load_model(run)
    recipe = card.parsed_recipe
    count_network(network, recipe).require(recipe.budget, allow_over_budget)
    weights = model_path(run)
    metadata = card.model_dump(mode="json") | {
        "front_end": recipe.features.as_dict(),
        "weights_sha256": sha256(weights),
    }
    out = out or weights.with_name("model.onnx")
    write_whole(out, write_onnx(lower(network, recipe.features.shape), metadata, batch))
    return out
