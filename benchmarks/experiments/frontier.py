"""The frontier: a trained recipe, pruned to smaller budgets, and each of these networks quantized.

    python -m tinyscene.benchmarks.experiments.frontier sweeps/data_efficient --data DATA [--run student] [--split 100]

For each seed of the sweep's run: the network as it is and pruned to 11 and 4.5 million MACs, float and int8 (the
reference's integers from PCM to logits), on the test list. Runs and bundles are kept in --runs, so a killed benchmark
goes on; the table in --out is rewritten after each network.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyscene.benchmarks.experiments.results import Out, read_result, write_result
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset, open_dataset
from tinyscene.train.fine_tuning.prune import prune
from tinyscene.train.quantize.quantize import quantize
from tinyscene.train.runs.budget import count_target
from tinyscene.train.runs.evaluate import evaluate, open_evaluated_model
from tinyscene.train.runs.run import load_model
from tinyscene.train.sweep.job import read_record
from tinyscene.train.sweep.plan import TrainJob

GOALS = {"whole": None, "11 M": 11_000_000, "4.5 M": 4_500_000}  # MACs


def main(
    sweep: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    data: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    run: Annotated[str, typer.Option(help="Run of the sweep to prune and quantize.")] = "student",
    split: Annotated[str, typer.Option(help="Split that it was trained on.")] = "100",
    runs: Annotated[Path, typer.Option(help="Folder of the pruned runs and the bundles.")] = Path("runs/frontier"),
    out: Out = Path("benchmarks/results/frontier.json"),
) -> None:
    """Prune, quantize and evaluate, and write the table."""
    dataset = open_dataset(data)
    result = read_result(out)
    rows: list[dict[str, Any]] = result.setdefault("rows", [])
    for job in read_record(sweep).jobs:
        if not isinstance(job, TrainJob) or (job.run, job.split) != (run, split):
            continue
        clips = prepare(dataset, job.recipe.features.sample_rate)
        for name, macs in GOALS.items():
            if not any((row["seed"], row["goal"]) == (job.recipe.seed, name) for row in rows):
                folder = runs / f"{run}-{split}-{job.recipe.seed}-{name.replace(' ', '')}"
                network = sweep / job.name if macs is None else _pruned(sweep / job.name, dataset, clips, folder, macs)
                measured = _measure(network, dataset, clips, folder.with_name(f"{folder.name}-int8"))
                rows.append({"run": run, "split": split, "seed": job.recipe.seed, "goal": name} | measured)
                write_result(out, result)


def _pruned(whole: Path, dataset: Dataset, clips: Clips, out: Path, macs: int) -> Path:
    if not out.exists():
        prune(whole, dataset, clips, out, macs, None, resume=out.with_name(f"{out.name}.pruning").exists())
    return out


def _measure(run: Path, dataset: Dataset, clips: Clips, bundle: Path) -> dict[str, Any]:
    """What a network costs, and how right it is before and after quantization, on the test list of its split."""
    if not bundle.exists():
        quantize(run, dataset, clips, bundle)
    count = count_target(str(run), None, None)[0]
    assert count.deployed is not None
    test = dataset.split(load_model(run)[1].split or "")[1]
    kinds = {"float": open_evaluated_model(run, "torch"), "int8": open_evaluated_model(bundle, "reference")}
    results = {kind: evaluate(model.predict, clips, test) for kind, model in kinds.items()}
    measures = ("accuracy", "macro_accuracy", "log_loss")
    return {
        "parameters": count.parameters,
        "macs": count.macs,
        "int8_bytes": count.deployed.int8_bytes,
        **{kind: {measure: getattr(result, measure) for measure in measures} for kind, result in results.items()},
    }


if __name__ == "__main__":
    run_command_line(main)
