"""Fuzz one target: python -m tests.fuzz.one TARGET FOLDER [flags of libFuzzer]. FOLDER holds the inputs.

Guided by the coverage of tinyscene's Python. Compiled libraries are not instrumented; a crash of theirs is one here.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")  # of the extra `fuzz`
with atheris.instrument_imports(include=["tinyscene"]):
    from tests.fuzz.inputs import Inputs
    from tests.fuzz.targets import targets


def main() -> None:
    _, name, folder, *flags = sys.argv
    with tempfile.TemporaryDirectory() as work:
        check = targets(Inputs(Path(folder)), Path(work))[name]().check
        atheris.Setup([sys.argv[0], *flags], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
