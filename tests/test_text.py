"""Text that others wrote, such as file names and labels: shown as it is, wherever it comes out."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from tinyscene.benchmarks.report.plots import groups_plot
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.bundle.index import read_labels
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import write_whole
from tinyscene.deploy.common.terminal import PlainConsole
from tinyscene.train.runs.evaluate import plot_confusion
from tinyscene.train.runs.figures import figure_style, figure_text

RunCli = Callable[..., tuple[int, str, str]]

SHOWN = {  # text, and how a terminal gets it
    "b[red]x": "b[red]x",
    "fw[/v2]": "fw[/v2]",
    "14:bus:03.wav": "14:bus:03.wav",
    "\x1b]0;owned\x07": "\\x1b]0;owned\\x07",
    "a\u202egpj.exe": "a\\u202egpj.exe",
    "half\ud800": "half\\ud800",
    "straße": "straße",
}
LABELS = ("Ba$$in", "cost $1_$2", "#0102ff", "#010100", "_hidden", "b[red]x", "<b>&", 'id="m0123456789"')


@pytest.mark.parametrize("text", SHOWN)
@pytest.mark.parametrize("where", ["line", "cell", "title", "made"])
def test_a_console_shows_text_as_it_is(text: str, where: str) -> None:
    out = io.StringIO()
    table = Table(title=text if where == "title" else None)
    table.add_column("name", min_width=60)
    table.add_row(text if where == "cell" else "")
    PlainConsole(file=out, width=100, force_terminal=True, color_system=None).print(
        {"line": text, "made": Text(text)}.get(where, table)
    )
    shown = SHOWN[text].replace("\\x07", "") if where == "made" else SHOWN[text]  # rich's texts have no bells
    assert shown in out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_recording_is_named_in_any_encoding(bundle: Bundle, encoding: str, tmp_path: Path) -> None:
    names = [b"b[red]x.wav", b"14:bus:03.wav", b"\xff\xfe.wav", "straße.wav".encode(), b"\x1b]0;owned.wav", b"a\nb.wav"]
    soundfile.write(tmp_path / "plain.wav", np.zeros(16_000), 16_000)
    for name in names:
        shutil.copy(tmp_path / "plain.wav", os.fsdecode(bytes(tmp_path) + b"/" + name))
    done = subprocess.run(
        [sys.executable, "-m", "tinyscene", "classify", str(bundle.folder), *map(os.fsdecode, names)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    street = b"stra\\xdfe.wav" if encoding == "ascii" else "straße.wav".encode()
    for shown in (b"b[red]x.wav", b"14:bus:03.wav", b"\\udcff\\udcfe.wav", b"\\x1b]0;owned.wav", street):
        assert shown in done.stdout
    assert b"\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == len(names)


def test_a_folder_named_like_markup_is_written_and_said(bundle: Bundle, run_cli: RunCli, tmp_path: Path) -> None:
    code, _, stderr = run_cli("firmware", bundle.folder, "--out", tmp_path / "fw[/v2]")
    assert (code, "fw[/v2]: " in stderr) == (0, True)


def text_of(svg: Markup) -> list[str]:
    import xml.etree.ElementTree as ElementTree

    return [text for element in ElementTree.fromstring(svg).iter() if (text := (element.text or "").strip())]


def test_the_reports_figures_show_labels_as_they_are() -> None:
    row = {"clips": 1, "correct": 1, "accuracy": 0.5, "log_loss": 1.0}
    drawn = groups_plot({"by_class": dict.fromkeys(LABELS, row), "by_device": {}}, None)
    assert set(LABELS) <= {text.strip() for text in text_of(drawn)}
    assert "#0101" not in drawn.replace("#010100<", "")  # no stand-in colour is left but the label


def test_a_figures_legend_keeps_a_name_that_begins_with_an_underscore() -> None:
    with figure_style():
        axes = Figure().subplots()
        axes.plot([0], [0], label=figure_text("_hidden"))
    assert [label.strip() for label in axes.get_legend_handles_labels()[1]] == ["_hidden"]


def test_a_confusion_matrix_of_any_labels_is_drawn(tmp_path: Path) -> None:
    labels = [*LABELS, *SHOWN]
    evaluation: Any = SimpleNamespace(labels=labels, confusion=np.eye(len(labels)).tolist(), macro_accuracy=1.0)
    plot_confusion(evaluation, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_text_file_shows_an_unpaired_surrogate_as_an_escape(tmp_path: Path) -> None:
    write_whole(tmp_path / "page.html", "half\ud800 straße")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "half\\ud800 straße"


def test_an_error_about_a_long_value_is_cut_and_keeps_what_to_do(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(f"seed: {'1:' * 100_000}0\n")
    code, _, stderr = run_cli("budget", tmp_path / "long.yaml")
    assert (code, len(stderr) < 2_100, stderr.startswith("tinyscene: recipe ")) == (2, True, True)
    assert str(InputError(f"{'x' * 10_000}: choose another name")).endswith("xxx: choose another name")


@pytest.mark.parametrize("label", ["", "half\ud800", 201 * "x", "two\nlines", "two\u2028lines"])
def test_a_label_that_cannot_be_written_down_is_refused(label: str) -> None:
    with pytest.raises(InputError, match=r"must be 1 to 200 characters of Unicode text, on one line"):
        read_labels(["bus", label])


def test_a_report_of_a_bundle_with_a_name_that_is_not_utf_8_is_written(
    bundle: Bundle, run_cli: RunCli, tmp_path: Path
) -> None:
    odd = os.fsdecode(bytes(tmp_path) + b"/b\xff[red]")
    shutil.copytree(bundle.folder, odd)
    code, _, stderr = run_cli("report", odd, "--out", tmp_path / "report")
    assert (code, "Traceback" in stderr) == (0, False)
    assert "b\\udcff[red]" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
