"""The status of a sweep: which of its jobs are done, under way or cannot be done, and the table of its runs.

`results.csv` has a row a run or bundle: what was trained, on what, with which seed; whether it is done, failed, skipped
(for what it needs failed), running or waiting, and the reason; then its measures on the test list, its size, the
seconds of its training (0 of a bundle), and its accuracies by class (`class.airport`), device (`device.s4`) and group
(`group.unseen`).
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyscene.deploy.common.files import write_whole
from tinyscene.train.loop.loop import InterruptedRunError
from tinyscene.train.sweep.job import SweepRecord
from tinyscene.train.sweep.plan import EvaluatedJob, Job

RESULTS = "results.csv"
MEASURES = ("accuracy", "macro_accuracy", "log_loss", "clips", "parameters", "macs", "seconds")
COLUMNS = ("run", "recipe", "split", "seed", "state", "reason", *MEASURES)
GROUPS = {"by_class": "class", "by_device": "device", "by_device_group": "group"}  # key of a result: of a column
FINAL = ("done", "failed", "skipped")  # states; the others are waiting and running
LONGEST_REASON = 300  # characters


class SweepStatus:
    """Which jobs of a sweep are done, under way, or cannot be done, and the table of it.

    The states are done, failed and skipped, which are final, and waiting and running.
    """

    def __init__(self, out: Path, sweep: SweepRecord) -> None:
        self.out, self.sweep = out, sweep
        self.state: dict[str, str] = {}
        self.reason: dict[str, str] = {}
        self.measures: dict[str, dict[str, Any]] = {}
        for job in sweep.jobs:
            self._look(job)
        self.write()

    def ready(self) -> Iterator[Job]:
        """Waiting jobs that need nothing more, in the order of the plan."""
        for job in self.sweep.jobs:
            if self.state[job.name] == "waiting" and all(self.state[need] == "done" for need in job.needs):
                yield job

    def begin(self, job: Job) -> None:
        self.state[job.name] = "running"
        self.write()

    def end(self, job: Job, reason: str) -> None:
        """A job has ended: well, without a reason, or failed; what needs it is then skipped."""
        self._look(job)
        if reason or self.state[job.name] != "done":
            self.state[job.name], self.reason[job.name] = "failed", _one_line(reason or "ended without a result")
        for other in self.sweep.jobs:  # in the plan's order each comes after those it needs
            lost = [need for need in other.needs if self.state[need] in ("failed", "skipped")]
            if lost and self.state[other.name] == "waiting":
                why = f"failed: {self.reason[lost[0]]}" if self.state[lost[0]] == "failed" else "was skipped"
                self.state[other.name], self.reason[other.name] = "skipped", _one_line(f"needs {lost[0]}, which {why}")
        self.write()

    @property
    def ended(self) -> int:
        """How many jobs will not change any more."""
        return sum(state in FINAL for state in self.state.values())

    @property
    def is_over(self) -> bool:
        return self.ended == len(self.state)

    def require_over(self) -> None:
        """Raise InterruptedRunError if the sweep was stopped before its end."""
        if self.is_over:
            return
        for job in self.sweep.jobs:
            if self.state[job.name] == "running":
                self._look(job)
        self.write()
        raise InterruptedRunError(f"{self.out}: stopped, runs saved; the same command goes on")

    def rows(self) -> list[dict[str, Any]]:
        """The table: a row a run, and no column that none has a value in but those of COLUMNS."""
        return [
            {
                "run": job.run,
                "recipe": job.recipe.name,
                "split": job.split,
                "seed": job.recipe.seed,
                "state": self.state[job.name],
                "reason": self.reason[job.name],
                **self.measures[job.name],
            }
            for job in self.sweep.jobs
            if isinstance(job, EvaluatedJob)
        ]

    def write(self) -> None:
        rows, text = self.rows(), io.StringIO()
        columns = dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)])
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.out / RESULTS, text.getvalue())

    def _look(self, job: Job) -> None:
        """Whether a job is done, and what came of it, as its folder says."""
        done = self.sweep.is_done(self.out, job)
        self.state[job.name], self.reason[job.name] = "done" if done else "waiting", ""
        result = self.sweep.result(self.out, job) if isinstance(job, EvaluatedJob) else None
        self.measures[job.name] = _measures(result) if result else {}


def _measures(result: dict[str, Any]) -> dict[str, Any]:
    """The columns of an evaluation's result."""
    groups = {
        f"{column}.{name}": group["accuracy"] for key, column in GROUPS.items() for name, group in result[key].items()
    }
    return {measure: result[measure] for measure in MEASURES} | groups


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_REASON]
