"""Golden vectors: sound and what a bundle makes of it, tensor by tensor, to hold a device or a runtime to.

The sounds are synthetic and made to find faults: silence, full scale, impulses, sweeps, noise from the
converter's last bit to clipping. No recording of anybody's leaves with a bundle.

`vectors.bin`, little-endian, without padding:

    char[4]  magic "TSGV"          uint32  version 1
    uint32   vectors, samples, features, tensors, logits       # counts
    then for each vector:
    int16    pcm[samples]
    int8     features[features]    # (mel, frame), mel first
    uint32   crc[tensors]          # CRC-32 (zlib's) of each tensor's int8 bytes, NHWC, in the graph's order,
    int8     logits[logits]        # the input among them
"""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.bundle.features import input_log_mel
from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.graph.graph import Graph
from tinyscene.deploy.graph.reference import run_all

MAGIC, VERSION = b"TSGV", 1
HEADER = struct.Struct("<4s6I")
FULL_SCALE = 32767
SEED = 2024


@dataclass(frozen=True)
class Vectors:
    """Golden values; the first dimension counts the vectors."""

    pcm: NDArray[np.int16]  # (vector, samples)
    features: NDArray[np.int8]  # (vector, mel * frame)
    crc: NDArray[np.uint32]  # (vector, tensors)
    logits: NDArray[np.int8]  # (vector, classes)

    def to_bytes(self) -> bytes:
        arrays = (self.pcm, self.features, self.crc, self.logits)
        rows = (b"".join(array[index].tobytes() for array in arrays) for index in range(len(self.pcm)))
        return HEADER.pack(MAGIC, VERSION, len(self.pcm), *(array.shape[1] for array in arrays)) + b"".join(rows)


def read_vectors(content: bytes) -> Vectors:
    """Golden vectors of the bytes of a file. Raises InputError for anything else."""
    if len(content) < HEADER.size:
        raise InputError("golden vectors are truncated")
    magic, version, vectors, samples, features, tensors, logits = HEADER.unpack_from(content)
    if magic != MAGIC:
        raise InputError("not golden vectors: the magic TSGV is missing")
    if version != VERSION:
        raise InputError(f"golden vectors of version {version}: this tinyscene reads {VERSION}; upgrade it")
    row = 2 * samples + features + 4 * tensors + logits
    if not vectors * row:
        raise InputError("no golden vectors in the file")
    if len(content) != HEADER.size + vectors * row:
        raise InputError(f"golden vectors are {len(content)} bytes, not {HEADER.size + vectors * row}")
    kinds = [("pcm", "<i2", samples), ("features", "i1", features), ("crc", "<u4", tensors), ("logits", "i1", logits)]
    rows = np.frombuffer(content, np.dtype([(name, kind, (count,)) for name, kind, count in kinds]), offset=HEADER.size)
    return Vectors(*(rows[name] for name, _, _ in kinds))


def make_vectors(front_end: FrontEnd, graph: Graph) -> Vectors:
    """What a graph makes of the test sounds, by the reference."""
    pcm = probe_sounds(front_end)
    features = input_log_mel(graph, front_end)(pcm)
    tensors = run_all(graph, features[..., None])
    crc = [[zlib.crc32(values[index].tobytes()) for values in tensors.values()] for index in range(len(pcm))]
    return Vectors(pcm, features.reshape(len(pcm), -1), np.array(crc, np.uint32), tensors[graph.output.name])


def probe_sounds(front_end: FrontEnd) -> NDArray[np.int16]:
    """Synthetic clips (sound, samples) that reach the corners of the arithmetic."""
    return np.stack([np.clip(np.rint(sound), -32768, 32767).astype(np.int16) for sound in _sounds(front_end)])


def _sounds(front_end: FrontEnd) -> Iterable[NDArray[Any]]:
    rate, count = front_end.sample_rate, front_end.clip_samples
    seconds = np.arange(count) / rate
    noise = np.random.default_rng(SEED).standard_normal(count)
    yield np.zeros(count)
    yield np.full(count, -32768.0)
    yield np.where(np.arange(count) % 64 < 32, 32767.0, -32768.0)  # square wave at full scale
    yield np.where(np.arange(count) % 8000 == 0, 32767.0, 0.0)  # impulses
    yield FULL_SCALE * np.sin(2 * np.pi * (20 * seconds + (rate / 2 - 20) / 2 * seconds**2))  # sweep, 20 Hz to Nyquist
    yield noise  # of the converter's last bits
    yield 100 * noise
    yield 2 * FULL_SCALE * noise  # clipped
