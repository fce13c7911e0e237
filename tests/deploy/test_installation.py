"""What is not installed: the command that is named installs it, however tinyscene came here."""

import json
import shlex
from importlib import metadata
from pathlib import Path

import pytest

from tests import ROOT
from tinyscene.deploy.common import installation
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.installation import missing, require, requirement


class Distribution:
    """Stands for an installed tinyscene and what pip recorded of where it came from."""

    version = "0.1.0"

    def __init__(self, origin: dict | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path, origin: dict | None) -> None:
    """As if this copy lay in `folder`, without a checkout around it."""
    monkeypatch.setattr(installation, "__file__", str(folder / "tinyscene" / "deploy" / "common" / "installation.py"))
    monkeypatch.setattr(metadata, "distribution", lambda _: Distribution(origin))


def test_in_a_checkout_the_extra_is_one_of_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert str(missing("torch", "train")) == "torch is not installed: pip install -e '.[train]'"


def test_from_elsewhere_the_checkout_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert shlex.split(requirement("train")) == ["-e", f"{ROOT}[train]"]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (
            {"url": "file:///my%20wheels/tinyscene-0.1.0-py3-none-any.whl", "archive_info": {}},
            "/my wheels/tinyscene-0.1.0-py3-none-any.whl[onnx]",
        ),
        ({"url": "file:///home/me/tinyscene", "dir_info": {}}, "/home/me/tinyscene[onnx]"),
        (
            {"url": "https://host/tinyscene.git", "vcs_info": {"vcs": "git"}},
            "tinyscene[onnx] @ git+https://host/tinyscene.git",
        ),
        ({"url": "https://host/tinyscene.whl", "archive_info": {}}, "tinyscene[onnx] @ https://host/tinyscene.whl"),
        (None, "tinyscene-0.1.0-py3-none-any.whl[onnx]"),
    ],
)
def test_an_installed_copy_is_installed_from_where_it_came(
    origin: dict | None, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch, tmp_path, origin)
    assert shlex.split(requirement("onnx")) == [expected]


def test_what_tinyscene_itself_brings_is_in_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    line = "runner litert: ai_edge_litert is not installed: pip install -e '.'"
    assert str(missing("ai_edge_litert", what="runner litert")) == line


def test_a_package_that_is_there_is_not_missing() -> None:
    require("numpy", "train")
    with pytest.raises(InputError, match=r"^no_such_package is not installed: pip install .*\[train\]'$"):
        require("no_such_package", "train")


def test_every_extra_that_is_named_exists() -> None:
    extras = set(metadata.metadata("tinyscene").get_all("Provides-Extra") or ())
    assert extras >= {"train", "teachers", "cluster", "listen", "onnx", "verify", "web", "firmware", "dev"}


def test_no_other_file_says_how_to_install() -> None:
    files = [
        path
        for folder in ("tinyscene", "deploy", "train", "firmware_bridge", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    said = {str(path.relative_to(ROOT)) for path in files if "pip install" in path.read_text(encoding="utf-8")}
    assert said == {"deploy/common/installation.py"}
