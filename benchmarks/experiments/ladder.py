"""The ladder: what each way of making more of few recordings is worth, alone and added to those before it.

    tinyscene sweep benchmarks/experiments/splits.yaml --data DATA --out sweeps/splits \\
        --set augment.dir_folder=DATA/mic_ir
    tinyscene sweep benchmarks/experiments/ladder.yaml --data DATA --other esc10=ESC10 --out sweeps/ladder \\
        --set augment.dir_folder=DATA/mic_ir
    python -m tinyscene.benchmarks.experiments.ladder sweeps/splits sweeps/ladder

Each difference to the baseline is paired: same split, same seeds, same test clips. Its interval is a bootstrap by
recording (benchmarks/bootstrap.py): it holds what the choice of test recordings does to a difference, and not what
other seeds or other training recordings would do. The table goes to `benchmarks/results/ladder.json`; predictions are
kept beside the runs, so that it is made again in seconds.
"""

import statistics
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from tinyscene.benchmarks.bootstrap import COVERAGE, DRAWS, GROUPS, TestList, draw, interval, macro, recordings_of
from tinyscene.benchmarks.experiments.results import Out, write_result
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing
from tinyscene.train.data.cache import Clips, prepare
from tinyscene.train.runs.evaluate import BATCH, open_evaluated_model
from tinyscene.train.sweep.job import SweepRecord, read_record
from tinyscene.train.sweep.plan import TrainJob

BASELINE = "baseline"
PREDICTIONS = "predictions.npy"


def ladder(
    sweeps: Annotated[list[Path], typer.Argument(help="Folders of finished sweeps on one dataset.")],
    out: Out = Path("benchmarks/results/ladder.json"),
) -> None:
    """Write the table of the rungs that were trained on the splits of the last sweep."""
    records = {sweep: read_record(sweep) for sweep in sweeps}
    last = records[sweeps[-1]]
    dataset = last.sources[""].open()
    clips = prepare(dataset, _jobs(last)[0].recipe.features.sample_rate)
    if strangers := [
        sweep for sweep, record in records.items() if clips.data_hash not in record.data_hash[""].values()
    ]:
        raise InputError(f"{strangers[0]}: was trained on another dataset than {sweeps[-1]}")
    rows = []
    for split in dict.fromkeys(job.split for job in _jobs(last)):
        test = _test(clips, dataset.split(split)[1])
        runs: dict[str, list[Path]] = {}
        recipes: dict[str, str] = {}
        for sweep, record in records.items():
            for job in (job for job in _jobs(record) if job.split == split):
                runs.setdefault(job.run, []).append(sweep / job.name)
                recipes[job.run] = job.recipe.name
        right = {rung: np.stack([_predictions(run, clips, test) == test.truth for run in runs[rung]]) for rung in runs}
        if BASELINE not in right:
            raise InputError(f"no sweep has a run named {BASELINE} on split {split}")
        rows += [
            {"split": split, "rung": rung, "recipe": recipes[rung]} | compare(right[rung], right[BASELINE], test)
            for rung in right
        ]
    trained = {
        str(sweep): {"sweep": record.sweep.model_dump(mode="json"), "settings": record.settings}
        for sweep, record in records.items()
    }
    write_result(out, {"sweeps": trained, "draws": DRAWS, "coverage": COVERAGE, "rows": rows})


def _jobs(record: SweepRecord) -> list[TrainJob]:
    """The runs on the dataset itself."""
    return [job for job in record.jobs if isinstance(job, TrainJob) and not job.data]


def compare(right: NDArray[np.bool_], baseline: NDArray[np.bool_], test: TestList) -> dict[str, Any]:
    """Macro accuracies in per cent of right answers (seed, clip), and how they differ from the baseline's.

    For each group: mean and sample standard deviation over the seeds, the difference of the means, and the interval
    of that difference that COVERAGE per cent of the bootstrap's draws fall into.
    """
    row: dict[str, Any] = {"seeds": len(right)}
    weights = draw(test)
    for group in (group for group in GROUPS if test.members(group).any()):
        members = test.members(group)
        values = [100 * float(macro(answers, members, test)[0]) for answers in right]
        row[f"{group}_mean"] = statistics.mean(values)
        row[f"{group}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        ours, theirs = (macro(answers.mean(0), members, test, weights) for answers in (right, baseline))
        difference = 100 * (ours - theirs)  # the first is of the recordings as they are, the others are drawn
        row[f"{group}_gain"], row[f"{group}_interval"] = float(difference[0]), interval(difference)
    return row


def _test(clips: Clips, paths: tuple[str, ...]) -> TestList:
    indices = clips.select(paths)
    return TestList(
        indices, clips.label[indices], recordings_of(clips.names(indices)), clips.recording_devices(indices)
    )


def _predictions(run: Path, clips: Clips, test: TestList) -> NDArray[np.int64]:
    """A run's answers (clip,), kept in its folder."""
    path = run / PREDICTIONS
    if not path.exists():
        predict = open_evaluated_model(run, "torch").predict
        parts = [test.clips[start : start + BATCH] for start in range(0, len(test.clips), BATCH)]
        with replacing(path) as temporary:
            np.save(temporary, np.concatenate([predict(clips.pcm[part]).argmax(1) for part in parts]))
    return np.load(path, allow_pickle=False)


if __name__ == "__main__":
    typer.run(ladder)
