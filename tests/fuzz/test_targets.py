"""The targets of the fuzzers, without a fuzzer: seeds are read, and changed ones are read or refused in one line."""

from pathlib import Path

import pytest

from tests.deploy.test_hostile_models import broken
from tests.fuzz import c_library
from tests.fuzz.inputs import Inputs, make_inputs
from tests.fuzz.targets import targets

FOUND = Path(__file__).with_name("found")  # what crashed before it was mended, by target
NAMES = sorted(targets(Inputs(Path()), Path()))
CHANGED = 20  # of each seed


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_read_and_what_is_made_of_them_is_read_or_refused(name: str, inputs: Inputs, tmp_path: Path) -> None:
    target = targets(inputs, tmp_path)[name]()
    target.read(target.seeds[0])
    found = [path.read_bytes() for path in sorted((FOUND / name).glob("*"))]
    for data in (*found, *(broken(seed, number) for seed in target.seeds for number in range(CHANGED))):
        target.check(data)


def test_the_fuzzer_of_the_c_library_compiles_and_runs(inputs: Inputs, tmp_path: Path) -> None:
    program = c_library.build(inputs.bundle, 0.25, tmp_path)
    if program is None:
        pytest.skip(c_library.MISSING)
    for number, seed in enumerate(c_library.SEEDS):
        (tmp_path / f"seed{number}").write_bytes(seed)
    c_library.replay(program, [tmp_path / f"seed{number}" for number in range(len(c_library.SEEDS))])
