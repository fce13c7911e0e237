"""Latency of the whole decision in a browser: the WebAssembly module with vectors, and the one without.

python -m tinyscene.benchmarks.experiments.web_latency BUNDLE     # writes benchmarks/results/web_latency.json

Headless Chromium, one thread. Each round pushes a second of synthetic noise to an instance of each module, in a random
order. The rounds are those of several browsers, one after another: one process may be slower throughout than the next.
A browser's clock has steps of 0.1 ms.
"""

import base64
import json
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tinyscene.benchmarks.experiments.browser import open_browser
from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.packaging import WASM_KERNELS, WASM_MODULES, package

BROWSERS, WARM_UP = 5, 20  # and rounds of each that are not counted
SEED = 0
NAMES = ("with vectors", "without")  # of WASM_MODULES

MEASURE = """
async ({ glue, modules, pcm, orders, warmUp }) => {
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const { Tinyscene } = await import("data:text/javascript;base64," + glue);
    const scenes = await Promise.all(modules.map((module) => Tinyscene.load(bytes(module))));
    const sound = new Int16Array(bytes(pcm).buffer);
    const times = scenes.map(() => []);
    let answers;
    for (const [round, order] of orders.entries()) {
        answers = [];
        for (const index of order) {
            const start = performance.now();
            const decisions = scenes[index].push(sound);
            const took = performance.now() - start;
            if (decisions.length !== 1) throw new Error(`${decisions.length} decisions, not one`);
            if (round >= warmUp) times[index].push(took);
            answers[index] = Array.from(decisions[0].logits);
        }
    }
    return { times, answers };
}
"""


def main(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    rounds: Annotated[int, typer.Option(min=20, help="Number of measurements in each browser.")] = 100,
    out: Out = Path("benchmarks/results/web_latency.json"),
) -> None:
    """Measure both modules of a bundle and write the table."""
    opened = open_bundle(bundle)
    library = make_library(opened.graph, opened.front_end, opened.labels, WASM_KERNELS, rule=opened.rule)
    files = package(library, "wasm", metadata.version("tinyscene"))
    rng = np.random.default_rng(SEED)
    noise = rng.normal(0, 3000, opened.front_end.clip_samples).round().astype("<i2")
    given = {
        "glue": _base64(files["tinyscene.mjs"]),
        "modules": [_base64(files[name]) for name in WASM_MODULES],
        "pcm": _base64(noise.tobytes()),
        "orders": [rng.permutation(len(NAMES)).tolist() for _ in range(WARM_UP + rounds)],
        "warmUp": WARM_UP,
    }
    times: list[list[float]] = [[] for _ in NAMES]
    version = ""
    for _ in range(BROWSERS):
        with open_browser() as browser:
            found: dict[str, Any] = browser.new_page().evaluate(MEASURE, given)
            version = browser.version
        if found["answers"][0] != found["answers"][1]:
            raise RuntimeError(f"the modules' logits differ: {json.dumps(found['answers'])}")
        times = [[*before, *more] for before, more in zip(times, found["times"], strict=True)]
    rows = {name: _quartiles(each) for name, each in zip(NAMES, times, strict=True)}
    ratio = rows[NAMES[0]]["median_ms"] / rows[NAMES[1]]["median_ms"]
    about = {
        "bundle": str(bundle),
        "browser": f"Chromium {version}",
        "browsers": BROWSERS,
        "rounds": rounds,
        "seed": SEED,
    }
    write_result(out, {**about, "decision": rows, "ratio": ratio})
    for name, row in rows.items():
        typer.echo(f"{name}: {row['median_ms']:.2f} ms")
    typer.echo(f"ratio: {ratio:.2f}")


def _base64(content: str | bytes) -> str:
    return base64.b64encode(content if isinstance(content, bytes) else content.encode()).decode()


def _quartiles(times: list[float]) -> dict[str, float]:
    p25, median, p75 = np.percentile(times, (25, 50, 75)).tolist()
    return {"median_ms": median, "p25_ms": p25, "p75_ms": p75}


if __name__ == "__main__":
    run_command_line(main)
