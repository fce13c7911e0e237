"""The allocator keeps what a step of training frees."""

import ctypes
import os
import subprocess
import sys

import pytest

SIZE = 64 * 2**20  # bytes: far above what malloc takes from its heap by default
PAGE = 4096
pytestmark = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the allocator has no mallopt"
)
FAULTS = f"""
import ctypes, resource, sys
from tinyscene.train.loop.allocator import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc({SIZE})
    ctypes.memset(block, 1, {SIZE})
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def second_use(how: str, **environment: str) -> int:
    """Page faults of a block of SIZE that was freed and is allocated again, in a process of its own."""
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    return int(done.stdout)


def test_a_block_that_is_freed_is_not_faulted_in_again() -> None:
    assert second_use("kept") < SIZE // PAGE // 16 < second_use("as it is")


def test_what_the_environment_sets_stays() -> None:
    assert second_use("kept", MALLOC_MMAP_MAX_="65536", MALLOC_TRIM_THRESHOLD_="131072") > SIZE // PAGE // 16
