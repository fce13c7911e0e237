"""The clips of recordings that a caller names."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from tinyscene.deploy.common.terminal import notice
from tinyscene.deploy.frontend.audio import Recording
from tinyscene.deploy.frontend.log_mel import FrontEnd
from tinyscene.deploy.frontend.sound_files import recordings_of
from tinyscene.interface.paths import AnyPaths, paths_of

Keep = Callable[[], AbstractContextManager[None]]  # surrounds what is done with each file


def clips_of(files: AnyPaths, front_end: FrontEnd, keep: Keep = contextlib.nullcontext) -> Iterator[NDArray[np.int16]]:
    """The clips (samples,) of recordings, and of those in folders, as the front end takes them.

    `keep` surrounds the reading of each: one that swallows InputError goes on with the next. Raises InputError for a
    folder without recordings, and for a file that cannot be read.
    """
    for path in recordings_of(paths_of(files)):
        with keep():
            yield from Recording(path, front_end.sample_rate, front_end.clip_seconds).clips()


def some_clips_of(
    files: AnyPaths, front_end: FrontEnd, most: int, keep: Keep = contextlib.nullcontext
) -> list[NDArray[np.int16]]:
    """As `clips_of`, but not more than `most`, evenly spaced over all of them; a line says so where there are more."""
    kept: list[NDArray[np.int16]] = []
    total, step = 0, 1  # clips; of them one of so many is kept
    for clip in clips_of(files, front_end, keep):
        if total % step == 0:
            kept.append(clip)
        if len(kept) == 2 * most:
            kept, step = kept[::2], 2 * step
        total += 1
    if total > most:
        notice(f"{most:,} of {total:,} clips are measured, evenly spaced")
        kept = [kept[number * len(kept) // most] for number in range(most)]
    return kept
