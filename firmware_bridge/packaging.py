"""The library as a package for a build system or WebAssembly, or with a benchmark for a board.

    files = package(library, "arduino", "1.0.0", costs)     # path -> content

What does not depend on the model is in packages/, one folder per kind of package. Only `wasm` needs a compiler, zig.
"""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import temporary_folder
from tinyscene.firmware_bridge.codegen.library import Library
from tinyscene.firmware_bridge.codegen.scene import hop_limits
from tinyscene.firmware_bridge.cost import MIPS, Cost, clock_table
from tinyscene.firmware_bridge.targets.toolchains import HARNESS, Kernels, Target, build, find_toolchain
from tinyscene.firmware_bridge.templates import TEMPLATES, license_text, render, render_folder

PUBLIC_HEADERS = ("tinyscene.h", "tinyscene_config.h")
PACKAGES = ("cmake", "arduino", "platformio", "zephyr", "espidf", "cmsis", "wasm", "board")

# Where the examples that listen to a microphone are; each has the generated header of what a decision costs.
LISTENING = {
    "arduino": ("examples/SceneFromMicrophone", "examples/SceneFromI2S"),
    "platformio": ("examples/SceneFromMicrophone", "examples/SceneFromI2S"),
    "zephyr": ("samples/scene/src",),
    "espidf": ("examples/scene/main",),
}
WITH_INCLUDES = ("cmake", "zephyr", "espidf", "cmsis")  # whose public headers are in a folder of their own
COST_HEADER = "scene_cost.h"
WASM_KERNELS = ("simd", "plain")  # of a library for WebAssembly


def _wasm_target(kernels: Kernels, features: str) -> Target:
    return Target(
        name="wasm32",
        description="WebAssembly",
        kernels=kernels,
        zig=("--target=wasm32-freestanding", f"-mcpu=generic+bulk_memory{features}"),
        gcc=(),
        linker_script=None,
    )


# By the name of the module. Browsers have 128-bit vectors since 2023 at the latest, and bulk memory for longer.
WASM_MODULES = {"tinyscene.wasm": _wasm_target("simd", "+simd128"), "tinyscene_plain.wasm": _wasm_target("plain", "")}
WASM_GLUE = "tinyscene_wasm.c"
WASM_EXPORTS = (
    *("tinyscene_label", "tinyscene_best", "tinyscene_run", "tinyscene_reset"),
    *(f"tinyscene_wasm_{name}" for name in ("pcm", "pcm_samples", "start", "instance", "push", "taken", "scores")),
    *(f"tinyscene_wasm_{name}" for name in ("classes", "sample_rate", "logit_scale", "logit_zero_point")),
    *(f"tinyscene_wasm_{name}" for name in ("features", "mels", "frames")),
)
BEST = "tinyscene_best(scene)"  # in the examples
WASM_STACK = 16_384  # bytes; at the start of memory, so that an overflow traps


def package(
    library: Library, kind: str, version: str, costs: Sequence[Cost] = (), home: str | None = None
) -> dict[str, str | bytes]:
    """All files of a package by their paths in it.

    `costs` of a decision, the fastest kernels first, are what the examples' buffers follow from; `home` is the address
    of the project, for manifests. A library for `wasm` has WASM_KERNELS.
    Raises InputError for an unknown kind, a version that is not three numbers, and, for `wasm`, if zig is missing.
    """
    if kind not in PACKAGES:
        raise InputError(f"package {kind!r} is unknown: known are {', '.join(PACKAGES)}")
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version, re.ASCII):
        raise InputError(f"version {version!r}: a package needs three numbers, such as 1.0.0")
    values = _values(library, version, costs) | {"has_examples": kind in LISTENING, "home": home}
    files: dict[str, str | bytes] = {"LICENSE": license_text(), **_sources(library.files, kind)}
    if kind == "wasm":
        modules = {name: _wasm(library, target) for name, target in WASM_MODULES.items()}
        files |= modules
        values["wasm_bytes"] = [f"{len(module):,}" for module in modules.values()]
    examples = render_folder(kind, values)
    examples.pop(WASM_GLUE, None)  # which is compiled into the module
    if kind == "platformio":
        examples |= render_folder("arduino/examples", values, "examples/")
        examples["examples/native/scene.c"] = (TEMPLATES / "cmake/example/scene.c").read_text(encoding="utf-8")
    examples |= {f"{folder}/{COST_HEADER}": render(f"{COST_HEADER}.j2", values) for folder in LISTENING.get(kind, ())}
    files |= {name: _deciding(text, library) for name, text in examples.items()}
    return dict(sorted(files.items()))


def packed(files: Mapping[str, str | bytes], version: str) -> dict[str, bytes]:
    """A CMSIS-Pack's folder as one file, a zip, by its name. The same files give the same bytes."""
    (description,) = (name for name in files if name.endswith(".pdsc"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # of 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return {f"{description.removesuffix('.pdsc')}.{version}.pack": out.getvalue()}


def _deciding(example: str, library: Library) -> str:
    """An example that asks for the decision of the library's rule, if it has one, in place of the best class."""
    if "AVERAGE" not in library.config or BEST not in example:
        return example
    return example.replace(BEST, "tinyscene_decision(scene)")


def _values(library: Library, version: str, costs: Sequence[Cost]) -> dict[str, Any]:
    """What the templates may use."""
    config = library.config
    rate = int(config["SAMPLE_RATE"])
    step, longest = hop_limits(config)
    return {
        "version": version,
        "sample_rate": rate,
        "bytes": config["BYTES"],
        "classes": config["CLASSES"],
        "clip": _seconds(int(config["CLIP_SAMPLES"]) / rate),
        "hop": _seconds(int(config["HOP_SAMPLES"]) / rate),
        "delay": int(config["DELAY_SAMPLES"]) / rate,
        "by_time": config["BY_TIME"],
        "hop_step": step,
        "longest_hop": longest,
        "costs": costs,
        "mips": MIPS,
        "clock_table": clock_table(costs, config),
        "sources": sorted(name for name in library.files if name.endswith(".c")),
    }


def _seconds(count: float) -> str:
    return "second" if count == 1 else f"{count:g} seconds"


def _sources(sources: Mapping[str, str], kind: str) -> dict[str, str]:
    """The C files in the folders where an ecosystem expects them; a WebAssembly package has none."""
    if kind == "wasm":
        return {}
    public = PUBLIC_HEADERS if kind in WITH_INCLUDES else ()
    return {f"{'include' if name in public else 'src'}/{name}": text for name, text in sources.items()}


def _wasm(library: Library, target: Target) -> bytes:
    toolchain = find_toolchain("zig", target)
    linker_options = ["--no-entry", f"-z,stack-size={WASM_STACK}", "--strip-all"]
    rule = ["tinyscene_decision"] if "AVERAGE" in library.config else []
    linker_options += [f"--export={name}" for name in (*WASM_EXPORTS, *rule)]
    glue = (TEMPLATES / "wasm" / WASM_GLUE).read_text(encoding="utf-8")
    with temporary_folder() as folder:
        for path, text in {**library.files, WASM_GLUE: glue}.items():
            (folder / path).write_text(text, encoding="utf-8")
        module = build(
            toolchain,
            target,
            sorted(folder.glob("*.c")),
            folder / "tinyscene.wasm",
            includes=[folder, HARNESS / "include"],
            defines=["TINYSCENE_HOST" if target.kernels == "simd" else "TINYSCENE_PLAIN"],
            optimize="O3",
            flags=[f"-Wl,{option}" for option in linker_options],
        )
        return module.read_bytes()
