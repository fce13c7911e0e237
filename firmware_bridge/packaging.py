"""The library as what an ecosystem's own libraries look like: CMake, Arduino, PlatformIO, Zephyr, WebAssembly; or with
a program around it that measures it on a board.

    files = package(library, "arduino", "1.0.0")     # path -> content, of a folder of its own

What is the same for every model lies in packages/, a folder a kind; @NAMES@ in it are replaced. Only the kind `wasm`
needs a compiler, zig.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tinyscene.deploy.common.errors import InputError
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.targets.toolchains import HARNESS, Target, build, find_toolchain

TEMPLATES = Path(__file__).parent / "packages"
PUBLIC = ("tinyscene.h", "tinyscene_config.h")
PACKAGES = ("cmake", "arduino", "platformio", "zephyr", "wasm", "board")

# Browsers have had both features since 2023 at the latest; 128-bit vectors make a decision a third shorter.
WASM = Target(
    name="wasm32",
    what="WebAssembly",
    kernels="plain",
    zig=("--target=wasm32-freestanding", "-mcpu=generic+bulk_memory+simd128"),
    gcc=(),
    linker_script=None,
)
WASM_EXPORTS = (
    *("tinyscene_label", "tinyscene_best", "tinyscene_run", "tinyscene_reset"),
    *(f"tinyscene_wasm_{name}" for name in ("pcm", "pcm_samples", "start", "instance", "push", "taken", "scores")),
    *(f"tinyscene_wasm_{name}" for name in ("classes", "sample_rate", "logit_scale", "logit_zero_point")),
    *(f"tinyscene_wasm_{name}" for name in ("features", "mels", "frames")),
)
WASM_STACK = 16_384  # bytes; at the bottom of its memory, so that going beyond is trapped


def package(library: Library, kind: str, version: str) -> dict[str, str | bytes]:
    """All files of a package, by their paths in it.

    Raises InputError for a kind that is unknown, a version that is not of three numbers, and, for `wasm`, if zig is
    missing.
    """
    if kind not in PACKAGES:
        raise InputError(f"package {kind!r} is unknown: known are {', '.join(PACKAGES)}")
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version, re.ASCII):
        raise InputError(f"version {version!r}: a package needs three numbers, such as 1.0.0")
    files = _templates(kind)
    values = _values(library, version)
    if kind == "wasm":
        module = _wasm(library.files, str(files.pop("tinyscene_wasm.c")))
        files["tinyscene.wasm"] = module
        values["WASM_BYTES"] = f"{len(module):,}"
    if kind == "platformio":
        files |= {path: text for path, text in _templates("arduino").items() if path.startswith("examples/")}
        files["examples/native/scene.c"] = _templates("cmake")["example/scene.c"]
    if kind in ("cmake", "zephyr"):
        parent = "" if kind == "cmake" else "${CMAKE_CURRENT_LIST_DIR}/../"
        names = sorted(name for name in library.files if name.endswith(".c"))
        values["SOURCES"] = "\n".join(f"    {parent}src/{name}" for name in names)
    filled = {path: _fill(content, values) if isinstance(content, str) else content for path, content in files.items()}
    return dict(sorted((filled | _sources(library.files, kind)).items()))


def _templates(kind: str) -> dict[str, str | bytes]:
    folder = TEMPLATES / kind
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files: dict[str, str | bytes] = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths
    }
    return files | {"LICENSE": (TEMPLATES / "LICENSE").read_text(encoding="utf-8")}


def _values(library: Library, version: str) -> dict[str, str]:
    config = library.config
    rate = int(config["SAMPLE_RATE"])
    values = {
        "VERSION": version,
        "SAMPLE_RATE": str(rate),
        "BYTES": str(config["BYTES"]),
        "CLASSES": str(config["CLASSES"]),
        "CLIP": _seconds(int(config["CLIP_SAMPLES"]) / rate),
        "HOP": _seconds(int(config["HOP_SAMPLES"]) / rate),
    }
    return values | {"NEEDS": _fill((TEMPLATES / "needs.md").read_text(encoding="utf-8"), values)}


def _seconds(count: float) -> str:
    return "second" if count == 1 else f"{count:g} seconds"


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _sources(sources: Mapping[str, str], kind: str) -> dict[str, str]:
    """Where an ecosystem looks for them."""
    if kind == "wasm":
        return {}
    apart = PUBLIC if kind in ("cmake", "zephyr") else ()
    return {f"{'include' if name in apart else 'src'}/{name}": text for name, text in sources.items()}


def _wasm(sources: Mapping[str, str], glue: str) -> bytes:
    toolchain = find_toolchain("zig", WASM)
    linking = ["--no-entry", f"-z,stack-size={WASM_STACK}", "--strip-all"]
    linking += [f"--export={name}" for name in WASM_EXPORTS]
    with tempfile.TemporaryDirectory(prefix="tinyscene-") as name:
        folder = Path(name)
        for path, text in {**sources, "tinyscene_wasm.c": glue}.items():
            (folder / path).write_text(text, encoding="utf-8")
        module = build(
            toolchain,
            WASM,
            sorted(folder.glob("*.c")),
            folder / "tinyscene.wasm",
            includes=[folder, HARNESS / "include"],
            defines=["TINYSCENE_PLAIN"],
            optimize="O3",
            flags=[f"-Wl,{option}" for option in linking],
        )
        return module.read_bytes()
