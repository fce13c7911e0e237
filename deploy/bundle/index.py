"""The index of a bundle, `bundle.json`: its keys, what may stand in them, and the hash of all that lasts."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tinyscene.deploy.bundle.decision import UNKNOWN_LABEL, DecisionRule
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import sha256
from tinyscene.deploy.common.text import is_unicode, json_text
from tinyscene.deploy.frontend.band_offsets import read_means
from tinyscene.deploy.frontend.log_mel import FrontEnd

LONGEST_LABEL = 200  # characters
SCHEMA = 1
INDEX, CARD, VECTORS = "bundle.json", "MODEL_CARD.md", "golden/vectors.bin"
GRAPH, FLOAT_GRAPH = "graph", "float"
VARIANTS = "variants"  # folder, and key of the index
DECISION = "decision"  # key of the index: the decision rule
BAND_MEANS = "band_means"  # key of the index: the means of the mel bands, by class
ATTRIBUTION = "attribution"  # key of the index: who made the recordings
RECORDS = ("metrics", "bench", ATTRIBUTION)  # keys of the index that may be written later
FORMER_CARD = "former_card_sha256"  # key of the index while the card is being written anew
DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")
MAX_INDEX, MAX_FILE = 2**24, 2**26  # bytes
EXPORTS = {
    "tflite": "model.tflite",
    "tflite-float": "model-float.tflite",
    "onnx": "model.onnx",
    "onnx-int8": "model-int8.onnx",
}
BUDGET_KEYS = ("parameters", "macs", "deployed_bytes", "deployed_macs")
LASTING = (*(f"{stem}.{kind}" for stem in (GRAPH, FLOAT_GRAPH) for kind in ("json", "safetensors")), VECTORS)
PARTS = (*LASTING, CARD)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a bundle, with labels, front end, variants and files that can be trusted to be such."""
    index = folder / INDEX
    if not index.is_file():
        raise InputError(f"{folder}: not a bundle (it holds no {INDEX}); make one with `tinyscene quantize`")
    if index.stat().st_size > MAX_INDEX:
        raise InputError(f"{index}: larger than {MAX_INDEX >> 20} MB")
    try:
        content = json.loads(index.read_bytes())
        if type(content["schema"]) is not int or content["schema"] != SCHEMA:
            raise InputError(f"schema {content['schema']!r}: this tinyscene reads {SCHEMA}; upgrade it")
        labels = read_labels(content["labels"])
        if DECISION in content:
            rule = DecisionRule.read(content[DECISION])
            if rule.unknown is not None and UNKNOWN_LABEL in labels:
                raise InputError(f"its label {UNKNOWN_LABEL!r} is what the decision rule says of strangers")
        content["files"] = dict(content["files"])
        front_end = FrontEnd(**content["front_end"])
        if content["front_end_sha256"] != hash_of(front_end.as_dict()):
            raise InputError("its front end was changed after the bundle was made")
        if BAND_MEANS in content:
            read_means(content[BAND_MEANS], len(labels), front_end.n_mels)
        _check_variants(content.get(VARIANTS, {}))
        fingerprint_of(content)  # raises where it is nested too deep to be hashed later, or lists no files
    except InputError as error:
        raise InputError(f"{index}: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{index}: not the index of a bundle ({type(error).__name__}: {error})") from None
    return content


def read_labels(labels: object) -> tuple[str, ...]:
    """Labels as a file has them. Raises InputError if they are no list of different names."""
    if not isinstance(labels, list) or not labels or not all(type(label) is str for label in labels):
        raise InputError("labels must be a list of names")
    for label in labels:
        if not 1 <= len(label) <= LONGEST_LABEL or not is_unicode(label) or label.splitlines() != [label]:
            raise InputError(
                f"label {label[:40]!r}: must be 1 to {LONGEST_LABEL} characters of Unicode text, on one line"
            )
    if len(set(labels)) < len(labels):
        raise InputError("a label stands twice")
    return tuple(labels)


def require_device_name(name: str) -> None:
    """Make sure that a device's name can be the name of its folder and leads nowhere else. Raises InputError."""
    if not DEVICE_NAME.fullmatch(name):
        raise InputError(f"device {name!r}: must be named by at most 64 letters, digits, spaces and . _ + -")


def _check_variants(table: object) -> None:
    if not isinstance(table, dict):
        raise InputError("variants must be a table by device")
    for device, known in table.items():
        require_device_name(device)
        if not isinstance(known, dict) or type(known.get("sha256")) is not str:
            raise InputError(f"lacks the hash of the variant for device {device}")


def check_file(path: Path, expected: tuple[object, ...]) -> None:
    if not path.is_file():
        raise InputError(f"{path}: missing from the bundle; make it again with `tinyscene quantize` or `export`")
    if path.stat().st_size > MAX_FILE:
        raise InputError(f"{path}: larger than {MAX_FILE >> 20} MB")
    if sha256(path) not in expected:
        raise InputError(f"{path}: was changed or damaged after the bundle was made (its SHA-256 differs)")


def fingerprint_of(content: dict[str, Any]) -> str:
    files = {part: content["files"][part] for part in LASTING}
    later = (*RECORDS, FORMER_CARD)
    return hash_of({key: value for key, value in content.items() if key not in later} | {"files": files})


def hash_of(settings: dict[str, Any]) -> str:
    return text_sha256(json.dumps(settings, sort_keys=True))


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def index_text(content: dict[str, Any]) -> str:
    return json_text(content, indent=2) + "\n"
