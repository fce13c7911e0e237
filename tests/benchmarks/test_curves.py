"""The training curves of a sweep."""

from pathlib import Path

import pytest

from tests.train.test_sweep_report import drawn, write
from tinyscene.benchmarks.report import PAGE, write_report
from tinyscene.benchmarks.report.curves import read_curves
from tinyscene.deploy.common.errors import InputError


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    folder = write(tmp_path / "one", drawn(("baseline", "probe"), ("5", "100"), seeds=1))
    curves = {"baseline-5-0": (3, 1), "baseline-100-0": (2, 1.5, 0.5), "probe-5-0": (0.1,)}
    for run, losses in curves.items():
        metrics = folder / "runs" / run / "metrics.jsonl"
        metrics.parent.mkdir(parents=True)
        metrics.write_text("".join(f'{{"epoch": {n}, "loss": {loss}}}\n' for n, loss in enumerate(losses, 1)))
    return folder


def test_a_curve_is_the_mean_over_the_runs_that_got_there(sweep: Path) -> None:
    assert read_curves(sweep) == {"baseline": [2.5, 1.25, 0.5]}  # a probe has one epoch: no curve


def test_the_report_draws_them(sweep: Path, tmp_path: Path) -> None:
    write_report([sweep], tmp_path / "report")
    assert "baseline: 2.500 to 0.500 in 3" in (tmp_path / "report" / PAGE).read_text()


@pytest.mark.parametrize("line", ['{"loss": "x"}', '{"loss": NaN}', "{", '{"epoch": 1}'])
def test_metrics_that_are_none_are_refused_by_name(sweep: Path, line: str) -> None:
    (sweep / "runs" / "probe-5-0" / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"probe-5-0/metrics\.jsonl: not the metrics"):
        read_curves(sweep)
