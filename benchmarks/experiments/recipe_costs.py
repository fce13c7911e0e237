"""What each recipe's network costs a microcontroller: RAM, and instructions of a decision on Cortex-M4.

    python -m tinyscene.benchmarks.experiments.recipe_costs      # benchmarks/results/recipe_costs.json, some minutes

The networks have random weights, BatchNorm has the statistics of synthetic sounds, and so has the quantization: costs
hardly depend on more. A decision is the front end of a clip and the network, at the recipe's own sample rate, checked
against the reference bit for bit. RAM is all that an instance needs, clips without overlap. Counts are instructions,
not cycles. A killed run goes on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from torch import nn

from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.files import temporary_folder
from tinyscene.firmware_bridge.emulate import emulate, require_equal
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import SCENES, open_dataset
from tinyscene.train.data.features import waveform
from tinyscene.train.data.sample import write_sample
from tinyscene.train.models import build, features_of
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.recipe import Recipe, load_recipe, recipe_names
from tinyscene.train.runs.run import import_weights

TARGET, TOOLCHAIN = "cortex-m4", "zig"
QUICK = ["quantize.clips=8", "quantize.rounding=false"]
NORMALIZED = 16  # clips
COUNTED = ("instructions", "frontend_instructions", "memory_bytes", "flash_bytes", "toolchain", "emulator")


def bundle_of(recipe: Recipe, folder: Path) -> Bundle:
    """A recipe's network with random weights, quantized on the sample in a folder."""
    dataset, features = open_dataset(folder / "sample"), recipe.features
    clips = prepare(dataset, features.sample_rate, folder, clip_seconds=features.clip_seconds)
    weights = folder / f"{recipe.name}.safetensors"
    save_file(_network(recipe, clips).state_dict(), weights)
    run = import_weights(weights, recipe, folder / recipe.name)
    return quantize(run, dataset, clips, folder / f"{recipe.name}-int8", split="5", overrides=QUICK)


def cost_of(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The costs of a recipe's network, of a decision on one golden clip."""
    bundle = bundle_of(recipe, folder)
    result = emulate(bundle, bundle.vectors.pcm[:1], build_settings(TARGET, TOOLCHAIN))
    require_equal({recipe.name: result.difference})
    return {"sample_rate": recipe.features.sample_rate} | {key: getattr(result, key) for key in COUNTED}


def _network(recipe: Recipe, clips: Clips) -> nn.Module:
    """A network with random weights that normalizes as one that was trained does: without, activations fade."""
    torch.manual_seed(recipe.seed)
    network = build(recipe.model, len(SCENES))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # of the last batch alone
    with torch.inference_mode():
        network.train()(features_of(recipe)(waveform(torch.from_numpy(np.array(clips.pcm[:NORMALIZED])))))
    return network


def main(out: Out = Path("benchmarks/results/recipe_costs.json")) -> None:
    """Measure the recipes that are not in the file yet, each network once, and write it."""
    result = read_result(out)
    costs, known = result.setdefault("recipes", {}), {}
    with temporary_folder() as folder:
        write_sample(folder / "sample")
        for name in [*recipe_names("cp_mobile"), "tf_sepnet16k"]:
            recipe = load_recipe(name)
            network = (recipe.model.model_dump_json(), recipe.features)
            if name not in costs:
                costs[name] = known[network] if network in known else cost_of(recipe, folder)
                write_result(out, result | {"target": TARGET})
            known[network] = costs[name]
            row = costs[name]
            decision = row["instructions"] + row["frontend_instructions"]
            typer.echo(f"{name}: {row['memory_bytes']:,} bytes of RAM, {decision / 1e6:.2f} M instructions")


if __name__ == "__main__":
    run_command_line(main)
