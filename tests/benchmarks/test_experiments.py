"""Experiments as commands: they end as `tinyscene` does."""

import runpy

import pytest

from tests import ROOT

FILES = sorted((ROOT / "benchmarks" / "experiments").glob("*.py"))
COMMANDS = [path.stem for path in FILES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_experiment_cannot_take_is_said_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--nonsense"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"tinyscene.benchmarks.experiments.{name}", run_name="__main__", alter_sys=False)
    out, err = capfd.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"{name}: ")
    assert "--help" in err
