"""The ladder: what each way of making more of few recordings is worth, alone and added to those before it.

    tinyscene sweep benchmarks/experiments/splits.yaml --data DATA --out sweeps/splits \\
        --set augment.dir_folder=DATA/mic_ir
    tinyscene sweep benchmarks/experiments/ladder.yaml --data DATA --other esc10=ESC10 --out sweeps/ladder \\
        --set augment.dir_folder=DATA/mic_ir
    python -m tinyscene.benchmarks.experiments.ladder sweeps/splits sweeps/ladder

Each difference to the baseline is paired: same split, same test clips. The folds of a split (`fold1-25`, `fold2-25`)
are one: the test clips of all that both have been trained on. Its interval is a bootstrap by recording
(benchmarks/bootstrap.py) and, where a fold has runs of several seeds, by seed: it holds what the choice of test
recordings and seeds does to a difference, and not what other training recordings would do. The table goes to
`benchmarks/results/ladder.json`; predictions are kept beside the runs, so that it is made again in seconds.
"""

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import COVERAGE, DRAWS, GROUPS, TestList, draw, interval, macro, recordings_of
from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.deploy.bundle.index import INDEX
from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.data.datasets import Dataset
from tinyscene.train.recipe import Recipe
from tinyscene.train.runs.evaluate import BATCH, open_evaluated_model
from tinyscene.train.sweep.job import SweepRecord, open_integers, read_record
from tinyscene.train.sweep.plan import LogitsJob

BASELINE = "baseline"
PREDICTIONS = "predictions.npy"
SEED_DRAWS = 200  # of the seeds; each has its share of the draws of recordings

Right = NDArray[np.bool_]  # right answers (seed, clip)


@dataclass
class Rung:
    """The runs of one name on the folds of a split."""

    recipe: Recipe
    runs: dict[str, list[Path]] = field(default_factory=dict)  # by split, one for each seed

    @property
    def rate(self) -> int:
        return self.recipe.features.sample_rate


def ladder(
    sweeps: Annotated[list[Path], typer.Argument(help="Folders of sweeps on one dataset.")],
    baseline: Annotated[str, typer.Option(help="Rung that the others are compared with.")] = BASELINE,
    out: Out = Path("benchmarks/results/ladder.json"),
) -> None:
    """Write the table of the rungs, of the runs that are done."""
    records = {sweep: read_record(sweep) for sweep in sweeps}
    rungs = _rungs(records)
    dataset = records[sweeps[-1]].sources[""].open()
    clips = {rate: prepare(dataset, rate) for rate in {rung.rate for rung in rungs.values()}}
    known = {part.data_hash for part in clips.values()}
    if strangers := [sweep for sweep, record in records.items() if not known & set(record.data_hash[""].values())]:
        raise InputError(f"{strangers[0]}: was trained on another dataset than {sweeps[-1]}")
    rows = []
    for (size, name), rung in rungs.items():
        if (size, baseline) not in rungs:
            raise InputError(f"no sweep has a run named {baseline} that is done on split {size}")
        other = rungs[size, baseline]
        if splits := sorted(set(rung.runs) & set(other.runs)):
            tests = [_test(clips[rung.rate], dataset, split) for split in splits]
            ours, theirs = (
                [_right(of.runs[split], clips[of.rate], test) for split, test in zip(splits, tests, strict=True)]
                for of in (rung, other)
            )
            about = {"split": size, "rung": name, "recipe": rung.recipe.name, "on": splits}
            rows.append(about | compare(ours, theirs, pooled(tests)))
    trained = {
        str(sweep): {"sweep": record.sweep.model_dump(mode="json"), "settings": record.settings}
        for sweep, record in records.items()
    }
    write_result(out, {"sweeps": trained, "draws": DRAWS, "coverage": COVERAGE, "rows": rows})


def _rungs(records: dict[Path, SweepRecord]) -> dict[tuple[str, str], Rung]:
    """The rungs of sweeps on the dataset itself, by the size of their splits and their name."""
    rungs: dict[tuple[str, str], Rung] = {}
    for sweep, record in records.items():
        for job in record.jobs:
            if not isinstance(job, LogitsJob) and not job.data and record.is_done(sweep, job):
                rung = rungs.setdefault((job.split.rpartition("-")[2], job.run), Rung(job.recipe))
                rung.runs.setdefault(job.split, []).append(sweep / job.name)
    return rungs


