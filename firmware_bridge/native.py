"""The generated C on this machine: compiled once, cached, and called from Python.

    logits = native_runner(bundle)(pcm)           # int16 clips (batch, samples) -> int8 logits (batch, classes)
    output = NativeNetwork(library)(features)     # of a network alone

It is the firmware's C with kernels for this processor; its results equal the reference bit for bit.
"""

import contextlib
import ctypes
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene import deploy
from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import cache_folder, temporary_folder, write_whole
from tinyscene.deploy.common.installation import missing
from tinyscene.deploy.common.terminal import messages
from tinyscene.deploy.common.text import json_text
from tinyscene.firmware_bridge.codegen.library import Library, make_library, write_sources
from tinyscene.firmware_bridge.codegen.network import Config
from tinyscene.firmware_bridge.targets.toolchains import HARNESS, TARGETS, Toolchain, build, find_toolchain

KERNELS = ("simd", "plain")  # plain where tinyscene_simd.c does not support the processor
OPTIMIZE = "O3"
READY = 1  # TINYSCENE_READY
BATCH = HARNESS / "native.c"

Int8 = NDArray[np.int8]


def native_runner(bundle: Bundle) -> Callable[[NDArray[np.int16]], Int8]:
    """A compiled bundle with its front end: int16 clips (batch, samples) -> int8 logits (batch, classes).

    What is compiled already is found by the bundle's hashes, without generating its C again, which takes longer than
    classifying a few recordings. Raises InputError if there is no compiler.
    """
    parts = [_toolchain().version(), _processor(), bundle.fingerprint, *_own_sources()]
    index = _cache() / f"{_hash(parts)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it is not there, or of something else
        found = json.loads(index.read_text(encoding="utf-8"))
        return NativeScene(_cache() / found["library"], found["config"])
    library = make_library(bundle.graph, bundle.front_end, bundle.labels, KERNELS, rule=bundle.rule)
    path = compile_native(library)
    write_whole(index, json_text({"library": path.name, "config": library.config}))
    return NativeScene(path, library.config)


def native_scene(library: Library) -> "NativeScene":
    """A library, compiled."""
    return NativeScene(compile_native(library), library.config)


class NativeScene:
    """An instance of a compiled library."""

    def __init__(self, path: Path, config: Config) -> None:
        self.config = config
        self.c = ctypes.CDLL(str(path))
        self._memory = _aligned(int(self.config["BYTES"]))
        self.instance = ctypes.c_void_p()
        self.require(self.init(_pointer(self._memory), self._memory.nbytes, ctypes.byref(self.instance)))

    @property
    def init(self) -> Any:
        """The C function tinyscene_init, whose name in the library ends in a hash."""
        return getattr(self.c, str(self.config["INIT"]))

    def __call__(self, pcm: NDArray[np.int16]) -> Int8:
        """Clips (batch, samples), each a window by itself -> logits (batch, classes)."""
        return np.stack([self._clip(np.ascontiguousarray(clip)) for clip in pcm])

    def with_sums(self, pcm: NDArray[np.int16]) -> tuple[Int8, NDArray[np.int32]]:
        """Clips (batch, samples) -> logits (batch, classes), and the sums of the embedding (batch, channels).

        Only for a library whose decision rule takes these sums, which stay in the arena until the next decision.
        """
        start = int(self.config["STATE_BYTES"]) + int(self.config["EMBEDDING"])
        sums = self._memory[start : start + 4 * int(self.config["EMBEDDING_CHANNELS"])].view(np.int32)
        heard = [(self._clip(np.ascontiguousarray(clip)), sums.copy()) for clip in pcm]
        return np.stack([logits for logits, _ in heard]), np.stack([each for _, each in heard])

    def of_features(self, features: Int8) -> Int8:
        """Features (batch, mel, frame, 1), in place of clips -> logits (batch, classes)."""
        logits = np.empty((len(features), int(self.config["CLASSES"])), np.int8)
        arena = ctypes.c_void_p(self._memory.ctypes.data + int(self.config["STATE_BYTES"]))
        self.c.tinyscene_native_batch(arena, _pointer(np.ascontiguousarray(features)), _pointer(logits), len(logits))
        return logits

    def push(self, pcm: NDArray[np.int16]) -> tuple[int, int]:
        """Samples (samples,) -> the library's status, and how many samples it consumed."""
        consumed = ctypes.c_size_t()
        status = self.c.tinyscene_push(self.instance, _pointer(pcm), ctypes.c_size_t(len(pcm)), ctypes.byref(consumed))
        return status, consumed.value

    def decide(self) -> Int8:
        """Classify the complete window; returns its logits (classes,)."""
        self.require(self.c.tinyscene_run(self.instance))
        scores = np.empty(int(self.config["CLASSES"]), np.int8)
        self.require(self.c.tinyscene_scores(self.instance, _pointer(scores), ctypes.c_size_t(len(scores))))
        return scores

    def require(self, status: int) -> None:
        if status != 0:
            raise InputError(f"the compiled library answers {status}: see tinyscene_status in tinyscene.h")

    def _clip(self, clip: NDArray[np.int16]) -> Int8:
        self.require(self.c.tinyscene_reset(self.instance))
        status, consumed = self.push(clip)
        self.require(status - READY or len(clip) - consumed)
        return self.decide()


