"""What a notebook shows: the figures, and nothing that a name or label could smuggle in."""

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np

import tinyscene
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.interface.evaluation import ModelEvaluation
from tinyscene.train.runs.evaluate import score

EVIL = "<script>alert(1)</script>"


class Cells(HTMLParser):
    """The texts of a page's cells, and the names of its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.add(tag)
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data.strip()


def evaluation(labels: tuple[str, ...]) -> ModelEvaluation:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    result = score(probabilities, np.array([0, 1, 1, 0]), np.array(["a", "a", "b", "b"]), labels)
    about = {"model": "runs/one", "data_hash": "0", "split": "25", "runner": "torch", "left_out": 0, "unknown": None}
    return ModelEvaluation(**vars(result), **about, answers=cast("Any", None))  # which are not shown


def test_an_evaluation_shows_accuracy_and_confusion() -> None:
    cells = Cells(evaluation(("bus", "tram"))._repr_html_())
    assert "75.00% (3 correct)" in cells.texts
    assert [text for text in cells.texts if text.endswith("%") and "." not in text] == ["100%", "0%", "50%", "50%"]


def test_a_label_in_an_evaluation_is_text_and_no_script() -> None:
    cells = Cells(evaluation((EVIL, "tram"))._repr_html_())
    assert "script" not in cells.elements
    assert EVIL in cells.texts


def test_a_bundle_shows_its_labels_and_sizes(bundle: Bundle) -> None:
    cells = Cells(tinyscene.Bundle(bundle.folder)._repr_html_())
    assert ", ".join(bundle.labels) in cells.texts
    assert f"{bundle.content['budget']['deployed_bytes']:,} bytes" in cells.texts


def test_the_folder_of_a_bundle_is_text_and_no_script(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(bundle.folder, folder)
    assert "img" not in Cells(tinyscene.Bundle(folder)._repr_html_()).elements
