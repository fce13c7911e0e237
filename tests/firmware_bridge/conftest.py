"""Packages that several files of tests look at, made once."""

from pathlib import Path

import pytest

from tests.firmware_bridge.packaged import COSTS, HOME, write
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.firmware_bridge.codegen.library import Library, make_library
from tinyscene.firmware_bridge.packaging import PACKAGES, package


@pytest.fixture(scope="session")
def library(bundle: Bundle) -> Library:
    return make_library(bundle.graph, bundle.front_end, bundle.labels)


@pytest.fixture(scope="session")
def made(library: Library, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages that need no compiler, each in its folder."""
    folder = tmp_path_factory.mktemp("packages")
    return {
        kind: write(package(library, kind, "1.2.3", COSTS, HOME), folder / kind) for kind in PACKAGES if kind != "wasm"
    }
