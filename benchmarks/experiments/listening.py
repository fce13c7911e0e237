"""What listening costs a Cortex-M4: instructions a second by decisions a second, RAM, and the largest push.

    python -m tinyscene.benchmarks.experiments.listening      # benchmarks/results/listening.json, some minutes

Networks without padding over time compute each column once, in the order by time. The others compute each window
anew, in the order by mel, and keep the features that windows share. Networks and counts are those of `recipe_costs.py`:
random weights, instructions, not cycles. Counted is what the second window adds. A killed run goes on.
"""

from pathlib import Path
from typing import Any

import typer

from tinyscene.benchmarks.experiments.recipe_costs import TARGET, TOOLCHAIN, bundle_of
from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.files import temporary_folder
from tinyscene.firmware_bridge.codegen.library import make_library, streams
from tinyscene.firmware_bridge.emulate import Image, emulate, last_window, listening_job, require_equal
from tinyscene.firmware_bridge.memory.by_time import Order
from tinyscene.firmware_bridge.targets.image import build_image, build_settings
from tinyscene.train.data.sample import write_sample
from tinyscene.train.recipe import load_recipe

RECIPES = ("baseline", "baseline-stream", "micro", "micro-stream", "micro16k-stream")
DECISIONS = (1, 2, 4, 8)  # a second
PORTIONS = (4, 1)  # pushes for each frame, whose largest is counted


def cost_of(bundle: Bundle, order: Order, decisions: int) -> dict[str, Any]:
    """The instructions of a second at so many decisions, and the memory."""
    settings = build_settings(TARGET, TOOLCHAIN, order=order)
    hop, sound = 1 / decisions, bundle.vectors.pcm.ravel()
    library = make_library(
        bundle.graph, bundle.front_end, bundle.labels, (settings.kernels,), hop, rule=bundle.rule, order=order
    )
    counted: dict[str, Any] = {name.lower(): library.config[name] for name in ("BYTES", "DELAY_SAMPLES")}
    with temporary_folder() as folder:
        image = Image(build_image(library, settings, folder), settings)
        for portions in PORTIONS:
            image.run(listening_job(sound, library.config, 2, bundle.front_end.hop_length // portions))
            calls = last_window(image.calls("tinyscene_(run|push)"))
            counted["instructions"] = sum(call.instructions for call in calls) * decisions
            counted["largest_run"] = calls[-1].instructions
            counted[f"largest_push_of_{portions}"] = max(call.instructions for call in calls[:-1])
    return counted


def main(out: Out = Path("benchmarks/results/listening.json")) -> None:
    """Measure what is not in the file yet, and write it."""
    result = read_result(out)
    costs = result.setdefault("recipes", {})
    with temporary_folder() as folder:
        write_sample(folder / "sample")
        for name in RECIPES:
            if name in costs:
                continue
            bundle = bundle_of(load_recipe(name), folder)
            order: Order = "time" if streams(bundle.graph, bundle.front_end) else "mel"
            checked = emulate(bundle, bundle.vectors.pcm[:2], build_settings(TARGET, order=order))
            require_equal({name: checked.difference})
            rows = {str(decisions): cost_of(bundle, order, decisions) for decisions in DECISIONS}
            costs[name] = {"order": order, "decisions": rows}
            write_result(out, result | {"target": TARGET})
            for decisions, row in rows.items():
                typer.echo(f"{name}: {row['instructions'] / 1e6:.1f} M instructions a second of {decisions} decisions")


if __name__ == "__main__":
    run_command_line(main)
