"""Reading settings: YAML files and `key=value` overrides as plain data, bounded in size, and checked types of values.

Recipes and sweeps are read here. Both may come from a stranger: only plain data is made, YAML's aliases are refused
(a few of them can ask for any amount of memory), and size and depth have limits.
"""

import difflib
import io
import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, NodeEvent

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import read_bounded
from tinyscene.deploy.common.text import is_unicode

MAX_BYTES = 1_000_000  # of a file; the largest recipe of ours has 3,000
MAX_NODES = 20_000  # values, keys, lists and mappings; reading that many takes 2 s
MAX_DEPTH = 20  # lists and mappings inside each other
YAML_TYPE = "tag:yaml.org,2002:"  # before the name of a type that YAML has
TAGS = frozenset(["!", *(YAML_TYPE + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))])


class Section(BaseModel):
    """A group of settings: immutable, without unknown keys, without conversion of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class _PlainData(SafeConstructor):
    """YAML 1.2's plain data, but for dates: no key takes one, and a name may look like one."""


_PlainData.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _PlainData
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # annotated as None
    return yaml


def read_settings(path: Path, kind: str) -> Any:
    """Plain data of a YAML file. `kind` names what it holds in errors.

    Raises InputError, in one line, for a file that cannot be read, is too large or is not YAML.
    """
    try:
        content = read_bounded(path, MAX_BYTES)
    except InputError as error:
        raise InputError(f"{kind} {error}") from None
    except OSError as error:
        raise InputError(f"{kind} {path}: cannot be read ({error})") from None
    try:
        return plain_data(content.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{kind} {path}: cannot be read ({error})") from None
    except ValueError as error:
        raise InputError(f"{kind} {path}: not YAML ({error})") from None


def plain_data(text: str) -> Any:
    """Parse YAML. Whatever is wrong with it is a ValueError of one line."""
    try:
        _check_size(text)
        return _yaml().load(text)
    except DuplicateKeyError as error:
        key = re.search(r'duplicate key "(.*?)" with value', str(error), re.DOTALL)
        line = error.problem_mark.line + 1
        raise ValueError(f"line {line}: {key[1] if key else 'a key'!r} is given twice") from None
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def _check_size(text: str) -> None:
    """Go through the text once, without making anything of it, and refuse what is too much."""
    nodes = depth = 0
    for event in _yaml().parse(text):
        if isinstance(event, AliasEvent):
            raise ValueError(f"line {event.start_mark.line + 1}: aliases (*{event.anchor}) are not used here")
        nodes += isinstance(event, NodeEvent)
        if (tag := getattr(event, "tag", None)) and str(tag) not in TAGS:
            named = str(tag).replace(YAML_TYPE, "!!")
            raise ValueError(f"line {event.start_mark.line + 1}: values of the type {named} are not used here")
        if not is_unicode(json.loads(json.dumps(getattr(event, "value", "")))):  # which joins pairs of surrogates
            raise ValueError(f"line {event.start_mark.line + 1}: an escape that is no character")
        depth += type(event).__name__.endswith("StartEvent")
        depth -= type(event).__name__.endswith("EndEvent")
        if nodes > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"line {event.start_mark.line + 1}: nested more than {MAX_DEPTH} deep")


def yaml_text(settings: dict[str, Any]) -> str:
    """Plain data as YAML, keys in their order."""
    text = io.StringIO()
    _yaml().dump(settings, text)
    return text.getvalue()


def set_override(settings: dict[str, Any], override: str) -> None:
    """Apply a `key=value` override to nested settings. Raises InputError for one that cannot be read."""
    key, equals, text = override.partition("=")
    if not (key and equals):
        raise InputError(f"--set {override}: must be key=value, such as train.epochs=5")
    try:
        value = plain_data(text)
    except ValueError:
        raise InputError(f"--set {override[:100]}: not a YAML value") from None
    *sections, last = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise InputError(f"--set {override}: {section!r} is a value, not a section")
    settings[last] = value


def hint(name: str, known: list[str]) -> str:
    """What to say of a name that is not known: the nearest one that is, or all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def first_change(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first of nested settings that differs, or nothing."""
    before, after = flat(old), flat(new)
    for key in before | after:
        if before.get(key) != after.get(key):
            return f"{key}={before.get(key)}, not {after.get(key)}"
    return ""


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full keys."""
    found = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
