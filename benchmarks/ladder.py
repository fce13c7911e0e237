"""The ladder: what each way of making more of few recordings is worth, alone and added to those before it.

    tinyscene sweep benchmarks/ladder.yaml --data DATA --other esc10=ESC10 --out sweeps/ladder \\
        --set augment.dir_folder=DATA/mic_ir
    python -m benchmarks.ladder sweeps/ladder

Each difference to the baseline is paired: same split, same seeds, same test clips. Its interval is a bootstrap by
recording: the clips of a recording resemble each other, so recordings are drawn with replacement, within their scene,
and all clips of all devices and all seeds go with them. It holds what the choice of test recordings does to a
difference, and not what other seeds or other training recordings would do. The table goes to
`benchmarks/results/ladder.json`; predictions are kept beside the runs, so that it is made again in seconds.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.results import write_result
from deploy.files import replacing
from train.cache import Clips, prepare
from train.data import DEVICE_GROUPS
from train.evaluate import BATCH, open_subject
from train.sweep_job import read_record
from train.sweep_plan import TrainJob

BASELINE = "baseline"
PREDICTIONS = "predictions.npy"
DRAWS, COVERAGE = 10_000, 95  # of the bootstrap; of its intervals, in per cent
GROUPS = {"macro": None, **DEVICE_GROUPS}  # all test clips, and those of some devices

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Test:
    """The clips of a test list."""

    clips: NDArray[np.int64]  # (clip,) indices into the prepared dataset
    truth: NDArray[np.int64]  # (clip,) classes
    recording: NDArray[np.int64]  # (clip,) numbers from 0: one for all devices and seconds of a recording
    device: NDArray[np.str_]  # (clip,)

    def members(self, group: str) -> NDArray[np.bool_]:
        """Which clips are of a group of devices."""
        devices = GROUPS[group]
        return np.ones(len(self.clips), bool) if devices is None else np.isin(self.device, devices)


def ladder(
    sweep: Annotated[Path, typer.Argument(help="Folder of a finished sweep of benchmarks/ladder.yaml.")],
    out: Path = Path("benchmarks/results/ladder.json"),
) -> None:
    """Write the table of a sweep's runs."""
    record = read_record(sweep)
    dataset = record.sources[""].open()
    jobs = [job for job in record.jobs if isinstance(job, TrainJob) and not job.data]
    clips = prepare(dataset, jobs[0].recipe.features.sample_rate)
    rows = []
    for split in dict.fromkeys(job.split for job in jobs):
        test = _test(clips, dataset.split(split)[1])
        runs: dict[str, list[Path]] = {}
        for job in jobs:
            if job.split == split:
                runs.setdefault(job.run, []).append(sweep / job.name)
        right = {rung: np.stack([_predictions(run, clips, test) == test.truth for run in runs[rung]]) for rung in runs}
        settings = {job.run: job.recipe for job in jobs}
        rows += [
            {"split": split, "rung": rung, "recipe": settings[rung].name} | compare(right[rung], right[BASELINE], test)
            for rung in right
        ]
    write_result(
        out, {"sweep": record.sweep.model_dump(mode="json"), "draws": DRAWS, "coverage": COVERAGE, "rows": rows}
    )


def compare(right: NDArray[np.bool_], baseline: NDArray[np.bool_], test: Test) -> dict[str, Any]:
    """Macro accuracies in per cent of right answers (seed, clip), and how they differ from the baseline's.

    For each group: mean and sample standard deviation over the seeds, the difference of the means, and the interval
    of that difference that COVERAGE per cent of the bootstrap's draws fall into.
    """
    row: dict[str, Any] = {"seeds": len(right)}
    weights = _draw(test)
    for group in (group for group in GROUPS if test.members(group).any()):
        members = test.members(group)
        values = [100 * float(_macro(each, members, test)[0]) for each in right]
        row[f"{group}_mean"] = statistics.mean(values)
        row[f"{group}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        ours, theirs = (_macro(each.mean(0), members, test, weights) for each in (right, baseline))
        difference = 100 * (ours - theirs)  # the first is of the recordings as they are, the others are drawn
        low, high = np.percentile(difference[1:], [(100 - COVERAGE) / 2, (100 + COVERAGE) / 2])
        row[f"{group}_gain"], row[f"{group}_interval"] = float(difference[0]), [float(low), float(high)]
    return row


def _macro(right: NDArray[Any], members: NDArray[np.bool_], test: Test, weights: Floats | None = None) -> Floats:
    """Macro accuracy of right answers (clip,), for the recordings as they are and then for each draw of `weights`."""
    count = test.recording.max() + 1
    every = np.ones((1, count))
    weights = every if weights is None else np.concatenate([every, weights])  # (draw, recording)
    accuracies = []
    for label in np.unique(test.truth[members]):
        chosen = members & (test.truth == label)
        clips = np.bincount(test.recording[chosen], minlength=count)  # (recording,)
        correct = np.bincount(test.recording[chosen], right[chosen], minlength=count)
        accuracies.append((weights @ correct) / (weights @ clips))  # (draw,)
    return np.mean(accuracies, axis=0)


def _draw(test: Test) -> Floats:
    """How often each recording is drawn, (draw, recording): with replacement, as many of each scene as there are."""
    rng, weights = np.random.default_rng(0), np.zeros((DRAWS, test.recording.max() + 1))
    for label in np.unique(test.truth):
        recordings = np.unique(test.recording[test.truth == label])
        share = np.full(len(recordings), 1 / len(recordings))
        weights[:, recordings] = rng.multinomial(len(recordings), share, DRAWS)
    return weights


def _test(clips: Clips, paths: tuple[str, ...]) -> Test:
    chosen = clips.select(paths)
    names = ["-".join(Path(name).name.split("-")[:4]) for name in clips.names(chosen)]  # SCENE-CITY-LOCATION-RECORDING
    recording = np.unique(names, return_inverse=True)[1]
    return Test(chosen, clips.label[chosen], recording, clips.device(chosen))


def _predictions(run: Path, clips: Clips, test: Test) -> NDArray[np.int64]:
    """A run's answers (clip,), kept in its folder."""
    path = run / PREDICTIONS
    if not path.exists():
        predict = open_subject(run, "torch").predict
        parts = [test.clips[start : start + BATCH] for start in range(0, len(test.clips), BATCH)]
        with replacing(path) as temporary:
            np.save(temporary, np.concatenate([predict(clips.pcm[part]).argmax(1) for part in parts]))
    return np.load(path, allow_pickle=False)


if __name__ == "__main__":
    typer.run(ladder)
