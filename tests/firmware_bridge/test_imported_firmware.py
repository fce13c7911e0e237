"""The published baseline as firmware, on real recordings: every clip bit for bit, and what it takes."""

import math
import shutil

import numpy as np
import pytest
from numpy.typing import NDArray

from tinyscene.deploy.bundle.bundle import Bundle
from tinyscene.deploy.live.classifier import BundleClassifier
from tinyscene.firmware_bridge.codegen.library import make_library
from tinyscene.firmware_bridge.emulate import emulate
from tinyscene.firmware_bridge.native import KERNELS, native_scene
from tinyscene.firmware_bridge.targets.image import build_settings
from tinyscene.train.data.cache import Clips
from tinyscene.train.data.datasets import Dataset

pytestmark = pytest.mark.slow

ARENA = 43_000  # bytes, the feature map among them
MEMORY = 56_000  # of all that an instance needs, with windows that do not overlap
FLASH = 100_000  # on a Cortex-M4
MOST_INSTRUCTIONS = {"cortex-m4": 50e6, "cortex-m55": 14e6}  # an inference
FRONT_END = 25e6  # instructions a clip, on a Cortex-M4
PLAIN = 3.3  # instructions a MAC


@pytest.fixture(scope="module")
def clips(recordings: tuple[Dataset, Clips], tested: NDArray[np.int64]) -> NDArray[np.int16]:
    return recordings[1].pcm[tested]


def spread(clips: NDArray[np.int16], count: int) -> NDArray[np.int16]:
    return clips[np.linspace(0, len(clips) - 1, count).astype(int)]


@pytest.mark.parametrize("kernels", [("plain",), KERNELS], ids=lambda kernels: kernels[0])
def test_every_test_clip_is_equal_on_the_host(
    imported_bundle: Bundle,
    clips: NDArray[np.int16],
    kernels: tuple[str, ...],
) -> None:
    scene = native_scene(
        make_library(imported_bundle.graph, imported_bundle.front_end, imported_bundle.labels, kernels)
    )
    reference, q = BundleClassifier(imported_bundle, "reference"), imported_bundle.graph.output.q
    assert len(clips) == 1_088
    for start in range(0, len(clips), 64):
        part = clips[start : start + 64]
        assert np.array_equal(q.dequantize(scene(part)), reference.logits(part))


@pytest.mark.parametrize(
    ("target", "count"),
    [("cortex-m4", 50), ("cortex-m3", 5), ("cortex-m7", 5), ("cortex-m33", 5), ("riscv32", 5), ("cortex-m55", 5)],
)
def test_clips_are_equal_on_devices_within_the_limits(
    imported_bundle: Bundle,
    clips: NDArray[np.int16],
    target: str,
    count: int,
) -> None:
    if target == "cortex-m55" and shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is missing: apt-get install qemu-system-arm")
    result = emulate(imported_bundle, spread(clips, count), build_settings(target))
    assert (result.equal, result.clips) == (True, count)
    assert result.arena_bytes <= ARENA
    assert result.memory_bytes <= MEMORY
    assert None not in (result.flash_bytes, result.frontend_instructions, result.instructions)
    if target == "cortex-m4":
        assert (result.flash_bytes or 0) <= FLASH
        assert (result.frontend_instructions or 0) <= FRONT_END
    if target in MOST_INSTRUCTIONS:
        assert (result.instructions or 0) <= MOST_INSTRUCTIONS[target]


@pytest.mark.parametrize(
    "target", ["cortex-m3", pytest.param("riscv32", marks=pytest.mark.xfail(strict=True, reason="see docs/results.md"))]
)
def test_plain_kernels_keep_their_limit(imported_bundle: Bundle, clips: NDArray[np.int16], target: str) -> None:
    assert (emulate(imported_bundle, clips[:1], build_settings(target)).instructions_per_mac or math.inf) <= PLAIN
