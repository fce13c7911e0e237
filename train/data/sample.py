"""A small synthetic dataset in TAU's layout, to try everything without downloading anything.

    tinyscene sample DIR

It is synthetic: ten "scenes" of shaped noise, hum and chirps that differ audibly, "recorded" by device a
and, through filters and level changes, by devices s1 to s6. It says nothing about real scenes. As in
TAU, s4 to s6 are in the test only, no location is in both lists, and the training lists are nested.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import replacing_folder, require_free, write_whole
from tinyscene.deploy.common.progress import progress
from tinyscene.train.data.datasets import SCENES, TAU_COLUMNS
from tinyscene.train.data.split_lists import TAU_SPLITS

RATE = 44_100  # Hz, as TAU
TRAIN_LOCATIONS, TEST_LOCATIONS, SEGMENTS = 4, 2, 3  # locations a scene; seconds a location
TRAIN_DEVICES = ("a", "s1", "s2", "s3")
TEST_DEVICES = (*TRAIN_DEVICES, "s4", "s5", "s6")
LOCATIONS_IN_SPLIT = {"5": 1, "10": 1, "25": 2, "50": 3, "100": TRAIN_LOCATIONS}


@dataclass(frozen=True)
class Sound:
    """What a synthetic scene is made of."""

    tilt: float  # of the noise, dB an octave
    flutter: float  # Hz, of the noise's loudness
    hum: float  # Hz, fundamental of a steady tone with harmonics; 0 for none
    chirp: tuple[float, float]  # Hz, from and to
    events: float  # chirps a second


SOUNDS = {
    "airport": Sound(-3, 0.5, 0, (900, 700), 2),
    "bus": Sound(-7, 1, 45, (300, 250), 1),
    "metro": Sound(-6, 3, 110, (2500, 3200), 2),
    "metro_station": Sound(-4, 0.7, 50, (1500, 1500), 4),
    "park": Sound(-4, 0.3, 0, (4000, 6500), 6),
    "public_square": Sound(-2, 2, 0, (500, 520), 3),
    "shopping_mall": Sound(-3, 1.5, 220, (700, 1100), 3),
    "street_pedestrian": Sound(-1, 4, 0, (2000, 200), 5),
    "street_traffic": Sound(-9, 0.4, 70, (400, 150), 1),
    "tram": Sound(-5, 2, 600, (1800, 1750), 2),
}


def write_sample(folder: Path, seed: int = 0) -> dict[str, int]:
    """Write the dataset into a new folder. Returns the number of clips of each list."""
    if seed < 0:
        raise InputError(f"--seed {seed}: must not be negative")
    require_free(folder)
    with replacing_folder(folder) as temporary:
        return _write(temporary, seed)


def _write(folder: Path, seed: int) -> dict[str, int]:
    rows: list[tuple[str, ...]] = []
    lists: dict[str, list[tuple[str, ...]]] = {name: [] for name in (*TAU_SPLITS, "test")}
    (folder / "audio").mkdir()
    locations = TRAIN_LOCATIONS + TEST_LOCATIONS
    with progress("synthesising", len(SCENES) * locations) as advance:
        for scene in SCENES:
            for location in range(locations):
                in_test = location >= TRAIN_LOCATIONS
                for name, device in _write_location(folder, scene, location, in_test, seed):
                    rows.append((name, scene, f"synthetic-{location}", device))
                    for split in ("test",) if in_test else TAU_SPLITS:
                        if in_test or location < LOCATIONS_IN_SPLIT[split]:
                            lists[split].append((name, scene))
                advance(1)
    for split, members in lists.items():
        name = "test.csv" if split == "test" else f"split{split}.csv"
        _write_table(folder / "evaluation_setup" / name, TAU_COLUMNS[:2], members)
    _write_table(folder / "meta.csv", TAU_COLUMNS, rows)
    write_whole(
        folder / "README.txt", "Synthetic sounds in the layout of TAU 2022 Mobile, made by `tinyscene sample`.\n"
    )
    write_whole(
        folder / "LICENSE.txt",
        "These sounds are synthetic, no recordings, and nobody's: use them as you like (CC0 1.0).\n",
    )
    return {split: len(members) for split, members in lists.items()}


def _write_location(folder: Path, scene: str, location: int, in_test: bool, seed: int) -> Iterator[tuple[str, str]]:
    """Write the seconds of a place, as every device of its list records them; yield their names and devices."""
    rng = np.random.default_rng([seed, SCENES.index(scene), location])
    character = rng.uniform(0.85, 1.15)  # of this place: its pitch and its pace
    for segment in range(SEGMENTS):
        clean = synthesise(SOUNDS[scene], character, rng)
        for device in TEST_DEVICES if in_test else TRAIN_DEVICES:
            name = f"audio/{scene}-synthetic-{location}-{location}-{segment}-{device}.wav"
            content = io.BytesIO()  # so that a full disk is an error of the disk, not of the encoder
            soundfile.write(content, record(clean, device), RATE, "PCM_16", format="WAV")
            (folder / name).write_bytes(content.getvalue())
            yield name, device


def synthesise(sound: Sound, character: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """One second (samples,) of a scene at a location, peak about 0.3."""
    time = np.arange(RATE) / RATE
    frequency = np.fft.rfftfreq(RATE, 1 / RATE)
    shape = np.maximum(frequency, 20.0) ** (sound.tilt / 6.02)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(RATE)) * shape, RATE)
    signal = noise / noise.std() * (1 + 0.5 * np.sin(2 * np.pi * (sound.flutter * time + rng.uniform())))
    if sound.hum:
        pitch = sound.hum * character
        signal += sum(np.sin(2 * np.pi * pitch * n * time + rng.uniform(0, 6.28)) / n for n in range(1, 6))
    for _ in range(rng.poisson(sound.events * character)):
        start, length = rng.uniform(0, 0.8), 0.15
        inside = np.clip((time - start) / length, 0, 1)
        low, high = (edge * character for edge in sound.chirp)
        phase = 2 * np.pi * length * (low * inside + (high - low) * inside**2 / 2)
        signal += 3 * np.sin(np.pi * inside) ** 2 * np.sin(phase)
    return 0.06 * signal * rng.uniform(0.7, 1.4)


def record(clean: NDArray[np.float64], device: str) -> NDArray[np.float64]:
    """What a device makes of a sound: a smooth random response of its own, a level and compression; `a` none."""
    if device == "a":
        return np.clip(clean, -1, 1)
    rng = np.random.default_rng(list(device.encode()))
    bands = np.linspace(0, 1, 9)
    response = 10 ** (np.interp(np.linspace(0, 1, RATE // 2 + 1), bands, rng.uniform(-12, 6, bands.size)) / 20)
    coloured = np.fft.irfft(np.fft.rfft(clean) * response, RATE)
    drive = rng.uniform(1, 4)
    return rng.uniform(0.5, 1.0) * np.tanh(drive * coloured) / drive


def _write_table(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    write_whole(path, "".join("\t".join(row) + "\n" for row in [columns, *rows]))
