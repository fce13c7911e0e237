"""What tests of packages share: tools, folders and recordings."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.cost import Cost

HOME = "https://example.org/tinyscene"
SKETCHES = {"SceneFromMicrophone": "ARDUINO_ARCH_STM32", "SceneFromI2S": "ARDUINO_ARCH_ESP32"}
COSTS = (Cost("plain", 43_000, 12_200),)  # of the baseline on a Cortex-M4, for the small network of the tests


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run(*command: object, ok: bool = True, cwd: Path | None = None) -> str:
    words = [str(each) for each in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, check=False, timeout=120)
    assert (done.returncode == 0) == ok, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def write(files: dict[str, str | bytes], folder: Path) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def golden_lines(bundle: Bundle) -> list[str]:
    return [bundle.labels[index] for index in bundle.vectors.logits.argmax(1)]


def recording(bundle: Bundle, path: Path) -> Path:
    """The golden sounds one after the other."""
    bundle.vectors.pcm.tofile(path)
    return path


def check_package(folder: Path, library: Library) -> None:
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    readme = (folder / "README.md").read_text()
    assert len(readme.splitlines()) <= 60
    assert f"at {library.config['SAMPLE_RATE']} Hz" in readme
    assert f"{library.config['BYTES']} bytes of RAM" in readme
    assert "every second, on the last second:" in readme
    assert "**Not tested:**" in readme
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not re.search(rb"\{\{ \w+ \}\}|\{[%#] ", content) or path.suffix == ".wasm", path
        assert path.suffix != ".j2"
        assert not re.search(rb"/tmp|/home/|/root/|" + re.escape(str(ROOT)).encode(), content), path
