"""Hashes of decoded sound: what the tests hold every processor and the web page to, in tests/golden/decoded-v1.json.

    python -m tests.deploy.decoded        # prints what this processor gives

The signals are made by integer arithmetic alone, so that they are the same everywhere.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests import ROOT
from tinyscene.deploy.frontend.audio import Recording, make_clip, mix_down
from tinyscene.deploy.frontend.resample import sinc_filter

GOLDEN = json.loads((ROOT / "tests" / "golden" / "decoded-v1.json").read_text(encoding="utf-8"))
RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000)
TARGETS = (16_000, 32_000, 44_100)
PAIRS = [(rate, target) for rate in RATES for target in TARGETS if rate != target]
RATE = 32_000  # of the clips of recordings


class Signal(NamedTuple):
    samples: NDArray[Any]  # (samples,) or (samples, channels)
    rate: int
    target: int


def read_clips(paths: list[Path], sample_rate: int) -> NDArray[np.int16]:
    """The one-second clips of recordings, (clip, sample_rate)."""
    clips = [clip for path in paths for clip in Recording(path, sample_rate).clips()]
    return np.array(clips, np.int16).reshape(-1, sample_rate)


def digest(*arrays: NDArray[Any]) -> str:
    """64 bits of the SHA-256 of arrays, little-endian."""
    content = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


def noise(count: int, bits: int, seed: int) -> NDArray[np.int64]:
    """White noise of that many bits, by splitmix64 (G. Steele et al., OOPSLA 2014)."""
    z = (np.arange(count, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z.view(np.int64) >> (64 - bits)


def signals() -> dict[str, Signal]:
    """A second of 16-bit noise at each pair of rates, then other depths, channels, lengths and levels."""
    made = {
        f"{rate} to {target} Hz": Signal(noise(rate, 16, index).astype(np.int16), rate, target)
        for index, (rate, target) in enumerate(PAIRS)
    }
    fine = (noise(3 * 44_100, 24, 101) / 2**23).astype(np.float32).reshape(-1, 3)
    faint = noise(44_100, 5, 102).astype(np.int16)
    square = np.where(np.arange(48_000) // 60 % 2, 32767, -32768).astype(np.int16)
    loud = (noise(44_100, 24, 103) / 2**19).astype(np.float32)  # beyond 4, where samples are limited
    return made | {
        "24 bits": Signal(fine[:, 0], 44_100, RATE),
        "24 bits at the target rate": Signal(fine[:RATE, 0], RATE, RATE),
        "2 channels": Signal(fine[:, :2], 44_100, RATE),
        "3 channels": Signal(fine, 44_100, RATE),
        "3 channels at the target rate": Signal(noise(3 * RATE, 16, 104).astype(np.int16).reshape(-1, 3), RATE, RATE),
        "less than a second": Signal(fine[:30_001, 1], 44_100, RATE),
        "faint": Signal(faint, 44_100, RATE),
        "full scale": Signal(square, 48_000, RATE),
        "beyond full scale": Signal(loud, 44_100, RATE),
        "rates without a common factor": Signal(noise(44_101, 16, 105).astype(np.int16), 44_101, RATE),
    }


def signal_hashes() -> dict[str, str]:
    return {name: digest(make_clip(mix_down(x), rate, to, to)[0]) for name, (x, rate, to) in signals().items()}


def filter_hashes() -> dict[str, str]:
    hashes = {}
    for rate, target in PAIRS:
        divisor = np.gcd(rate, target)
        _, blocks = sinc_filter(int(rate // divisor), int(target // divisor))
        hashes[f"{rate} to {target} Hz"] = digest(*(taps for _, taps in blocks))
    return hashes


def recording_hashes(folder: Path) -> dict[str, str]:
    """Of the recordings that the golden file names."""
    return {name: digest(read_clips([folder / name], RATE)) for name in GOLDEN["recordings"]}


def folder_hash(folder: Path, pattern: str) -> str:
    """Of all clips of all recordings of a folder, in the order of their names."""
    return digest(read_clips(sorted(folder.glob(pattern)), RATE))


def main() -> None:
    found = {"filters": filter_hashes(), "signals": signal_hashes()}
    folder = Path(os.environ.get("TINYSCENE_DATA", "")) / "tau_mini"
    if folder.exists():
        found["recordings"] = recording_hashes(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
