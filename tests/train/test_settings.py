"""Settings from a stranger: what is refused before it costs time or memory, and what YAML text means."""

import json
import os
from pathlib import Path

import pytest
import yaml

from tinyscene.deploy.common.errors import InputError
from tinyscene.train.recipe import load_recipe
from tinyscene.train.settings import MAX_BYTES, plain_data, read_settings, yaml_text
from tinyscene.train.sweep.sweep_file import read_sweep

BOMB = "a: &a [x, x]\n" + "".join(f"k{n}: &{n} [{', '.join(9 * [f'*{n - 1}' if n else '*a'])}]\n" for n in range(40))
MERGES = "b0: &b0 {a: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [*b{n - 1}, *b{n - 1}]}}\n" for n in range(1, 40))


@pytest.mark.parametrize("bomb", [BOMB, MERGES], ids=["aliases", "merge keys"])
@pytest.mark.parametrize("read", [load_recipe, read_sweep])
def test_an_alias_that_multiplies_is_refused(bomb: str, read: object, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb)
    with pytest.raises(InputError, match=r"line 2: aliases \(\*.*\) are not used here"):
        read(str(path))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("".join(f"k{n}: 1\n" for n in range(60_000)), "more than 20,000 values"),
        (21 * "[" + 21 * "]", "nested more than 20 deep"),
        ("x: {a: 1, a: 2}", "line 1: 'a' is given twice"),
        ("train: {epochs: 3}\nseed: 1\ntrain: {lr: 0.1}\n", "line 3: 'train' is given twice"),
    ],
    ids=["values", "depth", "a key in a mapping", "a section"],
)
def test_what_is_too_much_or_double_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plain_data(text)


def test_a_file_beyond_the_limit_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as handle:
        handle.truncate(1 << 40)  # sparse
    with pytest.raises(InputError, match=f"larger than {MAX_BYTES:,} bytes"):
        read_settings(tmp_path / "large.yaml", "recipe")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(InputError, match="not a file"):
        read_settings(tmp_path / "pipe.yaml", "recipe")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2024-12-05", "2024-12-05"), ("no", "no"), ("true", True), ("null", None), ("0x10", 16)],
)
def test_values_are_those_of_yaml_1_2_without_dates(text: str, value: object) -> None:
    assert plain_data(text) == value


def test_written_settings_keep_their_order_and_are_read_alike_elsewhere() -> None:
    settings = {"b": [1, 2.5, None, True], "a": {"name": "5", "path": "a: b", "empty": [], "date": "2024-12-05"}}
    assert json.dumps(yaml.safe_load(yaml_text(settings))) == json.dumps(settings)


@pytest.mark.parametrize("value", ["!!binary aGVsbG8=", "!!set {a, b}", "!!omap [a: 1]", "!own x"])
def test_a_value_that_is_no_plain_data_is_named_by_its_line_and_type(value: str) -> None:
    with pytest.raises(ValueError, match=f"^line 2: values of the type {value.partition(' ')[0]} are not used here$"):
        plain_data(f"seed: !!int 1\nname: {value}")


def test_an_escape_that_is_no_character_is_named_by_its_line() -> None:
    with pytest.raises(ValueError, match=r"^line 2: an escape that is no character$"):
        plain_data('seed: 1\nname: "\\ud800"')
    assert json.dumps(plain_data('name: "\\ud83d\\ude00"')) == json.dumps({"name": "😀"})


@pytest.mark.parametrize("way", ["file", "override"])
def test_a_tag_that_calls_python_is_not_obeyed(way: str, tmp_path: Path) -> None:
    marker = tmp_path / "was here"
    call = f'!!python/object/apply:os.mkdir ["{marker}"]'
    yaml.unsafe_load(call)  # a reader that obeys would
    marker.rmdir()
    (tmp_path / "mine.yaml").write_text(f"name: {call}")
    name, overrides = ("baseline", [f"name={call}"]) if way == "override" else (str(tmp_path / "mine.yaml"), [])
    with pytest.raises(InputError):
        load_recipe(name, overrides)
    assert not marker.exists()
