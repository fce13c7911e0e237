"""Which files of a folder are recordings: those that the decoder can read, at any depth, hidden ones aside."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from tinyscene.deploy.common.errors import InputError

ENDINGS = {  # of libsndfile's formats that say in their header what they hold
    "AIFF": (".aif", ".aifc", ".aiff"),
    "AU": (".au", ".snd"),
    "CAF": (".caf",),
    "FLAC": (".flac",),
    "MP3": (".mp3",),
    "NIST": (".nist", ".sph"),
    "OGG": (".oga", ".ogg", ".opus"),
    "RF64": (".rf64",),
    "VOC": (".voc",),
    "W64": (".w64",),
    "WAV": (".wav", ".wave"),
}
SUFFIXES = frozenset(ending for kind in soundfile.available_formats() for ending in ENDINGS.get(kind, ()))
# made by an archiver, Windows and network disks; other hidden names begin with a dot
HIDDEN = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir", "#recycle", "@Recycle")


@dataclass
class SoundFiles:
    """The recordings in a folder, sorted, and how many other files there are of each ending."""

    paths: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def describe_ignored(self) -> str:
        """Such as `3 .m4a, 1 hidden`; empty where nothing was ignored."""
        return ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.ignored.items()) if count)


def find_sound_files(folder: Path) -> SoundFiles:
    """Look through a folder and those in it. Links to folders are not followed: they may lead in a circle."""
    files = SoundFiles()
    for root, folders, names in os.walk(folder):
        for name in [name for name in folders if is_hidden(name)]:
            files.ignored["hidden"] += sum(len(inner) for _, _, inner in os.walk(Path(root, name)))
            folders.remove(name)
        for name in names:
            path = Path(root, name)
            if is_hidden(name):
                files.ignored["hidden"] += 1
            elif path.suffix.lower() in SUFFIXES:
                files.paths.append(path)
            else:
                files.ignored[path.suffix.lower() or "without an ending"] += 1
    files.paths.sort()
    return files


def is_hidden(name: str) -> bool:
    """Whether a file or folder is made by a program for itself, such as `.ipynb_checkpoints` or `._sound.wav`."""
    return name.startswith(".") or name in HIDDEN


def recordings_of(paths: Sequence[Path]) -> list[Path]:
    """The recordings that a user names: files as they are, whatever their ending, and those in folders.

    Raises InputError for a folder without any.
    """
    recordings: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = find_sound_files(path)
            if not files.paths:
                others = f" ({files.describe_ignored()})" if files.ignored else ""
                raise InputError(f"{path}: holds no recordings{others}")
            recordings += files.paths
        else:
            recordings.append(path)
    return recordings
