"""MISRA C:2012: what cppcheck finds in the library of the packaged model is what the documentation lists, and why."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests import ROOT
from tinyscene.deploy.bundle.bundle import open_bundle
from tinyscene.firmware_bridge.codegen.library import make_library, write_sources

PAGE = ROOT / "docs" / "misra.md"
ROW = re.compile(r"^\| (\d+\.\d+) \| (?:required|advisory) \| (\d+) \| .+ \|$", re.MULTILINE)
CPPCHECK = ["cppcheck", "--addon=misra", "--std=c99", "--quiet", "-j2", "--template={file}:{line}:{column} {id}"]
PROCESSORS = [  # that have kernels of their own
    ["-DTINYSCENE_PLAIN"],
    ["-D__GNUC__", "-D__arm__", "-D__ARM_FEATURE_DSP"],
    ["-D__GNUC__", "-D__arm__", "-D__ARM_FEATURE_MVE"],
]


def places(folder: Path) -> Counter[str]:
    """How many places break each rule on any of the processors."""
    found: set[str] = set()
    for defines in PROCESSORS:
        done = subprocess.run([*CPPCHECK, *defines, "."], cwd=folder, capture_output=True, text=True, check=True)
        found.update(re.findall(r"^.+ misra-c2012-\d+\.\d+$", done.stderr, re.MULTILINE))
    return Counter(place.rsplit("-", 1)[1] for place in found)


@pytest.mark.slow
def test_no_rule_is_broken_that_the_documentation_does_not_list_with_as_many_places(tmp_path: Path) -> None:
    if shutil.which("cppcheck") is None:
        pytest.skip("cppcheck is missing: apt-get install cppcheck")
    bundle = open_bundle(ROOT / "tinyscene" / "bundled" / "sounds10")
    write_sources(make_library(bundle.graph, bundle.front_end, bundle.labels, rule=bundle.rule), tmp_path)
    listed = Counter({rule: int(count) for rule, count in ROW.findall(PAGE.read_text())})
    assert len(listed) > 20
    found = places(tmp_path)
    assert found.keys() == listed.keys()
    assert found - listed == Counter()  # none is broken more often