class NativeNetwork:
    """The network alone: features (batch, mel, frame, channels) -> output (batch, ...), all int8."""

    def __init__(self, library: Library, path: Path | None = None) -> None:
        self._shape = library.plan.schedule.graph.output.shape[1:]
        self.c = ctypes.CDLL(str(path or compile_native(library)))
        self.arena = _aligned(int(library.config["ARENA_BYTES"])).view(np.int8)
        self._arena = _pointer(self.arena)

    def __call__(self, features: Int8) -> Int8:
        batch = np.ascontiguousarray(features)
        output = np.empty((len(batch), *self._shape), np.int8)
        self.c.tinyscene_native_batch(self._arena, _pointer(batch), _pointer(output), len(batch))
        return output


def compile_native(
    library: Library, more: Sequence[Path] = (), defines: Sequence[str] = (), optimize: str = OPTIMIZE
) -> Path:
    """Compile a shared library with `more` sources, or return it from the cache."""
    target, toolchain = TARGETS["host-native"], _toolchain()
    settings = [toolchain.version(), _processor(), optimize, *defines]
    contents = [*library.files.values(), *(path.read_text(encoding="utf-8") for path in (BATCH, *more))]
    path = _cache() / f"{_hash([*settings, *library.files, *contents])}.so"
    if not path.is_file():
        if messages.is_terminal:  # as of other progress
            messages.print(f"compiling the network for this machine, once, with {settings[0]}", soft_wrap=True)
        with temporary_folder() as folder:
            sources = [*write_sources(library, folder), BATCH]
            build(
                toolchain,
                target,
                [*sources, *more],
                folder / path.name,
                includes=[folder],
                defines=["TINYSCENE_HOST" if "simd" in library.kernels else "TINYSCENE_PLAIN", *defines],
                optimize=optimize,
                shared=True,
            )
            content = (folder / path.name).read_bytes()
        write_whole(path, content)  # when the folder is gone: what is in the cache has no next time to remove it
    return path


def _cache() -> Path:
    return cache_folder() / "native"


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _own_sources() -> list[str]:
    """Whatever the generated C and how it is compiled depend on, besides the bundle."""
    folders = (Path(__file__).parent, Path(deploy.__file__).parent)
    paths = [path for folder in folders for kind in ("py", "c", "h") for path in sorted(folder.rglob(f"*.{kind}"))]
    return [path.read_text(encoding="utf-8") for path in paths]


def _toolchain() -> Toolchain:
    """zig, or gcc; where vectors are those of AVX2 the reverse, for there gcc's code takes 4 % less time.

    A gcc without a C library's headers, which are another package, is left out.
    """
    processor = _processor()
    names = ("gcc", "zig") if " avx2 " in processor and "avx512" not in processor else ("zig", "gcc")
    for name in names:
        with contextlib.suppress(InputError):
            toolchain = find_toolchain(name, TARGETS["host-native"])
            if name == "zig" or toolchain.has_headers():
                return toolchain
    raise missing("a C compiler", "firmware", "runner native")


def _processor() -> str:
    """The processor that the code is compiled for: machines may share a cache folder."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else [platform.processor()]
    described = {line for line in lines if line.lower().startswith(("model name", "flags", "features", "cpu part"))}
    return "\n".join([platform.platform(), *sorted(described or lines[:1])])


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes, aligned to 16."""
    memory = np.zeros(size + 16, np.uint8)
    start = -memory.ctypes.data % 16
    return memory[start : start + size]


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