def compare(right: list[Right], baseline: list[Right], test: TestList) -> dict[str, Any]:
    """Macro accuracies in per cent of right answers, and how they differ from the baseline's.

    Answers are (seed, clip), one array a fold; `test` lists the clips of all folds. For each group: the mean over the
    seeds, their sample standard deviation within a fold, the difference of the means, and the interval of that
    difference that COVERAGE per cent of the bootstrap's draws fall into.
    """
    row: dict[str, Any] = {"seeds": max(map(len, right)), "runs": sum(map(len, right))}
    weights = draw(test)
    for group in (group for group in GROUPS if test.members(group).any()):
        members = test.members(group)
        row[f"{group}_mean"] = 100 * float(macro(_mean(right), members, test)[0])
        row[f"{group}_sd"] = _deviation(right, members, test)
        difference = _draws(right, members, test, weights) - _draws(baseline, members, test, weights)
        row[f"{group}_gain"], row[f"{group}_interval"] = 100 * float(difference[0]), interval(100 * difference)
    return row


def _mean(right: list[Right]) -> NDArray[np.float64]:
    """The share of the seeds that is right (clip,), over the clips of all folds."""
    return np.concatenate([answers.mean(0) for answers in right])


def _draws(
    right: list[Right], members: NDArray[np.bool_], test: TestList, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Macro accuracy as it is and then for each draw of recordings, with seeds drawn as well.

    Where two rungs have as many seeds in a fold, the same are drawn of both.
    """
    rngs = [np.random.default_rng(fold) for fold in range(len(right))]
    figures = [macro(_mean(right), members, test)]
    for part in np.array_split(weights, SEED_DRAWS):
        drawn = [answers[rng.integers(0, len(answers), len(answers))] for answers, rng in zip(right, rngs, strict=True)]
        figures.append(macro(_mean(drawn), members, test, part)[1:])
    return np.concatenate(figures)


def _deviation(right: list[Right], members: NDArray[np.bool_], test: TestList) -> float | None:
    """Sample standard deviation in per cent over the seeds of a fold, or none where no fold has two."""
    first, variances = 0, []
    for answers in right:
        inside = np.zeros(len(members), bool)
        inside[first : first + answers.shape[1]] = True
        values = []
        for seed in answers:
            padded = np.zeros(len(members))
            padded[inside] = seed
            values.append(100 * float(macro(padded, members & inside, test)[0]))
        variances += [statistics.variance(values)] if len(values) > 1 else []
        first += answers.shape[1]
    return math.sqrt(statistics.mean(variances)) if variances else None


def pooled(tests: list[TestList]) -> TestList:
    """The test lists of several folds as one; no recording is in two of them."""
    firsts = np.cumsum([0, *(test.recording.max() + 1 for test in tests)])
    return TestList(
        np.concatenate([test.clips for test in tests]),
        np.concatenate([test.truth for test in tests]),
        np.concatenate([test.recording + first for test, first in zip(tests, firsts, strict=False)]),
        np.concatenate([test.device for test in tests]),
    )


def _test(clips: Clips, dataset: Dataset, split: str) -> TestList:
    indices = clips.select(dataset.split(split)[1])
    if dataset.layout == "table":  # whose identifiers name what is one recording
        sources = {recording.path: recording.source for recording in dataset.recordings}
        paths = [clips.recordings[clips.recording[clip]].path for clip in indices]
        numbers = np.unique([sources[path] for path in paths], return_inverse=True)[1]
    else:
        numbers = recordings_of(clips.names(indices))
    return TestList(indices, clips.label[indices], numbers, clips.recording_devices(indices))


def _right(runs: list[Path], clips: Clips, test: TestList) -> Right:
    return np.stack([_predictions(run, clips, test) == test.truth for run in runs])


def _predictions(run: Path, clips: Clips, test: TestList) -> NDArray[np.int64]:
    """The answers (clip,) of a run, or of a bundle in integers, kept beside its evaluation."""
    is_bundle = (run / INDEX).exists()
    path = run / ("evaluation" if is_bundle else "") / PREDICTIONS
    if not path.exists():
        predict = (open_integers(run) if is_bundle else open_evaluated_model(run, "torch")).predict
        parts = [test.clips[start : start + BATCH] for start in range(0, len(test.clips), BATCH)]
        with replacing(path) as temporary:
            np.save(temporary, np.concatenate([predict(clips.pcm[part]).argmax(1) for part in parts]))
    return np.load(path, allow_pickle=False)


if __name__ == "__main__":
    run_command_line(ladder)
