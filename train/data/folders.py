"""The layout of one folder per class: which recordings lie in it, and their folds for cross-validation."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.text import printable
from tinyscene.deploy.frontend.sound_files import SUFFIXES, SoundFiles, find_sound_files, is_hidden

FOLD_PATTERN = r"^([0-9]+)-"
BY_HASH = "hash"  # what --fold-pattern says instead of a pattern
HASHED_FOLDS = 5
OUTSIDE, EMPTY = "outside the folders of classes", "without recordings"
FEW_FOLDS = 20  # more may be asked for, but not nearly as many as there are files


@dataclass(frozen=True)
class ClassFolders:
    """Recordings by path under the root, with their class and fold, and how many other files there are by kind."""

    labels: dict[str, str]
    folds: dict[str, str]
    ignored: str  # such as "3 .m4a, 1 hidden"; empty if none was


def read_class_folders(root: Path, fold_pattern: str) -> ClassFolders:
    """Look through the folders of a root, each of which is a class with its recordings at any depth.

    Raises InputError for fewer than two classes, and for a pattern that is none, makes one fold, or nearly as many
    folds as there are files.
    """
    labels: dict[str, str] = {}
    others, outside, empty = SoundFiles(), 0, 0
    for path in sorted(root.iterdir()):
        if path.is_dir() and not is_hidden(path.name):
            files = find_sound_files(path)
            labels |= {str(sound.relative_to(root)): printable(path.name) for sound in files.paths}
            others.ignored += files.ignored
            empty += not files.paths
        else:
            outside += path.suffix.lower() in SUFFIXES
    kinds = (others.describe_ignored(), _counted(outside, "recording", OUTSIDE), _counted(empty, "folder", EMPTY))
    described = ", ".join(kind for kind in kinds if kind)
    classes = set(labels.values())
    if len(classes) < 2:
        content = f"recordings of {len(classes)} class" if classes else "no recordings"
        besides = f" ({described})" if described else ""
        raise InputError(
            f"{root}: holds no meta.csv, and {content} in its folders{besides}; it needs one folder per class"
        )
    return ClassFolders(labels, _folds(root, list(labels), fold_pattern), described)


def _counted(count: int, noun: str, which: str) -> str:
    return f"{count:,} {noun}{'s' * (count > 1)} {which}" if count else ""


def _folds(root: Path, sounds: list[str], fold_pattern: str) -> dict[str, str]:
    pattern = _compiled(fold_pattern)
    folds = {sound: _fold(printable(Path(sound).name), pattern) for sound in sounds}
    count = len(set(folds.values()))
    if count < 2:
        raise InputError(f"{root}: --fold-pattern {fold_pattern} puts every file in one fold")
    if count > FEW_FOLDS and 2 * count >= len(folds):
        raise InputError(
            f"{root}: --fold-pattern {fold_pattern} puts {len(folds):,} files in {count:,} folds, as names that begin "
            f"with an identifier do; take a pattern whose group many names share, or --fold-pattern {BY_HASH} for "
            f"{HASHED_FOLDS} folds by a hash of the name"
        )
    return folds


def _compiled(fold_pattern: str) -> re.Pattern[str] | None:
    if fold_pattern == BY_HASH:
        return None
    try:
        pattern = re.compile(fold_pattern)
    except re.error as error:
        raise InputError(f"--fold-pattern {fold_pattern}: not a regular expression ({error})") from None
    if pattern.groups < 1:
        raise InputError(f"--fold-pattern {fold_pattern}: needs a group, such as {FOLD_PATTERN}")
    return pattern


def _fold(name: str, pattern: re.Pattern[str] | None) -> str:
    if pattern and (match := pattern.search(name)) and match.group(1):
        return match.group(1)
    return str(int(hashlib.sha256(name.encode()).hexdigest(), 16) % HASHED_FOLDS + 1)
