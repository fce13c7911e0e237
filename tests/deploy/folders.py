"""The folder of a bundle, read and changed without our reader."""

import hashlib
import json
from pathlib import Path
from typing import Any

EXPORTS = {
    "tflite": "model.tflite",
    "tflite-float": "model-float.tflite",
    "onnx": "model.onnx",
    "onnx-int8": "model-int8.onnx",
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reindexed(folder: Path, **changes: Any) -> Path:
    """Change the index of a bundle and put the right hash of every file into it."""
    index = json.loads((folder / "bundle.json").read_text()) | changes
    names = sorted(contents(folder).keys() & {*index["files"], *EXPORTS.values()})
    index["files"] |= {name: sha256(folder / name) for name in names}
    (folder / "bundle.json").write_text(json.dumps(index))
    return folder
