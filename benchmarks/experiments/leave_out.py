"""A dataset to choose recipes on without a look at the test list: training recordings, some of them left out.

    python -m tinyscene.benchmarks.experiments.leave_out DATA OUT --fold 0 --responses DATA/mic_ir  # and 1, 2, ...

DATA has TAU's layout and so has OUT, with links to DATA's audio. OUT's test list is a third of the places (city and
location) of each scene of DATA's split 100, drawn by the fold's number; the others are its split 100. The places
differ so much that one fold says little. The test's unseen devices s4 to s6 were not recorded here, so they are
simulated as TAU's own are: the left-out clips of device `a`, each through a microphone's impulse response and at a
level of its own. The three responses are among every fifth, which are kept out of OUT/mic_ir; that folder holds the
others, to train with.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer

from tinyscene.deploy.common.command_line import run_command_line
from tinyscene.deploy.common.files import replacing_folder, require_free
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.train.data.augment import convolve, load_responses, response_paths
from tinyscene.train.data.datasets import DEVICE_GROUPS, TAU_COLUMNS, ListedRecording, open_dataset

LEVEL_DB, SPREAD_DB = -3.0, 3.0  # mean and deviation against `a`, about what s1 to s3 have in the training lists
KEPT_OUT = 5  # one response in so many
LEFT_OUT = 3  # one place in so many


def leave_out(
    data: Annotated[Path, typer.Argument(help="Folder of a dataset in TAU's layout.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    responses: Annotated[Path, typer.Option(help="Impulse responses of microphones.")],
    fold: Annotated[int, typer.Option(help="Which places are left out.")] = 0,
) -> None:
    """Write the dataset."""
    require_free(out)
    dataset = open_dataset(data)
    listed = set(dataset.split("100")[0])
    entries = [entry for entry in dataset.recordings if entry.path in listed]
    left_out = _draw(sorted({_place(entry.path) for entry in entries}), fold)
    test = [entry for entry in entries if _place(entry.path) in left_out]
    with replacing_folder(out) as folder:
        for name in ("audio", "evaluation_setup", "mic_ir", "unheard_ir"):
            (folder / name).mkdir()
        for entry in entries:
            (folder / entry.path).symlink_to((data / entry.path).resolve())
        paths = response_paths(responses)
        unheard = paths[2::KEPT_OUT]
        for path in paths:
            kind = "unheard_ir" if path in unheard[:: len(unheard) // 3][:3] else "mic_ir"
            if kind == "unheard_ir" or path not in unheard:
                (folder / kind / path.name).symlink_to(path.resolve())
        test += _simulate(folder, [entry for entry in test if entry.device == "a"])
        trained = [entry for entry in entries if _place(entry.path) not in left_out]
        _write(folder / "meta.csv", [*trained, *test], TAU_COLUMNS)
        for name, members in (("split100", trained), ("test", test)):
            _write(folder / "evaluation_setup" / f"{name}.csv", members, TAU_COLUMNS[:2])


def _draw(places: list[str], fold: int) -> set[str]:
    """One in LEFT_OUT of each scene's places, one at least."""
    rng, drawn = np.random.default_rng(fold), set()
    for scene in sorted({place.partition("-")[0] for place in places}):
        own = [place for place in places if place.partition("-")[0] == scene]
        drawn |= {own[index] for index in rng.permutation(len(own))[: max(1, len(own) // LEFT_OUT)]}
    return drawn


def _place(path: str) -> str:
    """SCENE-CITY-LOCATION of a file's name."""
    return "-".join(Path(path).name.split("-")[:3])


def _simulate(folder: Path, entries: list[ListedRecording]) -> list[ListedRecording]:
    """Write these recordings as each unseen device hears them, and return what was written."""
    recordings, rng = [], np.random.default_rng(0)
    rate = soundfile.info(folder / entries[0].path).samplerate  # TAU has one
    spectra = load_responses(folder / "unheard_ir", FrontEnd(sample_rate=rate))
    for entry in entries:
        pcm, _ = soundfile.read(folder / entry.path, dtype="float32")  # (samples,)
        clips = torch.from_numpy(pcm).repeat(len(spectra), 1)  # (device, samples)
        level = 10.0 ** (rng.normal(LEVEL_DB, SPREAD_DB, (len(spectra), 1)) / 20.0)
        signals = convolve(clips, spectra, torch.arange(len(spectra))).numpy() * level
        for device, signal in zip(DEVICE_GROUPS["unseen"], signals, strict=True):
            path = f"{entry.path.removesuffix('-a.flac').removesuffix('-a.wav')}-{device}.flac"
            soundfile.write(folder / path, signal.clip(-1, 1), rate, "PCM_16")
            recordings.append(ListedRecording(path, entry.label, device))
    return recordings


def _write(path: Path, entries: list[ListedRecording], columns: tuple[str, ...]) -> None:
    """A tab-separated list of recordings."""
    rows = [(entry.path, entry.label, _place(entry.path).partition("-")[2], entry.device) for entry in entries]
    lines = ["\t".join(row[: len(columns)]) for row in [columns, *rows]]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    run_command_line(leave_out)
